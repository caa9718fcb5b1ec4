"""Several methods, in one setting or several, with the same seeds: a sweep for each, one progress bar, one result.

Methods may differ in whatever they like: their states, capacities and networks. What they measure must be the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from cl_func import checks, user_warnings
from cl_func.core import Probe, Strategy
from cl_func.core.tapping import Saved, Tap, reopen
from cl_func.experiences import Benchmark
from cl_func.progress import SharedBar
from cl_func.storage.checkpoint import Checkpoint
from cl_func.sweeps import choosing, planning
from cl_func.sweeps.cells import AnyBenchmark, Cell, cells, joined
from cl_func.sweeps.choosing import Kept, Selection
from cl_func.sweeps.chosen import CHOICE
from cl_func.sweeps.grids import Grid
from cl_func.sweeps.remote import Executor
from cl_func.sweeps.runs import Runs
from cl_func.sweeps.sweep import sweep
from cl_func.sweeps.taps import Labels, finish


class FailedMethods(RuntimeError):  # noqa: N818 - says what failed
    """Some methods of a comparison failed. runs: the result, in which they are not finished; None if all failed."""

    def __init__(self, message: str, runs: Runs | None) -> None:
        super().__init__(message)
        self.runs = runs

    def __reduce__(self) -> Any:
        return type(self), (self.args[0], self.runs)


def compare(
    strategies: Mapping[str, Strategy | Mapping[str, Strategy]],
    benchmark: AnyBenchmark | Mapping[str, AnyBenchmark],
    *,
    seeds: int | Sequence[int] = 10,
    hparams: Mapping[str, Grid] | None = None,
    select: Selection | None = None,
    streams: Mapping[str, Callable[[Benchmark], Benchmark]] | None = None,
    probe: Probe | None = None,
    every: int = 1,
    compile: bool | Literal["auto"] = "auto",
    lanes: int | Literal["auto"] = "auto",
    executor: Executor | None = None,
    progress: bool = True,
    device: str | torch.device | None = None,
    resume: str | Path | None = None,
    checkpoint: Checkpoint | None = None,
    on_change: Literal["error", "warn"] = "error",
    tap: Tap | None = None,
) -> Runs:
    """Run several methods with the same seeds: `Runs` with the axes "method" and "seed".

    strategies: by name, `{"ER": er, "DER++": der_pp}`. With several settings a method may have a strategy for each, by setting.
    benchmark: as of `cl.sweep`; or by the names of settings, which are the axis "setting". These need the same numbers of
        experiences; the classes that a setting does not have are NaN in the history "class_accuracy".
    seeds: as of `cl.sweep`, for all methods, so that `runs.compare("ER", "DER++")` can test the differences.
    hparams: name -> the grid of that method. select: how one of its points is chosen, `cl.select.validation()`, in each setting by
        itself; it uses seeds of its own. What was chosen is in the attributes of the Runs, and below their tables.
    streams: name -> a function of the benchmark, for a method that trains on another stream: `{"joint": cl.streams.cumulative}`.
    probe: one for all methods; by default the evaluation of the model of each. A history that has not the same shape for all is
        left out, with a warning.
    resume, checkpoint: as of `cl.sweep`; each method has a folder of its own in that one, and methods may be added or left out.
    tap: gets the labels "method", "setting" if there are several, and "seed"; the runs from which a point is chosen are not shown.
    every, compile, lanes, executor, progress, device, on_change: as of `cl.sweep`, for all sweeps. There is one progress bar.

    All arguments, with all paths of the grids, are checked before the first run. What fails later does not stop the other methods:
    at the end a RuntimeError names it, whose attribute `runs` has the results of the others. Ctrl-C returns what is finished, after
    a warning, and NaN for the rest. Raises TypeError or ValueError for bad arguments.
    """
    found = cells(strategies, benchmark, hparams, streams)
    choosing.check(hparams, select)
    options: dict[str, Any] = {
        "every": every,
        "compile": compile,
        "lanes": lanes,
        "executor": executor,
        "device": device,
        "on_change": on_change,
    }
    planning.check_options(
        probe=probe, progress=checks.flag("progress", progress), resume=resume, checkpoint=checkpoint, tap=tap, **options
    )
    seed_list = planning.as_seeds(seeds)
    counts = _counts(found, seed_list, probe, options)
    kept = Kept(None if resume is None else Path(resume), checkpoint)
    done, failed = dict[Cell, Runs](), dict[Cell, Exception]()
    bar = SharedBar(progress, sum(counts), "compare")
    interrupted = False
    try:
        for cell, count in zip(found, counts, strict=True):
            bar.begin(str(cell), count)
            try:
                tapped = None if tap is None else _CellTap(tap, cell.labels, kept.folder)
                done[cell] = _run(cell, seed_list, select, probe, tapped, kept.at(cell), {**options, "progress": bar})
                interrupted = not bool(done[cell].finished.all())
            except Exception as error:
                failed[cell] = error
            except KeyboardInterrupt:
                if not done:
                    raise
                interrupted = True
            if interrupted:
                user_warnings.warn(f"compare: interrupted at {str(cell)!r}; what is not finished is NaN.")
                break
    finally:
        bar.close(complete=not interrupted)
    reasons = {cell: f"{type(error).__name__}: {str(error).removesuffix('.')}" for cell, error in failed.items()}
    runs = joined(found, done, reasons) if done else None
    if failed or runs is None:
        names = "; ".join(f"{str(cell)!r}: {reason}" for cell, reason in reasons.items())
        others = "There are no others" if runs is None else "The others are in the attribute `runs` of this exception"
        folder = "" if kept.folder is None else f", and in {kept.folder}; compare again to run what is missing"
        message = f"compare: {len(failed)} of {len(found)} failed: {names}. {others}{folder}."
        raise FailedMethods(message, runs) from next(iter(failed.values()))
    return runs


def _counts(found: Sequence[Cell], seeds: Sequence[int], probe: Probe | None, options: Mapping[str, Any]) -> list[int]:
    """How many measurements each cell is expected to take; TypeError or ValueError for cells that cannot be run or joined."""
    counts, lengths = list[int](), dict[str, tuple[int, int]]()
    for cell in found:
        try:
            here = options["executor"] is None
            first, runs, _ = planning.plan(
                cell.strategy, cell.benchmark, seeds, cell.grid, probe, options["every"], options["device"], here
            )
            bench = first.benchmark
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"strategies[{cell.method!r}]{'' if cell.setting is None else f', {cell.setting!r}'}: {error}") from error
        lengths[str(cell)] = (len(bench.train), len(bench.test))
        counts.append(first.length * (len(seeds) + (len(runs) if cell.grid is not None else 0)))
    if len(set(lengths.values())) > 1:
        texts = ", ".join(f"{name!r} {train} and {test}" for name, (train, test) in lengths.items())
        raise ValueError(
            f"benchmark: expected the same numbers of train and test experiences, got for {texts}; compare each by itself."
        )
    return counts


@dataclasses.dataclass(frozen=True)
class _CellTap:
    """The tap of the sweep of a cell."""

    tap: Tap
    cell: dict[str, str]
    folder: Path | None  # of the whole comparison, whose methods share a log

    def _labels(self, labels: Labels) -> Labels:
        return {**self.cell, "seed": labels["seed"]}

    def reopen(self, saved: Saved, runs: Sequence[Labels]) -> None:
        """All entries of some runs will come."""
        reopen(self.tap, dataclasses.replace(saved, folder=self.folder or saved.folder), [*map(self._labels, runs)])

    def finish(self, labels: Labels) -> None:
        """A run is over."""
        finish(self.tap, self._labels(labels))

    def __call__(self, time: int, entry: Any, labels: Labels) -> None:
        self.tap(time, entry, self._labels(labels))


def _run(
    cell: Cell,
    seeds: Sequence[int],
    select: Selection | None,
    probe: Probe | None,
    tap: Tap | None,
    kept: Kept,
    options: dict[str, Any],
) -> Runs:
    """The runs of a cell, [seed], after its hyperparameters have been chosen."""
    grid, how = (None, "") if select is None else choosing.choose(select, cell, seeds, options, kept)
    runs = sweep(cell.strategy, cell.benchmark, seeds=seeds, hparams=grid, probe=probe, tap=tap, **kept.arguments, **options)
    if grid is None:
        return runs
    name, (label,) = next(iter(runs.axes.items()))
    runs = runs.at(**{name: label})
    return dataclasses.replace(runs, attributes={**runs.attributes, CHOICE: {"values": runs.attributes["at"], "by": how}})
