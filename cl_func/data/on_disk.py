"""Data larger than memory: inputs that stay on a disk, and are read minibatch by minibatch, ahead of the step."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from cl_func import checks
from cl_func.data.convert import given_classes, given_targets, looks_channels_last
from cl_func.sources.reading import DTYPES, Reader, array_file, table, unmasked
from cl_func.sources.stored import Stored

_KINDS = "the path of a .npy file, a numpy.memmap, or a table with a length and [rows], such as an array of h5py or zarr"


def stored(
    x: str | Path | np.memmap[Any, Any] | Any,
    y: str | Path | np.ndarray | Tensor,
    task: np.ndarray | Tensor | None = None,
    n_classes: int | None = None,
    *,
    largest: int = 1 << 28,
    layout: Literal["NCHW"] | None = None,
) -> Stored:
    """A source of inputs that stay on a disk, for data larger than memory; streams and strategies take it as they take a Dataset.

    x: inputs [N, ...] of uint8, int64 (tokens) or floating, C order: the path of a .npy file; a numpy.memmap; or any table with
        `len(x)`, or a shape, and `x[rows]`, which gives an array [n, ...] for a numpy array [n] int64 of row numbers, which ascend
        and differ.
    y: targets as `from_arrays` takes them, or the path of a .npy file of them. They are held in memory, 8 bytes for a label, so
        that streams are made, and rows shuffled, without reading x.
    task: task labels [N], integers, if rows have their own.
    n_classes: as for `from_arrays`.
    largest: how many bytes may be gathered at once. More raise ValueError, where all of an experience would be read.
    layout: "NCHW" insists that images which look as if their channels were last, [N, H, W, C], are [N, C, H, W].

    Only the rows of a minibatch are read, and a thread reads those of the next one meanwhile. A file is opened by its absolute
    path, by every process that the source is sent to; one that is written to while it is open raises ValueError. A run is resumed,
    and a sweep gone on with, if y and task, the dtype and shape of x, some thousand of its rows and the time of its last change are
    the same, wherever the file lies.

    Raises TypeError or ValueError for a file that is missing or no array, for other dtypes or orders, and for what a Dataset
    refuses.

    >>> import tempfile, torch
    >>> folder = Path(tempfile.mkdtemp())
    >>> np.save(folder / "x.npy", np.arange(12, dtype=np.float32).reshape(6, 2))
    >>> data = stored(folder / "x.npy", np.array([0, 1, 0, 1, 0, 1]))
    >>> data.gather_x(torch.tensor([5, 0]))
    tensor([[10., 11.],
            [ 0.,  1.]])
    """
    reader = _reader(x)
    if reader.dtype not in DTYPES:
        known = ", ".join(str(dtype) for dtype in DTYPES)
        raise TypeError(f"x: expected one of {known} in native byte order, got {reader!r}; write a file of one of these.")
    checks.choice("layout", layout, None, "NCHW")
    if layout is None and len(reader.shape) == 4 and looks_channels_last(reader.shape):
        raise ValueError(
            f"x: {reader!r} looks like images with their channels last, and models take them first; write x.transpose(0, 3, 1, 2), "
            "or give layout='NCHW' if they are channels, height, width as they are."
        )
    labels = None if task is None else given_targets(task, "task")
    targets = given_targets(_loaded(y) if isinstance(y, (str, Path)) else y, "y")
    return Stored(file=reader, y=targets, task=labels, n_classes=given_classes(n_classes), largest=largest)


def _loaded(path: str | Path) -> np.ndarray:
    found = _opened(path, "y", None)
    if not isinstance(found, np.ndarray):
        raise ValueError("y: the file holds several arrays; give the path of a .npy file of one.")
    return found


def _opened(path: str | Path, name: str, mode: Any) -> Any:
    try:
        return np.load(path, mmap_mode=mode)
    except FileNotFoundError as error:
        raise ValueError(
            f"{name}: there is no file {str(path)!r}; give the path of a .npy file, as numpy.save writes it."
        ) from error
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{name}: {str(path)!r} is no .npy file that can be read ({error}); write it by numpy.save.") from error


def _reader(x: Any) -> Reader:
    if isinstance(x, (str, Path)):
        x = _opened(x, "x", "r")
        if not isinstance(x, np.memmap):
            raise ValueError("x: the file holds several arrays; give the path of a .npy file of one.")
    if isinstance(x, np.memmap):
        _check_shape(x.dtype, x.shape)
        return _file_of(x)
    if isinstance(x, (np.ndarray, Tensor)):
        raise TypeError(f"x: expected {_KINDS}; {type(x).__name__}s are in memory, for which there is cl.data.from_arrays(x, y).")
    if isinstance(x, (dict, list, tuple, bytes)) or not hasattr(x, "__getitem__"):
        raise checks.type_error("x", _KINDS, x)
    shape: Any = getattr(x, "shape", None)  # an array of zarr has no len()
    if not hasattr(x, "__len__") and not (isinstance(shape, tuple) and shape):
        raise checks.type_error("x", _KINDS, x)
    n = len(x) if hasattr(x, "__len__") else int(shape[0])
    if not n:
        raise ValueError("x: the table is empty; give at least one row.")
    try:
        first = x[np.zeros(1, dtype=np.int64)]
    except Exception as error:
        raise TypeError(
            f"x: expected {_KINDS}; x[rows] of an array of row numbers raises {type(error).__name__}: {error}"
        ) from error
    if isinstance(first, dict):
        raise TypeError(
            f"x: expected x[rows] to give an array, got columns {', '.join(map(str, first))}; give one that holds inputs."
        )
    first = unmasked(first, f"a {type(x).__name__}")
    if first.shape[:1] != (1,):
        raise TypeError(f"x: expected x[rows] to give an array [1, ...] for one row, got {first.dtype}{list(first.shape)}.")
    _check_shape(first.dtype, (n, *first.shape[1:]))
    return table(x, first.dtype, (n, *first.shape[1:]))


def _check_shape(dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    if len(shape) < 2 or 0 in shape:
        raise ValueError(f"x: expected inputs [N, ...] of at least one row, got {dtype}{list(shape)}.")


def _file_of(x: np.memmap[Any, Any]) -> Reader:
    """The reader of the file behind a memory map, or of some of its rows."""
    whole: Any = x
    while not isinstance(whole.base, mmap.mmap):
        if not isinstance(whole.base, np.ndarray):
            raise TypeError(f"x: expected a numpy.memmap of a file, got one in memory, {x.dtype}{list(x.shape)}.")
        whole = whole.base
    if not isinstance(getattr(whole, "filename", None), (str, Path)):
        raise TypeError("x: the memory map does not know its file; open it by its path, numpy.memmap(path, ...).")
    if whole.mode == "c":
        raise ValueError("x: what is written to a memory map of mode 'c' is not in its file; open it with mode='r'.")
    if not x.flags.c_contiguous:
        raise ValueError(
            f"x: the rows {x.dtype}{list(x.shape)} do not follow each other in the file; "
            "write them by numpy.save, of an array in C order."
        )
    if whole.mode != "r":
        whole.flush()
    start = x.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
    return array_file(whole.filename, whole.offset + start, x.dtype, x.shape)
