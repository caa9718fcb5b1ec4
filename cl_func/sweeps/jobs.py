"""What a sweep hands out: runs, and the job that a chunk of them is, here or in another process."""

from __future__ import annotations

import dataclasses
import json
import uuid
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from cl_func import checks, random, tree
from cl_func.compiler.tracing import TraceError
from cl_func.core import Strategy
from cl_func.core.loop import run_stream
from cl_func.evaluation import evaluate
from cl_func.experiences import Benchmark, Stream, stack, stream
from cl_func.storage import files, fingerprint
from cl_func.storage.checkpoint import Checkpoint
from cl_func.storage.run_checkpointer import RunCheckpointer
from cl_func.sweeps import compile_times
from cl_func.sweeps.interrupted import InterruptedRun, restore
from cl_func.sweeps.trial import vmap_fault
from cl_func.transforms import compile as compiled
from cl_func.transforms import lenient, mapped, vmap


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep: its index in the product, its seed, and its values by path."""

    index: int
    seed: int
    values: dict[str, Any]

    def __str__(self) -> str:
        return ", ".join([*(f"{path}={value}" for path, value in self.values.items()), f"seed={self.seed}"])

    @property
    def name(self) -> str:
        """What it is called in files: its seed and its values, whatever the sweep that it is a part of."""
        values = {path: fingerprint.of(value=v)["value"] if isinstance(v, Tensor) else v for path, v in self.values.items()}
        return json.dumps({"seed": self.seed, "values": values}, sort_keys=True)


@dataclasses.dataclass(frozen=True)
class SweepJob:
    """All that a chunk needs to run, here or in another process."""

    strategy: Strategy
    benchmark: Any  # Benchmark, or a function of a key that returns one
    probe: Any
    compiled: bool
    lanes: int
    device: Any
    every: int = 1
    checkpoint: Checkpoint | None = None
    lenient: bool = False  # compiled by the choice of "auto": what cannot be traced runs eagerly

    def prepare(self) -> tuple[Any, Any]:
        """The update and the probe as they are called; compiled programs live in them and are shared by all chunks."""
        update, probe = self.strategy.update, self.probe
        if probe is None and isinstance(self.benchmark, Benchmark):
            probe = evaluate(self.strategy.model, self.benchmark.test)
        if self.lanes > 1:
            update, probe = vmap(update), None if probe is None else mapped(probe, "probe")
        if self.compiled:
            update, probe = compiled(update), None if probe is None else compiled(probe)
        return (lenient(update), lenient(probe)) if self.lenient else (update, probe)

    def on_device(self) -> SweepJob:
        """The job with its streams on its device: each data set is moved once, however many chunks are run."""
        if self.device is None:
            return self
        move = _Mover(self.device)
        if isinstance(self.benchmark, Benchmark):
            return dataclasses.replace(self, benchmark=move(self.benchmark))
        return dataclasses.replace(self, benchmark=lambda key: move(_benchmark(self.benchmark(key))))

    def start(self, run: Run) -> Any:
        """The initial state of a run."""
        made = checks.tensors("strategy.init", self.strategy.init(random.key(run.seed)))
        state = tree.set(made, run.values)
        for path in run.values:
            if not all(isinstance(leaf, Tensor) for leaf in tree.leaves(tree.get(made, path))):
                raise checks.type_error(
                    f"hparams: {path!r}", "the path of a tensor, such as torch.tensor(0.1)", tree.get(made, path)
                )
        return state if self.device is None else tree.to(state, self.device)

    def first(self, run: Run) -> tuple[Any, Any]:
        """The first state and the first experience of a run."""
        return self.start(run), self.on_device().streams([run])[0][0]

    def fault(self, run: Run) -> str | None:
        """Why runs cannot share a chunk, in words, if one by one they work."""
        return vmap_fault("update", self.strategy.update, *self.first(run)) or self.probe_fault(run)

    def probe_fault(self, run: Run) -> str | None:
        """The same of a probe alone, as far as one call of it shows."""
        return None if self.probe is None else vmap_fault("probe", self.probe, *self.first(run), calls=1)

    def length(self, run: Run) -> int:
        """The number of times that a run is looked at."""
        benchmark = self.benchmark if isinstance(self.benchmark, Benchmark) else self._own(run)
        return -(-len(benchmark.train) // self.every)

    def _own(self, run: Run) -> Benchmark:
        return _benchmark(self.benchmark(stream_key(run.seed)))

    def streams(self, runs: Sequence[Run]) -> tuple[Any, Any]:
        """The train and the test stream of some runs; with a benchmark per seed, the lanes carry their own rows."""
        if isinstance(self.benchmark, Benchmark):
            return self.benchmark.train, self.benchmark.test
        own = [self._own(run) for run in runs]
        if len(runs) == 1:
            return own[0].train, own[0].test
        train, test = (
            stream([stack(exps) for exps in zip(*streams, strict=True)])
            for streams in ([b.train for b in own], [b.test for b in own])
        )
        return train, test

    def __call__(
        self,
        runs: Sequence[Run],
        prepared: Any = None,
        tick: Callable[[], None] = lambda: None,
        partials: Sequence[InterruptedRun] = (),
        compiles: bool = False,
    ) -> list[dict[str, Any]]:
        """The histories of some runs, name -> array [time, ...] each; `tick` is called whenever they are looked at.

        partials: how far each of the runs was before, all equally far.
        compiles: this is the chunk that compiles, for the others as well; how long that takes is kept.
        """
        update, probe = self.prepare() if prepared is None else prepared
        missing = self.lanes - len(runs)  # one shape for all chunks: no second program for the last
        train, test = self.streams([*runs, *[runs[-1]] * missing])
        if probe is None:
            probe = SweepJob.prepare(dataclasses.replace(self, probe=evaluate(self.strategy.model, test)))[1]
        states, keeper = [self.start(run) for run in runs], None
        if self.checkpoint is not None:
            keeper = self._keeper(runs, self.checkpoint)
            if partials:
                states = [files.fitted(p.state, p.header, s, p.path, "state") for p, s in zip(partials, states, strict=True)]
                restore([*partials, *[partials[-1]] * missing], keeper, self.lanes)
        state = states[0] if self.lanes == 1 else tree.stack([*states, *[states[-1]] * missing])

        watch = compile_times.Watch(update, probe) if compiles and self.compiled else None

        def looked(state: Any, exp: Any) -> Any:
            if watch is not None:
                watch.mark()
            tick()
            entry = probe(state, exp)
            if watch is not None:
                watch.mark()
            return entry

        try:
            _, history = run_stream(update, state, train, looked, every=self.every, donate=self.compiled, keeper=keeper)
        except Exception as error:
            fault = None if self.lanes == 1 or isinstance(error, TraceError) else self.fault(runs[0])
            if fault is None:
                raise
            raise ValueError(f"lanes: {fault} Or use lanes=1.") from error
        if watch is not None:
            compile_times.record(self.strategy.update, *self.first(runs[0]), self.lanes, watch.seconds())
        lanes = [history] if self.lanes == 1 else [tree.map(lambda leaf, i=i: leaf[:, i], history) for i in range(len(runs))]
        return [{path or "value": leaf.cpu().numpy() for path, leaf in tree.items(lane)} for lane in lanes]

    def _keeper(self, runs: Sequence[Run], checkpoint: Checkpoint) -> RunCheckpointer:
        folder = Path(checkpoint.folder) / f"partial-{runs[0].index:06d}-{uuid.uuid4().hex[:8]}"
        extra = {"runs": [run.name for run in runs], "lanes": self.lanes}
        folder.mkdir(parents=True)
        files.write_bytes(folder / "runs.json", json.dumps(extra["runs"]).encode())
        # Without a fingerprint: the sweep knows what its runs are made of.
        return RunCheckpointer(dataclasses.replace(checkpoint, folder=folder), {}, extra=extra)


def _benchmark(made: Any) -> Benchmark:
    """What a benchmark function of the user's gave, checked."""
    return checks.instance("benchmark", made, Benchmark, "the function to return a Benchmark")


