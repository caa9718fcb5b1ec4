"""The blocks in which the points of an axis of Runs, such as methods, are ranked."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from cl_func import checks
from cl_func.metrics.ties import tied_blocks
from cl_func.sweeps import named_axes
from cl_func.sweeps.named_axes import Axes
from cl_func.sweeps.over_seeds import Numbers

Over = Literal["seeds", "settings"]


def blocks(numbers: Numbers, axes: Axes, axis: str, over: Over) -> tuple[dict[str, Tensor], int]:
    """The numbers of each label of an axis by block, name -> [N], and how many blocks or seeds are left out.

    over: "seeds", each seed at each point of the other axes is a block; "settings", each point is, with the mean over the seeds.
    A seed with which a label has no number is left out for all labels. Numbers of a block that differ by rounding alone are equal.
    """
    checks.text("axis", axis)
    if axis not in axes or axis == "seed":
        raise ValueError(f"axis: expected one of {list(axes)[:-1]}, got {axis!r}.")
    checks.choice("over", over, "seeds", "settings")
    where, names = list(axes).index(axis), named_axes.texts(axis, axes[axis])
    assert numbers.rounding is not None
    by_label = [part.movedim(where, 0).reshape(len(names), -1, len(axes["seed"])) for part in (numbers.values, numbers.rounding)]
    usable = numbers.usable.movedim(where, 0).reshape(by_label[0].shape).all(0)  # [other points, seed]
    left_out = int((~usable).sum())
    if over == "seeds":
        values, rounding = (part[:, usable] for part in by_label)
    else:
        there, count = usable.any(-1), usable.sum(-1).clamp(min=1)
        values, rounding = ((part.where(usable, 0.0).sum(-1) / count)[:, there] for part in by_label)
    return dict(zip(names, tied_blocks(values, rounding), strict=True)), left_out


def too_few(numbers: Numbers, axes: Axes, axis: str, left_out: int) -> str:
    """In words, why there are fewer than two blocks: of which labels runs have no number, and how many."""
    where, names = list(axes).index(axis), named_axes.texts(axis, axes[axis])
    lost = (~numbers.usable).movedim(where, 0).flatten(1)
    n = lost.shape[1]
    who = ", ".join(f"{name!r} ({int(row.sum())} of {n})" for name, row in zip(names, lost, strict=True) if bool(row.any()))
    return f"{n - left_out} of {n} runs have a number for all that is ranked, two are needed; there is none for {who}."
