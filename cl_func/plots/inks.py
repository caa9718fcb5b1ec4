"""Colours of texts that can be read on what is behind them, by the contrast of WCAG 2."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def luminance(rgb: Sequence[float] | np.ndarray) -> float:
    """The relative luminance of a colour whose parts are in [0, 1]; what is behind the first three, as its opacity, is ignored."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb[:3]]
    return float(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])


def on(rgb: Sequence[float] | np.ndarray) -> str:
    """Black or white, whichever has the higher contrast with a colour."""
    return "black" if luminance(rgb) > 0.179 else "white"


def on_white(color: str) -> str:
    """A colour "#rrggbb", darkened as far as is needed for a contrast of 4.5 with white, which is level AA."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    while 1.05 / (luminance(parts) + 0.05) < 4.5:
        parts = [0.95 * part for part in parts]
    return "#" + "".join(f"{int(255 * part):02x}" for part in parts)
