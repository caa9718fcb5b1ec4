"""Runs as an xarray Dataset that NetCDF can hold, and back.

Axes are dimensions, with their labels as coordinates: numbers and strings as they are, others as texts beside a coordinate
"NAME:json" of the labels as JSON; a zipped axis has a coordinate for each path too. The histories are variables, beside
`finished`, `diverged` and `constant`. The attribute "cl_func_runs" is a JSON object with what the rest does not keep: the order of
axes and histories, dtypes, seconds and attributes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cl_func import checks
from cl_func.sweeps import named_axes, runs_file, selection
from cl_func.sweeps.named_axes import Axes, Label

if TYPE_CHECKING:
    from xarray import Dataset

KEPT = "cl_func_runs"
# What NetCDF cannot hold, or not in all of its versions, and what is stored in its place, without loss.
WIDER = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
NARROWER = {"int64": "int32", "uint8": "int8"}  # in files of NetCDF 3, which holds the values that fit


def _exact(name: str) -> str:
    """The name of the coordinate with the labels of an axis as JSON; in files it may have no spaces, as that of the axis may."""
    return "_".join(name.split()) + ":json"


def dataset(
    axes: Axes,
    history: Mapping[str, Tensor],
    runs: Mapping[str, Tensor],
    dims: Mapping[str, Sequence[str]],
    seconds: float,
    attributes: Mapping[str, Any],
) -> Dataset:
    """The Dataset of histories [*axes, *dims] and of what is said of each run, [*axes].

    Raises ValueError for names that NetCDF does not allow, or of which two would be the same.
    """
    xr = checks.optional("xarray", "Runs.to_xarray", "xarray")
    coordinates: list[tuple[str, Any]] = []
    for name, labels in axes.items():
        coordinates += [(own, ((name,), values)) for own, values in _coordinates(name, labels)]
    variables = [(name, ((*axes, *dims[name]), _array(value))) for name, value in history.items()]
    variables += [(name, ((*axes,), value.numpy())) for name, value in runs.items()]
    names = [*(name for name, _ in coordinates), *dict.fromkeys(dim for own in dims.values() for dim in own)]
    _check_names([*names, *(name for name, _ in variables)])
    kept = {
        "axes": list(axes),
        "histories": [[name, str(value.dtype).removeprefix("torch.")] for name, value in history.items()],
        "seconds": seconds,
        "attributes": [[name, runs_file.encode("attributes: the part", name, value)] for name, value in attributes.items()],
    }
    readable = {name: value for name, value in attributes.items() if _is_readable(name, value)}
    return xr.Dataset(dict(variables), dict(coordinates), {**readable, "seconds": float(seconds), KEPT: json.dumps(kept)})


def _coordinates(name: str, labels: Sequence[Label]) -> list[tuple[str, np.ndarray]]:
    """The coordinates along an axis, the first of its name."""
    plain = _plain(labels)
    if plain is not None:
        return [(name, plain)]
    texts = np.array([re.sub(r"[\x00\ud800-\udfff]", "?", text) for text in named_axes.texts(name, labels)])
    exact = np.array([json.dumps(runs_file.encode("axes: the label", name, label)) for label in labels])
    found = [(name, texts), (_exact(name), exact)]
    for path in named_axes.paths(name, labels):
        values = _plain([label[path] for label in labels])
        found += [] if values is None or path.split() != [path] else [(path, values)]
    return found


def _plain(labels: Sequence[Label]) -> np.ndarray | None:
    """The labels as an array, if they come back from it, and from a file, as they are."""
    if {type(label) for label in labels} not in ({bool}, {int}, {float}, {str}):
        return None
    values = np.array(labels)
    fits = values.dtype.kind in "bifU" and repr(values.tolist()) == repr(list(labels))
    return values if fits and not (values.dtype.kind == "U" and any(re.search(r"[\x00\ud800-\udfff]", s) for s in labels)) else None


def _array(value: Tensor) -> np.ndarray:
    return value.to(WIDER.get(value.dtype, value.dtype)).numpy()


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if not name or name in (".", "..") or re.search(r"[/\x00\ud800-\udfff]", name):
            raise ValueError(f"to_xarray: {name!r} cannot be a name in NetCDF; rename the axis or the history.")
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise ValueError(f"to_xarray: two things would be called {twice[0]!r}; rename the axis or the history.")


def _is_readable(name: str, value: Any) -> bool:
    """Whether an attribute can stand in a file as it is, for people to read."""
    if name in ("seconds", KEPT) or not name or re.search(r"[/\x00\ud800-\udfff]", name):
        return False
    if isinstance(value, str):
        return not re.search(r"[\x00\ud800-\udfff]", value)
    return type(value) is float or (type(value) is int and -(1 << 63) <= value < 1 << 63)


def parts(dataset: Any) -> tuple[Axes, dict[str, Tensor], Tensor, float, dict[str, Any]]:
    """The axes, histories, `finished`, seconds and attributes of a Dataset that `dataset` made, or of a part of it.

    Raises TypeError for what is no Dataset, ValueError for one that was made by something else or has lost an axis.
    """
    if not all(hasattr(dataset, name) for name in ("attrs", "coords", "data_vars", "sizes")):
        raise checks.type_error("dataset", "an xarray Dataset, such as runs.to_xarray()", dataset)
    try:
        kept = json.loads(dataset.attrs[KEPT])
        names, dtypes = [str(name) for name in kept["axes"]], {str(name): str(dtype) for name, dtype in kept["histories"]}
        seconds, attributes = kept["seconds"], {str(name): runs_file.decode(value) for name, value in kept["attributes"]}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"dataset: it was not made by runs.to_xarray(): its attribute {KEPT!r} is missing or damaged ({error!r})."
        ) from error
    axes = {name: _labels(dataset, name) for name in names}
    attributes, seconds = selection.attributes_of_labels(attributes, seconds, axes)
    history = {name: _tensor(dataset, name, names, dtype) for name, dtype in dtypes.items() if name in dataset.data_vars}
    if "finished" not in dataset.data_vars:
        raise ValueError("dataset: it has no variable 'finished', which says which runs are; keep it.")
    return axes, history, _tensor(dataset, "finished", names, "bool"), seconds, attributes


def _labels(dataset: Any, name: str) -> list[Label]:
    if name not in dataset.sizes or name not in dataset.coords:
        raise ValueError(
            f"dataset: it has no dimension {name!r} with its labels; to take one point select by a list, .sel({{{name!r}: [...]}})."
        )
    exact = dataset.coords.get(_exact(name))
    if exact is None:
        return dataset.coords[name].values.tolist()
    try:
        return [runs_file.decode(json.loads(text)) for text in exact.values.tolist()]
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"dataset: the coordinate {_exact(name)!r} is damaged: {error}.") from error


def _tensor(dataset: Any, name: str, axes: Sequence[str], dtype: str) -> Tensor:
    variable = dataset[name]
    lost = [axis for axis in axes if axis not in variable.dims]
    if lost:
        raise ValueError(
            f"dataset: {name!r} has no dimension {lost[0]!r}, but only {list(variable.dims)}; Runs are not summarised."
        )
    values = variable.transpose(*axes, ...).values
    if values.dtype.kind not in "biufc":
        raise ValueError(f"dataset: {name!r} holds {values.dtype}; Runs hold numbers.")
    value = torch.from_numpy(np.array(values, dtype=values.dtype.newbyteorder("=")))
    found = str(value.dtype).removeprefix("torch.")
    narrow = next((one for one in WIDER if str(one) == f"torch.{dtype}"), None)
    if narrow is not None and value.dtype == WIDER[narrow]:
        return value.to(narrow)
    return value.to(getattr(torch, dtype)) if found == NARROWER.get(dtype) else value
