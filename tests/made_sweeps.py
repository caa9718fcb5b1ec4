"""Small benchmarks for selections, and a sweep made by hand that keeps what it is asked for."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

import cl_func as cl

TRAIN, TEST = cl.data.digits()
BENCH = cl.streams.split_by_class(TRAIN, TEST, n_experiences=5)
MODEL = cl.models.mlp(64, hidden=(16,), n_classes=10)
STRATEGY = cl.strategies.er(MODEL, cl.optim.sgd(lr=0.1), capacity=100, replay_size=20, batch_size=50)
SWEEP = functools.partial(cl.sweep, compile=False, progress=False, lanes=2)


def forbidden(index: int) -> cl.Experience:
    raise AssertionError(f"test experience {index} was looked at")


def from_key(key: Tensor) -> cl.Benchmark:
    made = cl.streams.split_by_class(TRAIN, TEST, n_experiences=5, key=key)
    return cl.Benchmark(made.train, cl.Stream(forbidden, 5))


class Recorded:
    """In place of `cl.sweep`: keeps what it is asked for; `answer` gives the accuracy of a point."""

    def __init__(self, answer=lambda point: 0.5, diverged=lambda point: False):
        self.calls, self.answer, self.diverged = [], answer, diverged

    def __call__(self, strategy, benchmark, *, seeds, hparams, probe, every):
        self.calls.append({"benchmark": benchmark, "seeds": seeds, "points": hparams.points(), "probe": probe, "every": every})
        axes = {name: [next(iter(p.values())) if len(p) == 1 else dict(p) for p in points] for name, points in hparams.axes}
        axes["seed"] = list(seeds)
        shape = tuple(map(len, axes.values()))
        R = torch.tensor([float(self.answer(p)) for p in hparams.points()]).reshape(*shape[:-1], 1, 1, 1).expand(*shape, 1, 2)
        lost = torch.tensor([float("nan") if self.diverged(p) else 1.0 for p in hparams.points()])
        history = {"accuracy": R.clone(), "loss": lost.reshape(*shape[:-1], 1, 1, 1).expand(*shape, 1, 2).clone()}
        return cl.Runs(axes, history, torch.ones(shape, dtype=torch.bool), 1.0)
