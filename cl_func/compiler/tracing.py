"""Why a function cannot be traced: names the user's line that needs a value where there are only shapes.

A compiled program has fixed shapes and no branches on data. The various errors that torch raises for a function that needs more, on
fake tensors or under vmap, become one kind of error here, with the line and a way to fix it.
"""

from __future__ import annotations

import contextlib
import linecache
import re
import signal
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch


class TraceError(ValueError):
    """A function cannot be compiled, because its shapes or branches depend on the values of tensors."""


SHAPE = "the shape of a result depends on the values of tensors"
VALUE = "the value of a tensor is asked for"
FIXES = {
    SHAPE: "Instead of x[mask], nonzero or unique use a mask and torch.where, or weights of 0 and 1",
    VALUE: "Instead of .item(), float(x), .numpy() or an if on a tensor use torch.where or cl.when; instead of table[i], with a "
    "tensor i of shape () such as exp.task, use table.index_select(0, i[None])[0]",
}
# In the errors of torch: the names of its exceptions on fake tensors, and the messages of vmap and of tensors without memory.
SHAPES = r"DynamicOutputShape|dynamic shape|data-dependent (shape|output)|nonzero|masked_select|torch\.unique|boolean mask"
VALUES = (
    r"DataDependentOutput|\.item\(\)|data-dependent control flow|numpy\(\)|tolist\(\)|data pointer|_local_scalar_dense|"
    r"(unallocated|have) storage"
)
LIBRARIES = (Path(torch.__file__).parent, Path(__file__).parents[1])


def reason(error: BaseException) -> str | None:
    """SHAPE or VALUE if that is what an error of torch means, else None."""
    if not isinstance(error, (RuntimeError, TypeError, NotImplementedError)):
        return None
    said = f"{type(error).__name__}: {error}"
    if re.search(SHAPES, said):
        return SHAPE
    return VALUE if re.search(VALUES, said) else None


def users_line(error: BaseException) -> str:
    """The innermost line in the traceback of an error that belongs neither to torch nor to this library."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _of_a_library(frame.filename)]
    if not frames:
        return "a function of the library"
    last = frames[-1]
    code = (last.line or linecache.getline(last.filename, last.lineno or 0)).strip()
    return f"{last.filename}:{last.lineno}, in {last.name}: `{code}`"


def _of_a_library(filename: str) -> bool:
    path = Path(filename)
    return filename.startswith("<") or any(root in path.parents for root in LIBRARIES) or "site-packages" in path.parts


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """A context in which torch's errors for data-dependent code become a TraceError that names the line and how to fix it."""
    try:
        yield
    except Exception as error:
        why = reason(error)
        if why is None:
            raise
        raise TraceError(
            f"cl.compile: {why}, in {users_line(error)}. {FIXES[why]}; or run without compilation (compile=False)."
        ) from error


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[None]:
    """A context whose end Ctrl-C waits for. (Only the main thread receives it, so other threads need nothing.)"""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[tuple[int, FrameType | None]] = []
    before: Any = signal.signal(signal.SIGINT, lambda number, frame: pressed.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed and callable(before):
        before(*pressed[0])
