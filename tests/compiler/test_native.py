"""Steps that the driver takes without Python: the bits of the program, from its own kernels, whatever the program calls."""

from __future__ import annotations

import os
import signal
import threading

import pytest
import registry
import torch

import cl_func as cl
from cl_func import tree
from cl_func.compiler import driven, driver, native
from cl_func.transforms import Compiled

SGD = cl.optim.sgd(0.1)
ER = cl.strategies.er(registry.MODEL, SGD, capacity=6, replay_size=4)
UPDATE = cl.compile(ER.update)  # its programs are shared by these tests


@pytest.fixture
def taken(monkeypatch):
    """The numbers of steps that leaves have taken by themselves, while this list is in use."""
    counts, advance = [], Compiled.advance

    def counted(self, state, batches, seconds):
        done = advance(self, state, batches, seconds)
        counts.append(done)
        return done

    monkeypatch.setattr(Compiled, "advance", counted)
    return counts


def one_by_one(monkeypatch, run):
    """What a function returns if no leaf takes steps by itself, and no program is recorded."""
    with monkeypatch.context() as patch:
        patch.setattr(Compiled, "advance", lambda *_: 0)
        patch.setattr(native, "CALLS", 1 << 60)
        return run()


def same_bits(monkeypatch, taken, update, start, stream):
    """The same fold with and without loops by the driver, which must have taken steps."""
    update = cl.compile(update)
    expected = one_by_one(monkeypatch, lambda: cl.fold(update, start, stream, donate=True))
    end = cl.fold(update, start, stream, donate=True)
    assert tree.difference(end, expected) is None
    assert max(taken) > 1
    return end


CHOSEN = ("er", "gss")
CASES = [case for case in registry.STRATEGIES if case.name != "strategies.joint"]
if "CL_FUNC_FULL_GRID" not in os.environ:  # compiling is slow
    CASES = [next(case for case in CASES if case.name == f"strategies.{name}") for name in CHOSEN]


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{case.name}-{i}") for i, case in enumerate(CASES)])
def test_a_loop_has_the_bits_of_its_steps(case, monkeypatch, taken):
    strategy = case.make()
    stream = cl.streams.split_online(case.bench, 5, shuffle=False).train
    update, start = cl.compile(strategy.update), strategy.init(cl.key(0))
    for experiences in (list(stream) * 2, list(case.bench.train) * 2):
        expected = one_by_one(monkeypatch, lambda e=experiences: cl.fold(update, start, e, donate=True))
        assert tree.difference(cl.fold(update, start, experiences, donate=True), expected) is None
    # Some of the others have no loop of three steps or more, of which the first two are not taken.
    assert case.name.partition(".")[2] not in CHOSEN or max(taken) >= 1


def test_lanes_with_rows_of_their_own_and_padding(monkeypatch, taken):
    """Lanes whose last minibatches are padding have closed gates while others learn, so that products differ by lane."""
    strategy = cl.strategies.er(
        registry.MODEL, cl.optim.sgd(0.1, weight_decay=1e-2), capacity=6, replay_size=4, batch_size=3, epochs=2
    )
    first, second = registry.BENCH.train
    short = second.take(second.rows[:4], second.valid[:4])
    exp = cl.experiences.stack([first, short, second])
    start = tree.stack([strategy.init(cl.key(i)) for i in range(3)])
    end = same_bits(monkeypatch, taken, cl.vmap(strategy.update), start, [exp] * 2)
    alone = cl.fold(strategy.update, strategy.init(cl.key(1)), [short] * 2)
    cl.testing.assert_equal(tree.unstack(end)[1], alone, "lanes", cl.testing.laws.RTOL, cl.testing.laws.ATOL)


def sorting(state, exp):
    values, order = state.model.sort()
    flipped = torch.linalg.qr(values.reshape(2, 2))[1]
    return state.replace(model=state.model.flip(0) * 0.5 + values[order] + flipped.flatten() + exp.rows.sum())


def test_operations_that_are_no_kernels_are_called_from_python(monkeypatch, taken):
    exps = [cl.experience(registry.BENCH.train[0].source, torch.tensor([i, i + 1])) for i in range(12)]
    start = cl.Agent(key=cl.key(0), model=torch.tensor([3.0, 1.0, 2.0, 5.0]), opt=None)
    same_bits(monkeypatch, taken, sorting, start, exps)


