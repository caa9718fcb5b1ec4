"""Domain-incremental streams of the same data, shown differently in each experience: pixels permuted, images rotated, or noisy.

Every experience holds all rows and all classes. Its inputs are computed from the data within the step, for the rows of a minibatch,
so a stream of any length takes the memory of one dataset, and lanes of a sweep may have streams of their own. Permuted and rotated
MNIST: Goodfellow et al. (2013), arXiv:1312.6211, and Lopez-Paz & Ranzato (2017), "Gradient episodic memory for continual learning",
arXiv:1706.08840. Noise that grows: Mai et al. (2022), "Online continual learning in image classification: an empirical survey",
Neurocomputing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from cl_func import checks, random
from cl_func.checks import positive_int
from cl_func.experiences import Benchmark, Experience, Stream, experience
from cl_func.sources import Source
from cl_func.sources.noisy import Noisy, check_no_tokens
from cl_func.sources.permuted import Permuted
from cl_func.sources.rotated import check_images, rotate
from cl_func.sources.view import one_row
from cl_func.streams.lazy import Lazy, check_pair


@dataclasses.dataclass(frozen=True, eq=False)
class _Views(Lazy):
    """Experiences that hold all rows of a view of the data, another one for each."""

    data: Source
    view_of: Callable[[Source, int], Source]

    def view(self, index: int) -> Experience:
        all_classes = torch.ones(self.data.n_classes, dtype=torch.bool, device=self.data.device)
        return experience(self.data, index=index, classes=all_classes)

    def source(self, index: int) -> Source:
        return self.view_of(self.data, index)


def _benchmark(train: Source, test: Source, view_of: Callable[[Source, int], Source], n_experiences: int) -> Benchmark:
    return Benchmark(*(Stream(_Views(data, view_of), n_experiences) for data in (train, test)))


def permuted(train: Source, test: Source, n_experiences: int, *, key: Tensor) -> Benchmark:
    """Permuted pixels: experience 0 is the data as it is, experience i has its features in an order drawn from fold_in(key, i).

    The permutation is over the flattened features of a sample, channels included, the same for every sample of train and test; x
    keeps its shape [N, ...] and dtype. Labels, classes and task label (0) are those of the whole dataset. The source of each
    experience is a `cl.sources.Permuted`, in experience 0 with the identity: all experiences share one compiled program.
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
    """`(source, i) -> Permuted`, with permutation i of the key."""

    key: Tensor  # () int64

    def __call__(self, source: Source, index: int) -> Permuted:
        n = one_row(source).numel()
        order = random.permutation(random.fold_in(self.key, index), n) if index else torch.arange(n)
        return Permuted(source, order.to(source.device))


def rotated(train: Source, test: Source, n_experiences: int, *, max_angle: float = 180.0, key: Tensor | None = None) -> Benchmark:
    """Rotated images: experience i is turned by i * max_angle / (n_experiences - 1) degrees, or by an angle drawn from a key.

    So experience 0 is the data as it is and the last one is turned by max_angle; with a key, experience i > 0 is turned by an angle
    uniform in [0, max_angle), drawn from fold_in(key, i). Positive angles turn counterclockwise, with row 0 on top (90 degrees is
    torch.rot90(x, 1, (-2, -1))), negative ones clockwise. x holds images [N, ..., H, W], or vectors [N, s * s] that are taken as
    s x s images. Interpolation is bilinear, with zeros outside; x keeps its shape and dtype, uint8 values being rounded. Angles of
    0 and 360 leave x untouched. The source of each experience is a `cl.sources.Rotated`.
    Raises TypeError for an angle that is not a number; ValueError for one that is not finite, for vectors whose length is not a
    square, or if train and test differ in n_classes, sample shape or dtype.

    >>> from cl_func.data import digits
    >>> bench = rotated(*digits(), n_experiences=3)
    >>> bench.train.make.view_of.angles
    (0.0, 90.0, 180.0)
    """
    check_pair(train, test)
    positive_int("n_experiences", n_experiences)
    max_angle = checks.number("max_angle", max_angle)
    check_images("train", one_row(train))
    angles = tuple(i * max_angle / max(n_experiences - 1, 1) for i in range(n_experiences))
    if key is not None:
        checks.key("key", key)
        draws = (random.uniform(random.fold_in(key, i), (), torch.float64) for i in range(n_experiences))
        angles = tuple(max_angle * float(draw) if i else 0.0 for i, draw in enumerate(draws))
    return _benchmark(train, test, _Rotation(angles), n_experiences)


@dataclasses.dataclass(frozen=True)
class _Rotation:
    """`(source, i) -> Rotated`, by the i-th angle."""

    angles: tuple[float, ...]  # degrees

    def __call__(self, source: Source, index: int) -> Source:
        return rotate(source, self.angles[index])


def noisy(train: Source, test: Source, n_experiences: int, *, max_std: float = 1.0, key: Tensor) -> Benchmark:
    """Noise that grows: experience i has Gaussian noise of the standard deviation i * max_std / (n_experiences - 1) on its inputs.

    So experience 0 is the data as it is. A row has the same noise each time, drawn from the key, the experience and its number, and
    another one in train than in test. Of uint8 images max_std is in units of the whole range, 0..255, within which values are held;
    floating inputs may leave theirs. x keeps its shape and dtype. The source of each experience is a `cl.sources.Noisy`.
    Raises TypeError for tokens; ValueError for a max_std that is negative or not finite, or if train and test differ in n_classes,
    sample shape or dtype.

    >>> from cl_func.data import digits
    >>> bench = noisy(*digits(), n_experiences=3, key=random.key(0))
    >>> [round(float(exp.source.std), 1) for exp in bench.train]
    [0.0, 0.5, 1.0]
    """
    check_pair(train, test)
    checks.key("key", key)
    n = positive_int("n_experiences", n_experiences)
    max_std = checks.number("max_std", max_std, 0, ends="[)")
    check_no_tokens("train", one_row(train))
    deviations = tuple(i * max_std / max(n - 1, 1) for i in range(n))
    streams = (
        Stream(_Views(data, _Noise(child, deviations)), n) for data, child in zip((train, test), random.split(key), strict=True)
    )
    return Benchmark(*streams)


@dataclasses.dataclass(frozen=True, eq=False)
class _Noise:
    """`(source, i) -> Noisy`, with the i-th standard deviation."""

    key: Tensor  # () int64
    deviations: tuple[float, ...]

    def __call__(self, source: Source, index: int) -> Noisy:
        dtype = torch.float64 if one_row(source).dtype == torch.float64 else torch.float32
        std = torch.tensor(self.deviations[index], dtype=dtype, device=source.device)
        return Noisy(source, random.fold_in(self.key, index).to(source.device), std)
