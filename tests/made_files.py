"""Files made by hand, in the layouts in which datasets are published."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image


def image(value: int, size: tuple[int, int] = (8, 6), channels: int = 3) -> np.ndarray:
    """An image uint8 [H, W, C] whose pixels tell row, column, channel and image apart, the last to 256."""
    rows, columns, channel = np.mgrid[: size[0], : size[1], :channels]
    return ((value + 80 * channel + 9 * rows + columns) % 256).astype(np.uint8)


def save(path: Path, values: np.ndarray, **options) -> None:
    """An image [H, W, C] as a file, of three channels or of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(values[..., 0] if values.shape[2] == 1 else values).save(path, **options)


def deep_images() -> dict[str, bytes]:
    """Files of 16 x 8 pixels with 16 bits for each of three channels, by their names; Pillow writes none of these."""
    values = np.arange(8 * 16 * 3, dtype=">u2").reshape(8, 16, 3) * 100

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    def png(kind: int, pixels: np.ndarray) -> bytes:
        rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 8, 16, kind, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")

    def tiff(planes: int) -> bytes:
        pixels = values if planes == 1 else values.transpose(2, 0, 1)
        size = 2 * 8 * 16 * (3 if planes == 1 else 1)
        count, of_tags = (1 if planes == 1 else 3), 8 + 2 + 12 * 10 + 4
        start = of_tags + 6 + 8 * count
        tags = [(256, 3, 1, 16), (257, 3, 1, 8), (258, 3, 3, of_tags), (259, 3, 1, 1), (262, 3, 1, 2)]
        tags += [(273, 4, count, start if count == 1 else of_tags + 6), (277, 3, 1, 3), (278, 3, 1, 8)]
        tags += [(279, 4, count, size if count == 1 else of_tags + 6 + 4 * count), (284, 3, 1, planes)]
        entries = b"".join(
            struct.pack(">HHI", tag, kind, n) + (struct.pack(">HH", v, 0) if kind == 3 and n == 1 else struct.pack(">I", v))
            for tag, kind, n, v in tags
        )
        strips = struct.pack(f">{2 * count}I", *[start + i * size for i in range(count)], *[size] * count)
        head = b"MM\0*" + struct.pack(">IH", 8, len(tags)) + entries + b"\0" * 4
        return head + struct.pack(">3H", 16, 16, 16) + strips + pixels.tobytes()

    return {
        "rgb.png": png(2, values),
        "grey_and_alpha.png": png(4, values[..., :2]),
        "raw.ppm": b"P6 16 8 65535\n" + values.tobytes(),
        "ten_bits.ppm": b"P6 16 8 1023\n" + (values % 1024).astype(">u2").tobytes(),
        "text.ppm": b"P3 16 8 1023\n" + " ".join(str(value % 1024) for value in values.flatten()).encode(),
        "pixels.tiff": tiff(1),
        "planes.tiff": tiff(2),
    }


def photos(folder: Path, classes=("cat", "dog", "newt"), per_class=5, split=None, size=(8, 6)) -> Path:
    """folder/photos with `per_class` images of each class, or with that many for training and two for testing.

    Image i of class c has the value 40 * c + i; those for testing begin at i = 20.
    """
    root = folder / "photos"
    for part, count, first in ((split[0], per_class, 0), (split[1], 2, 20)) if split else ((".", per_class, 0),):
        for label, name in enumerate(classes):
            for i in range(first, first + count):
                save(root / part / name / f"{i:03}.png", image(40 * label + i, size))
    return root


