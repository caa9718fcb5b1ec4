"""The parts of any object, by what pickle keeps of it: the arguments that it is made of, and its attributes."""

from __future__ import annotations

import copyreg
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

# Values whose repr says all of them.
PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), torch.dtype, torch.device, range)


def parts(value: Any) -> dict[str, Any] | None:
    """The parts by name; None for what cannot be pickled, and for an iterator, which its parts would use up."""
    if isinstance(value, Iterator):
        return None
    try:
        reduce = copyreg.dispatch_table.get(type(value))
        kept = value.__reduce_ex__(4) if reduce is None else reduce(value)
    except Exception:  # whatever an object says that cannot be pickled
        return None
    found: dict[str, Any] = {"wrapped function": value.__wrapped__} if hasattr(value, "__wrapped__") else {}
    if isinstance(kept, str):  # the name of what is there once
        return {"name": kept, **found}
    make, args, *rest = kept
    state, items, pairs = (*rest, None, None, None)[:3]
    if make is copyreg.__newobj__:  # type: ignore[attr-defined]
        found |= {str(i): part for i, part in enumerate(args[1:])}
        attributes = state if isinstance(state, tuple) else (state,)  # of the instance, and of slots
        if all(isinstance(some, (dict, type(None))) for some in attributes):
            state = None
            for some in attributes:
                found |= named(some or {})
    else:
        found |= arguments(make, args) | ({} if make is type(value) else {"made by": make})
    others = {"its state": state, "its items": items, "its pairs": pairs}
    return found | {name: list(part) if isinstance(part, Iterator) else part for name, part in others.items() if part is not None}


def named(mapping: Mapping[Any, Any]) -> dict[str, Any]:
    """The values of a mapping by keys in words; pairs by their number where these do not tell them apart."""
    named = {name if isinstance(name, str) else repr(name): part for name, part in mapping.items() if isinstance(name, PLAIN)}
    return named if len(named) == len(mapping) else {str(i): pair for i, pair in enumerate(mapping.items())}


def arguments(make: Any, args: Sequence[Any]) -> dict[str, Any]:
    """The arguments of a call by the names that its function gives them."""
    try:
        return dict(inspect.signature(make).bind_partial(*args).arguments)
    except (TypeError, ValueError):
        return {str(i): part for i, part in enumerate(args)}
