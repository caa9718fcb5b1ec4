"""A folder of images: its layouts, what is wrong with it, and the cache that is kept of it."""

from __future__ import annotations

import os
import pickle
import shutil
import struct
import warnings

import made_files
import numpy as np
import PIL.Image
import pytest
import torch

import cl_func as cl
from cl_func import data

CLASSES = ("cat", "dog", "newt")


def expected(values, size=(8, 6), channels=3):
    return torch.from_numpy(np.stack([made_files.image(value, size, channels).transpose(2, 0, 1) for value in values]))


@pytest.mark.parametrize("split", [("train", "test"), ("train", "val")])
def test_a_folder_in_two_parts(tmp_path, split):
    path = made_files.photos(tmp_path, split=split)
    for _ in range(2):  # read, then taken from the cache
        train, test = data.from_folder(path)
        assert torch.equal(train.x, expected([40 * c + i for c in range(3) for i in range(5)]))
        assert torch.equal(test.x, expected([40 * c + i for c in range(3) for i in (20, 21)]))
        assert train.y.tolist() == [0] * 5 + [1] * 5 + [2] * 5
        assert test.y.tolist() == [0, 0, 1, 1, 2, 2]
        assert train.n_classes == test.n_classes == 3
        assert len(pickle.dumps(test)) < test.x.numel() + 2000  # and not the images of train too
    assert data.class_names(path) == CLASSES
    assert cl.streams.split_by_class(train, test, n_experiences=3).n_classes == 3


def test_a_folder_of_classes_is_split_the_same_way_every_time(tmp_path):
    path = made_files.photos(tmp_path)
    train, test = data.from_folder(str(path), test_fraction=0.4)
    assert (torch.bincount(train.y).tolist(), torch.bincount(test.y).tolist()) == ([3, 3, 3], [2, 2, 2])
    values = sorted(torch.cat([train.x, test.x])[:, 0, 0, 0].tolist())
    assert values == [40 * c + i for c in range(3) for i in range(5)]
    again = data.from_folder(path, test_fraction=0.4, cache=False)
    assert all(cl.tree.equal(a, b) for a, b in zip(again, (train, test), strict=True))
    assert data.class_names(path) == CLASSES
    # What is held out of a class does not depend on the others.
    made_files.save(path / "yak" / "0.png", made_files.image(1))
    made_files.save(path / "yak" / "1.png", made_files.image(2))
    more = data.from_folder(path, test_fraction=0.4)[1]
    assert torch.equal(more.x[:6], test.x)
    with pytest.raises(ValueError, match=r"test_fraction: 0\.9 of the 2 images of class yak leaves none to train on"):
        data.from_folder(path, test_fraction=0.9)
    with pytest.raises(ValueError, match=r"test_fraction: .*photos has no train and test folders; .*test_fraction=0\.2"):
        data.from_folder(path)


@pytest.mark.parametrize("parts", [None, ("train", "test")])
def test_folders_that_lack_classes_number_them_alike(tmp_path, parts):
    """Each of two domains lacks a class, so that by themselves they would use one number for different classes."""
    domains = [made_files.photos(tmp_path / domain, split=parts) for domain in ("photo", "sketch")]
    for domain, lacking in zip(domains, ("cat", "newt"), strict=True):
        for part in parts or (".",):
            shutil.rmtree(domain / part / lacking)
    fraction = None if parts else 0.4
    first, second = (data.from_folder(domain, test_fraction=fraction, classes=CLASSES) for domain in domains)
    for sets, labels in ((first, [1, 2]), (second, [0, 1])):
        assert all(part.n_classes == 3 and part.y.unique().tolist() == labels for part in sets)
    newts, dogs = (first[0].x[first[0].y == label] for label in (2, 1))
    assert newts[:, 0, 0, 0].min() >= 80
    assert torch.equal(dogs, second[0].x[second[0].y == 1])
    assert data.from_folder(domains[0], test_fraction=fraction)[0].y.unique().tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"classes: .* holds the classes newt, which are not among cat, dog"):
        data.from_folder(domains[0], test_fraction=fraction, classes=["cat", "dog"])
    if parts:
        made_files.save(domains[0] / "test" / "yak" / "0.png", made_files.image(1))
        with pytest.raises(ValueError, match=r"classes: .*test holds the classes yak, which are not among cat, dog, newt"):
            data.from_folder(domains[0], classes=CLASSES)


