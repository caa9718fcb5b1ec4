"""A small convolutional net: blocks of 3x3 convolution, ReLU and 2x2 max-pooling, then a hidden linear layer and the logits."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cl_func.checks import positive_int
from cl_func.models.model import Model
from cl_func.models.module import from_module, input_size
from cl_func.tree import describe


def cnn(
    input_shape: tuple[int, int, int] = (1, 28, 28),
    channels: Sequence[int] = (32, 64),
    hidden: int = 128,
    n_classes: int = 10,
) -> Model:
    """A CNN with one block per entry of `channels`: x [n, C, H, W] (or flattened, [n, C * H * W]) to logits [n, n_classes].

    Each block halves the height and the width (rounded down); ValueError if nothing would be left.
    """
    shape = image_size(input_shape)
    if not isinstance(channels, (tuple, list)) or not channels:
        raise TypeError(f"channels: expected the channels of each block such as (32, 64), got {channels!r}.")
    widths = tuple(positive_int("channels", width) for width in channels)
    if min(shape[1:]) >> len(widths) == 0:
        raise ValueError(f"channels: {len(widths)} blocks halve the {shape[1]}x{shape[2]} input to nothing; give fewer channels.")
    factory = functools.partial(_CNN, shape, widths, positive_int("hidden", hidden), positive_int("n_classes", n_classes))
    return from_module(factory, n_classes=n_classes, input_shape=shape, last_layer="out")


def image_size(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Check an image's shape (channels, height, width)."""
    if len(input_size(shape)) != 3:
        raise ValueError(f"input_shape: expected (channels, height, width), got {shape!r}.")
    return tuple(shape)


def as_images(x: Tensor, shape: tuple[int, ...], any_size: bool = False) -> Tensor:
    """x as images [n, C, H, W]; flattened ones are given their shape back. Raises ValueError for any other shape."""
    if x.ndim == 2 and x.shape[1] == math.prod(shape):
        return x.reshape(-1, *shape)
    if x.ndim != 4 or x.shape[1] != shape[0] or not (any_size or x.shape[1:] == shape):
        raise ValueError(f"x: expected images [n, {', '.join(map(str, shape))}] or [n, {math.prod(shape)}], got {describe(x)}.")
    return x


def channels_last(x: Tensor) -> Tensor:
    """The same images [n, C, H, W] with the channels of a pixel side by side in memory, as convolutions on a CPU want them.

    What follows keeps this layout, in which slim ResNet-18 trains 1.2 to 1.4 times as fast (`python -m benchmarks B4`). Not by
    `memory_format=torch.channels_last`, which vmap does not know.
    """
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


class _CNN(nn.Module):
    def __init__(self, shape: tuple[int, ...], channels: tuple[int, ...], hidden: int, n_classes: int) -> None:
        super().__init__()
        self.shape = shape
        ins = (shape[0], *channels)
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in zip(ins[:-1], channels, strict=True))
        left = [size >> len(channels) for size in shape[1:]]
        self.hidden = nn.Linear(channels[-1] * math.prod(left), hidden)
        self.out = nn.Linear(hidden, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        h = channels_last(as_images(x, self.shape))
        for conv in self.convs:
            h = nn.functional.max_pool2d(torch.relu(conv(h)), 2)
        logits: Tensor = self.out(torch.relu(self.hidden(h.flatten(1))))
        return logits
