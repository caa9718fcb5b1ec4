"""What all metrics of an accuracy matrix check, and what they ask of `seen`; see `cl_func.metrics`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cl_func import checks
from cl_func.tree import describe

_SLACK = 1e-6  # rounding by which a mean of accuracies may leave [0, 1]


def check_accuracies(name: str, value: Any, ndim: int, higher_is_better: bool | None = None) -> Tensor:
    """Check that a value is a floating tensor of accuracies with at least `ndim` dimensions; ValueError naming it otherwise.

    higher_is_better: not None for another measure, whose values need only be finite.
    """
    if checks.choice("higher_is_better", higher_is_better, True, False, None) is not None:
        checks.tensor(name, value)
    if isinstance(value, Mapping):
        raise ValueError(f"{name}: expected a floating tensor of accuracies, got {describe(value)}; give history['accuracy'].")
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise ValueError(f"{name}: expected a floating tensor of accuracies, got {describe(value)}; convert it with .float().")
    if value.ndim < ndim or 0 in value.shape:
        raise ValueError(
            f"{name}: expected at least {ndim} dimensions, none empty, got {describe(value)}; an accuracy matrix is [..., time, T]."
        )
    if value.is_meta:
        raise ValueError(f"{name}: it is on the device meta, which holds no values; give the accuracies themselves.")
    if bool(value.isnan().any()):
        raise ValueError(f"{name}: some accuracies are NaN; leave out the diverged runs or the empty test experiences.")
    low, high = value.min().item(), value.max().item()
    if higher_is_better is not None:
        if not math.isfinite(high - low):
            raise ValueError(f"{name}: some values are infinite; leave out the diverged runs.")
        return value
    if low < -_SLACK or high > 1 + _SLACK:
        raise ValueError(
            f"{name}: accuracies lie in [0, 1], got values from {low:.6g} to {high:.6g}; divide percentages by 100, "
            "or say which way another measure is better: higher_is_better=False for errors."
        )
    return value


def oriented(R: Tensor, higher_is_better: bool | None) -> Tensor:
    """The values with their sign changed if lower is better, so that the largest is the best."""
    return -R if higher_is_better is False else R


def counts_seen(R: Tensor, seen: Tensor | Sequence[int] | None, least: int = 1, higher_is_better: bool | None = None) -> list[int]:
    """Check R, which needs `least` times and experiences, and `seen`: the number of experiences seen at each time, as a list."""
    time, n = check_accuracies("R", R, 2, higher_is_better).shape[-2:]
    if n < least or time < least:
        raise ValueError(
            f"R: expected at least {least} times and {least} experiences, got {describe(R)}; there is nothing to compare."
        )
    if seen is None:
        if time != n:
            raise ValueError(
                f"seen: R has {time} times but {n} experiences; pass seen=, the number of experiences seen at each time."
            )
        return list(range(1, n + 1))
    if not isinstance(seen, (Tensor, list, tuple, range)) or (isinstance(seen, Tensor) and (seen.is_meta or seen.ndim != 1)):
        raise checks.type_error("seen", f"{time} integers, one for each time of R", seen)
    counts = seen.tolist() if isinstance(seen, Tensor) else list(seen)
    if len(counts) != time or any(isinstance(c, bool) or not isinstance(c, int) for c in counts):
        raise ValueError(f"seen: expected {time} integers, one for each time of R, got {seen!r}.")
    if any(not 1 <= c <= n for c in counts) or counts != sorted(counts):
        raise ValueError(f"seen: expected counts from 1 to the {n} experiences of R that never decrease, got {counts}.")
    return counts


def learned_at(counts: list[int]) -> Tensor:
    """The time at which each experience seen has been learned, just before the next one begins: [counts[-1]] int64."""
    starts = [next(i for i, c in enumerate(counts) if c > j) for j in range(counts[-1])]
    ends = [*starts[1:], len(counts)]
    return torch.tensor([max(start, end - 1) for start, end in zip(starts, ends, strict=True)])


def n_older(name: str, counts: list[int]) -> int:
    """The number of experiences seen before the newest one at the last time; ValueError if there is none."""
    if counts[-1] < 2:
        raise ValueError(f"seen: {name} needs a run that saw at least 2 experiences, but seen ends with {counts[-1]}.")
    return counts[-1] - 1
