"""The nearest class mean classifier (Mensink et al., "Distance-based image classification", TPAMI 2013, with the identity metric).

    mu_c = mean of the features of class c,    logit_c(f) = -|f - mu_c|^2

The means are streaming: rows that come in any number of parts give the mean of them all. A class without rows is masked.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.checks import positive_int
from cl_func.core import Update
from cl_func.experiences import Experience, one_hot
from cl_func.memory import Memory, herding, replay
from cl_func.models import Model, ModelState, feature_function, features, mask_logits
from cl_func.tree import state

_EXPECTED = "a NearestMean made by nearest_mean.init"


@state
class NearestMean:
    """The slot of the classifier."""

    means: Tensor  # [C, F] floating, 0 for a class without rows
    counts: Tensor  # [C] int64, rows seen of each class


def init(n_classes: int, sample: Tensor) -> NearestMean:
    """A classifier that has seen no class, for features like `sample` [F], such as `cl.models.sample_features(model, net)`."""
    if not isinstance(sample, Tensor) or sample.ndim != 1:
        raise checks.type_error("sample", "a tensor [F], the features of one row", sample)
    positive_int("n_classes", n_classes)
    return NearestMean(
        means=sample.new_zeros((n_classes, *sample.shape)),
        counts=torch.zeros(n_classes, dtype=torch.int64, device=sample.device),
    )


def add(slot: NearestMean, rows: Tensor, labels: Tensor, valid: Tensor) -> NearestMean:
    """The classifier after more rows: features [n, F], their labels [n] int64 in 0..C-1, and which of them count, valid [n] bool.

    Raises TypeError or ValueError for other dtypes and shapes, and for features of a wider dtype than the means.
    """
    checks.instance("slot", slot, NearestMean, _EXPECTED)
    _check_features(rows, slot.means)
    _check_labels(labels, valid, rows)
    if torch.promote_types(rows.dtype, slot.means.dtype) != slot.means.dtype:
        raise TypeError(f"rows: the means are {slot.means.dtype}, got {rows.dtype}; convert the features with .to(means.dtype).")
    belongs = one_hot(labels, valid, slot.counts.shape[0])
    new = belongs.sum(0)
    counts = slot.counts + new
    sums = belongs.to(rows.dtype).T @ torch.where(valid[:, None], rows, 0)
    means = slot.means + (sums - new[:, None] * slot.means) / counts.clamp(min=1)[:, None]
    return tree.replace(slot, means=means, counts=counts)


def of_memory(model: Model, net: ModelState, memory: Memory) -> NearestMean:
    """The means of a memory's rows, of their features at length 1 under some weights; the means have length 1 too.

    memory: its rows have the fields x, y and task, as memories store them by default. A class without a row there has none here.
    Raises TypeError or ValueError for a model without features, and for other arguments.
    """
    checks.instance("net", net, ModelState, "the ModelState of model.init(key)")
    occupied = checks.occupied("memory", memory)
    replay.check_fields("memory", memory.data, occupied, occupied)
    data = memory.data
    rows = herding.unit(features(model, net, data["x"], occupied, data["task"]))
    slot = add(init(model.n_classes, rows[0]), rows, data["y"], occupied)
    return tree.replace(slot, means=herding.unit(slot.means))


def logits(slot: NearestMean, rows: Tensor) -> Tensor:
    """The logits [n, C] of features [n, F]: negative squared distances, masked where a class has no rows.

    Raises TypeError or ValueError for features of another dtype or shape.
    """
    checks.instance("slot", slot, NearestMean, _EXPECTED)
    _check_features(rows, slot.means)
    seen = slot.counts > 0
    # Distances do not depend on the origin, but far from the rows they would be small differences of large numbers.
    origin = slot.means.sum(0) / seen.sum().clamp(min=1)
    rows, means = rows - origin, slot.means - origin
    squared = rows.square().sum(1, keepdim=True) - 2 * rows @ means.T + means.square().sum(1)
    return mask_logits(-squared, seen)


def insert(model: Model, slot: str = "ncm") -> Update:
    """The Update that adds the features of an experience's rows, under the present weights, to the means in `state.<slot>`."""
    checks.model("model", model)
    checks.path("slot", slot, "ncm")
    feature_function(model)
    return partial(_insert, model=model, slot=slot)


def _insert(agent: Any, exp: Experience, *, model: Model, slot: str) -> Any:
    held: NearestMean = checks.slot(agent, slot, NearestMean, _EXPECTED)
    labels = replay.labels(exp, held.counts.shape[0])
    rows = features(model, agent.model, exp.x, exp.valid, exp.tasks)
    return tree.set(agent, {slot: add(held, rows, labels, exp.valid)})


def _check_features(rows: Any, means: Tensor) -> None:
    """Check that features [n, F] fit class means [C, F]."""
    checks.tensor("rows", rows, rows.shape[:1] + means.shape[1:] if isinstance(rows, Tensor) else None, like=means)


def _check_labels(labels: Any, valid: Any, rows: Tensor) -> None:
    """Check that there is a label, and whether it is valid, for each row of features."""
    checks.tensor("labels", labels, rows.shape[:1], torch.int64, like=rows)
    checks.tensor("valid", valid, rows.shape[:1], torch.bool, like=rows)
