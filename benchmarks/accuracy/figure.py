"""The figure of benchmarks/accuracy: a panel per setting, a line per method, the final average accuracy with its interval."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.figure import Figure

from benchmarks.methods import METHODS, SETTINGS
from cl_func.plots import PALETTE

BOUNDS = {"naive": PALETTE[1], "joint": PALETTE[2]}  # the bounds that methods are expected to lie between, drawn as lines


def draw(cells: list[dict[str, Any]]) -> Figure:
    """The final average accuracy of the cells; methods from top to bottom in the order of METHODS."""
    settings = [s for s in SETTINGS if any(c["setting"] == s for c in cells)]
    names = [m.name for m in METHODS if any(c["method"] == m.name for c in cells)]
    figure = Figure(figsize=(1.6 + 2.9 * len(settings), 1.6 + 0.24 * len(names)), layout="constrained", dpi=150)
    panels = figure.subplots(1, len(settings), sharey=True, squeeze=False)[0]
    for ax, setting in zip(panels, settings, strict=True):
        found = {c["method"]: c["accuracy"] for c in cells if c["setting"] == setting}
        for name, color in BOUNDS.items():
            if name in found:
                ax.axvline(found[name]["mean"], color=color, linewidth=1, alpha=0.6, zorder=0)
        for row, name in enumerate(names):
            if name in found:
                half = 0.0 if math.isnan(found[name]["half"]) else found[name]["half"]
                color = BOUNDS.get(name, PALETTE[0])
                ax.errorbar(found[name]["mean"], row, xerr=half, fmt="o", markersize=4, capsize=2.5, linewidth=1.2, color=color)
        left, right = ax.get_xlim()
        ax.set_xlim(max(left, 0.0), min(right, 1.0))
        title, _, kind = SETTINGS[setting].partition(", ")
        ax.set_title(f"{title}\n{kind}", fontsize="small")
        ax.set_xlabel("average accuracy", fontsize="small")
        ax.tick_params(labelsize="small")
        ax.grid(axis="y", linewidth=0.4, alpha=0.5)
        ax.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    return figure
