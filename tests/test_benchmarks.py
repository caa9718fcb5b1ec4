import dataclasses
import json
import math
import shlex
import types
from pathlib import Path

import pytest
import torch

import cl_func as cl
from benchmarks import methods, page, process, results
from benchmarks.accuracy.table import Results, summary
from benchmarks.accuracy.tuning import Protocol, tune
from benchmarks.methods import METHODS, all_methods, find, synthetic
from benchmarks.peers.against_avalanche import PAIRS, verdict
from benchmarks.speed import augment
from benchmarks.speed.cost import flops, forward_flops

PROBLEM = synthetic(rows=40, iterations=2)
AVAILABLE = [m for m in METHODS if m.available]


@pytest.mark.parametrize("entry", AVAILABLE, ids=lambda m: m.name)
def test_factories_take_the_protocol_and_grids_name_leaves(entry):
    state = entry.strategy(PROBLEM).init(cl.key(0))
    points = cl.grid(entry.grid).points() if entry.grid else []
    for point in points:
        for path, value in point.items():
            assert math.isclose(float(cl.tree.get(cl.tree.set(state, point), path)), value, rel_tol=1e-6)


def test_a_strategy_without_an_entry_is_measured_with_the_usual_arguments(monkeypatch):
    """The protocol is for any method: its entry is needed for a grid, for what a step costs, and for arguments of its own."""
    assert [m.name for m in all_methods()] == [m.name for m in METHODS]  # today all have one
    others = ("er", "ewc", "lwf", "naive")
    monkeypatch.setattr(methods, "METHODS", tuple(m for m in METHODS if m.name not in others))
    assert {m.name for m in all_methods()[-len(others) :]} == set(others)
    for name in others:
        assert find(name).strategy(PROBLEM).init(cl.key(0)) is not None
    monkeypatch.setattr(methods, "METHODS", tuple(m for m in METHODS if m.name != "gem"))
    with pytest.raises(ValueError, match=r"gem: give it an entry in benchmarks/methods.py, for memory_per_experience, n_exp"):
        find("gem")


def test_pairs_set_leaves_that_exist():
    for pair in PAIRS:
        if find(pair.name).available and pair.ours:
            strategy = pair.strategy(PROBLEM) if pair.strategy else find(pair.name).strategy(PROBLEM, **pair.arguments)
            cl.tree.set(strategy.init(cl.key(0)), dict(pair.ours))


@pytest.mark.parametrize("pair", [p for p in PAIRS if p.strategy], ids=lambda p: p.label)
def test_what_is_composed_as_theirs_obeys_the_laws(pair):
    strategy = pair.strategy(PROBLEM)
    begun = strategy.update(strategy.init(cl.key(0)), PROBLEM.bench.train[0])
    cl.testing.check_update(strategy.update, begun, PROBLEM.bench.train[1], padding=False)


def test_joint_trains_on_everything_with_the_whole_budget():
    joint = find("joint")
    assert joint.budget(PROBLEM) == 5 * 2
    (exp,) = joint.benchmark(PROBLEM).train
    assert len(exp) == 5 * 40
    assert bool(exp.classes.all())


def test_flops_of_steps():
    step, boundary = flops(find("naive"), PROBLEM)
    layers = (784 * 400, 400 * 400, 400 * 10)
    assert boundary == 0
    assert step == 2 * 128 * (3 * sum(layers) - layers[0])
    assert forward_flops(PROBLEM) == 2 * 128 * sum(layers)
    assert flops(find("er"), PROBLEM)[0] == 2 * step
    assert flops(find("lwf"), PROBLEM)[0] > step


@pytest.mark.parametrize(("peak", "value", "at_edge"), [(3.0, 3.0, []), (100.0, 300.0, []), (0.001, 0.003, ["ewc.strength"])])
def test_a_strength_at_the_end_of_its_range_is_not_taken_before_the_next_is_tried(peak, value, at_edge):
    class Stub:
        def sweep(self, strategy, bench, seeds, points, every=1):
            distance = [[-abs(math.log(v / peak))] * len(seeds) for v in points["ewc.strength"]]
            return types.SimpleNamespace(metric=lambda: torch.tensor(distance))

    entry = dataclasses.replace(find("ewc"), grid={"ewc.strength": [0.3, 3.0, 30.0]})
    choice = tune(entry, PROBLEM, Protocol(1, 1, 1, 2, None), Stub())
    assert math.isclose(choice["values"]["ewc.strength"], value, rel_tol=1e-6)
    assert choice["at_edge"] == at_edge


