"""Saving and loading: round trips, clear errors, and hostile files."""

from __future__ import annotations

import json
import math
import os
import random
import resource
import struct
import time
import tracemalloc

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cl_func as cl
from cl_func.storage import files

MODEL = cl.models.mlp(6, (8,), 4)
STRATEGY = cl.strategies.er_lwf(MODEL, cl.optim.adam(1e-2), capacity=5, replay_size=3, epochs=2)


def states():
    return STRATEGY.init(cl.key(0)), STRATEGY.init(cl.key(1))


def test_round_trip_of_a_state(tmp_path):
    state, like = states()
    cl.save(tmp_path / "state", state)
    assert cl.tree.difference(cl.load(tmp_path / "state", like=like), state) is None
    by_path = cl.load(tmp_path / "state")
    assert torch.equal(by_path["opt.lr"], state.opt.lr)
    assert sorted(by_path) == sorted(path for path, _ in cl.tree.items(state))


DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool]
DTYPES += [torch.complex64, torch.float8_e4m3fn, torch.uint16]
VIEWS = [
    lambda leaf: leaf,
    lambda leaf: leaf.mT if leaf.ndim > 1 else leaf,
    lambda leaf: leaf.expand(2, *leaf.shape),
    lambda leaf: leaf[..., 1:] if leaf.ndim else leaf,
    lambda leaf: leaf.conj(),
]


@st.composite
def leaves(draw):
    """Tensors of any dtype and shape, also 0-d, empty or not contiguous, with NaN, infinity and -0."""
    shape, dtype = draw(st.lists(st.integers(0, 3), max_size=3)), draw(st.sampled_from(DTYPES))
    values = torch.arange(torch.Size(shape).numel()).reshape(shape) % 7
    if dtype.is_floating_point and dtype.itemsize > 1:
        values = torch.tensor([math.nan, -0.0, math.inf, 1e-30, -2.5, 3.0, -math.inf])[values]
    return draw(st.sampled_from(VIEWS))(values.to(dtype))


# Names with dots, in several scripts, and names that a file uses itself.
NAMES = st.text(max_size=4) | st.sampled_from(["seed", "tree", "tree.a", "a.b", "0", "__metadata__", "zz", "\u00e9t\u00e9", "\0"])


@settings(deadline=None, max_examples=100)
@given(tree=st.recursive(leaves(), lambda inner: st.dictionaries(NAMES, inner, min_size=1, max_size=3) | st.tuples(inner, inner)))
def test_round_trip_of_any_tree(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("trees") / "tree"
    if len(files_of := [p for p, _ in cl.tree.items(tree)]) != len(set(files_of)):
        with pytest.raises(ValueError, match="two of its leaves have the same path"):
            cl.save(path, tree)
        return
    cl.testing.check_round_trip(tree)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda tree: cl.tree.map(lambda leaf: leaf.flip(0), tree), "law 'round trip' broken at b"),
        (lambda tree: {"a": tree["b"], "b": tree["a"]}, "law 'round trip' broken at a"),
        (lambda tree: cl.tree.map(lambda leaf: leaf.double(), tree), "nothing is cast"),
        (lambda tree: {"a": -tree["a"], "b": tree["b"]}, "law 'round trip' broken at a"),  # -0
    ],
)
def test_the_law_of_the_round_trip_finds_what_is_wrong(monkeypatch, change, match):
    tree = {"a": torch.zeros(3), "b": torch.arange(3.0)}
    cl.testing.check_round_trip(tree)
    monkeypatch.setattr("cl_func.testing.whole.save", lambda path, value: cl.save(path, change(value)))
    with pytest.raises((AssertionError, ValueError), match=match):
        cl.testing.check_round_trip(tree)


def test_the_law_of_the_round_trip_finds_axes_that_were_sorted(monkeypatch):
    runs = cl.Runs({"b": [1, 2], "a": [1, 2], "seed": [0]}, {}, torch.ones(2, 2, 1, dtype=torch.bool), 1.0)
    cl.testing.check_round_trip(runs)
    for axes in ({"a": [1, 2], "b": [1, 2], "seed": [0]}, {"b": [1.0, 2.0], "a": [1, 2], "seed": [0]}):
        other = cl.Runs(axes, {}, runs.finished, 1.0)
        monkeypatch.setattr("cl_func.testing.whole.save", lambda path, value, other=other: other.save(path))
        with pytest.raises(AssertionError, match="law 'round trip' broken"):
            cl.testing.check_round_trip(runs)


@pytest.mark.parametrize(
    ("tree", "match"),
    [({"a": {"b": torch.ones(2, dtype=torch.complex128)}}, r"'a\.b', complex128\[2\]"), ({"\ud800": torch.ones(2)}, "ud800")],
)
def test_what_the_format_cannot_hold_is_named(tmp_path, tree, match):
    with pytest.raises(TypeError, match=f"tree: the leaf .*{match}.* safetensors cannot hold it"):
        cl.save(tmp_path / "f", tree)
    assert os.listdir(tmp_path) == []


