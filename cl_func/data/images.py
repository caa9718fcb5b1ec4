"""PIL images as tensors, and many image files as one, uint8 [N, C, H, W]."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

_CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}


def is_pil(value: Any) -> bool:
    """Whether a value is a PIL image. Pillow is not imported for it: of an image it is already."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)


def from_pil(image: Any, name: str) -> Tensor:
    """A PIL image of mode L, RGB or RGBA as uint8 [C, H, W]; ValueError for other modes, with the conversion to write."""
    if image.mode not in _CHANNELS:
        raise ValueError(
            f"{name}: expected an image of mode L, RGB or RGBA, got mode {image.mode!r}; convert it, "
            "transform=lambda image: image.convert('RGB')."
        )
    values = torch.from_numpy(np.array(image, dtype=np.uint8))
    return values.reshape(*values.shape[:2], _CHANNELS[image.mode]).permute(2, 0, 1)
