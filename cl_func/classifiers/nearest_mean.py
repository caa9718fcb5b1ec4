"""The nearest class mean classifier (Mensink et al., "Distance-based image classification", TPAMI 2013, with the identity metric).

    mu_c = mean of the features of class c,    logit_c(f) = -|f - mu_c|^2

The means are streaming: rows that come in any number of parts give the mean of them all. A class without rows is masked.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.checks import positive_int
from cl_func.core import Update
from cl_func.experiences import Experience, one_hot
from cl_func.memory import replay
from cl_func.models import Model, feature_function, features, mask_logits
from cl_func.tree import state


@state
class NearestMean:
    """The slot of the classifier."""

    means: Tensor  # [C, F] floating, 0 for a class without rows
    counts: Tensor  # [C] int64, rows seen of each class


def init(n_classes: int, sample: Tensor) -> NearestMean:
    """No class seen yet, for features like `sample` [F]; `cl.models.sample_features(model, net)` gives one."""
    if not isinstance(sample, Tensor) or sample.ndim != 1:
        raise checks.type_error("sample", "a tensor [F], the features of one row", sample)
    positive_int("n_classes", n_classes)
    return NearestMean(
        means=sample.new_zeros((n_classes, *sample.shape)),
        counts=torch.zeros(n_classes, dtype=torch.int64, device=sample.device),
    )


def add(slot: NearestMean, rows: Tensor, labels: Tensor, valid: Tensor) -> NearestMean:
    """The classifier after features [n, F] with labels [n], of which the `valid` [n] ones count."""
    member = one_hot(labels, valid, slot.counts.shape[0])
    new = member.sum(0)
    counts = slot.counts + new
    total = member.to(rows.dtype).T @ torch.where(valid[:, None], rows, 0)
    means = slot.means + (total - new[:, None] * slot.means) / counts.clamp(min=1)[:, None]
    return slot.replace(means=means, counts=counts)  # type: ignore[attr-defined]


def logits(slot: NearestMean, rows: Tensor) -> Tensor:
    """The logits [n, C] of features [n, F]: negative squared distances, masked where a class has no rows."""
    seen = slot.counts > 0
    # Distances do not change with the origin, but far from the rows they would be small differences of large numbers.
    origin = slot.means.sum(0) / seen.sum().clamp(min=1)
    rows, means = rows - origin, slot.means - origin
    square = rows.square().sum(1, keepdim=True) - 2 * rows @ means.T + means.square().sum(1)
    return mask_logits(-square, seen)


def insert(model: Model, slot: str = "ncm") -> Update:
    """The Update that adds the features of an experience's rows, under the present weights, to the means in `state.<slot>`."""
    checks.model("model", model)
    checks.path("slot", slot, "ncm")
    feature_function(model)

    def update(agent: Any, exp: Experience) -> Any:
        held = checks.slot(agent, slot, NearestMean, "a NearestMean made by nearest_mean.init")
        labels = replay.labels(exp, held.counts.shape[0])
        rows = features(model, agent.model, exp.x, exp.valid, exp.tasks)
        return tree.set(agent, {slot: add(held, rows, labels, exp.valid)})

    return update
