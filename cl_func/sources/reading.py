"""Rows read from a disk: in files of numpy, or in any table that gives rows by their numbers.

Reading is an opaque operation: one node of a compiled program, and one read for all lanes under vmap. What is read is a copy of the
rows asked for; the pages of the file that this took are given back at once, so that they do not count as this process's memory.

Reading ahead: `ahead` lets a thread begin with rows that will be asked for soon. Each thread of the caller keeps the last few
blocks of rows, by their numbers; a block is found again whatever the order of its rows. So reading ahead changes when something is
read, never what.
"""

from __future__ import annotations

import abc
import functools
import hashlib
import mmap
import os
import threading
import uuid
import weakref
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cl_func.torch_private import in_dispatch_mode, in_transform

DTYPES = {
    np.dtype(np.uint8): torch.uint8,
    np.dtype(np.int64): torch.int64,
    np.dtype(np.float16): torch.float16,
    np.dtype(np.float32): torch.float32,
    np.dtype(np.float64): torch.float64,
}
BLOCKS = 4  # that a thread keeps: the minibatch of the step, the next one, and two more
LARGEST_BLOCK = 1 << 26  # bytes; larger ones are neither kept nor read ahead
THREADS = 4  # that read ahead
SAMPLED_ROWS, SAMPLED_BYTES = 1000, 1 << 25  # of a digest, at most


