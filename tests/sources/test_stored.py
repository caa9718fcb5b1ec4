"""Data on a disk: what is read, and when; every method trains on it as on the same rows in memory, to the bit."""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import registry
import torch

import cl_func as cl
from cl_func import random, sources, streams, testing, tree
from cl_func.core.reading import read_ahead
from cl_func.experiences import experience
from cl_func.sources import reading
from cl_func.storage import files

DATA = registry.BENCH.train[0].source
ROWS = torch.tensor([5, 0, 11, 5, 3])


@pytest.fixture
def path(tmp_path):
    np.save(tmp_path / "x.npy", DATA.x.numpy())
    return tmp_path / "x.npy"


@pytest.fixture
def data(path):
    return cl.data.stored(path, DATA.y, n_classes=DATA.n_classes)


class Column:
    """A table that gives ascending, different rows only, as h5py does, and counts how many it has given."""

    def __init__(self, values):
        self.values, self.reads = values, []

    def __len__(self):
        return len(self.values)

    def __getitem__(self, rows):
        assert rows.dtype == np.int64
        assert (np.diff(rows) > 0).all()
        self.reads.append(len(rows))
        return self.values[rows]


class Shaped:
    """A table without len(), as zarr has them."""

    def __init__(self, values):
        self.values, self.shape = values, values.shape

    def __getitem__(self, rows):
        return self.values[rows]


def stored_stream(source, bench=registry.BENCH):
    return cl.Stream(_Over(source, bench.train), len(bench.train))


class _Over:
    def __init__(self, source, train):
        self.source, self.train = source, train

    def __call__(self, index):
        return tree.replace(self.train[index], source=self.source)


def strategy(name, model=registry.MODEL):
    return getattr(cl.strategies, name)(model, registry.SGD, batch_size=5, **registry.ARGUMENTS[name])


# ------------------------------------------------------------------ what is read


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, np.float32, np.float64])
def test_files_maps_and_tables_by_hand(tmp_path, dtype):
    x = np.arange(120).reshape(20, 2, 3).astype(dtype)
    y = np.arange(20) % 3
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y.astype(np.int32))
    x.tofile(tmp_path / "x.raw")
    raw = np.memmap(tmp_path / "x.raw", dtype, "r", 6 * x.itemsize, (19, 2, 3))  # from row 1 on
    expected = torch.from_numpy(x)
    for found, start in (
        (cl.data.stored(tmp_path / "x.npy", tmp_path / "y.npy"), 0),
        (cl.data.stored(str(tmp_path / "x.npy"), torch.from_numpy(y)), 0),
        (cl.data.stored(np.load(tmp_path / "x.npy", mmap_mode="r"), y), 0),
        (cl.data.stored(raw, y[1:]), 1),
        (cl.data.stored(raw[3:], y[4:]), 4),
        (cl.data.stored(Column(x), y), 0),
        (cl.data.stored(Shaped(x), y), 0),
    ):
        rows = torch.tensor([[7, 2], [2, 15]])
        assert torch.equal(found.gather_x(rows), expected[rows + start])
        assert torch.equal(found.x, expected[start:])
        assert (len(found), found.n_classes, found.target) == (20 - start, 3, "class")
        assert found.x.dtype == expected.dtype
        with pytest.raises(IndexError, match=rf"rows: expected rows of .*, 0\.\.{19 - start}, got 3\.\.20"):
            found.gather_x(torch.tensor([3, 20]))


def test_what_is_gathered_may_be_written_to(data):
    first = data.gather_x(ROWS)
    first.zero_()
    assert torch.equal(data.gather_x(ROWS), DATA.x[ROWS])


def test_regression_and_several_labels(path):
    targets = DATA.x[:, 0].clone()
    assert cl.data.stored(path, targets).target == "regression"
    assert cl.data.stored(path, torch.stack([targets > 0, targets < 0], 1)).n_classes == 2


