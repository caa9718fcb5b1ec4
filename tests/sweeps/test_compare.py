"""`cl.compare`: the same as its sweeps one by one, whatever goes wrong in one of them."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import pickle
import re
import shutil
import sys

import pytest
import torch
from made_runs import same
from registry import BENCH, MODEL, SGD

import cl_func as cl
from cl_func.sweeps.cells import safe_name
from cl_func.sweeps.compare import FailedMethods

PLAIN = {"compile": False, "lanes": 2, "progress": False}
LOOP = {"batch_size": 5}
NAIVE = cl.strategies.naive(MODEL, SGD, **LOOP)
ER = cl.strategies.er(MODEL, SGD, capacity=8, replay_size=4, **LOOP)
WIDE = cl.strategies.er(cl.models.mlp(6, hidden=(12,), n_classes=4), SGD, capacity=5, replay_size=2, **LOOP)
METHODS = {"naive": NAIVE, "ER": ER, "wide": WIDE}


@dataclasses.dataclass(frozen=True)
class Best:
    """The best on the test stream."""

    n_seeds: int = 1
    given: list = dataclasses.field(default_factory=list, repr=False, compare=False)

    def choose(self, strategy, benchmark, hparams, *, seeds, sweep):
        self.given.append(seeds)
        return sweep(strategy, benchmark, seeds=range(100, 100 + self.n_seeds), hparams=hparams).best()


def alike(found, wanted):
    """The same but for the time that it took and what was chosen."""
    found, wanted = (
        dataclasses.replace(one, seconds=0.0, attributes={}, history=dict(sorted(one.history.items()))) for one in (found, wanted)
    )
    return same(found, wanted)


def test_it_is_the_sweeps_one_by_one():
    runs = cl.compare(METHODS, BENCH, seeds=[3, 1, 4], **PLAIN)
    assert runs.axes == {"method": ["naive", "ER", "wide"], "seed": [3, 1, 4]}
    for name, strategy in METHODS.items():
        alone = cl.sweep(strategy, BENCH, seeds=[3, 1, 4], **PLAIN)
        assert alike(runs.at(method=name), alone)
        state = runs.state(method=name, seed=1)
        cl.testing.assert_equal(state, alone.state(seed=1), "the same")
    assert len(runs.compare("naive", "ER")) == 1
    pickle.loads(pickle.dumps(runs))


def test_settings_with_other_classes_are_an_axis():
    data = BENCH.train[0].source
    domains = cl.streams.domain_incremental(data, data, n_experiences=2)
    two = cl.models.mlp(6, hidden=(8,), n_classes=2)
    small = {"domain": cl.strategies.naive(two, SGD, **LOOP), "class": NAIVE}
    runs = cl.compare({"naive": small}, {"class": BENCH, "domain": domains}, seeds=2, **PLAIN)
    assert runs.axes == {"method": ["naive"], "setting": ["class", "domain"], "seed": [0, 1]}
    alone = cl.sweep(small["domain"], domains, seeds=2, **PLAIN)
    part = runs.at(method="naive", setting="domain")
    assert torch.equal(part["accuracy"], alone["accuracy"])
    assert torch.equal(part["class_accuracy"][..., :2], alone["class_accuracy"])
    assert part["class_accuracy"][..., 2:].isnan().all()
    assert alike(runs.at(method="naive", setting="class"), cl.sweep(NAIVE, BENCH, seeds=2, **PLAIN))


def per_seed(key):
    return BENCH


def last_first(benchmark):
    return dataclasses.replace(benchmark, train=cl.Stream(lambda i: benchmark.train[len(benchmark.train) - 1 - i], 2))


@pytest.mark.parametrize("benchmark", [BENCH, per_seed], ids=["one", "a seed"])
def test_a_method_may_train_on_another_stream(benchmark):
    runs = cl.compare({"naive": NAIVE, "back": NAIVE}, benchmark, seeds=2, streams={"back": last_first}, **PLAIN)
    assert alike(runs.at(method="naive"), cl.sweep(NAIVE, BENCH, seeds=2, **PLAIN))
    assert alike(runs.at(method="back"), cl.sweep(NAIVE, last_first(BENCH), seeds=2, **PLAIN))


# ---------------------------------------------------------------- choosing


def test_the_chosen_values_are_run_and_named():
    grids = {"ER": cl.grid({"opt.lr": [1e-4, 0.1]}), "wide": cl.zipped({"opt.lr": [0.1, 1e-5], "opt.weight_decay": [0.001, 0.0]})}
    best = Best()
    runs = cl.compare(METHODS, BENCH, seeds=2, hparams=grids, select=best, **PLAIN)
    assert runs.axes == {"method": ["naive", "ER", "wide"], "seed": [0, 1]}
    assert best.given == [[0, 1], [0, 1]]  # those of the result, so that it can take others
    assert alike(runs.at(method="naive"), cl.sweep(NAIVE, BENCH, seeds=2, **PLAIN))
    for name, grid in grids.items():
        chosen = runs.at(method=name).attributes["chosen"]
        assert chosen["by"] == "chosen by Best(n_seeds=1)"
        assert alike(runs.at(method=name), cl.sweep(METHODS[name], BENCH, seeds=2, hparams=grid, **PLAIN).at(**chosen["values"]))
        assert chosen["values"] in [dict(point) for point in grid.points()]
    lr = runs.at(method="ER").attributes["chosen"]["values"]["opt.lr"]
    pair = ", ".join(f"{path}={value:g}" for path, value in runs.at(method="wide").attributes["chosen"]["values"].items())
    words = f"Hyperparameters of ER (opt.lr={lr:g}), wide ({pair}) chosen by Best(n_seeds=1)."
    assert runs.table().endswith(f"\n\n{words}")
    assert words in runs.table(format="html")
    assert f"Hyperparameters of ER (opt.lr={lr:g}), wide (" in runs.table(format="latex")
    assert runs.at(method="ER").table().endswith(f"\n\nHyperparameters opt.lr={lr:g} chosen by Best(n_seeds=1).")
    assert "Hyperparameters" not in runs.at(method="naive").table()
    assert "wide (" not in runs.at(method=["naive", "ER"]).table()


def test_what_was_chosen_is_in_the_file(tmp_path):
    runs = cl.compare({"ER": ER}, BENCH, seeds=1, hparams={"ER": cl.grid({"opt.lr": [0.1]})}, select=Best(), **PLAIN)
    cl.save(tmp_path / "runs", runs)
    assert cl.load(tmp_path / "runs").table() == runs.table()


def test_each_setting_chooses_by_itself():
    @dataclasses.dataclass(frozen=True)
    class ByName:
        def choose(self, strategy, benchmark, hparams, *, seeds, sweep):
            return {"opt.lr": 0.1 if benchmark is BENCH else 0.2}

    settings = {"a": BENCH, "b": last_first(BENCH)}
    grid = {"ER": cl.grid({"opt.lr": [0.1, 0.2]})}
    runs = cl.compare({"ER": ER, "naive": NAIVE}, settings, seeds=1, hparams=grid, select=ByName(), **PLAIN)
    by = f"chosen by {ByName()}"
    assert runs.table().endswith(f"Hyperparameters of ER, a (opt.lr=0.1), ER, b (opt.lr=0.2) {by}.")
    assert runs.at(setting="b").table().endswith(f"Hyperparameters of ER (opt.lr=0.2) {by}.")
    assert runs.at(method="ER").table().endswith(f"Hyperparameters of a (opt.lr=0.1), b (opt.lr=0.2) {by}.")


class Point(dict):
    how = "chosen by hand"


def test_a_point_may_say_how_it_was_chosen():
    class ByHand:
        def choose(self, strategy, benchmark, hparams, *, seeds, sweep):
            return Point(hparams.points()[-1])

    runs = cl.compare(METHODS, BENCH, seeds=1, hparams={"ER": cl.grid({"opt.lr": [0.1, 0.2]})}, select=ByHand(), **PLAIN)
    assert runs.at(method="ER").attributes["chosen"] == {"values": {"opt.lr": 0.2}, "by": "chosen by hand"}


def test_a_choice_that_is_none_fails():
    class Nothing:
        def choose(self, strategy, benchmark, hparams, *, seeds, sweep):
            return None

    with pytest.raises(FailedMethods, match=r"'ER': TypeError: select: expected its method choose to return"):
        cl.compare({"ER": ER}, BENCH, seeds=1, hparams={"ER": cl.grid({"opt.lr": [0.1]})}, select=Nothing(), **PLAIN)


# ---------------------------------------------------------------- folders


@pytest.mark.parametrize("kept", ["resume", "checkpoint"])
def test_what_is_finished_is_not_run_again(kept, tmp_path, monkeypatch):
    options = {"seeds": 2, "hparams": {"ER": cl.grid({"opt.lr": [0.1, 0.2]})}, "select": Best(), **PLAIN}
    options[kept] = tmp_path if kept == "resume" else cl.Checkpoint(tmp_path)
    wanted = cl.compare({"naive": NAIVE, "ER": ER}, BENCH, **options)
    assert {path.name for path in tmp_path.iterdir()} == {"naive", "ER"}
    assert (tmp_path / "ER" / "choice-0").is_dir()
    ran = []
    monkeypatch.setattr("cl_func.sweeps.sweep.run_here", lambda job, first, chunks, *rest: ran.append(len(chunks)))
    assert alike(cl.compare({"naive": NAIVE, "ER": ER}, BENCH, **options), wanted)
    assert ran == []
    monkeypatch.undo()
    more = cl.compare({"naive": NAIVE, "ER": ER, "wide": WIDE}, BENCH, **{**options, "seeds": 3})
    assert alike(more.at(method=["naive", "ER"], seed=[0, 1]), wanted)


def test_names_of_folders_are_plain_and_distinct(tmp_path):
    names = ["ER", "DER++", "er/ace", "er_ace", "er ace", "..", ".hidden", "-x", "é", "a" * 100, "a" * 101, "x\ud800", "con:"]
    found = [safe_name(name) for name in names]
    assert found[:2] == names[:2]
    assert len(set(found)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_+][A-Za-z0-9_.+-]*", name) and len(name) < 75 for name in found)
    runs = cl.compare({"a/b": NAIVE, "..": NAIVE}, {"c:d": BENCH}, seeds=1, resume=tmp_path / "out", **PLAIN)
    assert runs.axes["method"] == ["a/b", ".."]
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    assert [path.name for path in (tmp_path / "out" / safe_name("a/b")).iterdir()] == [safe_name("c:d")]


# ---------------------------------------------------------------- what goes wrong


def broken(state, exp):
    raise RuntimeError("no such luck")


BROKEN = cl.Strategy(NAIVE.init, broken, MODEL)


def test_a_method_that_fails_leaves_the_others(tmp_path):
    with pytest.raises(FailedMethods, match=r"1 of 3 failed: 'bad': RuntimeError: no such luck") as caught:
        cl.compare({"naive": NAIVE, "bad": BROKEN, "ER": ER}, BENCH, seeds=2, resume=tmp_path, **PLAIN)
    error = caught.value
    assert "in the attribute `runs` of this exception" in str(error)
    assert str(tmp_path) in str(error)
    assert isinstance(error.__cause__, RuntimeError)
    assert error.runs.finished.tolist() == [[True, True], [False, False], [True, True]]
    assert error.runs["accuracy"][1].isnan().all()
    for name in ("naive", "ER"):
        assert alike(error.runs.at(method=name), cl.sweep(METHODS[name], BENCH, seeds=2, **PLAIN))
    assert error.runs.at(method="bad").attributes["missing"] == "RuntimeError: no such luck"
    assert "strategy" not in error.runs.at(method="bad").attributes  # of another method
    assert "2 of 2 unfinished" in error.runs.table()
    assert error.runs.compare("naive", "bad")[0].n == 0
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    shutil.rmtree(tmp_path / "bad")  # what is mended is another method
    mended = cl.compare({"naive": NAIVE, "bad": NAIVE, "ER": ER}, BENCH, seeds=2, resume=tmp_path, **PLAIN)
    assert bool(mended.finished.all())


def test_all_may_fail():
    with pytest.raises(FailedMethods, match=r"There are no others\.") as caught:
        cl.compare({"bad": BROKEN}, BENCH, seeds=1, **PLAIN)
    assert caught.value.runs is None


def stopped(state, exp):
    raise KeyboardInterrupt


def test_an_interruption_keeps_what_is_finished():
    methods = {"naive": NAIVE, "stopped": cl.Strategy(NAIVE.init, stopped, MODEL), "ER": ER}
    with pytest.warns(UserWarning, match="compare: interrupted at 'stopped'"):
        runs = cl.compare(methods, BENCH, seeds=2, **PLAIN)
    assert runs.finished.tolist() == [[True, True], [False, False], [False, False]]
    assert alike(runs.at(method="naive"), cl.sweep(NAIVE, BENCH, seeds=2, **PLAIN))
    with pytest.raises(KeyboardInterrupt):
        cl.compare({"stopped": methods["stopped"], "ER": ER}, BENCH, seeds=2, **PLAIN)


def test_an_interruption_while_choosing_ends_it():
    methods = {"naive": NAIVE, "stopped": cl.Strategy(NAIVE.init, stopped, MODEL)}
    grids = {"stopped": cl.grid({"opt.lr": [0.1, 0.2]})}
    with pytest.warns(UserWarning, match="compare: interrupted at 'stopped'"):
        runs = cl.compare(methods, BENCH, seeds=2, hparams=grids, select=Best(), **PLAIN)
    assert runs.finished.tolist() == [[True, True], [False, False]]


def untouched(*arguments):
    raise AssertionError("nothing was to be run")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hparams": {"ER": cl.grid({"opt.rate": [0.1]})}}, r"^strategies\['ER'\]: .*opt\.rate"),
        ({"hparams": {"EWC": cl.grid({"opt.lr": [0.1]})}}, r"^hparams: 'EWC' is none of the methods"),
        ({"select": None}, r"^select: expected how to choose"),
        ({"hparams": None}, r"^hparams: expected grids"),
        ({"strategies": {"ER": cl.Strategy(NAIVE.init, NAIVE.update)}}, r"^strategies\['ER'\]: probe: "),
        ({"strategies": {"ER": {"class": ER}}}, r"^strategies\['ER'\]: it has strategies for \['class'\], but there is one"),
        ({"benchmark": {"a": BENCH, "b": dataclasses.replace(BENCH, train=BENCH.train[:1])}}, r"^benchmark: .*'ER, b' 1 and 2"),
        ({"benchmark": {"a": BENCH, "b": None}}, r"^benchmark\['b'\]: "),
        ({"streams": {"ER": lambda benchmark: None}}, r"^streams\['ER'\]: "),
        ({"seeds": [1, 1]}, "^seeds: "),
    ],
)
def test_all_is_checked_before_the_first_run(changes, says, monkeypatch):
    monkeypatch.setattr("cl_func.sweeps.sweep.run_here", untouched)
    asked = {
        "strategies": {"naive": NAIVE, "ER": ER},
        "benchmark": BENCH,
        "hparams": {"ER": cl.grid({"opt.lr": [0.1]})},
        "select": Best(),
    }
    asked |= {"seeds": 2, **PLAIN, **changes}
    with pytest.raises((TypeError, ValueError), match=says):
        cl.compare(**asked)


def test_histories_that_differ_are_left_out():
    def more(state, exp=None):
        return {"accuracy": torch.zeros(2), "width": state.model.params["0.weight"][:, 0]}

    with pytest.warns(UserWarning, match=r"compare: left out the histories \['width'\]"):
        runs = cl.compare(METHODS, BENCH, seeds=1, probe=more, **PLAIN)
    assert list(runs.history) == ["accuracy"]


# ---------------------------------------------------------------- seeing it


def test_there_is_one_bar(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    grid = {"ER": cl.grid({"opt.lr": [0.1, 0.2]})}
    asked = {**PLAIN, "progress": True}
    cl.compare({"naive": NAIVE, "ER": ER}, {"a": BENCH, "b": BENCH}, seeds=2, hparams=grid, select=Best(2), **asked)
    lines = capsys.readouterr().err.splitlines()
    total = 2 * 2 * (2 + 2 + 2 * 2)  # settings, experiences, and the seeds of naive, of ER, and of the grid
    assert lines[0].startswith(f"compare: 0 of {total} probes (")
    assert lines[-1].startswith(f"ER, b, sweep (eager, 2 runs a chunk): {total} of {total} probes")
    counted = [int(re.search(r": (\d+) of", line)[1]) for line in lines]
    assert counted == sorted(counted)
    cl.compare({"naive": NAIVE}, BENCH, seeds=1, **PLAIN)
    assert capsys.readouterr().err == ""


def test_a_tap_gets_the_method(tmp_path):
    entries = []
    grid = {"ER": cl.grid({"opt.lr": [0.1, 0.2]})}
    given = {"seeds": 2, "hparams": grid, "select": Best(), "tap": lambda time, entry, labels: entries.append((time, labels))}
    cl.compare({"naive": NAIVE, "ER": ER}, {"class": BENCH}, **given, **PLAIN)
    labels = [{"method": m, "setting": "class", "seed": s} for m in ("naive", "ER") for s in (0, 1)]
    assert len(entries) == 2 * len(labels)
    assert all((time, label) in entries for time in (0, 1) for label in labels)
    csv = cl.taps.csv(tmp_path / "runs.csv")
    for _ in range(2):  # what the folder has is not written twice
        cl.compare({"naive": NAIVE, "ER": ER}, BENCH, seeds=2, tap=csv, resume=tmp_path / "kept", **PLAIN)
    rows = (tmp_path / "runs.csv").read_text().splitlines()
    assert rows[0].startswith("method,seed,time,")
    assert len(rows) == 1 + 8


def test_an_executor_runs_all_of_them():
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        runs = cl.compare(METHODS, BENCH, seeds=3, executor=executor, **PLAIN)
    assert alike(runs, cl.compare(METHODS, BENCH, seeds=3, **PLAIN))


def test_a_compiled_comparison_is_close():
    runs = cl.compare({"naive": NAIVE, "ER": ER}, BENCH, seeds=2, compile=True, lanes=2, progress=False)
    plain = cl.compare({"naive": NAIVE, "ER": ER}, BENCH, seeds=2, **PLAIN)
    assert torch.allclose(runs["loss"], plain["loss"], atol=1e-5)
