"""The folds over a stream: `fold` threads a state through it, `scan` also looks at the state on the way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from cl_func import checks, tree
from cl_func.core import Probe, Strategy, Update, positive


def _owned(update: Any, state: Any) -> tuple[Any, Any]:
    """The update with its compiled leaves writing in place, and a copy of the state that they may overwrite.

    The copy also parts leaves that share memory, such as a teacher and the parameters it was taken from.
    """
    return tree.map(lambda leaf: leaf.donating() if hasattr(leaf, "donating") else leaf, update), tree.map(torch.clone, state)


def fold(update: Update, state: Any, stream: Iterable[Any], *, donate: bool = False) -> Any:
    """Thread a state through a stream: `update(update(state, stream[0]), stream[1])` and so on.

    donate: let the compiled leaves of the update overwrite the state instead of allocating a new one at each step. The state
        given is cloned first, so the caller sees no difference but the speed.
    Raises ValueError for a stream without experiences, such as an iterator that was used up before.
    """
    state, _ = scan(update, state, stream, donate=donate)
    return state


def scan(
    update: Update,
    state: Any,
    stream: Iterable[Any],
    probe: Probe | None = None,
    *,
    every: int = 1,
    donate: bool = False,
) -> tuple[Any, Any]:
    """Fold, and look at the state on the way: returns the last state and the history.

    The history is the tree that `probe(state, exp)` returns, its tensors stacked along a new first axis, time: one entry after
    every `every`-th experience and one after the last. Without a probe it is None.
    """
    if isinstance(update, Strategy) or not callable(update):
        raise TypeError(f"update: expected an Update, such as strategy.update, got {type(update).__name__}.")
    positive("every", every)
    checks.flag("donate", donate)
    checks.stream("stream", stream)
    if probe is not None:
        checks.function("probe", probe)
    if donate:
        update, state = _owned(update, state)
    seen, pending, history = 0, None, []
    for seen, exp in enumerate(stream, start=1):
        after = update(state, exp)
        if type(after) is not type(state):
            raise checks.refuse("update", f"it to return the next state, a {type(state).__name__}", after)
        state = after
        pending = exp
        if probe is not None and seen % every == 0:
            history.append(_look(probe, state, exp, donate))
            pending = None
    if seen == 0:
        raise ValueError(
            "stream: it holds no experience. An iterator can be used once only: pass a sequence such as benchmark.train."
        )
    if probe is not None and pending is not None:
        history.append(_look(probe, state, pending, donate))
    return state, tree.map(lambda *steps: torch.stack(steps), *history) if history else None


def _look(probe: Probe, state: Any, exp: Any, donate: bool) -> Any:
    seen = checks.tensors("probe", probe(state, exp))
    return tree.map(torch.clone, seen) if donate else seen  # a probe may return leaves that the next step overwrites
