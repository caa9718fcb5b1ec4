"""Tests of paired differences, here of two methods with the same seeds, and Holm's correction for several of them.

    wilcoxon    signed-rank test (Wilcoxon 1945), two-sided: exact for up to 50 pairs without ties, and for up to 13 with them
    t           Student's t test of the mean difference, two-sided; exact where the differences are normally distributed

Wilcoxon's test leaves out pairs without a difference, and ranks equal differences equally. What is equal but for rounding counts as
equal: accuracies are counts of rows, of which ties are common. Its p of n pairs is at least 2^(1-n), the probability that all
differences have one sign if each sign is as likely, so that five seeds cannot reach 0.05 whatever they show.

Holm's correction ("A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 1979) of m sorted
p: max over j <= i of (m - j + 1) p_j.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cl_func import checks
from cl_func.metrics.ties import tied

Test = Literal["wilcoxon", "t"]
TESTS = ("wilcoxon", "t")


def differences(a: Tensor, b: Tensor, rounding: Tensor) -> Tensor:
    """a - b [n] float64, each of which may be off by its rounding [n]: 0, and equal in size, where it is so within that."""
    found, none = a - b, a.new_zeros(1)
    sizes = tied(torch.cat([none, found.abs()]), torch.cat([none, rounding]))[1:]
    return found.sign() * sizes


def p_value(differences: Tensor, test: Test) -> float:
    """The two-sided p of differences [n] against none, of which NaN cannot be tested: none, or for t a single one.

    1 if all are 0. Needs scipy.
    """
    stats = checks.optional("scipy.stats", "a test of significance", "stats")
    values = np.asarray(differences.tolist(), dtype=np.float64)
    if len(values) < (1 if test == "wilcoxon" else 2):
        return math.nan
    if not values.any():
        return 1.0
    with warnings.catch_warnings():
        # Of differences that are all the same t is infinite and p is 0.
        warnings.filterwarnings("ignore", "Precision loss occurred", RuntimeWarning)
        found = stats.wilcoxon(values[values != 0]) if test == "wilcoxon" else stats.ttest_1samp(values, 0.0)
    return float(found.pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """The corrected p of several tests, in their order; NaN stays NaN and counts for none.

    >>> holm([0.01, 0.04, 0.03, 0.005])
    [0.03, 0.06, 0.06, 0.02]
    """
    known = sorted((value, i) for i, value in enumerate(p) if not math.isnan(value))
    found, largest = [math.nan] * len(p), 0.0
    for rank, (value, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * value))
        found[i] = largest
    return found


def least(n: int, test: Test) -> float:
    """The smallest p that a test of n pairs can give."""
    if test == "wilcoxon":
        return 2.0 ** (1 - n) if n else 1.0
    return 0.0 if n > 1 else 1.0


def needed(test: Test, level: float, comparisons: int = 1) -> int:
    """How many pairs a test needs for a p that is not above a level after Holm's correction for some comparisons."""
    n = 1
    while comparisons * least(n, test) > level * (1 + 1e-9):
        n += 1
    return n
