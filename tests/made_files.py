"""Files made by hand, in the layouts in which datasets are published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image


def image(value: int, size: tuple[int, int] = (8, 6), channels: int = 3) -> np.ndarray:
    """An image uint8 [H, W, C] whose pixels tell row, column, channel and image apart, the last to 256."""
    rows, columns, channel = np.mgrid[: size[0], : size[1], :channels]
    return ((value + 80 * channel + 9 * rows + columns) % 256).astype(np.uint8)


def save(path: Path, values: np.ndarray, **options) -> None:
    """An image [H, W, C] as a file, of three channels or of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(values[..., 0] if values.shape[2] == 1 else values).save(path, **options)


def photos(folder: Path, classes=("cat", "dog", "newt"), per_class=5, split=None, size=(8, 6)) -> Path:
    """folder/photos with `per_class` images of each class, or with that many for training and two for testing.

    Image i of class c has the value 40 * c + i; those for testing begin at i = 20.
    """
    root = folder / "photos"
    for part, count, first in ((split[0], per_class, 0), (split[1], 2, 20)) if split else ((".", per_class, 0),):
        for label, name in enumerate(classes):
            for i in range(first, first + count):
                save(root / part / name / f"{i:03}.png", image(40 * label + i, size))
    return root
