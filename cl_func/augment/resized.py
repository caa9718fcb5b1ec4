"""Random resized crops: a window of random size and shape, stretched to the image's size.

    area  = s H W,   s uniform on [low, high];      width / height = r,   log r uniform
    x'[i, :, h, w] = the window of row i at ((h + 1/2) height / H - 1/2, (w + 1/2) width / W - 1/2), bilinear

Szegedy et al., "Going deeper with convolutions", CVPR 2015, section 6. With colours it is what contrastive learning makes its views
by (Chen, Kornblith, Norouzi & Hinton, "A simple framework for contrastive learning of visual representations", ICML 2020).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, random
from cl_func.augment.kinds import Augment, images

_TRIES = 10  # windows that are drawn, of which the first that fits is taken; as in torchvision


def random_resized_crop(scale: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)) -> Augment:
    """A window of each image, of random area and proportions, stretched to the image's size.

    scale: smallest and largest part of the image's area, in (0, 1]. ratio: smallest and largest width by height, above 0. Windows
    have whole pixels and lie within the image; where none of ten fits, it is the largest one in the middle, of the image's
    proportions or the nearest in `ratio`. Like `torchvision.transforms.RandomResizedCrop` with the image's size, but drawn for each
    row.

    >>> x = torch.arange(16.0).reshape(1, 1, 4, 4)
    >>> random_resized_crop(scale=(0.2, 0.3))(random.key(0), x).shape
    torch.Size([1, 1, 4, 4])
    """
    low, high = _pair("scale", scale)
    if high > 1:
        raise ValueError(f"scale: expected parts of the area, at most 1, got {scale}.")
    return partial(_random_resized_crop, scale=(low, high), ratio=_pair("ratio", ratio))


def _pair(name: str, value: Any) -> tuple[float, float]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise checks.type_error(name, "two numbers above 0, the smaller first", value)
    low = checks.number(name, value[0], 0)
    return low, checks.number(name, value[1], low, ends="[)")


def _random_resized_crop(key: Tensor, x: Tensor, *, scale: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    n, _, height, width = images(key, x).shape
    return stretched(x, *windows(key, n, height, width, scale, ratio))


def windows(
    key: Tensor, n: int, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The top, left, height and width of n random windows of an image, [n] int64 each."""
    size_key, place_key = random.split(key)
    drawn = random.uniform(size_key, (n, _TRIES, 2))
    area = height * width * (scale[0] + (scale[1] - scale[0]) * drawn[:, :, 0])
    low, high = (math.log(value) for value in ratio)
    proportion = torch.exp(low + (high - low) * drawn[:, :, 1])
    tall, wide = (area / proportion).sqrt().round(), (area * proportion).sqrt().round()
    fits = (tall >= 1) & (tall <= height) & (wide >= 1) & (wide <= width)
    # Not argmax: compiled, its index may lie outside where none fits (torch 2.13).
    first = torch.where(fits, torch.arange(_TRIES, device=fits.device), _TRIES - 1).amin(1, keepdim=True)
    found = fits.any(1)
    whole = min(max(width / height, ratio[0]), ratio[1])
    largest = (max(min(height, round(width / whole)), 1), max(min(width, round(height * whole)), 1))
    h, w = (
        torch.where(found, drawn_sizes.gather(1, first)[:, 0], float(most)).to(torch.int64)
        for drawn_sizes, most in ((tall, largest[0]), (wide, largest[1]))
    )
    top_key, left_key = random.split(place_key)
    top, left = (
        torch.where(found, random.randint(own, n, 0, length - size + 1), (length - size) // 2)
        for own, length, size in ((top_key, height, h), (left_key, width, w))
    )
    return top, left, h, w


def stretched(x: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """The windows [n] of images [n, C, H, W] with these corners and sizes, [n] int64 each, stretched to H x W.

    Bilinear, like `torch.nn.functional.interpolate` of the window alone: what lies outside of it does not matter.
    """
    for axis, start, size in ((2, top, height), (3, left, width)):
        length = x.shape[axis]
        position = (torch.arange(length, device=x.device) + 0.5) * (size[:, None] / length) - 0.5
        position = torch.minimum(position.clamp(min=0), size[:, None] - 1.0)  # [n, length], within the window
        before = position.floor()
        share = (position - before).to(x.dtype)
        index = start[:, None] + before.to(torch.int64)
        after = torch.minimum(index + 1, (start + size)[:, None] - 1)
        shape = (x.shape[0], 1, -1, 1) if axis == 2 else (x.shape[0], 1, 1, -1)
        full = [x.shape[0], x.shape[1], x.shape[2], x.shape[3]]
        one, other = (x.gather(axis, i.reshape(shape).expand(full)) for i in (index, after))
        x = one + share.reshape(shape) * (other - one)
    return x
