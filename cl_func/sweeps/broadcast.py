"""Broadcast variables: a value that all tasks of an executor need is sent to each worker once, not with every task.

A value is split into blobs: a pickle and, separately, the memory of its large tensors, each range once however many views of it
there are. Blobs are named by the SHA-256 of their content and kept in a private folder while the tasks run. A task carries only
their names; a worker maps the files into memory, copy on write, so that the workers of a machine share one copy and pages that are
never used are never read. A worker that cannot see the folder, being on another machine without a shared disk, answers with the
blobs that it lacks, and receives them with a later task. The executor only needs a method `submit`.

(Broadcast variables: Zaharia et al., "Spark: cluster computing with working sets", HotCloud 2010.)
"""

from __future__ import annotations

import bisect
import ctypes
import dataclasses
import functools
import gc
import hashlib
import importlib
import io
import mmap
import os
import pickle
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cl_func import checks

LARGE = 2**20  # bytes; smaller ranges are part of the first blob
ALIGNED = 64  # bytes, as torch aligns its memory


@dataclasses.dataclass(frozen=True)
class Reference:
    """What a task carries instead of the value: the folder, and (digest, size) of each blob; the first blob is the pickle."""

    folder: str
    blobs: tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class Missing:
    """The answer of a worker that cannot see the folder: the digests of the blobs that it lacks."""

    digests: frozenset[str]


def worker() -> str:
    """A name of this process that is unique among all machines."""
    return f"{socket.gethostname()}:{os.getpid()}"


class Broadcast:
    """A value to be sent to workers. As a context manager it writes the files on entry and removes them on exit."""

    def __init__(self, value: Any, shared: Path | None = None) -> None:
        """shared: a folder that the workers can see, if one is known; by default the folder for temporary files.

        Raises ImportError without cloudpickle, and any error of pickling the value.
        """
        self._memory, self._shared, self.blobs = _Memory(), shared, dict[str, memoryview]()
        pickled = _pickled(value, self._memory)
        small = bytearray()
        locations: list[tuple[str | None, int]] = []  # of each range: its blob, or None, and its offset in `small`
        for view in self._memory.ranges():
            locations.append((self._add(view), 0) if len(view) >= LARGE else (None, len(small)))
            if len(view) < LARGE:
                small += bytes(view) + bytes(-len(view) % ALIGNED)
        first = self._add(
            memoryview(pickle.dumps((locations, self._memory.storage_locations(), small, pickled), pickle.HIGHEST_PROTOCOL))
        )
        digests = sorted(self.blobs, key=lambda digest: digest != first)
        self.reference = Reference("", tuple((digest, len(self.blobs[digest])) for digest in digests))

    def _add(self, view: memoryview) -> str:
        digest = hashlib.sha256(view).hexdigest()
        self.blobs[digest] = view
        return digest

    def __enter__(self) -> Broadcast:
        folder = tempfile.mkdtemp(prefix="broadcast-", dir=self._shared)  # readable by this user only
        self.reference = dataclasses.replace(self.reference, folder=folder)
        try:
            for digest, view in self.blobs.items():
                (Path(folder) / digest).write_bytes(view)
        except OSError:
            pass  # the disk is full: workers that lack a blob are sent it
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.reference.folder, ignore_errors=True)  # workers keep the files that they have mapped

    def content(self, digests: Iterable[str]) -> dict[str, bytes]:
        """The bytes of some blobs, for a worker that lacks them."""
        return {digest: bytes(self.blobs[digest]) for digest in sorted(digests)}


