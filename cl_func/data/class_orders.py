"""Class orders of the literature, for `class_order=` of the streams that split by class.

Two orders of 100 classes go by the name of iCaRL (Rebuffi, Kolesnikov, Sperl & Lampert, CVPR 2017), whose code seeds numpy with
1993; a result "in the order of iCaRL" may mean either.

    shuffled(100)     68, 56, 78, 8, ...  its ImageNet code, which shuffles the classes at once; PODNet for ImageNet-100, FACIL for
                                          both, where it is called cifar100_icarl, and PyCIL with its seed
    ICARL_CIFAR100    87, 0, 52, 58, ...  its CIFAR-100 code, which first shuffles the rows of each class; PODNet for CIFAR-100
"""

from __future__ import annotations

import numpy as np

from cl_func import checks

# fmt: off
ICARL_CIFAR100: tuple[int, ...] = (
    87, 0, 52, 58, 44, 91, 68, 97, 51, 15, 94, 92, 10, 72, 49, 78, 61, 14, 8, 86, 84, 96, 18, 24, 32, 45, 88, 11, 4, 67, 69, 66,
    77, 47, 79, 93, 29, 50, 57, 83, 17, 81, 41, 12, 37, 59, 25, 20, 80, 73, 1, 28, 6, 46, 62, 82, 53, 9, 31, 75, 38, 63, 33, 74,
    27, 22, 36, 3, 16, 21, 60, 19, 70, 90, 89, 43, 5, 42, 65, 76, 40, 30, 23, 85, 2, 95, 56, 48, 71, 64, 98, 13, 99, 7, 34, 55,
    54, 26, 35, 39,
)
"""The order of the first run of iCaRL's CIFAR-100 code, https://github.com/srebuffi/iCaRL."""

PODNET_CIFAR100: tuple[tuple[int, ...], ...] = (
    ICARL_CIFAR100,
    (
        58, 30, 93, 69, 21, 77, 3, 78, 12, 71, 65, 40, 16, 49, 89, 46, 24, 66, 19, 41, 5, 29, 15, 73, 11, 70, 90, 63, 67, 25, 59,
        72, 80, 94, 54, 33, 18, 96, 2, 10, 43, 9, 57, 81, 76, 50, 32, 6, 37, 7, 68, 91, 88, 95, 85, 4, 60, 36, 22, 27, 39, 42, 34,
        51, 55, 28, 53, 48, 38, 17, 83, 86, 56, 35, 45, 79, 99, 84, 97, 82, 98, 26, 47, 44, 62, 13, 31, 0, 75, 14, 52, 74, 8, 20,
        1, 92, 87, 23, 64, 61,
    ),
    (
        71, 54, 45, 32, 4, 8, 48, 66, 1, 91, 28, 82, 29, 22, 80, 27, 86, 23, 37, 47, 55, 9, 14, 68, 25, 96, 36, 90, 58, 21, 57,
        81, 12, 26, 16, 89, 79, 49, 31, 38, 46, 20, 92, 88, 40, 39, 98, 94, 19, 95, 72, 24, 64, 18, 60, 50, 63, 61, 83, 76, 69,
        35, 0, 52, 7, 65, 42, 73, 74, 30, 41, 3, 6, 53, 13, 56, 70, 77, 34, 97, 75, 2, 17, 93, 33, 84, 99, 51, 62, 87, 5, 15, 10,
        78, 67, 44, 59, 85, 43, 11,
    ),
)
"""The three orders over which PODNet (Douillard et al., ECCV 2020) takes its means, the file cifar100_3orders.yaml of its code."""
# fmt: on


def shuffled(n_classes: int, seed: int = 1993) -> tuple[int, ...]:
    """The classes 0..n_classes-1 in the order of `numpy.random.seed(seed); numpy.random.permutation(n_classes)`.

    The stream of numpy's legacy generator never changes (NEP 19); the global one is not touched. Raises TypeError or ValueError for
    n_classes below 1 and for a seed outside 0..2^32-1.

    >>> shuffled(100)[:8]
    (68, 56, 78, 8, 23, 84, 90, 65)
    >>> from cl_func.data import digits
    >>> from cl_func.streams import split_by_class
    >>> bench = split_by_class(*digits(), n_experiences=5, class_order=shuffled(10))
    """
    checks.positive_int("n_classes", n_classes)
    if checks.positive_int("seed", seed, least=0) >= 2**32:
        raise ValueError(f"seed: expected one of numpy's legacy generator, 0..2^32-1, got {seed}.")
    return tuple(np.random.RandomState(seed).permutation(n_classes).tolist())
