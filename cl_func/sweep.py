"""Sweeps: seeds times hyperparameters of one strategy as few vmapped, compiled programs.

The runs are cut into chunks of lanes; each chunk is one fold of `cl.compile(cl.vmap(update))`, and chunks run side by side: on
threads of this process, or on any `concurrent.futures.Executor`. Lane i of a chunk equals the single run with its seed and
values, so the result depends neither on the chunks nor on where they ran.
"""

from __future__ import annotations

import concurrent.futures
import copyreg
import dataclasses
import hashlib
import importlib
import math
import operator
import os
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cl_func import checks, random, tree
from cl_func.core import At, Compose, Minibatches, Repeat, Strategy, positive
from cl_func.evaluate import evaluate
from cl_func.experience import Benchmark, Stream, stack, stream
from cl_func.grids import Grid, label
from cl_func.ledger import Ledger
from cl_func.runs import Runs
from cl_func.scan import scan
from cl_func.transforms import compile as compiled
from cl_func.transforms import vmap

CACHE_BYTES = 12 * 2**20  # lanes whose weights, gradients and moments fit in this stay in a core's share of the cache
COMPILE_SECONDS = 20.0  # what a cold compilation of a step costs, about; compiling must save more


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep: its place in the product, its seed, and its values by path."""

    place: int
    seed: int
    values: dict[str, Any]

    def __str__(self) -> str:
        return ", ".join([*(f"{path}={value}" for path, value in self.values.items()), f"seed={self.seed}"])


@dataclasses.dataclass(frozen=True)
class Job:
    """All that a chunk needs to run, here or in another process."""

    strategy: Strategy
    benchmark: Any  # Benchmark, or a function of a key that returns one
    probe: Any
    compiled: bool
    lanes: int
    device: Any

    def prepare(self) -> tuple[Any, Any]:
        """The update and the probe as they are called; compiled programs live in them and are shared by all chunks."""
        update, probe = self.strategy.update, self.probe
        if self.lanes > 1:
            update, probe = vmap(update), None if probe is None else vmap(probe)
        if self.compiled:
            update, probe = compiled(update), None if probe is None else compiled(probe)
        return update, probe

    def start(self, run: Run) -> Any:
        """The initial state of a run."""
        state = tree.set(self.strategy.init(random.key(run.seed)), run.values)
        return state if self.device is None else tree.map(lambda leaf: leaf.to(self.device), state)

    def length(self, run: Run) -> int:
        """The number of experiences of a run."""
        return len((self.benchmark if isinstance(self.benchmark, Benchmark) else self._own(run)).train)

    def _own(self, run: Run) -> Benchmark:
        made = self.benchmark(stream_key(run.seed))
        return checks.instance("benchmark", made, Benchmark, "the function to return a Benchmark")

    def streams(self, runs: Sequence[Run]) -> tuple[Any, Any]:
        """The train and the test stream of some runs; with a benchmark per seed, the lanes carry their own rows."""
        if isinstance(self.benchmark, Benchmark):
            return self._placed(self.benchmark.train), self._placed(self.benchmark.test)
        own = [self._own(run) for run in runs]
        if len(runs) == 1:
            return self._placed(own[0].train), self._placed(own[0].test)
        return tuple(
            self._placed(stream([stack(exps) for exps in zip(*streams, strict=True)]))
            for streams in ([b.train for b in own], [b.test for b in own])
        )

    def _placed(self, experiences: Stream) -> Any:
        if self.device is None:
            return experiences
        moved: dict[int, Any] = {}

        def place(exp: Any) -> Any:
            source = moved.setdefault(id(exp.source), tree.map(lambda leaf: leaf.to(self.device), exp.source))
            rest = tree.map(lambda leaf: leaf.to(self.device), tree.replace(exp, source=None))
            return tree.replace(rest, source=source)

        return stream([place(exp) for exp in experiences])

    def __call__(self, runs: Sequence[Run], prepared: Any = None, tick: Callable[[], None] = lambda: None) -> list[dict[str, Any]]:
        """The histories of some runs, name -> array [time, ...] each; `tick` is called after every experience."""
        update, probe = self.prepare() if prepared is None else prepared
        train, test = self.streams(runs)
        if probe is None:
            probe = Job.prepare(dataclasses.replace(self, probe=evaluate(self.strategy.model, test)))[1]

        def looked(state: Any, exp: Any) -> Any:
            tick()
            return probe(state, exp)

        if self.lanes == 1:
            histories = [scan(update, self.start(run), train, looked, donate=self.compiled)[1] for run in runs]
        else:
            filled = [*runs, *[runs[-1]] * (self.lanes - len(runs))]  # one shape for all chunks: no second program for the last
            states = tree.stack([self.start(run) for run in filled])
            _, history = scan(update, states, train, looked, donate=self.compiled)
            histories = [tree.map(lambda leaf, i=i: leaf[:, i], history) for i in range(len(runs))]
        return [{path or "value": leaf.cpu().numpy() for path, leaf in tree.items(history)} for history in histories]


def stream_key(seed: int) -> Tensor:
    """The key from which a run with this seed gets its stream, when the benchmark is a function of a key."""
    return random.fold_in(random.key(seed), 1 << 40)


def _remote(payload: bytes, runs: Sequence[Run]) -> list[dict[str, Any]]:
    import cloudpickle

    return cloudpickle.loads(payload)(runs)


def sweep(
    strategy: Strategy,
    benchmark: Benchmark | Callable[[Tensor], Benchmark],
    *,
    seeds: int | Sequence[int] = 10,
    hparams: Grid | None = None,
    probe: Any = None,
    compile: bool | Literal["auto"] = "auto",
    lanes: int | Literal["auto"] = "auto",
    executor: Any = None,
    progress: bool = True,
    device: Any = None,
    resume: str | Path | None = None,
) -> Runs:
    """Run a strategy for every seed and every point of a grid of hyperparameters.

    benchmark: a Benchmark; or a function from a key to one, called with a key of each seed, for a class order per seed:
        `lambda key: cl.streams.split_by_class(train, test, n_experiences=5, key=key)`. The datasets are shared, not copied.
    seeds: how many (0, 1, ...), or which. hparams: from `cl.grid`, `cl.zipped`, `cl.random_grid`; paths of leaves of the state.
    probe: what is measured after every experience; by default the evaluation of `strategy.model` on the test stream.
    compile: "auto" compiles if an eager sweep would take clearly longer than compiling.
    lanes: runs per chunk; "auto" takes what fits the cache, or 1 where a few timed steps show that vmapping loses.
    executor: chunks are submitted to it (a process pool, `dask_client.get_executor()`, a submitit executor), which needs the
        cloudpickle package. Without one they run here, on a thread per core if compiled.
    resume: a folder that keeps finished runs; a sweep that finds them there goes on with the rest, whatever the chunks.

    Ctrl-C returns the finished runs, after a warning; the others are NaN. On an executor, a chunk that fails or whose worker dies
    is reported as a RuntimeError that names its runs, when all others are done; state classes of your own must then be importable,
    not defined in the script that is run. Raises TypeError or ValueError for other arguments, unknown paths, no probe, bad seeds.
    """
    started = time.perf_counter()
    if not isinstance(strategy, Strategy):
        raise TypeError(f"strategy: expected a cl.Strategy(init, update), got {tree.describe(strategy)}.")
    if not isinstance(benchmark, Benchmark) and not callable(benchmark):
        raise TypeError(f"benchmark: expected a Benchmark or a function from a key to one, got {tree.describe(benchmark)}.")
    if hparams is not None and not isinstance(hparams, Grid):
        raise TypeError(f"hparams: expected a grid, cl.grid({{path: values}}), got {hparams!r}.")
    checks.choice("compile", compile, True, False, "auto")
    checks.flag("progress", progress)
    checks.device("device", device)
    if probe is not None:
        checks.function("probe", probe)
    if not isinstance(lanes, str) or lanes != "auto":
        positive("lanes", lanes)
    if executor is not None:
        checks.function("executor", getattr(executor, "submit", None), "an executor, with a method submit")
    if resume is not None and not _is_folder(resume):
        raise ValueError(f"resume: expected the path of a folder, got {resume!r}, which is a file or nothing.")
    places = _seeds(seeds)
    if probe is None and strategy.model is None:
        raise ValueError(
            "probe: the strategy names no model; give probe=cl.evaluate(model, benchmark.test) or Strategy(init, update, model)."
        )
    hparams = hparams or Grid()
    runs = [Run(0, seed, point) for point in hparams.points() for seed in places]
    runs = [dataclasses.replace(run, place=i) for i, run in enumerate(runs)]
    axes: dict[str, list[Any]] = {name: [label(point) for point in points] for name, points in hparams.axes}
    axes["seed"] = list(places)
    ledger = Ledger(axes, [len(v) for v in axes.values()], resume, _fingerprint(strategy, benchmark, runs[0]))
    left = [run for run in runs if not ledger.has(run.place)]

    if probe is None and isinstance(benchmark, Benchmark):
        probe = evaluate(strategy.model, benchmark.test)
    job = Job(strategy, benchmark, probe, compile is True, 1 if lanes == "auto" else positive("lanes", lanes), device)
    if left:
        for run in left[:: len(places)]:
            job.start(run)  # every path and value is checked before anything is trained
        job = _planned(job, left, compile, lanes, executor is not None)
        bar = _bar(progress, math.ceil(len(left) / job.lanes) * job.length(left[0]), job)
        chunks = [left[i : i + job.lanes] for i in range(0, len(left), job.lanes)]
        try:
            (_run_here if executor is None else _run_on)(job, chunks, ledger, bar, executor)
        except KeyboardInterrupt:
            warnings.warn(
                f"sweep: interrupted; {ledger.count()} of {len(runs)} runs are finished, the others are NaN.", stacklevel=2
            )
        finally:
            bar.close()

    def replay(place: int) -> Any:
        single = dataclasses.replace(job, lanes=1, compiled=False)
        return scan(strategy.update, single.start(runs[place]), single.streams([runs[place]])[0])[0]

    return Runs(axes, *ledger.collect(), time.perf_counter() - started, replay)


def _is_folder(path: Any) -> bool:
    """Whether a path is that of a folder, or of nothing yet."""
    return str(checks.instance("resume", path, (str, Path), "the path of a folder")) != "" and not Path(path).is_file()


def _seeds(seeds: Any) -> list[int]:
    """Which seeds: as many as a number says, or those given, as Python's integers."""
    expected = "how many, or a sequence of distinct integers"
    if isinstance(seeds, (int, np.integer)):
        return list(range(positive("seeds", seeds if isinstance(seeds, int) else int(seeds))))
    if not isinstance(seeds, (Sequence, Tensor, np.ndarray)) or isinstance(seeds, (str, bytes)) or getattr(seeds, "ndim", 1) != 1:
        raise checks.refuse("seeds", expected, seeds)
    try:
        places = [operator.index(seed) for seed in seeds]
    except (TypeError, RuntimeError) as error:
        raise checks.refuse("seeds", expected, seeds) from error
    if any(isinstance(seed, bool) for seed in seeds) or len(set(places)) != len(places) or not places:
        raise ValueError(f"seeds: expected {expected}, got {tree.describe(seeds)}.")
    if not all(-(1 << 63) <= seed < 1 << 64 for seed in places):
        raise ValueError(f"seeds: expected integers of 64 bits, got {places}.")
    return places


