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


def setting(number):
    """Runs of a strategy of their own, at a point chosen on test data, whose accuracies are the number."""
    values = torch.full((2, 3, 3), number / 100)
    point = {"opt.lr": number / 10}
    own = {"strategy": f"S{number}", "at": point, "chosen": {"values": point, "by": "chosen on test data"}}
    history = {"accuracy": values, "loss": values}
    finished = torch.ones(2, dtype=torch.bool)
    return cl.Runs({"seed": [0, 1]}, history, finished, float(number), {**own, "every": 1, "experiences": 3})


def joined_twice():
    def of(**parts):
        return cl.Runs.join({name: setting(number) for name, number in parts.items()}, axis="setting")

    return cl.Runs.join({"ER": of(classes=1, domains=2), "LwF": of(classes=3, domains=4)}, axis="method")


def test_of_a_double_join_the_order_of_selection_does_not_matter():
    """With the inner axis first, the strategy, the point and "chosen on test data" were lost, and the seconds were those of all."""
    runs = joined_twice()
    ways = [
        runs.at(method="ER", setting="domains"),
        runs.at(setting="domains", method="ER"),
        runs.at(setting="domains").at(method="ER"),
        runs.at(method="ER").at(setting="domains"),
        runs.at(setting=["domains"]).at(method=["ER"]).at(method="ER").at(setting="domains"),
    ]
    for one in ways:
        assert one.seconds == 2.0
        assert one.attributes == setting(2).attributes
        assert one.table() == setting(2).table()
    assert runs.seconds == 10.0
    assert runs.at(setting="domains").seconds == 6.0
    both = "Hyperparameters of ER (opt.lr=0.2), LwF (opt.lr=0.4) chosen on test data."
    assert runs.at(setting="domains").table().endswith(both)
    only = runs.at(setting=["domains"])
    assert "opt.lr=0.1" not in only.table()
    assert "opt.lr=0.3" not in only.table()
    again = cl.Runs.join({name: runs.at(setting="domains").at(method=name) for name in ("ER", "LwF")}, axis="method")
    assert again.table() == runs.at(setting="domains").table()


def test_what_is_chosen_beside_a_join_is_kept():
    made = {name: cl.sweep(NAIVE, registry.BENCH, hparams=cl.grid({"opt.lr": [0.05, 0.1]}), **PLAIN) for name in ("a", "b")}
    runs = cl.Runs.join(made, axis="method")
    point = {"opt.lr": 0.05}
    expected = made["a"].at(**point).attributes
    for one in (runs.at(method="a", **point), runs.at(**point, method="a"), runs.at(**point).at(method="a")):
        assert one.attributes == expected


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int32, torch.bool], ids=str)
def test_the_best_value_of_a_leaf_of_several_numbers_has_its_dtype(dtype):
    """Its label is a list of numbers, which do not tell float64 from float32."""

    def init(key):
        return {"w": torch.zeros(2, dtype=dtype), "key": key}

    strategy = cl.Strategy(init, lambda state, exp: state)
    grid = cl.grid({"w": [torch.tensor(pair).to(dtype) for pair in ([0.1, 0.0], [0.3, 7.0])]})
    runs = cl.sweep(strategy, registry.BENCH, hparams=grid, probe=lambda state, exp: {"sum": state["w"].float().sum()}, **PLAIN)
    best = runs.best(lambda runs: runs.float()[..., -1], history="sum", largest=True)
    assert best["w"].dtype == dtype
    assert torch.equal(runs.at(**best)["sum"], runs["sum"][1])
    assert torch.equal(cl.tree.set(strategy.init(cl.key(0)), best)["w"], best["w"])