class Reader(abc.ABC):
    """Rows [N, ...] that are read when they are asked for. Equal ones give the same rows; one is open for all that are equal."""

    name: str  # of what is read, for messages
    key: str  # equal keys: the same rows
    dtype: np.dtype[Any]
    shape: tuple[int, ...]  # [N, ...]

    def __len__(self) -> int:
        return self.shape[0]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reader) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"{self.name} {self.dtype}{list(self.shape)}"

    @property
    def row_bytes(self) -> int:
        """The size of a row."""
        return self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))

    @abc.abstractmethod
    def read(self, rows: np.ndarray) -> np.ndarray:
        """The rows [n, ...] of these numbers, int64, which ascend and differ."""

    def check(self) -> None:  # noqa: B027  # not abstract: most tables cannot tell
        """Raise ValueError if what was opened has changed since."""

    @property
    def modified(self) -> str | None:
        """When it was last written to, if that is known."""
        return None

    @functools.cached_property
    def digest(self) -> str:
        """A digest of the first row, the last, and up to a thousand between, evenly spaced, but of at most 32 MB."""
        n = min(len(self), SAMPLED_ROWS, max(16, SAMPLED_BYTES // max(1, self.row_bytes)))
        rows = np.unique(np.linspace(0, len(self) - 1, n).round().astype(np.int64))
        found = hashlib.sha256()
        for some in np.array_split(rows, -(-len(rows) // 64)):
            found.update(np.ascontiguousarray(self.read(some)).data)
        return found.hexdigest()[:16]


_OPEN = weakref.WeakValueDictionary[str, Reader]()  # by key: compiled programs find them here
_OPENING = threading.RLock()


def _one(made: Reader) -> Reader:
    """The open reader that equals a new one, or else the new one."""
    with _OPENING:
        return _OPEN.setdefault(made.key, made)


class ArrayFile(Reader):
    """The rows of an array in a file, in C order from the byte `offset` on; made by `array_file`."""

    def __init__(self, path: str, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self.name, self.path, self.offset, self.dtype, self.shape = path, path, offset, dtype, shape
        try:
            self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise ValueError(
                f"x: cannot open {path}: {error.strerror}; the file must be there, under this path, wherever its rows are read."
            ) from error
        weakref.finalize(self, os.close, self.descriptor)
        self.state = self._stat()
        needed = offset + len(self) * self.row_bytes
        if self.state[0] < needed:
            raise ValueError(
                f"x: {path} has {self.state[0]} bytes, fewer than the {needed} of {dtype}{list(shape)}; is it complete?"
            )
        self.map = mmap.mmap(self.descriptor, needed, access=mmap.ACCESS_READ)
        if hasattr(self.map, "madvise"):  # what is read is asked for explicitly, see `read`
            self.map.madvise(mmap.MADV_RANDOM)
        self.array = np.frombuffer(self.map, dtype, int(np.prod(shape, dtype=np.int64)), offset).reshape(shape)
        self.key = repr((path, offset, str(dtype), shape, self.state, self.digest))

    def _stat(self) -> tuple[int, int]:
        found = os.fstat(self.descriptor)
        return found.st_size, found.st_mtime_ns

    def check(self) -> None:
        """Raise ValueError if the file has been written to since it was opened."""
        if self._stat() != self.state:
            raise ValueError(f"x: {self.path} has been written to since it was opened; make the source anew, from the new file.")

    @property
    def modified(self) -> str:
        """When the file was last written to, in UTC."""
        return datetime.fromtimestamp(self.state[1] / 1e9, UTC).isoformat()

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The rows of these numbers; the disk is asked for all of them before the first one is waited for.

        One call for all rows, without the interpreter's lock: a call for each would wait for the lock each time, while a step runs.
        """
        self.check()
        if hasattr(self.map, "madvise"):
            size = self.row_bytes
            cuts = np.flatnonzero(np.diff(rows) != 1) + 1
            starts = self.offset + rows[np.concatenate([[0], cuts])[: len(rows)]] * size
            ends = self.offset + (rows[np.concatenate([cuts, [len(rows)]])[: len(rows)] - 1] + 1) * size
            starts -= starts % mmap.PAGESIZE
            for start, length in zip(starts.tolist(), (ends - starts).tolist(), strict=True):
                self.map.madvise(mmap.MADV_WILLNEED, start, length)
        found = self.array.take(rows, axis=0)
        if hasattr(self.map, "madvise"):
            self.map.madvise(mmap.MADV_DONTNEED)
        return found

    def __reduce__(self) -> Any:
        return _array_file_again, (self.path, self.offset, self.dtype, self.shape, self.digest)


def array_file(path: str | Path, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Reader:
    """The reader of an array in a file; ValueError for a file that is not there, or is too short."""
    return _one(ArrayFile(str(Path(path).absolute()), offset, dtype, shape))


def _array_file_again(path: str, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...], digest: str) -> Reader:
    """What is unpickled: the file is opened here, wherever that is, and must hold the same rows."""
    found = array_file(path, offset, dtype, shape)
    if found.digest != digest:
        raise ValueError(f"x: {path} holds other rows than when the source was made; give the same file, or make the source anew.")
    return found


class Table(Reader):
    """The rows that `table[rows]` gives, for an object with a length; made by `table`."""

    def __init__(self, table: Any, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], token: str) -> None:
        self.table, self.name, self.dtype, self.shape, self.key = table, name, dtype, shape, token

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The rows of these numbers."""
        found = unmasked(self.table[rows], self.name)
        if found.shape != (len(rows), *self.shape[1:]) or found.dtype != self.dtype:
            raise ValueError(
                f"x: expected {self.name} to give {self.dtype}{[len(rows), *self.shape[1:]]} for {len(rows)} rows, as it gives for "
                f"the first, got {found.dtype}{list(found.shape)}."
            )
        return found

    def __reduce__(self) -> Any:
        return _table_again, (self.table, self.name, self.dtype, self.shape, self.key)


def unmasked(rows: Any, name: str) -> np.ndarray:
    """Rows that a table gave, as an array; ValueError if an element is masked, since what is below a mask is no value."""
    if np.ma.is_masked(rows):
        raise ValueError(
            f"x: {name} gives rows of which {np.ma.count_masked(rows)} elements are masked; give a table that fills them in, "
            "x[rows].filled(...)."
        )
    return np.asarray(rows)


def table(value: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Reader:
    """The reader of a table, the same for the same object."""
    with _OPENING:
        known = [one for one in _OPEN.values() if isinstance(one, Table) and one.table is value]
    return known[0] if known else _one(Table(value, f"a {type(value).__name__}", dtype, shape, f"table {uuid.uuid4().hex}"))


def _table_again(value: Any, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], token: str) -> Reader:
    return _one(Table(value, name, dtype, shape, token))


# ------------------------------------------------------------------ reading ahead


class _Blocks(threading.local):
    """The last blocks of rows that a thread has asked for, or has begun to read ahead."""

    def __init__(self) -> None:
        self.found = OrderedDict[tuple[str, bytes], Future[np.ndarray]]()

    def keep(self, key: tuple[str, bytes], block: Future[np.ndarray]) -> None:
        self.found[key] = block
        while len(self.found) > BLOCKS:
            self.found.popitem(last=False)[1].cancel()


_BLOCKS = _Blocks()


@functools.cache
def _threads(process: int) -> ThreadPoolExecutor:
    """Those of a process: a fork has none of its parent's."""
    return ThreadPoolExecutor(THREADS, thread_name_prefix="cl_func reads ahead")


def ahead(reader: Reader, rows: Tensor) -> None:
    """Begin to read rows [...] that this thread will ask for soon; not while they are traced or vmapped, and have no values."""
    if in_dispatch_mode() or in_transform():
        return
    if rows.numel() * reader.row_bytes <= LARGEST_BLOCK:
        numbers = np.unique(rows.detach().cpu().numpy())
        key = (reader.key, numbers.tobytes())
        if key not in _BLOCKS.found:
            _BLOCKS.keep(key, _threads(os.getpid()).submit(reader.read, numbers))


def _block(reader: Reader, numbers: np.ndarray) -> np.ndarray:
    """The rows of these numbers, which ascend and differ."""
    reader.check()
    key = (reader.key, numbers.tobytes())
    known = _BLOCKS.found.get(key)
    if known is not None:
        _BLOCKS.found.move_to_end(key)
        return known.result()
    found = reader.read(numbers)
    if found.nbytes <= LARGEST_BLOCK:
        block = Future[np.ndarray]()
        block.set_result(found)
        _BLOCKS.keep(key, block)
    return found


# ------------------------------------------------------------------ the operation


def read(reader: Reader, rows: Tensor) -> Tensor:
    """The rows [...] of a reader, [..., *shape of a row], on the device of `rows`; within a compiled or vmapped step too."""
    found: Tensor = torch.ops.cl_func.read_rows(rows, reader.key)
    return found


def _read_rows(rows: Tensor, key: str) -> Tensor:
    reader = _OPEN[key]
    numbers, inverse = np.unique(rows.detach().cpu().numpy().reshape(-1), return_inverse=True)
    if len(numbers) and (numbers[0] < 0 or numbers[-1] >= len(reader)):
        raise IndexError(f"rows: expected rows of {reader.name}, 0..{len(reader) - 1}, got {numbers[0]}..{numbers[-1]}.")
    # A copy, always: a compiled program may write over it.
    found = torch.from_numpy(_block(reader, numbers)).index_select(0, torch.from_numpy(inverse.reshape(-1)))
    return found.reshape(*rows.shape, *reader.shape[1:]).to(rows.device)


def _like(rows: Tensor, key: str) -> Tensor:
    reader = _OPEN[key]
    return rows.new_empty((*rows.shape, *reader.shape[1:]), dtype=DTYPES[reader.dtype])


def _lanes(info: Any, in_dims: Any, rows: Tensor, key: str) -> tuple[Tensor, int]:
    return torch.ops.cl_func.read_rows(rows.movedim(in_dims[0], 0), key), 0


torch.library.define("cl_func::read_rows", "(Tensor rows, str key) -> Tensor")
torch.library.impl("cl_func::read_rows", "CompositeExplicitAutograd")(_read_rows)
torch.library.register_fake("cl_func::read_rows")(_like)
torch.library.register_vmap("cl_func::read_rows", _lanes)
