"""The folds over a stream: `fold` threads a state through it, `scan` also measures the state on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from optree import PyTreeSpec
from torch import Tensor

from cl_func import checks, contracts, tree
from cl_func.checks import positive_int
from cl_func.core.checkpointing import CheckpointConfig, Checkpointer, Tap
from cl_func.core.closed import ClosedCheck
from cl_func.core.kinds import E, Probe, S, Strategy, Update
from cl_func.core.reading import read_ahead


def _donated(update: Update, state: S) -> tuple[Update, S]:
    """The update with its compiled leaves writing in place, and a copy of the state for them to overwrite.

    In the copy no two leaves share memory, as a teacher and the parameters it was taken from may do.
    """
    return tree.map(lambda leaf: leaf.donating() if hasattr(leaf, "donating") else leaf, update), tree.map(torch.clone, state)


def fold(
    update: Callable[[S, E], S], state: S, stream: Iterable[E], *, donate: bool = False, checkpoint: CheckpointConfig | None = None
) -> S:
    """Thread a state through a stream: `update(update(state, stream[0]), stream[1])` and so on.

    donate: let the compiled leaves of the update overwrite the state instead of allocating a new one at each step. The given
        state is cloned first, so the caller sees no difference but the speed.
    checkpoint: see `scan`.
    Raises ValueError for a stream without experiences, such as an iterator that is exhausted; TypeError as `scan` does.
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
    checkpoint: CheckpointConfig | None = None,
    tap: Tap | None = None,
) -> tuple[S, Any]:
    """Fold, and measure the state on the way: returns the last state and the history.

    The history is the tree that `probe(state, exp)` returns, its tensors stacked along a new first axis, time: one entry after
    every `every`-th experience and one after the last. Without a probe it is None.

    checkpoint: a `cl.Checkpoint(folder)`; the run is saved there on the way, and resumes from there after an interruption.
    tap: `tap(time, entry)` is called with each new entry of the history, see `cl.taps`; one that raises stops the run.
    Raises TypeError, naming the leaf, for an update that changes the structure of the state, or the shape, dtype or device of a
    leaf; fields that are None may be filled. For a state that grows, write your own for loop.
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
    if checkpoint is not None and not hasattr(checkpoint, "open_run"):
        raise checks.type_error("checkpoint", "a cl.Checkpoint(folder)", checkpoint)
    if checkpoint is None:
        return run_stream(update, state, stream, probe, every=every, donate=donate, tap=tap)
    with checkpoint.open_run(update, state, stream, probe, every) as checkpointer:
        return run_stream(
            update, checkpointer.resume(state), stream, probe, every=every, donate=donate, tap=tap, checkpointer=checkpointer
        )


def run_stream(
    update: Update,
    state: S,
    stream: Iterable[Any],
    probe: Probe | None,
    *,
    every: int,
    donate: bool,
    tap: Tap | None = None,
    checkpointer: Checkpointer | None = None,
) -> tuple[S, Any]:
    """What `scan` does, from the position in the stream at which the checkpointer found the run."""
    if donate:
        update, state = _donated(update, state)
    seen, history = 0, list[list[Tensor]]()
    if checkpointer is not None:
        update, seen, history = checkpointer.instrument(update), checkpointer.progress.seen, checkpointer.history
    closed, experiences, exp = ClosedCheck(state, seen), iter(stream), None
    structure: PyTreeSpec | None = None  # of an entry of the history
    if checkpointer is not None:
        exp, experiences, has_more = checkpointer.remaining(stream)
        final = 1 if checkpointer.progress.finished and seen % every else 0  # the entry for the end of a stream that is longer now
        checkpointer.check_history_length(seen // every + final if probe else 0)
        if checkpointer.changed and history and probe is not None:
            checkpointer.check_entry(contracts.probe_output(probe(state, exp)))
        if has_more and final and probe is not None:
            del history[-1]
        resume_tap = getattr(tap, "resume", None)
        if resume_tap is not None:
            resume_tap(len(history))

    def measure(probe: Probe, exp: Any) -> None:
        nonlocal structure
        entry = contracts.probe_output(probe(state, exp))
        leaves, structure = tree.flatten(entry)
        if checkpointer is not None:
            checkpointer.check_entry(entry)
        # A probe may return leaves of the state, which the next donated step overwrites.
        history.append([leaf.clone() for leaf in leaves] if donate else leaves)
        if tap is not None:
            _call_tap(tap, len(history) - 1, entry)

    for exp in read_ahead(experiences) if isinstance(stream, Sequence) else experiences:
        if checkpointer is not None:
            checkpointer.on_experience_start()
        state = closed.check(update(state, exp), state)
        if checkpointer is not None:
            checkpointer.on_update_end()
        seen += 1
        if probe is not None and seen % every == 0:
            measure(probe, exp)
        if checkpointer is not None:
            checkpointer.on_experience_end(state)
    if seen == 0:
        raise ValueError(
            "stream: it holds no experience. An iterator can be used once only: pass a sequence such as benchmark.train."
        )
    closed.finish(state)
    if probe is not None and seen % every != 0 and len(history) == seen // every:
        measure(probe, exp)
    if checkpointer is not None and not checkpointer.progress.finished:
        checkpointer.finish(state)
    if not history or probe is None:
        return state, None
    if structure is None:  # every entry came from the checkpoint
        structure = tree.flatten(probe(state, exp))[1]
    return state, tree.unflatten(structure, [_stack(column) for column in zip(*history, strict=True)])


def _stack(column: Sequence[Tensor]) -> Tensor:
    return torch.stack([leaf.to(column[-1].device) for leaf in column])  # entries from a checkpoint are on the CPU


def _call_tap(tap: Tap, time: int, entry: Any) -> None:
    try:
        tap(time, entry)
    except Exception as error:
        raise RuntimeError(
            f"tap: {tap!r} raised {type(error).__name__} at entry {time} of the history: {error}. "
            "To go on without it, use cl.taps.warn(tap)."
        ) from error