def test_a_cache_in_the_folder_is_no_file_to_warn_of(tmp_path):
    """As where the folder above, or one beside its classes, is read too."""
    path = made_files.photos(tmp_path)
    data.from_folder(path / "..", test_fraction=0.4)
    data.from_folder(path, test_fraction=0.4)
    (path / "cats-L.cl_func.npz").write_bytes(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.from_folder(path, test_fraction=0.4)
        data.from_folder(path / "..", test_fraction=0.4)


def test_images_of_any_format_depth_and_mode(tmp_path):
    path = made_files.photos(tmp_path, classes=("cat",), split=("train", "test"))
    for i, name in enumerate(("a.JPG", "b.bmp", "c.gif", "d.tiff", "e.webp", "f.ppm")):
        grey = np.full((8, 6, 1), 30 * i, dtype=np.uint8)
        made_files.save(path / "train" / "gecko" / "deep" / name, grey)
    for name in (".hidden.png", ".DS_Store", ".git/x.png"):
        (path / "train" / "gecko" / name).parent.mkdir(exist_ok=True)
        (path / "train" / "gecko" / name).write_bytes(b"")
    train, test = data.from_folder(path, cache=False)
    assert train.x.shape == (11, 3, 8, 6)
    assert train.x[5:, :, 0, 0].tolist() == [[30 * i] * 3 for i in range(6)]
    assert test.n_classes == 2  # though it has no gecko
    assert torch.equal(data.from_folder(path, cache=False, mode="L")[0].x[5:], train.x[5:, :1])
    palette = PIL.Image.fromarray(made_files.image(0)).quantize(4)
    palette.save(path / "train" / "gecko" / "p.png")
    assert torch.equal(
        data.from_folder(path, cache=False)[0].x[-1].permute(1, 2, 0), torch.from_numpy(np.array(palette.convert("RGB")))
    )


def test_links_to_folders_are_followed_and_none_is_read_twice(tmp_path):
    path = made_files.photos(tmp_path, split=("train", "test"))
    data.from_folder(path)
    elsewhere, cat = tmp_path / "elsewhere", path / "train" / "cat"
    made_files.save(elsewhere / "deep" / "0.png", made_files.image(7))
    (cat / "sub").mkdir()
    (cat / "000.png").rename(cat / "sub" / "000.png")
    links = {"more": elsewhere, "again": elsewhere, "the/same": elsewhere / "deep", "a": cat / "sub", "sub/up": cat}
    for name, target in links.items():
        (cat / name).parent.mkdir(exist_ok=True)
        (cat / name).symlink_to(target, target_is_directory=True)
    (elsewhere / "back").symlink_to(elsewhere, target_is_directory=True)
    for _ in range(2):  # what was kept of the folder before does not count, and what is kept now has them too
        train, _ = data.from_folder(path)
        assert sorted(train.x[train.y == 0][:, 0, 0, 0].tolist()) == [0, 1, 2, 3, 4, 7]
    made_files.save(elsewhere / "deep" / "0.png", made_files.image(9))
    assert 9 in data.from_folder(path)[0].x[:, 0, 0, 0]
    names = [str(file.relative_to(cat)) for file in data.folder.files_below(cat)]
    assert names == ["001.png", "002.png", "003.png", "004.png", "again/deep/0.png", "sub/000.png"]


def test_what_would_be_lost_is_refused(tmp_path):
    path = made_files.photos(tmp_path, split=("train", "test"))
    bad = path / "train" / "dog" / "z.png"
    opaque = np.concatenate([made_files.image(0), np.full((8, 6, 1), 255, dtype=np.uint8)], axis=2)
    PIL.Image.fromarray(opaque).save(bad)
    assert torch.equal(data.from_folder(path, cache=False)[0].x[10], expected([0])[0])
    opaque[2, 3, 3] = 0
    PIL.Image.fromarray(opaque).save(bad)
    with pytest.raises(ValueError, match=r"z\.png: has transparent pixels"):
        data.from_folder(path, cache=False)
    PIL.Image.fromarray(np.full((8, 6), 40000, dtype=np.uint16)).save(bad)
    with pytest.raises(ValueError, match=r"z\.png: holds more than 8 bits a channel"):
        data.from_folder(path, cache=False)


@pytest.mark.parametrize("name", made_files.deep_images())
def test_colours_of_more_than_8_bits_are_refused(tmp_path, name):
    """Pillow reads them as 8-bit RGB, without a word."""
    path = made_files.photos(tmp_path, split=("train", "test"))
    file = path / "train" / "cat" / name
    file.write_bytes(made_files.deep_images()[name])
    with PIL.Image.open(file) as image:
        image.load()  # it is not for another fault that it is refused
    with pytest.raises(ValueError, match=rf"{name}: holds more than 8 bits a channel \(.*\); convert it to 8 bits first"):
        data.from_folder(path, size=(8, 6), cache=False)


def test_colours_of_8_bits_or_fewer_are_read(tmp_path):
    path = made_files.photos(tmp_path, classes=("cat",), split=("train", "test"))
    content = made_files.image(0) // 32
    files = {"a.ppm": b"P6 6 8 7\n" + content.tobytes(), "b.ppm": b"P3 6 8 7\n" + " ".join(map(str, content.flatten())).encode()}
    masks = struct.pack("<3I", 0xF800, 0x7E0, 0x1F)  # 5, 6 and 5 bits, 16 a pixel
    bmp = struct.pack("<2sIIIIiiHHIIiiII", b"BM", 66 + 96, 0, 66, 40, 6, -8, 1, 16, 3, 96, 0, 0, 0, 0) + masks + bytes(96)
    for name, values in {**files, "c.bmp": bmp}.items():
        (path / "test" / "cat" / name).write_bytes(values)
    read = data.from_folder(path, cache=False)[1].x[2:]
    assert read[0, :, 0, 0].tolist() == [round(value * 255 / 7) for value in content[0, 0].tolist()]
    assert torch.equal(read[0], read[1])
    assert not read[2].any()


def test_sizes(tmp_path):
    path = made_files.photos(tmp_path, split=("train", "test"))
    odd = path / "test" / "newt" / "odd.png"
    made_files.save(odd, made_files.image(0, (16, 12)))
    with pytest.raises(
        ValueError, match=r"size: images differ in size: .*cat/000\.png is 8 x 6, .*newt/odd\.png is 16 x 12; .*size=\(8, 6\)"
    ):
        data.from_folder(path)
    train, test = data.from_folder(path, size=(8, 6))
    assert torch.equal(train.x, expected([40 * c + i for c in range(3) for i in range(5)]))  # untouched where the size is right
    stretched = PIL.Image.open(odd).resize((6, 8), PIL.Image.Resampling.BILINEAR)
    assert torch.equal(test.x[-1].permute(1, 2, 0), torch.from_numpy(np.array(stretched)))
    assert data.from_folder(path, size=5)[1].x.shape == (7, 3, 5, 5)
    assert {file.name for file in tmp_path.iterdir()} == {"photos", "photos-RGB-8x6.cl_func.npz", "photos-RGB-5x5.cl_func.npz"}


def test_stretched_images_equal_torchvisions(tmp_path):
    transforms = pytest.importorskip("torchvision.transforms")
    path = made_files.photos(tmp_path, split=("train", "test"), size=(31, 47))
    resize = transforms.Compose([transforms.Resize((16, 16)), transforms.PILToTensor()])
    images = [resize(PIL.Image.open(file)) for file in sorted(path.glob("train/*/*.png"))]
    assert torch.equal(data.from_folder(path, size=16)[0].x, torch.stack(images))


DAMAGED = {"empty": b"", "text": b"no image", "cut": None}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_images_are_named(tmp_path, damage):
    path = made_files.photos(tmp_path, split=("train", "test"))
    bad = path / "test" / "dog" / "020.png"
    bad.write_bytes(bad.read_bytes()[:-40] if damage == "cut" else DAMAGED[damage])
    with pytest.raises(ValueError, match=r"dog/020\.png: cannot be read as an image"):
        data.from_folder(path)
    assert not list(tmp_path.glob("*.npz"))


def test_folders_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path: there is no folder .*elsewhere"):
        data.from_folder(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"holds no folder of a class; .*CLASS/NAME\.png"):
        data.from_folder(tmp_path, test_fraction=0.5)
    path = made_files.photos(tmp_path, split=("train", "test"))
    with pytest.raises(ValueError, match="test_fraction: there is a test part already"):
        data.from_folder(path, test_fraction=0.5)
    made_files.save(path / "test" / "yak" / "0.png", made_files.image(0))
    with pytest.raises(ValueError, match=r"path: .*test holds the classes yak, which .*train has not"):
        data.from_folder(path)
    os.rename(path / "test", path / "holdout")
    with pytest.raises(ValueError, match="holds a folder train, but neither test nor val"):
        data.from_folder(path)
    os.rename(path / "holdout", path / "val")
    (path / "train" / "yak").mkdir()
    with pytest.raises(ValueError, match="train/yak holds no image"):
        data.from_folder(path)


def test_files_that_are_no_images_are_told(tmp_path):
    path = made_files.photos(tmp_path, split=("train", "test"))
    (path / "train" / "cat" / "notes.txt").write_text("")
    with pytest.warns(UserWarning, match=r"train: a file is no image of a class and left out: cat/notes\.txt"):
        data.from_folder(path, cache=False)
    (path / "train" / "stray.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"train: 2 files are no images of a class and left out: stray\.png, \.\.\."):
        data.from_folder(path, cache=False)


# ------------------------------------------------------------------ the cache


@pytest.fixture
def path(tmp_path, monkeypatch):
    made = made_files.photos(tmp_path, split=("train", "test"))
    data.from_folder(made)
    return made


def reads(monkeypatch):
    """How many images are decoded from now on."""
    counted = []
    own = data.images._read
    monkeypatch.setattr(data.images, "_read", lambda *args: counted.append(args) or own(*args))
    return counted


def test_the_second_time_nothing_is_decoded(path, monkeypatch):
    first = data.from_folder(path)
    monkeypatch.setattr(data.images, "_read", None)
    assert all(cl.tree.equal(a, b) for a, b in zip(data.from_folder(path), first, strict=True))
    moved = path.rename(path.with_name("pictures"))
    path.with_name("photos-RGB.cl_func.npz").rename(path.with_name("pictures-RGB.cl_func.npz"))
    assert all(cl.tree.equal(a, b) for a, b in zip(data.from_folder(moved), first, strict=True))


CHANGES = {
    "a new file": lambda path: made_files.save(path / "test" / "cat" / "new.png", made_files.image(7)),
    "one less": lambda path: (path / "test" / "cat" / "020.png").unlink(),
    "another name": lambda path: (path / "test" / "cat" / "020.png").rename(path / "test" / "cat" / "x.png"),
    "another class": lambda path: (path / "test" / "cat").rename(path / "test" / "dog" / "deep"),
    "other pixels": lambda path: made_files.save(path / "test" / "cat" / "020.png", made_files.image(7)),
    "a later time": lambda path: os.utime(path / "test" / "cat" / "020.png", (1e9, 1e9)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_is_read_again(path, monkeypatch, change):
    CHANGES[change](path)
    counted = reads(monkeypatch)
    fresh = data.from_folder(path)
    assert counted
    assert all(cl.tree.equal(a, b) for a, b in zip(data.from_folder(path, cache=False), fresh, strict=True))
    counted.clear()
    data.from_folder(path)
    assert not counted


def test_a_cache_that_is_not_one_is_made_again(path, monkeypatch):
    file = path.with_name("photos-RGB.cl_func.npz")
    first = data.from_folder(path)
    with np.load(file) as arrays:
        kept = dict(arrays)
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    counted = reads(monkeypatch)
    for content in (b"", b"text", whole[:-20], bytes(flipped)):
        file.write_bytes(content)
        assert all(cl.tree.equal(a, b) for a, b in zip(data.from_folder(path), first, strict=True))
        assert file.read_bytes() != content
    objects = np.array([{}] * len(kept["test"]))
    for other in (objects, kept["test"].astype(np.float32), kept["test"][:1], kept["test"][..., :2], kept["test"][..., 0]):
        np.savez(file, **{**kept, "test": other})
        assert all(cl.tree.equal(a, b) for a, b in zip(data.from_folder(path), first, strict=True))
    assert len(counted) == 9 * 21


def test_where_the_cache_is(path, tmp_path):
    beside = path.with_name("photos-RGB.cl_func.npz")
    beside.unlink()
    data.from_folder(path, cache=False)
    assert not list(tmp_path.glob("*.npz"))
    place = tmp_path / "caches" / "here"
    data.from_folder(path, cache=place)
    (tmp_path / "other").mkdir()
    data.from_folder(made_files.photos(tmp_path / "other", per_class=2, split=("train", "test")), cache=str(place))
    names = sorted(file.name for file in place.iterdir())
    assert len(names) == 2  # no hidden part of one is left
    assert all(name.startswith("photos-") and name.endswith("-RGB.cl_func.npz") for name in names)
    assert not beside.exists()
    assert len(data.from_folder(path, cache=place)[0]) == 15


def test_a_cache_that_cannot_be_written_is_a_warning(path, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match=r"could not be kept in .*file/photos.*cache=FOLDER, or cache=False"):
        train, _ = data.from_folder(path, cache=tmp_path / "file")
    assert len(train) == 15
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.from_folder(path)


def test_many_images_show_how_far_they_are(path, monkeypatch, capsys):
    data.from_folder(path, cache=False)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(data.images, "_LONG", 5)
    data.from_folder(path, cache=False)
    assert "photos" in (said := capsys.readouterr().err)
    assert "images" in said
    data.from_folder(path, cache=False, progress=False)
    assert capsys.readouterr().err == ""
