"""The job that a sweep hands out: a chunk of runs, trained and measured side by side, here or in another process."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cl_func import tree
from cl_func.compiler.tracing import TraceError
from cl_func.core.loop import run_stream
from cl_func.evaluation import evaluate
from cl_func.experiences import Benchmark
from cl_func.storage import files
from cl_func.storage.checkpoint import Checkpoint
from cl_func.storage.run_checkpointer import RunCheckpointer
from cl_func.sweeps import compile_times
from cl_func.sweeps.interrupted import InterruptedRun, side_by_side
from cl_func.sweeps.run_config import FirstRun, Run, RunConfig, streams
from cl_func.transforms import _lenient, _vmap, vmap
from cl_func.transforms import compile as compiled


@dataclasses.dataclass(frozen=True)
class Execution:
    """How the chunks of a sweep are run; chosen by `autotune`."""

    lanes: int
    compiled: bool
    lenient: bool = False  # compiled by the choice of "auto": what cannot be traced runs eagerly
    compile_seconds: float | None = None  # what compiling is expected to take, where that is known
    fault: str | None = None  # why there is one run a chunk, where that is no choice


@dataclasses.dataclass(frozen=True)
class SweepJob:
    """All that a chunk of runs needs."""

    config: RunConfig
    execution: Execution
    checkpoint: Checkpoint | None = None

    def prepare(self, probe: Any = None) -> tuple[Any, Any]:
        """The update and the probe as they are called; compiled programs live in them and are shared by all chunks.

        probe: for runs that have no probe in common. Without one, there is None for those.
        """
        strategy, benchmark, how = self.config.strategy, self.config.benchmark, self.execution
        update, probe = strategy.update, self.config.probe or probe
        if probe is None and isinstance(benchmark, Benchmark):
            probe = evaluate(strategy.model, benchmark.test)
        if how.lanes > 1:
            update, probe = vmap(update), None if probe is None else _vmap(probe, "probe")
        if how.compiled:
            update, probe = compiled(update), None if probe is None else compiled(probe)
        return (_lenient(update), _lenient(probe)) if how.lenient else (update, probe)

    def __call__(
        self,
        runs: Sequence[Run],
        prepared: tuple[Any, Any],
        *,
        first: FirstRun | None = None,
        interrupted: Sequence[InterruptedRun] = (),
        tick: Callable[[], None] = lambda: None,
        compiles: bool = False,
    ) -> list[dict[str, Any]]:
        """The histories of some runs, name -> array [time, ...] each.

        prepared: what `prepare` gives. first: a run that is made already, in case it is among these.
        interrupted: how far each of the runs came before, all equally far. tick: called whenever they are measured.
        compiles: this is the chunk that compiles, for the others as well; how long that takes is kept.
        """
        config, lanes = self.config, self.execution.lanes
        missing = lanes - len(runs)  # one shape for all chunks: no second program for the last
        own = [first.benchmark if first is not None and run == first.run else config.benchmark_of(run) for run in runs]
        train, test = streams([*own, *[own[-1]] * missing])
        update, probe = prepared
        if probe is None:
            probe = self.prepare(evaluate(config.strategy.model, test))[1]
        states = [first.state if first is not None and run == first.run else config.start(run) for run in runs]
        single = states[0]
        if interrupted:
            states = [files.restore(i.state, i.header, s, i.path, "state") for i, s in zip(interrupted, states, strict=True)]
        checkpointer = self._checkpointer(runs, [*interrupted, *[interrupted[-1]] * missing] if interrupted else [])
        state = states[0] if lanes == 1 else tree.stack([*states, *[states[-1]] * missing])
        watch = compile_times.Watch(update, probe) if compiles and self.execution.compiled else None

        def measure(state: Any, exp: Any) -> Any:
            if watch is not None:
                watch.mark()
            tick()
            entry = probe(state, exp)
            if watch is not None:
                watch.mark()
            return entry

        try:
            _, history = run_stream(
                update, state, train, measure, every=config.every, donate=self.execution.compiled, checkpointer=checkpointer
            )
        except Exception as error:
            fault = None if lanes == 1 or isinstance(error, TraceError) else FirstRun(config, runs[0]).fault()
            if fault is None:
                raise
            raise ValueError(f"lanes: {fault} Or use lanes=1.") from error
        if watch is not None:
            compile_times.record(config.strategy.update, single, own[0].train[0], lanes, watch.seconds())
        by_lane = [history] if lanes == 1 else [tree.map(lambda leaf, i=i: leaf[:, i], history) for i in range(len(runs))]
        return [{path or "value": leaf.cpu().numpy() for path, leaf in tree.items(lane)} for lane in by_lane]

    def _checkpointer(self, runs: Sequence[Run], interrupted: Sequence[InterruptedRun]) -> RunCheckpointer | None:
        """What saves a chunk on its way, in a folder of its own; it goes on from where its runs were interrupted."""
        if self.checkpoint is None:
            return None
        folder = Path(self.checkpoint.folder) / f"partial-{runs[0].index:06d}-{uuid.uuid4().hex[:8]}"
        extra = {"runs": [run.name for run in runs], "lanes": self.execution.lanes}
        folder.mkdir(parents=True)
        files.write_bytes(folder / "runs.json", json.dumps(extra["runs"]).encode())
        saved = side_by_side(interrupted, self.execution.lanes) if interrupted else None
        # Without a fingerprint: the sweep knows what its runs are made of.
        return RunCheckpointer(dataclasses.replace(self.checkpoint, folder=folder), {}, extra=extra, saved=saved)
