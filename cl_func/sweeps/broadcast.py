"""Broadcast variables: a value that all tasks of an executor need is brought to each worker once, not with every task.

A value is cut in blobs: one pickle, and apart from it the memory of its large tensors, each range once however many views there are
of it. Blobs are named by the SHA-256 of their content and kept in a private folder as long as the tasks run. A task carries their
names only; a worker maps the files into its memory, copy on write, so that the workers of a machine share one copy and what nobody
looks at is not read. A worker that does not see the folder, on another machine without a shared disk, answers which blobs it lacks,
and is then sent them with a task. Of an executor this needs nothing but `submit`.

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

LARGE = 2**20  # bytes; smaller memory travels inside of the pickle, which is a blob itself
ALIGNED = 64  # bytes, as torch allocates


@dataclasses.dataclass(frozen=True)
class Reference:
    """What a task carries of a value: the folder, and the digests and sizes of the blobs, of which the first is the pickle."""

    folder: str
    blobs: tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class Missing:
    """The answer of a worker that does not see the folder: the digests that it lacks."""

    digests: frozenset[str]


def worker() -> str:
    """The name of this process, among those of all machines."""
    return f"{socket.gethostname()}:{os.getpid()}"


class Broadcast:
    """A value on its way to workers. As a context: inside it the files are there, at its end they are removed."""

    def __init__(self, value: Any, near: Path | None = None) -> None:
        """near: a folder that the workers see, if one is known; else they may see that of temporary files.

        Raises ImportError without cloudpickle, and what pickling raises.
        """
        self._memory, self._near, self.blobs = _Memory(), near, dict[str, memoryview]()
        pickled = _pickled(value, self._memory)
        small = bytearray()
        homes: list[tuple[str | None, int]] = []  # of each range: its blob, or the place in the small ones
        for view in self._memory.ranges():
            homes.append((self._add(view), 0) if len(view) >= LARGE else (None, len(small)))
            if len(view) < LARGE:
                small += bytes(view) + bytes(-len(view) % ALIGNED)
        first = self._add(memoryview(pickle.dumps((homes, self._memory.places(), small, pickled), pickle.HIGHEST_PROTOCOL)))
        digests = sorted(self.blobs, key=lambda digest: digest != first)
        self.reference = Reference("", tuple((digest, len(self.blobs[digest])) for digest in digests))

    def _add(self, view: memoryview) -> str:
        digest = hashlib.sha256(view).hexdigest()
        self.blobs[digest] = view
        return digest

    def __enter__(self) -> Broadcast:
        folder = tempfile.mkdtemp(prefix="broadcast-", dir=self._near)  # for this user only
        self.reference = dataclasses.replace(self.reference, folder=folder)
        try:
            for digest, view in self.blobs.items():
                (Path(folder) / digest).write_bytes(view)
        except OSError:
            pass  # a full disk: who lacks a blob is sent it
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.reference.folder, ignore_errors=True)  # a worker keeps what it has mapped

    def content(self, digests: Iterable[str]) -> dict[str, bytes]:
        """Some of the blobs themselves, for a worker that lacks them."""
        return {digest: bytes(self.blobs[digest]) for digest in sorted(digests)}


class _Memory:
    """The memory behind the tensors of a value: its storages by number, and the ranges of addresses that they cover."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[str, int, int], int] = {}
        # Each as it is and in the processor's memory; kept, so that no address is used anew while we go by addresses.
        self.storages: list[tuple[torch.UntypedStorage, torch.UntypedStorage]] = []

    def number(self, storage: torch.UntypedStorage) -> int:
        """The number of a storage, the same for two that are one memory."""
        place = (str(storage.device), storage.data_ptr(), storage.nbytes())
        if place not in self.numbers:
            self.numbers[place] = len(self.storages)
            self.storages.append((storage, storage.cpu()))
        return self.numbers[place]

    def _spans(self) -> list[tuple[int, int]]:
        spans: list[tuple[int, int]] = []
        for start, n in sorted((here.data_ptr(), here.nbytes()) for _, here in self.storages):
            if spans and start < spans[-1][1]:  # they overlap, as views of one numpy array may
                spans[-1] = (spans[-1][0], max(start + n, spans[-1][1]))
            else:
                spans.append((start, start + n))
        return spans

    def ranges(self) -> list[memoryview]:
        """All memory that is covered, each byte once."""
        return [memoryview((ctypes.c_ubyte * (end - start)).from_address(start)).cast("B") for start, end in self._spans()]

    def places(self) -> list[tuple[int, int, int, str]]:
        """Where each storage is: (range, offset in it, bytes, device)."""
        starts = [start for start, _ in self._spans()]
        found = []
        for storage, here in self.storages:
            i = bisect.bisect_right(starts, here.data_ptr()) - 1
            found.append((i, here.data_ptr() - starts[i], here.nbytes(), str(storage.device)))
        return found