class _Memory:
    """The memory behind the tensors of a value: its storages, numbered, and the ranges of addresses that they cover."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[str, int, int], int] = {}
        # Each storage and its copy on the CPU (itself if it is there), kept alive so that no address is reused.
        self.storages: list[tuple[torch.UntypedStorage, torch.UntypedStorage]] = []

    def number(self, storage: torch.UntypedStorage) -> int:
        """The number of a storage; two storages of the same memory have the same number."""
        memory = (str(storage.device), storage.data_ptr(), storage.nbytes())
        if memory not in self.numbers:
            self.numbers[memory] = len(self.storages)
            self.storages.append((storage, storage.cpu()))
        return self.numbers[memory]

    def _spans(self) -> list[tuple[int, int]]:
        spans: list[tuple[int, int]] = []
        for start, n in sorted((on_cpu.data_ptr(), on_cpu.nbytes()) for _, on_cpu in self.storages):
            if spans and start < spans[-1][1]:  # they overlap, as views of one numpy array may
                spans[-1] = (spans[-1][0], max(start + n, spans[-1][1]))
            else:
                spans.append((start, start + n))
        return spans

    def ranges(self) -> list[memoryview]:
        """All memory behind the tensors, each byte once."""
        return [memoryview((ctypes.c_ubyte * (end - start)).from_address(start)).cast("B") for start, end in self._spans()]

    def storage_locations(self) -> list[tuple[int, int, int, str]]:
        """(index of the range, offset in it, bytes, device) of each storage."""
        starts = [start for start, _ in self._spans()]
        found = []
        for storage, on_cpu in self.storages:
            i = bisect.bisect_right(starts, on_cpu.data_ptr()) - 1
            found.append((i, on_cpu.data_ptr() - starts[i], on_cpu.nbytes(), str(storage.device)))
        return found


def _pickled(value: Any, memory: _Memory) -> bytes:
    """The pickle of a value without the memory of its tensors."""
    cloudpickle = checks.optional("cloudpickle", "cl.sweep(executor=)", "cluster")

    class Pickler(cloudpickle.Pickler):  # type: ignore[name-defined]
        def persistent_id(self, item: Any) -> int | None:
            return memory.number(item) if isinstance(item, torch.UntypedStorage) else None

        def reducer_override(self, item: Any) -> Any:
            # As torch pickles a tensor, except that torch makes a new storage object each time, which views would not share.
            if type(item) is Tensor and _plain(item):
                view = (item.storage_offset(), tuple(item.shape), item.stride(), item.requires_grad)
                return _tensor, (item.untyped_storage(), item.dtype, *view)
            # In a function that also uses torch, cloudpickle takes `exp.classes` for torch.classes, which cannot be pickled.
            if isinstance(item, type(torch.classes)):
                return importlib.import_module, (item.__name__,)
            return super().reducer_override(item)

    file = io.BytesIO()
    Pickler(file).dump(value)
    return file.getvalue()


def _plain(tensor: Tensor) -> bool:
    """Whether a tensor is nothing but a view of its storage."""
    marked = tensor.is_conj() or tensor.is_neg() or tensor.is_quantized or bool(vars(tensor))
    return tensor.layout == torch.strided and not tensor.is_meta and not marked and tensor.untyped_storage().nbytes() > 0


def _tensor(storage: Any, dtype: torch.dtype, offset: int, shape: Any, stride: Any, requires_grad: bool) -> Tensor:
    made = torch.empty(0, dtype=dtype, device=storage.device).set_(storage, offset, shape, stride)
    return made.requires_grad_(requires_grad)


@dataclasses.dataclass
class _Held:
    """What a worker holds on to."""

    digest: str = ""  # of the last value
    ready: Any = None  # what `prepare` made of it
    sent: dict[str, bytearray] = dataclasses.field(default_factory=dict)  # its blobs that came with a task, for the next value


_HELD, _LOCK = _Held(), threading.Lock()


def received(reference: Reference, sent: Mapping[str, bytes], prepare: Callable[[Any], Any]) -> Any:
    """The result of `prepare` for a value, computed once for successive tasks in this process; or Missing.

    sent: the blobs that came with the task, for a process that lacked them.
    """
    with _LOCK:  # a worker may have several threads
        digest = reference.blobs[0][0]
        if _HELD.digest == digest:
            return _HELD.ready
        kept = {name: _HELD.sent[name] for name, _ in reference.blobs if name in _HELD.sent}
        buffers: dict[str, Any] = {}
        for name, n in reference.blobs:
            buffer = _mapped(Path(reference.folder) / name, n)
            if buffer is None and name in sent and name not in kept:
                kept[name] = bytearray(sent[name])
            buffers[name] = kept.get(name) if buffer is None else buffer
        missing = frozenset(name for name, buffer in buffers.items() if buffer is None)
        _HELD.sent = kept
        if missing:
            return Missing(missing)
        _HELD.digest, _HELD.ready = "", None
        gc.collect()  # frees the previous value first: compiled programs hold reference cycles
        _HELD.ready = prepare(_unpickled(buffers, digest))
        _HELD.digest = digest
        return _HELD.ready


def _mapped(path: Path, n: int) -> mmap.mmap | None:
    """The bytes of a file, mapped copy on write; None if the file cannot be seen."""
    try:
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), n, access=mmap.ACCESS_COPY)
    except (OSError, ValueError):  # ValueError: shorter than it should be
        return None


def _unpickled(buffers: Mapping[str, Any], first: str) -> Any:
    locations, storages, small, pickled = pickle.loads(buffers[first])
    used: set[str] = set()

    @functools.cache
    def memory(i: int) -> tuple[Any, int]:
        name, start = locations[i]
        if name is None:
            return small, start
        buffer = bytearray(buffers[name]) if name in used else buffers[name]  # ranges of equal content must not share memory
        used.add(name)
        return buffer, start

    @functools.cache
    def storage(number: int) -> torch.UntypedStorage:
        i, offset, n, device = storages[number]
        buffer, start = memory(i)
        return torch.frombuffer(buffer, dtype=torch.uint8, count=n, offset=start + offset).to(device).untyped_storage()

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, number: int) -> torch.UntypedStorage:
            return storage(number)

    return Unpickler(io.BytesIO(pickled)).load()
