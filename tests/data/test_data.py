"""Datasets: what is shipped, what is read from files, what is converted, and every way in which that fails."""

import gzip
import io
import re
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Subset, TensorDataset

import cl_func as cl
from cl_func import data, tree

# ------------------------------------------------------------------ digits


def test_digits_are_the_real_ones_split_once():
    train, test = data.digits()
    assert len(train) + len(test) == 1797
    for part in (train, test):
        assert part.x.dtype == torch.float32
        assert part.x.shape[1:] == (64,)
        assert part.x.min() == 0
        assert part.x.max() == 1
        assert torch.equal(part.x * 16, (part.x * 16).round())
        assert part.n_classes == 10
    assert all(tree.equal(a, b) for a, b in zip((train, test), data.digits(), strict=True))


def test_digits_are_stratified():
    train, test = data.digits()
    of_test, of_train = (torch.bincount(part.y, minlength=10) for part in (test, train))
    assert ((of_test - 0.2 * (of_test + of_train)).abs() <= 0.5).all()


def test_digits_equal_scikit_learns():
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    rows = {(tuple(x), y) for x, y in zip(load_digits().data.tolist(), load_digits().target.tolist(), strict=True)}
    ours = [(tuple(x), y) for part in data.digits() for x, y in zip((part.x * 16).tolist(), part.y.tolist(), strict=True)]
    assert set(ours) == rows


def test_a_linear_classifier_learns_digits():
    train, test = data.digits()
    mean = torch.stack([train.x[train.y == c].mean(0) for c in range(10)])
    accuracy = (torch.cdist(test.x, mean).argmin(1) == test.y).float().mean()
    assert accuracy > 0.85


# ------------------------------------------------------------------ idx files

SHAPE = (5, 3, 4)


def idx_bytes(values: np.ndarray, magic: int | None = None, sizes: tuple[int, ...] | None = None) -> bytes:
    sizes = values.shape if sizes is None else sizes
    magic = 0x800 + values.ndim if magic is None else magic
    return struct.pack(f">{1 + len(sizes)}I", magic, *sizes) + values.astype(np.uint8).tobytes()


def images(n: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 3, 4)).astype(np.uint8)


def labels(n: int = 5, top: int = 3) -> np.ndarray:
    return (np.arange(n) % top).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    files = {
        "train-images-idx3-ubyte": images(),
        "train-labels-idx1-ubyte": labels(),
        "t10k-images-idx3-ubyte": images(4, seed=1),
        "t10k-labels-idx1-ubyte": labels(4, top=4),
    }
    for name, values in files.items():
        (tmp_path / name).write_bytes(idx_bytes(values))
    return tmp_path


