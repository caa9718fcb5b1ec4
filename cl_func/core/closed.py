"""The law "closed" during a run: a state keeps its structure, and its leaves keep their shapes, dtypes and devices.

A counter that turns into float32 raises no error in torch and still holds the right numbers, until lanes no longer stack, a program
is compiled again or a checkpoint does not fit. Comparing all leaves takes as long as part of a small compiled step, so a state is
compared with the first one only after experiences 1, 2, 4, 8, ... and at the end: a change that lasts is found, and over a long
stream the cost vanishes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from cl_func import contracts, tree
from cl_func.tree import describe

S = TypeVar("S")


class ClosedCheck:
    """Compares the states of a run with the one that it starts from, or resumes from after `seen` experiences."""

    def __init__(self, state: Any, seen: int = 0) -> None:
        self.start = self.seen = self.last_compared = seen
        self._record(state)

    def check(self, state: Any, before: S) -> S:
        """The state after one more experience, checked. TypeError if it is not a state, or not like the first one."""
        self.seen += 1
        since = self.seen - self.start
        due = since & (since - 1) == 0
        state = contracts.update_output(state, before, leaves=due)
        if due:
            self._compare(state)
        return state

    def skip(self, n: int) -> None:
        """Count n experiences after which the state is known to be like the one before them."""
        self.seen += n

    def finish(self, state: Any) -> None:
        """Check the state after the last experience."""
        if self.last_compared < self.seen:
            self._compare(state)

    def _record(self, state: Any) -> None:
        leaves, self.structure = tree.flatten(state)
        self.specs = [_spec(leaf) for leaf in leaves]

    def _compare(self, state: Any) -> None:
        leaves, structure = tree.flatten(state)
        if structure != self.structure or [_spec(leaf) for leaf in leaves] != self.specs:
            found = _change("", tree.unflatten(self.structure, [_LeafSpec(*spec) for spec in self.specs]), state)
            if found is not None:
                first = self.last_compared + 1
                when = f"experience {self.seen}" if self.seen == first else f"one of the experiences {first} to {self.seen}"
                what, mend = found
                raise TypeError(
                    f"update: a state keeps its structure, shapes, dtypes and devices, but {what} after {when}; {mend}."
                )
            self._record(state)  # fields that were None have been filled, and must keep their structure from now on
        self.last_compared = self.seen


def _spec(leaf: Any) -> tuple[Any, ...]:
    """What must not change of a leaf: dtype, shape and device of a tensor; () for anything else."""
    return (leaf.dtype, leaf.shape, leaf.device) if isinstance(leaf, Tensor) else ()


@dataclasses.dataclass(frozen=True)
class _LeafSpec:
    """The `_spec` of a leaf, standing in its position in the tree."""

    dtype: torch.dtype | None = None
    shape: tuple[int, ...] = ()
    device: torch.device | None = None

    def change(self, path: str, leaf: Any) -> tuple[str, str] | None:
        """How a leaf differs from this spec, in words, and how to fix it; None if it does not."""
        new = _LeafSpec(*_spec(leaf))
        if new == self:
            return None
        if self.dtype is None or new.dtype is None:
            was, mend = self if self.dtype is not None else "no tensor", "keep what is in the state in tensors"
            return f"{path!r} was {was}, and is {describe(leaf)}", mend
        if new.dtype != self.dtype:
            mend = f"convert it back with .to({self.dtype}), or begin with {new.dtype}"
        elif new.device != self.device:
            mend = "create tensors on the device of the state, as torch.zeros_like does"
        else:
            mend = "make it as large as it will get when the state is made, and count what is filled"
        return f"{path!r} was {self}, and is {new}", mend

    def __str__(self) -> str:
        device = "" if self.device is None or self.device.type == "cpu" else f" on {self.device}"
        return f"{str(self.dtype).removeprefix('torch.')}{list(self.shape)}{device}"


def _change(path: str, old: Any, new: Any) -> tuple[str, str] | None:
    """The first difference other than in values, in words, and how to fix it; a field that was None may be filled."""
    if old is None:
        return None
    if isinstance(old, _LeafSpec):
        return old.change(path, new)
    if type(new) is not type(old):
        return f"{path!r} was a {type(old).__name__}, and is {describe(new)}", "keep its type"
    before, after = _children(old), _children(new)
    if before.keys() != after.keys():
        odd = sorted(before.keys() ^ after.keys())[0]
        mend = "make room for it when the state is made, or add a field that is None until it is filled"
        return f"{path!r} had {', '.join(before) or 'nothing'} in it, and {'lost' if odd in before else 'got'} {odd!r}", mend
    statics = {f.name for f in dataclasses.fields(old) if f.metadata.get("static")} if dataclasses.is_dataclass(old) else ()
    for name, part in before.items():
        child = f"{path}.{name}" if path else name
        if name not in statics:
            found = _change(child, part, after[name])
        else:
            was, now = describe(part), describe(after[name])
            found = None if part == after[name] else (f"{child!r}, a static field, was {was}, and is {now}", "make it a tensor")
        if found is not None:
            return found
    return None


def _children(node: Any) -> dict[str, Any]:
    """The children of a state, dict, list or tuple by name; {} for any other node."""
    if dataclasses.is_dataclass(node):
        return {f.name: getattr(node, f.name) for f in dataclasses.fields(node)}
    if hasattr(node, "_fields"):
        return {name: getattr(node, name) for name in node._fields}
    items = node.items() if isinstance(node, Mapping) else enumerate(node if isinstance(node, Iterable) else ())
    return {str(key): value for key, value in items}
