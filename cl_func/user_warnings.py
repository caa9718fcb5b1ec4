"""Warnings at the line of the user's own code that led to them, however deep in the library what they are about is found."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

SKIPPED = {"cl_func", "concurrent", "contextlib", "functools", "multiprocessing", "optree", "threading", "torch"}
"""The packages whose frames are not the user's: this one, and those through which it calls itself."""


def warn(message: str) -> None:
    """Give a UserWarning at the innermost line that is not of this library; where there is none, such as on a thread, here."""
    frame: FrameType | None = sys._getframe(1)
    level = 2
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in SKIPPED:
        frame = frame.f_back
        level += 1
    warnings.warn(message, stacklevel=1 if frame is None else level)
