"""Runs made by hand, for tests of what is done with runs."""

from __future__ import annotations

import math

import torch

import cl_func as cl

NAN = math.nan
CLASSES = 6  # two for each of the three experiences


def make(axes, T=3, **history):
    """Runs whose accuracies are all different, so that none can take another's place unnoticed."""
    shape = tuple(len(labels) for labels in axes.values())
    n = math.prod(shape)
    R = ((torch.arange(n)[:, None, None] + torch.rand(n, T, T, generator=torch.Generator().manual_seed(0))) / n).reshape(
        *shape, T, T
    )
    return cl.Runs(axes, {"accuracy": R, **history}, torch.ones(shape, dtype=torch.bool), 1.5)


def guesses(seeds=10, points=3, T=3):
    """Runs over one axis: sound at 0, two of ten NaN at 1, all NaN at 2; what is NaN has the accuracy of guessing."""
    runs = make({"opt.lr": [0.1, 1.0, 10.0][:points], "seed": list(range(seeds))}, T=T)
    shape = (points, seeds, T)
    runs.history["loss"] = torch.ones(*shape, T)
    runs.history["class_accuracy"] = torch.rand(*shape, CLASSES, generator=torch.Generator().manual_seed(3)) * 0.9
    for where in [(1, slice(2)), (2, slice(None))][: points - 1]:
        runs["accuracy"][where], runs["loss"][where] = 1 / CLASSES, NAN
        runs["class_accuracy"][where] = torch.eye(CLASSES)[0]
    return runs
