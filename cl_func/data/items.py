"""Datasets that give one row at a time: torch's map-style Datasets and those of the Hugging Face hub.

All rows are read once, in order, and stacked. A PIL image becomes uint8 [C, H, W], as `torchvision.transforms.PILToTensor` makes
it; how it is normalised and augmented belongs to the model (`cl.models.normalized`, `cl.models.augmented`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.utils.data
from torch import Tensor

from cl_func import checks, signatures
from cl_func.data.convert import Layout, as_tensor, channels_first, from_arrays, given_classes, inputs
from cl_func.data.images import from_pil, is_pil
from cl_func.sources import Dataset
from cl_func.tree import describe

Row = tuple[Any, Any, Any]  # x, y and the task label, None where there is none


def from_torch(
    dataset: Any,
    n_classes: int | None = None,
    *,
    x: str | None = None,
    y: str | None = None,
    task: str | None = None,
    transform: Callable[[Any], Any] | None = None,
    layout: Layout = None,
) -> Dataset:
    """A Dataset of all items of a map-style torch Dataset (anything with len() and [i]), stacked in order.

    The items are (x, y) or (x, y, task), or mappings, of which `x`, `y` and, if there is one, `task` are the keys. All are of one
    shape and dtype: x a PIL image, which becomes uint8 [C, H, W] (1 channel of mode L, 3 of RGB, 4 of RGBA), or a floating or uint8
    tensor or numpy array [...]; y an integer (a Python int, a numpy integer or a 0-d tensor), several labels [C] bool, or a target
    for regression, a float (a Python float becomes float32) or floating [K]; task an integer.

    n_classes: as in `from_arrays`.
    transform: applied to x before it is looked at, such as `torchvision.transforms.Resize((64, 64))`. Random augmentation would be
        drawn once, here and for all epochs; it belongs to the model, `cl.models.augmented`. So does that of the dataset's own.
    layout: "NHWC" for arrays [H, W, C], which become [C, H, W], as in `from_arrays`.

    Raises TypeError for anything but a map-style dataset of such items; ValueError for an empty dataset, items that differ in
    shape, arrays with their channels last, and PIL images of other modes. All of them name the index of the item.

    >>> from_torch([(torch.zeros(2), 0, 0), (torch.ones(2), 1, 1)])
    Dataset(x=float32[2, 2], y=int64[2], task=int64[2], n_classes=2)
    """
    _check_options(x, y, task, transform, layout, n_classes)
    if type(dataset) is torch.utils.data.TensorDataset and len(dataset.tensors) == 2 and transform is None and x is None:
        return from_arrays(*dataset.tensors, n_classes=n_classes, layout=layout)
    # torch's own class does not declare len(), so the argument is Any and looked at here.
    indexed = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    if not indexed or isinstance(dataset, (Mapping, Tensor, np.ndarray, str, bytes)):
        raise TypeError(f"dataset: expected a map-style torch Dataset, with len() and [i], got {type(dataset).__name__}.")
    columns = None if x is None or y is None else (x, y, task)
    return _stacked(dataset, columns, transform, layout, n_classes)


def from_hf(
    dataset: Any,
    *,
    x: str,
    y: str,
    task: str | None = None,
    n_classes: int | None = None,
    transform: Callable[[Any], Any] | None = None,
    layout: Layout = None,
) -> Dataset:
    """A Dataset of two columns of a Hugging Face `datasets.Dataset`: inputs x and targets y.

    A column of images becomes uint8 [N, C, H, W], one of class labels int64 [N] with the classes that it declares. Columns of lists
    are read with `dataset.with_format("numpy")`. The other arguments are those of `from_torch`. Nothing is imported: any table with
    `column_names`, `features`, len() and [i] will do.

        hub = datasets.load_dataset("uoft-cs/cifar100")
        train, test = (cl.data.from_hf(hub[part], x="img", y="fine_label") for part in ("train", "test"))

    Raises TypeError for a streamed dataset and for one of several splits, of which one must be given; ValueError for a column that
    is not there or holds texts; and what `from_torch` raises.
    """
    names = getattr(dataset, "column_names", None)
    if isinstance(names, Mapping):
        raise TypeError(f"dataset: it holds the splits {', '.join(map(repr, names))}; give one of them, such as dataset['train'].")
    if not isinstance(names, list) or not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise TypeError(f"dataset: expected a datasets.Dataset with column_names, len() and [i], got {type(dataset).__name__}.")
    _check_options(x, y, task, transform, layout, n_classes)
    for name, column in (("x", x), ("y", y), ("task", task)):
        if name != "task" or column is not None:
            checks.text(name, column)
        if column is not None and column not in names:
            raise ValueError(f"{name}: there is no column {column!r}; there are {', '.join(map(repr, names))}.")
    label = (getattr(dataset, "features", None) or {}).get(y)
    if getattr(label, "dtype", None) in ("string", "large_string"):
        raise ValueError(f"y: the column {y!r} holds texts; number them, dataset.class_encode_column({y!r}).")
    if len(dataset) and transform is None and isinstance(dataset[0][x], list):
        raise TypeError(f"x: the column {x!r} holds lists; have them as arrays, dataset.with_format('numpy').")
    declared: int | None = getattr(label, "num_classes", None)
    return _stacked(dataset, (x, y, task), transform, layout, declared if n_classes is None else n_classes)


def _check_options(x: Any, y: Any, task: Any, transform: Any, layout: Any, n_classes: Any) -> None:
    for name, value in (("x", x), ("y", y), ("task", task)):
        if value is not None:
            checks.text(name, value)
    if (x is None) != (y is None) or (task is not None and x is None):
        raise ValueError("x, y: give both, the keys of the items that are mappings, or neither, for items (x, y).")
    if transform is not None:
        signatures.function("transform", transform, 1, "a function of x")
    checks.choice("layout", layout, None, "NCHW", "NHWC")
    given_classes(n_classes)


def _stacked(
    dataset: Any,
    columns: tuple[str, str, str | None] | None,
    transform: Callable[[Any], Any] | None,
    layout: Layout,
    n_classes: int | None,
) -> Dataset:
    n = len(dataset)
    if n == 0:
        raise ValueError("dataset: it is empty; give at least one item.")
    found: dict[str, Tensor] = {}
    with_task = None
    for i in range(n):
        value, label, own_task = _row(dataset[i], i, columns, with_task)
        with_task = own_task is not None
        one = {"x": _input(value if transform is None else transform(value), i, layout), "y": _label(label, i)}
        if with_task:
            one["task"] = torch.tensor(_task(own_task, i))
        # Filled in place: a list of all items would hold the data twice.
        found = found or {name: part.new_empty(n, *part.shape) for name, part in one.items()}
        for name, part in one.items():
            _check_like_first(name, part, found[name], i)
            found[name][i] = part
    device = found["x"].device
    tasks = found["task"].to(device) if "task" in found else None
    return Dataset(found["x"], found["y"].to(device), tasks, n_classes=given_classes(n_classes))


def _check_like_first(name: str, one: Tensor, all_: Tensor, i: int) -> None:
    told = f"{name} of item 0 is {describe(all_[0])}, of item {i} {describe(one)}"
    if one.shape != all_.shape[1:]:
        mend = ""
        if one.ndim == 3:
            height, width = all_.shape[2:]
            mend = f"; make them alike, such as by transform=torchvision.transforms.Resize(({height}, {width}))"
        raise ValueError(f"dataset: items differ in shape: {told}{mend}.")
    if one.dtype != all_.dtype:
        raise TypeError(f"dataset: items differ in dtype: {told}.")


def _row(item: Any, i: int, columns: tuple[str, str, str | None] | None, with_task: bool | None) -> Row:
    """x, y and the task label of an item. with_task: whether the items before had one, None at the first."""
    if columns is not None:
        if not isinstance(item, Mapping):
            raise TypeError(f"dataset: with x and y given, items are mappings; item {i} is {describe(item)}.")
        missing = [key for key in columns if key is not None and key not in item]
        if missing:
            raise ValueError(f"dataset: item {i} has no {missing[0]!r}, but {', '.join(map(repr, item))}.")
        return item[columns[0]], item[columns[1]], None if columns[2] is None else item[columns[2]]
    if isinstance(item, Mapping):
        keys = ", ".join(map(repr, item))
        raise TypeError(f"dataset: item {i} is a mapping; say which keys are the inputs and the targets, x= and y= of {keys}.")
    lengths = {None: (2, 3), False: (2,), True: (3,)}[with_task]
    if not isinstance(item, (tuple, list)) or len(item) not in lengths:
        expected = {None: "(x, y) or (x, y, task)", False: "(x, y)", True: "(x, y, task)"}[with_task]
        raise TypeError(f"dataset: expected items {expected}; item {i} is {describe(item)}.")
    return item[0], item[1], item[2] if len(item) == 3 else None


def _input(value: Any, i: int, layout: Layout) -> Tensor:
    name = f"dataset: x of item {i}"
    return from_pil(value, name) if is_pil(value) else channels_first(inputs(value, name), 3, layout, name)


def _label(label: Any, i: int) -> Tensor:
    """The target of an item, integer labels as int64."""
    array = np.asarray(label) if isinstance(label, np.generic) else label
    y: Tensor | None = None
    if isinstance(array, Tensor) or (isinstance(array, np.ndarray) and array.dtype.kind in "biuf"):
        y = as_tensor(array, f"dataset: y of item {i}")
    elif isinstance(label, (int, float)) and not isinstance(label, bool):
        y = torch.tensor(label)
    if y is not None:
        integral = not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool)
        if integral and y.ndim == 0:
            return y.to(torch.int64)
        if (y.dtype == torch.bool and y.ndim == 1) or (y.is_floating_point() and y.ndim < 2):
            return y
    raise TypeError(
        f"dataset: y of item {i}: expected one integer, bool labels [C], or a float or floating [K], got {describe(label)}."
    )


def _task(value: Any, i: int) -> int:
    """The task label of an item; a float that is a whole number is one too, as continuum gives them."""
    number = value.tolist() if isinstance(value, (np.generic, np.ndarray, Tensor)) else value
    if isinstance(number, float) and number.is_integer():
        return int(number)
    if isinstance(number, bool) or not isinstance(number, int):
        given = "a PIL image" if is_pil(value) else describe(value)
        raise TypeError(f"dataset: expected items (x, y, task), the task label an integer; that of item {i} is {given}.")
    return number
