"""The numbers in an entry of a history by name, and the labels of a run as text."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from cl_func.core.traces import Steps
from cl_func.tree import PyTree
from cl_func.tree.structure import by_path

Labels = Mapping[str, Any] | None  # of a run of a sweep: name -> a Python number, or a list of them; None without a sweep


def check_path(name: str, value: str | Path, what: str) -> Path:
    """Check that a value is the path of a file or a folder; TypeError otherwise."""
    if not isinstance(value, (str, Path)) or not str(value):
        raise TypeError(f"{name}: expected the path of a {what}, got {value!r}.")
    return Path(value)


def scalars(time: int, entry: PyTree) -> Iterator[tuple[str, int, float]]:
    """(name, step, value) of each number: accuracy[0], accuracy[1], ... at the step `time`, and of a trace each at its own.

    In a vmapped run the first index is the lane.
    """
    for name, node in _nodes(entry):
        if isinstance(node, Steps):
            for index in itertools.product(*map(range, node.numbers.shape[:-1])):
                for number, value in zip(node.numbers[index].tolist(), node.values[index].tolist(), strict=True):
                    if number >= 0:
                        yield _indexed(name, index), number, value
        else:
            for index in itertools.product(*map(range, node.shape)):
                yield _indexed(name, index), time, node[index].item()


def traces(entry: PyTree) -> list[str]:
    """The names under which `scalars` gives the values of traces."""
    found = [(name, node) for name, node in _nodes(entry) if isinstance(node, Steps)]
    return [_indexed(name, i) for name, node in found for i in itertools.product(*map(range, node.numbers.shape[:-1]))]


def cells(entry: PyTree) -> dict[str, str]:
    """The cells of a row by name, full precision: a number each, and of a trace its numbers and its values as JSON."""
    found, owners = dict[str, str](), dict[str, str]()
    for name, node in _nodes(entry):
        if isinstance(node, Steps):
            row = {f"{name}.numbers": json.dumps(node.numbers.tolist()), f"{name}.values": json.dumps(node.values.tolist())}
        else:
            row = {_indexed(name, i): repr(node[i].item()) for i in itertools.product(*map(range, node.shape))}
        for cell, text in row.items():
            if cell in found:
                raise ValueError(f"probe: {owners[cell]!r} and {name!r} both have a number {cell!r}; rename one of them.")
            found[cell], owners[cell] = text, name
    return found


def _nodes(entry: PyTree) -> list[tuple[str, Tensor | Steps]]:
    found = by_path("probe", entry, is_leaf=lambda n: isinstance(n, Steps))
    return [(name or "value", node) for name, node in found.items()]


def _indexed(name: str, index: tuple[int, ...]) -> str:
    return name + "".join(f"[{i}]" for i in index)


def slashed(name: str) -> str:
    """A name as trackers group them: accuracy/0 for accuracy[0]."""
    return name.replace("[", "/").replace("]", "")


def title(labels: Labels) -> str:
    """Labels on one line, whatever the order of the axes that they come from: opt.lr=0.1, seed=3."""
    return ", ".join(f"{name}={value}" for name, value in sorted((labels or {}).items()))
