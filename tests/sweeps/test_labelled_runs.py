"""Runs as labelled data: parts by their labels, several Runs along a new axis, and what files keep of them."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
import registry
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import NAN, draws, guesses, make, same

import cl_func as cl

quick = settings(max_examples=40, deadline=None)
LR = {"opt.lr": [0.1, 0.3], "seed": [0, 1, 2]}


# ---------------------------------------------------------------- parts

GRID3 = {"opt.lr": [0.1, 0.3], "lwf.strength": [1, 2, 5], "seed": [4, 7]}


def test_a_part_has_the_values_of_its_labels():
    runs = make(GRID3, norm=draws(2, 3, 2, 4))
    R = runs["accuracy"]
    one = runs.at(**{"opt.lr": 0.3})
    assert one.axes == {"lwf.strength": [1, 2, 5], "seed": [4, 7]}
    assert torch.equal(one["accuracy"], R[1])
    assert torch.equal(one["norm"], runs["norm"][1])
    assert one.attributes == {"at": {"opt.lr": 0.3}}
    assert one.at(**{"lwf.strength": 5}).attributes == {"at": {"opt.lr": 0.3, "lwf.strength": 5}}
    several = runs.at(**{"lwf.strength": [5, 1]}, seed=[7])
    assert several.axes == {"opt.lr": [0.1, 0.3], "lwf.strength": [5, 1], "seed": [7]}
    assert torch.equal(several["accuracy"], R[:, [2, 0]][:, :, [1]])
    assert torch.equal(runs.at(seed=7)["accuracy"], R[:, :, [1]])
    assert runs.at(seed=7).axes["seed"] == [7]
    assert same(runs.at(), runs)
    one["accuracy"].zero_()
    assert bool((R[1] != 0).any())  # a part is a copy


def test_the_best_point_is_one_to_take_and_to_set():
    points = cl.zipped({"opt.lr": [0.1, 0.2], "lwf.strength": [2.0, 3.0]})
    runs = make({name: [dict(p) for p in some] for name, some in points.axes} | {"seed": [0, 1]})
    best = runs.best()
    assert best == {"opt.lr": 0.2, "lwf.strength": 3.0}
    assert best in points.points()
    state = cl.strategies.lwf(registry.MODEL, cl.optim.sgd(0.1), batch_size=5).init(cl.key(0))
    assert cl.tree.get(cl.tree.set(state, best), "lwf.strength") == 3.0
    assert torch.equal(runs.at(**best)["accuracy"], runs["accuracy"][1])
    assert runs.at(**best).attributes == {"at": best}
    assert torch.equal(runs.at(**{"opt.lr & lwf.strength": best})["accuracy"], runs["accuracy"][1])
    assert runs.at(**{"opt.lr & lwf.strength": [best]}).axes["opt.lr & lwf.strength"] == [best]
    with pytest.raises(ValueError, match=r"opt.lr & lwf.strength: its points have a value for each path; give 'lwf.strength' too"):
        runs.at(**{"opt.lr": 0.2})
    with pytest.raises(ValueError, match=r"opt.lr & lwf.strength: expected one of .*got \{'opt.lr': 0.1, 'lwf.strength': 3.0\}"):
        runs.at(**{"opt.lr": 0.1, "lwf.strength": 3.0})


def test_labels_of_tensors():
    values = [torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])]
    runs = make({"w": [value.tolist() for value in values], "seed": [0]})
    best = runs.best()
    assert torch.equal(cl.tree.set({"w": torch.zeros(2)}, best)["w"], values[1])
    assert torch.equal(runs.at(**best)["accuracy"], runs["accuracy"][1])
    assert torch.equal(runs.at(w=[0.0, 1.0])["accuracy"], runs["accuracy"][0])
    assert runs.at(w=[[1.0, 0.0]]).axes["w"] == [[1.0, 0.0]]


def test_labels_that_are_equal_to_others():
    runs = make({"x": [1, True, 1.0, "1"], "seed": [0]})
    for i, label in enumerate(runs.axes["x"]):
        assert torch.equal(runs.at(x=label)["accuracy"], runs["accuracy"][i])
    assert torch.equal(
        make({"x": [1.0, 2.0], "seed": [0]}).at(x=2)["accuracy"], make({"x": [1.0, 2.0], "seed": [0]})["accuracy"][1]
    )
    with pytest.raises(ValueError, match=r"x: expected one of \[3, 3\], which are not distinct, got 3"):
        make({"x": [3, 3], "seed": [0]}).at(x=3)


@pytest.mark.parametrize(
    ("point", "match"),
    [
        ({"lr": 0.1}, "'lr': no such axis; there is opt.lr, lwf.strength, seed"),
        ({"opt.lr": 0.2}, r"opt.lr: expected one of \[0.1, 0.3\], got 0.2"),
        ({"opt.lr": None}, "opt.lr: expected one of"),
        ({"opt.lr": []}, "opt.lr: expected at least one label"),
        ({"opt.lr": [0.1, 0.1]}, "opt.lr: a label occurs twice"),
        ({"seed": [4, 5]}, r"seed: expected one of \[4, 7\], got 5"),
        ({"seed": "4"}, "seed: expected one of"),
    ],
)
def test_labels_that_are_not_there(point, match):
    with pytest.raises(ValueError, match=match):
        make(GRID3).at(**point)


def sweep(lr=(0.05, 0.1), make=cl.strategies.naive, **more):
    strategy = make(registry.MODEL, cl.optim.sgd(0.1), batch_size=5, **more)
    return cl.sweep(strategy, registry.BENCH, seeds=3, hparams=cl.grid({"opt.lr": list(lr)}), compile=False, progress=False)


@pytest.fixture(scope="module")
def methods():
    found = {"naive": sweep(), "ER": sweep(make=cl.strategies.er, capacity=6, replay_size=4)}
    for runs in found.values():
        runs.history["class_accuracy"] = torch.full_like(runs["class_accuracy"], 0.5)  # none gives constant answers
    return found


def test_the_states_of_a_part_and_of_joined_runs(methods):
    both = cl.Runs.join(methods)
    for name, runs in methods.items():
        wanted = runs.state(seed=2, **{"opt.lr": 0.1})
        label = {"opt.lr": 0.1}
        cl.testing.assert_equal(both.state(method=name, seed=2, **label), wanted, "joined")
        cl.testing.assert_equal(runs.at(**label, seed=[2, 0]).state(seed=2), wanted, "part")
        cl.testing.assert_equal(pickle.loads(pickle.dumps(both.at(method=name, **label))).state(seed=2), wanted, "pickled")
    with pytest.raises(ValueError, match=r"labels: .* one run; give method=, one of \['naive', 'ER'\]"):
        both.state(seed=2, **{"opt.lr": 0.1})
    with pytest.raises(ValueError, match="these Runs were loaded"):
        cl.Runs.join({"a": make(LR)}).state(seed=0)


# ---------------------------------------------------------------- side by side


@st.composite
def parts_to_join(draw):
    """Runs of the same labels, histories and shapes, but of other orders and attributes."""
    names = draw(st.lists(st.sampled_from(["opt.lr", "a", "z & b"]), max_size=2, unique=True))
    sizes = {name: draw(st.integers(1, 3)) for name in [*names, "seed"]}
    found = {}
    for i, name in enumerate(draw(st.lists(st.text(max_size=3), min_size=1, max_size=3, unique=True))):
        order = draw(st.permutations(names))
        axes = {one: draw(st.permutations([10 * k for k in range(sizes[one])])) for one in [*order, "seed"]}
        runs = make(axes, T=2, norm=draws(*(len(v) for v in axes.values()), 3, seed=i))
        runs.finished.bernoulli_(0.7, generator=torch.Generator().manual_seed(i))
        attributes = draw(st.dictionaries(st.sampled_from(["torch", "at", "note"]), st.integers(0, 2) | st.tuples(st.booleans())))
        found[name] = dataclasses.replace(runs, seconds=float(i), attributes=attributes)
    return found


def by_label(runs):
    order = sorted(runs.axes)
    names = list(runs.axes)
    found = {}
    for where in np.ndindex(*runs.shape):
        labels = tuple(runs.axes[name][where[names.index(name)]] for name in order)
        found[labels] = (runs["accuracy"][where].tolist(), runs["norm"][where].tolist(), bool(runs.finished[where]))
    return found


@quick
@given(runs=parts_to_join())
def test_joined_runs_give_each_back(runs):
    both = cl.Runs.join(runs, axis="method")
    assert list(both.axes) == ["method", *next(iter(runs.values())).axes]
    assert both.axes["method"] == list(runs)
    assert both.seconds == sum(one.seconds for one in runs.values())
    cl.testing.check_round_trip(both)
    for name, one in runs.items():
        again = both.at(method=name)
        assert by_label(again) == by_label(one)
        assert again.attributes == one.attributes
        assert again.seconds == one.seconds
    first = next(iter(runs))
    assert same(both.at(method=first), runs[first])
    part = both.at(method=[first])
    assert part.seconds == runs[first].seconds
    assert same(part.at(method=first), runs[first])
    outer = cl.Runs.join({"x": both, "y": both}, axis="again")
    assert same(outer.at(again="y"), both)
    cl.testing.check_round_trip(outer)


def test_joined_runs_by_hand():
    er, naive = make(LR), make({"opt.lr": [0.3, 0.1], "seed": [2, 0, 1]})
    both = cl.Runs.join({"ER": er, "naive": naive})
    assert both.axes == {"method": ["ER", "naive"], **LR}
    assert torch.equal(both["accuracy"][0], er["accuracy"])
    assert torch.equal(both["accuracy"][1], naive["accuracy"].flip(0)[:, [1, 2, 0]])
    assert both.best()["method"] in ("ER", "naive")
    rows = both.table().splitlines()[2:]
    assert [row.split(" | ")[:2] for row in rows] == [["| ER", "0.1"], ["| ER", "0.3"], ["| naive", "0.1"], ["| naive", "0.3"]]
    assert set(both.to_pandas()["method"]) == {"ER", "naive"}
    both.plot_grid()


def test_the_best_of_each_method_keeps_its_hyperparameters(methods):
    chosen = cl.Runs.join({name: runs.at(**runs.best()) for name, runs in methods.items()})
    for name, runs in methods.items():
        assert chosen.at(method=name).attributes["at"] == runs.best()
        assert chosen.at(method=name).attributes["torch"] == torch.__version__
    assert chosen.attributes["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (make({"seed": [0, 1, 2]}), r"runs: 'b' has the axes \['seed'\], the first \['opt.lr', 'seed'\]; choose a point"),
        (make({"opt.lr": [0.1, 0.3], "seed": [0, 1]}), r"\[0, 1\] of 'seed', the first .*runs.at\(\*\*\{'seed': \[0, 1\]\}\)"),
        (make({"opt.lr": [0.1, 0.2], "seed": [0, 1, 2]}), r"'b' has the labels \[0.1, 0.2\] of 'opt.lr'"),
        (make({"opt.lr": [1, 2], "seed": [0, 1, 2]}), "they have none in common"),
        (make({"opt.lr": [0.1, 0.3], "seed": [0.0, 1.0, 2.0]}), "they have none in common"),
        (make(LR, loss=draws(2, 3, 3, 3)), r"histories: 'b' has \['accuracy', 'loss'\], the first .*; name those"),
        (make(LR, T=2), r"history: 'b' has 'accuracy' as float32\[2, 3, 2, 2\], the first as .*; they were"),
        (dataclasses.replace(make(LR), history={"accuracy": draws(2, 3, 3, 3).double()}), "'accuracy' as float64"),
    ],
)  # fmt: skip
def test_runs_that_cannot_be_joined(other, match):
    with pytest.raises(ValueError, match=match):
        cl.Runs.join({"a": make(LR), "b": other})


def test_only_some_histories_are_joined():
    er, other = make(LR, loss=draws(2, 3, 3, 3)), make(LR, norm=draws(2, 3, 3))
    assert set(cl.Runs.join({"ER": er, "other": other}, histories=["accuracy"]).history) == {"accuracy"}
    with pytest.raises(ValueError, match="histories: 'other' has no 'loss', only accuracy, norm"):
        cl.Runs.join({"ER": er, "other": other}, histories=["loss"])
    unfinished = dataclasses.replace(er, history={}, finished=torch.zeros(2, 3, dtype=torch.bool))
    assert cl.Runs.join({"a": unfinished}).history == {}


@pytest.mark.parametrize("axis", ["", "seed", "opt.lr", 3, None])
def test_the_new_axis_needs_a_new_name(axis):
    with pytest.raises((TypeError, ValueError), match="axis: expected a"):
        cl.Runs.join({"a": make(LR)}, axis=axis)


@pytest.mark.parametrize("runs", [{}, [], make(LR), {3: make(LR)}, {"a": None}, None])
def test_what_is_joined_are_runs(runs):
    with pytest.raises(TypeError, match="runs"):
        cl.Runs.join(runs)


# ---------------------------------------------------------------- files


def test_files_without_attributes_are_read():
    """A file of before there were any."""
    runs = cl.load(Path(__file__).parent / "before_attributes" / "runs.safetensors")
    wanted = guesses(seeds=3)
    wanted.finished[0, 2] = False
    for value in wanted.history.values():
        value[0, 2] = NAN
    assert same(runs, wanted)
    assert runs.attributes == {}
    assert runs.table() == wanted.table()


@pytest.mark.parametrize("value", [np.float32(1), torch.ones(2), {1: {2}}])
def test_attributes_that_a_file_would_change_are_refused(tmp_path, value):
    runs = dataclasses.replace(make(LR), attributes={"note": value})
    with pytest.raises(TypeError, match=r"attributes: the part .* of 'note', a .*, can not be saved"):
        runs.save(tmp_path / "runs")


@pytest.mark.parametrize("attributes", [None, [], {3: 1}])
def test_attributes_have_names(attributes):
    with pytest.raises(TypeError, match="attributes: expected a dict from names"):
        dataclasses.replace(make(LR), attributes=attributes)
