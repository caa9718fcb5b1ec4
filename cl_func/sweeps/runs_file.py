"""The file format of Runs: the axes are a list of pairs [name, labels], which keeps their order.

A label that is a dict is a list of pairs too, since the members of a JSON object have no order. Files of format 1 held objects
sorted by name: the order of their axes follows from the sizes where these differ, and is asked for where they do not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from cl_func import checks
from cl_func.storage import files
from cl_func.sweeps.named_axes import Axes, Label

JSON = Any  # what `json` reads and writes: None, bool, int, float, str, and lists and dicts of them


def header(axes: Axes, history: Mapping[str, Tensor], seconds: float, attributes: Mapping[str, Any]) -> dict[str, JSON]:
    """The header of the file of Runs. Raises TypeError, naming the axis, for a label that would not come back as it is.

    The same holds for attributes.
    """
    pairs = [[name, [encode("axes: the label", name, label) for label in labels]] for name, labels in axes.items()]
    kept = [[name, encode("attributes: the part", name, value)] for name, value in attributes.items()]
    return {"kind": "runs", "axes": pairs, "histories": list(history), "seconds": seconds, "attributes": kept}


def tensors(history: Mapping[str, Tensor], finished: Tensor) -> dict[str, Tensor]:
    """The tensors of the file of Runs, by name."""
    return {**{f"history.{name}": value for name, value in history.items()}, "finished": finished}


def contents(
    tensors: Mapping[str, Tensor], header: Mapping[str, JSON], path: str | Path, order: Sequence[str] | None
) -> tuple[Axes, dict[str, Tensor], Tensor, float, dict[str, Any]]:
    """The axes, histories, `finished`, seconds and attributes in a file.

    order: the names of the axes in order, if the user gave them.
    Raises DamagedFile for a header or tensors that are not those of Runs; ValueError where the order of the axes is not known, or
    is not `order`.
    """
    try:
        names = header.get("histories", [name.removeprefix("history.") for name in tensors if name != "finished"])
        history, finished = {name: tensors[f"history.{name}"] for name in names}, tensors["finished"]
        if header["format"] == 1:
            axes = {name: [_order_paths(name, label) for label in labels] for name, labels in header["axes"].items()}
        else:
            axes = {name: [decode(label) for label in labels] for name, labels in header["axes"]}
            if len(axes) < len(header["axes"]):
                raise ValueError("a name occurs twice")
        attributes = {name: decode(value) for name, value in header.get("attributes", [])}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise files.DamagedFile(f"path: {path} is damaged: its histories do not have the shape of its axes ({error}).") from error
    if order is not None and (isinstance(order, str) or not isinstance(order, Sequence)):
        raise checks.type_error("axes", "the names of the axes, a sequence of strings", order)
    if order is not None and sorted(map(str, order)) != sorted(axes):
        raise ValueError(f"axes: {path} has the axes {list(axes)}, got {list(order)}.")
    if header["format"] == 1:
        axes = _order_axes(axes, list(finished.shape), path, order)
        if order is not None and [len(labels) for labels in axes.values()] != list(finished.shape):
            raise ValueError(
                f"axes: in the order {list(order)} they do not have the sizes of the histories, {list(finished.shape)}."
            )
    elif order is not None and list(order) != list(axes):
        raise ValueError(f"axes: {path} has the axes {list(axes)}, in this order, got {list(order)}.")
    return axes, history, finished, header.get("seconds", math.nan), attributes


def _order_axes(axes: Axes, sizes: list[int], path: str | Path, order: Sequence[str] | None) -> Axes:
    """The axes of a file of format 1, which are sorted by name, in the order of its histories, whose leading axes have `sizes`."""
    names = [name for name in axes if name != "seed"]
    if order is None:
        sizes_of = {name: len(axes[name]) for name in names}
        ambiguous = [name for name, size in sizes_of.items() if size > 1 and list(sizes_of.values()).count(size) > 1]
        if ambiguous:
            raise ValueError(
                f"path: {path} was written by an older version (format 1), which did not keep the order of its axes, and "
                f"{' and '.join(map(repr, ambiguous))} are of one size, so it is not known which values belong to which. If you "
                f"know the order of the grid, give it: cl.Runs.load(path, axes=[..., 'seed']); otherwise sweep again."
            )
        order = []
        for size in sizes[:-1]:  # axes of a single point may come in any order: the values are the same
            order += [name for name in names if sizes_of[name] == size and name not in order][:1]
        order += [name for name in names if name not in order] + ["seed"]  # those that fit no size: an error later
    return {name: axes[name] for name in order if name in axes}


def _order_paths(name: str, label: Label) -> Label:
    """The label of a zipped axis, its paths in the order in which they name the axis."""
    paths = name.split(" & ")
    return {path: label[path] for path in paths} if isinstance(label, dict) and set(paths) == set(label) else label


def encode(what: str, name: str, label: Label) -> JSON:
    """A label as JSON; TypeError, with `what` it is and of which axis, for one that would not come back as it is."""
    if type(label) is dict:
        return {"dict": [[encode(what, name, part) for part in pair] for pair in label.items()]}
    if type(label) in (list, tuple):
        parts = [encode(what, name, part) for part in label]
        return parts if type(label) is list else {"tuple": parts}
    if label is None or type(label) in (bool, int, float, str):
        return label
    raise TypeError(
        f"{what} {label!r} of {name!r}, a {type(label).__name__}, can not be saved; use Python's own numbers (.item()), "
        "strings, None, or lists, tuples and dicts of them."
    )


def decode(label: JSON) -> Label:
    """The label that was encoded; TypeError, ValueError or KeyError for what was not."""
    if isinstance(label, list):
        return [decode(part) for part in label]
    if isinstance(label, dict):
        ((kind, parts),) = label.items()
        inner = [decode(part) for part in parts]
        return {"tuple": tuple, "dict": dict}[kind](inner)
    return label
