"""A linear classifier, as the statistics of SLDA, RanPAC and ACIL give it once their linear systems are solved.

logit_c(f) = f^T w_c + b_c
"""

from __future__ import annotations

import torch
from torch import Tensor

from cl_func import checks
from cl_func.classifiers.nearest_mean import _check_features
from cl_func.models import mask_logits
from cl_func.tree import state


@state
class LinearClassifier:
    """The weights of a linear classifier."""

    weights: Tensor  # [F, C] float64
    bias: Tensor  # [C] float64
    seen: Tensor  # [C] bool, the classes that have rows


def logits(slot: LinearClassifier, rows: Tensor) -> Tensor:
    """The logits [n, C] of features [n, F], computed in float64 and returned in their dtype, masked where a class has no rows.

    Raises TypeError or ValueError for features of another dtype or shape.
    """
    checks.instance("slot", slot, LinearClassifier, "a LinearClassifier, such as slda.solve gives")
    _check_features(rows, slot.weights.T)
    return mask_logits((rows.double() @ slot.weights + slot.bias).to(rows.dtype), slot.seen)


def _cholesky(matrix: Tensor) -> Tensor:
    """The Cholesky factor [..., F, F] of symmetric matrices [..., F, F], NaN for one that is not positive definite.

    A lane that has diverged must not raise an error for the others. (MKL 2024.2 on two threads: LU failed once in hundreds of runs,
    pivots out of range.)
    """
    factor, failed = torch.linalg.cholesky_ex(matrix)
    return torch.where((failed == 0)[..., None, None], factor, torch.nan)