def test_one_reader_for_one_file(path, data):
    assert cl.data.stored(path, DATA.y).file is data.file
    assert pickle.loads(pickle.dumps(data)).file is data.file
    column = Column(DATA.x.numpy())
    assert cl.data.stored(column, DATA.y).file is cl.data.stored(column, DATA.y).file
    assert cl.data.stored(Column(column.values), DATA.y).file != cl.data.stored(column, DATA.y).file


def test_too_large_a_gather_says_what_to_do(path):
    data = cl.data.stored(path, DATA.y, largest=100)
    size = DATA.x[0].numel() * 4
    assert len(data.gather_x(ROWS[:1])) == 1
    message = rf"x: 5 rows of .*x\.npy float32.* at once are {5 * size} bytes, more than largest=100\. .*split_online"
    for function in (
        lambda: data.gather_x(ROWS),
        lambda: cl.compile(lambda state, exp: state + exp.x.sum())(torch.tensor(0.0), experience(data, ROWS)),
    ):
        with pytest.raises(ValueError, match=message):
            function()


def test_a_changed_file_is_noticed(path, data):
    data.gather_x(ROWS)
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\0\0\0")
    os.utime(path, ns=(0, 0))
    with pytest.raises(ValueError, match=r"x: .*x\.npy has been written to since it was opened"):
        data.gather_x(ROWS)
    again = cl.data.stored(path, DATA.y)
    assert again.file != data.file
    assert again.digests["x"] != data.digests["x"]
    assert again.digests["x.modified"] == "1970-01-01T00:00:00+00:00"
    assert again.digests["y"] == data.digests["y"]


def test_pickled_files_must_be_there_and_the_same(path, data):
    pickled = pickle.dumps(data)
    assert len(pickled) < 5000
    script = "import pickle, sys, torch; print(pickle.load(sys.stdin.buffer).gather_x(torch.tensor([5]))[0, 0])"
    other = [sys.executable, "-c", script]
    expected = f"tensor({float(DATA.x[5, 0]):.4f})"
    assert subprocess.run(other, input=pickled, capture_output=True, check=True).stdout.decode().strip() == expected
    del data
    np.save(path, DATA.x.numpy() + 1)
    with pytest.raises(ValueError, match=r"x: .*x\.npy holds other rows than when the source was made"):
        pickle.loads(pickled)
    path.unlink()
    with pytest.raises(ValueError, match=r"x: cannot open .*x\.npy: No such file or directory; .* wherever its rows are read"):
        pickle.loads(pickled)


def test_a_file_that_is_cut_short(path, data):
    with path.open("r+b") as file:
        file.truncate(300)
    with pytest.raises(ValueError, match=r"x: .*x\.npy' is no \.npy file that can be read"):
        cl.data.stored(path, DATA.y)
    with pytest.raises(ValueError, match="fewer than the"):
        reading.array_file(path, 128, data.file.dtype, data.file.shape)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (DATA.x, r"x: expected the path of a \.npy file.* Tensors are in memory, for which there is cl\.data\.from_arrays"),
        (DATA.x.numpy(), "ndarrays are in memory"),
        ({"x": 1}, "x: expected the path of a .npy file"),
        (3, "x: expected the path of a .npy file"),
        ("nowhere.npy", r"x: there is no file 'nowhere\.npy'"),
        (Column(DATA.x.numpy()[:0]), "x: the table is empty"),
        (Column(np.zeros(len(DATA), dtype=np.float32)), r"x: expected inputs \[N, \.\.\.\] of at least one row"),
        (Column(np.zeros((len(DATA), 2), dtype=np.int32)), r"x: expected one of uint8, int64.* write a file of one of these"),
        (Column(np.zeros((len(DATA), 2), dtype=">f4")), "native byte order"),
        (Column(np.zeros((3, 2), dtype=np.float32)), rf"x, y: lengths differ: 3 rows of x, {len(DATA)} of y"),
    ],
)
def test_stored_refuses(x, message):
    with pytest.raises((TypeError, ValueError), match=message):
        cl.data.stored(x, DATA.y)


