"""Domain-incremental streams of the same data, transformed differently in each experience: pixels permuted, images rotated.

Every experience holds all rows and all classes. Its inputs are transformed when it is asked for and not kept, so a stream of ten
experiences takes the memory of one dataset, plus what the caller keeps. Permuted and rotated MNIST: Goodfellow et al. (2013),
arXiv:1312.6211, and Lopez-Paz & Ranzato (2017), "Gradient episodic memory for continual learning", arXiv:1706.08840.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_func import checks, random, tree
from cl_func.checks import positive_int
from cl_func.experiences import Benchmark, Dataset, Experience, Stream, experience
from cl_func.streams.lazy import Lazy, check_pair

_BLOCK = 1 << 22  # values rotated at a time, so that uint8 images are never all in memory as floats


@dataclasses.dataclass(frozen=True, eq=False)
class _Transformed(Lazy):
    """Experiences that hold a whole dataset, its inputs transformed on demand; experience 0 is the dataset itself."""

    data: Dataset
    transform: Callable[[Tensor, int], Tensor]  # (x [N, ...], index) -> x of the same shape and dtype

    def view(self, index: int) -> Experience:
        all_classes = torch.ones(self.data.n_classes, dtype=torch.bool, device=self.data.x.device)
        return experience(self.data, index=index, classes=all_classes)

    def source(self, index: int) -> Dataset:
        return tree.replace(self.data, x=self.transform(self.data.x, index)) if index else self.data


def permuted(train: Dataset, test: Dataset, n_experiences: int, *, key: Tensor) -> Benchmark:
    """Permuted pixels: experience 0 is the data as it is, experience i has its features in an order drawn from fold_in(key, i).

    The permutation is over the flattened features of a sample, channels included, the same for every sample of train and test; x
    keeps its shape [N, ...] and dtype. Labels, classes and task label (0) are those of the whole dataset.
    Raises ValueError if train and test differ in n_classes, sample shape or dtype.

    >>> from cl_func.data import digits
    >>> bench = permuted(*digits(), n_experiences=3, key=random.key(0))
    >>> bench.train[2].x.shape
    torch.Size([1438, 64])
    """
    check_pair(train, test)
    checks.key("key", key)  # here rather than when the first experience is asked for
    return _benchmark(train, test, _Permutation(key), positive_int("n_experiences", n_experiences))


@dataclasses.dataclass(frozen=True, eq=False)
class _Permutation:
    """`(x [N, ...], i) -> x` with the features of each sample in the order of permutation i of the key."""

    key: Tensor  # () int64

    def __call__(self, x: Tensor, index: int) -> Tensor:
        order = random.permutation(random.fold_in(self.key, index), x[0].numel()).to(x.device)
        return x.flatten(1)[:, order].reshape(x.shape)


def rotated(train: Dataset, test: Dataset, n_experiences: int, *, max_angle: float = 180.0) -> Benchmark:
    """Rotated images: experience i is turned by i * max_angle / (n_experiences - 1) degrees.

    So experience 0 is the data as it is and the last one is turned by max_angle. Positive angles turn counterclockwise, with row 0
    on top (90 degrees is torch.rot90(x, 1, (-2, -1))), negative ones clockwise. x holds images [N, ..., H, W], or vectors [N, s *
    s] that are taken as s x s images. Interpolation is bilinear, with zeros outside; x keeps its shape and dtype, uint8 values
    being rounded. Angles of 0 and 360 leave x untouched.
    Raises TypeError for an angle that is not a number; ValueError for one that is not finite, for vectors whose length is not a
    square, or if train and test differ in n_classes, sample shape or dtype.

    >>> from cl_func.data import digits
    >>> bench = rotated(*digits(), n_experiences=3)
    >>> bench.train.make.transform.angles
    (0.0, 90.0, 180.0)
    """
    check_pair(train, test)
    positive_int("n_experiences", n_experiences)
    max_angle = checks.number("max_angle", max_angle)
    if train.x.dtype == torch.int64:
        raise TypeError(f"train: expected images, floating or uint8, to rotate, got tokens, {tree.describe(train.x)}.")
    if train.x.ndim == 2 and math.isqrt(train.x.shape[1]) ** 2 != train.x.shape[1]:
        raise ValueError(
            f"x: vectors of {train.x.shape[1]} features are no square images; give images [N, H, W], such as x.reshape(-1, H, W)."
        )
    angles = tuple(i * max_angle / max(n_experiences - 1, 1) for i in range(n_experiences))
    return _benchmark(train, test, _Rotation(angles), n_experiences)


@dataclasses.dataclass(frozen=True)
class _Rotation:
    """`(x [N, ..., H, W] or [N, s * s], i) -> x` turned counterclockwise by the i-th angle."""

    angles: tuple[float, ...]  # degrees

    def __call__(self, x: Tensor, index: int) -> Tensor:
        if self.angles[index] % 360 == 0:
            return x
        height, width = x.shape[-2:] if x.ndim > 2 else (math.isqrt(x.shape[1]),) * 2
        working = torch.float64 if x.dtype == torch.float64 else torch.float32
        grid = _grid(self.angles[index], height, width).to(x.device, working)
        # The images are the channels of a single sample, so that one grid serves all of them.
        images = x.reshape(-1, height, width)
        out = torch.empty_like(images)
        step = max(_BLOCK // (height * width), 1)
        for start in range(0, len(images), step):
            block = images[start : start + step].to(working).unsqueeze(0)
            turned = F.grid_sample(block, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]
            out[start : start + step] = (turned.round() if x.dtype == torch.uint8 else turned).to(x.dtype)
        return out.reshape(x.shape)


def _grid(angle: float, height: int, width: int) -> Tensor:
    """Where each pixel of an image turned by `angle` comes from: [1, H, W, 2] float64, as grid_sample takes it.

    Rows point down, so the source of (x, y) in pixels from the centre is (x cos a - y sin a, x sin a + y cos a); grid_sample's
    units are half widths and half heights, hence the ratios.
    """
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    theta = torch.tensor([[[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]]], dtype=torch.float64)
    return F.affine_grid(theta, [1, 1, height, width], align_corners=False)


def _benchmark(train: Dataset, test: Dataset, transform: Callable[[Tensor, int], Tensor], n_experiences: int) -> Benchmark:
    return Benchmark(*(Stream(_Transformed(data, transform), n_experiences) for data in (train, test)))
