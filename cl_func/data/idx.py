"""MNIST-format (idx) files: MNIST, Fashion-MNIST, KMNIST, EMNIST.

An idx file is a big-endian header of 32-bit words, then one byte per value. The first word is the magic number 0x0000080d: 08 for
unsigned bytes, d for the number of dimensions; the d sizes follow (http://yann.lecun.com/exdb/mnist). The file is not trusted: no
memory is allocated by the sizes that it states; the bytes are read first, and must match them.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from io import BufferedReader
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.sources import Dataset

_CHUNK = 1 << 20
_MNIST = {"train": "train", "test": "t10k"}
_EMNIST = {"byclass": 62, "bymerge": 47, "balanced": 47, "letters": 26, "digits": 10, "mnist": 10}  # classes


def idx_folder(folder: str | Path, n_classes: int | None = None) -> tuple[Dataset, Dataset]:
    """(train, test) from the four idx files of a folder: x uint8 [N, 1, H, W], y int64 [N].

    The files are train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, plain or with
    .gz appended (the plain one is taken if both exist). Both datasets get the same `n_classes`, by default the largest label of the
    two plus one.
    Raises FileNotFoundError for a folder or file that does not exist; ValueError, naming the file, for a wrong magic number, a file
    that is shorter or longer than its header says, a damaged .gz, label and image counts that differ, labels outside
    0..n_classes-1, or image sizes that differ between train and test.
    """
    folder = _folder(folder)
    if n_classes is not None:
        checks.positive_int("n_classes", n_classes)
    if next(folder.glob("emnist-*-images-idx3-ubyte*"), None) and not next(folder.glob("train-images-idx3-ubyte*"), None):
        raise ValueError(f"folder: {folder} holds EMNIST, which is read by cl.data.emnist(folder, split).")
    return _parts(folder, _MNIST, n_classes)


def emnist(
    folder: str | Path, split: Literal["byclass", "bymerge", "balanced", "letters", "digits", "mnist"]
) -> tuple[Dataset, Dataset]:
    """(train, test) of a split of EMNIST: x uint8 [N, 1, 28, 28], upright as MNIST's, y int64 [N].

    The files are emnist-SPLIT-train-images-idx3-ubyte and so on, plain or .gz, as NIST's gzip.zip holds them (Cohen, Afshar, Tapson
    & van Schaik, "EMNIST: extending MNIST to handwritten letters", IJCNN 2017). In them images lie on their side, rows and columns
    exchanged, and the letters are numbered from 1: both are set right, so letter i of the alphabet is class i, from 0.

    split: "byclass" (62 classes: digits, upper and lower case), "bymerge" or "balanced" (47), "letters" (26), "digits" or "mnist"
        (10).

    Raises as `idx_folder` does.
    """
    folder = _folder(folder)
    checks.choice("split", split, *_EMNIST)
    stems = {part: f"emnist-{split}-{part}" for part in ("train", "test")}
    train, test = (
        tree.replace(part, x=part.x.transpose(2, 3).contiguous())
        for part in _parts(folder, stems, _EMNIST[split], first=int(split == "letters"))
    )
    return train, test


def _folder(folder: str | Path) -> Path:
    path = Path(checks.instance("folder", folder, (str, Path), "a path"))
    if not path.is_dir():
        raise FileNotFoundError(f"folder: there is no folder {path}.")
    return path


def _parts(folder: Path, stems: dict[str, str], n_classes: int | None, first: int = 0) -> tuple[Dataset, Dataset]:
    """The two parts, of files whose names begin with their stems; first: the label in the files of class 0."""
    paths = {
        part: (_find(folder, f"{stem}-images-idx3-ubyte"), _find(folder, f"{stem}-labels-idx1-ubyte"))
        for part, stem in stems.items()
    }
    x: dict[str, Tensor] = {}
    y: dict[str, Tensor] = {}
    for part, (images, labels) in paths.items():
        x[part] = read_idx(images, 3).unsqueeze(1)
        y[part] = read_idx(labels, 1).to(torch.int64)
        if len(x[part]) != len(y[part]):
            raise ValueError(f"{labels}: holds {len(y[part])} labels, but {images.name} holds {len(x[part])} images.")
    if x["train"].shape[1:] != x["test"].shape[1:]:
        sizes = [" x ".join(str(n) for n in x[part].shape[2:]) for part in stems]
        raise ValueError(f"{paths['test'][0]}: holds images of {sizes[1]}, but {paths['train'][0].name} of {sizes[0]}.")
    classes = n_classes if n_classes is not None else 1 + max(int(labels.max()) for labels in y.values())
    for part in stems:
        y[part] -= first
        if int(y[part].min()) < 0:
            raise ValueError(f"{paths[part][1]}: labels are at least {first}, but it holds {int(y[part].min()) + first}.")
        highest = int(y[part].max())
        if highest >= classes:
            raise ValueError(f"{paths[part][1]}: labels must lie in 0..n_classes-1 = 0..{classes - 1}, but it holds {highest}.")
    return Dataset(x["train"], y["train"], n_classes=classes), Dataset(x["test"], y["test"], n_classes=classes)


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"folder: neither {name} nor {name}.gz is in {folder}.")


def read_idx(path: Path, ndim: int) -> Tensor:
    """One idx file of unsigned bytes with `ndim` dimensions, plain or .gz: uint8 [N, ...]. Raises ValueError naming the file."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            return _read(file, path, ndim)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: a damaged .gz file ({error}); fetch it again.") from error


def _read(file: gzip.GzipFile | BufferedReader, path: Path, ndim: int) -> Tensor:
    header = file.read(4 + 4 * ndim)
    magic = 0x800 + ndim
    if header[:4] != struct.pack(">I", magic):
        raise ValueError(f"{path}: not an idx file of {ndim} dimensions: it starts with 0x{header[:4].hex()}, not 0x{magic:08x}.")
    if len(header) < 4 + 4 * ndim:
        raise ValueError(f"{path}: truncated: it ends within its header of {4 + 4 * ndim} bytes.")
    shape = struct.unpack(f">{ndim}I", header[4:])
    size = math.prod(shape)
    sizes = " x ".join(str(n) for n in shape)
    if size == 0:
        raise ValueError(f"{path}: holds no data: its header says {sizes}.")
    # In chunks: file.read(size) would allocate what the header claims before it has read a byte.
    values = bytearray()
    while len(values) <= size and (chunk := file.read(min(_CHUNK, size + 1 - len(values)))):
        values += chunk
    if len(values) < size:
        raise ValueError(f"{path}: truncated: its header says {sizes} = {size} bytes of data, but it holds {len(values)}.")
    if len(values) > size:
        raise ValueError(f"{path}: too long: its header says {sizes} = {size} bytes of data, but it holds more.")
    return torch.frombuffer(values, dtype=torch.uint8).reshape(shape)
