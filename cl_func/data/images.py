"""PIL images as tensors, and many image files as one, uint8 [N, C, H, W].

A file is converted to one mode and, if `size` is given, stretched to it, with the filter of `torchvision.transforms.Resize`
(bilinear, antialiased). What a conversion would lose without a word is refused: more than 8 bits a channel, and transparency.
Pixels are as they are stored: a camera's note that they are to be turned (EXIF) is not followed, as in torchvision.
"""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from cl_func import checks
from cl_func.progress import ProgressBar

Mode: TypeAlias = Literal["RGB", "L"]
Size: TypeAlias = int | tuple[int, int] | None

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}
_EIGHT_BITS = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV"}
_TIFF_BITS = 258  # the tag BitsPerSample
_LONG = 1000  # images from which on their number is shown as it grows


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


def given_size(size: Size) -> tuple[int, int] | None:
    """(height, width) of the argument `size`, checked; a single number is both."""
    if size is None:
        return None
    if not isinstance(size, (tuple, list)):
        return checks.positive_int("size", size), size
    if len(size) != 2:
        raise checks.type_error("size", "None, a number of pixels or (height, width)", size)
    return checks.positive_int("size", size[0]), checks.positive_int("size", size[1])


def read_images(
    parts: dict[str, list[Path]], size: tuple[int, int] | None, mode: Mode, progress: bool, label: str
) -> dict[str, Tensor]:
    """The images of some lists of files, each list uint8 [n, C, H, W], C being 3 of mode "RGB" and 1 of "L".

    Raises ValueError, naming the file, for one that is no image or is damaged, for more than 8 bits a channel and for transparent
    pixels; and, naming two files, if size is None and they differ in size. ImportError without Pillow.
    """
    pillow = checks.optional("PIL.Image", "reading images", "vision")
    total = sum(len(paths) for paths in parts.values())
    bar = ProgressBar(progress and total >= _LONG, total, label, unit="images")
    found: dict[str, Tensor] = {}
    first: tuple[Path, torch.Size] | None = None
    try:
        for name, paths in parts.items():
            for i, path in enumerate(paths):
                image = from_pil(_read(pillow, path, size, mode), str(path))
                first = first or (path, image.shape)
                if image.shape != first[1]:
                    height, width = first[1][1:]
                    raise ValueError(
                        f"size: images differ in size: {first[0]} is {height} x {width}, {path} is {image.shape[1]} x "
                        f"{image.shape[2]}; give the size to stretch them to, size=({height}, {width})."
                    )
                if i == 0:
                    found[name] = image.new_empty(len(paths), *image.shape)  # filled in place: a list would hold the data twice
                found[name][i] = image
                bar.update(1)
    finally:
        bar.close()
    return found


def _read(pillow: Any, path: Path, size: tuple[int, int] | None, mode: Mode) -> Any:
    damaged = (OSError, EOFError, SyntaxError, MemoryError, struct.error, zlib.error, pillow.DecompressionBombError)
    try:
        with pillow.open(path) as image:
            deep = _deep(image)
            image.load()
            if deep is not None or image.mode not in _EIGHT_BITS:
                what = f"mode {image.mode!r}" if deep is None else deep
                raise ValueError(f"{path}: holds more than 8 bits a channel ({what}); convert it to 8 bits first.")
            if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
                raise ValueError(f"{path}: has transparent pixels, which mode {mode!r} has not; paste it on a background first.")
            image = image.convert(mode)
            if size is not None and image.size != size[::-1]:
                image = image.resize(size[::-1], pillow.Resampling.BILINEAR)
            return image
    except damaged as error:
        raise ValueError(f"{path}: cannot be read as an image: {error}") from error


def _deep(image: Any) -> str | None:
    """What of a file that is not loaded yet says that it has more than 8 bits a channel, which Pillow may cut without a word.

    Its modes tell it of grey images alone: colours of 16 bits are RGB to it as those of 8 are.
    """
    for codec, _, _, given in image.tile:
        args = given if isinstance(given, tuple) else (given,)
        raw = args[0] if args else ""
        if isinstance(raw, str) and ";16" in raw and raw != "BGR;16":  # BMP's, of 5 and 6 bits a channel
            return f"stored as {raw!r}"
        if codec in ("ppm", "ppm_plain") and len(args) == 2 and args[1] > 255:
            return f"values up to {args[1]}"
    bits = getattr(image, "tag_v2", {}).get(_TIFF_BITS, ())  # a TIFF whose channels stand one after the other has none of these
    return f"{max(bits)} bits" if max(bits, default=1) > 8 else None
