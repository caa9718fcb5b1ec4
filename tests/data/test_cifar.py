"""CIFAR-10 and CIFAR-100 in the four layouts in which they are published, and pickles that are none or worse."""

from __future__ import annotations

import pickle
import pickletools
import struct

import made_files
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cl_func import data
from cl_func.data import plain_pickle

VERSIONS = ("cifar-10-batches-py", "cifar-10-batches-bin", "cifar-100-python", "cifar-100-binary")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("above", [False, True])
def test_the_published_layouts(tmp_path, version, above):
    folder = made_files.cifar(tmp_path, version)
    n_classes = 100 if "100" in version else 10
    train, test = data.cifar(tmp_path if above else str(folder))
    for part, seeds in ((train, [0] if n_classes == 100 else range(1, 6)), (test, [9])):
        rows = [made_files.cifar_rows(seed, 4, n_classes) for seed in seeds]
        x = np.concatenate([row[0] for row in rows])
        assert part.x.dtype == torch.uint8
        assert np.array_equal(part.x.numpy(), x.reshape(-1, 3, 32, 32))
        assert part.x[2, 1, 3, 5] == x[2, 1024 + 3 * 32 + 5]  # green, row 3, column 5
        assert part.y.tolist() == np.concatenate([row[1] for row in rows]).tolist()
        assert part.n_classes == n_classes
    if n_classes == 100:
        coarse, _ = data.cifar(folder, labels="coarse")
        assert coarse.n_classes == 20
        assert coarse.y.tolist() == made_files.cifar_rows(0, 4, 100)[2].tolist()
    else:
        with pytest.raises(ValueError, match=r"labels: .* is CIFAR-10, which has no coarse labels"):
            data.cifar(folder, labels="coarse")


def test_what_python_2_wrote_reads_as_python_3_reads_it(tmp_path):
    """The bytes made by hand are a pickle of Python 2, as pickle itself understands it."""
    x, y, _ = made_files.cifar_rows(0, 3, 10)
    written = made_files.python2({"data": x, "labels": y.tolist()})
    read = pickle.loads(written, encoding="bytes")
    assert set(read) == {b"data", b"labels"}
    assert np.array_equal(read[b"data"], x)
    assert {op.name for op, _, _ in pickletools.genops(written)} >= {"BINSTRING", "GLOBAL", "REDUCE", "BUILD"}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("order", "CF")
def test_pickles_of_every_protocol(tmp_path, protocol, order):
    x, y, _ = made_files.cifar_rows(0, 3, 10)
    path = tmp_path / "batch"
    for array in (x, np.asarray(y, dtype=">i4"), np.asarray(y, dtype=np.int64), x.reshape(3, 3, 1024)):
        path.write_bytes(pickle.dumps({"data": np.asarray(array, order=order), "n": [np.int64(3), np.int64(-1)]}, protocol))
        content = plain_pickle.read(path)
        found = plain_pickle.array(path, plain_pickle.entry(path, content, "data"))
        assert np.array_equal(found, array)
        assert plain_pickle.array(path, plain_pickle.entry(path, content, "n")).tolist() == [3, -1]


