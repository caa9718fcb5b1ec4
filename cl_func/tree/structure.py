"""Trees as their leaves and the structure that holds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import optree
import torch
from optree import PyTreeSpec
from torch import Tensor

from cl_func.tree.descriptions import describe
from cl_func.tree.states import NAMESPACE, leaf_names

PyTree = Any
T = TypeVar("T")


def map(function: Callable[..., Any], tree: PyTree, *rest: PyTree) -> PyTree:
    """Apply a function to every leaf, or to the corresponding leaves of several trees of one structure."""
    if not callable(function):
        raise TypeError(f"function: expected a function of a leaf, got {describe(function)}.")
    try:
        return optree.tree_map(function, tree, *rest, namespace=NAMESPACE)
    except ValueError as error:
        for other in rest:
            if flatten(other)[1] != flatten(tree)[1]:
                raise ValueError(f"tree, rest: the structures differ: {error}") from error
        raise


def to(tree: T, device: torch.device | str) -> T:
    """The tree with its tensors on a device; tensors that are already on it are not copied.

    Raises TypeError or ValueError for a device that this machine does not have, TypeError for a leaf that is not a tensor.
    """
    if not isinstance(device, (str, torch.device)):
        raise TypeError(f"device: expected a device such as 'cpu' or 'cuda:0', got {describe(device)}.")
    wrong = next(((path, leaf) for path, leaf in items(tree) if not isinstance(leaf, Tensor)), None)
    if wrong is not None:
        raise TypeError(f"tree: expected a tree of tensors, got {describe(wrong[1])} at {wrong[0]!r}.")
    try:
        return map(lambda leaf: leaf.to(device), tree)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"device: cannot move to {device!r}: {reason}") from error


def leaves(tree: PyTree) -> list[Any]:
    """The leaves from left to right."""
    return optree.tree_leaves(tree, namespace=NAMESPACE)


def changed_leaves(new: PyTree, old: PyTree) -> list[Any]:
    """The leaves of `new` in those of its fields that are other objects than in `old`; all of them if it is no state."""
    if type(new) is not type(old) or not dataclasses.is_dataclass(new):
        return leaves(new)
    kind: Any = type(new)
    after, before = new.__dict__, old.__dict__
    return leaves([after[name] for name in leaf_names(kind) if after[name] is not before[name]])


def flatten(tree: PyTree) -> tuple[list[Any], PyTreeSpec]:
    """The leaves and the structure; `unflatten(structure, leaves)` is the inverse."""
    return optree.tree_flatten(tree, namespace=NAMESPACE)


def unflatten(structure: PyTreeSpec, leaves: Sequence[Any]) -> PyTree:
    """Build the tree of a structure from its leaves."""
    if not isinstance(structure, PyTreeSpec):
        raise TypeError(f"structure: expected what `flatten` returns beside the leaves, got {describe(structure)}.")
    if not isinstance(leaves, Sequence) or len(leaves) != structure.num_leaves:
        raise ValueError(f"leaves: expected a sequence of {structure.num_leaves} leaves, got {describe(leaves)}.")
    return optree.tree_unflatten(structure, leaves)


def items(tree: PyTree) -> list[tuple[str, Any]]:
    """(path, leaf) of every leaf, from left to right."""
    paths, values, _ = optree.tree_flatten_with_path(tree, namespace=NAMESPACE)
    return [(".".join(str(entry) for entry in path), value) for path, value in zip(paths, values, strict=True)]


def by_path(name: str, tree: PyTree, is_leaf: Callable[[Any], bool] | None = None) -> dict[str, Any]:
    """The leaves of a tree by their paths. Raises ValueError, naming both, for two of one path: {"a": {"b": x}, "a.b": y}.

    name: of the argument that the tree is of, or is made by. is_leaf: what is a leaf although it is a tree.
    """
    paths, values, _ = optree.tree_flatten_with_path(tree, is_leaf=is_leaf, namespace=NAMESPACE)
    found: dict[str, Any] = {}
    keys: dict[str, str] = {}
    for entries, value in zip(paths, values, strict=True):
        path, own = ".".join(str(entry) for entry in entries), "".join(f"[{entry!r}]" for entry in entries)
        if path in found:
            raise ValueError(f"{name}: {keys[path]} and {own} both have the path {path!r}; rename a key that contains a dot.")
        found[path], keys[path] = value, own
    return found
