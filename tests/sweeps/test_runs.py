"""Runs: what they hold is checked, comes back from a file under its own labels, and nothing that went wrong looks like a result."""

from __future__ import annotations

import dataclasses
import json
import warnings

import numpy as np
import pytest
import registry
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import CLASSES, NAN, guesses, make, parts, some_runs

import cl_func as cl
from cl_func.storage import files
from cl_func.sweeps import named_axes
from cl_func.sweeps.runs import METRICS

quick = settings(max_examples=60, deadline=None)


def by_label(runs):
    """What each run measured, by its labels in words, whatever the order of the axes."""
    return {
        frozenset((name, repr(labels[i])) for (name, labels), i in zip(runs.axes.items(), where, strict=True)): runs["accuracy"][
            where
        ]
        for where in np.ndindex(*runs.shape)
    }


# ---------------------------------------------------------------- round trip


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
    assert repr(runs) == "Runs(a: 2, seed: 2; no history; 4 of 4 unfinished; 1.0 s)"
    cl.testing.check_round_trip(runs)
    with pytest.raises(ValueError, match="metric: there is no history, since no run is finished"):
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
    assert len(runs.plot_timeline().lines) == 2
    assert len({line.split("|")[1] for line in runs.table().splitlines()[2:]}) == 2


def test_pandas_has_the_labels_themselves():
    runs = make({"opt.lr": [0.1234567, 0.1234568], "zip": [{"a": 1}, [2]], "seed": [3, 5]}, loss=torch.zeros(2, 2, 2, 3, 3))
    runs["loss"][1, 0, 1, -1] = NAN
    frame = runs.to_pandas()
    assert set(frame["opt.lr"]) == {0.1234567, 0.1234568}
    assert set(frame["zip"]) == {"a=1", "[2]"}
    assert set(frame["seed"]) == {3, 5}
    one = frame[(frame["opt.lr"] == 0.1234568) & (frame["zip"] == "a=1") & (frame["seed"] == 5)]
    assert one["accuracy"].tolist() == runs["accuracy"][1, 0, 1].flatten().tolist()
    assert one["diverged"].all()
    assert frame["diverged"].sum() == 9
    with pytest.raises(ValueError, match="two columns would have one name"):
        make({"time": [1, 2], "seed": [0]}).to_pandas()


def test_a_table_survives_bars_in_labels():
    lines = make({"a|b": ["x|y"], "seed": [0]}).table().splitlines()
    assert {len(line.replace(r"\|", "").split("|")) for line in lines} == {4}


# ---------------------------------------------------------------- runs that went wrong


def with_history(runs, **history):
    return dataclasses.replace(runs, history={**runs.history, **history})


def test_diverged_runs_are_reported():
    runs = guesses()
    assert runs.diverged.tolist() == [[False] * 10, [True] * 2 + [False] * 8, [True] * 10]
    assert not runs.constant.any()
    mean, half = runs.mean_ci()
    sound = runs.metric()[1, 2:]
    torch.testing.assert_close(mean[1], sound.mean())
    torch.testing.assert_close(half[1], cl.metrics.mean_ci(sound)[1])
    assert mean[2].isnan()
    rows = runs.table().splitlines()[2:]
    assert "diverged" not in rows[0]
    assert rows[1].endswith(f"{mean[1]:.3f} ± {half[1]:.3f} (2 of 10 diverged) |")
    assert rows[2] == "| 10 | 10 of 10 diverged |"
    assert "12 of 30 diverged" in repr(runs)
    assert runs.metric()[2].tolist() == pytest.approx([1 / CLASSES] * 10)  # the values themselves are not hidden


@pytest.mark.parametrize("metric", METRICS)
def test_a_diverged_run_wins_nothing(metric):
    """It neither forgets nor transfers: by its own values it would be the best at forgetting."""
    runs = guesses()
    runs["accuracy"][0] = torch.tensor([[0.9, 0.0, 0.0], [0.4, 0.8, 0.0], [0.3, 0.4, 0.7]])
    runs["accuracy"][1] = runs["accuracy"][0]
    runs["accuracy"][1, 2:] += 0.01
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert runs.best(metric) == {"opt.lr": 0.1}  # by a little, were the two that diverged left out
    runs["accuracy"][1, 2:] += 0.05
    assert runs.best(metric, largest=metric != "forgetting") == {"opt.lr": 0.1}


def test_best_says_where_it_is_not_sure():
    runs = guesses(points=2)
    runs["accuracy"][1, 2:] = 1.0
    with pytest.warns(UserWarning, match=r"best: \{'opt.lr': 1.0\}: 2 of 10 diverged; of all runs, 2 of 20 diverged"):
        assert runs.best() == {"opt.lr": 1.0}
    runs.finished[0, 3:] = False
    runs["accuracy"][0] = 1.0
    with pytest.warns(UserWarning, match=r"7 of 10 unfinished; of all runs, 2 of 20 diverged, 7 of 20 unfinished"):
        assert runs.best() == {"opt.lr": 0.1}
    broken = with_history(guesses(points=1), loss=torch.full((1, 10, 3, 3), NAN))
    with pytest.raises(ValueError, match="best: there is nothing to choose from: of all runs, 10 of 10 diverged"):
        broken.best()


