"""The folds over a stream: `fold` threads a state through it, `scan` also measures the state on the way."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence, Sized
from typing import Any

import torch

from cl_func import checks, signatures, tree, user_warnings
from cl_func.checks import positive_int
from cl_func.core import divergence
from cl_func.core.checkpointing import CheckpointConfig, Checkpointer
from cl_func.core.closed import ClosedCheck
from cl_func.core.kinds import E, Probe, S, Strategy, Update
from cl_func.core.looping import Ahead
from cl_func.core.reading import read_ahead
from cl_func.core.recorder import Recorder
from cl_func.core.single_step import warn_single_step
from cl_func.core.stop import StopRule
from cl_func.core.tapping import Tap
from cl_func.progress import ProgressBar, is_shown


def _donated(update: Update, state: S) -> tuple[Update, S]:
    """The update with its compiled leaves writing in place, and a copy of the state for them to overwrite.

    In the copy no two leaves share memory, as a teacher and the parameters it was taken from may do.
    """
    return tree.map(lambda leaf: leaf.donating() if hasattr(leaf, "donating") else leaf, update), tree.map(torch.clone, state)


def fold(
    update: Callable[[S, E], S],
    state: S,
    stream: Iterable[E],
    *,
    donate: bool = False,
    checkpoint: CheckpointConfig | None = None,
    progress: bool | None = False,
) -> S:
    """Thread a state through a stream: `update(update(state, stream[0]), stream[1])` and so on.

    donate: let the compiled leaves of the update overwrite the state instead of allocating a new one at each step. The given
        state is cloned first, so the caller sees no difference but the speed.
    checkpoint, progress: see `scan`.
    Raises ValueError for a stream without experiences, such as an iterator that is exhausted; TypeError as `scan` does.
    """
    state, _ = scan(update, state, stream, donate=donate, checkpoint=checkpoint, progress=progress)
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
    stop: StopRule | None = None,
    progress: bool | None = False,
) -> tuple[S, Any]:
    """Fold, and measure the state on the way: returns the last state and the history.

    The history is the tree that `probe(state, exp)` returns, its tensors stacked along a new first axis, time: one entry after
    every `every`-th experience and one after the last. Without a probe it is None.

    checkpoint: a `cl.Checkpoint(folder)`; the run is saved there on the way, and resumes from there after an interruption.
    tap: `tap(time, entry)` is called with each new entry of the history, see `cl.taps`; one that raises stops the run.
    stop: `stop(history) -> bool` is asked after each entry whether to end the run there, see `cl.stop`. The history, which must be
        a dict, is then shorter than the stream, and its "stopped", [time] bool, holds the answers.
    progress: show a bar on stderr that counts the experiences (with tqdm), or a line from time to time (without); None shows it
        only where somebody looks, in a terminal or a notebook.
    A warning is given if at the end the model's loss is NaN.

    Raises TypeError, naming the leaf, for an update that changes the structure of the state, or the shape, dtype or device of a
    leaf; fields that are None may be filled. For a state that grows, write your own for loop.
    """
    if isinstance(update, Strategy):
        raise TypeError(f"update: expected an Update, such as strategy.update, got {type(update).__name__}.")
    signatures.update("update", update)
    positive_int("every", every)
    checks.flag("donate", donate)
    checks.stream("stream", stream)
    if probe is not None:
        signatures.probe("probe", probe)
    if tap is not None:
        signatures.function("tap", tap, 2, "a function (time, entry), such as one of cl.taps")
    if tap is not None and probe is None:
        raise ValueError("tap: there is nothing to receive without a probe; give one, such as cl.evaluate(model, benchmark.test).")
    if stop is not None:
        signatures.function("stop", stop, 1, "a rule (history) -> bool, such as cl.stop.patience(3)")
    if stop is not None and probe is None:
        raise ValueError("stop: there is nothing to judge without a probe; give one, such as cl.evaluate(model, benchmark.test).")
    checks.choice("progress", progress, True, False, None)
    if checkpoint is not None and not hasattr(checkpoint, "open_run"):
        raise checks.type_error("checkpoint", "a cl.Checkpoint(folder)", checkpoint)
    n = len(stream) if isinstance(stream, Sized) else sys.maxsize
    how: Any = {
        "on_first": lambda exp: warn_single_step(update, exp, n),
        "every": every,
        "donate": donate,
        "tap": tap,
        "stop": stop,
        "progress": progress,
    }
    if checkpoint is None:
        end, history = run_stream(update, state, stream, probe, **how)
    else:
        with checkpoint.open_run(update, state, stream, probe, every, stop) as checkpointer:
            end, history = run_stream(update, checkpointer.resume(state), stream, probe, checkpointer=checkpointer, **how)
    if history is not None and divergence.has_diverged(history):
        user_warnings.warn(
            "scan: the run has diverged, at the end the loss is NaN; its accuracies are those of guessing. Lower the learning "
            "rate, or find the first step that gave NaN with cl.check_finite(update)."
        )
    return end, history


def run_stream(
    update: Update,
    state: S,
    stream: Iterable[Any],
    probe: Probe | None,
    *,
    every: int,
    donate: bool,
    tap: Tap | None = None,
    stop: StopRule | None = None,
    progress: bool | None = False,
    checkpointer: Checkpointer | None = None,
    on_first: Callable[[Any], None] | None = None,
) -> tuple[S, Any]:
    """What `scan` does, from the position in the stream at which the checkpointer found the run.

    on_first: called with the first experience, before it is trained on.
    """
    if donate:
        update, state = _donated(update, state)
    leaf = update  # without the counting of calls, which `on_experiences_end` does for whole experiences
    recorder = None if probe is None else Recorder(probe, every, donate, tap, stop, checkpointer)
    seen, experiences, exp = 0, iter(stream), None
    if checkpointer is not None:
        update, seen = checkpointer.instrument(update), checkpointer.progress.seen
    closed = ClosedCheck(state, seen)
    if checkpointer is not None:
        exp, experiences, has_more = checkpointer.remaining(stream)
        if recorder is None:
            checkpointer.check_history_length(0)
        else:
            recorder.resume(checkpointer, state, exp, has_more)
            experiences = iter(()) if recorder.stopped else experiences
    total = len(stream) if isinstance(stream, Sized) else None
    bar = ProgressBar(is_shown(progress), total, "scan", unit="experiences", done=seen)
    try:
        ahead = Ahead(leaf, read_ahead(experiences) if isinstance(stream, Sequence) else experiences, isinstance(stream, Sequence))
        while True:
            most = sys.maxsize if recorder is None else every - seen % every
            if checkpointer is not None:
                most = min(most, checkpointer.undisturbed())
            done, last = ahead.advance(state, most)
            if done:
                exp = last
                closed.skip(done)
            else:
                try:
                    exp = ahead.pop()
                except StopIteration:
                    break
                if checkpointer is not None:
                    checkpointer.on_experience_start(exp)
                if on_first is not None and seen == 0:
                    on_first(exp)
                state = closed.check(update(state, exp), state)
                if checkpointer is not None:
                    checkpointer.on_update_end()
                done = 1
            seen += done
            if recorder is not None and seen % every == 0:
                recorder.measure(state, exp)
            if checkpointer is not None:
                checkpointer.on_experiences_end(state, done)
            bar.update(done)
            if recorder is not None and recorder.stopped:
                break
    finally:
        bar.close()
    if seen == 0:
        raise ValueError(
            "stream: it holds no experience. An iterator can be used once only: pass a sequence such as benchmark.train."
        )
    closed.finish(state)
    if recorder is not None and seen % every != 0 and len(recorder.history) == seen // every:
        recorder.measure(state, exp)
    if checkpointer is not None and not checkpointer.progress.finished:
        checkpointer.finish(state)
    return state, None if recorder is None else recorder.finish(state, exp)
