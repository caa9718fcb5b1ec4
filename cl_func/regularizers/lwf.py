"""Learning without Forgetting (Li & Hoiem, "Learning without forgetting", TPAMI 2018, eq. 3 and Algorithm 1).

Before an experience the model is copied as the teacher; while training on it, the student keeps the teacher's softened
probabilities on the new inputs, over the classes that were seen before:

    L = strength * T^2 * mean_i KL( softmax_old(teacher(x_i) / T) || softmax_old(student(x_i) / T) )

With a multi-head model each head h whose classes were seen before has a softmax of its own, and their losses add up (Algorithm 1):

    L = strength * T^2 * mean_i sum_h KL( softmax_h(teacher(x_i) / T) || softmax_h(student(x_i) / T) )

For other targets than class labels each output is held by itself: for several labels a row, the probability of each label seen
before; for regression, once an experience has been seen, the value of every output (`losses.distil`):

    L = strength * T^2 * mean_i 1/C sum_old KL( sigmoid(teacher(x_i) / T) || sigmoid(student(x_i) / T) )
    L = strength * mean_i 1/K sum_k (teacher(x_i)_k - student(x_i)_k)^2

Their lambda_o is strength * T^2. The warm-up of the new head, with which their Algorithm 1 begins, is left out.

The teacher always runs in eval mode, so its answers are deterministic.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.core import Loss, Update
from cl_func.experiences import Experience, require_target
from cl_func.losses import weighted_mean
from cl_func.losses.distil import distances
from cl_func.models import Model, ModelState, split_heads
from cl_func.models.keyed import with_keys
from cl_func.optim.hyperparameters import nonnegative
from cl_func.tree import bounded, state

_EXPECTED = "an LwF made by lwf.init"


@state
class LwF:
    """The slot of LwF; `strength` and `temperature` are hyperparameters."""

    teacher: ModelState  # the model as it was before the current experience
    old: Tensor  # [C] bool, classes seen before the current experience: those the teacher knows; of regression all outputs, or none
    seen: Tensor  # [C] bool, these and the classes of the current experience; of regression all outputs
    strength: Tensor = bounded(partial(nonnegative, example=1.0))  # () float32, at least 0
    temperature: Tensor = bounded(partial(nonnegative, example=2.0, positive=True))  # () float32, above 0


def init(model: ModelState, n_classes: int, strength: float = 1.0, temperature: float = 2.0) -> LwF:
    """A slot whose teacher knows no class yet, so the loss is 0.

    Raises ValueError for a negative strength or a temperature that is not positive.
    """
    checks.instance("model", model, ModelState, "the ModelState of model.init(key)")
    checks.positive_int("n_classes", n_classes)
    hyperparameters(strength, temperature)
    device = tree.leaves(model)[0].device
    no_class = torch.zeros(n_classes, dtype=torch.bool, device=device)
    return LwF(
        teacher=model,
        old=no_class,
        seen=no_class.clone(),
        strength=torch.tensor(float(strength), device=device),
        temperature=torch.tensor(float(temperature), device=device),
    )


def hyperparameters(strength: float, temperature: float) -> tuple[float, float]:
    """Check that the strength is at least 0, the temperature above 0, and both finite; TypeError or ValueError otherwise."""
    return nonnegative("strength", strength, 1.0), nonnegative("temperature", temperature, 2.0, positive=True)


def snapshot(slot: str = "lwf") -> Update:
    """The Update that makes the present model the teacher of the classes seen so far; compose it before the training.

    In an online stream experiences are only a few rows long; take the snapshot where new classes arrive:
    `cl.when(lwf.new_classes(), lwf.snapshot())`.
    """
    return partial(_snapshot, slot=checks.path("slot", slot, "lwf"))


def _snapshot(agent: Any, exp: Experience, *, slot: str) -> Any:
    lwf = _slot(agent, slot, exp)
    # Each experience of regression is a new task, for all outputs.
    new = exp.classes if exp.source.target != "regression" else torch.ones_like(lwf.seen)
    return tree.set(agent, {slot: tree.replace(lwf, teacher=agent.model, old=lwf.seen, seen=lwf.seen | new)})


def new_classes(slot: str = "lwf") -> Callable[[Any, Any], Tensor]:
    """The condition, () bool, that an experience has a class which no earlier snapshot has seen.

    Regression has no classes, so there it raises ValueError: every experience is a new task, of which a snapshot can be taken.
    """
    return partial(_has_new_classes, slot=checks.path("slot", slot, "lwf"))


def _has_new_classes(agent: Any, exp: Experience, *, slot: str) -> Tensor:
    lwf = _slot(agent, slot, exp)
    require_target(exp, "new_classes", "class", "multilabel")
    return (~lwf.seen & exp.classes).any()


def _slot(agent: Any, slot: str, exp: Experience) -> LwF:
    lwf: LwF = checks.slot(agent, slot, LwF, _EXPECTED)
    checks.instance("exp", exp, Experience, "an Experience")
    if lwf.seen.shape != exp.classes.shape and exp.source.target != "regression":
        raise ValueError(
            f"n_classes: the slot {slot!r} is for {len(lwf.seen)} classes, the data has {len(exp.classes)}; "
            f"build the model, and with it the slot, with n_classes={len(exp.classes)}."
        )
    return lwf


def penalty(model: Model, student: Tensor, lwf: LwF, exp: Experience, heads: Tensor | None = None) -> Tensor:
    """The distillation loss, (), of the student's logits [n, C] on the rows of the experience; for a loss that has them already.

    What is held to the teacher follows from the targets of the experience, as said above.

    heads: [T, C] bool, the classes of each head; None: one softmax over all classes. A multi-head model masks the logits of the old
    heads on the new rows; take `model, heads = cl.models.split_heads(model)` and the logits of that model. Raises ValueError for a
    multi-head model.
    """
    checks.instance("lwf", lwf, LwF, _EXPECTED)
    checks.instance("exp", exp, Experience, "an Experience")
    checks.model("model", model)
    if split_heads(model)[1] is not None:
        raise ValueError(
            "model: a multi-head model masks the heads that are to be kept; "
            "give the two parts that model, heads = cl.models.split_heads(model) returns, and the logits of the first."
        )
    teacher, _ = model.apply(lwf.teacher.params, lwf.teacher.buffers, exp.x, train=False, valid=exp.valid, task=exp.tasks)
    target = exp.source.target
    if heads is None:
        return lwf.strength * weighted_mean(distances(student, teacher, lwf.old, lwf.temperature, target), exp.valid)
    require_target(exp, "a multi-head model", "class")
    checks.instance("student", student, Tensor, "floating logits [n, C]")
    checks.tensor("heads", heads, heads.shape[:1] + lwf.old.shape if isinstance(heads, Tensor) else None, torch.bool)
    if heads.is_meta or student.is_meta:
        raise ValueError("student, heads: on the device meta, which holds no values.")

    def of_head(head: Tensor) -> Tensor:
        return weighted_mean(distances(student, teacher, head & lwf.old, lwf.temperature, target), exp.valid)

    return lwf.strength * torch.func.vmap(of_head)(heads.to(student.device)).sum()


def distillation(model: Model, slot: str = "lwf") -> Loss:
    """The Loss that holds the model to its teacher on the rows of the minibatch, head by head; 0 during the first experience."""
    checks.path("slot", slot, "lwf")
    plain, heads = split_heads(checks.model("model", model))
    return partial(_distillation, model=plain, heads=heads, slot=slot)


def _distillation(
    params: dict[str, Tensor], agent: Any, exp: Experience, *, model: Model, heads: Tensor | None, slot: str
) -> tuple[Tensor, Any]:
    student, buffers = model.apply(params, agent.model.buffers, exp.x, train=True, valid=exp.valid, task=exp.tasks)
    value = penalty(model, student, _slot(agent, slot, exp), exp, heads)
    # The task loss moves the batch statistics already; only the keys of layers that draw move here, as each is used once.
    return value, tree.replace(agent, model=with_keys(agent.model, buffers))
