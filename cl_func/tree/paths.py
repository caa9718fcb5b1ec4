"""A leaf or a subtree by its path: field names and keys joined by dots."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from cl_func.tree.descriptions import describe
from cl_func.tree.states import field_names, replace
from cl_func.tree.structure import PyTree, items

T = TypeVar("T")


def _step(node: Any, rest: str, whole: str) -> tuple[Any, str]:
    """The child that a path enters first (a key or a field name), and what remains of the path."""
    if isinstance(node, dict):
        # Parameter names contain dots themselves ("0.weight"), so the longest key that matches is the one meant.
        fitting = [k for k in node if rest == str(k) or rest.startswith(f"{k}.")]
        if fitting:
            key = max(fitting, key=lambda k: len(str(k)))
            return key, rest[len(str(key)) + 1 :]
        names = [str(k) for k in node]
    elif hasattr(node, "_fields") or (dataclasses.is_dataclass(node) and not isinstance(node, type)):
        kind: Any = type(node)
        names = list(getattr(node, "_fields", None) or field_names(kind))
        head, _, tail = rest.partition(".")
        if hasattr(node, "_fields") and head.isdecimal() and int(head) < len(names):
            head = names[int(head)]  # `items` counts the fields of a named tuple
        if head in names:
            return head, tail
    elif isinstance(node, (tuple, list)):
        names = [str(i) for i in range(len(node))]
        head, _, tail = rest.partition(".")
        if head in names:
            return int(head), tail
    else:
        names = []
    known = ", ".join(names) if names else f"nothing: it ends at {describe(node)}"
    longer = [path for path, _ in items(node) if path.endswith(f".{rest}")] if names else []
    meant = f" Did you mean {whole.removesuffix(rest)}{longer[0]}?" if len(longer) == 1 else ""
    raise ValueError(f"path {whole!r}: no {rest!r} in {type(node).__name__}; there is {known}.{meant}")


def get(tree: PyTree, path: str) -> Any:
    """The leaf or subtree at a path. Raises ValueError, listing the names that exist, if the path leads nowhere.

    >>> get({"a": {"0.weight": 1}}, "a.0.weight")
    1
    """
    if not isinstance(path, str):
        raise TypeError(f"path: expected a string such as 'opt.lr', got {path!r}.")
    node, rest = tree, path
    while rest:
        entry, rest = _step(node, rest, path)
        node = getattr(node, entry) if not isinstance(node, (dict, tuple, list)) or hasattr(node, "_fields") else node[entry]
    return node


def set(tree: T, changes: Mapping[str, Any]) -> T:
    """A copy of the tree with the values at some paths replaced.

    A number takes the dtype and device of the 0-d leaf it replaces. A tensor must have the dtype and the shape of the leaf:
    nothing is cast or broadcast. Raises ValueError (unknown path, wrong shape) or TypeError (wrong dtype), naming the path.

    >>> set({"lr": torch.tensor(0.1)}, {"lr": 0.5})["lr"]
    tensor(0.5000)
    """
    if not isinstance(changes, Mapping):
        raise TypeError(f"changes: expected a mapping from paths to values such as {{'opt.lr': 0.1}}, got {describe(changes)}.")
    for path, value in changes.items():
        if not isinstance(path, str) or not path:
            raise ValueError(f"tree.set: a path is a non-empty string such as 'opt.lr', got {path!r}.")
        tree = _set(tree, path, value, path)
    return tree


def _set(node: Any, rest: str, value: Any, whole: str) -> Any:
    if not rest:
        return _fit(node, value, whole)
    entry, tail = _step(node, rest, whole)
    if isinstance(node, dict):
        made = copy.copy(node)  # a defaultdict keeps its factory
        made[entry] = _set(node[entry], tail, value, whole)
        return made
    if hasattr(node, "_fields"):
        return node._replace(**{entry: _set(getattr(node, entry), tail, value, whole)})
    if isinstance(node, (tuple, list)):
        return type(node)(_set(v, tail, value, whole) if i == entry else v for i, v in enumerate(node))
    new = _set(getattr(node, entry), tail, value, whole)
    check = next(f.metadata.get("check") for f in dataclasses.fields(node) if f.name == entry)
    if check is not None and not isinstance(value, Tensor):  # a tensor may be traced, and is set by code
        check(f"tree.set({whole!r})", value)
    return replace(node, **{entry: new})


def _fit(old: Any, value: Any, path: str) -> Any:
    if old is None and isinstance(value, (bool, int, float)):
        name = path.rpartition(".")[2]
        example = ", as cl.optim.sgd(lr, momentum=0.9) does" if name == "momentum" else ""
        raise ValueError(
            f"tree.set({path!r}): there is no leaf, the field is None; make it with a value of {name}{example}, then set that."
        )
    if isinstance(old, (dict, tuple, list)) or dataclasses.is_dataclass(old):
        kinds: Any = dict if isinstance(old, dict) else (tuple, list) if type(old) in (tuple, list) else type(old)
        if not isinstance(value, kinds):
            raise TypeError(f"tree.set({path!r}): there is {describe(old)}; give one like it, got {describe(value)}.")
        return value
    if not isinstance(old, Tensor):
        return value
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, Tensor):
        if isinstance(value, bool) != (old.dtype == torch.bool) or not isinstance(value, (bool, int, float)):
            raise TypeError(f"tree.set({path!r}): the leaf is {describe(old)}; give a tensor like it, got {value!r}.")
        if isinstance(value, float) and not old.dtype.is_floating_point:
            raise TypeError(f"tree.set({path!r}): the leaf is {describe(old)}; give an integer, got {value!r}.")
        if not old.dtype.is_floating_point and not -(1 << 63) <= value < 1 << 63:
            raise ValueError(f"tree.set({path!r}): expected an integer of 64 bits, got {value}.")
        given, value = value, torch.tensor(value, dtype=old.dtype, device=old.device)
        if not old.is_meta and math.isfinite(given) and not bool(value.isfinite()):
            raise ValueError(f"tree.set({path!r}): {given!r} is too large for the leaf, {describe(old)}.")
    if value.dtype != old.dtype:
        raise TypeError(
            f"tree.set({path!r}): the leaf is {describe(old)}, got {describe(value)}; convert it with .to({old.dtype})."
        )
    if value.shape != old.shape:
        raise ValueError(f"tree.set({path!r}): the leaf is {describe(old)}, got {describe(value)}; give it the leaf's shape.")
    if value.is_meta and not old.is_meta:
        raise ValueError(f"tree.set({path!r}): the tensor given is on the device meta, which holds no values.")
    return value.to(old.device)
