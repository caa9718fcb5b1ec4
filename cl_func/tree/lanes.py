"""States side by side: lanes are the first axis of every leaf."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from cl_func.tree.descriptions import describe
from cl_func.tree.structure import PyTree, flatten, items, leaves, map

T = TypeVar("T")


def stack(trees: Sequence[T]) -> T:
    """Stack trees of one structure along a new leading axis, one lane each: the input of `cl.vmap`."""
    if not isinstance(trees, Iterable) or isinstance(trees, (str, bytes, Mapping, Tensor)):
        raise TypeError(f"trees: expected a sequence of states, got {describe(trees)}.")
    trees = list(trees)
    if not trees:
        raise ValueError("trees: got none; give at least one.")
    for i, other in enumerate(trees):
        mismatch = _mismatch(trees[0], other)
        if mismatch:
            raise ValueError(f"trees: lane {i} does not stack on lane 0, {mismatch}; make all of them with one init.")
    return map(lambda *lanes: torch.stack(lanes), *trees)


def _mismatch(a: PyTree, b: PyTree) -> str | None:
    """The first leaf that is not a tensor, or the first difference in structure, shape, dtype or device, in words; else None."""
    (_, structure_a), (_, structure_b) = flatten(a), flatten(b)
    if structure_a != structure_b:
        return f"the structures differ: {structure_a} against {structure_b}"
    for (path, x), (_, y) in zip(items(a), items(b), strict=True):
        if not isinstance(x, Tensor) or not isinstance(y, Tensor):
            return (
                f"{path}: {describe(x)} is not a tensor" if not isinstance(x, Tensor) else f"{path}: {describe(y)} is not a tensor"
            )
        if x.shape != y.shape or x.dtype != y.dtype or x.device != y.device:
            return f"{path}: {describe(x)} on {x.device} against {describe(y)} on {y.device}"
    return None


def unstack(tree: T) -> list[T]:
    """Take a stacked tree apart into its lanes; the inverse of `stack`."""
    wrong = [leaf for leaf in leaves(tree) if not isinstance(leaf, Tensor)]
    if wrong:
        raise TypeError(f"tree: expected a stacked tree of tensors, got {describe(wrong[0])} in it.")
    sizes = {leaf.shape[0] if leaf.ndim else None for leaf in leaves(tree)}
    if len(sizes) != 1 or None in sizes:
        raise ValueError(f"tree.unstack: leaves need one common leading axis, the lanes; their leading sizes are {sizes}.")
    return [map(lambda leaf, i=i: leaf[i], tree) for i in range(sizes.pop() or 0)]


def where(condition: Tensor, new: T, old: T) -> T:
    """Choose between two trees of one structure; a condition of shape [lanes] chooses lane by lane.

    A leaf that is the same object in both trees is returned as it is, so that a large memory that did not change is not copied.
    """
    if not isinstance(condition, Tensor) or condition.dtype != torch.bool:
        raise TypeError(f"condition: expected a bool tensor of shape () or [lanes], got {describe(condition)}.")

    def choose(a: Tensor, b: Tensor) -> Tensor:
        if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a.shape != b.shape:
            raise ValueError(f"new, old: expected tensors of one shape, got {describe(a)} and {describe(b)}.")
        if condition.shape != a.shape[: condition.ndim] or condition.is_meta != a.is_meta:
            raise ValueError(f"condition: expected one bool, or one for each lane of {describe(a)}, got {describe(condition)}.")
        return a if a is b else torch.where(condition.reshape(condition.shape + (1,) * (a.ndim - condition.ndim)), a, b)

    return map(choose, new, old)