def test_masked_rows_are_no_values():
    values = np.ma.masked_array(np.ones((len(DATA), 2), dtype=np.float32), mask=np.zeros((len(DATA), 2), dtype=bool))
    assert torch.equal(cl.data.stored(Column(values), DATA.y).x, torch.ones(len(DATA), 2))
    values[3, 1] = np.ma.masked
    found = cl.data.stored(Column(values), DATA.y)
    assert torch.equal(found.gather_x(torch.tensor([2, 4])), torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"x: a Column gives rows of which 1 elements are masked; .* x\[rows\]\.filled"):
        found.gather_x(torch.tensor([2, 3]))
    values[0] = np.ma.masked
    with pytest.raises(ValueError, match="x: a Column gives rows of which 2 elements are masked"):
        cl.data.stored(Column(values), DATA.y)


def test_memory_maps_that_are_no_file(tmp_path, path):
    whole = np.load(path, mmap_mode="r")
    with pytest.raises(ValueError, match="do not follow each other in the file"):
        cl.data.stored(whole[:, :2], DATA.y)
    with pytest.raises(ValueError, match="mode 'c' is not in its file"):
        cl.data.stored(np.load(path, mmap_mode="c"), DATA.y)
    with pytest.raises(TypeError, match="ndarrays are in memory"):
        cl.data.stored(whole + 1, DATA.y)


# ------------------------------------------------------------------ reading ahead


def test_a_block_is_read_once_whatever_the_order_of_its_rows():
    column = Column(np.arange(60, dtype=np.float32).reshape(20, 3))
    data = cl.data.stored(column, torch.arange(20))
    column.reads.clear()
    data.read_ahead(torch.tensor([3, 1, 2]))
    assert data.gather_x(torch.tensor([1, 2, 3, 1]))[:, 0].tolist() == [3.0, 6.0, 9.0, 3.0]
    assert data.gather_x(torch.tensor([[2], [1], [3]])).shape == (3, 1, 3)
    assert column.reads == [3]
    data.gather_x(torch.tensor([4]))
    assert column.reads == [3, 1]