class _Mover:
    """Moves benchmarks to a device, each source once, so that streams that share one there share one here."""

    def __init__(self, device: Any) -> None:
        # Weak: a permuted stream makes a source for each experience, and lets go of it afterwards.
        self.device, self.sources = device, weakref.WeakKeyDictionary[Any, Any]()

    def __call__(self, benchmark: Benchmark) -> Benchmark:
        streams = {f.name: getattr(benchmark, f.name) for f in dataclasses.fields(benchmark)}
        return Benchmark(**{name: some and Stream(_Moved(self, some), len(some)) for name, some in streams.items()})

    def experience(self, exp: Any) -> Any:
        if exp.source not in self.sources:
            self.sources[exp.source] = tree.to(exp.source, self.device)
        rest = tree.to(tree.replace(exp, source=None), self.device)
        return tree.replace(rest, source=self.sources[exp.source])


@dataclasses.dataclass(frozen=True)
class _Moved:
    move: _Mover
    experiences: Stream

    def __call__(self, index: int) -> Any:
        return self.move.experience(self.experiences[index])


def stream_key(seed: int) -> Tensor:
    """The key from which a run with this seed gets its stream, when the benchmark is a function of a key."""
    return random.fold_in(random.key(seed), 1 << 40)


def before(chunk: Sequence[Run], partials: dict[str, InterruptedRun]) -> list[InterruptedRun]:
    """The interrupted runs of a chunk: of all its runs, or of none."""
    return [partials[run.name] for run in chunk if run.name in partials]
