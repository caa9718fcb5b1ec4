"""Runs made by hand, for tests of what is done with runs."""

from __future__ import annotations

import dataclasses
import math

import torch
from hypothesis import strategies as st

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


@dataclasses.dataclass(frozen=True)
class First:
    """A selection: the first point of the grid, without a run."""

    def choose(self, strategy, benchmark, hparams, *, seeds, sweep):
        return hparams.points()[0]


def swept(a=2, b=3, seeds=4):
    """Runs over two axes; the first point has 1 NaN and 1 constant answer, the last but one nothing else than NaN."""
    single = guesses(seeds=seeds, points=1)
    history = {k: v.expand(a, b, *v.shape[1:]).clone() for k, v in single.history.items()}
    history["accuracy"] = torch.rand(history["accuracy"].shape, generator=torch.Generator().manual_seed(5))
    history["loss"][0, 0, 0] = NAN
    history["class_accuracy"][0, 0, 1, -1] = torch.eye(history["class_accuracy"].shape[-1])[0]
    history["loss"][-1, -2] = NAN
    axes = {"opt.lr": [10.0**-i for i in range(a)], "lwf.strength": [0.5 * 2**i for i in range(b)], "seed": list(range(seeds))}
    return cl.Runs(axes, history, torch.ones(a, b, seeds, dtype=torch.bool), 1.0)


def draws(*shape, seed=1):
    """Uniform numbers."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def same(found, wanted):
    """Whether two Runs are the same to the bit."""
    assert repr((found.axes, found.seconds)) == repr((wanted.axes, wanted.seconds))
    assert repr(sorted(found.attributes.items())) == repr(sorted(wanted.attributes.items()))
    assert list(found.history) == list(wanted.history)
    for name, value in {**wanted.history, "": wanted.finished}.items():
        other = found.history.get(name, found.finished)
        assert (other.dtype, other.shape) == (value.dtype, value.shape)
        assert torch.equal(other.nan_to_num(7), value.nan_to_num(7)) if value.is_floating_point() else torch.equal(other, value)
    return True


numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=True) | st.booleans() | st.none() | st.text(max_size=3)
parts = st.recursive(
    numbers,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=2) | st.integers() | st.tuples(st.booleans()), inner, max_size=2)
    ),
    max_leaves=4,
)
names = st.text(max_size=4) | st.sampled_from(["opt.lr", "lwf.strength", "temperature", "z & a", "history.x", "finished", "été"])


@st.composite
def some_runs(draw):
    """Any number of axes of any names, sizes and labels; histories of several dtypes and shapes; some runs unfinished."""
    paths = draw(st.lists(names.filter(lambda name: name != "seed"), max_size=3, unique=True))
    axes = {path: draw(st.lists(parts, min_size=1, max_size=3)) for path in paths} | {
        "seed": draw(st.lists(st.integers(), min_size=1, max_size=3))
    }
    shape = tuple(len(labels) for labels in axes.values())
    rest = st.lists(st.integers(0, 2), max_size=2).map(tuple)
    dtypes = st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bool, torch.bfloat16])
    history = {}
    for name in draw(st.lists(names, max_size=3, unique=True)):
        value = torch.randn(shape + draw(rest), generator=torch.Generator().manual_seed(1)).mul(3).to(draw(dtypes))
        history[name] = value
    finished = torch.tensor(draw(st.lists(st.booleans(), min_size=math.prod(shape), max_size=math.prod(shape)))).reshape(shape)
    for value in history.values():
        if value.is_floating_point():
            value[~finished] = NAN
    attributes = draw(st.dictionaries(st.text(max_size=3), parts, max_size=2))
    return cl.Runs(axes, history, finished, draw(st.floats(0)), attributes)
