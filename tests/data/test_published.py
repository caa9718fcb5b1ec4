"""Tiny ImageNet, CUB-200-2011, CORe50, EMNIST and KMNIST, of files in their published layouts."""

from __future__ import annotations

import made_files
import numpy as np
import PIL.Image
import pytest
import torch

import cl_func as cl
from cl_func import data


def decoded(*paths, size=None):
    images = [PIL.Image.open(path).convert("RGB") for path in paths]
    if size is not None:
        images = [image.resize(size[::-1], PIL.Image.Resampling.BILINEAR) for image in images]
    return torch.from_numpy(np.stack([np.array(image).transpose(2, 0, 1) for image in images]))


# ------------------------------------------------------------------ Tiny ImageNet


@pytest.mark.parametrize("above", [False, True])
def test_tiny_imagenet(tmp_path, above):
    folder = made_files.tiny_imagenet(tmp_path)
    for _ in range(2):
        train, test = data.tiny_imagenet(tmp_path if above else str(folder))
        wnids = ["n03", "n01", "n02"]  # the order of wnids.txt, not that of the names
        assert torch.equal(train.x, decoded(*(folder / f"train/{w}/images/{w}_{i}.JPEG" for w in wnids for i in range(3))))
        assert train.y.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert torch.equal(test.x, decoded(*(folder / f"val/images/val_{i}.JPEG" for i in range(6))))
        assert test.y.tolist() == [0, 1, 2, 0, 1, 2]
        assert (train.x.shape[1:], train.n_classes, test.n_classes) == ((3, 64, 64), 3, 3)
    assert bool((test.x[4, 0] == test.x[4, 2]).all())  # the grey one
    assert data.tiny_imagenet(folder, size=32)[0].x.shape == (9, 3, 32, 32)


def test_tiny_imagenet_that_is_not_whole(tmp_path):
    folder = made_files.tiny_imagenet(tmp_path)
    (folder / "val/images/val_3.JPEG").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no file .*val_3\.JPEG\."):
        data.tiny_imagenet(folder)
    annotations = folder / "val/val_annotations.txt"
    rows = annotations.read_text()
    for changed, match in (
        (rows.replace("n01", "n09"), "val_annotations.txt: 'n09' is no line of wnids.txt"),
        (rows.replace("\t62\n", "\n"), r"val_annotations\.txt: line 1: expected 6 words, got 'val_0\.JPEG"),
        (rows + rows, r"val_annotations\.txt: line 7: val_0\.JPEG stands there twice"),
        ("", r"val_annotations\.txt: is empty"),
    ):
        annotations.write_text(changed)
        with pytest.raises(ValueError, match=match):
            data.tiny_imagenet(folder)
    annotations.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"val_annotations\.txt: is no text"):
        data.tiny_imagenet(folder)
    (folder / "train/n02").rename(folder / "train/n04")
    with pytest.raises(FileNotFoundError, match=r"there is no image in .*train/n02/images"):
        data.tiny_imagenet(folder)
    with pytest.raises(FileNotFoundError, match=r"neither .* nor .*tiny-imagenet-200 holds wnids\.txt"):
        data.tiny_imagenet(folder / "train")


# ------------------------------------------------------------------ CUB


def test_cub(tmp_path):
    folder = made_files.cub(tmp_path)
    for place in (folder, tmp_path):
        train, test = data.cub(place, size=(8, 10))
        files = sorted(folder.glob("images/*/*.jpg"))
        assert torch.equal(train.x, decoded(*(files[i] for i in (0, 2, 3, 5)), size=(8, 10)))
        assert torch.equal(test.x, decoded(files[1], files[4], size=(8, 10)))
        assert (train.y.tolist(), test.y.tolist(), train.n_classes) == ([0, 0, 1, 1], [0, 1], 2)
    assert data.cub(folder)[0].x.shape == (4, 3, 224, 224)
    with pytest.raises(ValueError, match="size: images differ in size"):
        data.cub(folder, size=None)


