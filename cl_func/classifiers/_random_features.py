"""Random features (Schmidt, Kraaijveld & Duin, "Feedforward neural networks with random weights", ICPR 1992): a fixed random layer.

    h(f) = relu(f P),    P drawn once, entries N(0, 1)

What is linear in h separates more than what is linear in f, and the layer never changes, so sums over old rows stay valid.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cl_func import checks, random
from cl_func.checks import positive_int


def draw(key: Tensor, sample: Any, size: int) -> Tensor:
    """The projection [F, M] of features like `sample` [F] to `size` random features, in their dtype."""
    if not isinstance(sample, Tensor) or sample.ndim != 1 or not sample.is_floating_point():
        raise checks.type_error("sample", "a floating tensor [F], the features of one row", sample)
    checks.key("key", key)
    if sample.is_meta or sample.device != key.device:
        raise ValueError(f"sample: on {sample.device}, but the key is on {key.device}; move it with .to(device).")
    shape = (sample.shape[0], positive_int("projection_size", size))
    return random.normal(key, shape, torch.float64 if sample.dtype == torch.float64 else torch.float32).to(sample.dtype)


def expand(projection: Tensor, rows: Tensor) -> Tensor:
    """The random features [n, M] of features [n, F]."""
    return torch.relu(rows @ projection)