def test_a_stream_that_changes_its_source_or_its_shapes_is_looped_in_parts(monkeypatch, taken):
    train, test = cl.Dataset(torch.randn(80, 6), torch.arange(80) % 4), cl.Dataset(torch.randn(8, 6), torch.arange(8) % 4)
    bench = cl.streams.permuted(train, test, n_experiences=3, key=cl.key(3))
    stream = list(cl.streams.split_online(bench, 4).train)
    first = [exp.take(exp.rows[:2], exp.valid[:2]) for exp in stream[:12]]
    same_bits(monkeypatch, taken, UPDATE, ER.init(cl.key(0)), [*stream, *first, *stream])


def long(n=4000):
    data = cl.Dataset(torch.randn(n, 6), torch.arange(n) % 4)
    return [cl.experience(data, torch.arange(4 * i, 4 * i + 4), index=i) for i in range(n // 4)]


def test_two_threads_with_one_program(monkeypatch):
    update, stream = UPDATE, long()
    starts = [ER.init(cl.key(i)) for i in range(3)]
    expected = one_by_one(monkeypatch, lambda: [cl.fold(update, start, stream, donate=True) for start in starts])
    ends = [None] * 3

    def run(i):
        torch.set_num_threads(1)
        ends[i] = cl.fold(update, starts[i], stream, donate=True)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [tree.difference(a, b) for a, b in zip(ends, expected, strict=True)] == [None] * 3


def test_what_an_operation_raises_is_raised(monkeypatch):
    def failing(state, exp):
        return state.replace(model=torch.linalg.cholesky(state.model - exp.rows.sum() * torch.eye(2)))

    exps = [cl.experience(registry.BENCH.train[0].source, torch.tensor([0 if i < 9 else 5])) for i in range(12)]
    start = cl.Agent(key=cl.key(0), model=torch.eye(2), opt=None)
    with pytest.raises(torch.linalg.LinAlgError, match="not positive-definite"):
        cl.fold(cl.compile(failing), start, exps, donate=True)


def test_ctrl_c_is_heard_between_two_pieces_and_leaves_a_program_that_works(monkeypatch):
    update, start, stream = UPDATE, ER.init(cl.key(0)), long()
    expected = cl.fold(update, start, stream, donate=True)
    endless = cl.Stream(lambda i: stream[i % len(stream)], 1 << 40)
    before = signal.setitimer(signal.ITIMER_REAL, 0.3), signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            cl.fold(update, start, endless, donate=True)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before[1])
    assert tree.difference(cl.fold(update, start, stream, donate=True), expected) is None


@pytest.mark.parametrize("missing", ["driver", "kernels", "operations"])
def test_without_what_it_takes_steps_are_taken_one_by_one(missing, monkeypatch, taken):
    if missing == "driver":
        monkeypatch.setattr(driver, "steps", lambda: None)
    elif missing == "kernels":
        monkeypatch.setattr(cl.torch_private, "generated", lambda *_: None)
    else:
        monkeypatch.setattr(driven.torch_private, "c_function", lambda name: None)
    exps = [cl.experience(registry.BENCH.train[0].source, torch.tensor([i])) for i in range(9)]
    start = cl.Agent(key=cl.key(0), model=torch.eye(2), opt=None)

    def step(state, exp):
        return state.replace(model=state.model @ state.model.T + exp.rows)

    end = cl.fold(cl.compile(step), start, exps, donate=True)
    cl.testing.assert_equal(end, cl.fold(step, start, exps), "compiled", 1e-4, 1e-5)
    assert max(taken) == 0


def test_a_program_with_a_tensor_of_the_functions_own_is_run_as_it_is():
    """torch makes it a further input of the program, which the recorded call did not have."""

    def update(state, exp):
        turned = torch.linalg.cholesky(torch.tensor([[2.0, 1.0], [1.0, 3.0]])) @ torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        return {"x": 0.5 * state["x"] + turned}

    start, stream = {"x": torch.zeros(2, 2)}, cl.testing.small_benchmark(n_experiences=4).train
    expected = cl.fold(update, start, [*stream] * 3)
    found = cl.fold(cl.compile(update), start, [*stream] * 3, donate=True)
    torch.testing.assert_close(found, expected)
