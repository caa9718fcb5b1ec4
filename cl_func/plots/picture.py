"""Axes that show and save themselves; see `cl_func.plots`. Loaded only where something is drawn, since it needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from matplotlib.axes import Axes

SHOWN = 90  # pixels of a notebook's page per inch; the picture itself is finer


class Picture(Axes):
    """Axes of a figure that was made for them: what a plotting function returns if it is not given `ax=`.

    As the last expression of a cell a notebook shows it. The figure is not registered with pyplot, so no window opens and nothing
    has to be closed.

    panels: of a picture that has several, its Axes by name; the picture itself is then the empty frame around them.
    """

    panels: Mapping[str, Axes] = MappingProxyType({})

    def savefig(self, path: Any, **options: Any) -> None:
        """Write the figure to a file of any kind that matplotlib knows; the options are those of `Figure.savefig`."""
        self.figure.figure.savefig(path, **options)

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """What a notebook shows: the picture as it is saved, with the size in pixels at which it is shown."""
        file = io.BytesIO()
        figure = self.figure.figure
        figure.savefig(file, format="png")
        width, height = figure.get_size_inches() * SHOWN
        return file.getvalue(), {"width": round(width), "height": round(height)}
