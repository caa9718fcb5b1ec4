"""CORe50 (Lomonaco & Maltoni, "CORe50: a new dataset and benchmark for continuous object recognition", CoRL 2017), as published.

    core50_imgs.npz and paths.pkl       all 164,866 images, x uint8 [N, 128, 128, 3], and the name of each, s1/o1/C_01_01_000.png
    core50_128x128/ or core50_32x32/    or the images as files of those names
    LUP.pkl and labels.pkl              the rows and the labels of each batch, by scenario and run; the last is the test set
    batches_filelists/NC_inc/run0/      or lists of each batch, train_batch_00_filelist.txt .. and test_filelist.txt, a line each of
                                        name and label; those of NICv2 in NIC_v2_79/, NIC_v2_196/ and NIC_v2_391/

(https://vlomonaco.github.io/core50). Lists are taken where both are there, and so are the images of the npz.
"""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.data import plain_pickle
from cl_func.data.convert import npz_arrays
from cl_func.data.folder import ImageList, given_folder, image_datasets, image_options
from cl_func.sources import Dataset

Scenario: TypeAlias = Literal["ni", "nc", "nic", "nicv2_79", "nicv2_196", "nicv2_391"]

_LISTS = {
    "ni": "batches_filelists/NI_inc",
    "nc": "batches_filelists/NC_inc",
    "nic": "batches_filelists/NIC_inc",
    "nicv2_79": "NIC_v2_79",
    "nicv2_196": "NIC_v2_196",
    "nicv2_391": "NIC_v2_391",
}
_N_CLASSES = 50
_IMAGES = ("core50_128x128", "core50_32x32")

Batch: TypeAlias = tuple[list[str], list[int]]  # names and labels


def core50(
    folder: str | Path, scenario: Scenario = "nc", run: int = 0, *, cache: bool | str | Path = True, progress: bool = True
) -> tuple[Dataset, Dataset]:
    """(train, test) of CORe50: x uint8 [N, 3, 128, 128], y int64 [N] of 50 objects; the task label of a train row is its batch.

    `cl.streams.split_by_task(*cl.data.core50(folder))` is the benchmark: an experience for each batch, and one test set.

    scenario: "ni", new instances in 8 batches; "nc", new classes in 9; "nic", both in 79; or one of NICv2.
    run: the order of the batches, 0..9. Labels are those of the lists, which number the objects as they come in.
    cache, progress: as in `from_folder`, where image files are read.

    All of it takes 8 GB, which the npz takes once more while it is read. Nothing in the pickled files is executed. Raises
    FileNotFoundError for a folder, list or image that is not there; ValueError, naming the file, for one that is damaged.
    """
    root = given_folder("folder", folder)
    checks.choice("scenario", scenario, *_LISTS)
    checks.positive_int("run", run, least=0)
    options = image_options(None, "RGB", cache, progress)
    batches, test = _from_lists(root / _LISTS[scenario] / f"run{run}") or _from_pickles(root, scenario, run)
    train = ([name for names, _ in batches for name in names], [label for _, labels in batches for label in labels])
    for where, (_, labels) in (("train", train), ("test", test)):
        if not labels or not 0 <= min(labels) <= max(labels) < _N_CLASSES:
            raise ValueError(f"folder: {root}: the labels of {where} must be some, in 0..{_N_CLASSES - 1}.")
    if (root / "core50_imgs.npz").is_file():
        made = _from_npz(root, train, test)
    else:
        image_folder = next((root / name for name in _IMAGES if (root / name).is_dir()), None)
        if image_folder is None:
            raise FileNotFoundError(f"folder: {root} has neither core50_imgs.npz nor a folder {' or '.join(_IMAGES)}.")
        lists = [ImageList([image_folder / name for name in names], labels) for names, labels in (train, test)]
        made = image_datasets(image_folder, lists[0], lists[1], _N_CLASSES, options)
    task = torch.cat([torch.full((len(names),), i) for i, (names, _) in enumerate(batches)])
    return tree.replace(made[0], task=task), made[1]


