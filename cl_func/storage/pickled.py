"""The parts of any object, according to pickle: the arguments that it is made from, and its attributes."""

from __future__ import annotations

import copyreg
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
        attributes = state if isinstance(state, tuple) else (state,)  # of the instance dict, and of slots
        if all(isinstance(some, (dict, type(None))) for some in attributes):
            state = None
            for some in attributes:
                found |= named(some or {})
    else:
        found |= arguments(make, args) | ({} if make is type(value) else {"made by": make})
    others = {"its state": state, "its items": items, "its pairs": pairs}
    return found | {name: list(part) if isinstance(part, Iterator) else part for name, part in others.items() if part is not None}


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