def test_the_best_forgetting_is_the_smallest():
    runs = make({"a": [1, 2], "seed": [0, 1]})
    runs["accuracy"][0] = torch.tensor([[0.9, 0.0, 0.0], [0.9, 0.8, 0.0], [0.8, 0.8, 0.7]])
    runs["accuracy"][1] = torch.tensor([[0.9, 0.0, 0.0], [0.1, 0.8, 0.0], [0.1, 0.1, 0.7]])
    assert runs.best("forgetting") == {"a": 1}
    assert runs.best("forgetting", largest=True) == {"a": 2}
    assert runs.best("backward_transfer") == {"a": 1}


def test_unfinished_runs_are_reported():
    runs = guesses(points=2)
    runs.finished[0, 7:] = False
    runs["accuracy"][0, 7:] = NAN
    runs.finished[1, 9:] = False
    rows = runs.table().splitlines()[2:]
    assert rows[0].endswith("(3 of 10 unfinished) |")
    assert rows[1].endswith("(2 of 10 diverged, 1 of 10 unfinished) |")
    assert "nan" not in runs.table()


def test_no_nan_beside_a_single_run():
    assert "nan" not in make({"a": [1, 2], "seed": [0]}).table()


def test_constant_answers_are_reported_and_count():
    """Units that are dead: the loss is finite, one class for everything."""
    runs = guesses(points=1)
    runs["class_accuracy"][0, :3, -1] = torch.eye(CLASSES)[2]
    runs["accuracy"][0, :3, -1] = torch.tensor([0.0, 0.5, 0.0])
    assert runs.constant.sum() == 3
    assert not runs.diverged.any()
    assert "(3 of 10 constant answers)" in runs.table()
    torch.testing.assert_close(runs.mean_ci()[0][0], runs.metric()[0].mean())
    runs["class_accuracy"][0, :, -1] = torch.eye(CLASSES)[2]
    runs["accuracy"][0, :, -1] = torch.tensor([0.0, 0.5, 0.0])
    dead = dataclasses.replace(runs)
    assert dead.table().endswith("0.167 ± 0.000 (10 of 10 constant answers) |")
    with pytest.raises(ValueError, match="10 of 10 constant answers"):
        dead.best()


@pytest.mark.parametrize(
    ("classes", "accuracy", "constant"),
    [
        ([0.0, 0.0, 0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0], False),  # naive: only the last classes, two of them
        ([0.0, 0.0, 0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.5], True),
        ([NAN, NAN, NAN, 0.0, 0.0, 1.0], [0.0, 0.0, 0.5], True),
        ([0.0, 0.0, 0.0, NAN, NAN, 1.0], [0.0, 0.0, 1.0], False),  # one class was trained on last, and is answered
        ([0.0, 0.0, 1.0, NAN, NAN, 0.0], [0.0, 1.0, 0.0], True),  # one class, but not the one trained on last
        ([NAN, NAN, NAN, NAN, NAN, 1.0], [1.0, 1.0, 1.0], False),  # there is one class
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.9], [0.0, 0.0, 0.45], False),
        ([0.0] * 6, [0.0, 0.0, 0.0], False),
    ],
)
def test_what_are_constant_answers(classes, accuracy, constant):
    runs = guesses(seeds=1, points=1)
    runs["class_accuracy"][0, 0, -1], runs["accuracy"][0, 0, -1] = torch.tensor(classes), torch.tensor(accuracy)
    assert runs.constant.item() is constant


def test_a_test_experience_without_rows_is_no_divergence():
    runs = guesses(points=1)
    runs["accuracy"][..., 1], runs["loss"][..., 1] = NAN, NAN
    assert not runs.diverged.any()
    with pytest.raises(ValueError, match="empty test experiences"):
        runs.table()


def test_a_probe_of_ones_own_whose_accuracy_is_nan():
    runs = guesses(points=1)
    runs["accuracy"][0, :2] = NAN
    own = dataclasses.replace(runs, history={"accuracy": runs["accuracy"]})
    assert own.diverged.tolist() == [[True] * 2 + [False] * 8]
    assert own.metric()[0, :2].isnan().all()
    assert "(2 of 10 diverged)" in own.table()
    loss_only = dataclasses.replace(runs, history={"loss": torch.tensor([[1.0, NAN]]).repeat(1, 5)[..., None]})
    assert loss_only.diverged.sum() == 5


def test_a_run_that_was_nan_and_recovered_has_not_diverged():
    runs = guesses(points=1)
    runs["loss"][0, 0, 0] = NAN
    assert not runs.diverged.any()


def test_a_sweep_that_diverges():
    """The real thing: learning rates that are fine, far too large, and beyond all numbers."""
    strategy = cl.strategies.naive(registry.MODEL, cl.optim.sgd(0.1), batch_size=5, epochs=3)
    runs = cl.sweep(
        strategy, registry.BENCH, seeds=3, hparams=cl.grid({"opt.lr": [0.1, 1e30]}), compile=False, progress=False, lanes=3
    )
    assert runs.diverged.tolist() == [[False] * 3, [True] * 3]
    assert runs.table().endswith("| 1e+30 | 3 of 3 diverged |")
    assert runs.best() == {"opt.lr": 0.1}
