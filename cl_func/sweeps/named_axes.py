"""The axes of Runs: names with the labels of their points, in order, the seeds last. Checked, and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cl_func import checks

Axes = dict[str, list[Any]]
EXAMPLE = "{'opt.lr': [0.1, 0.3], 'seed': [0, 1, 2]}"


def check(axes: Any) -> tuple[int, ...]:
    """The size of each axis; TypeError or ValueError for what are no axes of Runs: a dict of lists, none empty, "seed" the last."""
    if not isinstance(axes, dict) or not all(isinstance(name, str) and isinstance(axes[name], list) for name in axes):
        raise checks.type_error("axes", f"a dict from names to lists of labels, such as {EXAMPLE}", axes)
    if not axes or list(axes)[-1] != "seed":
        raise ValueError(f"axes: the last axis must be 'seed', got {list(axes) or 'none'}; give axes such as {EXAMPLE}.")
    empty = [name for name, labels in axes.items() if not labels]
    if empty:
        raise ValueError(f"axes: {empty[0]!r} has no labels; give one for each point.")
    return tuple(len(labels) for labels in axes.values())


def texts(name: str, labels: Sequence[Any]) -> list[str]:
    """The labels of an axis in words, all of them different: numbers with six digits, or all where six do not tell them apart."""
    for exact in (False, True):
        found = [_text(name, label, exact) for label in labels]
        if len(set(found)) == len(found):
            return found
    return [f"{text} ({i})" for i, text in enumerate(found)]


def _text(name: str, label: Any, exact: bool) -> str:
    if isinstance(label, Mapping):
        words = {str(path): _text("", value, exact) for path, value in label.items()}
        zipped = name == " & ".join(words)  # then the axis is named by the paths, in this order
        return ", ".join(words.values() if zipped else (f"{path}={text}" for path, text in words.items()))
    if exact:
        return repr(label)
    return f"{label:g}" if isinstance(label, float) else str(label)


def plain(name: str, labels: Sequence[Any]) -> list[Any]:
    """The labels of an axis as a column of a table holds them: as they are if all are of one simple type, in words otherwise."""
    kinds = {type(label) for label in labels}
    return list(labels) if kinds in ({bool}, {int}, {float}, {str}) else texts(name, labels)
