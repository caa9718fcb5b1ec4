"""n directions in the space of the parameters: what single rows' gradients are.

Each parameter has its part of all directions, either whole, [n, *shape], or for the weight of a linear layer by the two factors of
an outer product each, `Outer`: of an MLP 784-400-400 that is 3 thousand numbers a direction instead of 478 thousand, and a step
that projects reads them from the cache instead of the memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cl_func.tree import state


@state
class Outer:
    """n matrices [out, in] of rank one: the outer products of the rows of two matrices."""

    left: Tensor  # [n, out]
    right: Tensor  # [n, in]


Directions = dict[str, Tensor | Outer]  # by the parameter's name


def _flat(part: Tensor) -> Tensor:
    """n directions' parts [n, *shape] as vectors, [n, numbers]; a parameter of shape () has one number."""
    return part.reshape(part.shape[0], -1)


def dots(rows: Directions, grads: dict[str, Tensor]) -> Tensor:
    """The inner products [n] of n directions with one, given whole."""
    found = []
    for name, part in rows.items():
        if isinstance(part, Outer):
            found.append(((part.right @ grads[name].T) * part.left).sum(1))
        else:
            found.append(_flat(part) @ grads[name].flatten())
    return torch.stack(found).sum(0)


def mix(rows: Directions, weights: Tensor) -> dict[str, Tensor]:
    """The sum of n directions, each times its weight, [n]."""
    found = {}
    for name, part in rows.items():
        if isinstance(part, Outer):
            found[name] = (part.left * weights[:, None].to(part.left.dtype)).T @ part.right
        else:
            found[name] = (weights.to(part.dtype) @ _flat(part)).reshape(part.shape[1:])
    return found


def gram(rows: Directions) -> Tensor:
    """The inner products of n directions with each other, [n, n] float64, computed so."""
    found = []
    for part in rows.values():
        factors = (part.left, part.right) if isinstance(part, Outer) else (_flat(part),)
        products = [f.double() @ f.double().T for f in factors]
        found.append(products[0] * products[1] if len(products) > 1 else products[0])
    return torch.stack(found).sum(0)


def scaled(rows: Directions, factors: Tensor) -> Directions:
    """Each direction times its factor, [n]."""

    def times(part: Tensor) -> Tensor:
        return part * factors.to(part.dtype).reshape(-1, *[1] * (part.ndim - 1))

    return {
        name: Outer(left=times(part.left), right=part.right) if isinstance(part, Outer) else times(part)
        for name, part in rows.items()
    }