def test_views_and_shared_memory_come_apart(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    tree = {"t": base.T, "same": base, "row": base[1], "wide": torch.ones(1).expand(5)}
    cl.save(tmp_path / "f", tree)
    again = cl.load(tmp_path / "f", like=tree)
    assert cl.tree.equal(again, tree)
    assert len({leaf.data_ptr() for leaf in cl.tree.leaves(again)}) == 4


def test_the_safetensors_library_reads_it(tmp_path):
    cl.save(tmp_path / "f", {"a": torch.ones(2)})
    assert torch.equal(safetensors.torch.load_file(tmp_path / "f")["tree.a"], torch.ones(2))


def test_runs_and_histories(tmp_path):
    bench = cl.testing.small_benchmark()
    naive = cl.strategies.naive(MODEL, cl.optim.sgd(0.1))
    runs = cl.sweep(naive, bench, seeds=2, hparams=cl.grid({"opt.lr": [0.1, 0.3]}), progress=False)
    cl.save(tmp_path / "runs", runs)
    again = cl.load(tmp_path / "runs")
    assert again.axes == runs.axes
    assert cl.tree.equal(again.history, runs.history)
    _, history = cl.scan(naive.update, naive.init(cl.key(0)), bench.train, cl.evaluate(MODEL, bench.test))
    cl.save(tmp_path / "history", history)
    assert cl.tree.equal(cl.load(tmp_path / "history", like=history), history)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.replace(lwf=None), "at 'lwf' .* holds LwF\\(\\), `like` has no inner node"),
        (lambda s: s.replace(replay=None), "at 'replay'"),
        (lambda s: cl.Agent(key=s.key, model=s.model, opt=s.opt), "at the root .* holds ERLwFAgent\\(\\), `like` has Agent"),
        (lambda s: s.replace(opt=cl.optim.sgd(0.1).init(s.model.params)), "at 'opt' .* AdamState"),
        (lambda s: s.replace(key=s.key[None]), "at 'key' .* holds int64\\[\\], `like` has int64\\[1\\]"),
        (lambda s: s.replace(key=s.key.float()), "at 'key' .* nothing is cast"),
        (
            lambda s: s.replace(model=s.model.replace(params={k: v for k, v in s.model.params.items() if k != "0.bias"})),
            "also holds 1 leaves of this tree: model.params.0.bias",
        ),
        (
            lambda s: s.replace(model=s.model.replace(params=s.model.params | {"9.bias": torch.ones(1)})),
            "lacks 1 leaves of this tree: model.params.9.bias",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, message):
    state, _ = states()
    cl.save(tmp_path / "f", state)
    with pytest.raises(ValueError, match=message):
        cl.load(tmp_path / "f", like=change(state))


def test_static_fields_are_compared(tmp_path):
    @cl.state
    class Sized:
        x: torch.Tensor
        size: int = cl.static()

    cl.save(tmp_path / "f", Sized(x=torch.ones(1), size=3))
    with pytest.raises(ValueError, match=r"holds Sized\(size=3\), `like` has Sized\(size=4\)"):
        cl.load(tmp_path / "f", like=Sized(x=torch.ones(1), size=4))


def test_only_tensors(tmp_path):
    with pytest.raises(TypeError, match=r"the leaf 'a\.b' is 3\.0"):
        cl.save(tmp_path / "f", {"a": {"b": 3.0}})
    assert os.listdir(tmp_path) == []


