"""Rows that come one at a time, images of PIL, columns of the Hugging Face hub; npz files; and channels that come last."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

import cl_func as cl
from cl_func import data

Image = pytest.importorskip("PIL.Image")


def picture(value=0, size=(6, 8), mode="RGB"):
    """An image whose pixels tell row, column and channel apart: 100 * channel + 10 * row + column + value."""
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    channels = [100 * c + 10 * rows + columns + value for c in range({"L": 1, "RGB": 3, "RGBA": 4}[mode])]
    values = np.stack(channels, -1).astype(np.uint8)
    return Image.fromarray(values[..., 0] if mode == "L" else values)


# ------------------------------------------------------------------ items


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 4)])
def test_pil_images_become_uint8_with_channels_first(mode, channels):
    out = data.from_torch([(picture(i, mode=mode), i) for i in range(3)])
    assert (out.x.dtype, out.x.shape) == (torch.uint8, (3, channels, 6, 8))
    for i in range(3):
        for c in range(channels):
            assert out.x[i, c, 4, 7] == (100 * c + 10 * 4 + 7 + i) % 256
    assert out.y.tolist() == [0, 1, 2]


def test_images_equal_those_of_torchvision():
    transforms = pytest.importorskip("torchvision.transforms")
    items = [(picture(i), i) for i in range(3)]
    assert torch.equal(data.from_torch(items).x, torch.stack([transforms.PILToTensor()(image) for image, _ in items]))
    scaled = data.from_torch(items, transform=transforms.ToTensor())
    assert scaled.x.dtype == torch.float32


def test_other_modes_are_refused_with_the_conversion():
    palette = [(picture(), 0), (picture().convert("P"), 1)]
    with pytest.raises(
        ValueError, match=r"x of item 1: .* got mode 'P'; convert it, transform=lambda image: image.convert\('RGB'\)"
    ):
        data.from_torch(palette)
    assert data.from_torch(palette, transform=lambda image: image.convert("RGB")).x.shape == (2, 3, 6, 8)


def test_images_of_different_sizes_are_refused_with_the_way():
    mixed = [(picture(), 0), (picture(size=(6, 8)), 1), (picture(size=(7, 8)), 2)]
    with pytest.raises(ValueError, match=r"item 0 is uint8\[3, 6, 8\], of item 2 uint8\[3, 7, 8\]; .*Resize\(\(6, 8\)\)"):
        data.from_torch(mixed)
    assert data.from_torch(mixed, transform=lambda image: image.resize((4, 5))).x.shape == (3, 3, 5, 4)


def test_triples_have_task_labels():
    items = [(torch.zeros(2), 0, 1), (torch.ones(2), 1, np.float64(0.0)), (torch.ones(2), 1, torch.tensor(2))]
    out = data.from_torch(items)
    assert out.task.tolist() == [1, 0, 2]
    assert out.task.dtype == torch.int64
    exp = cl.experience(out)
    assert exp.tasks.tolist() == [1, 0, 2]
    for wrong, match in (
        ((torch.zeros(2), 0, 0.5), r"the task label an integer; that of item 1 is 0\.5"),
        ((torch.zeros(2), 0, True), "that of item 1 is True"),
        ((picture(), 0, picture()), "that of item 1 is a PIL image"),
        ((torch.zeros(2), 0), r"expected items \(x, y, task\); item 1 is"),
    ):
        with pytest.raises(TypeError, match=match):
            data.from_torch([items[0], wrong])
    with pytest.raises(ValueError, match="task labels are at least 0, got -1"):
        data.from_torch([(torch.zeros(2), 0, -1)])


def test_mappings_have_their_keys_named():
    rows = [{"image": picture(i), "label": i, "session": 1 - i, "other": None} for i in range(2)]
    out = data.from_torch(rows, x="image", y="label", task="session")
    assert out.x[1, 2, 3, 4] == (200 + 34 + 1) % 256
    assert (out.y.tolist(), out.task.tolist()) == ([0, 1], [1, 0])
    with pytest.raises(
        TypeError, match=r"item 0 is a mapping; say which keys .* x= and y= of 'image', 'label', 'session', 'other'"
    ):
        data.from_torch(rows)
    with pytest.raises(ValueError, match="item 0 has no 'y', but 'image', 'label'"):
        data.from_torch(rows, x="image", y="y")
    with pytest.raises(ValueError, match="x, y: give both"):
        data.from_torch(rows, x="image")
    with pytest.raises(TypeError, match="items are mappings; item 0 is"):
        data.from_torch([(torch.zeros(2), 0)], x="image", y="label")


# ------------------------------------------------------------------ channels last


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_channels_last_are_refused_or_moved(channels, dtype):
    x = np.arange(2 * 6 * 8 * channels).reshape(2, 6, 8, channels).astype(dtype)
    y = np.array([0, 1])
    with pytest.raises(ValueError, match=r"x: .*\[2, 6, 8, .\] looks like .*layout='NHWC' .* x\.permute\(0, 3, 1, 2\) .*'NCHW'"):
        data.from_arrays(x, y)
    for given in (x, torch.from_numpy(x)):
        out = data.from_arrays(given, y, layout="NHWC")
        assert np.array_equal(out.x.numpy(), x.transpose(0, 3, 1, 2))
        assert out.x.is_contiguous()
        assert np.array_equal(data.from_arrays(given, y, layout="NCHW").x.numpy(), x)
    items = list(zip(x, y, strict=True))
    with pytest.raises(ValueError, match=r"x of item 0: .*\[6, 8, .\] looks like .*permute\(2, 0, 1\)"):
        data.from_torch(items)
    assert np.array_equal(data.from_torch(items, layout="NHWC").x.numpy(), x.transpose(0, 3, 1, 2))


def test_other_shapes_pass():
    y = np.array([0, 1])
    for shape in ((2, 3, 32, 32), (2, 1, 5, 5), (2, 64, 4, 4), (2, 3, 4, 4), (2, 32, 3), (2, 3), (2, 5, 6, 7, 3), (2, 32, 32, 2)):
        assert data.from_arrays(np.zeros(shape, dtype=np.uint8), y).x.shape == shape
    with pytest.raises(ValueError, match=r"layout: 'NHWC' is for images \[N, H, W, C\], x is float32\[2, 3\]"):
        data.from_arrays(np.zeros((2, 3), dtype=np.float32), y, layout="NHWC")


# ------------------------------------------------------------------ npz


def test_npz_of_both_parts(tmp_path):
    path = tmp_path / "mnist.npz"
    x = np.arange(4 * 6 * 8).reshape(4, 6, 8).astype(np.uint8)
    np.savez(path, x_train=x, y_train=np.array([0, 1, 2, 1], dtype=np.uint8), x_test=x[:2], y_test=np.array([1, 0]))
    train = data.from_npz(path, x="x_train", y="y_train")
    test = data.from_npz(str(path), x="x_test", y="y_test", n_classes=3)
    assert (train.n_classes, test.n_classes) == (3, 3)
    assert np.array_equal(train.x.numpy(), x)
    with pytest.raises(ValueError, match=r"y: .*mnist\.npz has no array 'y'; it holds 'x_train', 'y_train', 'x_test', 'y_test'"):
        data.from_npz(path, x="x_train")
    np.savez_compressed(path, x=np.zeros((2, 6, 8, 3), dtype=np.uint8), y=np.array([0, 1]))
    assert data.from_npz(path, layout="NHWC").x.shape == (2, 3, 6, 8)


def test_npz_that_cannot_be_read(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.zeros((200, 2), dtype=np.float32), y=np.arange(200))
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[300] ^= 1  # an array's byte, which its checksum tells
    objects = io.BytesIO()
    np.savez(objects, x=np.array([{}] * 2), y=np.arange(2))
    for content in (whole[:-30], whole[:200], b"", b"text", bytes(flipped), objects.getvalue()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"path: .*a\.npz is (no npz file, or is cut off|damaged, or holds what is no array)"):
            data.from_npz(path)
    one = tmp_path / "one.npy"
    np.save(one, np.zeros(3))
    with pytest.raises(ValueError, match=r"path: .*one\.npy is no npz file, .*from_arrays"):
        data.from_npz(one)
    with pytest.raises(FileNotFoundError, match=r"no file .*elsewhere\.npz"):
        data.from_npz(tmp_path / "elsewhere.npz")


# ------------------------------------------------------------------ the Hugging Face hub


class Label:
    dtype, num_classes = "int64", 4


class Text:
    dtype = "string"


class Table:
    """What is used of a `datasets.Dataset`."""

    def __init__(self, rows, **features):
        self.rows, self.features, self.column_names = rows, features, list(rows[0])

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


def test_columns_of_a_table():
    rows = [{"img": picture(i), "label": i, "text": "a", "list": [1.0, 2.0]} for i in range(3)]
    table = Table(rows, img=None, label=Label(), text=Text(), list=None)
    out = data.from_hf(table, x="img", y="label")
    assert (out.x.shape, out.y.tolist(), out.n_classes) == ((3, 3, 6, 8), [0, 1, 2], 4)
    assert data.from_hf(table, x="img", y="label", n_classes=7).n_classes == 7
    with pytest.raises(ValueError, match="y: there is no column 'y'; there are 'img', 'label', 'text', 'list'"):
        data.from_hf(table, x="img", y="y")
    with pytest.raises(ValueError, match=r"y: the column 'text' holds texts; .*class_encode_column\('text'\)"):
        data.from_hf(table, x="img", y="text")
    with pytest.raises(TypeError, match=r"x: the column 'list' holds lists; .*with_format\('numpy'\)"):
        data.from_hf(table, x="list", y="label")
    splits = Table(rows)
    splits.column_names = {"train": ["img"], "test": ["img"]}
    with pytest.raises(TypeError, match=r"dataset: it holds the splits 'train', 'test'; give one of them"):
        data.from_hf(splits, x="img", y="label")


def test_a_dataset_of_the_hub():
    hub = pytest.importorskip("datasets")
    features = hub.Features(
        {"img": hub.Image(), "label": hub.ClassLabel(names=["a", "b", "c", "d"]), "v": hub.List(hub.Value("float32"))}
    )
    rows = {"img": [picture(i) for i in range(3)], "label": [0, 1, 2], "v": [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]}
    table = hub.Dataset.from_dict(rows, features=features)
    out = data.from_hf(table, x="img", y="label")
    assert torch.equal(out.x, data.from_torch([(image, 0) for image in rows["img"]]).x)
    assert out.n_classes == 4
    assert data.from_hf(table.with_format("numpy"), x="v", y="label").x.tolist() == rows["v"]
    assert torch.equal(data.from_hf(table.with_format("torch"), x="img", y="label").x, out.x)
    with pytest.raises(ValueError, match="layout='NHWC'"):
        data.from_hf(table.with_format("numpy"), x="img", y="label")
    assert torch.equal(data.from_hf(table.with_format("numpy"), x="img", y="label", layout="NHWC").x, out.x)
    with pytest.raises(TypeError, match="with_format"):
        data.from_hf(table, x="v", y="label")
    with pytest.raises(TypeError, match="splits 'train'"):
        data.from_hf(hub.DatasetDict({"train": table}), x="img", y="label")
    with pytest.raises(TypeError, match=r"dataset: expected a datasets\.Dataset"):
        data.from_hf(table.to_iterable_dataset(), x="img", y="label")
