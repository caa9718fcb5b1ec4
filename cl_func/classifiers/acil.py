"""Analytic class-incremental learning (Zhuang et al., "ACIL: analytic class-incremental learning with absolute memorization and
privacy protection", NeurIPS 2022, eq. 8 to 10): ridge regression on random features by recursive least squares.

    h(f) = relu(f P),    R = (ridge I + sum_i h_i h_i^T)^-1,    W = R sum_i h_i y_i^T    (y one-hot)

New rows H [n, M], Y [n, C] update both, by Woodbury's identity:

    K = R H^T (I + H R H^T)^-1,    R <- R - K H R,    W <- W + K (Y - H W)

So W is that of ridge regression on all rows at once, in whatever parts and order they arrive, and none is stored. The entries of P
are N(0, 1 / F): h is then about as large as f, and the ridge means the same for networks of any width.

R and W are float64: in float32 its rounding errors, of the size of its largest entries 1 / ridge, would outgrow the small ones.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.classifiers import _random_features, linear
from cl_func.classifiers.linear import LinearClassifier, _cholesky
from cl_func.classifiers.nearest_mean import _check_features, _check_labels
from cl_func.core import Update
from cl_func.experiences import Experience, one_hot
from cl_func.memory import replay
from cl_func.models import Model, feature_function, features
from cl_func.optim.hyperparameters import nonnegative
from cl_func.tree import bounded, state

_EXPECTED = "an ACIL made by acil.init"


@state
class ACIL:
    """The slot of the classifier; `ridge` is a hyperparameter, which counts when the first rows come."""

    projection: Tensor  # [F, M] floating
    inverse: Tensor  # [M, M] float64, R; zeros before the first rows
    weights: Tensor  # [M, C] float64, W
    counts: Tensor  # [C] int64, rows seen of each class
    ridge: Tensor = bounded(partial(nonnegative, example=0.1, positive=True))  # () float32, above 0


def init(n_classes: int, sample: Tensor, key: Tensor, projection_size: int = 2000, ridge: float = 0.1) -> ACIL:
    """A classifier that has seen no row, for features like `sample` [F], with a projection drawn from the key.

    Raises TypeError or ValueError for a sample, key or number of the wrong kind or range.
    """
    checks.positive_int("n_classes", n_classes)
    value = nonnegative("ridge", ridge, 0.1, positive=True)
    projection = _random_features.draw(key, sample, projection_size) / sample.shape[0] ** 0.5
    device = sample.device
    return ACIL(
        projection=projection,
        inverse=torch.zeros((projection_size, projection_size), dtype=torch.float64, device=device),
        weights=torch.zeros((projection_size, n_classes), dtype=torch.float64, device=device),
        counts=torch.zeros(n_classes, dtype=torch.int64, device=device),
        ridge=torch.tensor(value, device=device),
    )


def add(slot: ACIL, rows: Tensor, labels: Tensor, valid: Tensor) -> ACIL:
    """The classifier after more rows: features [n, F], their labels [n] int64 in 0..C-1, and which of them count, valid [n] bool.

    It takes O(n M^2), M the size of the projection. Raises TypeError or ValueError for other dtypes and shapes.
    """
    checks.instance("slot", slot, ACIL, _EXPECTED)
    _check_features(rows, slot.projection.T)
    _check_labels(labels, valid, rows)
    belongs = one_hot(labels, valid, slot.counts.shape[0])
    expanded = torch.where(valid[:, None], _random_features.expand(slot.projection, rows).double(), 0)
    size = expanded.shape[1]
    eye = torch.eye(size, dtype=torch.float64, device=rows.device)
    inverse, weights = torch.where(slot.counts.sum() == 0, eye / slot.ridge.double(), slot.inverse), slot.weights
    for h, y in zip(expanded.split(size), belongs.double().split(size), strict=True):  # the systems are no larger than R
        gain = inverse @ h.T  # [M, n]
        system = torch.eye(len(h), dtype=torch.float64, device=rows.device) + h @ gain
        gain = torch.cholesky_solve(gain.T, _cholesky(system)).T
        inverse = inverse - gain @ (h @ inverse)
        inverse = (inverse + inverse.T) / 2  # rounding must not make it more and more asymmetric
        weights = weights + gain @ (y - h @ weights)
    return tree.replace(slot, inverse=inverse, weights=weights, counts=slot.counts + belongs.sum(0))


def logits(slot: ACIL, rows: Tensor) -> Tensor:
    """The logits [n, C] of features [n, F]: the regression of the one-hot labels, masked where a class has no rows.

    Raises TypeError or ValueError for features of another dtype or shape.
    """
    checks.instance("slot", slot, ACIL, _EXPECTED)
    _check_features(rows, slot.projection.T)
    fitted = LinearClassifier(weights=slot.weights, bias=torch.zeros_like(slot.weights[0]), seen=slot.counts > 0)
    return linear.logits(fitted, _random_features.expand(slot.projection, rows))


def insert(model: Model, slot: str = "acil") -> Update:
    """The Update that adds the features of an experience's rows, under the present weights, to the regression in `state.<slot>`."""
    checks.model("model", model)
    checks.path("slot", slot, "acil")
    feature_function(model)
    return partial(_insert, model=model, slot=slot)


def _insert(agent: Any, exp: Experience, *, model: Model, slot: str) -> Any:
    held: ACIL = checks.slot(agent, slot, ACIL, _EXPECTED)
    labels = replay.labels(exp, held.counts.shape[0])
    rows = features(model, agent.model, exp.x, exp.valid, exp.tasks)
    return tree.set(agent, {slot: add(held, rows, labels, exp.valid)})