def _fingerprint(strategy: Strategy, benchmark: Any, run: Run) -> str:
    """What a resumed sweep must have in common with its folder, as far as one can tell: first state, loops, lengths."""
    start = strategy.init(random.key(run.seed))
    digest = hashlib.sha256(str(tree.flatten(strategy.update)[1]).encode())
    for path, leaf in tree.items(start):
        digest.update(path.encode() + leaf.cpu().numpy().tobytes())
    if isinstance(benchmark, Benchmark):
        digest.update(str([len(exp) for exp in benchmark.train]).encode())
    return digest.hexdigest()[:16]


def _run_here(job: Job, chunks: list[list[Run]], ledger: Ledger, bar: Any, executor: None) -> None:
    """Chunks on threads, one a core, each computing on one: whole chunks side by side scale better than each kernel does."""
    prepared, stopped, threads = job.prepare(), threading.Event(), torch.get_num_threads()
    workers = min(len(chunks), os.cpu_count() or 1) if job.compiled and job.device is None else 1

    def tick() -> None:
        bar.update(1)
        if stopped.is_set():
            raise KeyboardInterrupt

    def work(chunk: list[Run]) -> list[dict[str, Any]]:
        if workers > 1:
            torch.set_num_threads(1)
        return job(chunk, prepared, tick)

    if workers == 1:
        for chunk in chunks:
            ledger.add(chunk, work(chunk))
        return
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    try:
        futures = {pool.submit(work, chunk): chunk for chunk in chunks}
        for future in concurrent.futures.as_completed(futures):
            ledger.add(futures[future], future.result())
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _run_on(job: Job, chunks: list[list[Run]], ledger: Ledger, bar: Any, executor: Any) -> None:
    """Chunks on an executor; results are taken as they come, and what fails is named at the end."""
    try:
        import cloudpickle
    except ImportError as error:
        raise ImportError("sweep: to send runs to an executor install cloudpickle: pip install cloudpickle") from error
    # cloudpickle takes `exp.classes` in a function that also uses torch for the module torch.classes, which nothing can pickle.
    copyreg.pickle(type(torch.classes), lambda module: (importlib.import_module, (module.__name__,)))  # type: ignore[arg-type, return-value]
    payload = cloudpickle.dumps(job)
    futures = {executor.submit(_remote, payload, chunk): chunk for chunk in chunks}
    failed: list[Run] = []
    cause: BaseException | None = None
    # Polled, because jobs of schedulers such as submitit's are not concurrent.futures.Future.
    while futures:
        done = [future for future in futures if future.done()]
        for future in done:
            chunk = futures.pop(future)
            try:
                ledger.add(chunk, future.result())
            except Exception as error:
                failed, cause = [*failed, *chunk], error
            bar.update(job.length(chunk[0]))
        if not done:
            time.sleep(0.02)
    if failed:
        names = "; ".join(str(run) for run in failed)
        raise RuntimeError(
            f"sweep: {len(failed)} runs failed or lost their worker: {names}. The others are finished"
            f"{' and kept; sweep again to run what is missing.' if ledger.folder else '; give resume=FOLDER to keep them.'}"
        ) from cause


