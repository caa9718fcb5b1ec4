"""How long compiling takes on this machine: measured by sweeps that compile, and stored for the choices of later sweeps.

Code that was compiled before comes from the compiler's own cache on disk in a fraction of the time. So two kinds of times are
stored: the last time of each update, an estimate for that update, and the first times of all, an estimate for a new one.

They are in `compile_times.json` in the folder CL_FUNC_CACHE_DIR, by default cl_func in XDG_CACHE_HOME or ~/.cache. If the folder
cannot be written or the file is not valid, nothing is raised, and unknown times are guessed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cl_func import tree
from cl_func.core.kinds import Probe, Update
from cl_func.storage import files, outlines
from cl_func.transforms import Compiled
from cl_func.transforms import compile as compiled

GUESS = 8.0  # seconds for a function that was never compiled; too long rather than too short, since an eager sweep is only slower
KEPT = 200  # last times to keep
MEASURABLE = 0.2  # seconds; nothing compiles faster, so there was no compiler or only one measurement
MARKS = 200  # timestamps to keep; by then all is compiled
FIRSTS = 9  # first times to keep; their median is used, since a machine may be busy


def cache_file() -> Path:
    """The path of the file."""
    folder = os.environ.get("CL_FUNC_CACHE_DIR")
    if folder:
        return Path(folder) / "compile_times.json"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "cl_func" / "compile_times.json"


def expected(update: Update, state: Any, exp: Any, lanes: int) -> float:
    """The expected seconds to compile an update and its probe: as last time, else as other functions took, else a guess."""
    first, last = _read()
    name, functions = _compiled(update, state, exp, lanes)
    return last.get(name, functions * (float(np.median(first)) if first else GUESS))


class Watch:
    """Timestamps at the start of a run and before and after each measurement of it, with the number of programs by then."""

    def __init__(self, update: Update, probe: Probe) -> None:
        self.leaves = [leaf for leaf in (*tree.leaves(update), *tree.leaves(probe)) if isinstance(leaf, Compiled)]
        self.marks: list[tuple[float, int]] = []
        self.mark()

    def mark(self) -> None:
        """Take a timestamp."""
        if len(self.marks) < MARKS:
            programs = sum(len(found) for leaf in self.leaves for found in [*leaf.programs.values()])
            self.marks.append((time.perf_counter(), programs))

    def seconds(self) -> float:
        """What compiling took: how much longer training and measuring took whenever new programs appeared."""
        intervals = [(after - before, new > old) for (before, old), (after, new) in itertools.pairwise(self.marks)]
        total = 0.0
        for part in (intervals[0::2], intervals[1::2]):  # training, measuring
            others = [seconds for seconds, new in part if not new] or [min((seconds for seconds, _ in part), default=0.0)]
            total += sum(max(0.0, seconds - float(np.median(others))) for seconds, new in part if new)
        return total


def record(update: Update, state: Any, exp: Any, lanes: int, seconds: float) -> None:
    """Store what compiling an update and its probe took."""
    if seconds < MEASURABLE:
        return
    first, last = _read()
    name, functions = _compiled(update, state, exp, lanes)
    if name not in last:
        first = [*first, seconds / functions][-FIRSTS:]
    last.pop(name, None)
    last = dict([*last.items(), (name, seconds)][-KEPT:])
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # RuntimeError: no home folder; ValueError: an invalid path
        cache_file().parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(cache_file(), json.dumps({"first": first, "last": last}).encode())


def _compiled(update: Update, state: Any, exp: Any, lanes: int) -> tuple[str, int]:
    """A digest that identifies what is compiled, and by which torch; and the number of functions, the probe included."""
    leaves = tree.leaves(update)
    functions = [_function_name(leaf) for leaf in leaves]
    shapes = [(path, tuple(leaf.shape), str(leaf.dtype), str(leaf.device)) for path, leaf in tree.items(state)]
    inputs = [(tuple(leaf.shape[-1:]), str(leaf.dtype)) for leaf in tree.leaves(exp)]
    text = repr((torch.__version__, lanes, outlines.outline(update), functions, shapes, inputs))
    return hashlib.sha256(text.encode()).hexdigest()[:16], len(tree.leaves(compiled(update))) + 1


def _function_name(function: Any) -> str:
    """A function by its name and those of the functions that it is made of: what a partial or a dataclass holds."""
    if isinstance(function, functools.partial):
        parts: dict[Any, Any] = dict(enumerate(function.args)) | function.keywords
        name = _function_name(function.func)
    elif dataclasses.is_dataclass(function) and not isinstance(function, type):
        parts = {field.name: getattr(function, field.name) for field in dataclasses.fields(function)}
        name = type(function).__qualname__
    else:
        return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__name__)}"
    inner = [f"{key}={_function_name(part)}" for key, part in parts.items() if callable(part)]
    return f"{name}({', '.join(inner)})"


def _read() -> tuple[list[float], dict[str, float]]:
    try:
        found = json.loads(cache_file().read_text())
        first, last = list(found["first"]), dict(found["last"])
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, RecursionError):
        return [], {}
    valid = all(isinstance(value, float) and math.isfinite(value) and value >= 0 for value in [*first, *last.values()])
    return (first, last) if valid else ([], {})
