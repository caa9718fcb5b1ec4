"""How a sweep chooses lanes and compilation, and that it says what it does."""

from __future__ import annotations

import json
import math
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import registry
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cl_func as cl
from cl_func.core import nodes
from cl_func.progress import ProgressBar
from cl_func.sweeps import autotune, compile_times, sweep

BENCH, MODEL, OPT = registry.BENCH, registry.MODEL, registry.SGD
NAIVE = cl.strategies.naive(MODEL, OPT, batch_size=5)
PLAIN = {"compile": False, "progress": False}


def strategy(loss):
    return cl.Strategy(NAIVE.init, cl.minibatches(cl.train_step(loss, OPT), batch_size=5), MODEL)


def wrong(spoil):
    """A strategy whose loss does something that vmap cannot do."""
    plain = cl.losses.cross_entropy(MODEL)

    def loss(params, state, exp):
        value, state = plain(params, state, exp)
        return value + spoil(value, exp), state

    return strategy(loss)


def item(value, exp):
    return 0 * value.item()


def branch(value, exp):
    return 0 * value if value > 0 else value


def array(value, exp):
    return float(exp.x.sum().numpy() * 0)


def mask(value, exp):
    return 0 * (value * exp.x)[exp.y * value.detach() > 0].sum()


def in_place(value, exp):
    return 0 * torch.zeros(()).add_(value)


def generator(value, exp):
    return 0 * value * torch.rand(())


CASES = {
    item: "the value of a tensor is asked for",
    branch: "the value of a tensor is asked for",
    array: "the value of a tensor is asked for",
    mask: "the shape of a result depends on the values of tensors",
    in_place: "a tensor that all runs share is written in place",
    generator: "random numbers are drawn from torch's own generator",
}


@pytest.mark.parametrize("spoil", CASES, ids=lambda f: f.__name__)
def test_a_loss_that_cannot_be_vmapped_takes_one_lane_and_says_why(spoil):
    made = wrong(spoil)
    with pytest.warns(UserWarning, match="one run a chunk, since the update cannot be vmapped") as warned:
        runs = cl.sweep(made, BENCH, seeds=3, **PLAIN)
    assert bool(runs.finished.all())
    (message,) = [str(w.message) for w in warned]
    assert f"vmapped: {CASES[spoil]}" in message
    assert f"test_autotune.py:{spoil.__code__.co_firstlineno + 1}, in {spoil.__name__}: `return" in message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alone = cl.sweep(made, BENCH, seeds=3, lanes=1, **PLAIN)
    assert spoil is generator or torch.equal(runs["loss"], alone["loss"])


@pytest.mark.parametrize("compile", [False, "auto"])
@pytest.mark.parametrize("spoil", CASES, ids=lambda f: f.__name__)
def test_with_lanes_given_it_is_an_error_in_our_words(spoil, compile):
    with pytest.raises(ValueError, match=f"lanes: the update cannot be vmapped: {CASES[spoil]}, in .*Or use lanes=1"):
        cl.sweep(wrong(spoil), BENCH, seeds=2, lanes=2, compile=compile, progress=False)


@pytest.mark.parametrize("lanes", ["auto", 2])
@pytest.mark.parametrize("error", [TypeError, ValueError, RuntimeError, ZeroDivisionError])
def test_what_is_wrong_with_a_loss_is_raised_as_it_is(error, lanes):
    def spoil(value, exp):
        raise error("mine")

    with pytest.raises(error, match=r"^mine$"):
        cl.sweep(wrong(spoil), BENCH, seeds=3, lanes=lanes, **PLAIN)


@cl.state
class Counted:
    """A state that is no Agent."""

    key: torch.Tensor
    total: torch.Tensor


@pytest.mark.parametrize("lanes", ["auto", 2])
def test_a_state_without_a_model_can_be_swept(lanes):
    def init(key):
        return Counted(key=key, total=torch.zeros(()))

    def update(state, exp):
        return state.replace(total=state.total + exp.valid.sum())

    runs = cl.sweep(cl.Strategy(init, update), BENCH, seeds=4, lanes=lanes, probe=lambda s, e: {"total": s.total + 0}, **PLAIN)
    rows = torch.tensor([float(len(exp)) for exp in BENCH.train]).cumsum(0)
    assert torch.equal(runs["total"], rows.expand(4, -1))


