"""Why a function cannot be traced, in words: the line of the user's that needs a value while there are only shapes.

A compiled program has fixed shapes and no branches on data. What torch raises for a function that asks for more, on fake tensors
and under vmap, is told here as one kind of error, with the line and the way on.
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
    """A function cannot be compiled, since its shapes or its branches depend on the values of tensors."""


SHAPE = "the shape of a result depends on the values of tensors"
VALUE = "the value of a tensor is asked for"
FIXES = {
    SHAPE: "In place of x[mask], nonzero or unique take a mask and torch.where, or weights of 0 and 1",
    VALUE: "In place of .item(), float(x), .numpy() or an if on a tensor take torch.where or cl.when",
}
# What torch says, by its own exceptions on fake tensors, and in the text of the errors of vmap and of tensors without memory.
SHAPES = r"DynamicOutputShape|dynamic shape|data-dependent (shape|output)|nonzero|masked_select|torch\.unique|boolean mask"
VALUES = (
    r"DataDependentOutput|\.item\(\)|data-dependent control flow|numpy\(\)|tolist\(\)|data pointer|_local_scalar_dense|"
    r"(unallocated|have) storage"
)
LIBRARIES = (Path(torch.__file__).parent, Path(__file__).parents[1])


def reason(error: BaseException) -> str | None:
    """SHAPE or VALUE for an error of torch's that means it, else None."""
    if not isinstance(error, (RuntimeError, TypeError, NotImplementedError)):
        return None
    said = f"{type(error).__name__}: {error}"
    if re.search(SHAPES, said):
        return SHAPE
    return VALUE if re.search(VALUES, said) else None


def users_line(error: BaseException) -> str:
    """The innermost line of code, on the way to an error, that is neither torch's nor this library's."""
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
    """Within it, what torch raises for data-dependent code is a TraceError that names the line and the way on."""
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
    """Within it, Ctrl-C waits for the end. (Only the main thread gets it, so elsewhere there is nothing to do.)"""
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
