"""What a comparison consists of: a cell for each method in each setting, and the Runs that these become together."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, signatures, user_warnings
from cl_func.core import Strategy
from cl_func.experiences import Benchmark
from cl_func.sweeps.chosen import CHOICE
from cl_func.sweeps.grids import Grid
from cl_func.sweeps.provenance import STRATEGY
from cl_func.sweeps.runs import Runs
from cl_func.sweeps.selection import CHOSEN
from cl_func.sweeps.summaries import measured

AnyBenchmark = Benchmark | Callable[[Tensor], Benchmark]


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """A method in a setting, None where there is only one; and the grid from which its hyperparameters are chosen, if any."""

    method: str
    setting: str | None
    strategy: Strategy
    benchmark: AnyBenchmark
    grid: Grid | None

    @property
    def labels(self) -> dict[str, str]:
        """By the names of the axes."""
        return {"method": self.method} | ({} if self.setting is None else {"setting": self.setting})

    def __str__(self) -> str:
        return ", ".join(self.labels.values())

    def folder(self, root: Path) -> Path:
        """Where its runs are kept, below the folder of all."""
        return root.joinpath(*map(safe_name, self.labels.values()))


def safe_name(name: str) -> str:
    """A name as that of a folder: other than plain signs become "_", and then a digest tells apart what would be the same."""
    plain = re.sub(r"[^A-Za-z0-9_.+-]", "_", name)[:60].lstrip(".-")
    if plain == name:
        return name
    return f"{plain or '_'}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


@dataclasses.dataclass(frozen=True)
class _Through:
    """A benchmark for each key, through a function of benchmarks."""

    benchmark: Callable[[Tensor], Benchmark]
    function: Callable[[Benchmark], Benchmark]

    def __call__(self, key: Tensor) -> Benchmark:
        return self.function(self.benchmark(key))


def cells(strategies: Any, benchmark: Any, hparams: Any, streams: Any) -> list[Cell]:
    """A cell for each method in each setting; the arguments are those of `compare`. TypeError or ValueError for others."""
    methods = _named("strategies", strategies, "{'ER': strategy, 'LwF': strategy}")
    settings = _named("benchmark", benchmark, "{'class': benchmark}") if isinstance(benchmark, Mapping) else {None: benchmark}
    for setting, one in settings.items():
        at = "benchmark" if setting is None else f"benchmark[{setting!r}]"
        if not isinstance(one, Benchmark):
            signatures.function(at, one, 1, "a Benchmark, a function from a key to one, or a mapping from settings to these")
    grids, functions = _of_methods("hparams", hparams, methods), _of_methods("streams", streams, methods)
    for name, grid in grids.items():
        checks.instance(f"hparams[{name!r}]", grid, Grid, "a grid, cl.grid({path: values})")
    for name, function in functions.items():
        signatures.function(
            f"streams[{name!r}]", function, 1, "a function from a benchmark to another, such as cl.streams.cumulative"
        )
    found = list[Cell]()
    for name, given in methods.items():
        for setting, strategy in _by_setting(name, given, settings).items():
            bench = settings[setting]
            if name in functions:
                bench = _through(name, functions[name], bench)
            found.append(Cell(name, setting, strategy, bench, grids.get(name) if grids.get(name) != Grid() else None))
    return found


def _named(name: str, value: Any, example: str) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not value or not all(isinstance(key, str) and key for key in value):
        raise checks.type_error(name, f"a mapping from names, such as {example}", value)
    return dict(value)


def _of_methods(name: str, value: Any, methods: Mapping[str, Any]) -> dict[str, Any]:
    """What some of the methods have."""
    if value is None:
        return {}
    found = _named(name, value, "{'ER': ...}")
    unknown = next((key for key in found if key not in methods), None)
    if unknown is not None:
        raise ValueError(f"{name}: {unknown!r} is none of the methods {list(methods)}.")
    return found


def _by_setting(name: str, given: Any, settings: Mapping[Any, Any]) -> dict[Any, Strategy]:
    """The strategy of a method in each setting."""
    at = f"strategies[{name!r}]"
    if not isinstance(given, Mapping):
        strategy: Strategy = checks.instance(at, given, Strategy, "a cl.Strategy(init, update)")
        return dict.fromkeys(settings, strategy)
    if set(given) != set(settings):
        known = "there is one benchmark" if None in settings else f"the settings are {list(settings)}"
        raise ValueError(f"{at}: it has strategies for {list(given)}, but {known}.")
    return {s: checks.instance(f"{at}[{s!r}]", given[s], Strategy, "a cl.Strategy(init, update)") for s in settings}


def _through(name: str, function: Callable[[Benchmark], Benchmark], benchmark: AnyBenchmark) -> AnyBenchmark:
    if not isinstance(benchmark, Benchmark):
        return _Through(benchmark, function)
    return checks.instance(f"streams[{name!r}]", function(benchmark), Benchmark, "the function to return a Benchmark")


def joined(cells: Sequence[Cell], found: Mapping[Cell, Runs], missing: Mapping[Cell, str]) -> Runs:
    """The Runs of cells with the axes "method", "setting" if there are several, and "seed".

    found: those that there are, at least one. missing: why others are not there; they are NaN, and not finished.
    """
    like, *_ = found.values()
    histories = _common(found)
    parts = dict[str, dict[str, Runs]]()
    for cell in cells:
        if cell in found:
            part = dataclasses.replace(found[cell], history={name: histories[name][cell] for name in histories})
        else:
            empty = {name: _nothing(next(iter(values.values()))) for name, values in histories.items()}
            attributes = {k: v for k, v in like.attributes.items() if k not in (CHOICE, CHOSEN, STRATEGY)}
            attributes |= {"missing": missing.get(cell, "it was not run")}
            part = Runs(like.axes, empty, torch.zeros_like(like.finished), 0.0, attributes)
        parts.setdefault(cell.method, {})[str(cell.setting)] = part
    if cells[0].setting is None:
        return Runs.join({method: part for method, own in parts.items() for part in own.values()}, axis="method")
    return Runs.join({method: Runs.join(own, axis="setting") for method, own in parts.items()}, axis="method")


def _nothing(like: Tensor) -> Tensor:
    return torch.full_like(like, math.nan if like.is_floating_point() else 0)


def _common(found: Mapping[Cell, Runs]) -> dict[str, dict[Cell, Tensor]]:
    """The histories that all cells have in one shape: name -> cell -> values; a warning names the others.

    Of "class_accuracy" the classes that a setting does not have are NaN, as are those without rows.
    """
    names = dict.fromkeys(name for runs in found.values() for name in runs.history)
    common, others = dict[str, dict[Cell, Tensor]](), list[str]()
    for name in names:
        values = {cell: runs.history[name] for cell, runs in found.items() if name in runs.history}
        if measured(name) == "class_accuracy":
            n = max(value.shape[-1] for value in values.values())
            values = {
                cell: torch.nn.functional.pad(value, (0, n - value.shape[-1]), value=math.nan) for cell, value in values.items()
            }
        if len(values) == len(found) and len({(value.shape, value.dtype) for value in values.values()}) == 1:
            common[name] = values
        else:
            others.append(name)
    if others:
        user_warnings.warn(f"compare: left out the histories {others}, which some methods have not, or in another shape.")
    return common
