"""Whether two trees are the same, and where they are not."""

from __future__ import annotations

import math
import numbers

import torch
from torch import Tensor

from cl_func.tree.descriptions import describe
from cl_func.tree.structure import PyTree, flatten, items


def difference(a: PyTree, b: PyTree, rtol: float = 0.0, atol: float = 0.0) -> str | None:
    """The first difference between two trees in words, or None; NaN equals NaN.

    The tolerances apply to floating leaves; all other leaves must be equal. By default all values must be exactly equal.
    """
    for name, tolerance in (("rtol", rtol), ("atol", atol)):
        if isinstance(tolerance, bool) or not isinstance(tolerance, numbers.Real) or not 0 <= tolerance < math.inf:
            error = TypeError if isinstance(tolerance, bool) or not isinstance(tolerance, numbers.Real) else ValueError
            raise error(f"{name}: expected a finite number of at least 0, got {describe(tolerance)}.")
    (_, structure_a), (_, structure_b) = flatten(a), flatten(b)
    if structure_a != structure_b:
        return f"the structures differ: {structure_a} against {structure_b}"
    for (path, x), (_, y) in zip(items(a), items(b), strict=True):
        if not isinstance(x, Tensor) or not isinstance(y, Tensor):
            if x is not y and x != y:
                return f"{path}: {x!r} against {y!r}"
        elif x.shape != y.shape or x.dtype != y.dtype or x.device != y.device:
            return f"{path}: {describe(x)} on {x.device} against {describe(y)} on {y.device}"
        else:
            close = torch.isclose(x, y, rtol, atol, equal_nan=True) if x.is_floating_point() or x.is_complex() else x == y
            if not close.all():
                return f"{path}: {_gap(x[~close], y[~close])}"
    return None


def _gap(x: Tensor, y: Tensor) -> str:
    """How far values [n] that are not equal are apart, in words."""
    one_sided = x.isnan() != y.isnan()
    if one_sided.any():
        return f"{int(one_sided.sum())} values are NaN on one side only"
    gaps = (abs(p - q) for p, q in zip(x.tolist(), y.tolist(), strict=True))  # exact for whole numbers of any size
    return f"values differ by up to {max(gaps):.3g}"


def equal(a: PyTree, b: PyTree, rtol: float = 0.0, atol: float = 0.0) -> bool:
    """Whether two trees have the same structure, shapes, dtypes, devices and values (within the tolerances)."""
    return difference(a, b, rtol, atol) is None
