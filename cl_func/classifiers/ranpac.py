"""Ridge regression on random features, the ridge chosen on held-out rows (McDonnell, Gong, Parvaneh, Abbasnejad & van den Hengel,
"RanPAC: random projections and pre-trained models for continual learning", NeurIPS 2023, eq. 4 to 6 and algorithm 1).

    h(f) = relu(f P),    G = sum_i h_i h_i^T,    Q = sum_i h_i y_i^T    (y one-hot),    W = (G + ridge I)^-1 Q

A fraction of the rows, chosen by their numbers in the source, is held out, with sums of its own. Of 10^-8, 10^-7, ..., 10^8 the
ridge is the one whose W, of the sums of the other rows, has the least squared error on the held-out ones,

    sum |y_i - W^T h_i|^2 = tr W^T (G_held W - 2 Q_held) + a constant

and the final W is of all rows. As in the paper the choice is made on the rows of the newest experience; with sums that are never
closed it is made on all rows so far, and then nothing depends on their order. Sums are float64, since the smallest ridges are far
below the rounding errors of a float32 G.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from cl_func import checks, random, tree
from cl_func.classifiers import _random_features, linear
from cl_func.classifiers.linear import LinearClassifier, _cholesky
from cl_func.classifiers.nearest_mean import _check_features, _check_labels
from cl_func.compiler.operators import opaque
from cl_func.core import Update
from cl_func.experiences import Experience, one_hot
from cl_func.memory import replay
from cl_func.models import Model, feature_function, features
from cl_func.optim.hyperparameters import nonnegative
from cl_func.tree import bounded, state

_EXPECTED = "a RanPAC made by ranpac.init"
_RIDGES = tuple(10.0**power for power in range(-8, 9))


@state
class RegressionSums:
    """Sums over rows, of which ridge regression is made."""

    gram: Tensor  # [M, M] float64, G
    targets: Tensor  # [M, C] float64, Q
    rows: Tensor  # () int64, how many


@state
class RanPAC:
    """The slot of the classifier; `ridge` is a hyperparameter where it is given."""

    projection: Tensor  # [F, M] floating
    counts: Tensor  # [C] int64, rows seen of each class
    holdout_key: Tensor  # () int64, the key that decides which rows are held out
    fitted: RegressionSums  # over the rows not held out: all of them, or those since `close`
    held: RegressionSums | None  # over the held-out rows; None if the ridge is given
    past: RegressionSums | None  # over all rows before `close`; None if that is never called
    ridge: Tensor | None = bounded(partial(nonnegative, example=1.0, positive=True))  # () float32, above 0; None: it is chosen


def init(
    n_classes: int,
    sample: Tensor,
    key: Tensor,
    projection_size: int = 2000,
    ridge: float | None = None,
    choose_on: Literal["experience", "all"] = "experience",
) -> RanPAC:
    """A classifier that has seen no row, for features like `sample` [F], with a projection drawn from the key.

    ridge: None chooses it on held-out rows, of the experience since `close` (choose_on="experience") or all (choose_on="all").
    Raises TypeError or ValueError for a sample, key or number of the wrong kind or range.
    """
    checks.positive_int("n_classes", n_classes)
    checks.choice("choose_on", choose_on, "experience", "all")
    if ridge is not None:
        ridge = nonnegative("ridge", ridge, 1.0, positive=True)
    projection_key, holdout_key = random.split(checks.key("key", key))
    projection = _random_features.draw(projection_key, sample, projection_size)
    device = sample.device

    def nothing() -> RegressionSums:
        return RegressionSums(
            gram=torch.zeros((projection_size, projection_size), dtype=torch.float64, device=device),
            targets=torch.zeros((projection_size, n_classes), dtype=torch.float64, device=device),
            rows=torch.tensor(0, device=device),
        )

    return RanPAC(
        projection=projection,
        counts=torch.zeros(n_classes, dtype=torch.int64, device=device),
        holdout_key=holdout_key,
        fitted=nothing(),
        held=nothing() if ridge is None else None,
        past=nothing() if ridge is None and choose_on == "experience" else None,
        ridge=None if ridge is None else torch.tensor(ridge, device=device),
    )


def close(slot: RanPAC) -> RanPAC:
    """The same sums, those so far as the past: the ridge will be chosen on the rows that come from now on."""
    checks.instance("slot", slot, RanPAC, _EXPECTED)
    if slot.past is None or slot.held is None:
        return slot
    past = tree.map(lambda *parts: sum(parts), slot.past, slot.fitted, slot.held)
    return tree.replace(slot, past=past, fitted=tree.map(torch.zeros_like, slot.fitted), held=tree.map(torch.zeros_like, slot.held))


def add(slot: RanPAC, rows: Tensor, labels: Tensor, valid: Tensor, held: Tensor) -> RanPAC:
    """The classifier after more rows: features [n, F], their labels [n] int64 in 0..C-1, and which of them count, valid [n] bool.

    held [n] bool: which of them to hold out for the choice of the ridge; none where it is given. Raises TypeError or ValueError for
    other dtypes and shapes.
    """
    checks.instance("slot", slot, RanPAC, _EXPECTED)
    _check_features(rows, slot.projection.T)
    _check_labels(labels, valid, rows)
    checks.tensor("held", held, rows.shape[:1], torch.bool, like=rows)
    belongs = one_hot(labels, valid, slot.counts.shape[0])
    expanded = torch.where(valid[:, None], _random_features.expand(slot.projection, rows).double(), 0)
    counts = slot.counts + belongs.sum(0)
    if slot.held is None:
        return tree.replace(slot, counts=counts, fitted=_sums(slot.fitted, expanded, belongs, valid))
    grams = _two_grams(expanded, valid & held)
    both = [
        _sums(sums, expanded, belongs & chosen[:, None], valid & chosen, gram)
        for sums, chosen, gram in ((slot.fitted, ~held, grams[0]), (slot.held, held, grams[1]))
    ]
    return tree.replace(slot, counts=counts, fitted=both[0], held=both[1])


def _sums(old: RegressionSums, rows: Tensor, belongs: Tensor, valid: Tensor, gram: Tensor | None = None) -> RegressionSums:
    gram = rows.T @ rows if gram is None else gram
    return RegressionSums(gram=old.gram + gram, targets=old.targets + rows.T @ belongs.double(), rows=old.rows + valid.sum())


@opaque("rows, held", like=lambda rows, held: rows.new_empty((2, rows.shape[1], rows.shape[1])))
def _two_grams(rows: Tensor, held: Tensor) -> Tensor:
    """The Gram matrices [2, M, M] of the rows [n, M] that are not held [n], and that are, each of its rows alone."""
    return torch.stack([part.T @ part for part in (rows[~held], rows[held])])


def _solution(gram: Tensor, targets: Tensor, ridge: Tensor) -> Tensor:
    """W [M, C]; NaN where float64 cannot tell G + ridge I from a singular matrix."""
    return torch.cholesky_solve(targets, _cholesky(gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)))


def _errors_like(gram: Tensor, targets: Tensor, held_gram: Tensor, held_targets: Tensor) -> Tensor:
    return gram.new_empty(len(_RIDGES))


@opaque("gram, targets, held_gram, held_targets", like=_errors_like)
def _held_out_errors(gram: Tensor, targets: Tensor, held_gram: Tensor, held_targets: Tensor) -> Tensor:
    """The squared error on the held-out rows for each ridge, less a constant, [17]; infinite where there is no solution."""
    errors = []
    for ridge in gram.new_tensor(_RIDGES):
        weights = _solution(gram, targets, ridge)
        errors.append((weights * (held_gram @ weights - 2 * held_targets)).sum())
    return torch.stack(errors).nan_to_num(nan=torch.inf)


@opaque("gram, targets, ridge", like=lambda gram, targets, ridge: torch.empty_like(targets))
def _solve_ridge(gram: Tensor, targets: Tensor, ridge: Tensor) -> Tensor:
    """W [M, C] for the smallest of ridge, 10 ridge, 100 ridge, ... for which there is a solution in float64."""
    weights = _solution(gram, targets, ridge)
    for power in range(1, len(_RIDGES)):
        if not weights.isnan().any():
            break
        weights = _solution(gram, targets, ridge * 10.0**power)
    return weights


def choose_ridge(slot: RanPAC) -> Tensor:
    """The ridge, () float32: the one given, or the best on the held-out rows; 1 where no row, or every row, is held out."""
    checks.instance("slot", slot, RanPAC, _EXPECTED)
    if slot.ridge is not None or slot.held is None:
        return slot.ridge if slot.ridge is not None else slot.projection.new_ones((), dtype=torch.float32)
    fitted, held = slot.fitted, slot.held
    errors = _held_out_errors(fitted.gram, fitted.targets, held.gram, held.targets)
    best = torch.tensor(_RIDGES, device=errors.device).gather(0, errors.argmin(0, keepdim=True))[0]
    return torch.where((fitted.rows > 0) & (held.rows > 0), best, 1)


def solve(slot: RanPAC) -> LinearClassifier:
    """The linear classifier of the random features, of all rows so far, with the ridge of `choose_ridge`; it takes O(M^3).

    A ridge that is too small for float64 to tell the matrix from a singular one is multiplied by 10 until it is not.
    """
    ridge = choose_ridge(slot)
    parts = [part for part in (slot.fitted, slot.held, slot.past) if part is not None]
    whole: RegressionSums = tree.map(lambda *leaves: sum(leaves), *parts)
    weights = _solve_ridge(whole.gram, whole.targets, ridge.double())
    return LinearClassifier(weights=weights, bias=torch.zeros_like(weights[0]), seen=slot.counts > 0)


def logits(slot: RanPAC, rows: Tensor) -> Tensor:
    """The logits [n, C] of features [n, F]: the regression of the one-hot labels, masked where a class has no rows.

    Each call solves anew: for many batches call `solve` once. Raises TypeError or ValueError for features of another dtype or
    shape.
    """
    checks.instance("slot", slot, RanPAC, _EXPECTED)
    _check_features(rows, slot.projection.T)
    return linear.logits(solve(slot), _random_features.expand(slot.projection, rows))


def insert(model: Model, slot: str = "ranpac", validation: float = 0.2) -> Update:
    """The Update that adds the features of an experience's rows, under the present weights, to the sums in `state.<slot>`.

    validation: the fraction of the rows that is held out where the ridge is chosen, above 0 and below 1. A row is on the same side
    whenever it comes.
    """
    checks.model("model", model)
    checks.path("slot", slot, "ranpac")
    nonnegative("validation", validation, 0.2, positive=True, below=1)
    feature_function(model)
    return partial(_insert, model=model, slot=slot, validation=validation)


def _insert(agent: Any, exp: Experience, *, model: Model, slot: str, validation: float) -> Any:
    sums: RanPAC = checks.slot(agent, slot, RanPAC, _EXPECTED)
    labels = replay.labels(exp, sums.counts.shape[0])
    rows = features(model, agent.model, exp.x, exp.valid, exp.tasks)
    held = (random.children(sums.holdout_key, exp.rows) & 0xFFFFFF) < int(validation * 2**24)
    return tree.set(agent, {slot: add(sums, rows, labels, exp.valid, held)})


def begin(slot: str = "ranpac") -> Update:
    """The Update before an experience: `close`, so that the ridge is chosen on its rows."""
    checks.path("slot", slot, "ranpac")
    return partial(_begin, slot=slot)


def _begin(agent: Any, exp: Experience, *, slot: str) -> Any:
    sums: RanPAC = checks.slot(agent, slot, RanPAC, _EXPECTED)
    return tree.set(agent, {slot: tree.where(exp.valid.any(), close(sums), sums)})
