"""Programs that are launched as a whole: which addresses a record is made for, and what is copied with each call."""

from __future__ import annotations

import pytest
import registry
import torch

import cl_func as cl
from cl_func import tree
from cl_func.compiler import cuda_graphs
from cl_func.compiler.cuda_graphs import CALLS, KEPT, Replayed, recordable

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def step(total, data, rows):
    total.add_(data[rows].sum())


class Recorder:
    """In place of a GPU: a record runs its function again, and records are counted."""

    def __init__(self):
        self.made = self.replayed = 0

    def __call__(self, launch):
        self.made += 1

        def replay():
            self.replayed += 1
            launch()

        return replay


@pytest.fixture
def data():
    return torch.arange(cuda_graphs.SMALL, dtype=torch.float32)


def test_a_record_takes_the_rows_of_each_call_and_the_state_and_the_data_where_they_are(data):
    recorder = Recorder()
    run = Replayed(step, 1, recorder)
    total, expected = torch.zeros(()), 0.0
    for i in range(10):
        rows = torch.tensor([i, 2 * i])
        run([total, data, rows])
        expected += float(data[3 * i])
        assert rows.tolist() == [i, 2 * i]
        if i == 7:
            data[30:] += 1.0  # in its place, so that the record sees it
    assert float(total) == expected + 0 * len(data)
    assert (recorder.made, recorder.replayed) == (1, 10 - CALLS)


def test_other_addresses_get_records_of_their_own_and_the_last_few_are_kept(data):
    recorder = Recorder()
    run = Replayed(step, 1, recorder)
    rows = torch.tensor([5])
    totals = [torch.zeros(()) for _ in range(KEPT + 1)]
    for total in totals:
        for _ in range(CALLS + 2):
            run([total, data, rows])
    assert [float(total) for total in totals] == [5.0 * (CALLS + 2)] * (KEPT + 1)
    assert (recorder.made, len(run.records)) == (KEPT + 1, KEPT)
    others = data.clone()
    for _ in range(CALLS):
        run([totals[-1], others, rows])
    assert recorder.made == KEPT + 1  # data elsewhere are no reason to record before they have come a few times


def test_addresses_that_always_change_are_not_recorded(data):
    recorder = Recorder()
    run = Replayed(step, 1, recorder)
    kept = [torch.zeros(()) for _ in range(200)]
    for total in kept:
        run([total, data, torch.tensor([1])])
    assert recorder.made == 0
    assert len(run.records.calls) <= 65


def test_small_inputs_keep_their_strides():
    seen = []

    def program(total, x):
        seen.append(x.stride())
        total.add_(x.sum())

    run = Replayed(program, 1, Recorder())
    total, x = torch.zeros(()), torch.arange(12.0).reshape(3, 4).T
    for _ in range(CALLS + 3):
        run([total, x])
    assert set(seen) == {x.stride()}
    assert float(total) == 66 * (CALLS + 3)


def test_a_program_that_cannot_be_recorded_runs_as_it_is_after_one_warning(data):
    def refuse(launch):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    run = Replayed(step, 1, refuse)
    total = torch.zeros(())
    for i in range(CALLS + 3):
        if i == CALLS:
            with pytest.warns(UserWarning, match="launched one by one: operation not permitted when stream is capturing$"):
                run([total, data, torch.tensor([2])])
        else:
            run([total, data, torch.tensor([2])])
    assert float(total) == 2 * (CALLS + 3)


def test_only_programs_on_one_gpu_are_recorded():
    assert not recordable([torch.zeros(3)])
    assert not recordable([])
    fake = [torch.zeros(3, device="meta")]
    assert not recordable(fake)


@CUDA
@pytest.mark.parametrize("name", ["er", "der_pp", "agem", "ewc_online", "lwf", "mir", "gss", "si", "er_ace"])
def test_a_compiled_fold_on_a_gpu_equals_the_eager_one(name, monkeypatch):
    made = []
    monkeypatch.setattr(cuda_graphs, "record", lambda launch: made.append(launch) or RECORD(launch))
    bench = cl.streams.split_online(cl.streams.split_by_class(*cl.data.digits(), n_experiences=5), 10)
    train = [on_gpu(exp) for exp in bench.train[:12]]
    strategy = getattr(cl.strategies, name)(
        cl.models.mlp(64, (32,), 10), cl.optim.sgd(0.1), iterations=2, **registry.ARGUMENTS[name]
    )
    state = strategy.init(cl.key(0).to("cuda"))
    eager = cl.fold(strategy.update, state, train)
    compiled = cl.fold(cl.compile(strategy.update), state, train, donate=True)
    for (path, a), b in zip(tree.items(eager), tree.leaves(compiled), strict=True):
        assert torch.allclose(a.double(), b.double(), rtol=1e-3, atol=1e-4), path
    assert made, "nothing was recorded"


RECORD = cuda_graphs.record


SHARED = {}


def on_gpu(exp):
    source = SHARED.setdefault(id(exp.source), (exp.source, tree.to(exp.source, "cuda")))[1]
    return tree.replace(tree.to(tree.replace(exp, source=None), "cuda"), source=source)
