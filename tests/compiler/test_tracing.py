"""Functions that cannot be compiled are refused or run eagerly, and say so; compiling copies no data."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
import registry
import torch

import cl_func as cl
from cl_func import testing, transforms
from cl_func.compiler import program
from cl_func.compiler.tracing import TraceError
from cl_func.sweeps import compile_times

EXP, MODEL, SGD = registry.BENCH.train[0], registry.MODEL, cl.optim.sgd(0.1)
STATE = registry.init(cl.key(0), optimizer=SGD)


def logits(params, exp):
    return MODEL.apply(params, {}, exp.x)[0]


SHAPES = {
    "mask": lambda p, s, e: (logits(p, e)[e.y == 0].square().mean(), s),
    "nonzero": lambda p, s, e: (logits(p, e).mean() * e.y.nonzero().shape[0], s),
    "unique": lambda p, s, e: (logits(p, e).mean() * len(e.y.unique()), s),
    "bincount": lambda p, s, e: (logits(p, e).mean() * torch.bincount(e.y).shape[0], s),
    "masked_select": lambda p, s, e: (logits(p, e).masked_select(e.y[:, None] == 0).mean(), s),
    "argwhere": lambda p, s, e: (logits(p, e).mean() * len(torch.argwhere(e.valid)), s),
}
VALUES = {
    "item": lambda p, s, e: (logits(p, e).mean() * e.x.sum().item(), s),
    "float": lambda p, s, e: (logits(p, e).mean() * float(e.x.sum()), s),
    "if": lambda p, s, e: (logits(p, e).mean() if e.x.mean() > 0 else logits(p, e).sum(), s),
    "numpy": lambda p, s, e: (logits(p, e).mean() * float(e.y.numpy().sum()), s),
    "asarray": lambda p, s, e: (logits(p, e).mean() * float(np.asarray(e.x).sum()), s),
    "tolist": lambda p, s, e: (logits(p, e).mean() * len(e.y.tolist()), s),
    "range": lambda p, s, e: (logits(p, e)[: int(e.valid.sum())].mean(), s),
}
CASES = [
    *((name, loss, "the shape of a result depends on", r"torch\.where, or weights") for name, loss in SHAPES.items()),
    *((name, loss, "the value of a tensor is asked for", r"torch\.where or cl\.when") for name, loss in VALUES.items()),
]


@pytest.mark.parametrize("wrap", [lambda update: update, cl.vmap], ids=["plain", "vmapped"])
@pytest.mark.parametrize(("name", "loss", "why", "fix"), CASES, ids=[case[0] for case in CASES])
def test_what_depends_on_values_is_refused(name, loss, why, fix, wrap):
    """The error names the user's line: the function works eagerly, but compiled it would keep the values of its first call."""
    step = cl.train_step(loss, SGD)
    step(STATE, EXP)
    state = STATE if wrap is not cl.vmap else cl.tree.stack([STATE, STATE])
    said = rf"cl\.compile: {why}.*test_tracing\.py:\d+, in <lambda>: `.*{fix}.*compile=False"
    with pytest.raises(TraceError, match=said) as caught:
        cl.compile(wrap(step))(state, EXP)
    assert isinstance(caught.value, ValueError)
    assert "make_fx" not in str(caught.value)


def test_an_error_of_the_users_own_stays_what_it_is():
    def broken(params, state, exp):
        raise RuntimeError("the sky is green")

    with pytest.raises(RuntimeError, match="the sky is green") as caught:
        cl.compile(cl.train_step(broken, SGD))(STATE, EXP)
    assert not isinstance(caught.value, TraceError)


def test_a_sweep_that_chose_to_compile_goes_on_eagerly(monkeypatch):
    """compile=True refuses what cannot be traced; compile="auto" warns once and gives the eager result."""
    strategy = cl.Strategy(lambda key: registry.init(key, optimizer=SGD), cl.train_step(SHAPES["mask"], SGD), MODEL)
    asked = {"seeds": 2, "lanes": 1, "progress": False}
    eager = cl.sweep(strategy, registry.BENCH, compile=False, **asked)
    with pytest.raises(TraceError, match="mask"):
        cl.sweep(strategy, registry.BENCH, compile=True, **asked)
    monkeypatch.setattr(compile_times, "expected", lambda *args: 0.0)
    monkeypatch.setattr(transforms, "_WARNED", set())
    with pytest.warns(UserWarning, match="the shape of a result depends.*It runs eagerly now") as warned:
        chosen = cl.sweep(strategy, registry.BENCH, compile="auto", **asked)
    assert len(warned) == 1
    testing.assert_equal(chosen.history, eager.history, "auto", 1e-4, 1e-5)


