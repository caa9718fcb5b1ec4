"""What the runs of a sweep have in common, what tells one from another, and its first run, which everything is decided by."""

from __future__ import annotations

import dataclasses
import functools
import json
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor

from cl_func import checks, random, tree
from cl_func.core import Strategy
from cl_func.core.kinds import Probe
from cl_func.experiences import Benchmark, Experience, Stream, stack, stream
from cl_func.storage import fingerprint
from cl_func.sweeps.trial import vmap_fault


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
class RunConfig:
    """What every run of a sweep is made of, but for its seed and its values."""

    strategy: Strategy
    benchmark: Benchmark | Callable[[Tensor], Benchmark]  # one for all runs, or a function from a key to that of a run
    probe: Probe | None = None  # None: the evaluation of the strategy's model on the run's own test stream
    every: int = 1
    device: Any = None

    def on_device(self) -> RunConfig:
        """The same with its streams on its device: each data set is moved once, however many chunks are run."""
        if self.device is None:
            return self
        move = _Mover(self.device)
        benchmark = move(self.benchmark) if isinstance(self.benchmark, Benchmark) else _MovedBenchmark(move, self.benchmark)
        return dataclasses.replace(self, benchmark=benchmark)

    def init(self, run: Run) -> Any:
        """The state that the strategy makes for the seed of a run, before the run's values are set and before it is moved."""
        return checks.tensors("strategy.init", self.strategy.init(random.key(run.seed)))

    def start(self, run: Run) -> Any:
        """The initial state of a run, on its device."""
        return self._moved(tree.set(self.init(run), run.values))

    def _moved(self, state: Any) -> Any:
        return state if self.device is None else tree.to(state, self.device)

    def benchmark_of(self, run: Run) -> Benchmark:
        """The benchmark of a run."""
        if isinstance(self.benchmark, Benchmark):
            return self.benchmark
        return _checked(self.benchmark(stream_key(run.seed)))


def streams(benchmarks: Sequence[Benchmark]) -> tuple[Stream, Stream]:
    """The train and the test stream of runs side by side; with a benchmark for each, the lanes carry their own rows."""
    if all(benchmark is benchmarks[0] for benchmark in benchmarks):
        return benchmarks[0].train, benchmarks[0].test
    train, test = (
        stream([stack(exps) for exps in zip(*several, strict=True)])
        for several in ([b.train for b in benchmarks], [b.test for b in benchmarks])
    )
    return train, test


class FirstRun:
    """The first run of a sweep, made once: what is checked and measured before a sweep is checked and measured on it.

    Raises what `strategy.init` raises, and TypeError where it gives no tree of tensors.
    """

    def __init__(self, config: RunConfig, run: Run) -> None:
        self.config, self.run = config, run
        self.made = config.init(run)

    def check(self, runs: Iterable[Run]) -> None:
        """Check every path and value of some runs. Raises TypeError or ValueError that names the path."""
        for run in {str(run.values): run for run in runs}.values():
            tree.set(self.made, run.values)
            for path in run.values:
                value = tree.get(self.made, path)
                if not all(isinstance(leaf, Tensor) for leaf in tree.leaves(value)):
                    raise checks.type_error(f"hparams: {path!r}", "the path of a tensor, such as torch.tensor(0.1)", value)

    @functools.cached_property
    def state(self) -> Any:
        """Its initial state, on its device."""
        return self.config._moved(tree.set(self.made, self.run.values))

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
        """Why runs cannot share a chunk, in words, if one by one they work."""
        return vmap_fault("update", self.config.strategy.update, self.state, self.experience) or self.probe_fault()

    def probe_fault(self) -> str | None:
        """The same of a probe alone, as far as one call of it shows."""
        probe = self.config.probe
        return None if probe is None else vmap_fault("probe", probe, self.state, self.experience, calls=1)


def stream_key(seed: int) -> Tensor:
    """The key from which a run with this seed gets its stream, when the benchmark is a function of a key."""
    return random.fold_in(random.key(seed), 1 << 40)


def _checked(made: Any) -> Benchmark:
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


@dataclasses.dataclass(frozen=True)
class _MovedBenchmark:
    move: _Mover
    make: Callable[[Tensor], Benchmark]

    def __call__(self, key: Tensor) -> Benchmark:
        return self.move(_checked(self.make(key)))
