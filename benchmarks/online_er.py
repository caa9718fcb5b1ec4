"""One step of online experience replay, in this library and as one writes it by hand.

A step is one experience of 10 rows of random data: a gradient step on them and 10 replayed rows, then a reservoir insertion.
"""

from __future__ import annotations

import dataclasses
import itertools
import random as python_random
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

import cl_func as cl

ROWS, REPLAYED, LR, N_CLASSES = 10, 10, 0.05, 10


@dataclasses.dataclass(frozen=True)
class Work:
    """One size of the problem."""

    name: str
    n_features: int
    hidden: tuple[int, ...]
    capacity: int

    def data(self) -> cl.Dataset:
        """2,000 rows of normal inputs with random labels."""
        n = 2000
        x, y = cl.random.split(cl.key(0))
        return cl.Dataset(cl.random.normal(x, (n, self.n_features)), cl.random.randint(y, n, 0, N_CLASSES))


WORKS = {
    "B1": Work("MLP 784-256-256-10, reservoir 500", 784, (256, 256), 500),
    "B2": Work("MLP 64-64-10, reservoir 200", 64, (64,), 200),
}


def ours(work: Work, lanes: int, *, compiled: bool) -> Callable[[], float]:
    """A function that takes 200 steps of `lanes` runs (0: one run without vmap) and returns microseconds per step of one run."""
    data = work.data()
    experiences = [cl.experience(data, torch.arange(i, i + ROWS)) for i in range(0, len(data), ROWS)]
    model = cl.models.mlp(work.n_features, hidden=work.hidden, n_classes=N_CLASSES)
    strategy = cl.strategies.er(model, cl.optim.sgd(LR), capacity=work.capacity, replay_size=REPLAYED)
    update, state = strategy.update, strategy.init(cl.key(0))
    if lanes:
        update, state = cl.vmap(update), cl.tree.stack([strategy.init(cl.key(i)) for i in range(lanes)])
    if compiled:
        update = cl.compile(update)
    cl.fold(update, state, experiences[:20], donate=True)

    def run() -> float:
        start = time.perf_counter()
        cl.fold(update, state, experiences, donate=True)
        return (time.perf_counter() - start) / len(experiences) / max(lanes, 1) * 1e6

    return run


def by_hand(work: Work) -> Callable[[], float]:
    """The same in plain PyTorch: nn.Sequential, torch.optim.SGD, a preallocated memory, Algorithm R row by row."""
    data = work.data()
    sizes = (work.n_features, *work.hidden, N_CLASSES)
    layers = [layer for a, b in itertools.pairwise(sizes) for layer in (torch.nn.Linear(a, b), torch.nn.ReLU())]
    net = torch.nn.Sequential(*layers[:-1])
    optimizer = torch.optim.SGD(net.parameters(), LR)
    memory_x, memory_y = torch.zeros(work.capacity, work.n_features), torch.zeros(work.capacity, dtype=torch.int64)
    seen = 0

    def step(x: torch.Tensor, y: torch.Tensor) -> None:
        nonlocal seen
        inputs, labels = x, y
        if seen:
            rows = torch.randint(min(seen, work.capacity), (REPLAYED,))
            inputs, labels = torch.cat([x, memory_x[rows]]), torch.cat([y, memory_y[rows]])
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(net(inputs), labels).backward()
        optimizer.step()
        for i in range(len(y)):
            seen += 1
            place = seen - 1 if seen <= work.capacity else python_random.randrange(seen)
            if place < work.capacity:
                memory_x[place], memory_y[place] = x[i], y[i]

    def run() -> float:
        start = time.perf_counter()
        for i in range(0, len(data), ROWS):
            step(data.x[i : i + ROWS], data.y[i : i + ROWS])
        return (time.perf_counter() - start) / (len(data) / ROWS) * 1e6

    run()
    return run
