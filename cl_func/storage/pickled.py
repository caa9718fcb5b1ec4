"""The parts of any object, according to pickle: the arguments that it is made from, and its attributes."""

from __future__ import annotations

import copyreg
import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

# Types of values that are fully described by their repr.
PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), torch.dtype, torch.device, range)


def parts(value: Any) -> dict[str, Any] | None:
    """The parts by name; None for an object that cannot be pickled, and for an iterator, which reading would exhaust."""
    if isinstance(value, Iterator):
        return None
    try:
        reduce = copyreg.dispatch_table.get(type(value))
        kept = value.__reduce_ex__(4) if reduce is None else reduce(value)
    except Exception:  # an object that cannot be pickled may raise anything
        return None
    found: dict[str, Any] = {"wrapped function": value.__wrapped__} if hasattr(value, "__wrapped__") else {}
    if isinstance(kept, str):  # the name of a singleton
        return {"name": kept, **found}
    make, args, *rest = kept
    state, items, pairs = (*rest, None, None, None)[:3]
    if make is copyreg.__newobj__:  # type: ignore[attr-defined]
        found |= {str(i): part for i, part in enumerate(args[1:])}
        if (kept_attributes := _of_state(value, state)) is not None:
            state = None
            found |= kept_attributes
    else:
        found |= arguments(make, args) | ({} if make is type(value) else {"made by": make})
        if isinstance(state, dict) and state.keys() == getattr(value, "__dict__", {}).keys():
            state = dict(sorted(state.items()))  # attributes, whose order does not matter
    others = {"its state": state, "its items": items, "its pairs": pairs}
    return found | {name: list(part) if isinstance(part, Iterator) else part for name, part in others.items() if part is not None}


def attributes(value: Any) -> dict[str, Any]:
    """The attributes of an object, of its dict and of slots, as pickle would save them; without those of cached properties."""
    try:
        found = _of_state(value, value.__getstate__())
    except Exception:  # of a class of the user's, it may raise anything
        found = None
    if found is None:  # saved in another form
        found = _of_state(value, object.__getstate__(value)) or {}
    return found


def _of_state(value: Any, state: Any) -> dict[str, Any] | None:
    """The attributes in the usual state of an object, a dict or a pair of those of its dict and of its slots; None for others."""
    found: dict[str, Any] = {}
    for some in state if isinstance(state, tuple) else (state,):
        if not isinstance(some, (dict, type(None))):
            return None
        found |= named(some or {})
    derived = [
        name for kind in type(value).__mro__ for name, part in vars(kind).items() if isinstance(part, functools.cached_property)
    ]
    return {name: part for name, part in found.items() if name not in derived}


def named(mapping: Mapping[Any, Any]) -> dict[str, Any]:
    """The values of a mapping by their keys as text; numbered (key, value) pairs if the texts are not distinct."""
    named = {name if isinstance(name, str) else repr(name): part for name, part in mapping.items() if isinstance(name, PLAIN)}
    return named if len(named) == len(mapping) else {str(i): pair for i, pair in enumerate(mapping.items())}


def arguments(make: Any, args: Sequence[Any]) -> dict[str, Any]:
    """The arguments of a call by the names of the function's parameters; by number if its signature is unknown."""
    try:
        return dict(inspect.signature(make).bind_partial(*args).arguments)
    except (TypeError, ValueError):
        return {str(i): part for i, part in enumerate(args)}
