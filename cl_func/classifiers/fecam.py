"""Mahalanobis distances with a covariance for each class (Goswami, Liu, Twardowski & van de Weijer, "FeCAM: exploiting the
heterogeneity of class distributions in exemplar-free continual learning", NeurIPS 2023).

Features are made more Gaussian by Tukey's transformation, t = sign(f) |f|^tukey. Of the t of each class, mu and Sigma are the mean
and the covariance; V1 is the mean of the diagonal of Sigma and V2 of all else:

    S = Sigma + gamma1 V1 I + gamma2 V2 (1 1^T - I)             shrinkage: there may be fewer rows than features
    N = S_ij / sqrt(S_ii S_jj)                                  the correlations, comparable between classes
    logit_c(f) = -(u - u_c)^T N_c^-1 (u - u_c),                 u = t / |t|,  u_c = mu_c / |mu_c|

Covariances are joined exactly, as in SLDA, so parts and order of the rows do not matter. (The paper has features that are not
negative; there the transformation is f^tukey. Its code transforms the mean of f, not t, for mu.) Statistics are float64: a
covariance is a small difference of sums.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_func import checks, tree
from cl_func.classifiers import nearest_mean
from cl_func.classifiers.linear import _cholesky
from cl_func.classifiers.nearest_mean import _check_features, _check_labels
from cl_func.compiler.operators import opaque
from cl_func.core import Update
from cl_func.experiences import Experience, one_hot
from cl_func.memory import replay
from cl_func.models import Model, feature_function, features, mask_logits
from cl_func.optim.hyperparameters import nonnegative
from cl_func.tree import bounded, state

_EXPECTED = "a FeCAM made by fecam.init"


def _exponent(name: str, value: Any) -> float:
    return checks.number(name, value, 0, 1, ends="(]")


@state
class FeCAM:
    """The slot of the classifier; `gamma1`, `gamma2` and `tukey` are hyperparameters, the last of which counts as rows come."""

    means: Tensor  # [C, F] float64, of the transformed features; 0 for a class without rows
    counts: Tensor  # [C] int64, rows seen of each class
    scatter: Tensor  # [C, F, F] float64, the sum of the outer products of the deviations from the mean
    gamma1: Tensor = bounded(partial(nonnegative, example=1.0, positive=True))  # () float32, above 0
    gamma2: Tensor = bounded(partial(nonnegative, example=1.0))  # () float32, at least 0
    tukey: Tensor = bounded(_exponent)  # () float32, above 0 and at most 1


@state
class MahalanobisClassifier:
    """The classifier that the statistics give."""

    means: Tensor  # [C, F] float64, of length 1
    whitening: Tensor  # [C, F, F] float64, the inverse of the Cholesky factor of each class's correlations
    seen: Tensor  # [C] bool, the classes that have rows
    tukey: Tensor  # () float32


def init(n_classes: int, sample: Tensor, gamma1: float = 1.0, gamma2: float = 1.0, tukey: float = 0.5) -> FeCAM:
    """A classifier that has seen no row, for features like `sample` [F].

    Raises ValueError for a gamma1 that is not above 0, a gamma2 outside [0, gamma1], and a tukey outside (0, 1].
    """
    if not isinstance(sample, Tensor) or sample.ndim != 1:
        raise checks.type_error("sample", "a tensor [F], the features of one row", sample)
    values = hyperparameters(gamma1, gamma2, tukey)
    empty = nearest_mean.init(n_classes, sample.double())
    size = sample.shape[0]
    return FeCAM(
        means=empty.means,
        counts=empty.counts,
        scatter=empty.means.new_zeros((n_classes, size, size)),
        **{name: torch.tensor(value, device=sample.device) for name, value in values.items()},
    )


def hyperparameters(gamma1: float, gamma2: float, tukey: float) -> dict[str, float]:
    """The hyperparameters, checked. Raises TypeError or ValueError, as `init` does.

    With gamma2 above gamma1 S is not always positive definite, and where it is not, as if it were set later, logits are NaN.
    """
    first = nonnegative("gamma1", gamma1, 1.0, positive=True)
    second = nonnegative("gamma2", gamma2, 1.0)
    if second > first:
        raise ValueError(f"gamma2: expected at most gamma1, {first:g}, got {second:g}; shrink the diagonal by as much or more.")
    return {"gamma1": first, "gamma2": second, "tukey": _exponent("tukey", tukey)}


def _transform(rows: Tensor, tukey: Tensor) -> Tensor:
    return rows.sign() * rows.abs() ** tukey.to(rows.dtype)


def add(slot: FeCAM, rows: Tensor, labels: Tensor, valid: Tensor) -> FeCAM:
    """The classifier after more rows: features [n, F], their labels [n] int64 in 0..C-1, and which of them count, valid [n] bool.

    Raises TypeError or ValueError for other dtypes and shapes.
    """
    checks.instance("slot", slot, FeCAM, _EXPECTED)
    _check_features(rows, slot.means)
    _check_labels(labels, valid, rows)
    belongs = one_hot(labels, valid, slot.counts.shape[0])
    rows = torch.where(valid[:, None], _transform(rows.double(), slot.tukey), 0)
    share = belongs.double()
    new = share.sum(0)
    new_means = share.T @ rows / new.clamp(min=1)[:, None]  # of these rows alone
    counts = slot.counts + belongs.sum(0)
    within = rows - share @ new_means
    between = (new_means - slot.means) * (slot.counts * new / counts.clamp(min=1)).sqrt()[:, None]
    means = slot.means + (new_means - slot.means) * (new / counts.clamp(min=1))[:, None]
    scatter = slot.scatter + _class_scatter(within, belongs, between)
    return tree.replace(slot, means=means, counts=counts, scatter=scatter)


def _scatter_like(within: Tensor, belongs: Tensor, between: Tensor) -> Tensor:
    return between.new_empty((*between.shape, between.shape[1]))


@opaque("within, belongs, between", like=_scatter_like)
def _class_scatter(within: Tensor, belongs: Tensor, between: Tensor) -> Tensor:
    """For each class the sum of outer products [C, F, F] of its rows of `within` [n, F] and of its row of `between` [C, F].

    One matrix product for each class that has rows, in place of C products of all rows.
    """
    scatter = between.new_zeros((*between.shape, between.shape[1]))
    for c in belongs.any(0).nonzero().flatten().tolist():
        part = torch.cat([within[belongs[:, c]], between[c : c + 1]])
        scatter[c] = part.T @ part
    return scatter


def solve(slot: FeCAM) -> MahalanobisClassifier:
    """The classifier of the statistics, which takes O(C F^3). A class without rows, or with equal rows alone, has N = I."""
    checks.instance("slot", slot, FeCAM, _EXPECTED)
    # A class at a time: of 100 classes and 1280 features, each step on all of them would take 1.3 GB.
    factors = [_whitening(part, count, slot) for part, count in zip(slot.scatter, slot.counts, strict=True)]
    return MahalanobisClassifier(
        means=F.normalize(slot.means, dim=1), whitening=torch.stack(factors), seen=slot.counts > 0, tukey=slot.tukey
    )


def _whitening(scatter: Tensor, count: Tensor, slot: FeCAM) -> Tensor:
    size = scatter.shape[0]
    eye = torch.eye(size, dtype=scatter.dtype, device=scatter.device)
    covariance = scatter / (count - 1).clamp(min=1)
    diagonal = (covariance * eye).sum()  # compiling `diagonal` makes torch 2.13 warn
    other = (covariance.sum() - diagonal) / max(size * (size - 1), 1)
    shrunk = covariance + slot.gamma1 * diagonal / size * eye + slot.gamma2 * other * (1 - eye)
    deviation = (shrunk * eye).sum(-1).sqrt()
    constant = deviation == 0
    deviation = torch.where(constant, 1, deviation)
    correlation = shrunk / (deviation[:, None] * deviation) + constant * eye
    return torch.linalg.solve_triangular(_cholesky(correlation), eye, upper=False)


def distances(classifier: MahalanobisClassifier, rows: Tensor) -> Tensor:
    """The logits [n, C] of features [n, F], in their dtype: negative squared distances, masked where a class has no rows.

    Raises TypeError or ValueError for features of another dtype or shape.
    """
    checks.instance("classifier", classifier, MahalanobisClassifier, "a MahalanobisClassifier made by fecam.solve")
    _check_features(rows, classifier.means)
    unit = F.normalize(_transform(rows, classifier.tukey), dim=1)
    # A class at a time: deviations of all rows from all means at once would be [C, n, F].
    squared = [
        ((unit - mean.to(rows.dtype)) @ whitening.to(rows.dtype).T).square().sum(1)
        for mean, whitening in zip(classifier.means, classifier.whitening, strict=True)
    ]
    return mask_logits(-torch.stack(squared, 1), classifier.seen)


def logits(slot: FeCAM, rows: Tensor) -> Tensor:
    """The logits [n, C] of features [n, F], masked where a class has no rows.

    Each call solves anew: for many batches call `solve` once, and `distances`. Raises TypeError or ValueError for features of
    another dtype or shape.
    """
    checks.instance("slot", slot, FeCAM, _EXPECTED)
    _check_features(rows, slot.means)
    return distances(solve(slot), rows)


def insert(model: Model, slot: str = "fecam") -> Update:
    """The Update that adds the features of an experience's rows, under the present weights, to the statistics in `state.<slot>`."""
    checks.model("model", model)
    checks.path("slot", slot, "fecam")
    feature_function(model)
    return partial(_insert, model=model, slot=slot)


def _insert(agent: Any, exp: Experience, *, model: Model, slot: str) -> Any:
    held: FeCAM = checks.slot(agent, slot, FeCAM, _EXPECTED)
    labels = replay.labels(exp, held.counts.shape[0])
    rows = features(model, agent.model, exp.x, exp.valid, exp.tasks)
    return tree.set(agent, {slot: add(held, rows, labels, exp.valid)})
