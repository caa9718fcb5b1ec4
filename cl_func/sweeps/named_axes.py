"""The axes of Runs: names with the labels of their points, in order, "seed" last; their checks and their labels as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cl_func import checks

Label = Any  # how the user names a point: a number, a string, None, or a list, tuple or dict of them
Axes = dict[str, list[Label]]
EXAMPLE = "{'opt.lr': [0.1, 0.3], 'seed': [0, 1, 2]}"


def check(axes: Any) -> tuple[int, ...]:
    """Check the axes of Runs, a dict of lists, none empty, "seed" last: the size of each; TypeError or ValueError otherwise."""
    if not isinstance(axes, dict) or not all(isinstance(name, str) and isinstance(axes[name], list) for name in axes):
        raise checks.type_error("axes", f"a dict from names to lists of labels, such as {EXAMPLE}", axes)
    if not axes or list(axes)[-1] != "seed":
        raise ValueError(f"axes: the last axis must be 'seed', got {list(axes) or 'none'}; give axes such as {EXAMPLE}.")
    empty = [name for name, labels in axes.items() if not labels]
    if empty:
        raise ValueError(f"axes: {empty[0]!r} has no labels; give one for each point.")
    return tuple(len(labels) for labels in axes.values())


def texts(name: str, labels: Sequence[Label]) -> list[str]:
    """The labels of an axis as distinct texts: numbers with six digits, or with all digits where six do not distinguish them."""
    for exact in (False, True):
        found = [_text(name, label, exact) for label in labels]
        if len(set(found)) == len(found):
            return found
    return [f"{text} ({i})" for i, text in enumerate(found)]


def _text(name: str, label: Label, exact: bool) -> str:
    if isinstance(label, Mapping):
        parts = {str(path): _text("", value, exact) for path, value in label.items()}
        zipped = name == " & ".join(parts)  # the name of the axis has the paths already, in this order
        return ", ".join(parts.values() if zipped else (f"{path}={text}" for path, text in parts.items()))
    if exact:
        return repr(label)
    return f"{label:g}" if isinstance(label, float) else str(label)


def column(name: str, labels: Sequence[Label]) -> list[bool] | list[int] | list[float] | list[str]:
    """The labels of an axis for a column of a table: as they are if all are of one simple type, as texts otherwise."""
    types = {type(label) for label in labels}
    return list(labels) if types in ({bool}, {int}, {float}, {str}) else texts(name, labels)
