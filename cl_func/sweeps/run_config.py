"""What the runs of a sweep have in common, what distinguishes them, and the first run, on which everything is checked and timed."""

from __future__ import annotations

import dataclasses
import functools
import json
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, random, signatures, tree
from cl_func.core import Strategy
from cl_func.core.kinds import Probe, S
from cl_func.evaluation import evaluate
from cl_func.experiences import Benchmark, Experience, Stream, stack, stream
from cl_func.probes import OnTest
from cl_func.sources import Source
from cl_func.sources.source import inner_sources
from cl_func.storage import fingerprint
from cl_func.sweeps.trial import vmap_fault
from cl_func.trace import TraceProbe


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep: its index in the product of grid and seeds, its seed, and its hyperparameters by path."""

    index: int
    seed: int
    values: dict[str, Any]

    def __str__(self) -> str:
        return ", ".join([*(f"{path}={value}" for path, value in self.values.items()), f"seed={self.seed}"])

    @property
    def labels(self) -> dict[str, Any]:
        """Its hyperparameters by path, tensors as lists of numbers, and its seed."""
        return {**{path: v.tolist() if isinstance(v, Tensor) else v for path, v in self.values.items()}, "seed": self.seed}

    @property
    def name(self) -> str:
        """Its name in files, made of its seed and values, so that it is the same in every sweep."""
        values = {path: fingerprint.of(value=v)["value"] if isinstance(v, Tensor) else v for path, v in self.values.items()}
        return json.dumps({"seed": self.seed, "values": values}, sort_keys=True)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """What a run of a sweep is made of, apart from its seed and its values."""

    strategy: Strategy
    benchmark: Benchmark | Callable[[Tensor], Benchmark]  # the same for all runs, or made from a key for each
    probe: Probe | None = None  # None: evaluate the strategy's model on the test stream of the run
    every: int = 1
    device: str | torch.device | None = None

    @property
    def evaluates(self) -> bool:
        """Whether the probe is made for the test stream of each run: the evaluation of the strategy's model, or an OnTest."""
        if self._measured is None:
            return self.probe is None or self.strategy.model is not None
        return isinstance(self._measured, OnTest)

    @property
    def _measured(self) -> Probe | None:
        """The probe without the traces that it is beside."""
        return self.probe.beside if isinstance(self.probe, TraceProbe) else self.probe

    def probe_on(self, test: Stream) -> Probe:
        """The probe of runs with a test stream."""
        if not self.evaluates and self.probe is not None:
            return self.probe
        if isinstance(self._measured, OnTest):
            made = signatures.probe("probe", self._measured.make(test))
        else:
            made = evaluate(self.strategy.model, test)
        return tree.replace(self.probe, beside=made) if isinstance(self.probe, TraceProbe) else made

    def on_device(self) -> RunConfig:
        """The same with its streams on its device; each data set is moved once, however many chunks there are."""
        if self.device is None:
            return self
        move = _Mover(self.device)
        benchmark = move(self.benchmark) if isinstance(self.benchmark, Benchmark) else _MovedBenchmark(move, self.benchmark)
        return dataclasses.replace(self, benchmark=benchmark)

    def init(self, run: Run) -> Any:
        """The initial state for the seed of a run, without its values and not yet moved to the device."""
        return checks.tensors("strategy.init", self.strategy.init(random.key(run.seed)))

    def start(self, run: Run) -> Any:
        """The initial state of a run, on its device."""
        return self.move(tree.set(self.init(run), run.values))

    def move(self, state: S) -> S:
        """A state on the device of the sweep."""
        return state if self.device is None else tree.to(state, self.device)

    def benchmark_of(self, run: Run) -> Benchmark:
        """The benchmark of a run."""
        if isinstance(self.benchmark, Benchmark):
            return self.benchmark
        return check_benchmark(self.benchmark(stream_key(run.seed)))


KEPT_ROWS = 1 << 22  # of test streams side by side, 9 bytes each


def streams(benchmarks: Sequence[Benchmark]) -> tuple[Stream, Stream]:
    """The train and test streams of runs side by side; if their benchmarks differ, each lane of an experience has its own rows."""
    if all(benchmark is benchmarks[0] for benchmark in benchmarks):
        return benchmarks[0].train, benchmarks[0].test
    trains, tests = [b.train for b in benchmarks], [b.test for b in benchmarks]
    for name, several in (("train", trains), ("test", tests)):
        lengths = sorted({len(one) for one in several})
        if len(lengths) > 1:
            raise ValueError(
                f"benchmark: runs that share a chunk need {name} streams of one length, got {lengths} experiences; or use lanes=1."
            )
    train, test = (Stream(_SideBySide(tuple(several)), len(several[0])) for several in (trains, tests))
    # The test streams are run through at every measurement, so they are made once; but not hundreds of large ones.
    n_rows = len(tests) * sum(len(exp) for exp in tests[0])
    return train, stream(list(test)) if n_rows <= KEPT_ROWS else test