def test_minibatches_are_read_ahead(monkeypatch):
    column = Column(DATA.x.numpy())
    data = cl.data.stored(column, DATA.y, n_classes=DATA.n_classes)
    exp = experience(sources.join([sources.Permuted(data, random.permutation(cl.key(i), DATA.x.shape[1])) for i in range(2)]))
    asked = []
    monkeypatch.setattr(reading, "ahead", lambda reader, rows: asked.append(rows))
    taken = []
    update = cl.minibatches(lambda state, batch: (taken.append(batch.rows), state)[1], batch_size=8, epochs=2)
    update(cl.Agent(key=cl.key(0)), exp)
    per_epoch = -(-2 * len(DATA) // 8)
    expected = [rows % len(DATA) for epoch in range(2) for rows in taken[epoch * per_epoch + 1 : (epoch + 1) * per_epoch]]
    testing.assert_equal(asked, expected, "all but the first of an epoch")


def test_the_next_experience_is_read_ahead(monkeypatch, data):
    asked = []
    monkeypatch.setattr(reading, "ahead", lambda reader, rows: asked.append(rows))
    pieces = streams.split_online(cl.Benchmark(stored_stream(data), registry.BENCH.test), 5).train
    assert [exp.rows.tolist() for exp in read_ahead(pieces)] == [exp.rows.tolist() for exp in pieces]
    assert [rows.tolist() for rows in asked] == [exp.rows.tolist() for exp in pieces[1:]]
    assert list(read_ahead([])) == []
    assert list(read_ahead([1, 2])) == [1, 2]


def test_an_error_of_the_thread_is_raised_where_the_rows_are_used():
    column = Column(np.zeros((20, 3), dtype=np.float32))
    data = cl.data.stored(column, torch.arange(20))
    column.values = column.values.astype(np.float64)
    data.read_ahead(torch.tensor([3, 1, 2]))
    with pytest.raises(ValueError, match=r"x: expected a Column to give float32\[3, 3\] for 3 rows"):
        data.gather_x(torch.tensor([1, 2, 3]))


# ------------------------------------------------------------------ training


@pytest.mark.parametrize("name", sorted(registry.ARGUMENTS))
def test_as_good_as_in_memory(name, data):
    method = strategy(name)
    ends = [
        cl.scan(method.update, method.init(cl.key(0)), stream, cl.evaluate(method.model, stream, batch_size=7))
        for stream in (stored_stream(data), registry.BENCH.train)
    ]
    testing.assert_equal(*ends, "stored")


def test_laws_over_a_stored_stream(data):
    train = stored_stream(data)
    testing.check_strategy(strategy("er", registry.NORMED), cl.Benchmark(train, train))


def test_one_program_for_all_minibatches_and_experiences(data):
    update = cl.compile(cl.vmap(strategy("er").update))
    state = tree.stack([strategy("er").init(cl.key(i)) for i in range(3)])
    ends = [cl.fold(update, state, stream, donate=True) for stream in (stored_stream(data), registry.BENCH.train)]
    testing.assert_equal(*ends, "lanes, compiled, donated")
    benches = [cl.Benchmark(train, registry.BENCH.test) for train in (stored_stream(data), registry.BENCH.train)]
    pieces = [streams.split_online(bench, 5).train for bench in benches]
    step = cl.compile(cl.vmap(cl.strategies.naive(registry.MODEL, registry.SGD, batch_size=None).update))
    naive = cl.strategies.naive(registry.MODEL, registry.SGD, batch_size=None)
    state = tree.stack([naive.init(cl.key(i)) for i in range(2)])
    testing.assert_equal(*[cl.fold(step, state, some) for some in pieces], "online")
    programs = [len(known) for leaf in tree.leaves(step) for known in leaf.programs.values()]
    assert programs == [2] * len(programs)  # one for each kind of source


class Stop(Exception):  # noqa: N818 - not an error: whatever may stop a run
    pass


def test_a_run_is_resumed_in_the_middle_of_an_experience(tmp_path, path, data, monkeypatch):
    method, train, keep = strategy("er"), stored_stream(data), cl.Checkpoint(tmp_path / "run", steps=1)
    start = method.init(cl.key(0))
    left, write = iter(range(3)), files.write

    def stopped(*args):
        if next(left, None) is None:
            raise Stop
        write(*args)

    monkeypatch.setattr(files, "write", stopped)
    with pytest.raises(Stop):
        cl.fold(method.update, start, train, checkpoint=keep)
    monkeypatch.undo()
    moved = tmp_path / "elsewhere.npy"
    shutil.copy2(path, moved)  # the same time of change
    again = stored_stream(cl.data.stored(moved, DATA.y, n_classes=DATA.n_classes))
    found = cl.fold(method.update, start, again, checkpoint=keep)
    testing.assert_equal(found, cl.fold(method.update, start, registry.BENCH.train), "resumed")
    os.utime(moved, ns=(0, 0))
    again = stored_stream(cl.data.stored(moved, DATA.y, n_classes=DATA.n_classes))
    with pytest.raises(ValueError, match=r"x\.modified: .* -> .*1970"):
        cl.fold(method.update, start, again, checkpoint=keep)


def test_sweeps_in_lanes_and_with_a_stream_per_seed(data):
    def bench(key, source):
        return streams.split_by_class(source, source, n_experiences=2, key=key)

    method = strategy("er")
    grid = cl.grid({"opt.lr": [0.1, 0.01]})
    found, expected = (
        cl.sweep(method, functools.partial(bench, source=source), seeds=3, hparams=grid, lanes=3) for source in (data, DATA)
    )
    testing.assert_equal(found.history, expected.history, "a stream per seed")


def test_on_an_executor_each_process_opens_the_file(data):
    method = strategy("er")
    train = stored_stream(data)
    bench = cl.Benchmark(train, train)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        there = cl.sweep(method, bench, seeds=2, executor=pool)
    here = cl.sweep(method, bench, seeds=2)
    testing.assert_equal(there.history, here.history, "executor")


def test_device_moves_targets_and_leaves_inputs(data):
    testing.check_device(lambda state, exp: state + exp.x.sum() + exp.y.sum(), torch.tensor(0.0), experience(data, ROWS))
