"""Augmentations of colours: jitter, grey images, and normalisation by channel.

    brightness    x' = f x                                            f uniform on [max(0, 1 - strength), 1 + strength]
    contrast      x' = f x + (1 - f) m                                m the mean of the grey image
    saturation    x' = f x + (1 - f) g                                g = 0.2989 R + 0.587 G + 0.114 B, the grey image
    hue           the angle of the hue moves by d full turns          d uniform on [-hue, hue]

What leaves [0, 1] is cut off there, after each of the four. The formulas and the weights of g are those of torchvision, whose
transforms give the same images for the same factors; each row draws its own. Howard, "Some improvements on deep convolutional
neural network based image classification", 2013.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, random
from cl_func.augment.kinds import Augment, images, parts


def color_jitter(
    brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0, p: float = 1.0
) -> Augment:
    """Brightness, contrast, saturation and hue of each image changed at random, in this order, with probability p.

    x: [n, 3, H, W] RGB or [n, 1, H, W] grey, in [0, 1]: put normalisation behind it. Brightness, contrast and saturation are
    strengths of at least 0, hue is one in [0, 0.5]; 0 leaves that part as it is. `torchvision.transforms.ColorJitter` also draws
    the order of the four, here it is fixed. SimCLR (Chen et al. 2020) has color_jitter(0.8 s, 0.8 s, 0.8 s, 0.2 s, p=0.8).
    """
    return partial(
        _color_jitter,
        brightness=checks.number("brightness", brightness, 0, ends="[)"),
        contrast=checks.number("contrast", contrast, 0, ends="[)"),
        saturation=checks.number("saturation", saturation, 0, ends="[)"),
        hue=checks.number("hue", hue, 0, 0.5, ends="[]"),
        p=checks.number("p", p, 0, 1, ends="[]"),
    )


def _color_jitter(key: Tensor, x: Tensor, *, brightness: float, contrast: float, saturation: float, hue: float, p: float) -> Tensor:
    # One column for each part whether it is used or not, so that what one draws does not depend on the others.
    drawn = random.uniform(key, (images(key, x).shape[0], 5)).to(x.dtype)[:, :, None, None, None]
    out = x
    if brightness:
        out = (_factor(drawn[:, 0], brightness) * out).clamp(0, 1)
    if contrast:
        out = _blend(out, gray(out).mean((1, 2, 3), keepdim=True), _factor(drawn[:, 1], contrast))
    if saturation:
        out = _blend(out, gray(out), _factor(drawn[:, 2], saturation))
    if hue:
        out = turned(out, (2 * drawn[:, 3] - 1) * hue)
    return out if p == 1 else torch.where(drawn[:, 4] < p, out, x)


def _factor(drawn: Tensor, strength: float) -> Tensor:
    low = max(0.0, 1 - strength)
    return low + (1 + strength - low) * drawn


def _blend(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (factor * x + (1 - factor) * other).clamp(0, 1)


def gray(x: Tensor) -> Tensor:
    """The grey images [n, 1, H, W] of RGB images [n, 3, H, W]; images of one channel are grey. ValueError for other channels."""
    if x.shape[1] == 1:
        return x
    if x.shape[1] != 3:
        raise ValueError(f"x: colours are of RGB or grey images, [n, 3, H, W] or [n, 1, H, W], got {list(x.shape)}.")
    return 0.2989 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]


def turned(x: Tensor, turn: Tensor) -> Tensor:
    """RGB images with their hues moved by `turn` [n, 1, 1, 1] full turns; largest and smallest channel stay, so grey stays grey.

    With V the largest of a pixel's channels, C the difference to the smallest and h in [0, 6) its hue in the colour model HSV, the
    channels are V - C clamp(min(k, 4 - k), 0, 1) for k = (n + h) mod 6, n = 5 for red, 3 for green and 1 for blue.
    """
    if x.shape[1] == 1:
        return x
    gray(x)  # for its check
    red, green, blue = x.unbind(1)
    high, low = x.amax(1), x.amin(1)
    chroma = high - low
    by = torch.where(chroma > 0, chroma, 1)
    hue = torch.where(high == green, 2 + (blue - red) / by, 4 + (red - green) / by)
    hue = torch.where(high == red, (green - blue) / by, hue) + 6 * turn[:, 0]
    offsets = [(hue + n).remainder(6) for n in (5, 3, 1)]
    return torch.stack([high - chroma * torch.minimum(k, 4 - k).clamp(0, 1) for k in offsets], 1)


def grayscale(p: float = 0.1) -> Augment:
    """Each image made grey with probability p, its channels equal. x: [n, 3, H, W] RGB, or [n, 1, H, W], which is grey already."""
    return partial(_grayscale, p=checks.number("p", p, 0, 1, ends="[]"))


def _grayscale(key: Tensor, x: Tensor, *, p: float) -> Tensor:
    drawn = random.bernoulli(key, p, (images(key, x).shape[0], 1, 1, 1))
    return torch.where(drawn, gray(x), x)


def normalize(mean: float | Sequence[float], std: float | Sequence[float]) -> Augment:
    """(x - mean) / std by channel, each a number or one for each channel, std above 0; it draws nothing, so any key will do.

    For views that a method makes itself. A model must get its inputs normalised in training and in evaluation alike: for that there
    is `cl.models.normalized(model, mean, std)`, and `cl.models.augmented` refuses this one.
    """
    means, stds = per_channel("mean", mean), per_channel("std", std, above=0)
    if 1 not in (len(means), len(stds)) and len(means) != len(stds):
        raise ValueError(f"mean, std: given for {len(means)} and {len(stds)} channels; give a number, or one for each channel.")
    return partial(_normalize, mean=means, std=stds)


def _normalize(key: Tensor | None, x: Tensor, *, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    channels = images(key, x).shape[1]
    if not {len(mean), len(std)} <= {1, channels}:
        raise ValueError(f"mean, std: given for {max(len(mean), len(std))} channels, x has {channels}: {list(x.shape)}.")
    # Filled where x is: a tensor made of a tuple would be moved there, at every step.
    m, s = (torch.stack([x.new_full((), v) for v in values])[:, None, None] for values in (mean, std))
    return (x - m) / s


def normalizes(augment: Any) -> bool:
    """Whether an augmentation is, or is composed of others and among them, one of `normalize`."""
    return any(isinstance(part, partial) and part.func is _normalize for part in parts(augment))


def per_channel(name: str, value: Any, above: float = float("-inf")) -> tuple[float, ...]:
    """Check numbers by channel: one, or a tuple or list of them; TypeError or ValueError otherwise."""
    if isinstance(value, (tuple, list)):
        if not value:
            raise ValueError(f"{name}: expected a number for each channel, got none.")
        return tuple(checks.number(name, one, above) for one in value)
    return (checks.number(name, value, above),)
