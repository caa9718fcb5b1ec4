"""Data from a folder of any kind that the library reads, and the streams and models of a setting on them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from cl_func import data, models, streams
from cl_func.commands.methods import Problem
from cl_func.experiences import Benchmark
from cl_func.models import Model
from cl_func.sources import Dataset

CIFAR_FILES = ("data_batch_1", "data_batch_1.bin", "train", "train.bin")
CIFAR_FOLDERS = ("cifar-10-batches-py", "cifar-10-batches-bin", "cifar-100-python", "cifar-100-binary")
LARGE = 10_000  # rows: from there on one pass over larger minibatches, and a larger memory
SPLITS = {"class": streams.split_by_class, "task": streams.task_incremental, "domain": streams.domain_incremental}


def read(path: Path | None) -> tuple[Dataset, Dataset]:
    """(train, test) of a folder: idx files, CIFAR, npz files or images; of one npz file; or without a path the digits.

    npz: train.npz and test.npz with x and y, or one file with x_train, y_train, x_test and y_test. Of images that are not parted
    into train and test every fifth is held out. Raises FileNotFoundError or ValueError, as the readers do.
    """
    if path is None:
        return data.digits()
    if not path.exists():
        raise FileNotFoundError(f"data: no such file or folder: {path}")
    if path.is_file():
        return _one_npz(path)
    files = [one.name for one in path.iterdir() if one.is_file()]
    if any(name.endswith(("-ubyte", "-ubyte.gz")) for name in files):
        return data.idx_folder(path)
    if any(name in files for name in CIFAR_FILES) or any((path / name).is_dir() for name in CIFAR_FOLDERS):
        return data.cifar(path)
    if {"train.npz", "test.npz"} <= set(files):
        return _alike(data.from_npz(path / "train.npz"), data.from_npz(path / "test.npz"))
    archives = [name for name in files if name.endswith(".npz") and not name.startswith(".")]
    if len(archives) == 1 and not any(one.is_dir() and not one.name.startswith(".") for one in path.iterdir()):
        return _one_npz(path / archives[0])
    parted = (path / "train").is_dir()
    return data.from_folder(path, test_fraction=None if parted else 0.2)


def _one_npz(path: Path) -> tuple[Dataset, Dataset]:
    if path.suffix != ".npz":
        raise ValueError(f"data: expected a folder or an npz file, got {path}.")
    train, test = (data.from_npz(path, x=f"x_{part}", y=f"y_{part}") for part in ("train", "test"))
    return _alike(train, test)


def _alike(train: Dataset, test: Dataset) -> tuple[Dataset, Dataset]:
    """Both with the larger number of classes."""
    n = max(train.n_classes, test.n_classes)
    return Dataset(train.x, train.y, n_classes=n), Dataset(test.x, test.y, n_classes=n)


def experiences(n_classes: int) -> int:
    """How many experiences the classes are split into where that is not said: five, or the number next to it that divides them."""
    return min((n for n in range(2, n_classes + 1) if n_classes % n == 0), key=lambda n: (abs(n - 5), n), default=1)


def problem(
    setting: str,
    train: Dataset,
    test: Dataset,
    n_experiences: int | None = None,
    hidden: tuple[int, ...] = (256, 256),
    batch_size: int | None = None,
    epochs: int | None = None,
    capacity: int | None = None,
    lr: float = 0.05,
) -> Problem:
    """A setting on a dataset: "class", "task" or "domain"; what is None is chosen by the size of the data."""
    if train.target != "class":
        raise ValueError(f"data: expected class labels, y int64 [N], got targets of the kind {train.target!r}.")
    n = experiences(train.n_classes) if n_experiences is None else n_experiences
    bench = SPLITS[setting](train, test, n_experiences=n)
    large = len(train) > LARGE
    return Problem(
        setting,
        bench,
        _model(setting, bench, train, hidden),
        batch_size=(128 if large else 32) if batch_size is None else batch_size,
        epochs=(1 if large else 10) if epochs is None else epochs,
        capacity=max(1000 if large else 200, 10 * train.n_classes) if capacity is None else capacity,
        lr=lr,
    )


def _model(setting: str, bench: Benchmark, train: Dataset, hidden: tuple[int, ...]) -> Model:
    """A reduced ResNet-18 for images with colours, and an MLP for all else; with the classes of a task where that is known."""
    shape = tuple(train.x.shape[1:])
    if len(shape) == 3 and shape[0] == 3:
        stem: Literal["cifar", "imagenet"] = "cifar" if max(shape[1:]) <= 64 else "imagenet"
        model = models.resnet18(bench.n_classes, stem=stem, width=20, input_shape=shape)
    else:
        model = models.mlp(int(np.prod(shape)), hidden, bench.n_classes)
    return models.multi_head(model, models.class_masks(bench.train)) if setting == "task" else model
