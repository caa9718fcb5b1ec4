"""Accuracy and error on rows before they were trained on (prequential), between the entries of a history."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cl_func import checks
from cl_func.tree import describe


def _between(history: Any, name: str, bin: int) -> Tensor:
    """The mean of a measure over the rows of each bin, from its means over all rows so far, and their numbers, [..., time]."""
    parts = []
    for part in (name, "online_rows"):
        if not isinstance(history, Mapping) or part not in history:
            raise checks.type_error("history", f"a dict with {part!r}, as cl.trace.online.probe() has measured it", history)
        parts.append(history[part])
    mean, rows = parts
    checks.tensor(f"history[{name!r}]", mean)
    checks.tensor("history['online_rows']", rows, mean.shape, torch.int64)
    checks.positive_int("bin", bin)
    if mean.ndim == 0 or mean.is_meta:
        raise ValueError(f"history[{name!r}]: expected a whole history, [..., time], got {describe(mean)}.")
    if mean.shape[-1] < bin:
        raise ValueError(f"bin: expected at most the {mean.shape[-1]} entries of the history, got {bin}.")
    counts, sums = rows[..., bin - 1 :: bin], (torch.where(rows > 0, mean.double(), 0) * rows)[..., bin - 1 :: bin]
    counts, sums = (torch.diff(of, dim=-1, prepend=torch.zeros_like(of[..., :1])) for of in (counts, sums))
    if bool((torch.diff(rows, dim=-1) < 0).any()):
        raise ValueError(
            "history: the rows that it counts decrease along its last axis, which must be time; move it there, .movedim(0, -1)."
        )
    return sums / counts


def online_accuracy(history: Mapping[str, Tensor], bin: int = 1) -> Tensor:
    """The accuracy on rows before they were trained on, between two entries of a history, [..., time], float64 in [0, 1].

    history: with "online_accuracy" and "online_rows" [..., time], as `cl.trace.online.probe()` measures them: of `cl.scan`, or the
        `history` of Runs. (That of a vmapped `scan` has time first: move each with .movedim(0, -1).)
    bin: how many entries are put together, for [..., time // bin]; those left over at the end are left out.

    With an entry after each task it is the online task accuracy, whose mean over the tasks is that of Kumar, Marklund & Van Roy,
    "Maintaining plasticity in continual learning via regenerative regularization" (2023). NaN where no row came between entries.
    `history["online_accuracy"]` itself is the accuracy on all rows so far.

    >>> history = {"online_accuracy": torch.tensor([0.5, 0.6]), "online_rows": torch.tensor([10, 20])}
    >>> online_accuracy(history)
    tensor([0.5000, 0.7000], dtype=torch.float64)
    """
    return _between(history, "online_accuracy", bin)


def online_error(history: Mapping[str, Tensor], bin: int = 1) -> Tensor:
    """The mean squared error on rows before they were trained on, between two entries of a history, [..., time], float64.

    As `online_accuracy`, from "online_mse". (The error of Dohare et al., "Loss of plasticity in deep continual learning", Nature
    2024, in bins of 20,000 rows.)
    """
    return _between(history, "online_mse", bin)