def test_files_that_do_not_fit(tmp_path):
    folder = made_files.cifar(tmp_path, "cifar-10-batches-bin")
    (folder / "data_batch_3.bin").unlink()
    (folder / "test_batch.bin").rename(folder / "kept")
    with pytest.raises(FileNotFoundError, match=r"has no data_batch_3\.bin, no test_batch\.bin"):
        data.cifar(folder)
    (folder / "kept").rename(folder / "test_batch.bin")
    for content in (b"", bytes(3072), bytes(2 * 3073 - 1)):
        (folder / "data_batch_3.bin").write_bytes(content)
        with pytest.raises(ValueError, match=rf"data_batch_3\.bin: holds {len(content)} bytes, which are no rows of 1 \+ 3072"):
            data.cifar(folder)
    (folder / "data_batch_3.bin").write_bytes(bytes([10]) + bytes(3072))
    with pytest.raises(ValueError, match=r"data_batch_3\.bin: labels must lie in 0\.\.9, but it holds 10\.\.10"):
        data.cifar(folder)
    made_files.cifar(tmp_path, "cifar-100-python")
    with pytest.raises(ValueError, match="holds cifar-10-batches-bin and cifar-100-python; give one of them"):
        data.cifar(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has none of data_batch_1, .*, nor a folder cifar-10-batches-py, .* with it"):
        data.cifar(made_files.photos(tmp_path))


X, Y, _ = made_files.cifar_rows(0, 4, 10)
WRONG = {
    "another type": ([1, 2], "holds no 'data'"),
    "no data": ({"labels": [1]}, "holds no 'data'"),
    "no labels": ({"data": X}, "holds no 'labels'"),
    "floats": ({"data": X.astype(float), "labels": Y.tolist()}, "a damaged array: it is not of integers"),
    "objects": ({"data": X.astype(object), "labels": Y.tolist()}, "a damaged array: "),
    "a text": ({"data": "abc", "labels": Y.tolist()}, "expected an array or a list of integers"),
    "another width": ({"data": X[:, :3000], "labels": Y.tolist()}, r"expected data uint8 \[n, 3072\], got uint8 \[4, 3000\]"),
    "another dtype": (
        {"data": X.astype(np.int32), "labels": Y.tolist()},
        r"expected data uint8 \[n, 3072\], got int32 \[4, 3072\]",
    ),
    "no rows": ({"data": X[:0], "labels": []}, r"expected data uint8 \[n, 3072\], got uint8 \[0, 3072\]"),
    "fewer labels": ({"data": X, "labels": Y.tolist()[:3]}, r"holds 4 images, but labels \[3\]"),
    "high labels": ({"data": X, "labels": [0, 1, 2, 10]}, r"labels must lie in 0\.\.9, but it holds 0\.\.10"),
    "negative labels": ({"data": X, "labels": [0, 1, 2, -1]}, r"labels must lie in 0\.\.9, but it holds -1\.\.2"),
    "labels that are none": ({"data": X, "labels": [0, 1, 2, None]}, "expected an array or a list of integers"),
}


@pytest.mark.parametrize("name", WRONG)
def test_pickles_with_other_content(tmp_path, name):
    folder = made_files.cifar(tmp_path, "cifar-10-batches-py")
    content, match = WRONG[name]
    (folder / "data_batch_2").write_bytes(pickle.dumps(content, 2))
    with pytest.raises(ValueError, match=rf"data_batch_2: {match}"):
        data.cifar(folder)


# ------------------------------------------------------------------ hostile pickles


class Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def array_of(shape, values, dtype="u1"):
    made = made_files.python2(X[:1])
    assert struct.pack("<i", 3072) in made
    state = b"(J" + struct.pack("<i", shape[0]) + b"J" + struct.pack("<i", shape[1]) + b"t"
    made = made.replace(b"(J\x01\x00\x00\x00J\x00\x0c\x00\x00t", state)
    return made.replace(b"\x00\x0c\x00\x00" + X[:1].tobytes(), struct.pack("<i", len(values)) + values)


def test_nothing_in_a_pickle_runs(tmp_path):
    mark, path = tmp_path / "ran", tmp_path / "batch"
    for content in (
        pickle.dumps(Runs(mark)),
        b"cposix\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n.",
        b"cnumpy.core.multiarray\nfromfile\n.",
        b"c_codecs\ndecode\n(S'a'\nS'rot13'\ntR.",
        b"ios\nsystem\n.",
        b"\x82\x01.",  # an extension code
        b"Pabc\n.",  # a persistent id
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="batch: cannot be read as a pickle of plain data"):
            plain_pickle.read(path)
    assert not mark.exists()


def refused(path, name=None):
    """What is said to a pickle that is refused; None if it is read, and its array if a name is given."""
    try:
        content = plain_pickle.read(path)
        found = None if name is None else plain_pickle.array(path, plain_pickle.entry(path, content, name))
    except ValueError as error:
        return str(error)
    assert name is None or isinstance(found, np.ndarray)
    return None


def test_a_pickle_allocates_no_more_than_it_holds(tmp_path):
    path = tmp_path / "batch"
    for content in (
        b"K\x01r\xff\xff\xff\xff.",  # object number 2^32 - 1: pickle's other reader makes a table of 69 GB
        b"\x96" + struct.pack("<Q", 10**11) + b".",  # a bytearray of 100 GB
        b"\x8e" + struct.pack("<Q", 10**11) + b".",  # bytes of 100 GB
        b"\x95" + struct.pack("<Q", 10**11) + b".",  # a frame of 100 GB
        b"T" + struct.pack("<i", 2**31 - 1) + b".",
        b"L" + b"9" * 10**6 + b"L\n.",
        b"(" * 10**5 + b"t" * 10**5 + b".",
    ):
        path.write_bytes(content)
        if (fault := refused(path)) is not None:
            assert "batch: cannot be read as a pickle of plain data" in fault
    for shape, values in (((10**6, 10**6), b"ab"), ((-1, -2), b"ab"), ((1, 3), b"ab"), ((0, 10), b"ab")):
        path.write_bytes(array_of(shape, values))
        with pytest.raises(ValueError, match=r"batch: a damaged array: (it holds 2 bytes|its values are not bytes)"):
            plain_pickle.array(path, plain_pickle.read(path))
    path.write_bytes(array_of((1, 2), b"ab"))
    assert plain_pickle.array(path, plain_pickle.read(path)).tolist() == [[97, 98]]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=st.integers(0, 10**6), value=st.binary(min_size=1, max_size=3), cut=st.integers(0, 40))
def test_damaged_pickles_give_a_value_error_or_an_array(tmp_path, place, value, cut):
    path = tmp_path / "batch"
    content = bytearray(made_files.python2({"data": X[:1, :9], "labels": [1]}))
    place %= len(content)
    content[place : place + len(value)] = value
    path.write_bytes(bytes(content[: len(content) - cut]))
    assert (fault := refused(path, "data")) is None or "batch: " in fault
