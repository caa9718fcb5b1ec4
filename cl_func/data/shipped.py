"""The dataset that comes with the library: small enough for tests, real enough to be forgotten.

1,797 handwritten digits of 8 x 8 pixels: the test part of "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak 1998, UCI
Machine Learning Repository, DOI 10.24432/C50P49, CC BY 4.0), the same images as scikit-learn's `load_digits`. See
digits_LICENSE.txt beside the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cl_func import random
from cl_func.sources import Dataset

_FILE = Path(__file__).with_name("digits.npz")
_SPLIT_SEED = 0  # changing it changes every result on digits
_TEST_FRACTION = 0.2


def digits() -> tuple[Dataset, Dataset]:
    """(train, test) of the 8 x 8 digits: x float32 [N, 64] in [0, 1] (pixels of 0 to 16, divided by 16), y int64 [N], 10 classes.

    A fifth of each class is test data; the split is the same every time and on every machine. The data has no writer labels, so the
    same writers may be in both parts.

    >>> train, test = digits()
    >>> len(train), len(test)
    (1438, 359)
    """
    with np.load(_FILE, allow_pickle=False) as arrays:
        x = torch.from_numpy(arrays["x"]).to(torch.float32) / 16
        y = torch.from_numpy(arrays["y"]).to(torch.int64)
    held_out = torch.zeros(len(y), dtype=torch.bool)
    for label in range(10):
        rows = (y == label).nonzero().flatten()
        order = random.permutation(random.fold_in(random.key(_SPLIT_SEED), label), len(rows))
        held_out[rows[order[: round(_TEST_FRACTION * len(rows))]]] = True
    return Dataset(x[~held_out], y[~held_out], n_classes=10), Dataset(x[held_out], y[held_out], n_classes=10)
