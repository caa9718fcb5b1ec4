"""How long compiling takes on this machine: measured by the sweeps that compile, and kept for the choice of the next ones.

What was compiled before is in the compiler's own cache on disk and takes a fraction of the time, so times are kept by what is
compiled: the last time of each, which tells what it takes now, and the first times of all, which tell what something new takes.

They are in `compile_times.json` in the folder CL_FUNC_CACHE_DIR, by default cl_func in XDG_CACHE_HOME or ~/.cache. A folder that
cannot be written to or a file that makes no sense is no error: what is not known is guessed.
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
from cl_func.storage import files
from cl_func.transforms import Compiled
from cl_func.transforms import compile as compiled

GUESS = 8.0  # seconds a function, cold: on the safe side, since what is not compiled is only slower
KEPT = 200  # what was compiled longer ago than so many others is forgotten
MEASURABLE = 0.2  # seconds; nothing compiles faster: there was no compiler, or only one look
MARKS = 200
FIRSTS = 9  # as many first times as there is a median of: a machine may be busy


def cache_file() -> Path:
    """The file."""
    folder = os.environ.get("CL_FUNC_CACHE_DIR")
    if folder:
        return Path(folder) / "compile_times.json"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "cl_func" / "compile_times.json"


def expected(update: Any, state: Any, exp: Any, lanes: int) -> float:
    """The seconds that it takes to compile an update, and a probe: as it did last, else as other functions did, else a guess."""
    first, last = _read()
    name, functions = _compiled(update, state, exp, lanes)
    return last.get(name, functions * (float(np.median(first)) if first else GUESS))


class Watch:
    """The time at the beginning of a run, and before and after each look at it, with how many programs there were by then."""

    def __init__(self, update: Any, probe: Any) -> None:
        self.leaves = [leaf for leaf in (*tree.leaves(update), *tree.leaves(probe)) if isinstance(leaf, Compiled)]
        self.marks: list[tuple[float, int]] = []
        self.mark()

    def mark(self) -> None:
        """Note the time; after many looks all is compiled, and there is nothing more to note."""
        if len(self.marks) < MARKS:
            programs = sum(len(found) for leaf in self.leaves for found in [*leaf.programs.values()])
            self.marks.append((time.perf_counter(), programs))

    def seconds(self) -> float:
        """What compiling took: how much longer training, and looking, took where there were new programs afterwards."""
        took = [(after - before, new > old) for (before, old), (after, new) in itertools.pairwise(self.marks)]
        total = 0.0
        for part in (took[0::2], took[1::2]):
            others = [seconds for seconds, new in part if not new] or [min((seconds for seconds, _ in part), default=0.0)]
            total += sum(max(0.0, seconds - float(np.median(others))) for seconds, new in part if new)
        return total


def record(update: Any, state: Any, exp: Any, lanes: int, seconds: float) -> None:
    """Keep what compiling an update and a probe took."""
    if seconds < MEASURABLE:
        return
    first, last = _read()
    name, functions = _compiled(update, state, exp, lanes)
    if name not in last:
        first = [*first, seconds / functions][-FIRSTS:]
    last.pop(name, None)
    last = dict([*last.items(), (name, seconds)][-KEPT:])
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # RuntimeError: there is no home; ValueError: no such path can be
        cache_file().parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(cache_file(), json.dumps({"first": first, "last": last}).encode())


def _compiled(update: Any, state: Any, exp: Any, lanes: int) -> tuple[str, int]:
    """A name for what is compiled, with this version of torch, and how many functions that are, with the probe."""
    leaves = tree.leaves(update)
    functions = [_function_name(leaf) for leaf in leaves]
    shapes = [(path, tuple(leaf.shape), str(leaf.dtype), str(leaf.device)) for path, leaf in tree.items(state)]
    seen = [(tuple(leaf.shape[-1:]), str(leaf.dtype)) for leaf in tree.leaves(exp)]
    text = repr((torch.__version__, lanes, files.outline(update), functions, shapes, seen))
    return hashlib.sha256(text.encode()).hexdigest()[:16], len(tree.leaves(compiled(update))) + 1


def _function_name(function: Any) -> str:
    """A function by its name and those of the functions that it is made of: what a partial or a dataclass holds."""
    if isinstance(function, functools.partial):
        parts: dict[Any, Any] = dict(enumerate(function.args)) | function.keywords
        name = _function_name(function.func)
    elif dataclasses.is_dataclass(function):
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
    sound = all(isinstance(value, float) and math.isfinite(value) and value >= 0 for value in [*first, *last.values()])
    return (first, last) if sound else ([], {})