def test_a_probe_that_cannot_be_vmapped_takes_one_lane_and_says_why(monkeypatch):
    monkeypatch.setattr(autotune, "seconds_per_call", lambda *args: 1.0)  # vmapping wins

    def probe(state, exp):
        return {"norm": torch.tensor(state.opt.lr.item())}

    sweep = {"probe": probe, "seeds": 3, **PLAIN}
    with pytest.warns(UserWarning, match="since the probe cannot be vmapped: the value of a tensor.*test_autotune"):
        runs = cl.sweep(NAIVE, BENCH, **sweep)
    assert bool(runs.finished.all())
    with pytest.raises(ValueError, match=r"lanes: the probe cannot be vmapped: .*Or use lanes=1"):
        cl.sweep(NAIVE, BENCH, lanes=3, **sweep)


# -- the time of compiling


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("CL_FUNC_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "compile_times.json"


UPDATE, FIRST = NAIVE.update, (NAIVE.init(cl.key(0)), BENCH.train[0])


def marked(*marks):
    """A watch that starts at 0, with marks (seconds since the last one, programs by then)."""
    watch = compile_times.Watch(NAIVE.update, None)
    watch.marks, now = [(0.0, 0)], 0.0
    for seconds, programs in marks:
        now += seconds
        watch.marks.append((now, programs))
    return watch


@pytest.mark.parametrize(
    ("marks", "seconds"),
    [
        ([(20.5, 2), (4.1, 3), (0.5, 3), (0.1, 3), (0.5, 3), (0.1, 3)], 24.0),
        (
            [(20.5, 2), (4.1, 3), (8.5, 4), (0.1, 4), (9.0, 4), (0.1, 4)],
            20.5 - 9.0 + 4.0,
        ),  # the next is longer, and one more program
        ([(20.5, 2), (4.1, 3), (0.5, 3), (0.1, 3), (9.5, 3), (0.1, 3)], 20.5 - 5.0 + 4.0),  # a longer one compiled nothing
        ([(20.5, 2), (4.1, 3), (2.5, 4), (0.1, 4)], 18.0 + 4.0),  # all compiled
        ([(20.5, 2), (4.1, 3)], 0.0),  # a single measurement: how much of it was compiling is unknown
        ([(20.5, 0), (0.1, 0), (0.5, 0), (0.1, 0)], 0.0),  # no compiler
        ([], 0.0),
    ],
)
def test_what_compiling_took_is_told_from_running(marks, seconds):
    assert marked(*marks).seconds() == pytest.approx(seconds)


def test_what_was_measured_is_expected(kept):
    guess = compile_times.expected(UPDATE, *FIRST, 4)
    assert guess == pytest.approx(3 * compile_times.GUESS)  # the step, the order of rows, the probe
    compile_times.record(UPDATE, *FIRST, 4, 24.0)
    assert compile_times.expected(UPDATE, *FIRST, 4) == pytest.approx(24.0)
    assert compile_times.expected(UPDATE, *FIRST, 8) == pytest.approx(24.0)  # something new: as others did
    compile_times.record(UPDATE, *FIRST, 4, 2.5)  # from the compiler's cache
    assert compile_times.expected(UPDATE, *FIRST, 4) == pytest.approx(2.5)
    assert compile_times.expected(UPDATE, *FIRST, 8) == pytest.approx(24.0)  # still not in the cache
    assert json.loads(kept.read_text()).keys() == {"first", "last"}


def test_functions_that_are_made_alike_are_told_apart(kept):
    """What a partial or a step holds is a part of its name."""
    one, other = (
        cl.compose(cl.train_step(loss, OPT), update)
        for loss, update in [
            (cl.losses.cross_entropy(MODEL), cl.memory.reservoir.insert()),
            (cl.regularizers.lwf.distillation(MODEL), cl.losses.mark_seen()),
        ]
    )
    names = {compile_times._compiled(update, *FIRST, 4)[0] for update in (one, other, cl.compose(one.updates[0], other.updates[1]))}
    assert len(names) == 3
    assert compile_times._compiled(one, *FIRST, 4) == compile_times._compiled(cl.compose(*one.updates), *FIRST, 4)


@pytest.mark.parametrize("name", sorted(registry.ARGUMENTS))
def test_every_method_has_a_name(kept, name):
    """Some hold classes, such as the state that belongs to a slot, which are no functions made of parts."""
    made = getattr(cl.strategies, name)(MODEL, OPT, batch_size=5, **registry.ARGUMENTS[name])
    first, count = compile_times._compiled(made.update, made.init(cl.key(0)), BENCH.train[0], 4)
    assert len(first) == 16
    assert count >= 2


def test_a_run_that_compiled_nothing_leaves_no_time(kept):
    compile_times.record(UPDATE, *FIRST, 4, 0.0)
    assert not kept.exists()


def test_the_file_does_not_grow(kept, monkeypatch):
    monkeypatch.setattr(compile_times, "KEPT", 3)
    for lanes in range(20):
        compile_times.record(UPDATE, *FIRST, lanes, 24.0 + lanes)
    found = json.loads(kept.read_text())
    assert (len(found["first"]), len(found["last"])) == (compile_times.FIRSTS, 3)
    assert compile_times.expected(UPDATE, *FIRST, 19) == pytest.approx(43.0)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["first", "last", "a"]), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None, database=None)
