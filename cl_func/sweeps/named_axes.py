"""The axes of Runs: names with the labels of their points, in order, "seed" last; their checks and their labels as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cl_func import checks
from cl_func.metrics.measures import BY_LAYER

Label = Any  # how the user names a point: a number, a string, None, or a list, tuple or dict of them
Axes = dict[str, list[Label]]
DTYPES = "dtypes"  # attribute: of labels that are lists of numbers of a leaf, where the numbers do not say it
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


def paths(name: str, labels: Sequence[Label]) -> list[str]:
    """The paths that a zipped axis is named by, whose labels are dicts of their values; none for other axes."""
    found = list(labels[0]) if isinstance(labels[0], Mapping) else []
    zipped = bool(found) and all(isinstance(one, Mapping) and list(one) == found for one in labels)
    return found if zipped and all(isinstance(path, str) for path in found) and name == " & ".join(found) else []


def flat(name: str, label: Label) -> dict[str, Label]:
    """A label by path: that of a zipped axis has several."""
    return dict(label) if paths(name, [label]) else {name: label}


def value(label: Label, dtype: str | None = None) -> Label:
    """The value that `tree.set` takes for a label: a list of numbers, which is the label of a tensor, as a tensor."""
    if not isinstance(label, list) or not label or not all(isinstance(x, (bool, int, float)) for x in _entries(label)):
        return label
    found = torch.tensor(label, dtype=None if dtype is None else getattr(torch, dtype))
    return found if dtype is not None or found.tolist() == label else torch.tensor(label, dtype=torch.float64)


def dtypes(values: Mapping[str, Any]) -> dict[str, str]:
    """The dtypes of tensors, by path, that are not those of the numbers in their labels: "float64", "int32"."""
    tensors = {path: one for path, one in values.items() if isinstance(one, Tensor) and one.ndim}
    return {path: str(one.dtype)[6:] for path, one in tensors.items() if torch.tensor(one.tolist()).dtype != one.dtype}


def labels_at(axes: Axes, point: tuple[int, ...]) -> dict[str, Label]:
    """The labels of a point, its places on all axes but the last, by path."""
    found: dict[str, Label] = {}
    for (name, labels), i in zip(axes.items(), point, strict=False):
        found |= flat(name, labels[i])
    return found


def values_at(axes: Axes, point: tuple[int, ...], dtypes: Mapping[str, str]) -> dict[str, Label]:
    """The same as values that `tree.set` takes; dtypes: of the tensors among them, as the function `dtypes` gives them."""
    return {path: value(label, dtypes.get(path)) for path, label in labels_at(axes, point).items()}


def _entries(label: Label) -> list[Label]:
    return [entry for part in label for entry in _entries(part)] if isinstance(label, list) else [label]


def texts(name: str, labels: Sequence[Label]) -> list[str]:
    """The labels of an axis as distinct texts: numbers with six digits, or with all digits where six do not distinguish them."""
    for exact in (False, True):
        found = [_text(name, label, exact) for label in labels]
        if len(set(found)) == len(found):
            return found
    return [f"{text} ({i})" for i, text in enumerate(found)]


def point_texts(axes: Axes, point: tuple[int, ...]) -> dict[str, str]:
    """The labels of a point, its places on all axes but the last, as texts by axis."""
    return {name: texts(name, labels)[i] for (name, labels), i in zip(axes.items(), point, strict=False)}


def _text(name: str, label: Label, exact: bool) -> str:
    if isinstance(label, Mapping):
        parts = {str(path): _text("", value, exact) for path, value in label.items()}
        zipped = name == " & ".join(parts)  # the name of the axis has the paths already, in this order
        return ", ".join(parts.values() if zipped else (f"{path}={text}" for path, text in parts.items()))
    if exact:
        return repr(label)
    return f"{label:g}" if isinstance(label, float) else str(label)


def column(name: str, labels: Sequence[Label]) -> list[bool] | list[int] | list[float] | list[str]:
    """The labels of an axis for a column of a table: as they are if all are of one simple type, as texts otherwise.

    Integers among floats are floats, where that is exact.
    """
    types = {type(label) for label in labels}
    if types == {int, float} and all(float(label) == label for label in labels):
        return [float(label) for label in labels]
    return list(labels) if types in ({bool}, {int}, {float}, {str}) else texts(name, labels)


def dimensions(histories: Mapping[str, Tensor], n_axes: int, measure: str) -> dict[str, tuple[str, ...]]:
    """The names of what comes behind the axes of histories [*axes, time, ...], by history.

    The first is "time"; the second is "test_experience" in all that have the shape of `measure`, and "class" in "class_accuracy".
    What else there is has the name of its history, as has a time of another length.
    """
    found = {}
    like = histories.get(measure)
    length = next((value.shape[n_axes] for value in histories.values() if value.ndim > n_axes), None)
    if like is not None and like.ndim > n_axes:
        length = like.shape[n_axes]
    for name, value in histories.items():
        names = [f"{name}_dim_{i}" for i in range(value.ndim - n_axes)]
        if names and value.shape[n_axes] == length:
            names[0] = "time"
            if len(names) == 2 and name.rpartition(".")[2] == "class_accuracy":
                names[1] = f"{name.removesuffix('class_accuracy')}class"
            elif len(names) == 2 and like is not None and value.shape == like.shape and not name.endswith(BY_LAYER):
                names[1] = "test_experience"
        found[name] = tuple(names)
    return found
