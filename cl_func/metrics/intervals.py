"""A mean over seeds, and how far it may be off."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from cl_func import checks
from cl_func.tree import describe


def mean_ci(values: Tensor, confidence: float = 0.95, dim: int = 0) -> tuple[Tensor, Tensor]:
    """Mean and half-width of its Student t confidence interval over one axis, the seeds: report `mean ± half_width`.

    half_width = t_{n-1, (1 + confidence) / 2} * s / sqrt(n), with s the standard deviation over n - 1 (Student, Biometrika 1908).
    It is NaN for n = 1, as one run says nothing about the spread. Raises ValueError for values that are not floating, for no
    values, and for a confidence outside (0, 1).

    >>> mean_ci(torch.tensor([0.70, 0.72, 0.74]))
    (tensor(0.7200), tensor(0.0497))
    """
    if not isinstance(values, Tensor) or not values.is_floating_point():
        raise ValueError(f"values: expected a floating tensor, got {describe(values)}; convert it with .float().")
    if values.is_meta:
        raise ValueError("values: they are on the device meta, which holds no values; give the results themselves.")
    if isinstance(dim, bool) or not isinstance(dim, int):
        raise checks.type_error("dim", "an integer, the axis of the seeds", dim)
    confidence = checks.number("confidence", confidence, 0, 1)
    if not -values.ndim <= dim < values.ndim:
        raise ValueError(f"dim: {dim} is no axis of values, {describe(values)}; give the axis of the seeds.")
    n = values.shape[dim]
    if n == 0:
        raise ValueError(f"values: axis {dim} of {describe(values)} is empty; give at least one run.")
    mean, t = values.mean(dim), _student_t(max(n - 1, 1), confidence)
    return mean, values.std(dim) * (t / math.sqrt(n)) if n > 1 else torch.full_like(mean, math.nan)


@functools.cache
def _student_t(df: int, confidence: float) -> float:
    """The t > 0 for which a Student t variable with integer df lies in [-t, t] with this probability.

    With t = sqrt(df) tan(angle) the probability is a finite sum (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4); bisection over the
    angle gives it to machine precision.
    """

    def inside(angle: float) -> float:
        sine, cosine = math.sin(angle), math.cos(angle)
        odd = df % 2
        term = cosine if odd else 1.0
        total = term if df > 1 else 0.0
        for k in range(2 + odd, df - 1, 2):  # the next term has cos^k; its factor is (k-1)/k
            term *= (k - 1) / k * cosine * cosine
            total += term
        return 2 / math.pi * (angle + sine * total) if odd else sine * total

    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < confidence else (low, middle)
    return math.sqrt(df) * math.tan((low + high) / 2)
