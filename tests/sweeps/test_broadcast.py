"""Sending a value to an executor: every byte once, and the worker gets the same value, view for view."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cl_func as cl
from cl_func.sweeps import broadcast, planning, remote

N = 4_100_000  # bytes, of which LARGE goes into 3 times
DTYPES = (torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool, torch.bfloat16, torch.complex64)


@pytest.fixture(autouse=True)
def _nothing_held():
    broadcast._HELD = broadcast._Held()


def there(value, folder=None):
    """A value as a worker receives it."""
    with broadcast.Broadcast(value, folder) as data:
        return broadcast.received(data.reference, {}, lambda made: made)


def total(value):
    """How many bytes are sent to a worker."""
    with broadcast.Broadcast(value) as data:
        return sum(size for _, size in data.reference.blobs)


def address(tensor):
    return tensor.untyped_storage().data_ptr()


@settings(max_examples=25, deadline=None, database=None)
@given(st.data())
def test_tensors_arrive_as_they_are(data):
    """Any dtype, offset, shape and stride, in small and large memory; tensors that shared memory still share it."""
    dtype = data.draw(st.sampled_from(DTYPES))
    elements = data.draw(st.sampled_from([0, 1, 7, 1000, 300_000, N // dtype.itemsize]))
    whole = torch.randint(0, 2, (elements,)).to(dtype)
    views = [whole]
    for _ in range(data.draw(st.integers(1, 3))):
        shape = tuple(data.draw(st.lists(st.integers(0, 5), max_size=3)))
        stride = tuple(data.draw(st.integers(0, 4)) for _ in shape)
        reach = sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) if 0 not in shape else 0
        if reach < elements:
            views.append(whole.as_strided(shape, stride, data.draw(st.integers(0, elements - reach - 1))))
    other = whole.clone()
    *arrived, apart = there([*views, other])
    for here, tensor in zip([*views, other], [*arrived, apart], strict=True):
        assert (tensor.dtype, tensor.shape, tensor.stride()) == (here.dtype, here.shape, here.stride())
        assert tensor.storage_offset() == here.storage_offset()
        assert torch.equal(tensor, here)
    if elements:
        assert len({address(tensor) for tensor in arrived}) == 1
        assert address(apart) != address(arrived[0])


def test_kinds_of_tensors_arrive_as_they_are():
    class Marked(torch.Tensor):
        pass

    grad = torch.ones(3, requires_grad=True)
    marked = torch.zeros(2)
    marked.label = "mine"
    given = {
        "grad": grad,
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "sparse": torch.eye(3).to_sparse(),
        "empty": torch.empty(0, 3),
        "meta": torch.empty(3, device="meta"),
        "own": torch.ones(3).as_subclass(Marked),
        "marked": marked,
    }
    made = there(given)
    for name, tensor in given.items():
        assert type(made[name]) is type(tensor) or name == "own", name
        assert (made[name].shape, made[name].requires_grad) == (tensor.shape, tensor.requires_grad), name
        assert name == "meta" or torch.equal(made[name].to_dense(), tensor.to_dense()), name
    assert made["marked"].label == "mine"


def test_what_overlaps_in_numpy_is_sent_once():
    array = np.arange(N, dtype=np.float32)
    parts = [torch.from_numpy(array[a:b]) for a, b in ((0, N), (0, N // 2), (N // 4, N))]
    assert total(parts) < 1.01 * array.nbytes
    made = there(parts)
    for here, tensor in zip(parts, made, strict=True):
        assert torch.equal(here, tensor)
    made[0][N // 3] = -1
    assert made[1][N // 3] == made[2][N // 3 - N // 4] == -1


def test_a_worker_writes_to_no_memory_but_its_own():
    """Equal content is one file; writing to one tensor changes neither the file nor another tensor nor the sender's."""
    first, second = torch.zeros(N), torch.zeros(N)
    assert total([first, second]) < 1.01 * 4 * N
    with broadcast.Broadcast([first, second]) as data:
        one = broadcast.received(data.reference, {}, lambda made: made)
        one[0].fill_(1)
        assert not one[1].any()
        broadcast._HELD = broadcast._Held()
        two = broadcast.received(data.reference, {}, lambda made: made)
        assert not two[0].any()
    assert not first.any()
    assert (one[0] == 1).all()  # although the file is gone