def cifar_rows(seed: int, n: int, n_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels uint8 [n, 3072], labels, among n_classes rows all of them, and superclasses."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(n) % n_classes)
    return generator.integers(0, 256, (n, 3072)).astype(np.uint8), labels, generator.integers(0, 20, n)


def cifar(root: Path, version: str, n: int = 4) -> Path:
    """CIFAR's files in a folder of their own, each of n rows, that of file i made of the seed i; 9 is that of the test part."""
    folder = root / version
    folder.mkdir(parents=True)
    hundred, binary = "100" in version, version.endswith(("bin", "binary"))
    names = {9: "test" if hundred else "test_batch", **({0: "train"} if hundred else {i: f"data_batch_{i}" for i in range(1, 6)})}
    for seed, name in names.items():
        x, y, coarse = cifar_rows(seed, n, 100 if hundred else 10)
        if binary:
            labels = np.stack([coarse, y], 1) if hundred else y[:, None]
            (folder / f"{name}.bin").write_bytes(np.concatenate([labels, x], 1).astype(np.uint8).tobytes())
        else:
            own = {"fine_labels": y.tolist(), "coarse_labels": coarse.tolist()} if hundred else {"labels": y.tolist()}
            (folder / name).write_bytes(python2({"data": x, **own, "filenames": ["a_000.png"] * n, "batch_label": name}))
    return folder


def python2(content: object) -> bytes:
    """A pickle of dicts, lists, texts, ints and uint8 arrays as Python 2 with numpy 1 wrote it: protocol 2, texts as str."""
    return b"\x80\x02" + _python2(content) + b"."


def _python2(value: object) -> bytes:
    if isinstance(value, (str, bytes)):
        text = value.encode() if isinstance(value, str) else value
        return b"T" + struct.pack("<i", len(text)) + text  # BINSTRING
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"](" + b"".join(map(_python2, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(_python2(key) + _python2(item) for key, item in value.items()) + b"u"
    assert isinstance(value, np.ndarray)
    assert value.dtype == np.uint8
    dtype = (
        b"cnumpy\ndtype\n("
        + _python2("u1")
        + b"K\x00K\x01tR(K\x03"
        + _python2("|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    shape = b"(" + b"".join(map(_python2, value.shape)) + b"t"
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + _python2("b") + b"tR"
    return made + b"(K\x01" + shape + dtype + b"\x89" + _python2(value.tobytes()) + b"tb"


def tiny_imagenet(root: Path, per_class: int = 3) -> Path:
    """tiny-imagenet-200 with three classes, in an order that is not that of their names, and two val images each."""
    folder = root / "tiny-imagenet-200"
    wnids = ["n03", "n01", "n02"]
    for label, wnid in enumerate(wnids):
        for i in range(per_class):
            save(folder / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", image(40 * label + i, (64, 64)), quality=95)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t62\t63\n")
    rows = [(f"val_{i}.JPEG", wnids[i % 3]) for i in range(6)]
    for i, (name, _) in enumerate(rows):
        # Some images of the published set are grey.
        save(folder / "val" / "images" / name, image(30 * i, (64, 64), channels=1 if i == 4 else 3), quality=95)
    (folder / "val" / "val_annotations.txt").write_text("".join(f"{name}\t{wnid}\t0\t32\t44\t62\n" for name, wnid in rows))
    save(folder / "test" / "images" / "test_0.JPEG", image(0, (64, 64)))
    (folder / "wnids.txt").write_text("\n".join(wnids))  # as published, without a line's end after the last
    (folder / "words.txt").write_text("n00\tthing\nn01\tgoldfish, Carassius auratus\n")
    return folder


def cub(root: Path) -> Path:
    """CUB_200_2011 with two classes of three images of different sizes; the second of each is for testing."""
    folder = root / "CUB_200_2011"
    names = [f"{c:03}.Bird_{c}/Bird_{c}_{i:04}.jpg" for c in (1, 2) for i in (1, 2, 3)]
    for i, name in enumerate(names):
        save(folder / "images" / name, image(30 * i, (20 + i, 30 - i)), quality=95)
    lists = {
        "classes.txt": ["001.Bird_1", "002.Bird_2"],
        "images.txt": names,
        "image_class_labels.txt": [1, 1, 1, 2, 2, 2],
        "train_test_split.txt": [1, 0, 1, 1, 0, 1],
        "bounding_boxes.txt": ["1.0 2.0 10.0 12.0"] * 6,
    }
    for name, values in lists.items():
        (folder / name).write_text("".join(f"{i} {value}\n" for i, value in enumerate(values, 1)))
    return folder


CORE50_NAMES = [f"s{s}/o{o}/C_{s:02}_{o:02}_{i:03}.png" for s in (1, 2, 3) for o in (1, 2, 3) for i in range(2)]
CORE50_BATCHES = [[0, 1, 6, 7], [2, 3, 4, 5, 8, 9, 10, 11], [12, 13, 14, 15, 16, 17]]  # rows; the last is the test set
CORE50_LABELS = [[0, 0, 0, 0], [1, 1, 2, 2, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2]]


def core50(root: Path, images: str = "npz", lists: str = "pkl", size: int = 16) -> Path:
    """CORe50 with three sessions of three objects, of two images each; session 3 is the test set. Row i has the value 10 * i."""
    x = np.stack([image(10 * i, (size, size)) for i in range(len(CORE50_NAMES))])
    root.mkdir(parents=True, exist_ok=True)
    if images == "npz":
        np.savez(root / "core50_imgs.npz", x=x)
    else:
        for name, values in zip(CORE50_NAMES, x, strict=True):
            save(root / images / name, values)
    if images == "npz" or lists == "pkl":
        (root / "paths.pkl").write_bytes(python2(CORE50_NAMES))
    if lists == "pkl":
        runs = [
            [CORE50_BATCHES[0], CORE50_BATCHES[1], CORE50_BATCHES[2]],
            [CORE50_BATCHES[1], CORE50_BATCHES[0], CORE50_BATCHES[2]],
        ]
        labels = [[CORE50_LABELS[0], CORE50_LABELS[1], CORE50_LABELS[2]], [CORE50_LABELS[1], CORE50_LABELS[0], CORE50_LABELS[2]]]
        (root / "LUP.pkl").write_bytes(python2({"nc": runs, "ni": runs[:1]}))
        (root / "labels.pkl").write_bytes(python2({"nc": labels, "ni": labels[:1]}))
    else:
        folder = root / "batches_filelists" / "NC_inc" / "run0"
        folder.mkdir(parents=True)
        for i, (rows, labels) in enumerate(zip(CORE50_BATCHES, CORE50_LABELS, strict=True)):
            name = "test" if i == 2 else f"train_batch_{i:02}"
            lines = [f"{CORE50_NAMES[row]} {label}\n" for row, label in zip(rows, labels, strict=True)]
            (folder / f"{name}_filelist.txt").write_text("".join(lines))
    return root


def idx(path: Path, values: np.ndarray) -> None:
    """An idx file of bytes, .gz if the name says so."""
    content = struct.pack(f">{1 + values.ndim}I", 0x800 + values.ndim, *values.shape) + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
