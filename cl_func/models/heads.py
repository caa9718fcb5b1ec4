"""Task-incremental heads: the logits of classes outside a row's task are masked.

    logits'[i, c] = logits[i, c] if masks[task_i, c] else a finite value far below any logit

One output layer whose rows belong to tasks is the same function as one linear head per task, and it keeps the model's tensors
independent of the number of tasks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, random, user_warnings
from cl_func.experiences import Experience, lanes
from cl_func.models.model import Model
from cl_func.torch_private import stop_gradient
from cl_func.tree import describe


def multi_head(model: Model, masks: Tensor) -> Model:
    """The model with logits of classes outside the row's task masked; `apply` then needs `task` [n] int64, one label per row.

    masks [T, C] bool: the classes of each task, such as `class_masks(benchmark.train)`. A masked logit is -1e9: finite, so
    that no loss of it is NaN, and its probability is 0. Task labels must lie in 0..T-1.

    A class that several tasks have is one output that they share; a warning says so.

    Raises TypeError for masks that are no bool tensor, ValueError for a wrong shape, for a task without classes, and from `apply`
    without `task`.
    """
    checks.model("model", model)
    if not isinstance(masks, Tensor) or masks.dtype != torch.bool:
        raise TypeError(f"masks: expected a bool tensor [T, C], got {describe(masks)}; make it with class_masks(stream).")
    if masks.ndim != 2 or masks.shape[1] != model.n_classes or len(masks) == 0:
        raise ValueError(f"masks: expected bool[T, {model.n_classes}], one row per task, got {describe(masks)}.")
    if masks.is_meta:
        raise ValueError("masks: they are on the device meta, which holds no values; make them with class_masks(stream).")
    empty = (~masks.any(1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"masks: the tasks {empty} have no class; mark at least one class in each row.")
    shared = (masks.sum(0) > 1).nonzero().flatten().tolist()
    if shared:
        user_warnings.warn(
            f"masks: several tasks have the classes {shared}, whose outputs they share, so that heads are not layers of their own. "
            "Number the classes of each task apart, such as 0..4 and 5..9, as cl.streams.task_incremental does."
        )
    return dataclasses.replace(model, apply=MultiHead(model, masks))


@dataclasses.dataclass(frozen=True, eq=False)
class MultiHead:
    """The `apply` of a multi-head model: that of `model`, masked by the row `masks[task]` [C] bool."""

    model: Model
    masks: Tensor

    def __call__(
        self,
        params: dict[str, Tensor],
        buffers: dict[str, Tensor],
        x: Tensor,
        *,
        train: bool = False,
        valid: Tensor | None = None,
        task: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if task is None:
            raise ValueError(
                "task: a multi-head model needs the task label of each row; pass task=exp.tasks, as forward(model, ...) does."
            )
        if task.dtype != torch.int64 or task.shape != x.shape[:1]:
            raise ValueError(f"task: expected int64[{x.shape[0]}], one label per row of x, got {describe(task)}.")
        logits, buffers = self.model.apply(params, buffers, x, train=train, valid=valid, task=task)
        return mask_logits(logits, self.masks.to(logits.device)[task]), buffers


def split_heads(model: Model) -> tuple[Model, Tensor | None]:
    """The model that gives all logits, and the masks [T, C] bool of its heads, None if it is no multi-head model.

    For losses that need the logits of several heads from one forward pass.
    """
    checks.model("model", model)
    if isinstance(model.apply, MultiHead):
        return model.apply.model, model.apply.masks
    return model, None


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """A function `(state, exp) -> logits [n, C]` that classifies by a model's features or logits, with that model.

    With `prepare` the logits are `logits(prepare(state), exp)`: what depends on the state alone, such as the solution of a linear
    system, is computed once for all the batches that `cl.evaluate` measures.
    """

    logits: Callable[[Any, Experience], Tensor]
    model: Model
    prepare: Callable[[Any], Any] | None = None

    def __call__(self, state: Any, exp: Experience) -> Tensor:
        return self.logits(state if self.prepare is None else self.prepare(state), exp)


def of_their_task(model: Model, logits: Tensor, tasks: Tensor) -> Tensor:
    """Logits [n, C] of a classifier on the model's features, masked by the head of each row's task [n] int64, if it has heads."""
    masks = split_heads(model)[1]
    return logits if masks is None else mask_logits(logits, masks.to(logits.device)[tasks])


def check_heads(model: Model, exp: Experience, name: str = "exp") -> None:
    """ValueError unless a multi-head model has a head for the task of each row of an experience, and in it the row's class.

    Other models and data with more classes than the model are not checked. Each lane is.
    """
    masks = split_heads(model)[1]
    if masks is None or exp.classes.shape[-1] > masks.shape[1]:
        return
    several = lanes(exp)
    for lane, one in enumerate(several):
        _check_heads(masks, one, name if len(several) == 1 else f"{name}, lane {lane}")


def _check_heads(masks: Tensor, exp: Experience, name: str) -> None:
    task, label = exp.tasks[exp.valid].to(masks.device), exp.y[exp.valid].to(masks.device)
    if not bool(((task >= 0) & (task < len(masks))).all()):
        raise ValueError(
            f"{name}: its task labels are {task.unique().tolist()}, the model has the heads 0..{len(masks) - 1}; "
            "make the masks with cl.models.class_masks of a stream that has all tasks."
        )
    outside = ~masks[task, label]
    if bool(outside.any()):
        row = int(outside.int().argmax())
        raise ValueError(
            f"{name}: it has rows of class {int(label[row])} with the task label {int(task[row])}, whose head has the classes "
            f"{masks[task[row]].nonzero().flatten().tolist()}; a multi-head model needs task labels, such as those of "
            "cl.streams.task_incremental, and where each seed has a class order of its own, labels in that order: "
            "cl.sources.Relabelled."
        )


def mask_logits(logits: Tensor, classes: Tensor) -> Tensor:
    """Logits [n, C] with those of classes outside a mask [C] or [n, C] set to a large negative number.

    The number is -1e9, plus the lowest logit of the row that counts if that is below 0: below all others, and yet even a sum of
    masked losses is finite. Raises ValueError if the numbers of classes differ.
    """
    if not isinstance(logits, Tensor) or logits.ndim == 0 or not logits.is_floating_point():
        raise checks.type_error("logits", "a floating tensor [n, C]", logits)
    if not isinstance(classes, Tensor) or classes.dtype != torch.bool or classes.ndim == 0:
        raise checks.type_error("classes", "a mask bool[C] or bool[n, C]", classes)
    if classes.device != logits.device:
        raise ValueError(f"logits, classes: on different devices, {logits.device} and {classes.device}; move one with .to(device).")
    if classes.ndim > 1 and classes.shape[:-1] != logits.shape[:-1]:
        raise ValueError(f"classes: expected a mask [C] or one row per row of {describe(logits)}, got {describe(classes)}.")
    if classes.shape[-1] != logits.shape[-1]:
        raise ValueError(
            f"classes: the mask is for {classes.shape[-1]} classes, the model gives {logits.shape[-1]} logits; "
            f"build the model with n_classes={classes.shape[-1]}."
        )
    least = torch.finfo(logits.dtype).min
    lowest = stop_gradient(torch.where(classes, logits, 0).amin(-1, keepdim=True)).clamp(max=0)
    return torch.where(classes, logits, (lowest + max(-1e9, least / 4)).clamp(min=least))


def class_masks(stream: Iterable[Experience]) -> Tensor:
    """The classes of each task of a stream, [T, C] bool: row t is the union of `classes` over the experiences with task label t.

    Where the rows of a source have task labels of their own, these count, with the class labels that occur with each. Raises
    ValueError for negative task labels, for gaps between them, and for an empty stream.
    """
    found: dict[int, Tensor] = {}
    checks.stream("stream", stream)
    for exp in stream:
        checks.instance("stream", exp, Experience, "a sequence of experiences")
        add_tasks(found, exp)
    if not found:
        raise ValueError("stream: it holds no experience; pass a sequence such as benchmark.train.")
    missing = [task for task in range(max(found) + 1) if task not in found]
    if min(found) < 0 or missing:
        raise ValueError(f"stream: task labels must be 0..T-1 without gaps, got {sorted(found)}; relabel the tasks.")
    return torch.stack([found[task] for task in range(len(found))])


def add_tasks(found: dict[int, Tensor], exp: Experience) -> None:
    """Add the classes [C] bool of each task of an experience to those found by task label; of several lanes the first counts."""
    exp = lanes(exp)[0]
    rows, classes = exp.rows[exp.valid], exp.classes
    tasks = exp.source.gather_task(rows)
    masks = {int(exp.task): classes} if tasks is None else {}
    if tasks is not None:
        labels = exp.source.gather_y(rows)
        for label in tasks.unique().tolist():
            masks[label] = torch.zeros_like(classes)
            masks[label][labels[tasks == label]] = True
    for label, mask in masks.items():
        found[label] = found[label] | mask if label in found else mask


def warn_one_head(model: Model, tasks: dict[int, Tensor], exp: Experience) -> None:
    """Warn if all classes compete in a model, whatever the task, although the tasks have different classes.

    tasks: the classes of each task. A model that uses the task label in some other way than `multi_head` does is recognised by its
    logits of the first row of the experience, which depend on the task label.
    """
    masks = list(tasks.values())
    if split_heads(model)[1] is not None or all(torch.equal(masks[0], other) for other in masks[1:]):
        return
    exp = lanes(exp)[0]
    rows = exp.take(exp.rows[:1], exp.valid[:1]).x
    net = model.init(random.key(0).to(rows.device))
    given = (torch.tensor([task], device=rows.device) for task in tasks)
    logits = [model.apply(net.params, net.buffers, rows, task=task)[0] for task in given]
    if all(torch.equal(logits[0], other) for other in logits):
        user_warnings.warn(
            f"stream: its {len(tasks)} tasks have classes of their own, but the model has one head, in which all classes compete: "
            "task labels change nothing, the results are those of a class-incremental stream. Give a head to each task, "
            "cl.models.multi_head(model, cl.models.class_masks(benchmark.train)), or evaluate(..., mask='experience'); if all "
            "classes are to compete, take cl.streams.split_by_class."
        )
