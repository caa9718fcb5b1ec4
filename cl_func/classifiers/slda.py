"""Streaming linear discriminant analysis (Hayes & Kanan, "Lifelong machine learning with deep streaming linear discriminant
analysis", CVPR workshops 2020): one mean per class and one covariance for all, both streaming.

    Sigma = 1/N sum_i (f_i - mu_{y_i}) (f_i - mu_{y_i})^T,    Lambda = [(1 - shrinkage) Sigma + shrinkage I]^-1
    logit_c(f) = mu_c^T Lambda f - mu_c^T Lambda mu_c / 2

Parts of a stream are joined by the exact formula for scatter matrices (Chan, Golub & LeVeque 1983), so the classifier equals batch
LDA on all rows, in whatever parts and order they arrive. (The paper's update weights a row by t / (t + 1) with t the rows of all
classes, which is close to the exact weight n_c / (n_c + 1) only once each class has many rows.)
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.classifiers import linear, nearest_mean
from cl_func.classifiers.linear import LinearClassifier, _cholesky
from cl_func.classifiers.nearest_mean import _check_features, _check_labels
from cl_func.core import Update
from cl_func.experiences import Experience, one_hot
from cl_func.memory import replay
from cl_func.models import Model, feature_function, features
from cl_func.optim.hyperparameters import nonnegative
from cl_func.tree import bounded, state

_EXPECTED = "an SLDA made by slda.init"


@state
class SLDA:
    """The slot of the classifier; `shrinkage` is a hyperparameter."""

    means: Tensor  # [C, F] float64, 0 for a class without rows
    counts: Tensor  # [C] int64, rows seen of each class
    scatter: Tensor  # [F, F] float64, sum over all rows of the outer product of their deviation from the mean of their class
    shrinkage: Tensor = bounded(partial(nonnegative, example=1e-4, positive=True, below=1))  # () float32, above 0 and below 1


def init(n_classes: int, sample: Tensor, shrinkage: float = 1e-4) -> SLDA:
    """A classifier that has seen no row, for features like `sample` [F]. Raises ValueError for a shrinkage outside (0, 1)."""
    if not isinstance(sample, Tensor) or sample.ndim != 1:
        raise checks.type_error("sample", "a tensor [F], the features of one row", sample)
    value = nonnegative("shrinkage", shrinkage, 1e-4, positive=True, below=1)
    empty = nearest_mean.init(n_classes, sample.double())  # with a small shrinkage the problem is badly conditioned
    size = sample.shape[0]
    return SLDA(
        means=empty.means,
        counts=empty.counts,
        scatter=empty.means.new_zeros((size, size)),
        shrinkage=torch.tensor(value, device=sample.device),
    )


def add(slot: SLDA, rows: Tensor, labels: Tensor, valid: Tensor) -> SLDA:
    """The classifier after more rows: features [n, F], their labels [n] int64 in 0..C-1, and which of them count, valid [n] bool.

    Raises TypeError or ValueError for other dtypes and shapes.
    """
    checks.instance("slot", slot, SLDA, _EXPECTED)
    _check_features(rows, slot.means)
    _check_labels(labels, valid, rows)
    belongs = one_hot(labels, valid, slot.counts.shape[0]).double()
    rows = torch.where(valid[:, None], rows.double(), 0)
    new = belongs.sum(0)
    new_means = belongs.T @ rows / new.clamp(min=1)[:, None]  # of these rows alone
    counts = slot.counts + new.to(torch.int64)
    within = rows - belongs @ new_means
    between = (new_means - slot.means) * (slot.counts * new / counts.clamp(min=1)).sqrt()[:, None]
    means = slot.means + (new_means - slot.means) * (new / counts.clamp(min=1))[:, None]
    return tree.replace(slot, means=means, counts=counts, scatter=slot.scatter + within.T @ within + between.T @ between)


def solve(slot: SLDA) -> LinearClassifier:
    """The linear classifier of the statistics, which takes O(F^3); `classifiers.linear.logits` of it are cheap."""
    checks.instance("slot", slot, SLDA, _EXPECTED)
    covariance = slot.scatter / slot.counts.sum().clamp(min=1)
    eye = torch.eye(slot.means.shape[1], dtype=torch.float64, device=slot.means.device)
    shrinkage = slot.shrinkage.double()
    weights = torch.cholesky_solve(slot.means.T, _cholesky((1 - shrinkage) * covariance + shrinkage * eye))  # [F, C]
    return LinearClassifier(weights=weights, bias=-(slot.means.T * weights).sum(0) / 2, seen=slot.counts > 0)


def logits(slot: SLDA, rows: Tensor) -> Tensor:
    """The logits [n, C] of features [n, F], masked where a class has no rows.

    Each call solves the linear system anew: for many batches call `solve` once. Raises TypeError or ValueError for features of
    another dtype or shape.
    """
    checks.instance("slot", slot, SLDA, _EXPECTED)
    _check_features(rows, slot.means)
    return linear.logits(solve(slot), rows)


def insert(model: Model, slot: str = "slda") -> Update:
    """The Update that adds the features of an experience's rows, under the present weights, to the statistics in `state.<slot>`."""
    checks.model("model", model)
    checks.path("slot", slot, "slda")
    feature_function(model)
    return partial(_insert, model=model, slot=slot)


def _insert(agent: Any, exp: Experience, *, model: Model, slot: str) -> Any:
    held: SLDA = checks.slot(agent, slot, SLDA, _EXPECTED)
    labels = replay.labels(exp, held.counts.shape[0])
    rows = features(model, agent.model, exp.x, exp.valid, exp.tasks)
    return tree.set(agent, {slot: add(held, rows, labels, exp.valid)})
