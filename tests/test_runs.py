"""Runs: what they hold is checked, and comes back from a file under its own labels."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import registry
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cl_func as cl
from cl_func import files, named_axes

NAN = math.nan
quick = settings(max_examples=60, deadline=None)


def make(axes, T=3, **history):
    """Runs whose accuracies are all different, so that none can take another's place unnoticed."""
    shape = tuple(len(labels) for labels in axes.values())
    n = math.prod(shape)
    R = ((torch.arange(n)[:, None, None] + torch.rand(n, T, T, generator=torch.Generator().manual_seed(0))) / n).reshape(
        *shape, T, T
    )
    return cl.Runs(axes, {"accuracy": R, **history}, torch.ones(shape, dtype=torch.bool), 1.5)


def by_label(runs):
    """What each run measured, by its labels in words, whatever the order of the axes."""
    return {
        frozenset((name, repr(labels[i])) for (name, labels), i in zip(runs.axes.items(), where, strict=True)): runs["accuracy"][
            where
        ]
        for where in np.ndindex(*runs.shape)
    }


# ---------------------------------------------------------------- round trip

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
    return cl.Runs(axes, history, finished, draw(st.floats(0)))


@quick
@given(runs=some_runs())
def test_any_runs_come_back(runs):
    cl.testing.check_round_trip(runs)


@settings(max_examples=25, deadline=None)
@given(paths=st.permutations(["a", "b.c", "temperature", "opt.lr"]), sizes=st.lists(st.integers(1, 3), min_size=4, max_size=4))
def test_every_value_comes_back_under_its_labels(tmp_path_factory, paths, sizes):
    """The law in other words, without a look at the order: it fails where the file sorts the axes."""
    runs = make(
        {path: list(range(10 * i, 10 * i + n)) for i, (path, n) in enumerate(zip(paths, sizes, strict=True))} | {"seed": [7, 3]},
        T=1,
    )
    path = tmp_path_factory.mktemp("runs") / "runs"
    for save, load in ((cl.save, cl.load), (cl.Runs.save, cl.Runs.load)):
        save(*((path, runs) if save is cl.save else (runs, path)))
        again = load(path)
        assert list(again.axes) == [*paths, "seed"]
        found, wanted = by_label(again), by_label(runs)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[labels], wanted[labels]) for labels in wanted)
        assert again.best() == runs.best()
        assert again.table() == runs.table()


def test_zipped_labels_keep_their_order(tmp_path):
    grid = cl.zipped({"opt.lr": [0.1, 0.2], "lwf.strength": [2.0, 3.0]})
    runs = make({name: [dict(point) for point in points] for name, points in grid.axes} | {"seed": [0]})
    runs.save(tmp_path / "runs")
    assert "| 0.1, 2 |" in runs.table()
    assert cl.Runs.load(tmp_path / "runs").table() == runs.table()


class Whole(int):
    pass


@pytest.mark.parametrize(
    "label", [np.float32(1.0), np.float64(1.0), torch.tensor(1.0), Whole(3), {1, 2}, b"x", [1, (2, np.int64(3))]]
)
def test_labels_that_a_file_would_change_are_refused_by_name(tmp_path, label):
    with pytest.raises(TypeError, match=r"axes: the label .* of 'model\.size', a .*, can not be saved; use Python's own numbers"):
        make({"model.size": [label], "seed": [0]}).save(tmp_path / "runs")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- files of format 1


def write_format_1(path, runs):
    """As versions until now wrote it: axes, and labels that are mappings, as JSON objects sorted by name."""
    text = json.loads(json.dumps(runs.axes, sort_keys=True))
    tensors = {**{f"history.{name}": value for name, value in runs.history.items()}, "finished": runs.finished}
    files.write(path, tensors, {"format": 1, "kind": "runs", "axes": text, "seconds": runs.seconds})


ZIP = [{"opt.lr": 0.1, "lwf.strength": 2.0}, {"opt.lr": 0.2, "lwf.strength": 3.0}]


@pytest.mark.parametrize(
    "axes",
    [
        {"seed": [0, 1]},
        {"temperature": [1.0, 2.0], "seed": [0, 1]},
        {"opt.lr": [0.1, 0.2], "seed": [0, 1]},
        {"opt.lr": [0.1, 0.2, 0.3], "lwf.strength": [1.0, 2.0], "seed": [0, 1]},
        {"z": [1, 2], "x": [1, 2, 3, 4], "y": [1, 2, 3], "seed": [0, 1, 2]},
        {"opt.lr & lwf.strength": ZIP, "seed": [0, 1, 2]},
    ],
)
def test_older_files_are_read_right_where_their_order_can_be_known(tmp_path, axes):
    runs = make(axes)
    write_format_1(tmp_path / "old", runs)
    again = cl.load(tmp_path / "old")
    assert repr(again.axes) == repr(runs.axes)
    assert torch.equal(again["accuracy"], runs["accuracy"])


def test_axes_of_one_point_may_come_in_any_order(tmp_path):
    runs = make({"z": [1], "b": [1, 2, 3], "a": [5], "seed": [0, 1]})
    write_format_1(tmp_path / "old", runs)
    again = cl.load(tmp_path / "old")
    assert by_label(again).keys() == by_label(runs).keys()
    assert all(torch.equal(by_label(again)[labels], value) for labels, value in by_label(runs).items())


def test_older_files_whose_order_is_not_known_are_refused_with_the_way_on(tmp_path):
    runs = make({"opt.lr": [0.1, 0.001], "lwf.strength": [0.5, 2.0], "seed": [0, 1]})
    write_format_1(tmp_path / "old", runs)
    for load in (cl.load, cl.Runs.load):
        with pytest.raises(
            ValueError, match=r"did not keep the order .*'lwf.strength' and 'opt.lr' are of one size.*axes=\["
        ) as caught:
            load(tmp_path / "old")
        assert not isinstance(caught.value, files.DamagedFile)
    again = cl.Runs.load(tmp_path / "old", axes=["opt.lr", "lwf.strength", "seed"])
    assert again.axes == runs.axes
    assert again.best() == runs.best()