def test_a_failure_of_the_compiler_is_a_warning_once(monkeypatch):
    def fails(*args, **kwargs):
        raise AssertionError("inductor has lost its way\nand more")

    monkeypatch.setattr("torch._inductor.compile", fails)
    update = cl.compile(cl.train_step(registry._ce(), SGD))
    with pytest.raises(program.CompilerError, match="AssertionError: inductor has lost its way"):
        update(STATE, EXP)
    monkeypatch.setenv("CL_FUNC_STRICT", "0")
    monkeypatch.setattr(transforms, "_WARNED", set())
    with pytest.warns(UserWarning, match="inductor has lost its way.*runs eagerly, with the same results"):
        first = update(STATE, EXP)
    again = cl.fold(cl.compile(cl.train_step(registry._ce(), SGD)), STATE, [EXP, EXP], donate=True)  # a second warning would raise
    plain = cl.train_step(registry._ce(), SGD)
    testing.assert_equal(first, plain(STATE, EXP), "eager")
    testing.assert_equal(again, plain(plain(STATE, EXP), EXP), "eager, donated")


def test_graphs_are_left_as_they_are_on_request(monkeypatch):
    graphs = []
    monkeypatch.setattr(program, "rewrite", graphs.append)
    step = cl.train_step(registry._ce(), SGD)
    left = cl.compile(cl.Strategy(lambda key: STATE, step), rewrite=False).update(STATE, EXP)
    assert graphs == []
    cl.vmap(cl.compile(step, rewrite=False))(cl.tree.stack([STATE, STATE]), EXP)
    assert graphs == []
    testing.assert_equal(left, step(STATE, EXP), "not rewritten", 1e-4, 1e-5)


def run(script: str, **environment: str) -> str:
    """What a script prints in a process of its own, warnings included."""
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), str(root / "tests"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": path, "CL_FUNC_STRICT": "0", **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_a_broken_cxx_compiler_is_one_warning(tmp_path):
    out = run(
        """
        import warnings
        import cl_func as cl
        bench = cl.testing.small_benchmark()
        strategy = cl.strategies.er(cl.models.mlp(6, (8,), 4), cl.optim.sgd(0.1), capacity=6, replay_size=4, batch_size=5)
        start = strategy.init(cl.key(0))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            end = cl.fold(cl.compile(strategy.update), start, bench.train, donate=True)
        said = [str(w.message) for w in caught if "cl.compile" in str(w.message)]
        print(len(said), "runs eagerly" in said[0], cl.tree.equal(end, cl.fold(strategy.update, start, bench.train)))
        """,
        CXX="/bin/false",
        TORCHINDUCTOR_CACHE_DIR=str(tmp_path),
    )
    assert out.split() == ["1", "True", "True"]


def test_an_interrupt_while_the_compiler_is_imported_does_no_harm():
    out = run(
        """
        import os, signal, sys
        import cl_func as cl

        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in a shell's background

        class Press:  # Ctrl-C in the middle of the import
            def find_spec(self, name, path=None, target=None):
                if name == "torch._inductor.compile_fx":
                    sys.meta_path.remove(self)
                    os.kill(os.getpid(), signal.SIGINT)

        sys.meta_path.insert(0, Press())
        bench = cl.testing.small_benchmark()
        strategy = cl.strategies.naive(cl.models.mlp(6, (8,), 4), cl.optim.sgd(0.1))
        update, start = cl.compile(strategy.update), strategy.init(cl.key(0))
        try:
            update(start, bench.train[0])
            print("not interrupted")
        except KeyboardInterrupt:
            print("interrupted")
        end = update(start, bench.train[0])
        print(cl.tree.equal(end, strategy.update(start, bench.train[0]), 1e-4, 1e-5))
        """
    )
    assert out.split() == ["interrupted", "True"]


def test_compiling_copies_no_data():
    """Compiling a step does not raise the peak memory by the size of the data set."""
    grown = run(
        """
        import resource
        import torch
        import cl_func as cl

        def step_on(rows):
            data = cl.Dataset(torch.ones(rows, 784), torch.arange(rows) % 10)
            exp = cl.experience(data, torch.arange(20), classes=torch.ones(10, dtype=torch.bool))
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            cl.compile(strategy.update)(start, exp)
            return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024

        strategy = cl.strategies.naive(cl.models.mlp(784, (8,), 10), cl.optim.sgd(0.1))
        start = strategy.init(cl.key(0))
        step_on(100)  # torch's compiler itself takes a hundred megabytes
        print(step_on(300 * 2**20 // (784 * 4)))
        """
    )
    assert float(grown) < 60  # of 300


def test_the_compiler_leaves_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cl.compile(lambda state, exp: state.replace(seen=~state.seen))(STATE, EXP)
