"""What augmentations have in common: one form, and their composition.

    augment(key, x) -> x      key () int64; x [n, C, H, W] floating, and the same shape and dtype again

Row i draws by its number: what it gets depends on the key, on i and on nothing else, so rows that follow, such as padding, change
nothing for it, and a lane of a vmapped run gets what its single run gets. Any function of this form is an augmentation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from cl_func import checks, random, signatures
from cl_func.tree import describe

Augment = Callable[[Tensor, Tensor], Tensor]  # (key, x [n, C, H, W]) -> x [n, C, H, W]


def images(key: Any, x: Any) -> Tensor:
    """Check that x are images, floating [n, C, H, W], where the key is; TypeError or ValueError otherwise."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise checks.type_error("x", "a floating tensor [n, C, H, W]", x)
    if x.ndim != 4:
        raise ValueError(f"x: expected images [n, C, H, W], got {describe(x)}; give flat ones their shape: x.reshape(-1, C, H, W).")
    if isinstance(key, Tensor) and key.device != x.device:
        raise ValueError(f"x: on {x.device}, but the key is on {key.device}; move one with .to(device).")
    return x


def compose(*augments: Augment) -> Augment:
    """One augmentation after the other, from left to right, each with a key of its own."""
    if not augments:
        raise TypeError("augments: expected at least one function (key, x) -> x, got none.")
    for one in augments:
        signatures.function("augments", one, 2, "functions (key, x) -> x, such as cl.augment.horizontal_flip()")
    return partial(_compose, augments=augments)


def _compose(key: Tensor, x: Tensor, *, augments: tuple[Augment, ...]) -> Tensor:
    for one, own in zip(augments, random.split(key, len(augments)), strict=True):
        x = one(own, x)
    return x


def parts(augment: Any) -> list[Any]:
    """The augmentations that one is composed of, in their order; of any other it is itself."""
    if isinstance(augment, partial) and augment.func is _compose:
        return [part for one in augment.keywords["augments"] for part in parts(one)]
    return [augment]
