"""Augmentations that move or hide pixels: random crops, flips, cutout.

    crop      x'[i, :, h, w] = x[i, :, h + a_i, w + b_i]     a_i, b_i uniform on -padding..padding, 0 outside of the image
    flip      x'[i, :, h, w] = x[i, :, h, W - 1 - w]         with probability p
    cutout    x'[i, :, h, w] = 0                             in a square around a pixel drawn uniformly

Crops of padded images and flips: He et al., "Deep residual learning for image recognition", CVPR 2016, section 4.2. Cutout:
DeVries & Taylor, "Improved regularization of convolutional neural networks with cutout", 2017.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from cl_func import checks, random
from cl_func.augment.kinds import Augment, images


def random_crop(padding: int = 4, fill: float = 0.0) -> Augment:
    """A crop of each image's own size out of the image padded by `padding` pixels of `fill` on every side.

    The position is uniform over the (2 * padding + 1)^2 possible ones. Like `torchvision.transforms.RandomCrop` with the image's
    size and padding, but drawn for each row.

    >>> x = torch.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    >>> random_crop(padding=1)(random.key(0), x)
    tensor([[[[2., 3., 0.],
              [5., 6., 0.],
              [8., 9., 0.]]]])
    """
    return partial(_random_crop, padding=checks.positive_int("padding", padding), fill=checks.number("fill", fill))


def _random_crop(key: Tensor, x: Tensor, *, padding: int, fill: float) -> Tensor:
    offset = random.randint(key, (images(key, x).shape[0], 2), -padding, padding + 1)
    return shifted(x, offset[:, 0], offset[:, 1], fill)


def shifted(x: Tensor, down: Tensor, right: Tensor, fill: float = 0.0) -> Tensor:
    """For each row the window of the image's size that begins `down` [n] pixels below its corner and `right` [n] to the right.

    int64, negative for above and to the left; `fill` where the window leaves the image.
    """
    height, width = x.shape[2:]
    h = (down[:, None] + torch.arange(height, device=x.device))[:, :, None]
    w = (right[:, None] + torch.arange(width, device=x.device))[:, None, :]
    inside = (h >= 0) & (h < height) & (w >= 0) & (w < width)
    position = (h.clamp(0, height - 1) * width + w.clamp(0, width - 1)).flatten(1)
    taken = x.flatten(2).gather(2, position[:, None].expand(-1, x.shape[1], -1)).reshape(x.shape)
    return torch.where(inside[:, None], taken, fill)


def horizontal_flip(p: float = 0.5) -> Augment:
    """Each image mirrored, left to right, with probability p."""
    return partial(_horizontal_flip, p=checks.number("p", p, 0, 1, ends="[]"))


def _horizontal_flip(key: Tensor, x: Tensor, *, p: float) -> Tensor:
    flip = random.bernoulli(key, p, (images(key, x).shape[0], 1, 1, 1))
    return torch.where(flip, x.flip(3), x)


def cutout(size: int, fill: float = 0.0) -> Augment:
    """A square of size x size pixels of each image set to `fill`; the part of it outside of the image is lost.

    The centre is uniform over the pixels; of an even size the square begins size / 2 before it, as in the authors' code. On images
    whose mean is 0 the fill of 0 hides what was there and tells nothing else.
    """
    return partial(_cutout, size=checks.positive_int("size", size), fill=checks.number("fill", fill))


def _cutout(key: Tensor, x: Tensor, *, size: int, fill: float) -> Tensor:
    n, _, height, width = images(key, x).shape
    row, column = random.split(key)
    box = boxes(random.randint(row, n, 0, height), random.randint(column, n, 0, width), size // 2, size - size // 2, x)
    return torch.where(box[:, None], fill, x)


def boxes(row: Tensor, column: Tensor, before: int | Tensor, after: int | Tensor, x: Tensor) -> Tensor:
    """Which pixels [n, H, W] bool of x [n, C, H, W] lie from `before` pixels ahead of a centre up to `after` past it, exclusive.

    row, column: the centres, [n] int64; before, after: a number, or pairs [n, 2] int64 for the two axes.
    """
    found = []
    for axis, centre in enumerate((row, column)):
        low, high = (part[:, axis] if isinstance(part, Tensor) else part for part in (before, after))
        pixel = torch.arange(x.shape[2 + axis], device=x.device)
        found.append((pixel >= (centre - low)[:, None]) & (pixel < (centre + high)[:, None]))
    return found[0][:, :, None] & found[1][:, None, :]
