"""Pickle files of plain data, lists, dicts, texts, numbers and numpy arrays, read without executing anything that is in them.

A pickle is a program: it names functions, and calls them. Here every name but the few by which numpy arrays are written is refused,
and those few are stand-ins that only record what they are called with. `array` then makes an array of the record, of its bytes.
Texts of Python 2, in which most data sets were written, come as bytes.

The reader is the one that is written in Python. The other allocates as much as a file says, before it has read a byte of it: a file
of ten bytes takes 69 GB by numbering an object 2^32 - 1.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

_NAMES = {
    ("_reconstruct", "multiarray"): "array",
    ("ndarray", "numpy"): "class",
    ("dtype", "numpy"): "dtype",
    ("scalar", "multiarray"): "scalar",
    ("_frombuffer", "numeric"): "buffer",
    ("encode", "_codecs"): "bytes",
    ("bytes", "__builtin__"): "bytes",
}
_MODULES = {"numpy", "_codecs", "__builtin__"} | {
    f"numpy.{core}.{part}" for core in ("core", "_core") for part in ("multiarray", "numeric")
}
_DTYPES = {"u1": 1, "i1": 1, "u2": 2, "i2": 2, "u4": 4, "i4": 4, "u8": 8, "i8": 8}


class _Record:
    """What a pickle would have called, with what, and the state that it would have set."""

    __slots__ = ("args", "kind", "state")

    def __init__(self, kind: str, args: tuple[Any, ...]) -> None:
        self.kind, self.args = kind, args
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Name:
    """A stand-in for a function or a class that a pickle names."""

    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, *args: Any) -> _Record | bytes:
        if self.kind == "bytes":  # how Python 3 writes bytes for Python 2: as a text whose characters they are, or as none
            text, encoding = args or ("", "latin1")
            if encoding not in ("latin1", b"latin1"):
                raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
            return str(text).encode("latin1")
        return _Record(self.kind, args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("the state of a function")


def _load_bytearray(reader: Any) -> None:
    (size,) = struct.unpack("<Q", reader.read(8))
    if size > reader.longest:
        raise pickle.UnpicklingError("it is cut off")
    reader.append(reader.read(size))


class _Reader(pickle._Unpickler):
    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: _load_bytearray}

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")
        self.longest = len(data)

    def find_class(self, module: str, name: str) -> Any:
        kind = _NAMES.get((name, module.rpartition(".")[2]))
        if kind is None or module not in _MODULES:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which plain data does not need, and would run it")
        return _Name(kind)


def read(path: Path) -> Any:
    """The content of a pickle file; arrays in it are records, for `array`. Raises ValueError, naming the file, for any other."""
    try:
        return _Reader(path.read_bytes()).load()
    except Exception as error:  # a damaged pickle raises nearly anything
        raise ValueError(f"{path}: cannot be read as a pickle of plain data: {type(error).__name__}: {error}") from error


def entry(path: Path, content: Any, name: str) -> Any:
    """The value of a key, written as a text or as bytes, of a dict. Raises ValueError naming the file if there is none."""
    for key in (name, name.encode()):
        if isinstance(content, dict) and key in content:
            return content[key]
    raise ValueError(f"{path}: holds no {name!r}.")


def array(path: Path, value: Any) -> np.ndarray:
    """An array of integers that was pickled, or a list of them. Raises ValueError naming the file for anything else."""
    try:
        if isinstance(value, _Record):
            return _array(value)
        if isinstance(value, list) and all(type(item) is int for item in value):
            return np.array(value, dtype=np.int64)
        if isinstance(value, list) and all(isinstance(item, _Record) and item.kind == "scalar" for item in value):
            return np.array([_scalar(item) for item in value], dtype=np.int64)
    except (TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path}: a damaged array: {error}") from error
    raise ValueError(f"{path}: expected an array or a list of integers.")


def _array(record: _Record) -> np.ndarray:
    if record.kind == "buffer":  # of pickle's protocol 5: bytes, dtype, shape, order
        data, dtype, shape, order = record.args
        fortran = order == "F"
    else:
        if record.kind != "array":
            raise ValueError("it is none")
        _, shape, dtype, fortran, data = record.state
    if not isinstance(data, (bytes, bytearray)) or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("its values are not bytes")
    found = _dtype(dtype)
    if math.prod(shape) * found.itemsize != len(data):
        raise ValueError(f"it holds {len(data)} bytes, but its shape is {tuple(shape)}")
    values = np.frombuffer(bytes(data), dtype=found)
    return values.reshape(tuple(shape), order="F" if fortran else "C")


def _scalar(record: _Record) -> int:
    dtype, data = record.args
    return int(np.frombuffer(data, dtype=_dtype(dtype))[0])


def _dtype(record: Any) -> np.dtype:
    name = record.args[0] if isinstance(record, _Record) and record.kind == "dtype" else None
    name = name.decode("latin1") if isinstance(name, bytes) else name
    if name not in _DTYPES:
        raise ValueError("it is not of integers")
    order = record.state[1] if record.state else "<"
    return np.dtype(("<" if order in ("<", "|", b"<", b"|") else ">") + name)