def compress(folder, *names):
    for path in list(folder.iterdir()) if not names else [folder / name for name in names]:
        (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_folder_reads_plain_and_gz(folder, zipped):
    if zipped:
        compress(folder)
    train, test = data.idx_folder(str(folder))
    assert train.x.dtype == torch.uint8
    assert train.x.shape == (5, 1, 3, 4)
    assert np.array_equal(train.x[:, 0].numpy(), images())
    assert np.array_equal(test.x[:, 0].numpy(), images(4, seed=1))
    assert train.y.tolist() == [0, 1, 2, 0, 1]
    assert test.y.tolist() == [0, 1, 2, 3]
    assert train.n_classes == test.n_classes == 4  # common, though train lacks class 3
    assert data.idx_folder(folder, n_classes=7)[0].n_classes == 7


def test_idx_folder_mixes_plain_and_gz_and_prefers_plain(folder):
    compress(folder, "train-labels-idx1-ubyte")
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(b"not looked at")
    assert len(data.idx_folder(folder)[0]) == 5


def test_idx_folder_names_what_is_missing(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*elsewhere"):
        data.idx_folder(tmp_path / "elsewhere")
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither t10k-labels-idx1-ubyte nor t10k-labels-idx1-ubyte\.gz"):
        data.idx_folder(folder)


DAMAGE = {
    "magic": (idx_bytes(images(), magic=0xD03), r"not an idx file of 3 dimensions: it starts with 0x00000d03, not 0x00000803"),
    "labels as images": (idx_bytes(labels()), r"starts with 0x00000801, not 0x00000803"),
    "empty file": (b"", r"it starts with 0x, not"),
    "in the header": (idx_bytes(images())[:10], r"truncated: it ends within its header of 16 bytes"),
    "short": (idx_bytes(images())[:-1], r"truncated: its header says 5 x 3 x 4 = 60 bytes of data, but it holds 59"),
    "long": (idx_bytes(images()) + b"\0", r"too long: its header says 5 x 3 x 4 = 60 bytes"),
    "no rows": (idx_bytes(images(0)), r"holds no data: its header says 0 x 3 x 4"),
    # 2^96 bytes: an allocation on the header's word would fail with MemoryError or take the machine down.
    "huge claim": (idx_bytes(images(), sizes=(2**32 - 1,) * 3), r"truncated: .* but it holds 60"),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_idx_files_are_refused_by_name(folder, damage, zipped):
    content, message = DAMAGE[damage]
    name = "train-images-idx3-ubyte"
    (folder / name).write_bytes(content)
    if zipped:
        compress(folder, name)
    with pytest.raises(ValueError, match=rf"{name}.*{message}"):
        data.idx_folder(folder)


def test_damaged_gz_files_are_refused_by_name(folder):
    whole = gzip.compress(idx_bytes(images()))
    (folder / "train-images-idx3-ubyte").unlink()
    path = folder / "train-images-idx3-ubyte.gz"
    flipped = bytearray(whole)
    flipped[-6] ^= 1  # in the checksum
    for content in (whole[:-9], whole[:20], b"plain text", whole + b"rubbish", bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz: (a damaged \.gz file|not an idx file)"):
            data.idx_folder(folder)


def test_idx_parts_must_fit_together(folder):
    path = folder / "train-labels-idx1-ubyte"
    path.write_bytes(idx_bytes(labels(6)))
    with pytest.raises(ValueError, match="train-labels-idx1-ubyte: holds 6 labels, but train-images-idx3-ubyte holds 5 images"):
        data.idx_folder(folder)
    path.write_bytes(idx_bytes(labels()))
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte: labels must lie in 0\.\.n_classes-1 = 0\.\.2, but it holds 3"):
        data.idx_folder(folder, n_classes=3)
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((4, 4, 3))))
    with pytest.raises(ValueError, match="t10k-images-idx3-ubyte: holds images of 4 x 3, but train-images-idx3-ubyte of 3 x 4"):
        data.idx_folder(folder)


@settings(max_examples=60, deadline=None)
@given(
    content=st.binary(max_size=64) | st.binary(max_size=64).map(lambda values: struct.pack(">I", len(values)) + values),
    keep_magic=st.booleans(),
)
def test_any_bytes_give_a_tensor_or_a_value_error(tmp_path_factory, content, keep_magic):
    path = tmp_path_factory.mktemp("idx") / "any-idx1-ubyte"
    path.write_bytes(struct.pack(">I", 0x801) + content if keep_magic else content)
    # The header that fits what is there: the magic number and, as the one size, the number of bytes that follow.
    if keep_magic and len(content) > 4 and content[:4] == struct.pack(">I", len(content) - 4):
        assert data.idx.read_idx(path, 1).numpy().tobytes() == content[4:]
    else:
        with pytest.raises(ValueError, match="any-idx1-ubyte: "):
            data.idx.read_idx(path, 1)


def test_a_large_file_is_read_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(data.idx, "_CHUNK", 7)
    path = tmp_path / "x-idx3-ubyte"
    path.write_bytes(idx_bytes(images(20)))
    assert np.array_equal(data.idx.read_idx(path, 3).numpy(), images(20))


# ------------------------------------------------------------------ arrays


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, ">f4"])
def test_from_arrays_keeps_the_dtype_of_x(dtype):
    x = np.arange(6).reshape(3, 2).astype(dtype)
    out = data.from_arrays(x, np.array([0, 2, 1]))
    assert out.x.numpy().dtype == np.dtype(dtype).newbyteorder("=")
    assert np.array_equal(out.x.numpy(), x)
    assert out.n_classes == 3


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64])
def test_from_arrays_makes_integer_labels_int64(dtype):
    y = np.array([0, 2, 1], dtype=dtype)
    assert data.from_arrays(torch.zeros(3, 2), y, n_classes=5).y.tolist() == [0, 2, 1]
    assert data.from_arrays(torch.zeros(3, 2), torch.from_numpy(y), n_classes=5).y.dtype == torch.int64