@dataclasses.dataclass(frozen=True, eq=False)
class _SideBySide:
    """Makes the experiences of several streams, each as one experience of several lanes."""

    streams: tuple[Stream, ...]

    def __call__(self, index: int) -> Experience:
        return stack([one[index] for one in self.streams])


_SIZES = (
    "Only numbers in the state can be swept; for other arguments, such as sizes, make a strategy for each: "
    "cl.compare({'20': er(..., capacity=20), '50': er(..., capacity=50)}, benchmark)."
)


class FirstRun:
    """The first run of a sweep, made once: whatever is checked or timed before the sweep starts is checked or timed on it.

    Raises the errors of `strategy.init`, and TypeError if it does not return a tree of tensors.
    """

    def __init__(self, config: RunConfig, run: Run) -> None:
        self.config, self.run = config, run
        self.initial = config.init(run)  # without the values of the run

    def check(self, runs: Iterable[Run]) -> None:
        """Check every path and value of some runs. Raises TypeError or ValueError, naming the path."""
        for run in {str(run.values): run for run in runs}.values():
            try:
                tree.set(self.initial, run.values)
            except (TypeError, ValueError) as error:
                unknown = str(error).startswith("path ") and "Did you mean" not in str(error)
                mend = f" {_SIZES}" if unknown else ""
                raise type(error)(f"hparams: {error}{mend}") from error
            for path in run.values:
                value = tree.get(self.initial, path)
                if not all(isinstance(leaf, Tensor) for leaf in tree.leaves(value)):
                    raise checks.type_error(f"hparams: {path!r}", "the path of a tensor, such as torch.tensor(0.1)", value)

    @functools.cached_property
    def state(self) -> Any:
        """Its initial state, on its device."""
        return self.config.move(tree.set(self.initial, self.run.values))

    @functools.cached_property
    def benchmark(self) -> Benchmark:
        """Its benchmark."""
        return self.config.benchmark_of(self.run)

    @functools.cached_property
    def experience(self) -> Experience:
        """The first experience that it is trained on."""
        return self.benchmark.train[0]

    @property
    def length(self) -> int:
        """How many times it is measured."""
        return -(-len(self.benchmark.train) // self.config.every)

    def fault(self) -> str | None:
        """Why runs cannot share a chunk although a single run works, in words; else None."""
        return vmap_fault("update", self.config.strategy.update, self.state, self.experience) or self.probe_fault()

    def probe_fault(self) -> str | None:
        """The same for the probe alone, as far as a single call shows."""
        probe = self.config.probe
        return None if probe is None else vmap_fault("probe", probe, self.state, self.experience, calls=1)


def stream_key(seed: int) -> Tensor:
    """The key for the benchmark of a run with this seed, if that is a function of a key."""
    return random.fold_in(random.key(seed), 1 << 40)


def check_benchmark(benchmark: Benchmark) -> Benchmark:
    """Check what the user's function returned."""
    return checks.instance("benchmark", benchmark, Benchmark, "the function to return a Benchmark")


class _Mover:
    """Moves benchmarks to a device, each dataset once, so that streams that shared a source still share it."""

    def __init__(self, device: str | torch.device) -> None:
        # Weak, since a permuted stream makes a new view for each experience and drops it afterwards.
        self.device, self.sources = device, weakref.WeakKeyDictionary[Source, Source]()

    def __call__(self, benchmark: Benchmark) -> Benchmark:
        streams = {f.name: getattr(benchmark, f.name) for f in dataclasses.fields(benchmark)}
        return Benchmark(**{name: some and Stream(_Moved(self, some), len(some)) for name, some in streams.items()})

    def experience(self, exp: Experience) -> Experience:
        """An experience on the device."""
        rest = tree.to(tree.replace(exp, source=None), self.device)
        return tree.replace(rest, source=self.source(exp.source))

    def source(self, source: Source) -> Source:
        """A source on the device; of a view its parameters are moved, and what it is a view of is moved once."""
        if source not in self.sources:
            inner = inner_sources(source)
            own = tree.to(tree.replace(source, **dict.fromkeys(inner)), self.device)
            self.sources[source] = tree.replace(own, **{name: self.source(part) for name, part in inner.items()})
        return self.sources[source]


@dataclasses.dataclass(frozen=True)
class _Moved:
    """Makes the experiences of a stream on a device."""

    move: _Mover
    experiences: Stream

    def __call__(self, index: int) -> Experience:
        return self.move.experience(self.experiences[index])


@dataclasses.dataclass(frozen=True)
class _MovedBenchmark:
    """Makes benchmarks from keys, on a device."""

    move: _Mover
    make: Callable[[Tensor], Benchmark]

    def __call__(self, key: Tensor) -> Benchmark:
        return self.move(check_benchmark(self.make(key)))
