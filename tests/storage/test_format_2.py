"""Files of format 2, written before states and functions had their present names, are read and resumed."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import shutil
import sys
import warnings
from pathlib import Path

import pytest
import torch

import cl_func as cl
from cl_func.storage import files, renames, resuming

WRITTEN = Path(__file__).parent / "format_2"
spec = importlib.util.spec_from_file_location("format_2", WRITTEN / "make.py")
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)
NAMES = ["er", "bic"]


def same_data():
    """Whether this processor draws the data that the files were written with: last digits of logarithm and cosine are its own."""
    stored = cl.load(WRITTEN / "er.safetensors", like=make.strategies()["er"].init(cl.key(1))).replay
    rows = stored.data["x"][: int(stored.filled)]
    return bool((rows[:, None] == make.BENCH.train[0].source.x[None]).all(-1).any(-1).all())


ON_CHANGE = "error" if same_data() else "warn"


@contextlib.contextmanager
def warned(said):
    """Within it there is a warning that the run was begun with other names, and one of other data if this machine has such."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    texts = [str(one.message) for one in caught]
    assert any(re.search(said, text) for text in texts)
    others = [text for text in texts if not re.search(said, text)]
    assert len(others) == (ON_CHANGE == "warn")
    assert all("other values" in text for text in others)


@pytest.fixture
def old(tmp_path):
    return Path(shutil.copytree(WRITTEN, tmp_path / "old"))


def close(one, other):
    """Equal except for the last digits, which depend on the machine."""
    for (path, a), (_, b) in zip(cl.tree.items(one), cl.tree.items(other), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda said, path=path: f"{path}: {said}")


@pytest.mark.parametrize("name", NAMES)
def test_a_state_is_loaded(name):
    strategy = make.strategies()[name]
    state = cl.load(WRITTEN / f"{name}.safetensors", like=strategy.init(cl.key(1)))
    close(state, strategy.update(strategy.init(cl.key(0)), make.BENCH.train[0]))


@pytest.mark.parametrize("name", NAMES)
def test_a_run_goes_on(name, old):
    strategy = make.strategies()[name]
    _, header = files.read(next((old / name).glob("*.safetensors")), "checkpoint")
    assert (header["format"], header["seen"]) == (2, 1)
    assert header["calls"] > 0  # in the middle of the second experience
    run = (strategy.update, strategy.init(cl.key(0)), make.BENCH.train, cl.evaluate(strategy.model, make.BENCH.test))
    with warned("begun with cl_func .* had other names .* are not compared"):
        state, history = cl.scan(*run, checkpoint=cl.Checkpoint(old / name, steps=1, on_change=ON_CHANGE))
    whole, whole_history = cl.scan(*run)
    close(state, whole)
    close(history, whole_history)
    # What is written now has the present format, and is resumed without a warning.
    _, header = files.read(max((old / name).glob("*.safetensors")), "checkpoint")
    assert header["format"] == files.FORMAT
    close(cl.scan(*run, checkpoint=cl.Checkpoint(old / name))[0], state)


def test_a_sweep_goes_on(old):
    strategy = make.strategies()["er"]
    with warned("resume: .* begun with cl_func .* are not compared"):
        runs = cl.sweep(strategy, make.BENCH, checkpoint=cl.Checkpoint(old / "sweep", steps=1, on_change=ON_CHANGE), **make.SWEEP)
    torch.testing.assert_close(runs["loss"], cl.sweep(strategy, make.BENCH, **make.SWEEP)["loss"], rtol=1e-4, atol=1e-5)
    if ON_CHANGE == "error" and sys.version_info[:2] == (3, 11):  # with which the folder began
        assert json.loads((old / "sweep" / "sweep.json").read_text())["format"] == files.FORMAT
        again = cl.sweep(strategy, make.BENCH, checkpoint=cl.Checkpoint(old / "sweep"), **make.SWEEP)
    else:  # with other data or another Python than the folder began with, each call is told, and has to insist on the data
        with warned("resume: .* begun with cl_func .* are not compared"):
            again = cl.sweep(strategy, make.BENCH, resume=old / "sweep", on_change=ON_CHANGE, **make.SWEEP)
    assert torch.equal(again["loss"], runs["loss"])


@pytest.mark.filterwarnings("ignore:.*was begun with cl_func")
def test_what_can_be_compared_still_is(old):
    """Other data, another initial state, other numbers and other user code are refused as always."""
    strategy = make.strategies()["er"]
    start, train = strategy.init(cl.key(0)), make.BENCH.train
    probe = cl.evaluate(strategy.model, make.BENCH.test)

    def kept():
        return cl.Checkpoint(Path(shutil.copytree(WRITTEN / "er", old / f"er-{len(list(old.iterdir()))}")))

    with pytest.raises(ValueError, match=r"state\.opt\.lr: other values"):
        cl.scan(strategy.update, cl.tree.set(start, {"opt.lr": 0.2}), train, probe, checkpoint=kept())
    other = cl.strategies.er(make.MODEL, cl.optim.sgd(0.1, momentum=0.9), capacity=9, replay_size=4, batch_size=7)
    with pytest.raises(ValueError, match=r"batch_size: 5 -> 7"):
        cl.scan(other.update, start, train, probe, checkpoint=kept())
    with pytest.raises(ValueError, match="stream: other data"):
        cl.scan(strategy.update, start, cl.testing.small_benchmark(2).train, probe, checkpoint=kept())
    with pytest.raises(ValueError, match="another run"):
        cl.scan(cl.compose(strategy.update, lambda state, exp: state), start, train, probe, checkpoint=kept())


def test_a_newer_format_is_refused(old):
    plan = old / "sweep" / "sweep.json"
    plan.write_text(json.dumps({"format": files.FORMAT + 1, "run": {"version.python": "3.11"}}))
    with pytest.raises(ValueError, match=r"has format .* upgrade it"):
        cl.sweep(make.strategies()["er"], make.BENCH, resume=old / "sweep", **make.SWEEP)
    plan.write_text(json.dumps({"format": "three", "run": {"version.python": "3.11"}}))
    with pytest.raises(ValueError, match="its format cannot be 'three'"):
        cl.sweep(make.strategies()["er"], make.BENCH, resume=old / "sweep", **make.SWEEP)


def test_a_class_of_the_users_keeps_its_name(tmp_path):
    """A user's state class with the former name of one of ours is neither renamed nor mistaken for ours."""

    @cl.state
    class ER(cl.Agent):
        fate: torch.Tensor

    mine = ER(key=cl.key(0), fate=torch.tensor(1.0))
    outline = files.outline(mine)
    leaves, names = renames.current_names(files.named(mine), outline, outline, "tree")
    assert names == outline
    assert leaves.keys() == files.named(mine).keys()
    theirs = {"": "ERAgent()"}
    assert renames.current_names({}, {"": "ER()"}, theirs, "tree")[1] == theirs


def test_names_of_ours_are_not_compared_and_all_else_is():
    before = {"a": "3", "b": "cl_func.old.f", "c": "1", "code.mine": "mine code #1111111111111111", "version.cl_func": "0 #1"}
    now = {"a": "4", "b": "cl_func.new.g", "d": "1", "code.mine": "mine code #2222222222222222", "version.cl_func": "0 #2"}
    before["version.python"] = now["version.python"] = "3.11"
    assert resuming.changes(*renames.comparable(before, now)) == ["a: 3 -> 4", "code.mine: other code"]
    now["version.python"] = "3.12"  # which compiles the same code differently
    assert resuming.changes(*renames.comparable(before, now)) == ["a: 3 -> 4"]