@given(st.one_of(json_values.map(lambda value: json.dumps(value).encode()), st.binary(max_size=20)))
def test_garbage_is_a_guess(content):
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setenv("CL_FUNC_CACHE_DIR", folder)
        compile_times.cache_file().write_bytes(content)
        seconds = compile_times.expected(UPDATE, *FIRST, 4)
        assert math.isfinite(seconds)
        assert seconds >= 0
        compile_times.record(UPDATE, *FIRST, 4, 24.0)
        assert compile_times.expected(UPDATE, *FIRST, 4) == pytest.approx(24.0)


@pytest.mark.parametrize("where", ["a file", "\0", "x" * 5000])
def test_a_folder_that_cannot_be_is_no_error(where, tmp_path, monkeypatch):
    (tmp_path / "a file").touch()
    monkeypatch.setattr(compile_times, "cache_file", lambda: tmp_path / where / "inner" / "compile_times.json")
    compile_times.record(UPDATE, *FIRST, 4, 24.0)
    assert compile_times.expected(UPDATE, *FIRST, 4) == pytest.approx(3 * compile_times.GUESS)


def test_the_place_is_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("CL_FUNC_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compile_times.cache_file() == tmp_path / "cl_func" / "compile_times.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compile_times.cache_file() == Path(tmp_path, ".cache", "cl_func", "compile_times.json")


def test_whether_to_compile_follows_from_what_it_took(kept, monkeypatch):
    """A sweep of 28 s is left eager on a machine where compiling takes 60 s, and compiled where it takes 10 s."""
    calls = sum(nodes.calls(NAIVE.update, len(exp)) for exp in BENCH.train)
    monkeypatch.setattr(autotune, "seconds_per_call", lambda *args: 28 / calls)
    chosen = []

    def run(job, *args):
        chosen.append(job.execution.compiled)
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "run_here", run)
    for seconds in (None, 60.0, 10.0):
        if seconds is not None:
            compile_times.record(NAIVE.update, NAIVE.init(cl.key(0)), BENCH.train[0], 1, seconds)
        with pytest.raises(KeyboardInterrupt):
            cl.sweep(NAIVE, BENCH, seeds=1, progress=False)
    assert chosen == [False, False, True]


def test_a_sweep_measures_what_it_compiles(kept, capsys):
    """And says that it is compiling, and for about how long, until that is over."""
    cl.sweep(NAIVE, BENCH, seeds=2, lanes=1, compile=True)
    (seconds,) = json.loads(kept.read_text())["last"].values()
    assert 0.2 < seconds < 600
    assert compile_times.expected(NAIVE.update, NAIVE.init(cl.key(0)), BENCH.train[0], 1) == seconds
    said = capsys.readouterr().err
    assert said.index("compiling (about 24 s, once)") < said.index("sweep (compiled, 1 run a chunk)")


# -- progress


@pytest.mark.parametrize("there", [True, False])
def test_progress_is_never_silent(there, monkeypatch, capsys):
    if not there:
        for name in [name for name in sys.modules if name.split(".")[0] == "tqdm"] + ["tqdm", "tqdm.auto"]:
            monkeypatch.setitem(sys.modules, name, None)
    cl.sweep(NAIVE, BENCH, seeds=60, lanes=1, compile=False)
    said = capsys.readouterr().err
    assert "sweep (eager, 1 run a chunk)" in said
    assert ("120/120" if there else "120 of 120 probes") in said
    if not there:
        lines = said.splitlines()
        assert lines[0].endswith('0 of 120 probes (a progress bar needs tqdm: pip install "cl_func[progress]")')
        assert len(lines) == 11
    cl.sweep(NAIVE, BENCH, seeds=1, **PLAIN)
    assert capsys.readouterr() == ("", "")


def test_what_stopped_says_where(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    bar = ProgressBar(True, 10, "sweep", "compiling (about 20 s, once)", warmup=2)
    bar.update(1)
    bar.update(1)
    bar.update(1)
    bar.close()
    said = [line.split(" probes")[0] for line in capsys.readouterr().err.splitlines()]
    assert said == [f"{what}: {n} of 10" for n, what in enumerate(["compiling (about 20 s, once)"] * 3 + ["sweep"])] + [
        "sweep: 3 of 10"
    ]