def test_from_arrays_copies_arrays_and_shares_tensors():
    x, y = np.zeros((3, 2)), np.zeros(3, dtype=np.int64)
    out = data.from_arrays(x, y)
    x[:], y[:] = 1, 1
    assert not out.x.any()
    assert not out.y.any()
    given_x = torch.zeros(3, 2, dtype=torch.bfloat16)
    assert data.from_arrays(given_x, y).x is given_x


def test_from_arrays_takes_views_and_read_only_arrays():
    x = np.arange(6.0).reshape(3, 2)[::-1]
    x.flags.writeable = False
    assert data.from_arrays(x, np.array([0, 1, 0])).x[0].tolist() == [4.0, 5.0]


def test_masked_elements_are_no_values():
    x, y = np.ones((3, 2), dtype=np.float32), np.arange(3)
    whole = data.from_arrays(np.ma.masked_array(x), np.ma.masked_array(y, mask=[False] * 3))
    assert torch.equal(whole.y, torch.arange(3))
    assert torch.equal(whole.x, torch.ones(3, 2))
    holed, unlabelled = np.ma.masked_greater(x * [[1], [2], [3]], 2), np.ma.masked_equal(y, 2)
    with pytest.raises(ValueError, match=r"x: 2 of 6 elements of the masked array are masked; .* x\.filled"):
        data.from_arrays(holed.astype(np.float32), y)
    with pytest.raises(ValueError, match=r"y: 1 of 3 elements of the masked array are masked; .* y\.filled"):
        data.from_arrays(x, unlabelled)
    with pytest.raises(ValueError, match=r"dataset: x of item 2: 2 of 2 elements .* are masked"):
        data.from_torch([(holed[i].astype(np.float32), i) for i in range(3)])
    with pytest.raises(ValueError, match=r"dataset: y of item 2: 1 of 1 elements .* are masked"):
        data.from_torch([(x[i], unlabelled[i]) for i in range(3)])


def test_a_dataset_made_of_tensors_has_no_graph():
    x, y = torch.ones(3, 2, requires_grad=True), torch.ones(3, requires_grad=True)
    for made in (data.from_arrays(x * 2, y), data.from_torch([(x[i], y[i]) for i in range(3)])):
        assert not made.x.requires_grad
        assert not made.y.requires_grad
    assert cl.Dataset(x, y).x is x


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int16, np.uint16, np.int8])
def test_from_arrays_names_both_conversions_of_integers(dtype):
    """What the message says to write works."""
    x, y = np.arange(6).reshape(3, 2).astype(dtype), np.array([0, 1, 0])
    code = (
        r"convert them with (x\.astype\(numpy\.float32\)); if they are tokens, make (cl\.Dataset\(.*, torch\.from_numpy\(y\)\))\.$"
    )
    with pytest.raises(TypeError, match=code) as error:
        data.from_arrays(x, y)
    floats, tokens = re.search(code, str(error.value)).groups()
    names = {"x": x, "y": y, "numpy": np, "torch": torch, "cl": cl}
    assert eval(floats, names).dtype == np.float32
    made = eval(tokens, names)
    assert made.x.tolist() == x.tolist()
    assert made.x.dtype == torch.int64
    with pytest.raises(
        TypeError, match=r"convert them with x\.float\(\); if they are tokens, make cl\.Dataset\(x\.long\(\), y\)\.$"
    ):
        data.from_arrays(torch.from_numpy(x), y)