def test_files_are_private_and_removed(tmp_path):
    with broadcast.Broadcast(torch.ones(N), tmp_path) as data:
        (folder,) = tmp_path.iterdir()
        assert str(folder) == data.reference.folder
        assert folder.stat().st_mode & 0o777 == 0o700
        assert len(list(folder.iterdir())) == len(data.reference.blobs) == 2
    assert not list(tmp_path.iterdir())


def test_an_interrupt_while_files_are_written_removes_them(tmp_path, monkeypatch):
    def interrupted(path, data):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        broadcast.Broadcast(torch.ones(N), tmp_path).__enter__()
    assert not list(tmp_path.iterdir())


def test_threads_of_a_worker_prepare_once():
    made, begun = [], threading.Barrier(4)

    def prepare(value):
        made.append(value)
        return value

    with broadcast.Broadcast(torch.ones(5)) as data, concurrent.futures.ThreadPoolExecutor(4) as pool:

        def receive(_):
            begun.wait()
            return broadcast.received(data.reference, {}, prepare)

        values = list(pool.map(receive, range(4)))
    assert len(made) == 1
    assert all(value is made[0] for value in values)


def test_a_worker_that_sees_no_files_says_what_it_lacks():
    """And keeps what it was sent for the next value with the same data, of which only the pickle is then sent."""
    data = torch.rand(N)
    first, second = broadcast.Broadcast([data, 1]), broadcast.Broadcast([data, 2])
    missing = broadcast.received(first.reference, {}, lambda made: made)
    assert missing == broadcast.Missing(frozenset(first.blobs))
    assert torch.equal(broadcast.received(first.reference, first.content(missing.digests), lambda made: made)[0], data)
    missing = broadcast.received(second.reference, {}, lambda made: made)
    assert sum(len(blob) for blob in second.content(missing.digests).values()) < 10_000
    tensor, number = broadcast.received(second.reference, second.content(missing.digests), lambda made: made)
    assert number == 2
    assert torch.equal(tensor, data)


def test_a_file_cut_short_is_missing(tmp_path):
    with broadcast.Broadcast(torch.rand(N), tmp_path) as data:
        name, _ = data.reference.blobs[1]
        path = Path(data.reference.folder) / name
        path.write_bytes(path.read_bytes()[:-1])
        assert broadcast.received(data.reference, {}, lambda made: made) == broadcast.Missing(frozenset([name]))


# -- sweeps


X = torch.rand(16_000, 784, generator=torch.Generator().manual_seed(0))  # 50 MB
Y = torch.arange(16_000) % 4
MODEL = cl.models.mlp(784, hidden=(8,), n_classes=4)
STRATEGY = cl.strategies.naive(MODEL, cl.optim.sgd(0.1), batch_size=16)
PLAIN = {"seeds": 6, "lanes": 1, "compile": False, "progress": False}


def bench(test):
    train = cl.experience(cl.Dataset(X, Y), torch.arange(64))
    return cl.Benchmark(cl.Stream([train].__getitem__, 1), cl.Stream([cl.experience(test, torch.arange(32))].__getitem__, 1))


BENCH = bench(cl.Dataset(X[:4000], Y[:4000]))


class Recorder:
    """An executor that runs tasks at once, and records the size of each in bytes."""

    def __init__(self):
        self.sizes, self.seen = [], []

    def submit(self, function, *args):
        self.sizes.append(len(cloudpickle.dumps((function, args))))
        for reference in args:
            if isinstance(reference, broadcast.Reference):
                files = [path.stat().st_size for path in Path(reference.folder).iterdir()]
                self.seen.append(sum(files))
        future = concurrent.futures.Future()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future


