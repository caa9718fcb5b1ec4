"""Files made by hand, in the layouts in which datasets are published."""

from __future__ import annotations

import struct
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
    """Pixels uint8 [n, 3072], labels and superclasses."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (n, 3072)).astype(np.uint8), generator.integers(0, n_classes, n), generator.integers(0, 20, n)


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