def _from_lists(folder: Path) -> tuple[list[Batch], Batch] | None:
    """The batches and the test set of the lists in a folder; None if there are none."""
    if not folder.is_dir():
        return None
    files = sorted(folder.glob("train_batch_*_filelist.txt"), key=lambda file: int(file.name.split("_")[2]))
    if not files or not (folder / "test_filelist.txt").is_file():
        raise FileNotFoundError(f"folder: {folder} holds no lists train_batch_00_filelist.txt .. and test_filelist.txt.")
    return [_list(file) for file in files], _list(folder / "test_filelist.txt")


def _list(file: Path) -> Batch:
    names, labels = [], []
    for i, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        name, _, label = line.strip().rpartition(" ")
        if not name or not label.isdecimal():
            raise ValueError(f"{file}: line {i}: expected a name and a label, got {line!r}.")
        names.append(name)
        labels.append(int(label))
    return names, labels


def _from_pickles(root: Path, scenario: str, run: int) -> tuple[list[Batch], Batch]:
    if not (root / "LUP.pkl").is_file():
        raise FileNotFoundError(f"run: {root} has neither the lists {_LISTS[scenario]}/run{run} nor LUP.pkl.")
    names = _names(root)
    parts: list[list[Any]] = []
    for file in ("LUP.pkl", "labels.pkl"):
        runs = plain_pickle.entry(root / file, plain_pickle.read(root / file), scenario)
        if not isinstance(runs, list) or not all(isinstance(one, list) for one in runs):
            raise ValueError(f"{root / file}: expected a list of runs for {scenario}.")
        if run >= len(runs):
            raise ValueError(f"run: {root / file} holds the runs 0..{len(runs) - 1} of {scenario}, got {run}.")
        parts.append([plain_pickle.array(root / file, batch).tolist() for batch in runs[run]])
    rows, labels = parts
    if [len(batch) for batch in rows] != [len(batch) for batch in labels] or len(rows) < 2:
        raise ValueError(f"{root / 'labels.pkl'}: its batches are not those of LUP.pkl.")
    if not all(0 <= row < len(names) for batch in rows for row in batch):
        raise ValueError(f"{root / 'LUP.pkl'}: rows must lie in 0..{len(names) - 1}, the number of names in paths.pkl.")
    batches = [([names[row] for row in own], found) for own, found in zip(rows, labels, strict=True)]
    return batches[:-1], batches[-1]


def _names(root: Path) -> list[str]:
    if not (root / "paths.pkl").is_file():
        raise FileNotFoundError(f"folder: {root} has no paths.pkl, the names of the images.")
    names = plain_pickle.read(root / "paths.pkl")
    if not isinstance(names, list) or not all(isinstance(name, (str, bytes)) for name in names):
        raise ValueError(f"{root / 'paths.pkl'}: expected a list of names.")
    return [name.decode("latin1") if isinstance(name, bytes) else name for name in names]


def _from_npz(root: Path, train: Batch, test: Batch) -> tuple[Dataset, Dataset]:
    file = root / "core50_imgs.npz"
    x = npz_arrays(file, ["x"])["x"]
    position = {name: i for i, name in enumerate(_names(root))}
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] != 3 or len(x) != len(position):
        raise ValueError(
            f"{file}: expected x uint8 [{len(position)}, H, W, 3], a row for each name in paths.pkl, got {x.dtype} {list(x.shape)}."
        )
    missing = [name for name in (*train[0], *test[0]) if name not in position]
    if missing:
        raise ValueError(f"{root / 'paths.pkl'}: has no {missing[0]}, which a list names.")
    first, second = (
        Dataset(_taken(x, [position[name] for name in names]), torch.tensor(labels), n_classes=_N_CLASSES)
        for names, labels in (train, test)
    )
    return first, second


def _taken(x: np.ndarray, rows: list[int]) -> Tensor:
    """Some rows of images [N, H, W, C] as [n, C, H, W]."""
    found = torch.empty(len(rows), *operator.itemgetter(3, 1, 2)(x.shape), dtype=torch.uint8)
    for i, row in enumerate(rows):  # one by one: what numpy would gather has the channels last, and must be copied again
        found[i] = torch.from_numpy(x[row]).permute(2, 0, 1)
    return found
