"""How a point of a grid of hyperparameters is chosen: on held-out data, on the first experiences, or on the test data.

    point = argmax over the grid of the mean over seeds of metric(run on the data of the selection)

The data of a selection are no test data (but for `oracle`), and its seeds are not those of the report, so that what is reported of
the chosen point is not what it was chosen by.

Of tuning on the first experiences: Chaudhry, Ranzato, Rohrbach & Elhoseiny, "Efficient lifelong learning with A-GEM", ICLR 2019;
Lee, Hellan, Ericsson, Crowley & Storkey, "Hyperparameter selection in continual learning", arXiv 2404.06466, who find it as good as
tuning on the whole stream, which a learner that sees the stream once cannot do.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from cl_func import checks, random, signatures
from cl_func.core import Probe, Strategy
from cl_func.experiences import Benchmark, Stream
from cl_func.select import splits
from cl_func.select.splits import Make, Split
from cl_func.sweeps.chosen import Chosen
from cl_func.sweeps.grids import Grid
from cl_func.sweeps.planning import as_seeds
from cl_func.sweeps.run_config import stream_key
from cl_func.sweeps.runs import Runs
from cl_func.sweeps.summaries import Metric
from cl_func.sweeps.sweep import sweep as run_sweep

FIRST_SEED = 10_000  # of a selection; a report has others in most cases, and those that it has are passed over
AT_THE_END = 1 << 30  # `every` of a sweep that measures only the final states
Sweep = Callable[..., Runs]  # `cl.sweep`, or a partial of it


@dataclasses.dataclass(frozen=True)
class Selection:
    """A way to choose a point, made by `validation`, `first_experiences` or `oracle`.

    split: from a benchmark to the one with the data of the selection.
    data: what these are called; data_of_valid: of a benchmark that has a valid stream.
    The other fields are the arguments of the factories.
    """

    split: Split
    data: str
    data_of_valid: str
    metric: Metric | None = None
    largest: bool | None = None
    seeds: int = 3
    probe: Callable[[Stream], Probe] | None = None

    def describe(self) -> str:
        """How a point is chosen, in words."""
        return f"chosen on {self.data}{_by(self.metric)}, with {self.seeds} seed{'s' if self.seeds > 1 else ''} of its own"

    def __str__(self) -> str:
        return self.describe()

    def choose(
        self,
        strategy: Strategy,
        benchmark: Benchmark | Make,
        hparams: Grid,
        *,
        seeds: int | Sequence[int] = 10,
        sweep: Sweep = run_sweep,
    ) -> Chosen:
        """The best point of a grid: path -> value, for `cl.sweep(hparams=)` and `cl.tree.set`.

        benchmark: a Benchmark, or a function from a key to one, as `cl.sweep` takes it.
        seeds: those of the report, as `cl.sweep` takes them: the selection uses none of them.
        sweep: what runs the strategy: `cl.sweep`, or a `functools.partial` of it with an executor, a device and so on. In a folder
            to resume, or of checkpoints, the selection has one of its own. A probe that it has is passed over: it is the report's.

        The result says in words how it was chosen, `point.how`, and has the Runs that it was chosen from, `point.searched`. A grid
        of one point is not run. Raises TypeError or ValueError as `cl.sweep` and `Runs.best` do.
        """
        points = check(hparams, sweep)
        if len(points) == 1:
            return Chosen(points[0], "not chosen: there was one point")
        fresh = fresh_seeds(self.seeds, seeds)
        runs = search(self, self.split, strategy, benchmark, hparams, fresh, in_folder(sweep, "choosing"))
        return Chosen(runs.best(self.metric, largest=self.largest), how(self, benchmark, fresh), (runs,))


def validation(
    fraction: float = 0.1,
    metric: Metric | None = None,
    *,
    seeds: int = 3,
    largest: bool | None = None,
    probe: Callable[[Stream], Probe] | None = None,
    key: Tensor | None = None,
) -> Selection:
    """Choose on a held-out part of each train experience; the rest is trained on. A `valid` stream that is there is taken instead.

    Of an online stream hold out the rows before it is cut: `cl.streams.split_online(cl.streams.with_validation(...), ...)`.

    fraction: how much of each experience is held out, in (0, 1).
    metric: what is compared, as in `Runs.best`; by default the average accuracy at the end, or what stands for it.
    seeds: how many seeds each point is run with. largest: as in `Runs.best`, for a metric of your own.
    probe: from a stream to a Probe, if not the evaluation of `strategy.model` is to be measured, such as
        `functools.partial(cl.evaluate, model, mask="experience")`; not for benchmarks that are made for each seed.
    key: of the draw of the rows that are held out; by default cl.key(0).
    Raises TypeError or ValueError for arguments that are not of these kinds.
    """
    fraction = checks.number("fraction", fraction, 0, 1)
    split = functools.partial(splits.held_out, fraction=fraction, key=_key(key))
    data = (f"a held-out {_percent(fraction)} of each experience", "the validation stream")
    return _selection(split, data, metric, seeds, largest, probe)


def first_experiences(
    k: int,
    metric: Metric | None = None,
    *,
    fraction: float = 0.1,
    seeds: int = 3,
    largest: bool | None = None,
    probe: Callable[[Stream], Probe] | None = None,
    key: Tensor | None = None,
) -> Selection:
    """Choose by training on the first k experiences only, and measuring on a held-out part of these; no later one is looked at.

    k: how many experiences, at least 1. The other arguments are those of `validation`.
    Raises TypeError or ValueError for arguments that are not of these kinds, and when it is used for k above the stream's length.
    """
    checks.positive_int("k", k)
    fraction = checks.number("fraction", fraction, 0, 1)
    split = functools.partial(splits.first, k=k, fraction=fraction, key=_key(key))
    which = f"the first {k} experiences" if k > 1 else "the first experience"
    data = (f"a held-out {_percent(fraction)} of {which}", f"{which} of the validation stream")
    return _selection(split, data, metric, seeds, largest, probe)


def oracle(
    metric: Metric | None = None,
    *,
    seeds: int = 3,
    largest: bool | None = None,
    probe: Callable[[Stream], Probe] | None = None,
) -> Selection:
    """Choose on the test stream, as no learner can: no fair result, but one to hold others against. Tables say that it was done.

    The arguments are those of `validation`. Raises TypeError or ValueError for arguments that are not of these kinds.
    """
    return _selection(splits.on_test, ("test data", "test data"), metric, seeds, largest, probe)


def _selection(
    split: Split,
    data: tuple[str, str],
    metric: Metric | None,
    seeds: int,
    largest: bool | None,
    probe: Callable[[Stream], Probe] | None,
) -> Selection:
    one = metric[0] if isinstance(metric, tuple) and len(metric) == 2 and isinstance(metric[1], str) else metric
    if not (one is None or isinstance(one, str) or checks.is_function(one)) or (one is None and metric is not None):
        raise checks.type_error("metric", "the name of a metric, a function, or a pair of one of these and a history", metric)
    if checks.is_function(one):
        signatures.function("metric", one, 1, "the name of a metric, or a function of a history [time, ...]")
    checks.choice("largest", largest, True, False, None)
    if probe is not None:
        signatures.function("probe", probe, 1, "a function from a stream to a Probe, such as functools.partial(cl.evaluate, model)")
    return Selection(split, *data, metric, largest, checks.positive_int("seeds", seeds), probe)


def _key(key: Tensor | None) -> Tensor:
    return random.key(0) if key is None else checks.key("key", key)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g}%"


def _by(metric: Metric | None) -> str:
    """By which metric, in words; nothing for the usual one."""
    if metric is None:
        return ""
    name, history = metric if isinstance(metric, tuple) else (metric, None)
    name = name if isinstance(name, str) else str(getattr(name, "__name__", "a function")).strip("<>")
    return f" by {name}{'' if history is None else f' of {history}'}"


def how(selection: Selection, benchmark: Benchmark | Make, fresh: Sequence[int], rounds: str = "") -> str:
    """How a point was chosen, in words that name the seeds; rounds: of what procedure, such as ", by successive halving"."""
    first = benchmark if isinstance(benchmark, Benchmark) else benchmark(stream_key(fresh[0]))
    data = selection.data if first.valid is None else selection.data_of_valid
    n, row = len(fresh), list(range(fresh[0], fresh[0] + len(fresh)))
    listed = f"{fresh[0]} to {fresh[-1]}" if n > 2 and fresh == row else ", ".join(map(str, fresh))
    return f"chosen on {data}{_by(selection.metric)}{rounds}, with the seed{'s' if n > 1 else ''} {listed}"


def fresh_seeds(n: int, report: int | Sequence[int]) -> list[int]:
    """n seeds that are none of those of the report; the same ones whenever that does not have them itself."""
    taken = set(as_seeds(report))

    return list(itertools.islice((seed for seed in itertools.count(FIRST_SEED) if seed not in taken), n))


def check(hparams: Grid, sweep: Any) -> list[dict[str, Any]]:
    """Check what every `choose` is given, and return the points of the grid; TypeError otherwise."""
    checks.instance("hparams", hparams, Grid, "a grid to choose from, such as cl.grid({'opt.lr': [0.03, 0.1]})")
    keywords = ("seeds", "hparams", "probe", "every")
    signatures.function("sweep", sweep, 2, "cl.sweep, or a functools.partial of it", keywords=keywords)
    return hparams.points()


def search(
    selection: Selection,
    split: Split,
    strategy: Strategy,
    benchmark: Benchmark | Make,
    hparams: Grid,
    seeds: Sequence[int],
    sweep: Sweep,
) -> Runs:
    """The Runs of all points of a grid on the data that a split gives, measured as a selection says."""
    if selection.probe is None and isinstance(strategy, Strategy) and strategy.model is None:
        raise ValueError("strategy: it names no model to measure; give Strategy(init, update, model), or probe= of the selection.")
    data = splits.apply(split, benchmark)
    probe = None
    if selection.probe is not None:
        if not isinstance(data, Benchmark):
            raise ValueError("probe: a benchmark that is made for each seed is measured by the strategy's model; give no probe.")
        probe = selection.probe(data.test)
    every = AT_THE_END if selection.metric is None else 1
    return sweep(strategy, data, seeds=list(seeds), hparams=hparams, probe=probe, every=every)


def in_folder(sweep: Sweep, name: str) -> Sweep:
    """The same with a folder of its own in the folder that it resumes, if it has one: what is run there is another sweep."""
    if not isinstance(sweep, functools.partial):
        return sweep
    resume, checkpoint = sweep.keywords.get("resume"), sweep.keywords.get("checkpoint")
    if resume is not None:
        return functools.partial(sweep, resume=Path(resume) / name)
    if checkpoint is not None:
        return functools.partial(sweep, checkpoint=dataclasses.replace(checkpoint, folder=Path(checkpoint.folder) / name))
    return sweep