def test_the_order_of_axes_is_checked_where_it_is_given(tmp_path):
    runs = make({"b": [1, 2], "a": [1, 2, 3], "seed": [0]})
    runs.save(tmp_path / "new")
    write_format_1(tmp_path / "old", runs)
    for file in ("new", "old"):
        assert list(cl.Runs.load(tmp_path / file, axes=["b", "a", "seed"]).axes) == ["b", "a", "seed"]
        with pytest.raises(ValueError, match=r"^axes: .*order"):
            cl.Runs.load(tmp_path / file, axes=["a", "b", "seed"])
        with pytest.raises(ValueError, match=r"axes: .* got \['a', 'seed'\]"):
            cl.Runs.load(tmp_path / file, axes=["a", "seed"])
        with pytest.raises(TypeError, match="axes: expected the names"):
            cl.Runs.load(tmp_path / file, axes="a")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    "axes",
    [
        {},
        [],
        3,
        None,
        "seed",
        {"seed": 3},
        {"a": [1]},
        [["seed"]],
        [["a", [1]]],
        [["seed", [0]], ["seed", [0]]],
        [["seed", [{"x": 1}]]],
    ],
)
def test_files_of_runs_without_proper_axes(tmp_path, version, axes):
    tensors = {"finished": torch.ones(1) > 0, "history.accuracy": torch.ones(1, 2, 2)}
    files.write(
        tmp_path / "f", tensors, {"format": version, "kind": "runs", "axes": axes, "histories": ["accuracy"], "seconds": 1.0}
    )
    for load in (cl.load, cl.Runs.load):
        with pytest.raises(files.DamagedFile, match="damaged: its histories do not have the shape of its axes"):
            load(tmp_path / "f")


# ---------------------------------------------------------------- what Runs may hold

ONE = torch.ones(1, dtype=torch.bool)


@pytest.mark.parametrize(
    ("axes", "history", "finished", "match"),
    [
        ({}, {}, torch.tensor(True), "axes: the last axis must be 'seed', got none"),
        ({"a": [1]}, {}, ONE, r"axes: the last axis must be 'seed', got \['a'\]"),
        ({"seed": [0], "a": [1]}, {}, ONE[None], "axes: the last axis must be 'seed'"),
        ({"a": [], "seed": [0]}, {}, ONE[None], "axes: 'a' has no labels"),
        ({"a": 3, "seed": [0]}, {}, ONE[None], "axes: expected a dict from names to lists"),
        ([("seed", [0])], {}, ONE, "axes: expected a dict"),
        ({3: [0], "seed": [0]}, {}, ONE[None], "axes: expected a dict"),
        ({"seed": [0]}, {"loss": torch.ones(2, 3)}, ONE, r"history: 'loss' is float32\[2, 3\], but the axes \['seed'\] .* \[1\]"),
        ({"seed": [0]}, {"loss": 3.0}, ONE, "history: expected a dict from names to tensors"),
        ({"seed": [0, 1]}, {}, ONE, r"finished: expected a bool tensor of shape \[2\]"),
        ({"seed": [0]}, {}, torch.ones(1), "finished: expected a bool tensor"),
    ],
)
def test_runs_that_do_not_fit_together_are_refused(axes, history, finished, match):
    with pytest.raises((TypeError, ValueError), match=match):
        cl.Runs(axes, history, finished, 1.0)


def test_runs_of_which_none_is_finished():
    runs = cl.Runs({"a": [1, 2], "seed": [0, 1]}, {}, torch.zeros(2, 2, dtype=torch.bool), 1.0)
    cl.testing.check_round_trip(runs)
    with pytest.raises(ValueError, match="'accuracy': no such history; there is none, since no run is finished"):
        runs.table()


@pytest.mark.parametrize(
    "grid", [cl.Grid((("seed", ({"opt.lr": 0.1},)),)), cl.Grid((("a", ({"opt.lr": 0.1},)), ("a", ({"opt.lr": 0.2},))))]
)
def test_a_sweep_refuses_two_axes_of_one_name_before_it_trains(grid):
    strategy = cl.strategies.naive(registry.MODEL, registry.SGD)
    with pytest.raises(ValueError, match="hparams: two axes would have one name"):
        cl.sweep(strategy, registry.BENCH, seeds=1, hparams=grid, compile=False, progress=False)


# ---------------------------------------------------------------- labels in words


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0.1, 1.0, 1e-4], ["0.1", "1", "0.0001"]),
        ([0.1234567, 0.1234568], ["0.1234567", "0.1234568"]),
        ([1, "1"], ["1", "'1'"]),
        ([True, "True", 2], ["True", "'True'", "2"]),
        ([{"a": 1, "b": 0.5}], ["a=1, b=0.5"]),
        ([[0.0, 1.0], None], ["[0.0, 1.0]", "None"]),
    ],
)
def test_labels_in_words_tell_apart(labels, words):
    assert named_axes.texts("x", labels) == words


@quick
@given(labels=st.lists(parts, min_size=1, max_size=6))
def test_words_of_any_labels_are_different(labels):
    assert len(set(named_axes.texts("x", labels))) == len(labels)


def test_no_point_is_lost_where_labels_look_alike():
    runs = make({"opt.lr": [0.1234567, 0.1234568], "seed": [0, 1]})
    assert len(runs.plot_timeline().axes[0].lines) == 2
    assert len({line.split("|")[1] for line in runs.table().splitlines()[2:]}) == 2
