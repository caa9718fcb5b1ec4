"""Data from elsewhere: numpy arrays, tensors, npz files.

Values are never changed: x keeps its dtype, floating or uint8; targets for regression keep their floating dtype, several labels a
row stay bool, and integer labels become int64, the only dtype that gathers and losses take. Anything else is refused, with the
conversion to write. So are images with their channels last, [N, H, W, C], unless `layout` says what they are: as [N, C, H, W] they
would be other images.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from cl_func import checks
from cl_func.sources import Dataset
from cl_func.tree import describe

Layout: TypeAlias = Literal["NCHW", "NHWC"] | None

_INPUTS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8)


def from_arrays(x: np.ndarray | Tensor, y: np.ndarray | Tensor, n_classes: int | None = None, *, layout: Layout = None) -> Dataset:
    """A Dataset of inputs x [N, ...] and targets y, each a numpy array or a tensor.

    x is floating or uint8 and keeps its dtype. y is one of the three kinds of `Dataset`: labels [N] of any integer dtype, which
    become int64; several labels a row, [N, C] bool; or targets for regression, [N] or [N, K] floating, which keep their dtype
    (losses ask for that of the model's outputs, float32 as a rule). `n_classes` is for labels [N] and defaults to the largest one
    plus one: give it where the last class may be missing, as in a test set. numpy arrays are copied; tensors are not, but
    are cut off their graph.
    layout: "NHWC" for images [N, H, W, C], which become [N, C, H, W]. By default x is taken as it is, but refused where it looks
        like such images: of four dimensions, the last of 1, 3 or 4 and the two in the middle larger; "NCHW" takes those too.
    Raises TypeError for other types and dtypes, bools [N] among them; ValueError as `Dataset` does, for images with their channels
    last, and for masked arrays of which an element is masked.

    >>> from_arrays(np.zeros((3, 2), dtype=np.float32), np.array([0, 1, 1], dtype=np.uint8))
    Dataset(x=float32[3, 2], y=int64[3], task=None, n_classes=2)
    >>> from_arrays(np.zeros((2, 32, 32, 3), dtype=np.uint8), np.array([0, 1]), layout="NHWC")
    Dataset(x=uint8[2, 3, 32, 32], y=int64[2], task=None, n_classes=2)
    """
    checks.choice("layout", layout, None, "NCHW", "NHWC")
    images = channels_first(inputs(x, "x"), 4, layout, "x")
    return Dataset(images, given_targets(y, "y"), n_classes=given_classes(n_classes))


def from_npz(path: str | Path, *, x: str = "x", y: str = "y", n_classes: int | None = None, layout: Layout = None) -> Dataset:
    """A Dataset of two arrays of an npz file, named by x and y, as `from_arrays` makes it of them.

    A file with both parts of a dataset is read twice: `from_npz(path, x="x_train", y="y_train")`, and so for the test part. Arrays
    of Python objects are refused: nothing in the file is executed.
    Raises FileNotFoundError for no such file; ValueError, naming the file, for one that is no npz or is damaged, and for a name
    that is not in it; and what `from_arrays` raises.
    """
    path = Path(checks.instance("path", path, (str, Path), "a path"))
    for name, value in (("x", x), ("y", y)):
        checks.text(name, value)
    checks.choice("layout", layout, None, "NCHW", "NHWC")
    given_classes(n_classes)
    if not path.is_file():
        raise FileNotFoundError(f"path: there is no file {path}.")
    names = {"x": x, "y": y}
    found = npz_arrays(path, list(names.values()), {name: argument for argument, name in names.items()})
    return from_arrays(found[x], found[y], n_classes, layout=layout)


def npz_arrays(path: Path, names: list[str], arguments: Mapping[str, str] | None = None) -> dict[str, np.ndarray]:
    """Some arrays of an npz file; ValueError, naming the file and the argument that gave a name, if that cannot be."""
    if not zipfile.is_zipfile(path):
        raise ValueError(f"path: {path} is no npz file, or is cut off; give an array of its own to cl.data.from_arrays.")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            held = list(arrays.files)
            found = {name: arrays[name] for name in names if name in held}
    except (OSError, EOFError, ValueError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"path: {path} is damaged, or holds what is no array of numbers: {error}") from error
    for name in names:
        if name not in found:
            raise ValueError(
                f"{(arguments or {}).get(name, 'path')}: {path} has no array {name!r}; it holds {', '.join(map(repr, held))}."
            )
    return found


def given_classes(n_classes: int | None) -> int:
    """The number of classes for a Dataset, 0 where it is to be counted; checked."""
    return 0 if n_classes is None else checks.positive_int("n_classes", n_classes)


def channels_first(x: Tensor, ndim: int, layout: Layout, name: str) -> Tensor:
    """x with its last dimension moved before the two ahead of it, if `layout` is "NHWC"; refused if it looks as if it should be.

    ndim: 4 for many images [N, H, W, C], 3 for one.
    """
    if layout == "NHWC":
        if x.ndim != ndim:
            raise ValueError(
                f"layout: 'NHWC' is for images {'[N, H, W, C]' if ndim == 4 else '[H, W, C]'}, {name} is {describe(x)}."
            )
        return x.movedim(-1, -3).contiguous()
    if layout is None and x.ndim == ndim and looks_channels_last(x.shape):
        order = (0, 3, 1, 2) if ndim == 4 else (2, 0, 1)
        raise ValueError(
            f"{name}: {describe(x)} looks like images with their channels last; give layout='NHWC' to have them moved, as "
            f"{name.rpartition(' ')[2]}.permute{order} does, or layout='NCHW' if they are channels, height, width as they are."
        )
    return x


def looks_channels_last(shape: Sequence[int]) -> bool:
    """Whether a shape [..., H, W, C] is that of images with their channels last rather than of [..., C, H, W]."""
    return shape[-1] in (1, 3, 4) and min(shape[-3:-1]) > 4


def as_tensor(value: Any, name: str) -> Tensor:
    """A numpy array of numbers, copied, or a tensor as it is, without its graph; TypeError for anything else.

    A dataset outlives every step: with a graph, what is computed from its rows would be kept from step to step.
    """
    if isinstance(value, Tensor):
        return value.detach() if value.requires_grad else value
    check_unmasked(value, name)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
        # A copy, which later writes to the array do not reach, in native byte order and row order, which torch asks for.
        return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="), order="C"))
    got, mend = type(value).__name__, "convert it with numpy.asarray(...) first"
    if isinstance(value, np.ndarray):
        got, mend = f"an array of {value.dtype}", "convert it with .astype(...) first"
        if value.dtype.kind in "USO":
            mend = "number the names, names, y = numpy.unique(values, return_inverse=True)"
            if value.dtype.kind == "O":
                mend = f"convert numbers with .astype(float), or {mend}"
    raise TypeError(f"{name}: expected a numeric numpy array or a tensor, got {got}; {mend}.")


def check_unmasked(value: Any, name: str) -> None:
    """Check that no element of a numpy array is masked; ValueError otherwise, since what is below a mask is no value."""
    if np.ma.is_masked(value):
        n = int(np.ma.count_masked(value))
        raise ValueError(
            f"{name}: {n} of {value.size} elements of the masked array are masked; leave such rows out, or fill them in, "
            f"{name.rpartition(' ')[2]}.filled(...)."
        )


def inputs(value: Any, name: str) -> Tensor:
    """Inputs as a floating or uint8 tensor; TypeError for other dtypes."""
    x = as_tensor(value, name)
    if x.dtype not in _INPUTS:
        is_tensor = isinstance(value, Tensor)
        mend = "x.float()" if is_tensor else "x.astype(numpy.float32)"
        if not (x.is_complex() or x.dtype == torch.bool):
            tokens = "x.long(), y" if is_tensor else "torch.from_numpy(x.astype(numpy.int64)), torch.from_numpy(y)"
            mend += f"; if they are tokens, make cl.Dataset({tokens})"
        raise TypeError(f"{name}: expected floating or uint8 inputs, got {describe(x)}; convert them with {mend}.")
    return x


def given_targets(value: Any, name: str) -> Tensor:
    """Targets as a Dataset takes them: integers as int64, bool [N, C] and floating ones as they are; TypeError for others."""
    y = as_tensor(value, name)
    if y.is_complex() or (y.dtype == torch.bool and y.ndim < 2):
        mend = f"{name}.long()" if isinstance(value, Tensor) else f"{name}.astype(numpy.int64)"
        raise TypeError(
            f"{name}: expected integer labels [N], bool labels [N, C] or floating targets, got {describe(y)}; "
            f"if they are class numbers, convert them with {mend}; if each row has this one label or not, give {name}[:, None]."
        )
    return y if y.is_floating_point() or y.dtype == torch.bool else y.to(torch.int64)
