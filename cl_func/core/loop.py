"""The folds over a stream: `fold` threads a state through it, `scan` also looks at the state on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from cl_func import checks, contracts, tree
from cl_func.checks import positive_int
from cl_func.core.closed import Closed
from cl_func.core.kinds import E, Probe, S, Strategy


def _owned(update: Any, state: Any) -> tuple[Any, Any]:
    """The update with its compiled leaves writing in place, and a copy of the state that they may overwrite.

    The copy also parts leaves that share memory, such as a teacher and the parameters it was taken from.
    """
    return tree.map(lambda leaf: leaf.donating() if hasattr(leaf, "donating") else leaf, update), tree.map(torch.clone, state)


def fold(update: Callable[[S, E], S], state: S, stream: Iterable[E], *, donate: bool = False, checkpoint: Any = None) -> S:
    """Thread a state through a stream: `update(update(state, stream[0]), stream[1])` and so on.

    donate: let the compiled leaves of the update overwrite the state instead of allocating a new one at each step. The state
        given is cloned first, so the caller sees no difference but the speed.
    checkpoint: see `scan`.
    Raises ValueError for a stream without experiences, such as an iterator that was used up before; TypeError as `scan` does.
    """
    state, _ = scan(update, state, stream, donate=donate, checkpoint=checkpoint)
    return state


def scan(
    update: Callable[[S, E], S],
    state: S,
    stream: Iterable[E],
    probe: Probe | None = None,
    *,
    every: int = 1,
    donate: bool = False,
    checkpoint: Any = None,
    tap: Callable[[int, Any], None] | None = None,
) -> tuple[S, Any]:
    """Fold, and look at the state on the way: returns the last state and the history.

    The history is the tree that `probe(state, exp)` returns, its tensors stacked along a new first axis, time: one entry after
    every `every`-th experience and one after the last. Without a probe it is None.

    checkpoint: a `cl.Checkpoint(folder)`; the run is saved there on the way, and one that was interrupted goes on.
    tap: `tap(time, entry)` is called with each entry of the history as it comes, see `cl.taps`; one that raises stops the run.
    Raises TypeError, naming the leaf, for an update under which the state changes its structure or a leaf its shape, dtype or
    device; fields that are None may be filled. A state that grows is for a for loop of your own.
    """
    if isinstance(update, Strategy) or not callable(update):
        raise TypeError(f"update: expected an Update, such as strategy.update, got {type(update).__name__}.")
    positive_int("every", every)
    checks.flag("donate", donate)
    checks.stream("stream", stream)
    if probe is not None:
        checks.function("probe", probe)
    if tap is not None:
        checks.function("tap", tap, "a function (time, entry), such as one of cl.taps")
    if tap is not None and probe is None:
        raise ValueError("tap: there is nothing to receive without a probe; give one, such as cl.evaluate(model, benchmark.test).")
    if checkpoint is not None and not hasattr(checkpoint, "opened"):
        raise checks.type_error("checkpoint", "a cl.Checkpoint(folder)", checkpoint)
    if checkpoint is None:
        return run_stream(update, state, stream, probe, every=every, donate=donate, tap=tap)
    with checkpoint.opened(update, state, stream, probe, every) as checkpointer:
        return run_stream(
            update, checkpointer.resume(state), stream, probe, every=every, donate=donate, tap=tap, checkpointer=checkpointer
        )


def run_stream(
    update: Any,
    state: Any,
    stream: Iterable[Any],
    probe: Any,
    *,
    every: int,
    donate: bool,
    tap: Any = None,
    checkpointer: Any = None,
) -> tuple[Any, Any]:
    """What `scan` does, from where in the stream a checkpointer has found the run."""
    if donate:
        update, state = _owned(update, state)
    seen, history = 0, list[list[Any]]()
    if checkpointer is not None:
        update, seen, history = checkpointer.instrument(update), checkpointer.progress.seen, checkpointer.history
    closed, experiences, pending, structure = Closed(state, seen), iter(stream), None, None
    if checkpointer is not None:
        pending, experiences, more = checkpointer.continued(stream)
        last = 1 if checkpointer.progress.finished and seen % every else 0  # an entry for the end of what was a whole stream
        checkpointer.check_history(seen // every + last if probe else 0)
        if checkpointer.changed and history:
            checkpointer.look_again(contracts.probe_output(probe(state, pending)))
        if more and last and probe is not None:
            del history[-1]
    if checkpointer is not None and hasattr(tap, "resume"):
        tap.resume(len(history))

    def look(probe: Probe, exp: Any) -> None:
        nonlocal structure
        entry = contracts.probe_output(probe(state, exp))
        leaves, structure = tree.flatten(entry)
        if checkpointer is not None:
            checkpointer.look_again(entry)
        # A probe may return leaves that the next step overwrites.
        history.append([leaf.clone() for leaf in leaves] if donate else leaves)
        if tap is not None:
            _tell(tap, len(history) - 1, entry)

    for pending in experiences:
        if checkpointer is not None:
            checkpointer.on_experience_start()
        state = closed.passed(update(state, pending), state)
        if checkpointer is not None:
            checkpointer.updated()
        seen += 1
        if probe is not None and seen % every == 0:
            look(probe, pending)
        if checkpointer is not None:
            checkpointer.on_experience_end(state)
    if seen == 0:
        raise ValueError(
            "stream: it holds no experience. An iterator can be used once only: pass a sequence such as benchmark.train."
        )
    closed.finish(state)
    if probe is not None and seen % every != 0 and len(history) == seen // every:
        look(probe, pending)
    if checkpointer is not None and not checkpointer.progress.finished:
        checkpointer.finish(state)
    if not history:
        return state, None
    if structure is None and probe is not None:  # all of it was there before
        structure = tree.flatten(probe(state, pending))[1]
    return state, tree.unflatten(structure, [_stacked(column) for column in zip(*history, strict=True)])


def _stacked(column: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack([leaf.to(column[-1].device) for leaf in column])  # what comes from a checkpoint is on the processor


def _tell(tap: Callable[[int, Any], None], time: int, entry: Any) -> None:
    try:
        tap(time, entry)
    except Exception as error:
        raise RuntimeError(
            f"tap: {tap!r} raised {type(error).__name__} at entry {time} of the history: {error}. "
            "To go on without it, use cl.taps.warn(tap)."
        ) from error
