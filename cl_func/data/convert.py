"""Data from elsewhere: numpy arrays, tensors, torch Datasets.

Values are never changed: x keeps its dtype, floating or uint8; targets for regression keep their floating dtype, several labels a
row stay bool, and integer labels become int64, the only dtype that gathers and losses take. Anything else is refused, with the
conversion to write.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.utils.data
from torch import Tensor

from cl_func import checks
from cl_func.sources import Dataset
from cl_func.tree import describe

_INPUTS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8)


def from_arrays(x: np.ndarray | Tensor, y: np.ndarray | Tensor, n_classes: int | None = None) -> Dataset:
    """A Dataset of inputs x [N, ...] and targets y, each a numpy array or a tensor.

    x is floating or uint8 and keeps its dtype. y is one of the three kinds of `Dataset`: labels [N] of any integer dtype, which
    become int64; several labels a row, [N, C] bool; or targets for regression, [N] or [N, K] floating, which keep their dtype
    (losses ask for that of the model's outputs, float32 as a rule). `n_classes` is for labels [N] and defaults to the largest one
    plus one: give it where the last class may be missing, as in a test set. numpy arrays are copied; tensors are not.
    Raises TypeError for other types and dtypes, bools [N] among them; ValueError as `Dataset` does.

    >>> from_arrays(np.zeros((3, 2), dtype=np.float32), np.array([0, 1, 1], dtype=np.uint8))
    Dataset(x=float32[3, 2], y=int64[3], task=None, n_classes=2)
    """
    return Dataset(_inputs(x, "x"), _targets(y, "y"), n_classes=_classes(n_classes))


def from_torch(dataset: Any, n_classes: int | None = None) -> Dataset:
    """A Dataset of all items of a map-style torch Dataset (anything with len() and [i]), stacked in order.

    The items are pairs (x, y), of one shape and dtype in all: x a floating or uint8 tensor or numpy array [...]; y an integer (a
    Python int, a numpy integer or a 0-d tensor), several labels [C] bool, or a target for regression, a float (a Python float
    becomes float32) or floating [K]. Random augmentation is drawn once, when the items are read.
    Raises TypeError for anything but a map-style dataset of such pairs, and ValueError for an empty dataset or items that differ in
    shape; both name the index of the item.
    """
    if type(dataset) is torch.utils.data.TensorDataset and len(dataset.tensors) == 2:
        return from_arrays(*dataset.tensors, n_classes=n_classes)
    # torch's own class does not declare len(), so the argument is Any and looked at here.
    indexed = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    if not indexed or isinstance(dataset, (Mapping, Tensor, np.ndarray, str, bytes)):
        raise TypeError(f"dataset: expected a map-style torch Dataset, with len() and [i], got {type(dataset).__name__}.")
    n = len(dataset)
    if n == 0:
        raise ValueError("dataset: it is empty; give at least one item.")
    x: Tensor | None = None
    y: Tensor | None = None
    for i in range(n):
        item, label = _pair(dataset[i], i)
        if x is None or y is None:
            # Filled in place: a list of all items would hold the data twice.
            x, y = item.new_empty(n, *item.shape), label.new_empty(n, *label.shape)
        for name, one, all_ in (("x", item, x), ("y", label, y)):
            if one.shape != all_.shape[1:]:
                raise ValueError(
                    f"dataset: items differ in shape: {name} of item 0 is {describe(all_[0])}, of item {i} {describe(one)}."
                )
            if one.dtype != all_.dtype:
                raise TypeError(
                    f"dataset: items differ in dtype: {name} of item 0 is {describe(all_[0])}, of item {i} {describe(one)}."
                )
            all_[i] = one
    assert x is not None
    assert y is not None
    return Dataset(x, y.to(x.device), n_classes=_classes(n_classes))


def _classes(n_classes: int | None) -> int:
    if n_classes is None:
        return 0  # for Dataset: the largest label plus one
    return checks.positive_int("n_classes", n_classes)


def _tensor(value: Any, name: str) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
        # A copy, which later writes to the array do not reach, in native byte order and row order, which torch asks for.
        return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="), order="C"))
    got = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
    raise TypeError(f"{name}: expected a numeric numpy array or a tensor, got {got}; convert it with numpy.asarray(...) first.")


def _inputs(value: Any, name: str) -> Tensor:
    x = _tensor(value, name)
    if x.dtype not in _INPUTS:
        mend = f"{name}.float()" if isinstance(value, Tensor) else f"{name}.astype(numpy.float32)"
        if x.dtype == torch.int64:
            mend += (
                f"; if they are tokens, make cl.Dataset({name if isinstance(value, Tensor) else f'torch.from_numpy({name})'}, y)"
            )
        raise TypeError(f"{name}: expected floating or uint8 inputs, got {describe(x)}; convert them with {mend}.")
    return x


def _targets(value: Any, name: str) -> Tensor:
    y = _tensor(value, name)
    if y.is_complex() or (y.dtype == torch.bool and y.ndim < 2):
        mend = f"{name}.long()" if isinstance(value, Tensor) else f"{name}.astype(numpy.int64)"
        raise TypeError(
            f"{name}: expected integer labels [N], bool labels [N, C] or floating targets, got {describe(y)}; "
            f"if they are class numbers, convert them with {mend}; if each row has this one label or not, give {name}[:, None]."
        )
    return y if y.is_floating_point() or y.dtype == torch.bool else y.to(torch.int64)


def _pair(item: Any, i: int) -> tuple[Tensor, Tensor]:
    """The input and the target of an item; labels as int64."""
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise TypeError(f"dataset: expected items (x, y); item {i} is {describe(item)}.")
    x, label = item
    array = np.asarray(label) if isinstance(label, np.generic) else label
    y: Tensor | None = None
    if isinstance(array, Tensor) or (isinstance(array, np.ndarray) and array.dtype.kind in "biuf"):
        y = _tensor(array, f"dataset: y of item {i}")
    elif isinstance(label, (int, float)) and not isinstance(label, bool):
        y = torch.tensor(label)
    if y is not None:
        integral = not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool)
        if integral and y.ndim == 0:
            y = y.to(torch.int64)
        if (integral and y.ndim == 0) or (y.dtype == torch.bool and y.ndim == 1) or (y.is_floating_point() and y.ndim < 2):
            return _inputs(x, f"dataset: x of item {i}"), y
    raise TypeError(
        f"dataset: y of item {i}: expected one integer, bool labels [C], or a float or floating [K], got {describe(label)}."
    )
