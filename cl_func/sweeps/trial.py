"""A few eager calls of the functions of an update before a sweep, to see how long they take and whether they can be vmapped."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import Any

from cl_func import tree
from cl_func.compiler import tracing
from cl_func.contracts import ContractError
from cl_func.core.kinds import Probe, Update
from cl_func.transforms import vmap

# What else vmap cannot do: a pattern of torch's message -> (our description, how to fix it).
OTHERS = {
    r"inplace arithmetic|in-?place .*not possible|doesn't match the broadcast shape": (
        "a tensor that all runs share is written in place",
        "Instead of x += y or x.add_(y) use x + y",
    ),
    r"random operation": ("random numbers are drawn from torch's own generator", "Draw with cl.random, from the state's key"),
    r"[Bb]atching rule not implemented for (\S+?)[,;.]?(?:\s|$)": (r"torch has no batching rule for \1", "Use other operations"),
}


class _Enough(Exception):  # noqa: N818 - not an error
    """Ends a measurement."""


def seconds_per_call(update: Update, state: Any, stream: Iterable[Any], calls: int = 6) -> float:
    """The median time of the first leaf calls that an eager update, or a probe, makes on a stream."""
    times: list[float] = []

    def timed(leaf: Any) -> Any:
        def call(state: Any, exp: Any) -> Any:
            start = time.perf_counter()
            out = leaf(state, exp)
            times.append(time.perf_counter() - start)
            if len(times) >= calls:
                raise _Enough
            return out

        return call

    try:
        for exp in stream:
            state = tree.map(timed, update)(state, exp)
    except _Enough:
        pass
    return sorted(times)[len(times) // 2]


def why_not(what: str, error: Exception) -> str:
    """Why an update or a probe cannot be vmapped, and the line that is to blame, according to the error that it raised."""
    reason = tracing.reason(error)
    found = [(match.expand(why), fix) for pattern, (why, fix) in OTHERS.items() if (match := re.search(pattern, str(error)))]
    if reason is not None:
        found = [(reason, tracing.FIXES[reason])]
    first_line = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    why, fix = found[0] if found else (first_line, "It works for a single run")
    return f"the {what} cannot be vmapped: {why}, in {tracing.users_line(error)}. {fix}."


def vmap_fault(what: str, function: Update | Probe, state: Any, exp: Any, calls: int = 6) -> str | None:
    """Why an update or a probe cannot be vmapped, in words; None if it can, or if it does not even work for a single run."""
    try:
        seconds_per_call(function, state, [exp], calls)
    except Exception:
        return None
    try:
        seconds_per_call(vmap(function), tree.stack([state, state]), [exp], calls)
    except ContractError:  # a wrong return value is reported where the function is called
        return None
    except Exception as error:
        return why_not(what, error)
    return None
