"""n directions in the space of the parameters, such as the gradients of single rows.

For each parameter the directions are stored whole, [n, *shape], or, for the weight of a linear layer, as outer products by their
two factors, `Outer`: for an MLP 784-400-400 that is 3 thousand numbers a direction instead of 478 thousand, and a step that
projects reads them from the cache instead of the main memory.
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
    """One parameter's part [n, *shape] of n directions as vectors, [n, numbers]; a parameter of shape () has one number."""
    return part.reshape(part.shape[0], -1)


def dots(rows: Directions, grads: dict[str, Tensor]) -> Tensor:
    """The inner products [n] of n directions with one more, which is given whole."""
    products = []
    for name, part in rows.items():
        if isinstance(part, Outer):
            products.append(((part.right @ grads[name].T) * part.left).sum(1))
        else:
            products.append(_flat(part) @ grads[name].flatten())
    return torch.stack(products).sum(0)


def mix(rows: Directions, weights: Tensor) -> dict[str, Tensor]:
    """The sum of n directions, each times its weight [n]: a tree of whole parameters."""
    total = {}
    for name, part in rows.items():
        if isinstance(part, Outer):
            total[name] = (part.left * weights[:, None].to(part.left.dtype)).T @ part.right
        else:
            total[name] = (weights.to(part.dtype) @ _flat(part)).reshape(part.shape[1:])
    return total


def gram(rows: Directions) -> Tensor:
    """The inner products of n directions with each other, [n, n], computed in float64."""
    grams = []
    for part in rows.values():
        factors = (part.left, part.right) if isinstance(part, Outer) else (_flat(part),)
        products = [f.double() @ f.double().T for f in factors]
        grams.append(products[0] * products[1] if len(products) > 1 else products[0])
    return torch.stack(grams).sum(0)


def scaled(rows: Directions, factors: Tensor) -> Directions:
    """Each of n directions times its factor [n]."""

    def times(part: Tensor) -> Tensor:
        return part * factors.to(part.dtype).reshape(-1, *[1] * (part.ndim - 1))

    return {
        name: Outer(left=times(part.left), right=part.right) if isinstance(part, Outer) else times(part)
        for name, part in rows.items()
    }
