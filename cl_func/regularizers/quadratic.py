"""The quadratic penalty that EWC, SI, MAS and RWalk share: each parameter is held at an anchor as firmly as it is important.

    L(p) = strength / 2 * sum_k importance_k * (p_k - anchor_k)^2

With importances from the Fisher information it is the Laplace approximation of the posterior (Kirkpatrick et al. 2017, eq. 3). The
methods differ in how they find the importances. In papers that write no 1/2, the strength is half of this one.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.checks import positive_int
from cl_func.core import Loss, Update, minibatches
from cl_func.experiences import Experience
from cl_func.optim.hyperparameters import nonnegative
from cl_func.tree import PyTree, bounded, describe, state

_EXPECTED = "a slot made by the init of ewc, si, mas or rwalk"


@state
class Quadratic:
    """What a slot holds for the penalty; methods add the fields from which they compute the importances."""

    anchor: PyTree  # like the params
    importance: PyTree  # like the params, at least 0
    strength: Tensor = bounded(partial(nonnegative, example=1.0))  # () float32, at least 0


def fields(params: PyTree, strength: float) -> dict[str, Any]:
    """The fields of a Quadratic whose importances are all 0 and whose anchor is `params`: for the `init` of a method's own slot.

    Raises TypeError or ValueError for params that are no tensors, and for a strength that is not finite and at least 0.
    """
    checks.tensors("params", params)
    return {
        "anchor": params,
        "importance": tree.map(torch.zeros_like, params),
        "strength": _scalar(params, nonnegative("strength", strength, 1.0)),
    }


def _scalar(params: PyTree, value: float) -> Tensor:
    """A hyperparameter as a leaf, () float32, on the device of the parameters."""
    return torch.tensor(value, dtype=torch.float32, device=tree.leaves(params)[0].device)


def _fraction(name: str, params: PyTree, value: float) -> Tensor:
    """A hyperparameter in [0, 1] as such a leaf; TypeError or ValueError otherwise."""
    return _scalar(params, checks.number(name, value, 0, 1, ends="[]"))


def penalty(params: PyTree, held: Quadratic) -> Tensor:
    """The penalty, (), on parameters under a slot; for a loss of your own.

    Raises TypeError or ValueError for another slot, and for params unlike its anchor.
    """
    checks.instance("held", held, Quadratic, _EXPECTED)
    (given, structure), (anchor, expected) = tree.flatten(params), tree.flatten(held.anchor)
    if structure != expected:
        raise ValueError(f"params: expected a tree like the anchor, {describe(held.anchor)}, got {describe(params)}.")
    for leaf, like in zip(given, anchor, strict=True):
        checks.tensor("params", leaf, like.shape, like=like)
    return _penalty(params, held)


def _penalty(params: PyTree, held: Quadratic) -> Tensor:
    terms = tree.map(lambda p, anchor, weight: (weight * (p - anchor).square()).sum(), params, held.anchor, held.importance)
    return held.strength / 2 * torch.stack(tree.leaves(terms)).sum()


def loss(slot: str) -> Loss:
    """The Loss of the penalty in `state.<slot>`: add it to another with `cl.losses.total`. It does not depend on the experience."""
    checks.path("slot", slot, "ewc")
    return partial(_loss, slot=slot)


def _loss(params: PyTree, agent: Any, exp: Experience, *, slot: str) -> tuple[Tensor, Any]:
    return _penalty(params, checks.slot(agent, slot, Quadratic, _EXPECTED)), agent


def _check_numbers(**values: Any) -> None:
    """Check a method's numbers by name when it is made, not when its first run starts; TypeError or ValueError otherwise."""
    for name, value in values.items():
        if name.startswith("importance_"):
            if value is not None:
                positive_int(name, value)
        elif name in ("decay", "alpha"):
            checks.number(name, value, 0, 1, ends="[]")
        else:
            nonnegative(name, value, 1.0, positive=name == "damping")


def _several_steps(step: Update, batch_size: int | None, epochs: int, iterations: int | None) -> Update:
    """`cl.minibatches` for methods whose anchor, or teacher, is the model that the last experience left.

    There the penalty has no gradient: if the first step were the only one, the method would silently be plain fine-tuning. So that
    is refused, and where it depends on the experience a warning is given.
    """
    loop = minibatches(step, batch_size=batch_size, epochs=epochs, iterations=iterations)
    if iterations == 1 or (batch_size is None and epochs == 1 and iterations is None):
        raise ValueError(
            "batch_size, epochs, iterations: each experience would be one step, taken where the parameters are still those that "
            "they are held to: the penalty would do nothing. Give a batch_size, or more epochs or iterations; for an online stream "
            "compose the parts, to consolidate where new classes come: cl.when(cl.regularizers.lwf.new_classes(), ...), with "
            "importances that are measured on rows of the classes before, such as those of a memory."
        )
    return tree.replace(loop, min_steps=2)
