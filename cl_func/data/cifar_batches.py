"""CIFAR-10 and CIFAR-100 (Krizhevsky, "Learning multiple layers of features from tiny images", 2009), the files as published.

    python version   cifar-10-batches-py/data_batch_1 .. data_batch_5, test_batch; cifar-100-python/train, test: pickled dicts, data
                     uint8 [n, 3072], labels or fine_labels and coarse_labels
    binary version   cifar-10-batches-bin/data_batch_1.bin .. test_batch.bin, rows of <label><3072 pixels>;
                     cifar-100-binary/train.bin, test.bin, rows of <coarse label><fine label><3072 pixels>

The 3072 bytes of an image are its red, its green and its blue channel, each row by row (https://www.cs.toronto.edu/~kriz/cifar.html).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cl_func import checks
from cl_func.data import plain_pickle
from cl_func.data.folder import given_folder
from cl_func.sources import Dataset

_PIXELS = 3 * 32 * 32
_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))


@dataclass(frozen=True)
class _Version:
    """One of the four published layouts: the folder's name, the files of its parts, and the number of classes by kind of label."""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    classes: dict[str, int]
    keys: dict[str, str]  # of the pickled dicts
    binary: bool


_TEN, _HUNDRED = {"fine": 10}, {"fine": 100, "coarse": 20}
_KEYS = {"fine": "fine_labels", "coarse": "coarse_labels"}
_VERSIONS = (
    _Version("cifar-10-batches-py", _BATCHES, ("test_batch",), _TEN, {"fine": "labels"}, False),
    _Version("cifar-10-batches-bin", tuple(f"{name}.bin" for name in _BATCHES), ("test_batch.bin",), _TEN, {}, True),
    _Version("cifar-100-python", ("train",), ("test",), _HUNDRED, _KEYS, False),
    _Version("cifar-100-binary", ("train.bin",), ("test.bin",), _HUNDRED, {}, True),
)


def cifar(folder: str | Path, labels: Literal["fine", "coarse"] = "fine") -> tuple[Dataset, Dataset]:
    """(train, test) of CIFAR-10 or CIFAR-100: x uint8 [N, 3, 32, 32], y int64 [N], of 10 or 100 classes.

    folder: where the archive was unpacked: the one that holds data_batch_1, data_batch_1.bin, train or train.bin, or the one above
        it, in which it has the name that it has in the archive, such as cifar-10-batches-py. Which version it is is found out.
    labels: "coarse" for the 20 superclasses of CIFAR-100.

    Nothing in the pickled files is executed. Raises FileNotFoundError for a folder or file that is not there; ValueError, naming
    the file, for one that is damaged or holds anything else, for several versions in one folder, and for coarse labels of CIFAR-10.
    """
    checks.choice("labels", labels, "fine", "coarse")
    root, version = _version(given_folder("folder", folder))
    if labels not in version.classes:
        raise ValueError(f"labels: {root} is CIFAR-10, which has no coarse labels; only CIFAR-100 has.")
    missing = [name for name in (*version.train, *version.test) if not (root / name).is_file()]
    if missing:
        raise FileNotFoundError(f"folder: {root} has no {', no '.join(missing)}.")
    train, test = (_part(root, names, version, labels) for names in (version.train, version.test))
    return train, test


def _version(folder: Path) -> tuple[Path, _Version]:
    found = [(folder, version) for version in _VERSIONS if (folder / version.train[0]).is_file()]
    found = found or [(folder / v.folder, v) for v in _VERSIONS if (folder / v.folder / v.train[0]).is_file()]
    if not found:
        names = ", ".join(version.train[0] for version in _VERSIONS)
        raise FileNotFoundError(
            f"folder: {folder} has none of {names}, nor a folder {', '.join(v.folder for v in _VERSIONS)} with it."
        )
    if len(found) > 1:
        raise ValueError(f"folder: {folder} holds {' and '.join(version.folder for _, version in found)}; give one of them.")
    return found[0]


def _part(folder: Path, names: tuple[str, ...], version: _Version, labels: str) -> Dataset:
    read = _binary if version.binary else _pickled
    x, y = zip(*(read(folder / name, version, labels) for name in names), strict=True)
    return Dataset(torch.cat(x), torch.cat(y), n_classes=version.classes[labels])


def _pickled(path: Path, version: _Version, labels: str) -> tuple[Tensor, Tensor]:
    content = plain_pickle.read(path)
    pixels = plain_pickle.array(path, plain_pickle.entry(path, content, "data"))
    y = plain_pickle.array(path, plain_pickle.entry(path, content, version.keys[labels]))
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != _PIXELS or len(pixels) == 0:
        raise ValueError(f"{path}: expected data uint8 [n, {_PIXELS}], got {pixels.dtype} {list(pixels.shape)}.")
    if y.shape != (len(pixels),):
        raise ValueError(f"{path}: holds {len(pixels)} images, but labels {list(y.shape)}.")
    return _checked(path, pixels, y, version.classes[labels])


def _binary(path: Path, version: _Version, labels: str) -> tuple[Tensor, Tensor]:
    content = path.read_bytes()
    n_labels = len(version.classes)
    if len(content) % (n_labels + _PIXELS) or not content:
        raise ValueError(f"{path}: holds {len(content)} bytes, which are no rows of {n_labels} + {_PIXELS}.")
    rows = np.frombuffer(content, dtype=np.uint8).reshape(-1, n_labels + _PIXELS)
    return _checked(path, rows[:, n_labels:], rows[:, n_labels - 1 if labels == "fine" else 0], version.classes[labels])


def _checked(path: Path, pixels: np.ndarray, y: np.ndarray, n_classes: int) -> tuple[Tensor, Tensor]:
    if int(y.min()) < 0 or int(y.max()) >= n_classes:
        raise ValueError(f"{path}: labels must lie in 0..{n_classes - 1}, but it holds {int(y.min())}..{int(y.max())}.")
    return torch.tensor(pixels).reshape(-1, 3, 32, 32), torch.tensor(y.astype(np.int64))
