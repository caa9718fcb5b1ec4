"""Hyperparameters that others have found, as data with their sources: `published.toml`, whose numbers were read at these sources.

They are the best of some grid for the program, network and protocol of the source. Where a loss has another scale there, they are
converted; what else differs is in `note`. On other networks or streams they are a place to begin.
"""

from __future__ import annotations

import dataclasses
import functools
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cl_func import checks, optim, strategies
from cl_func.core import Optimizer, Strategy
from cl_func.models import Model

FILE = Path(__file__).with_name("published.toml")
FILTERS = ("capacity", "setting", "source")


@dataclasses.dataclass(frozen=True)
class Published:
    """The published values of a method on a benchmark; `published.make(model)` is the strategy with them.

    settings: in which they were used, of "class", "task" and "domain". capacity: the rows of the memory, None for methods without.
    experiences: into how many the data were split. model: the network, in words.
    optimizer: with the published learning rate `lr`. arguments: of the factory, with the batch size, and the epochs or iterations.
    source: its name here; paper: its title; read_in: where the numbers were read. note: what differs there, and what was converted.
    """

    method: str
    benchmark: str
    settings: tuple[str, ...]
    capacity: int | None
    experiences: int
    model: str
    lr: float
    optimizer: Optimizer
    arguments: dict[str, Any]
    source: str
    paper: str
    read_in: str
    note: str

    def make(self, model: Model) -> Strategy:
        """The strategy: the factory of the method with a model, the optimiser and the arguments."""
        made: Strategy = getattr(strategies, self.method)(model, self.optimizer, **self.arguments)
        return made


def published(
    method: str, benchmark: str, *, capacity: int | None = None, setting: str | None = None, source: str | None = None
) -> Published:
    """The published values of a method on a benchmark, `published("der_pp", "split_cifar10", capacity=500)`.

    method: the name of its factory in `cl.strategies`. benchmark: such as "split_mnist", "permuted_mnist", "split_cifar10",
        "split_tiny_imagenet", "split_cifar100_online"; an error names all.
    capacity: rows of the memory. setting: "class", "task" or "domain". source: a name such as "buzzega". Of several entries that
        fit the first is given, which has the smallest memory.
    Raises TypeError or ValueError, with what is known, for what nothing is known of.

    >>> values = published("der_pp", "split_cifar10", capacity=500)
    >>> values.lr, values.arguments
    (0.03, {'batch_size': 32, 'epochs': 50, 'capacity': 500, 'replay_size': 32, 'alpha': 0.2, 'beta': 0.5})
    """
    checks.text("method", method)
    checks.text("benchmark", benchmark)
    found = [one for one in _entries() if one.benchmark == benchmark]
    if not found:
        raise ValueError(f"benchmark: nothing is known of {benchmark!r}, but of {_listed(one.benchmark for one in _entries())}.")
    known = _listed(one.method for one in found)
    found = [one for one in found if one.method == method]
    if not found:
        other = _listed(one.benchmark for one in _entries() if one.method == method)
        raise ValueError(
            f"method: of {benchmark!r} only {known} are known, got {method!r}{f', known of {other}' if other else ''}."
        )
    if capacity is not None:
        checks.positive_int("capacity", capacity)
    for name, wanted in zip(FILTERS, (capacity, setting, source), strict=True):
        if wanted is None:
            continue
        if name != "capacity":
            checks.text(name, wanted)
        values = [value for one in found for value in _values(one, name)]
        found = [one for one in found if wanted in _values(one, name)]
        if not found:
            raise ValueError(f"{name}: {method!r} on {benchmark!r} is known with {_listed(values)}, got {wanted!r}.")
    return found[0]


def _values(one: Published, name: str) -> tuple[Any, ...]:
    """What an entry has for the filter of a name."""
    return one.settings if name == "setting" else (getattr(one, name),)


def _listed(values: Any) -> str:
    return ", ".join(str(value) for value in dict.fromkeys(values))


@functools.cache
def _entries() -> Sequence[Published]:
    """All of the file, in its order."""
    content = tomllib.loads(FILE.read_text(encoding="utf-8"))
    return tuple(
        _entry(method, row, table, content["sources"][table["source"]])
        for table in content["benchmarks"]
        for method, rows in table["methods"].items()
        for row in rows
    )


def _entry(method: str, row: dict[str, Any], table: dict[str, Any], source: dict[str, str]) -> Published:
    arguments = {**table["shared"], **{name: value for name, value in row.items() if name != "lr"}}
    capacity = row.get("capacity")
    if "memory_per_experience" in row:
        capacity = row["memory_per_experience"] * row["n_experiences"]
    optimizer: Optimizer = optim.adam(row["lr"]) if table["optimizer"] == "adam" else optim.sgd(row["lr"])
    return Published(
        method=method,
        benchmark=table["name"],
        settings=tuple(table["settings"]),
        capacity=capacity,
        experiences=table["experiences"],
        model=table["model"],
        lr=row["lr"],
        optimizer=optimizer,
        arguments=arguments,
        source=table["source"],
        paper=source["title"],
        read_in=source["read_in"],
        note=" ".join(source["note"].split()),
    )
