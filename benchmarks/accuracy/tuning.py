"""How a cell of the table is computed: hyperparameters chosen on validation data, then all seeds on the test data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

import cl_func as cl
from benchmarks.accuracy.table import summary
from benchmarks.methods import Method, Problem

QUICK = 300  # iterations per experience
WIDER = 2  # how often a range is extended
TUNING = range(1000, 1100)  # seeds by which hyperparameters are chosen, none of those that are reported


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What decides the numbers of a cell, besides its method and setting."""

    iterations: int
    seeds: int
    tuning_iterations: int
    tuning_seeds: int
    limit: int | None


@dataclasses.dataclass(frozen=True)
class Sweeper:
    """How the runs are carried out, which changes no result."""

    lanes: int | Literal["auto"]
    device: str | None

    def sweep(
        self,
        strategy: cl.Strategy,
        bench: cl.Benchmark,
        seeds: int | Sequence[int],
        points: Mapping[str, Sequence[float]],
        every: int = 1,
    ) -> cl.Runs:
        """The sweep of a strategy, measured after every so many experiences and after the last."""
        return cl.sweep(strategy, bench, seeds=seeds, hparams=cl.grid(points), lanes=self.lanes, device=self.device, every=every)


def tune(entry: Method, problem: Problem, protocol: Protocol, sweeper: Sweeper) -> dict[str, Any]:
    """The best point of a method's grid on validation data, the accuracies of all points, and the paths at the end of their range.

    Where the best value lies at the end of its range the next one is tried as well, `WIDER` times at most.
    """
    if not entry.grid:
        return {"values": {}, "tried": [], "at_edge": []}
    held = cl.streams.with_validation(problem.bench, 0.1, key=cl.key(0))
    problem = dataclasses.replace(problem, bench=cl.Benchmark(held.train, held.valid), iterations=protocol.tuning_iterations)
    seeds, strategy, bench = TUNING[: protocol.tuning_seeds], entry.strategy(problem), entry.benchmark(problem)
    tried: list[dict[str, Any]] = []
    best: dict[str, float] = {}
    edges: dict[str, float] = {}  # the next value of each path whose best value is at the end of its range
    parts: list[dict[str, list[float]]] = [{path: list(values) for path, values in entry.grid.items()}]
    for _ in range(1 + WIDER):
        for part in parts:
            runs = sweeper.sweep(strategy, bench, seeds, part, every=problem.experiences)
            accuracies = runs.metric().mean(-1).flatten().tolist()
            tried += [{"values": v, "accuracy": a} for v, a in zip(cl.grid(part).points(), accuracies, strict=True)]
        best = max(tried, key=lambda point: -math.inf if math.isnan(point["accuracy"]) else point["accuracy"])["values"]
        ranges = {path: sorted({point["values"][path] for point in tried}) for path in entry.grid}
        edges = {path: further for path, value in best.items() if (further := beyond(ranges[path], value))}
        parts = [{**ranges, path: [further]} for path, further in edges.items()]
    return {"values": best, "tried": tried, "at_edge": list(edges)}


def beyond(values: list[float], value: float) -> float:
    """The next value after one at an end of a sorted range, in geometric progression; 0 inside the range, or next to a 0."""
    if value not in (values[0], values[-1]):
        return 0.0
    neighbour = values[1] if value == values[0] else values[-2]
    return value * value / neighbour if neighbour else 0.0


def measure(entry: Method, problem: Problem, values: Mapping[str, float], protocol: Protocol, sweeper: Sweeper) -> dict[str, Any]:
    """Accuracy and forgetting of all seeds on the test data, with the hyperparameters chosen."""
    points = {path: [value] for path, value in values.items()}
    runs = sweeper.sweep(entry.strategy(problem), entry.benchmark(problem), protocol.seeds, points)
    R = runs["accuracy"].reshape(protocol.seeds, *runs["accuracy"].shape[-2:])
    measured = {"accuracy": runs.metric().flatten(), "R": R.mean(0).tolist()}
    if R.shape[-1] == R.shape[-2]:
        measured["forgetting"] = runs.metric("forgetting").flatten()
    return {name: summary(value) if isinstance(value, torch.Tensor) else value for name, value in measured.items()}
