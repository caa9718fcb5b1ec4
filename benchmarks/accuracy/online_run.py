"""Runs of the online survey: their streams, what is measured on the way, and a checkpoint to resume from.

Several seeds of a method are lanes of one run: a GPU is hardly busier with three than with one.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import cl_func as cl
from benchmarks import results
from benchmarks.accuracy.online_methods import METHODS, Entry
from cl_func.experiences import stack, stream

EXPERIENCES, BATCH = 20, 10


@dataclass(frozen=True)
class Protocol:
    """What decides the numbers of a run, besides its method and seed."""

    experiences: int = EXPERIENCES  # the first of the 20
    fraction: float = 1.0  # of the images of each class
    memory: int = 2000
    evaluations: int = 4  # on validation data, in each experience
    width: int = 20  # of the slim ResNet-18


@dataclass(frozen=True)
class Streams:
    """The streams of a run, and when it is measured."""

    train: cl.Stream
    valid: cl.Stream
    test: cl.Stream
    seen: dict[
        int, int
    ]  # position in the train stream, counted from 1 -> experiences seen, where the validation rows are classified
    ends: frozenset[int]  # where the test rows are, too


def load(folder: Path, fraction: float) -> tuple[cl.Dataset, cl.Dataset]:
    """(train, test) of CIFAR-100, the first part of each class."""
    parts = cl.data.from_folder(folder) if (folder / "train").is_dir() else cl.data.cifar(folder)
    some = []
    for data in parts:
        rows = [(data.y == label).nonzero().flatten() for label in range(data.n_classes)]
        kept = torch.cat([own[: math.ceil(fraction * len(own))] for own in rows])
        some.append(cl.Dataset(data.x[kept], data.y[kept], n_classes=data.n_classes))
    return some[0], some[1]


def streams(data: tuple[cl.Dataset, cl.Dataset], entry: Entry, protocol: Protocol, seed: int) -> Streams:
    """Classes in an order drawn from the seed, 5% of the rows held out, and the rest cut into minibatches."""
    order, held_out, shuffled = cl.random.split(cl.random.fold_in(cl.key(seed), 1), 3)
    split = cl.streams.split_by_class(*data, n_experiences=EXPERIENCES, key=order)
    bench = cl.streams.with_validation(split, 0.05, key=held_out)
    count = protocol.experiences
    train, valid, test = (stream[:count] for stream in (bench.train, bench.valid, bench.test))
    if entry.stream != "online":
        train = cl.streams.cumulative(cl.Benchmark(train, test)).train[-1:]
    if entry.stream == "whole":
        only = int(train[0].index) + 1
        return Streams(train, valid, test, {only: count}, frozenset({only}))
    online = cl.streams.split_online(cl.Benchmark(train, test), BATCH, key=shuffled).train
    pieces = [-(-len(exp) // BATCH) for exp in train] if entry.stream == "online" else None
    ends = (
        [len(online) * (i + 1) // count for i in range(count)] if pieces is None else [sum(pieces[: i + 1]) for i in range(count)]
    )
    seen: dict[int, int] = {}
    for i, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        for j in range(1, protocol.evaluations + 1):
            seen[start + max((end - start) * j // protocol.evaluations, 1)] = count if pieces is None else i + 1
    return Streams(online, valid, test, seen, frozenset(ends))


def seen_classes(stream: cl.Stream) -> list[cl.Experience]:
    """The experiences of a test stream, each with the classes of them all, which are those that compete."""
    together = torch.stack([exp.classes for exp in stream]).any(0)
    return [cl.tree.replace(exp, classes=together) for exp in stream]


def side_by_side(parts: Sequence[Sequence[cl.Experience]], source: cl.Dataset) -> list[cl.Experience]:
    """The streams of some seeds as one of as many lanes, their rows in a dataset, which has the rows of theirs on some device."""
    device = source.x.device
    moved = [[cl.tree.to(cl.tree.replace(exp, source=None), device) for exp in part] for part in parts]
    shared = [[cl.tree.replace(exp, source=source) for exp in part] for part in moved]
    return shared[0] if len(shared) == 1 else [stack(lanes) for lanes in zip(*shared, strict=True)]


@dataclass(frozen=True)
class Measured:
    """The Probe: accuracies [T] on validation and test data among the classes seen so far, NaN where it is not the time."""

    valid: tuple[cl.core.Probe, ...]  # of the first, the first two, ... experiences
    test: tuple[cl.core.Probe, ...]
    seen: dict[int, int]
    ends: frozenset[int]
    lanes: tuple[int, ...]  # () or the number of seeds

    def __call__(self, state: Any, exp: cl.Experience) -> dict[str, Tensor]:
        position, nothing = int(exp.index.flatten()[0]) + 1, torch.full((*self.lanes, len(self.valid)), math.nan)
        found = {"valid": nothing.clone(), "test": nothing.clone()}
        for name, probes, due in (("valid", self.valid, position in self.seen), ("test", self.test, position in self.ends)):
            if due:
                count = self.seen[position]
                found[name][..., :count] = probes[count - 1](state, None)["accuracy"].cpu()
        return found


def measured(strategy: cl.Strategy, parts: Sequence[Streams], train: cl.Dataset, test: cl.Dataset) -> Measured:
    """The Probe of a method on the streams of some seeds."""
    first, many = parts[0], len(parts) > 1

    def probes(streams: Sequence[cl.Stream], source: cl.Dataset) -> tuple[cl.core.Probe, ...]:
        cut = [side_by_side([seen_classes(one[: k + 1]) for one in streams], source) for k in range(len(streams[0]))]
        found = [cl.evaluate(strategy.model, part, mask="experience") for part in cut]
        return tuple(cl.vmap(probe) if many else probe for probe in found)

    valid, tested = probes([part.valid for part in parts], train), probes([part.test for part in parts], test)
    return Measured(valid, tested, first.seen, first.ends, (len(parts),) if many else ())


@dataclass(frozen=True)
class Task:
    """The runs of a method with some seeds, to be made in a process of their own."""

    method: str
    seeds: tuple[int, ...]
    protocol: Protocol
    data: Path
    folder: Path  # for their checkpoints and their results
    compiled: bool = True
    threads: int = 1
    device: str = "cpu"
    parent: int | None = None  # the process that asked for it; with it, this one ends

    @property
    def name(self) -> str:
        """The name of its files."""
        return "-".join(["".join(c if c.isalnum() else "-" for c in self.method.lower()), *map(str, self.seeds)])

    @property
    def result(self) -> Path:
        """The file of its results."""
        return self.folder / f"{self.name}.json"


def run(task: Task) -> list[dict[str, Any]]:
    """The results of some runs, one for each seed, which are also written to their folder; interrupted runs go on."""
    torch.set_num_threads(task.threads)
    entry, protocol = METHODS[task.method], task.protocol
    data = load(task.data, protocol.fraction)
    parts = [streams(data, entry, protocol, seed) for seed in task.seeds]
    found, (train, test) = parts[0], (cl.tree.to(part, task.device) for part in data)
    strategy = entry.strategy(protocol.memory, protocol.width)
    states = [cl.tree.to(strategy.init(cl.key(seed)), task.device) for seed in task.seeds]
    many = len(states) > 1
    update = cl.vmap(strategy.update) if many else strategy.update
    start = time.perf_counter()

    def watch(now: int, history: dict[str, Tensor]) -> None:
        if task.parent is not None and os.getppid() != task.parent:
            os._exit(1)  # nobody waits for it any more; the next call resumes it
        for name, accuracy in history.items():
            if not accuracy.isnan().all():
                minutes, shown = (time.perf_counter() - start) / 60, accuracy.nanmean()
                print(f"{task.name}: {now + 1} of {len(found.train)}, {minutes:.2f} minutes, {name} {shown:.3f}", flush=True)

    _, history = cl.scan(
        cl.compile(update) if task.compiled else update,
        cl.tree.stack(states) if many else states[0],
        stream(side_by_side([part.train for part in parts], train)),
        probe=measured(strategy, parts, train, test),
        tap=watch,
        donate=task.compiled,
        checkpoint=cl.Checkpoint(task.folder / task.name),
    )
    results_of = [_result(task.method, seed, _lane(history, i if many else None), found) for i, seed in enumerate(task.seeds)]
    results.write(task.result, {"runs": results_of})
    return results_of


def _lane(history: dict[str, Tensor], lane: int | None) -> dict[str, Tensor]:
    return history if lane is None else {name: values[:, lane] for name, values in history.items()}


def _result(method: str, seed: int, history: dict[str, Tensor], found: Streams) -> dict[str, Any]:
    positions = sorted(found.seen)
    valid = history["valid"][~history["valid"].isnan().all(-1)].nan_to_num(0.0)
    test = history["test"][~history["test"].isnan().all(-1)].nan_to_num(0.0)
    return {
        "method": method,
        "seed": seed,
        "minibatches": positions,
        "seen": [found.seen[p] for p in positions],
        "seen_test": [found.seen[p] for p in sorted(found.ends)],
        "valid": valid.tolist(),
        "test": test.tolist(),
    }
