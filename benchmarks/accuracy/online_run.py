"""One run of the online survey: its streams, what is measured on the way, and a checkpoint to resume from."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import cl_func as cl
from benchmarks import results
from benchmarks.accuracy.online_methods import METHODS, Entry
from cl_func.evaluation import Evaluate

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


def hits(logits: Tensor, exp: cl.Experience, *, classes: Tensor) -> dict[str, Tensor]:
    """Whether each row is classified correctly among some classes [C] bool."""
    return {"accuracy": cl.losses.mask_logits(logits, classes).argmax(-1) == exp.y}


@dataclass(frozen=True)
class Measured:
    """The Probe: accuracies [T] on validation and test data among the classes seen so far, NaN where it is not the time."""

    valid: tuple[Evaluate, ...]  # of the first, the first two, ... experiences
    test: tuple[Evaluate, ...]
    seen: dict[int, int]
    ends: frozenset[int]

    def __call__(self, state: Any, exp: cl.Experience) -> dict[str, Tensor]:
        position, nothing = int(exp.index) + 1, torch.full((len(self.valid),), math.nan)
        found = {"valid": nothing.clone(), "test": nothing.clone()}
        for name, probes, due in (("valid", self.valid, position in self.seen), ("test", self.test, position in self.ends)):
            if due:
                count = self.seen[position]
                found[name][:count] = probes[count - 1](state)["accuracy"].cpu()
        return found


def measured(strategy: cl.Strategy, found: Streams) -> Measured:
    """The Probe of a method on the streams of a run."""
    probes: dict[str, list[Evaluate]] = {"valid": [], "test": []}
    classes = torch.zeros_like(found.test[0].classes)
    for k in range(len(found.test)):
        classes = classes | found.test[k].classes
        for name, stream in (("valid", found.valid), ("test", found.test)):
            probes[name].append(cl.evaluate(strategy.model, stream[: k + 1], measure=partial(hits, classes=classes)))
    return Measured(tuple(probes["valid"]), tuple(probes["test"]), found.seen, found.ends)


@dataclass(frozen=True)
class Task:
    """A run to be made, in a process of its own."""

    method: str
    seed: int
    protocol: Protocol
    data: Path
    folder: Path  # for its checkpoints and its result
    compiled: bool
    threads: int
    parent: int | None = None  # the process that asked for it; with it, this one ends

    @property
    def name(self) -> str:
        """The name of its files."""
        return "".join(c if c.isalnum() else "-" for c in self.method.lower()) + f"-{self.seed}"

    @property
    def result(self) -> Path:
        """The file of its result."""
        return self.folder / f"{self.name}.json"


def run(task: Task) -> dict[str, Any]:
    """The result of a run, which is also written to its folder; one that was interrupted goes on."""
    torch.set_num_threads(task.threads)
    entry, protocol = METHODS[task.method], task.protocol
    found = streams(load(task.data, protocol.fraction), entry, protocol, task.seed)
    strategy = entry.strategy(protocol.memory, protocol.width)
    update = cl.compile(strategy.update) if task.compiled else strategy.update
    positions = sorted(found.seen)

    def watch(time: int, history: dict[str, Tensor]) -> None:
        if task.parent is not None and os.getppid() != task.parent:
            os._exit(1)  # nobody waits for it any more; the next call resumes it
        if not history["test"].isnan().all():
            shown = history["test"].nanmean()
            print(f"{task.method}, seed {task.seed}: {time + 1} of {len(found.train)} minibatches, test {shown:.3f}", flush=True)

    _, history = cl.scan(
        update,
        strategy.init(cl.key(task.seed)),
        found.train,
        probe=measured(strategy, found),
        tap=watch,
        donate=task.compiled,
        checkpoint=cl.Checkpoint(task.folder / task.name),
    )
    valid = history["valid"][~history["valid"].isnan().all(-1)].nan_to_num(0.0)
    test = history["test"][~history["test"].isnan().all(-1)].nan_to_num(0.0)
    result = {
        "method": task.method,
        "seed": task.seed,
        "minibatches": positions,
        "seen": [found.seen[p] for p in positions],
        "seen_test": [found.seen[p] for p in sorted(found.ends)],
        "valid": valid.tolist(),
        "test": test.tolist(),
    }
    results.write(task.result, result)
    return result