def test_cub_whose_lists_do_not_fit(tmp_path):
    folder = made_files.cub(tmp_path)
    for name, old, new, match in (
        ("image_class_labels.txt", "4 2", "4 3", r"image_class_labels\.txt: image 4: expected a number in 1\.\.2, got '3'"),
        ("image_class_labels.txt", "4 2", "4 0", "got '0'"),
        ("train_test_split.txt", "4 1", "4 -1", r"train_test_split\.txt: image 4: expected a number in 0\.\.1, got '-1'"),
        ("train_test_split.txt", "6 1\n", "", "its images are not those of images.txt: 6 is in one of them only"),
        ("train_test_split.txt", "6 1\n", "6 1\n6 0\n", "line 7: 6 stands there twice"),
        ("images.txt", "4 ", "4 4 ", r"images\.txt: line 4: expected 2 words"),
        ("images.txt", "Bird_1_0002", "Bird_1_0009", r"there is no file .*Bird_1_0009\.jpg"),
    ):
        whole = (folder / name).read_text()
        assert old in whole
        (folder / name).write_text(whole.replace(old, new))
        with pytest.raises((ValueError, FileNotFoundError), match=match):
            data.cub(folder)
        (folder / name).write_text(whole)
    (folder / "classes.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"classes\.txt"):
        data.cub(folder)


# ------------------------------------------------------------------ CORe50


@pytest.mark.parametrize("images", ["npz", "core50_128x128", "core50_32x32"])
@pytest.mark.parametrize("lists", ["pkl", "txt"])
def test_core50(tmp_path, images, lists):
    folder = made_files.core50(tmp_path, images, lists)
    train, test = data.core50(folder, "nc")
    rows = [row for batch in made_files.CORE50_BATCHES[:2] for row in batch]
    value = [
        np.stack([made_files.image(10 * i, (16, 16)).transpose(2, 0, 1) for i in part])
        for part in (rows, made_files.CORE50_BATCHES[2])
    ]
    assert np.array_equal(train.x.numpy(), value[0])
    assert np.array_equal(test.x.numpy(), value[1])
    assert train.y.tolist() == [label for batch in made_files.CORE50_LABELS[:2] for label in batch]
    assert test.y.tolist() == made_files.CORE50_LABELS[2]
    assert train.task.tolist() == [0] * 4 + [1] * 8
    assert test.task is None
    assert train.n_classes == test.n_classes == 50
    bench = cl.streams.split_by_task(train, test)
    assert [len(exp) for exp in bench.train] == [4, 8]
    assert [len(exp) for exp in bench.test] == [6]
    assert bench.train[1].classes.nonzero().flatten().tolist() == [1, 2]
    if lists == "pkl":
        other, _ = data.core50(folder, "nc", run=1)
        assert other.task.tolist() == [0] * 8 + [1] * 4
        assert torch.equal(other.x[8:], train.x[:4])


def test_core50_that_is_not_whole(tmp_path):
    folder = made_files.core50(tmp_path / "a")
    with pytest.raises(ValueError, match=r"run: .*LUP\.pkl holds the runs 0\.\.1 of nc, got 2"):
        data.core50(folder, "nc", run=2)
    with pytest.raises(ValueError, match=r"LUP\.pkl: holds no 'nic'"):
        data.core50(folder, "nic")
    for name, content, match in (
        ("labels.pkl", {"nc": [[[0], [1], [2]]]}, r"labels\.pkl: its batches are not those of LUP\.pkl"),
        ("LUP.pkl", {"nc": [[[0, 1, 6, 7], [2] * 8, [99] * 6]]}, r"LUP\.pkl: rows must lie in 0\.\.17"),
        ("LUP.pkl", {"nc": [[["a"]]]}, r"LUP\.pkl: expected an array or a list of integers"),
        ("LUP.pkl", {"nc": 3}, r"LUP\.pkl: expected a list of runs"),
        ("labels.pkl", {"nc": [[[50] * 4, [0] * 8, [0] * 6]]}, r"the labels of train must be some, in 0\.\.49"),
        ("paths.pkl", [1, 2], r"paths\.pkl: expected a list of names"),
        ("paths.pkl", [*made_files.CORE50_NAMES, "more"], r"core50_imgs\.npz: expected x uint8 \[19, H, W, 3\]"),
    ):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(made_files.python2(content))
        with pytest.raises(ValueError, match=match):
            data.core50(folder, "nc")
        (folder / name).write_bytes(whole)
    (folder / "core50_imgs.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither core50_imgs\.npz nor a folder core50_128x128"):
        data.core50(folder, "nc")
    (folder / "LUP.pkl").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither the lists batches_filelists/NC_inc/run0 nor LUP\.pkl"):
        data.core50(folder, "nc")
    folder = made_files.core50(tmp_path / "b", lists="txt")
    lists = folder / "batches_filelists/NC_inc/run0"
    for content, match in (
        ("s1/o1/none.png 0\n", r"paths\.pkl: has no s1/o1/none\.png"),
        ("s1/o1\n", "line 1: expected a name and a label"),
    ):
        (lists / "train_batch_01_filelist.txt").write_text(content)
        with pytest.raises(ValueError, match=match):
            data.core50(folder)
    (lists / "test_filelist.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no lists train_batch_00_filelist\.txt"):
        data.core50(folder)


# ------------------------------------------------------------------ EMNIST and KMNIST


@pytest.mark.parametrize("zipped", [".gz", ""])
@pytest.mark.parametrize(("split", "n_classes", "first"), [("letters", 26, 1), ("balanced", 47, 0), ("mnist", 10, 0)])
def test_emnist_is_set_upright_and_numbered_from_0(tmp_path, split, n_classes, first, zipped):
    x = np.stack([made_files.image(10 * i, (28, 28), 1)[..., 0] for i in range(5)])
    y = np.array([0, n_classes - 1, 3, 1, 2])
    for part, n in (("train", 5), ("test", 3)):
        made_files.idx(tmp_path / f"emnist-{split}-{part}-images-idx3-ubyte{zipped}", x[:n].transpose(0, 2, 1))  # on their side
        made_files.idx(tmp_path / f"emnist-{split}-{part}-labels-idx1-ubyte{zipped}", y[:n] + first)
    train, test = data.emnist(tmp_path, split)
    assert np.array_equal(train.x[:, 0].numpy(), x)
    assert np.array_equal(test.x[:, 0].numpy(), x[:3])
    assert train.x.is_contiguous()
    assert train.y.tolist() == y.tolist()
    assert train.n_classes == test.n_classes == n_classes
    with pytest.raises(ValueError, match=r"folder: .* holds EMNIST, which is read by cl\.data\.emnist\(folder, split\)"):
        data.idx_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="neither emnist-digits-train-images-idx3-ubyte nor"):
        data.emnist(tmp_path, "digits")
    if first:
        made_files.idx(tmp_path / f"emnist-{split}-test-labels-idx1-ubyte{zipped}", y[:3])
        with pytest.raises(ValueError, match=r"emnist-letters-test-labels-idx1-ubyte.*: labels are at least 1, but it holds 0"):
            data.emnist(tmp_path, split)


def test_kmnist_has_the_files_of_mnist(tmp_path):
    x = np.stack([made_files.image(10 * i, (28, 28), 1)[..., 0] for i in range(5)])
    for part in ("train", "t10k"):
        made_files.idx(tmp_path / f"{part}-images-idx3-ubyte.gz", x)
        made_files.idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", np.arange(5))
    train, test = data.idx_folder(tmp_path)
    assert np.array_equal(train.x[:, 0].numpy(), x)
    assert test.y.tolist() == [0, 1, 2, 3, 4]