def test_other_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        cl.load(tmp_path / "none")
    (tmp_path / "empty").touch()
    with pytest.raises(files.DamagedFile, match="is damaged: 0 bytes"):
        cl.load(tmp_path / "empty")
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "foreign")
    with pytest.raises(ValueError, match="not one that cl_func wrote"):
        cl.load(tmp_path / "foreign")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a regular file"):
        cl.load(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a regular file"):
        cl.load(tmp_path)
    files.write(tmp_path / "newer", {}, {"kind": "tree", "outline": {}, "format": files.FORMAT + 1})
    with pytest.raises(ValueError, match="upgrade it"):
        cl.load(tmp_path / "newer")
    files.write(tmp_path / "checkpoint", {}, {"kind": "checkpoint"})
    with pytest.raises(ValueError, match="holds 'checkpoint', not 'tree'"):
        cl.load(tmp_path / "checkpoint", like={})


# Hostile files


def header_of(data):
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def rebuilt(header, body, text=None):
    text = (json.dumps(header) if text is None else text).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a small file, and a function that loads altered bytes and returns the outcome."""
    folder = tmp_path_factory.mktemp("fuzz")
    tree = {"a": torch.arange(6.0), "b": (torch.tensor(3), torch.ones(2, 2, dtype=torch.bool)), "c": torch.arange(4.0) + 9}
    cl.save(folder / "f", tree)

    def load(data):
        (folder / "g").write_bytes(data)
        return cl.load(folder / "g", like=tree)

    assert cl.tree.equal(load((folder / "f").read_bytes()), tree)
    return (folder / "f").read_bytes(), load


def test_truncation_at_every_byte(whole):
    data, load = whole
    for n in range(len(data)):
        with pytest.raises(ValueError, match="path"):
            load(data[:n])
    with pytest.raises(ValueError, match="path"):
        load(data + b"\0")


def test_ten_thousand_bit_flips(whole):
    """Whichever bits are flipped, our error is raised; in no case is a tree returned, not even the right one."""
    data, load = whole
    draw, start = random.Random(0), time.monotonic()
    for case in range(10_000):
        altered = bytearray(data)
        for _ in range(1 if case % 2 else draw.randint(2, 8)):
            altered[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        if bytes(altered) == data:
            continue
        with pytest.raises(ValueError, match=r"path|like"):
            load(bytes(altered))
    assert time.monotonic() - start < 300


def hostile(data):
    header, body = header_of(data)
    tensors = {k: v for k, v in header.items() if k != "__metadata__"}
    meta = {"__metadata__": header["__metadata__"]}
    one = "tree.a"

    def changed(**changes):
        return rebuilt({**header, one: {**tensors[one], **changes}}, body)

    said = header["__metadata__"]
    ours = json.loads(said["cl_func"])
    twice = json.dumps(header)[:-1] + f', "{one}": {json.dumps(tensors["tree.c"])}}}'
    return {
        "swapped tensors": rebuilt({**header, one: {**tensors[one], "data_offsets": tensors["tree.c"]["data_offsets"]}}, body),
        "swapped names": rebuilt({**meta, **{k.replace("tree.a", "tree.z"): v for k, v in tensors.items()}}, body),
        "huge header": struct.pack("<Q", 2**63) + data[8:],
        "huge shape": changed(shape=[2**62, 2**62]),
        "huge offsets": changed(data_offsets=[0, 2**60]),
        "negative shape": changed(shape=[-6]),
        "negative offsets": changed(data_offsets=[-24, 0]),
        "overlap": changed(data_offsets=[4, 28]),
        "float shape": changed(shape=[6.0]),
        "unknown dtype": changed(dtype="F99"),
        "other dtype of the same size": changed(dtype="I32"),
        "path traversal": rebuilt({**meta, **{("../../" + k): v for k, v in tensors.items()}}, body),
        "big endian length": struct.pack(">Q", struct.unpack("<Q", data[:8])[0]) + data[8:],
        "big endian data": rebuilt(header, body[::-1]),
        "a name twice": rebuilt(None, body, twice),
        "metadata twice": rebuilt(None, body, json.dumps(header)[:-1] + ', "__metadata__": {}}'),
        "no metadata": rebuilt(tensors, body),
        "metadata of another type": rebuilt({**tensors, "__metadata__": 3}, body),
        "deep nesting": rebuilt(None, body, "[" * 100_000),
        "a list": rebuilt(None, body, "[]"),
        "no text": struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc" + body,
        "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        "other kind": rebuilt(
            {**tensors, "__metadata__": {**meta["__metadata__"], "cl_func": json.dumps(ours | {"kind": "x"})}}, body
        ),
        "no checksum": rebuilt({**tensors, "__metadata__": {"cl_func": meta["__metadata__"]["cl_func"]}}, body),
    }


def test_hostile_files(whole):
    data, load = whole
    for name, altered in hostile(data).items():
        tracemalloc.start()
        print(name)  # shown where it fails
        with pytest.raises(ValueError, match="path"):
            load(altered)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20 * len(altered) + 200_000, f"{name}: {peak} bytes for a file of {len(altered)}"


def test_hostile_runs(tmp_path):
    files.write(tmp_path / "a", {"finished": torch.ones(2) > 0}, {"kind": "runs", "axes": {"seed": [0, 1, 2]}, "seconds": 1.0})
    files.write(tmp_path / "b", {}, {"kind": "runs", "axes": {"seed": [0]}, "seconds": 1.0})
    files.write(tmp_path / "c", {"finished": torch.ones(1) > 0}, {"kind": "runs", "axes": 3})
    for name in "abc":
        with pytest.raises(files.DamagedFile, match="shape of its axes"):
            cl.load(tmp_path / name)


def test_no_room_keeps_what_was_there(tmp_path):
    """A limit on the size of files imitates a full disk: the kernel refuses the write halfway."""
    state, _ = states()
    path = tmp_path / "state"
    cl.save(path, state)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"could not write .*state.* the file that was there before is unchanged"):
            cl.save(path, state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["state"]


def test_a_link_and_permissions_stay(tmp_path):
    kept = tmp_path / "kept"
    cl.save(kept, {"a": torch.tensor(1.0)})
    kept.chmod(0o600)
    link = tmp_path / "latest"
    link.symlink_to(kept)
    cl.save(link, {"a": torch.tensor(2.0)})
    assert link.is_symlink()
    assert cl.load(kept)["a"] == 2.0
    assert kept.stat().st_mode & 0o777 == 0o600
    link.unlink()
    link.symlink_to(tmp_path / "new")
    cl.save(link, {"a": torch.tensor(3.0)})
    assert cl.load(tmp_path / "new")["a"] == 3.0
