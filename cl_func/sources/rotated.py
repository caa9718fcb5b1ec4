"""The images of another source, rotated about their centre (rotated MNIST: Lopez-Paz & Ranzato, 2017, arXiv:1706.08840).

The pixel at (x, y), in pixels from the centre, rows pointing down, is taken from

    (x cos a - y sin a, x sin a + y cos a)

by bilinear interpolation: a sum over the four pixels k around that place, with zeros outside of the image,

    gather_x(rows)[i, p] = sum_k weight[k, p] source.gather_x(rows)[i, index[k, p]]        over the flattened pixels p

The four products are added in this order, so that a compiled step gives the same bits as an eager one. The bits of `grid_sample`
depend on the processor; these differ from its values by at most 1e-6 for values up to 1, and uint8 values, which are rounded,
rarely by 1.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_func import checks
from cl_func.sources.source import Source
from cl_func.sources.view import View, check_source, one_row
from cl_func.tree import describe, per_lane, state


@state
class Rotated(View):
    """A source with its images rotated; made by `rotate`."""

    source: Source
    index: Tensor = per_lane(2)  # [4, H * W] int64, the four pixels around the point that each pixel is taken from
    weight: Tensor = per_lane(2)  # [4, H * W] float64 for float64 images, else float32; 0 outside of the image

    def gather_x(self, rows: Tensor) -> Tensor:
        """The inputs of the rows, rotated."""
        x = self.source.gather_x(rows)
        size = self.index.shape[-1]
        pixels = x.reshape(x.numel() // size, size)  # images of several channels are as many images
        parts = [pixels.index_select(1, self.index[k]) * self.weight[k] for k in range(4)]
        turned = parts[0] + parts[1] + parts[2] + parts[3]
        return (turned.round() if x.dtype == torch.uint8 else turned).to(x.dtype).reshape(x.shape)


def rotate(source: Source, angle: float) -> Rotated:
    """A source with its images turned counterclockwise by an angle in degrees, as seen with row 0 on top; negative: clockwise.

    Its rows are images [..., H, W], or vectors [s * s] that are taken as s x s images; shape and dtype stay, uint8 values are
    rounded. Angles of 0 and 360 change nothing, to the bit. Raises TypeError for tokens and for an angle that is no number;
    ValueError for vectors whose length is not a square.

    >>> from cl_func.sources import Dataset
    >>> data = Dataset(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([0]))
    >>> rotate(data, 90).gather_x(torch.tensor([0])).round()
    tensor([[[2., 4.],
             [1., 3.]]])
    """
    row = one_row(check_source(source))
    check_images("source", row)
    angle = checks.number("angle", angle)
    height, width = row.shape[-2:] if row.ndim > 1 else (math.isqrt(row.numel()),) * 2
    index, weight = _tables(angle, height, width, torch.float64 if row.dtype == torch.float64 else torch.float32)
    return Rotated(source=source, index=index.to(row.device), weight=weight.to(row.device))


def check_images(name: str, row: Tensor) -> None:
    """Check that an input [...] is an image, or a vector that can be taken as a square one; TypeError or ValueError otherwise."""
    if row.dtype == torch.int64:
        raise TypeError(f"{name}: expected images, floating or uint8, to rotate, got tokens, {describe(row)} a row.")
    if row.ndim == 1 and math.isqrt(row.numel()) ** 2 != row.numel():
        raise ValueError(
            f"{name}: x holds vectors of {row.numel()} features, which are no square images; give images [N, H, W], such as "
            "x.reshape(-1, H, W)."
        )


def _tables(angle: float, height: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The index and the weight of the four pixels around the place that each pixel is taken from, [4, H * W] each."""
    if angle % 360 == 0:
        here = torch.arange(height * width)
        weight = torch.zeros(4, height * width, dtype=dtype)
        weight[0] = 1
        return here.expand(4, -1).contiguous(), weight
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    # affine_grid's units are half widths and half heights, hence the ratios.
    theta = torch.tensor([[[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]]], dtype=torch.float64)
    x, y = F.affine_grid(theta, [1, 1, height, width], align_corners=False).reshape(-1, 2).to(dtype).T
    x, y = (x + 1) * (width / 2) - 0.5, (y + 1) * (height / 2) - 0.5
    left, top = x.floor(), y.floor()
    right_part, low_part = x - left, y - top
    left_part, top_part = 1 - right_part, 1 - low_part
    index, weights = list[Tensor](), list[Tensor]()
    for down, right, part in (
        (0, 0, top_part * left_part),
        (0, 1, top_part * right_part),
        (1, 0, low_part * left_part),
        (1, 1, low_part * right_part),
    ):
        row, column = top + down, left + right
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        index.append((row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long())
        weights.append(torch.where(inside, part, 0))
    return torch.stack(index), torch.stack(weights)
