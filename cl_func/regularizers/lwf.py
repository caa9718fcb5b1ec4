"""Learning without Forgetting (Li & Hoiem, "Learning without forgetting", TPAMI 2018, eq. 3 and Algorithm 1).

Before an experience the model is copied as the teacher; while training on it, the student keeps the teacher's softened
probabilities on the new inputs, over the classes that were seen before:

    L = strength * T^2 * mean_i KL( softmax_old(teacher(x_i) / T) || softmax_old(student(x_i) / T) )

With a multi-head model each head h whose classes were seen before has a softmax of its own, and their losses add up (Algorithm 1):

    L = strength * T^2 * mean_i sum_h KL( softmax_h(teacher(x_i) / T) || softmax_h(student(x_i) / T) )

Their lambda_o is strength * T^2. The warm-up of the new head that their Algorithm 1 begins with is left out.

The teacher always runs in eval mode, so it gives the same answer whenever it is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.core import Loss, Update
from cl_func.experiences import Experience
from cl_func.losses.distil import distillation as divergence
from cl_func.models import Model, ModelState, split_heads
from cl_func.models.keyed import with_keys
from cl_func.optim.hyperparameters import nonnegative
from cl_func.tree import PyTree, bounded, state


@state
class LwF:
    """The slot of LwF; `strength` and `temperature` are hyperparameters."""

    teacher: PyTree  # ModelState as it was before the current experience
    old: Tensor  # [C] bool, classes seen before the current experience: those the teacher knows
    seen: Tensor  # [C] bool, with those of the current experience
    strength: Tensor = bounded(partial(nonnegative, example=1.0))  # () float32, at least 0
    temperature: Tensor = bounded(partial(nonnegative, example=2.0, positive=True))  # () float32, above 0


def init(model: ModelState, n_classes: int, strength: float = 1.0, temperature: float = 2.0) -> LwF:
    """A slot without a teacher to listen to yet: no class has been seen, so the loss is 0.

    Raises ValueError for a negative strength or a temperature that is not positive.
    """
    checks.instance("model", model, ModelState, "the ModelState of model.init(key)")
    checks.positive_int("n_classes", n_classes)
    hyperparameters(strength, temperature)
    device = tree.leaves(model)[0].device
    none = torch.zeros(n_classes, dtype=torch.bool, device=device)
    return LwF(
        teacher=model,
        old=none,
        seen=none.clone(),
        strength=torch.tensor(float(strength), device=device),
        temperature=torch.tensor(float(temperature), device=device),
    )


def hyperparameters(strength: float, temperature: float) -> tuple[float, float]:
    """Check that the strength is at least 0, the temperature above it, and both finite; TypeError or ValueError otherwise."""
    return nonnegative("strength", strength, 1.0), nonnegative("temperature", temperature, 2.0, positive=True)


def snapshot(slot: str = "lwf") -> Update:
    """The Update that makes the present model the teacher of the classes seen so far; compose it before the training.

    In an online stream experiences are a few rows long; take the snapshot where new classes arrive:
    `cl.when(lwf.new_classes(), lwf.snapshot())`.
    """
    checks.path("slot", slot, "lwf")

    def update(agent: Any, exp: Experience) -> Any:
        lwf = _slot(agent, slot, exp)
        return tree.set(agent, {slot: lwf.replace(teacher=agent.model, old=lwf.seen, seen=lwf.seen | exp.classes)})

    return update


def new_classes(slot: str = "lwf") -> Callable[[Any, Any], Tensor]:
    """The condition, () bool, that an experience has a class which no earlier snapshot saw."""
    checks.path("slot", slot, "lwf")
    return lambda agent, exp: (~_slot(agent, slot, exp).seen & exp.classes).any()


def _slot(agent: Any, slot: str, exp: Experience) -> Any:
    lwf = checks.slot(agent, slot, LwF, "an LwF made by lwf.init")
    checks.instance("exp", exp, Experience, "an Experience")
    if lwf.seen.shape != exp.classes.shape:
        raise ValueError(
            f"n_classes: the slot {slot!r} is for {len(lwf.seen)} classes, the data has {len(exp.classes)}; "
            f"build the model, and with it the slot, with n_classes={len(exp.classes)}."
        )
    return lwf


def penalty(model: Model, student: Tensor, lwf: LwF, exp: Experience, heads: Tensor | None = None) -> Tensor:
    """The distillation loss, (), of the student's logits [n, C] on the rows of the experience; for a loss that has them already.

    heads: [T, C] bool, the classes of each head; None: one softmax over all classes. A multi-head model gives no logits of the old
    heads on the new rows; take `model, heads = cl.models.split_heads(model)` and the logits of that model. Raises ValueError for a
    multi-head model.
    """
    checks.instance("lwf", lwf, LwF, "an LwF made by lwf.init")
    checks.instance("exp", exp, Experience, "an Experience")
    checks.model("model", model)
    if split_heads(model)[1] is not None:
        raise ValueError(
            "model: a multi-head model masks the heads that are to be kept; "
            "give the two parts that model, heads = cl.models.split_heads(model) returns, and the logits of the first."
        )
    teacher, _ = model.apply(lwf.teacher.params, lwf.teacher.buffers, exp.x, train=False, valid=exp.valid, task=exp.tasks)
    if heads is not None:
        checks.instance("student", student, Tensor, "floating logits [n, C]")
        checks.tensor("heads", heads, heads.shape[:1] + lwf.old.shape if isinstance(heads, Tensor) else None, torch.bool)
        if heads.is_meta or student.is_meta:
            raise ValueError("student, heads: on the device meta, which holds no values.")
    if heads is None:
        return lwf.strength * divergence(student, teacher, lwf.old, exp.valid, lwf.temperature)

    def kept(head: Tensor) -> Tensor:
        return divergence(student, teacher, head & lwf.old, exp.valid, lwf.temperature)

    return lwf.strength * torch.func.vmap(kept)(heads.to(student.device)).sum()


def distillation(model: Model, slot: str = "lwf") -> Loss:
    """The Loss that holds the model to its teacher on the rows of the minibatch, head by head; 0 during the first experience."""
    checks.path("slot", slot, "lwf")
    plain, heads = split_heads(checks.model("model", model))

    def loss(params: Any, agent: Any, exp: Experience) -> tuple[Tensor, Any]:
        student, moved = plain.apply(params, agent.model.buffers, exp.x, train=True, valid=exp.valid, task=exp.tasks)
        held = _slot(agent, slot, exp)
        # The batch statistics that the task loss moves are not moved a second time here; the keys of layers that draw are.
        return penalty(plain, student, held, exp, heads), tree.replace(agent, model=with_keys(agent.model, moved))

    return loss
