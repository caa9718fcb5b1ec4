"""The argument `loss` of the methods: what they minimise on the task, beside whatever they do against forgetting."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from torch import Tensor

from cl_func import checks, signatures, user_warnings
from cl_func.core import Loss
from cl_func.experiences import Experience
from cl_func.losses import cross_entropy, mask_logits, target_of, weighted_mean
from cl_func.losses.classification import check_classes
from cl_func.memory.kinds import RowLosses
from cl_func.models import Model, split_heads


def task_loss(model: Model, loss: Loss | None) -> Loss:
    """The loss given, or for None the cross-entropy over all classes.

    Raises ValueError for a multi-head model with a loss for other targets than class labels: its heads are masks of classes.
    """
    checks.model("model", model)
    if loss is None:
        return cross_entropy(model)
    signatures.loss("loss", loss, "None or a Loss such as cl.losses.mean_squared_error(model)")
    if target_of(loss) != "class" and split_heads(model)[1] is not None:
        raise ValueError(
            "model: in a multi-head model the classes of a row's task compete, which is for class labels; give a single head."
        )
    own = [part.apply for part in _parts(loss) if isinstance(part, Model)]
    if not any(one is model.apply for one in own) and any(one is inner for one in own for inner in _parts(model.apply)):
        user_warnings.warn(
            "loss: it is of a model that `model` is made from, so that training goes past what was put around it, such as its "
            "normalisation, its heads or its augmentation; make the loss of the strategy's own model."
        )
    return loss


def _parts(value: Any) -> Iterator[Any]:
    """A function and what it is made of, from the outside in."""
    yield value
    inside: Iterable[Any] = ()
    if isinstance(value, partial):
        inside = (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, (list, tuple)):
        inside = value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        inside = [getattr(value, field.name) for field in dataclasses.fields(value)]
    for part in inside:
        yield from _parts(part)


def mean_loss(rows: RowLosses, outputs: Tensor, exp: Experience, classes: Tensor | None = None) -> Tensor:
    """The task's loss, (), from the outputs [n, K] for the rows of `exp`, by the loss of each row.

    classes: for class labels, a mask [C] or [n, C] bool of those that compete; None: all.
    """
    if exp.source.target == "class":
        check_classes(outputs, exp)
        if classes is not None:
            outputs = mask_logits(outputs, classes)
    return weighted_mean(rows(outputs, exp.y), exp.valid)