def test_verdicts():
    def cell(mean, half):
        return {"mean": mean, "half": half}

    assert verdict(cell(0.5, 0.1), cell(0.55, 0.06)) == "inside each other's"
    assert verdict(cell(0.5, 0.1), cell(0.58, 0.02)) == "theirs in ours; not told apart"
    assert verdict(cell(0.5, 0.01), cell(0.58, 0.02)) == "neither in the other's; DIFFERENT"


def test_table_and_orders_of_cells():
    values = {"er": [0.8, 0.82], "naive": [0.2, 0.2]}
    cells = [
        {
            "setting": "class",
            "method": name,
            "accuracy": summary(torch.tensor(v)),
            "chosen": {"values": {"opt.lr": 0.1} if name == "er" else {}, "at_edge": ["opt.lr"]},
        }
        for name, v in values.items()
    ]
    results = Results("command", {}, {"seeds": 2}, cells)
    assert "| er | 0.810 ± 0.127 | - |" in results.table()
    assert "| er | opt.lr 0.1 (edge) |" in results.strengths()
    assert "| class | er | naive | +0.610 ± 0.127 | yes |" in results.orders()


def test_rows_of_an_earlier_call_are_kept_if_its_numbers_are_the_same(tmp_path):
    file = tmp_path / "cost.json"
    assert results.earlier(file, "rows", "machine", {"rounds": 3}) == []
    file.write_text(json.dumps({"machine": {"CPU": "any", "rounds": 3}, "rows": [{"method": "naive"}]}))
    assert results.earlier(file, "rows", "machine", {"rounds": 3}) == [{"method": "naive"}]
    for numbers in ({"rounds": 4}, {"rounds": 3, "lanes": [1]}):
        with pytest.raises(ValueError, match="holds results with"):
            results.earlier(file, "rows", "machine", numbers)


def test_the_table_of_what_augmentation_costs():
    row = {"step": "eager", "to the images": "mixup", "milliseconds": 61.4, "ratio": 1.0261, "from": 1.0, "to": 1.1}
    assert augment.table([row]).splitlines()[-1] == "| eager | mixup | 61 | 1.026 | 1.000 to 1.100 |"
    assert next(iter(augment.contenders())) == augment.PLAIN


def test_the_page_of_methods_is_up_to_date():
    assert page.PAGE.read_text() == page.page(), "run: python -m benchmarks.page"


def test_results_are_a_line_a_row(tmp_path):
    fields = {
        "command": "x\ny",
        "rows": [{"a": 1.5, "b": [1, 2]}, {"a": float("nan"), "b": {"c": "é"}}],
        "machine": {"CPU": "one", "cores": 2},
        "none": None,
        "empty": [],
        "nothing": {},
    }
    results.write(tmp_path / "results.json", fields)
    text = (tmp_path / "results.json").read_text()
    assert repr(json.loads(text)) == repr(fields)  # NaN is not equal to itself
    assert len(text.splitlines()) == 2 + len(fields) + 2 + 1 + 2 + 1
    assert text == results.dumps(json.loads(text))


def test_the_results_in_the_documentation_are_so_too():
    for path in (Path(results.__file__).parent.parent / "docs" / "results").rglob("*.json"):
        text = path.read_text(encoding="utf-8")
        found = json.loads(text)
        assert not isinstance(found, dict) or text == results.dumps(found), path


def test_a_command_is_written_as_it_is_typed():
    """Names with blanks are quoted, and what a reader's shell makes of it is what was given, but for the paths."""
    words = ["--methods", "L2 Init", "ER + LwF", "--data", "/data", "--out=/out", "--seeds", "3"]
    line = process.command_line("benchmarks.accuracy.plasticity", words, ("--data", "--out"))
    expected = ["--methods", "L2 Init", "ER + LwF", "--data", "PATH", "--out=PATH", "--seeds", "3"]
    assert shlex.split(line) == ["python", "-m", "benchmarks.accuracy.plasticity", *expected]
    assert shlex.split(process.shown(["/bin/python", "-m", "x", "a b"])) == ["python", "-m", "x", "a b"]
