"""The quadratic penalty that EWC, SI, MAS and RWalk share: parameters are held at an anchor, each as firmly as it is important.

    L(p) = strength / 2 * sum_k importance_k * (p_k - anchor_k)^2

With importances from the Fisher information it is the Laplace approximation of the posterior (Kirkpatrick et al. 2017, eq. 3). The
methods differ in how they find the importances. Papers that write no 1/2 have half of this strength.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.checks import positive_int
from cl_func.core import Loss
from cl_func.experiences import Experience
from cl_func.optim.hyperparameters import nonnegative
from cl_func.tree import PyTree, bounded, state


@state
class Quadratic:
    """What a slot needs for the penalty; methods add the fields from which they compute the importances."""

    anchor: PyTree  # like the params
    importance: PyTree  # like the params, at least 0
    strength: Tensor = bounded(partial(nonnegative, example=1.0))  # () float32, at least 0


def fields(params: PyTree, strength: float) -> dict[str, Any]:
    """The fields of a Quadratic that holds nothing yet: all importances are 0. For the `init` of a method's own slot."""
    checks.tensors("params", params)
    return {
        "anchor": params,
        "importance": tree.map(torch.zeros_like, params),
        "strength": scalar(params, nonnegative("strength", strength, 1.0)),
    }


def check(**values: Any) -> None:
    """Check a method's numbers by their names when it is made, not when its first run starts; TypeError or ValueError otherwise."""
    for name, value in values.items():
        if name.startswith("importance_"):
            if value is not None:
                positive_int(name, value)
        elif name in ("decay", "alpha"):
            checks.number(name, value, 0, 1, ends="[]")
        else:
            nonnegative(name, value, 1.0, positive=name == "damping")


def several_steps(batch_size: int | None, epochs: int, iterations: int | None) -> None:
    """Check that an experience is more than one step, for methods whose anchor, or teacher, is what the last one left.

    The first step is taken where its penalty has no gradient: with no other the method would be another one, without a word.
    """
    if batch_size is None and (epochs == 1 if iterations is None else iterations == 1):
        raise ValueError(
            "batch_size, epochs, iterations: each experience would be one step, taken where the parameters are still those that "
            "they are held to: the penalty would do nothing. Give a batch_size, or more epochs or iterations; for an online stream "
            "compose the parts, to consolidate where new classes come: cl.when(cl.regularizers.lwf.new_classes(), ...)."
        )


def scalar(params: PyTree, value: float) -> Tensor:
    """A hyperparameter as a leaf, () float32, on the device of the parameters."""
    return torch.tensor(value, dtype=torch.float32, device=tree.leaves(params)[0].device)


def fraction(name: str, params: PyTree, value: float) -> Tensor:
    """A hyperparameter in [0, 1] as such a leaf; TypeError or ValueError otherwise."""
    return scalar(params, checks.number(name, value, 0, 1, ends="[]"))


def penalty(params: PyTree, held: Quadratic) -> Tensor:
    """The penalty, (), of parameters under a slot; for a loss of your own."""
    terms = tree.map(lambda p, anchor, weight: (weight * (p - anchor).square()).sum(), params, held.anchor, held.importance)
    return held.strength / 2 * torch.stack(tree.leaves(terms)).sum()


def loss(slot: str) -> Loss:
    """The Loss of the penalty in `state.<slot>`: add it to another with `cl.losses.total`. It looks at no row."""
    checks.path("slot", slot, "ewc")

    def penalised(params: Any, agent: Any, exp: Experience) -> tuple[Tensor, Any]:
        return penalty(params, checks.slot(agent, slot, Quadratic, "a slot made by the init of ewc, si, mas or rwalk")), agent

    return penalised
