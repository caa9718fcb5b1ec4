"""Names beside the ends of lines, so that no legend is needed; see `lines.py`. Needs matplotlib, and is loaded where it draws.

Each name would like to stand at the height of its line's end, y_i, and needs a height h. Their places are those nearest to that,

    min sum_i (p_i - y_i)^2    such that p_{i+1} - p_i >= h and all are within the axes,

which after a change to p_i - i h is isotonic regression, solved by pooling adjacent violators (Best & Chakravarti, Mathematical
Programming 1990), and clipping. This is done whenever the figure is drawn, since only then the size of the axes is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox, IdentityTransform

End = tuple[float, float] | None  # where a line ends, in the units of its axes; None for a name without a line
GAP = 8.0  # points between the axes and the names, beside what is asked for


def apart(wanted: Sequence[float], height: float, low: float, high: float) -> list[float]:
    """The places nearest to those wanted, at least `height` from each other and height / 2 from the ends low and high.

    They are in the order of those wanted, equal ones in the order given. What there is no room for is beyond the ends.
    """
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    pools: list[tuple[float, int]] = []  # the mean of each, and how many it holds
    for i, index in enumerate(order):
        mean, count = wanted[index] - i * height, 1
        while pools and pools[-1][0] > mean:
            other, n = pools.pop()
            mean, count = (mean * count + other * n) / (count + n), count + n
        pools.append((mean, count))
    least, most = low + height / 2, high - height / 2 - (len(wanted) - 1) * height
    flat = [min(max(mean, least), most) for mean, count in pools for _ in range(count)]
    found = [0.0] * len(wanted)
    for i, (index, value) in enumerate(zip(order, flat, strict=True)):
        found[index] = value + i * height
    return found


class EndLabels(Artist):
    """The names of lines in a column at the right of the axes they are added to, each with a thin line to the end of its own.

    inside: whether the column is within the axes, at their right edge, or beside them. offset: points between them and the column.
    """

    def __init__(
        self, ends: Sequence[End], names: Sequence[str], colors: Sequence[str], size: float, inside: bool, offset: float = 0.0
    ) -> None:
        super().__init__()
        self.ends, self.size, self.inside, self.offset = list(ends), size, inside, offset
        flat: dict[str, Any] = {"transform": IdentityTransform(), "clip_on": False}
        self.texts = [
            Text(0, 0, name, color=color, verticalalignment="center", parse_math=False, **flat)
            for name, color in zip(names, colors, strict=True)
        ]
        self.leaders = [Line2D([], [], color=color, linewidth=0.7, alpha=0.6, **flat) for color in colors]
        self.set(zorder=4, clip_on=False)

    def get_children(self) -> list[Artist]:
        """The texts and the lines to them."""
        return [*self.texts, *self.leaders]

    def set_figure(self, fig: Any) -> None:
        """Called by the axes that this is added to."""
        super().set_figure(fig)
        for child in self.get_children():
            child.set_figure(fig)

    def width(self) -> float:
        """The width of the longest name and of the gap before it, in pixels."""
        for text in self.texts:
            text.set_fontsize(self.size)
        widest = max(text.get_window_extent().width for text in self.texts)
        return float(widest + (GAP + self.offset) * self._point())

    def _point(self) -> float:
        """A point in pixels."""
        figure: Any = self.figure
        return float(figure.dpi) / 72

    def _arrange(self, renderer: Any) -> None:
        axes: Any = self.axes
        box, point, size = axes.bbox, self._point(), self.size
        boxes, height = self._measure(size, renderer)
        for _ in range(3):  # the height of a text is not exactly proportional to its size
            if height * len(boxes) <= box.height or size < 1:
                break
            size *= 0.98 * box.height / (height * len(boxes))
            boxes, height = self._measure(size, renderer)
        ends = [None if end is None else axes.transData.transform(end) for end in self.ends]
        wanted = [box.y0 if end is None else min(max(end[1], box.y0), box.y1) for end in ends]
        left = box.x1 - max(one.width for one in boxes) if self.inside else box.x1 + (GAP + self.offset) * point
        for text, leader, end, y in zip(self.texts, self.leaders, ends, apart(wanted, height, box.y0, box.y1), strict=True):
            text.set_position((left, y))
            leader.set_data(*([], []) if end is None else ([end[0], left - 2 * point], [end[1], y]))

    def _measure(self, size: float, renderer: Any) -> tuple[list[Bbox], float]:
        """The boxes of the texts in a size, and the height that each is given."""
        for text in self.texts:
            text.set_fontsize(size)
        boxes = [text.get_window_extent(renderer) for text in self.texts]
        return boxes, max(one.height for one in boxes) + 1.0

    def draw(self, renderer: Any) -> None:
        """Arrange the names for the present size of the axes, and draw them."""
        if self.get_visible():
            self._arrange(renderer)
            for child in self.get_children():
                child.draw(renderer)
        self.stale = False

    def get_window_extent(self, renderer: Any = None) -> Bbox:
        """The box around all names, for which a layout makes room."""
        self._arrange(renderer)
        return Bbox.union([text.get_window_extent(renderer) for text in self.texts])

    def get_tightbbox(self, renderer: Any = None) -> Bbox:
        """The same."""
        return self.get_window_extent(renderer)