def _pickled(value: Any, memory: _Memory) -> bytes:
    """The pickle of a value without the memory of its tensors."""
    cloudpickle = checks.optional("cloudpickle", "cl.sweep(executor=)", "cluster")

    class Pickler(cloudpickle.Pickler):  # type: ignore[name-defined]
        def persistent_id(self, item: Any) -> int | None:
            return memory.number(item) if isinstance(item, torch.UntypedStorage) else None

        def reducer_override(self, item: Any) -> Any:
            # As torch does it, but for the storage, which torch wraps into a new object each time: views would not share it.
            if type(item) is Tensor and _plain(item):
                view = (item.storage_offset(), tuple(item.shape), item.stride(), item.requires_grad)
                return _tensor, (item.untyped_storage(), item.dtype, *view)
            # cloudpickle takes `exp.classes` in a function that also uses torch for the module torch.classes, which cannot be sent.
            if isinstance(item, type(torch.classes)):
                return importlib.import_module, (item.__name__,)
            return super().reducer_override(item)

    file = io.BytesIO()
    Pickler(file).dump(value)
    return file.getvalue()


def _plain(tensor: Tensor) -> bool:
    """Whether a tensor is no more than a view of some memory."""
    marked = tensor.is_conj() or tensor.is_neg() or tensor.is_quantized or bool(vars(tensor))
    return tensor.layout == torch.strided and not tensor.is_meta and not marked and tensor.untyped_storage().nbytes() > 0


def _tensor(storage: Any, dtype: torch.dtype, offset: int, shape: Any, stride: Any, requires_grad: bool) -> Tensor:
    made = torch.empty(0, dtype=dtype, device=storage.device).set_(storage, offset, shape, stride)
    return made.requires_grad_(requires_grad)


@dataclasses.dataclass
class _Held:
    """What a worker has: the value it worked on last, made ready, and the blobs that it was sent, for the next value."""

    digest: str = ""
    ready: Any = None
    sent: dict[str, bytearray] = dataclasses.field(default_factory=dict)


_HELD, _LOCK = _Held(), threading.Lock()


def received(reference: Reference, sent: Mapping[str, bytes], prepare: Callable[[Any], Any]) -> Any:
    """What `prepare` makes of a value, once in this process for all tasks that follow each other; or Missing.

    sent: blobs that came along, for a process that lacked them.
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
        gc.collect()  # what was there before goes first, and programs refer to themselves
        _HELD.ready = prepare(_unpickled(buffers, digest))
        _HELD.digest = digest
        return _HELD.ready


def _mapped(path: Path, n: int) -> mmap.mmap | None:
    """A file's bytes, which may be written to: that changes them here only. None where the file is not to be seen."""
    try:
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), n, access=mmap.ACCESS_COPY)
    except (OSError, ValueError):  # ValueError: shorter than it should be
        return None


def _unpickled(buffers: Mapping[str, Any], first: str) -> Any:
    homes, places, small, pickled = pickle.loads(buffers[first])
    taken: set[str] = set()

    @functools.cache
    def memory(i: int) -> tuple[Any, int]:
        name, start = homes[i]
        if name is None:
            return small, start
        buffer = bytearray(buffers[name]) if name in taken else buffers[name]  # of one content, but apart as they were
        taken.add(name)
        return buffer, start

    @functools.cache
    def storage(number: int) -> torch.UntypedStorage:
        i, offset, n, device = places[number]
        buffer, start = memory(i)
        return torch.frombuffer(buffer, dtype=torch.uint8, count=n, offset=start + offset).to(device).untyped_storage()

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, number: int) -> torch.UntypedStorage:
            return storage(number)

    return Unpickler(io.BytesIO(pickled)).load()
