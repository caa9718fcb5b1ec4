"""The law 'closed' while a run is under way: a state keeps its structure, and its leaves their shapes, dtypes and devices.

A count that becomes float32 is no error of torch's, and no number looks wrong until it is: lanes that no longer stack, a program
compiled anew, a checkpoint that does not fit. To look at all leaves costs as much as a part of a small compiled step, so a run is
looked at after its experiences 1, 2, 4, 8, ... and at its end, against what it began with: what stays changed is found, and the
cost of the looks vanishes in a long stream.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from cl_func import contracts, tree
from cl_func.tree import describe


class Closed:
    """What the states of a run have in common, from the state that it begins with, or goes on with after `seen` experiences."""

    def __init__(self, state: Any, seen: int = 0) -> None:
        self.begin = self.seen = self.looked = seen
        self._remember(state)

    def passed(self, state: Any, before: Any) -> Any:
        """The state after one more experience, as it is. TypeError for what is no state, or one that is not like the first."""
        self.seen += 1
        since = self.seen - self.begin
        looks = since & (since - 1) == 0
        contracts.update_output(state, before, leaves=looks)
        if looks:
            self._look(state)
        return state

    def finish(self, state: Any) -> None:
        """The last look, at the state after the last experience."""
        if self.looked < self.seen:
            self._look(state)

    def _remember(self, state: Any) -> None:
        leaves, self.structure = tree.flatten(state)
        self.like = [_kind(leaf) for leaf in leaves]

    def _look(self, state: Any) -> None:
        leaves, structure = tree.flatten(state)
        if structure != self.structure or [_kind(leaf) for leaf in leaves] != self.like:
            found = _change("", tree.unflatten(self.structure, [_Kept(*kind) for kind in self.like]), state)
            if found is not None:
                one = self.seen == self.looked + 1
                when = f"experience {self.seen}" if one else f"one of the experiences {self.looked + 1} to {self.seen}"
                what, mend = found
                raise TypeError(
                    f"update: a state keeps its structure, shapes, dtypes and devices, but {what} after {when}; {mend}."
                )
            self._remember(state)  # fields that were None are filled: from now on they stay as they are
        self.looked = self.seen


def _kind(leaf: Any) -> tuple[Any, ...]:
    """What a leaf may not change: of a tensor its dtype, shape and device; of anything else that it is none."""
    return (leaf.dtype, leaf.shape, leaf.device) if isinstance(leaf, Tensor) else ()


@dataclasses.dataclass(frozen=True)
class _Kept:
    """What `_kind` tells of a leaf, in the place of the leaf."""

    dtype: torch.dtype | None = None
    shape: tuple[int, ...] = ()
    device: torch.device | None = None

    def change(self, path: str, leaf: Any) -> tuple[str, str] | None:
        """How a leaf differs, in words, and how to mend it."""
        new = _Kept(*_kind(leaf))
        if new == self:
            return None
        if self.dtype is None or new.dtype is None:
            was, mend = self if self.dtype is not None else "no tensor", "keep what is in the state in tensors"
            return f"{path!r} was {was}, and is {describe(leaf)}", mend
        if new.dtype != self.dtype:
            mend = f"convert it back with .to({self.dtype}), or begin with {new.dtype}"
        elif new.device != self.device:
            mend = "make tensors on the device of the state's own, as torch.zeros_like does"
        else:
            mend = "make it as large as it will get when the state is made, and count what is filled"
        return f"{path!r} was {self}, and is {new}", mend

    def __str__(self) -> str:
        place = "" if self.device is None or self.device.type == "cpu" else f" on {self.device}"
        return f"{str(self.dtype).removeprefix('torch.')}{list(self.shape)}{place}"


def _change(path: str, old: Any, new: Any) -> tuple[str, str] | None:
    """The first difference that is none of values, in words, and how to mend it; what was None may be filled."""
    if old is None:
        return None
    if isinstance(old, _Kept):
        return old.change(path, new)
    if type(new) is not type(old):
        return f"{path!r} was a {type(old).__name__}, and is {describe(new)}", "give it back as it came"
    before, after = _children(old), _children(new)
    if before.keys() != after.keys():
        odd = sorted(before.keys() ^ after.keys())[0]
        mend = "make room for it when the state is made, or a field that is None until it is filled"
        return f"{path!r} had {', '.join(before) or 'nothing'} in it, and {'lost' if odd in before else 'got'} {odd!r}", mend
    statics = {f.name for f in dataclasses.fields(old) if f.metadata.get("static")} if dataclasses.is_dataclass(old) else ()
    for name, part in before.items():
        place = f"{path}.{name}" if path else name
        if name not in statics:
            found = _change(place, part, after[name])
        else:
            was, now = describe(part), describe(after[name])
            found = None if part == after[name] else (f"{place!r}, a static field, was {was}, and is {now}", "make it a tensor")
        if found is not None:
            return found
    return None


def _children(node: Any) -> dict[str, Any]:
    """The fields of a state, the items of a dict, a list or a tuple, by name; of what else is a node there is nothing to tell."""
    if dataclasses.is_dataclass(node):
        return {f.name: getattr(node, f.name) for f in dataclasses.fields(node)}
    if hasattr(node, "_fields"):
        return {name: getattr(node, name) for name in node._fields}
    items = node.items() if isinstance(node, Mapping) else enumerate(node if isinstance(node, Iterable) else ())
    return {str(key): value for key, value in items}