class _Enough(Exception):  # noqa: N818 - no error: ends a measurement
    pass


def _seconds_per_call(update: Any, state: Any, train: Any, calls: int = 6) -> float:
    """The median time of the first leaf calls of an eager update on a stream."""
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
        for exp in train:
            state = tree.map(timed, update)(state, exp)
    except _Enough:
        pass
    return sorted(times)[len(times) // 2]


def leaf_calls(update: Any, n: int) -> int:
    """How many leaf calls an update makes on an experience of n rows."""
    if isinstance(update, Compose):
        return sum(leaf_calls(part, n) for part in update.updates)
    if isinstance(update, Repeat):
        return update.times * leaf_calls(update.update, n)
    if isinstance(update, At):
        return leaf_calls(update.update, n)
    if isinstance(update, Minibatches):
        size = update.batch_size or n
        per_pass = max(1, n // size if update.drop_last else -(-n // size))
        total = update.iterations or update.epochs * per_pass
        return total * leaf_calls(update.step, size) + (-(-total // per_pass) if update.order is not None else 0)
    return 1


def _planned(job: Job, runs: list[Run], compile: Any, lanes: Any, remote: bool) -> Job:
    """The job with lanes and compilation chosen, by the size of the state and a few timed eager steps."""
    if lanes != "auto" and compile != "auto":
        return job
    single = job.start(runs[0])
    train, _ = dataclasses.replace(job, lanes=1).streams(runs[:1])
    if lanes == "auto":
        job = dataclasses.replace(job, lanes=_lanes(job, single, train, runs, remote))
    if compile == "auto":
        update, state = job.strategy.update, single
        if job.lanes > 1:
            update, state = vmap(update), tree.stack([single] * job.lanes)
        calls = sum(leaf_calls(job.strategy.update, len(exp)) for exp in train) * math.ceil(len(runs) / job.lanes)
        eager = _seconds_per_call(update, state, train) * calls
        job = dataclasses.replace(job, compiled=eager > 2 * COMPILE_SECONDS)
    return job


def _lanes(job: Job, single: Any, train: Any, runs: list[Run], remote: bool) -> int:
    if len(runs) == 1:
        return 1
    size = sum(
        leaf.numel() * leaf.element_size() for leaf in [*tree.leaves(single.model), *tree.leaves([single.model, single.opt])]
    )
    fitting = max(1, min(len(runs), 2 ** round(math.log2(max(1.0, CACHE_BYTES / size)))))
    workers = os.cpu_count() or 1
    chunks = max(1, round(len(runs) / fitting / workers)) * workers if fitting < len(runs) else 1
    count = math.ceil(len(runs) / chunks)
    together = _seconds_per_call(vmap(job.strategy.update), tree.stack([single] * count), train) / count if count > 1 else math.inf
    return count if together < _seconds_per_call(job.strategy.update, single, train) else 1


class _NoBar:
    def update(self, n: int) -> None:
        pass

    def close(self) -> None:
        pass


def _bar(progress: bool, total: int, job: Job) -> Any:
    """A progress bar over experiences of chunks, where tqdm is installed."""
    if progress:
        try:
            from tqdm import tqdm
        except ImportError:
            return _NoBar()
        how = f"{'compiled' if job.compiled else 'eager'}, {job.lanes} lane{'s' if job.lanes > 1 else ''} a chunk"
        return tqdm(total=total, desc=f"sweep ({how})", unit="exp")
    return _NoBar()