def equal(runs, others):
    assert bool(runs.finished.all())
    assert all(torch.equal(runs[name], others[name]) for name in ("loss", "accuracy"))


@pytest.fixture(scope="module")
def alone():
    return cl.sweep(STRATEGY, BENCH, **PLAIN)


def test_a_task_is_small(alone):
    """However large the data: they are sent once, a test set that is a view of the train array not at all."""
    recorder = Recorder()
    equal(cl.sweep(STRATEGY, BENCH, executor=recorder, **PLAIN), alone)
    assert len(recorder.sizes) == 6
    assert max(recorder.sizes) < 100_000
    assert max(recorder.seen, default=0) < 1.01 * X.nbytes


def test_what_a_benchmark_function_or_a_probe_closes_over_is_sent_once(alone):
    recorder, probe = Recorder(), cl.evaluate(MODEL, BENCH.test)
    equal(cl.sweep(STRATEGY, lambda key: BENCH, probe=probe, executor=recorder, **PLAIN), alone)
    assert max(recorder.sizes) < 100_000
    assert max(recorder.seen, default=0) < 1.01 * X.nbytes


@pytest.mark.parametrize("start", ["spawn", "fork"])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python's, where there are threads
def test_processes_that_see_no_files_are_sent_the_data_once(start, alone, monkeypatch):
    """As on machines without a shared disk, or with a full one."""

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    sent = []
    content = broadcast.Broadcast.content
    monkeypatch.setattr(
        broadcast.Broadcast, "content", lambda self, digests: sent.append(frozenset(digests)) or content(self, digests)
    )
    if start not in multiprocessing.get_all_start_methods() or (start == "fork" and torch.backends.cuda.is_built()):
        pytest.skip(f"processes cannot be started by {start} here")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(start)) as pool:
        equal(cl.sweep(STRATEGY, BENCH, executor=pool, **PLAIN), alone)
        times = sum(bool(digests) for digests in sent)
        assert 1 <= times <= 3  # once for each worker, and once more if the other worker took it
        cl.sweep(STRATEGY, BENCH, executor=pool, **PLAIN)
        assert sum(bool(digests) for digests in sent) <= 3


