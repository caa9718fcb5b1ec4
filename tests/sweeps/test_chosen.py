"""Sweeps at one point, and what their tables say of how it was chosen."""

from __future__ import annotations

import pickle

import made_runs
import pytest
import registry
import torch

import cl_func as cl
from cl_func.sweeps import chosen, tables
from cl_func.sweeps.chosen import Chosen

NAIVE = cl.strategies.naive(registry.MODEL, registry.SGD)
PLAIN = {"seeds": 2, "compile": False, "progress": False}
FORMATS = list(tables.FORMATS)
ON_TEST = "chosen on test data, with the seeds 10000 to 10002"


def test_a_point_is_a_grid_of_one_without_its_axis():
    point = {"opt.lr": 0.05}
    runs = cl.sweep(NAIVE, registry.BENCH, hparams=point, **PLAIN)
    grid = cl.sweep(NAIVE, registry.BENCH, hparams=cl.grid({"opt.lr": [0.05]}), **PLAIN)
    assert runs.axes == {"seed": [0, 1]}
    for name, value in runs.history.items():
        assert torch.equal(value, grid[name][0])
    assert "chosen" not in runs.attributes
    assert runs.attributes["at"] == {"opt.lr": 0.05} == grid.at(**point).attributes["at"]
    assert float(runs.state(seed=1).opt.lr) == pytest.approx(0.05)
    assert "Hyperparameters" not in runs.table()  # it is not known how it was chosen
    assert cl.sweep(NAIVE, registry.BENCH, hparams={}, **PLAIN).axes == {"seed": [0, 1]}


def test_a_point_may_have_tensors_and_resumes(tmp_path):
    def init(key):
        return {"w": torch.ones(3), "key": key}

    strategy = cl.Strategy(init, lambda state, exp: state)
    runs = [
        cl.sweep(
            strategy,
            registry.BENCH,
            hparams={"w": torch.tensor([1.0, 2.0, 3.0])},
            probe=lambda state, exp: {"sum": state["w"].sum()},
            resume=tmp_path,
            lanes=1,
            **PLAIN,
        )
        for _ in range(2)
    ]
    assert runs[1]["sum"].tolist() == [[6.0] * len(registry.BENCH.train)] * 2
    assert runs[0].attributes["at"] == {"w": [1.0, 2.0, 3.0]}
    assert len(list(tmp_path.glob("chunk-*"))) == 2


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"opt.lr": [0.1, 0.2]}, r"hparams: 'opt.lr': expected a number or a tensor.*cl.grid"),
        ({"opt.rate": 0.1}, r"hparams: .*opt.rate"),
        ({3: 0.1}, r"hparams: expected a path such as 'opt.lr', got 3"),
        ({"opt.lr": -1.0}, r"hparams: tree.set\('opt.lr'\)"),
        ({"opt.lr": float("nan")}, r"hparams: 'opt.lr': expected a number"),
    ],
)
def test_bad_points_are_refused(point, message):
    with pytest.raises((TypeError, ValueError), match=message):
        cl.sweep(NAIVE, registry.BENCH, hparams=point, **PLAIN)


def runs_of(how, **values):
    runs = made_runs.make({"seed": [0, 1]})
    runs.attributes.update(chosen.attributes(values if how is None else Chosen(values, how)))
    return runs


@pytest.mark.parametrize("format", FORMATS)
def test_every_table_says_how_a_point_was_chosen(format, tmp_path):
    runs = runs_of(ON_TEST, **{"opt.lr": 0.1})
    said = f"Hyperparameters opt.lr=0.1 {ON_TEST}."
    runs.save(tmp_path / "runs.safetensors")
    for one in (runs, cl.Runs.load(tmp_path / "runs.safetensors"), cl.Runs.from_xarray(runs.to_xarray()), runs.at(seed=1)):
        assert one.table(format=format).count(said) == 1
        assert one.table(["average_accuracy", "forgetting"], format=format).count(said) == 1
        assert said in one._repr_html_()
        assert said.rstrip(".") in repr(one)


@pytest.mark.parametrize("format", FORMATS)
def test_joined_tables_say_it_of_each(format):
    parts = {
        "ER": runs_of(ON_TEST, **{"opt.lr": 0.1}),
        "DER": runs_of(ON_TEST, **{"opt.lr": 0.2, "alpha": 1.0}),
        "LwF": runs_of("chosen on X", **{"opt.lr": 0.3}),
        "naive": runs_of(None, **{"opt.lr": 0.3}),
    }
    joined = cl.Runs.join(parts)
    note = f"Hyperparameters of ER (opt.lr=0.1), DER (opt.lr=0.2, alpha=1) {ON_TEST}; of LwF (opt.lr=0.3) chosen on X."
    assert note in joined.table(format=format)
    assert "of ER (opt.lr=0.1), LwF" not in joined.table(format=format)
    assert f"Hyperparameters opt.lr=0.1 {ON_TEST}." in joined.at(method="ER").table(format=format)
    assert "Hyperparameters" not in joined.at(method="naive").table(format=format)
    assert "DER" not in joined.at(method=["ER", "LwF"]).table(format=format)
    alike = cl.Runs.join({"ER": parts["ER"], "DER": parts["DER"]})  # what they have in common is kept once
    assert f"Hyperparameters of ER (opt.lr=0.1), DER (opt.lr=0.2, alpha=1) {ON_TEST}." in alike.table(format=format)
    twice = cl.Runs.join({"small": alike, "large": alike}, axis="memory")
    assert "of small, ER (opt.lr=0.1), small, DER" in twice.table(format=format)


def test_notes_are_written_in_the_language_of_the_table():
    runs = runs_of("chosen on 10% of a_b <c>\nand more")
    assert runs.table().splitlines()[-1] == "Hyperparameters chosen on 10% of a_b <c> and more."
    assert r"chosen on 10\% of a\_b \textless{}c\textgreater{} and more." in runs.table(format="latex").splitlines()[-1]
    assert "10% of a_b &lt;c&gt; and more." in runs.table(format="html")


def test_a_chosen_point_is_a_dict_and_is_pickled():
    point = Chosen({"opt.lr": 0.1}, ON_TEST, (made_runs.make({"seed": [0]}),))
    back = pickle.loads(pickle.dumps(point))
    assert point == {"opt.lr": 0.1} == back
    assert (back.how, len(back.searched)) == (ON_TEST, 1)
    assert float(cl.tree.set(NAIVE.init(cl.key(0)), point).opt.lr) == pytest.approx(0.1)


def test_points_are_ranked_and_the_first_is_the_best():
    ranked = made_runs.guesses().ranked()  # no warning of those that diverged
    assert sorted(point["opt.lr"] for point in ranked) == [0.1, 1.0]  # at 10 there is no sound run
    R = torch.tensor([0.3, 0.9, 0.3, 0.5]).reshape(4, 1, 1, 1)
    runs = cl.Runs({"a": [1, 2, 3, 4], "seed": [0]}, {"accuracy": R}, torch.ones(4, 1, dtype=torch.bool), 0.0)
    assert [point["a"] for point in runs.ranked()] == [2, 4, 1, 3]
    assert [point["a"] for point in runs.ranked(largest=False)] == [1, 3, 4, 2]
    assert runs.ranked()[0] == runs.best()
    with pytest.raises(ValueError, match="largest"):
        runs.ranked(lambda R: R.mean())