def test_from_arrays_refuses_what_it_would_have_to_change():
    x, y = np.zeros((3, 2), dtype=np.float32), np.array([0, 1, 0])
    with pytest.raises(TypeError, match=r"x: expected floating or uint8 inputs, got int64\[3, 2\].*x\.astype\(numpy\.float32\)"):
        data.from_arrays(np.zeros((3, 2), dtype=np.int64), y)
    with pytest.raises(TypeError, match=r"got bool\[3, 2\]; convert them with x\.float\(\)\.$"):
        data.from_arrays(torch.zeros(3, 2, dtype=torch.bool), y)
    with pytest.raises(TypeError, match=r"y: expected .* got bool\[3\]; .* y\.astype\(numpy\.int64\); .* y\[:, None\]"):
        data.from_arrays(x, np.zeros(3, dtype=bool))
    with pytest.raises(TypeError, match=r"y: expected .* got bool\[3\]; .* y\.long\(\); .* y\[:, None\]"):
        data.from_arrays(x, torch.zeros(3, dtype=torch.bool))
    with pytest.raises(TypeError, match=r"y: expected .* got complex64\[3\]"):
        data.from_arrays(x, torch.zeros(3, dtype=torch.complex64))
    with pytest.raises(ValueError, match=r"n_classes: y float64\[3\], targets for regression, have no classes, got 2"):
        data.from_arrays(x, np.zeros(3), n_classes=2)
    with pytest.raises(
        TypeError, match=r"y: .* got an array of <U1; number the names, names, y = numpy.unique\(values, return_inv"
    ):
        data.from_arrays(np.zeros((2, 2)), np.array(["a", "b"]))
    with pytest.raises(TypeError, match=r"y: .* an array of object; convert numbers with .astype\(float\), or number the names"):
        data.from_arrays(np.zeros((2, 2)), np.array(["a", 1], dtype=object))
    with pytest.raises(TypeError, match=r"x: .* got an array of complex128; convert it with .astype"):
        data.from_arrays(np.zeros((2, 2), complex), np.zeros(2, int))
    with pytest.raises(TypeError, match="x: expected a numeric numpy array or a tensor, got list"):
        data.from_arrays([[0.0]], y)
    for strange in (np.array(["a"]), np.zeros((3, 2), dtype=np.longdouble), np.zeros((3, 2), dtype=complex)):
        with pytest.raises(TypeError, match=f"got an array of {strange.dtype}"):
            data.from_arrays(strange, y)
    with pytest.raises(ValueError, match="lengths differ: 3 rows of x, 2 of y"):
        data.from_arrays(x, y[:2])
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.n_classes-1 = 0\.\.0.*; give n_classes=2, or other labels\.$"):
        data.from_arrays(x, y, n_classes=1)
    with pytest.raises(ValueError, match=r"= 0\.\.1, got labels from 1 to 2; subtract 1 \(y - 1\)\.$"):
        data.from_arrays(x, y + 1, n_classes=2)
    with pytest.raises(ValueError, match="n_classes: expected an integer of at least 1, got 0"):
        data.from_arrays(x, y, n_classes=0)
    with pytest.raises(TypeError, match=r"n_classes: expected an integer of at least 1, got 2\.0"):
        data.from_arrays(x, y, n_classes=2.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_targets_keep_their_dtype(dtype):
    """Those for regression and several labels a row, from arrays and from items; a Python float is a float32."""
    x, values = np.zeros((3, 2), dtype=np.float32), np.arange(6, dtype=dtype).reshape(3, 2)
    for y, target in ((values, "regression"), (values[:, 0], "regression"), (values > 2, "multilabel")):
        for out in (data.from_arrays(x, y), data.from_torch(Pairs(list(zip(x, y, strict=True))))):
            assert out.target == target
            assert torch.equal(out.y, torch.from_numpy(np.ascontiguousarray(y)))
    assert data.from_torch(Pairs([(x[0], 0.5), (x[1], 1.5)])).y.dtype == torch.float32


# ------------------------------------------------------------------ torch Datasets


class Pairs(torch.utils.data.Dataset):
    def __init__(self, items):
        self.items, self.reads = items, 0

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        self.reads += 1
        return self.items[i]


ITEM = torch.arange(6.0).reshape(2, 3)


def test_from_torch_stacks_in_order_and_reads_once():
    pairs = Pairs([(ITEM, 1), (ITEM.numpy() + 1, torch.tensor(2)), [ITEM + 2, np.int32(0)], (ITEM + 3, np.array(2))])
    out = data.from_torch(pairs, n_classes=4)
    assert torch.equal(out.x, torch.stack([ITEM, ITEM + 1, ITEM + 2, ITEM + 3]))
    assert out.y.tolist() == [1, 2, 0, 2]
    assert out.n_classes == 4
    assert pairs.reads == 4


def test_from_torch_takes_subsets_and_tensor_datasets():
    x, y = torch.randint(0, 256, (6, 3), dtype=torch.uint8), torch.tensor([0, 1, 2, 0, 1, 2], dtype=torch.int32)
    tensors = TensorDataset(x, y)
    assert tree.equal(data.from_torch(tensors), data.from_arrays(x, y))
    assert tree.equal(data.from_torch(Subset(tensors, [4, 1])), data.from_arrays(x[[4, 1]], y[[4, 1]]))


def test_from_torch_refuses_by_index():
    good = (ITEM, 0)
    with pytest.raises(ValueError, match=r"shape: x of item 0 is float32\[2, 3\], of item 2 float32\[3\]"):
        data.from_torch(Pairs([good, good, (ITEM[0], 0)]))
    with pytest.raises(TypeError, match=r"dtype: x of item 0 is float32\[2, 3\], of item 1 float64\[2, 3\]"):
        data.from_torch(Pairs([good, (ITEM.double(), 0)]))
    for label in (1.0, torch.tensor(1.0)):
        with pytest.raises(TypeError, match=r"dtype: y of item 0 is int64\[\], of item 1 float32\[\]"):
            data.from_torch(Pairs([good, (ITEM, label)]))
    with pytest.raises(ValueError, match=r"shape: y of item 0 is float32\[2\], of item 1 float32\[3\]"):
        data.from_torch(Pairs([(ITEM, torch.zeros(2)), (ITEM, torch.zeros(3))]))
    for label in (True, torch.tensor(True), np.bool_(True), torch.tensor([1]), torch.zeros(1, 1), np.str_("1"), "1", None):
        with pytest.raises(TypeError, match="y of item 1: expected one integer"):
            data.from_torch(Pairs([good, (ITEM, label)]))
    with pytest.raises(TypeError, match=r"x of item 1: expected floating or uint8 inputs, got int64"):
        data.from_torch(Pairs([good, (ITEM.long(), 0)]))
    with pytest.raises(TypeError, match=r"x of item 0: expected a numeric numpy array or a tensor, got BytesIO"):
        data.from_torch(Pairs([(io.BytesIO(), 0)]))
    with pytest.raises(TypeError, match=r"expected items \(x, y\); item 1 is"):
        data.from_torch(Pairs([good, (ITEM, 0, 0)]))
    with pytest.raises(ValueError, match="dataset: it is empty"):
        data.from_torch(Pairs([]))
    with pytest.raises(TypeError, match=r"expected a map-style torch Dataset, .* got generator"):
        data.from_torch(i for i in range(3))
