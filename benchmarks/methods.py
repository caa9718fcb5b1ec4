"""The settings and the methods whose accuracy and cost are measured, one line per method.

The protocol is that of van de Ven, Tuytelaars & Tolias, "Three types of incremental learning", Nature Machine Intelligence 2022: an
MLP 784-400-400 with ReLU, Adam with a learning rate of 1e-3, minibatches of 128, a number of iterations per experience (2000 in
the paper), and a memory of 100 samples for each of the ten classes. Fashion-MNIST takes MNIST's place. The order of the classes and
the permutations are the same for all seeds; seeds differ in weights, minibatches and everything else that a method draws.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import cl_func as cl

BATCH = 128
MEMORY = 1000  # 100 for each of the ten classes of the data, in every setting
SETTINGS = {
    "class": "Split-Fashion-MNIST, class-incremental",
    "domain": "Split-Fashion-MNIST, domain-incremental",
    "task": "Split-Fashion-MNIST, task-incremental",
    "permuted": "Permuted-Fashion-MNIST, 10 permutations",
}


@dataclasses.dataclass(frozen=True)
class Problem:
    """One setting: its streams, its model, and the numbers that the factories take."""

    setting: str
    bench: cl.Benchmark
    model: cl.models.Model
    iterations: int
    batch: int = BATCH
    memory: int = MEMORY
    optimizer: cl.core.Optimizer = dataclasses.field(default_factory=lambda: cl.optim.adam(1e-3))

    @property
    def experiences(self) -> int:
        """The number of experiences."""
        return len(self.bench.train)

    @property
    def classes(self) -> int:
        """The number of classes C."""
        return self.model.n_classes


@dataclasses.dataclass(frozen=True)
class Method:
    """A method of `cl.strategies`, its arguments in the protocol, and the grid from which its hyperparameters are chosen."""

    name: str
    arguments: Callable[[Problem], Mapping[str, Any]] = lambda p: {}
    grid: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    settings: Sequence[str] = tuple(SETTINGS)
    stream: str = "plain"  # "cumulative": trained on all data so far; "all": on the data of all experiences, once
    # The passes over a minibatch that a step in experience k needs: forward and backward, forward only. None where its cost does
    # not consist of passes.
    passes: Callable[[int], tuple[float, float]] | None = lambda k: (1, 0)

    @property
    def available(self) -> bool:
        """Whether the library has the method."""
        return hasattr(cl.strategies, self.name)

    def strategy(self, problem: Problem, **changes: Any) -> cl.Strategy:
        """The method on a problem: its factory called with the arguments of the protocol."""
        loop = {"batch_size": problem.batch, "iterations": self.budget(problem)}
        factory = getattr(cl.strategies, self.name)
        return factory(problem.model, problem.optimizer, **{**loop, **self.arguments(problem), **changes})

    def budget(self, problem: Problem) -> int:
        """Iterations per experience; joint training has the iterations of all experiences at once."""
        return problem.iterations * (problem.experiences if self.stream == "all" else 1)

    def benchmark(self, problem: Problem) -> cl.Benchmark:
        """The streams that the method is run on."""
        bench = problem.bench
        if self.stream == "plain":
            return bench
        bench = cl.streams.cumulative(bench)
        # Made once: at every access the experiences would be joined again.
        return bench if self.stream == "cumulative" else dataclasses.replace(bench, train=_kept(bench.train[-1:]))


def _replay(p: Problem) -> dict[str, int]:
    return {"capacity": p.memory, "replay_size": p.batch}


def _strength(p: Problem) -> dict[str, float]:
    return {"strength": 1.0}  # required by the factory; the grid sets it


WITHOUT_TASKS = ("class", "domain")
STRENGTHS = [10.0, 100.0, 1e3, 1e4, 1e5]
ALPHAS = [0.3, 1.0, 3.0, 10.0]

METHODS = (
    # Baselines
    Method("naive"),
    Method("from_scratch"),
    Method("cumulative", stream="cumulative"),
    Method("joint", stream="all"),
    # Replay
    Method("er", _replay, passes=lambda k: (2, 0)),
    Method("er_lwf", _replay, {"lwf.strength": [0.03, 0.1, 0.3, 1.0]}, passes=lambda k: (2, 2)),
    Method("er_ace", _replay, passes=lambda k: (2, 0)),
    Method("der", _replay, {"alpha": ALPHAS}, passes=lambda k: (2, 0)),
    Method("der_pp", _replay, {"alpha": [0.3, 1.0, 3.0], "beta": [0.5, 1.0, 2.0]}, passes=lambda k: (3, 0)),
    Method("mir", lambda p: {**_replay(p), "candidates": 2 * p.batch}, {"virtual_lr": [1e-2, 1e-1, 1.0]}, passes=lambda k: (3, 4)),
    Method("rar", _replay, {"epsilon": [0.01, 0.03, 0.1], "beta": [0.2, 0.5, 0.8]}, passes=lambda k: (4, 6)),
    Method("gss", _replay, passes=None),
    Method("gdumb", lambda p: {"capacity": p.memory}),
    # Regularisation
    Method("lwf", grid={"lwf.strength": [0.1, 0.3, 1.0, 3.0, 10.0]}, passes=lambda k: (1, 1)),
    Method("ewc", _strength, {"ewc.strength": STRENGTHS}),
    Method("ewc_online", _strength, {"ewc.strength": STRENGTHS}),
    Method("si", _strength, {"si.strength": [0.1, 1.0, 10.0, 100.0, 1e3]}),
    Method("mas", _strength, {"mas.strength": [0.01, 0.1, 1.0, 10.0, 100.0]}),
    Method("rwalk", _strength, {"rwalk.strength": [0.1, 1.0, 10.0, 100.0, 1e3]}, passes=lambda k: (2, 0)),
    # Gradient constraints
    Method("agem", lambda p: {"capacity": p.memory, "sample_size": p.batch}, passes=lambda k: (2, 0)),
    Method(
        "gem",
        lambda p: {"memory_per_experience": p.memory // p.experiences, "n_experiences": p.experiences},
        {"gem.margin": [0.0, 0.5, 1.0]},
        passes=lambda k: (1 + k * MEMORY / 5 / BATCH, 0),  # of the split streams
    ),
    Method("owm", grid={"owm.alpha": [1e-3, 1e-2, 1e-1, 1.0]}, passes=None),
    Method("ogd", lambda p: {"capacity": 20 * p.experiences, "per_experience": 20}, passes=None),
    # Class-incremental
    Method("icarl", _replay, settings=("class",), passes=lambda k: (2, 2)),
    Method("bic", _replay, settings=("class",), passes=None),
    Method("scr", _replay, {"temperature": [0.07, 0.2, 0.5]}, settings=("class",), passes=lambda k: (2, 0)),  # with one view
    Method("ncm", settings=WITHOUT_TASKS, passes=None),
    Method("slda", grid={"slda.shrinkage": [1e-4, 1e-2]}, settings=WITHOUT_TASKS, passes=None),
    Method("ranpac", settings=WITHOUT_TASKS, passes=None),
    Method("fecam", grid={"fecam.gamma1": [1.0, 10.0]}, settings=WITHOUT_TASKS, passes=None),
    Method("acil", grid={"acil.ridge": [1e-2, 1e-1, 1.0, 10.0]}, settings=WITHOUT_TASKS, passes=None),
)


def all_methods() -> tuple[Method, ...]:
    """The methods above, then those of the library without an entry, whose factories require no arguments but the usual ones."""
    factories = [name for name in cl.strategies.__all__ if not isinstance(getattr(cl.strategies, name), type)]
    others = [name for name in factories if all(m.name != name for m in METHODS)]
    return (*METHODS, *(Method(name, _usual(name), passes=None) for name in others))


def _usual(name: str) -> Callable[[Problem], Mapping[str, Any]]:
    """What the protocol says of the arguments that a factory requires. Raises ValueError for one that it does not know."""
    required = [
        parameter.name
        for parameter in inspect.signature(getattr(cl.strategies, name)).parameters.values()
        if parameter.default is inspect.Parameter.empty and parameter.name not in ("model", "optimizer")
    ]
    known = {"capacity", "replay_size", "strength"}
    if not set(required) <= known:
        raise ValueError(f"{name}: give it an entry in benchmarks/methods.py, for {', '.join(sorted(set(required) - known))}.")

    def arguments(p: Problem) -> Mapping[str, Any]:
        values = {**_replay(p), **_strength(p)}
        return {argument: values[argument] for argument in required}

    return arguments


def find(name: str) -> Method:
    """The method of that name. Raises ValueError that lists the names."""
    found = [m for m in all_methods() if m.name == name]
    if not found:
        raise ValueError(f"{name}: no such method; there are {', '.join(m.name for m in all_methods())}.")
    return found[0]


def load_problem(setting: str, folder: Path, iterations: int, limit: int | None = None) -> Problem:
    """A setting on the idx files of a folder; `limit` takes only the first rows, of the test data too."""
    train, test = (
        cl.Dataset(data.x[:limit].flatten(1), data.y[:limit], n_classes=data.n_classes) for data in cl.data.idx_folder(folder)
    )
    if setting == "permuted":
        bench = cl.streams.permuted(train, test, 10, key=cl.key(0))
        bench = dataclasses.replace(bench, test=_kept(bench.test))
    else:
        split = {
            "class": cl.streams.split_by_class,
            "domain": cl.streams.domain_incremental,
            "task": cl.streams.task_incremental,
        }[setting]
        bench = split(train, test, 5)
    model = cl.models.mlp(train.x.shape[1], (400, 400), bench.n_classes)
    if setting == "task":
        model = cl.models.multi_head(model, cl.models.class_masks(bench.train))
    return Problem(setting, bench, model, iterations)


def synthetic(rows: int, iterations: int, experiences: int = 5) -> Problem:
    """Random bytes in place of Fashion-MNIST, `rows` per experience."""
    generator = torch.Generator().manual_seed(0)
    n = rows * experiences
    x = torch.randint(0, 256, (n, 784), dtype=torch.uint8, generator=generator)
    y = torch.arange(n) * 10 // n
    data = cl.Dataset(x, y, n_classes=10)
    return Problem("class", cl.streams.split_by_class(data, data, experiences), cl.models.mlp(784, (400, 400), 10), iterations)


def _kept(stream: cl.Stream) -> cl.Stream:
    """The stream with all its experiences computed now."""
    return cl.Stream(tuple(stream).__getitem__, len(stream))
