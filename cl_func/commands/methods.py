"""The methods of the library by name, with arguments that work for each where no others are given.

Whatever a method requires is listed here, and a test makes every one of them. They are starting points, not the best ones: where
numbers matter, choose them from grids, `cl.compare(..., hparams=..., select=...)`.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable
from typing import Any

from cl_func import optim, strategies, streams
from cl_func.core import Optimizer, Strategy
from cl_func.experiences import Benchmark
from cl_func.models import Model

SETTINGS = ("class", "task", "domain")
ONLY = {  # methods that classify by what they know of each class: the settings that they are for
    **dict.fromkeys(("bic", "icarl", "scr"), ("class",)),
    **dict.fromkeys(("acil", "fecam", "ncm", "ranpac", "slda"), ("class", "domain")),
}
STREAMS: dict[str, Callable[[Benchmark], Benchmark]] = dict.fromkeys(("cumulative", "joint"), streams.cumulative)
PROJECTING = ("agem", "gem", "ogd", "owm")  # exact with plain SGD only
RANDOM_FEATURES = ("acil", "ranpac")  # 2,000 of them by default, as suits the features of a large pretrained network
# The largest powers of ten with which no setting of the digits is harmed: from there on steps of this length become unstable.
STRENGTHS = {"ewc": 1000.0, "ewc_online": 1000.0, "mas": 0.01, "rwalk": 1.0, "si": 10.0}


@dataclasses.dataclass(frozen=True)
class Problem:
    """What the arguments of a method depend on.

    capacity: rows of a memory, if it has one. lr: of SGD with momentum 0.9.
    """

    setting: str
    benchmark: Benchmark
    model: Model
    batch_size: int
    epochs: int
    capacity: int
    lr: float

    def optimizer(self, name: str) -> Optimizer:
        """That of a method: for those that project gradients plain SGD, with longer steps in place of the momentum."""
        return optim.sgd(2 * self.lr) if name in PROJECTING else optim.sgd(self.lr, momentum=0.9)

    def arguments(self, name: str) -> dict[str, Any]:
        """All that any of the methods may require."""
        experiences = len(self.benchmark.train)
        share = max(1, self.capacity // experiences)
        return {
            "capacity": self.capacity,
            "replay_size": min(self.batch_size, self.capacity),
            "sample_size": min(self.batch_size, self.capacity),
            "memory_per_experience": share,
            "per_experience": share,
            "n_experiences": experiences,
            "strength": STRENGTHS.get(name, 1.0),
        }


def names() -> list[str]:
    """The names of all methods."""
    return [name for name in strategies.__all__ if not isinstance(getattr(strategies, name), type)]


def settings(name: str) -> tuple[str, ...]:
    """The settings that a method is for."""
    return ONLY.get(name, SETTINGS)


def source(name: str) -> str:
    """What a method is, and where it comes from: the first paragraph of its file."""
    text = sys.modules[getattr(strategies, name).__module__].__doc__ or ""
    return " ".join(text.strip().split("\n\n")[0].split())


def make(name: str, problem: Problem) -> Strategy:
    """A method for a problem. Raises ValueError for a name or a setting that is not there, listing what is."""
    if name not in names():
        raise ValueError(f"methods: {name!r} is none of {', '.join(names())}.")
    if problem.setting not in settings(name):
        raise ValueError(f"methods: {name!r} is for the setting {' or '.join(settings(name))}, not for {problem.setting!r}.")
    factory = getattr(strategies, name)
    required = [p.name for p in inspect.signature(factory).parameters.values() if p.default is inspect.Parameter.empty]
    known = problem.arguments(name)
    given = {argument: known[argument] for argument in required if argument not in ("model", "optimizer")}
    if name in RANDOM_FEATURES:
        given["projection_size"] = 500
    found: Strategy = factory(problem.model, problem.optimizer(name), batch_size=problem.batch_size, epochs=problem.epochs, **given)
    return found