def test_files_are_gone_after_a_sweep_however_it_ends(tmp_path, alone, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def failing(state, exp):
        raise ZeroDivisionError("mine")

    def interrupted(job, runs, *args, **kwargs):
        raise KeyboardInterrupt

    with pytest.raises(RuntimeError, match="6 runs failed"):
        cl.sweep(STRATEGY, BENCH, probe=failing, executor=Recorder(), **PLAIN)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(remote, "_do", interrupted)
    with pytest.raises(KeyboardInterrupt):  # no run is finished
        cl.sweep(STRATEGY, BENCH, executor=Recorder(), **PLAIN)
    assert not list(tmp_path.iterdir())


def test_the_folder_of_a_scheduler_or_of_the_sweep_is_used(tmp_path):
    """Their jobs run on other machines, which can see that folder but not the temporary files of this one."""
    recorder, folder = Recorder(), tmp_path / "log"
    folder.mkdir()
    left = tmp_path / "kept" / "broadcast-killed"
    left.mkdir(parents=True)
    places = []
    recorder.folder = folder / "%j"
    monitored = recorder.submit

    def submit(function, *args):
        places.extend(Path(a.folder).parent for a in args if isinstance(a, broadcast.Reference))
        return monitored(function, *args)

    recorder.submit = submit
    cl.sweep(STRATEGY, BENCH, executor=recorder, **PLAIN)
    cl.sweep(STRATEGY, BENCH, executor=recorder, resume=tmp_path / "kept", **PLAIN)
    assert set(places) == {folder, tmp_path / "kept"}
    assert not left.exists()
    assert not list(folder.iterdir())


def test_an_interrupted_run_is_sent_without_its_neighbours(tmp_path):
    """If a lane of a checkpoint were a view, all lanes would be sent with it."""
    strategy = cl.strategies.naive(cl.models.mlp(784, hidden=(64,), n_classes=4), cl.optim.sgd(0.1), batch_size=16)
    looks = []

    def probe(state, exp):
        looks.append(exp)
        if len(looks) == 2:
            raise KeyboardInterrupt
        return {"key": state.key}

    two = cl.Benchmark(cl.Stream([BENCH.train[0], BENCH.train[0]].__getitem__, 2), BENCH.test)
    arguments = {"seeds": 16, "compile": False, "progress": False, "probe": probe}
    checkpoint = cl.Checkpoint(tmp_path, every=1)
    with pytest.raises(KeyboardInterrupt):  # no run is finished
        cl.sweep(strategy, two, lanes=16, checkpoint=checkpoint, **arguments)
    recorder = Recorder()
    one = pickle.dumps(strategy.init(cl.key(0)))
    insisting = cl.Checkpoint(tmp_path, every=1, on_change="warn")
    with pytest.warns(UserWarning, match=r"probe\.looks: \[\] -> list of 2"):
        cl.sweep(strategy, two, lanes=1, checkpoint=insisting, executor=recorder, **arguments)
    assert max(recorder.sizes) < 2 * len(one)
    assert os.listdir(tmp_path)


OPTIONS = {
    "probe": None, "every": 1, "compile": False, "lanes": 1, "progress": False, "device": None,
    "resume": None, "checkpoint": None, "on_change": "error", "tap": None,
}  # fmt: skip
NOTEBOOK = """
import concurrent.futures, multiprocessing
import torch
import cl_func as cl

@cl.state
class Mine(cl.Agent):
    steps: torch.Tensor
    kind: str = cl.tree.static(default="a")

def main():
    model, sgd, bench = cl.models.mlp(6, hidden=(8,), n_classes=4), cl.optim.sgd(0.1), cl.testing.small_benchmark()

    def init(key):
        net = model.init(key)
        return Mine(key=cl.random.fold_in(key, 0), model=net, opt=sgd.init(net.params), steps=torch.zeros(()))

    step = cl.minibatches(cl.train_step(cl.losses.cross_entropy(model), sgd), batch_size=4)
    strategy = cl.Strategy(init, cl.compose(step, lambda state, exp: state.replace(steps=state.steps + 1)), model)
    here = cl.sweep(strategy, bench, seeds=2, progress=False, compile=False)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        for _ in range(2):
            there = cl.sweep(strategy, bench, seeds=2, progress=False, compile=False, executor=pool)
            assert cl.tree.equal(here.history, there.history)
            assert type(there.state(seed=1)) is Mine and there.state(seed=1).steps == len(bench.train)

if __name__ == "__main__":
    main()
"""


def test_a_class_of_the_script_or_notebook_is_a_state_in_the_workers_too(tmp_path):
    """Cloudpickle sends it by value, and it must be a pytree there."""
    (tmp_path / "script.py").write_text(NOTEBOOK)
    subprocess.run([sys.executable, "-W", "error", tmp_path / "script.py"], check=True, timeout=200)


def test_processes_that_are_forked_after_torch_has_threads_are_warned_of(monkeypatch):
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("processes cannot be forked here")
    given = ((2, False, "fork", "waits"), (1, False, "fork", ""), (1, True, "fork", "refuses"), (2, True, "spawn", ""))
    for threads, cuda, start, said in given:
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        monkeypatch.setattr(torch.backends.cuda, "is_built", lambda cuda=cuda: cuda)
        with (
            concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(start)) as pool,
            warnings.catch_warnings(record=True) as caught,
        ):
            warnings.simplefilter("always")
            planning.check_options(**OPTIONS, executor=pool)
        told = [str(one.message) for one in caught if "spawn" in str(one.message)]
        assert [said in one for one in told] == [True] * bool(said)
