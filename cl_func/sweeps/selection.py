"""Parts of Runs by the labels of their axes.

Along an axis that `joining` has made, a part has the seconds and the attributes of the Runs that it came from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cl_func.sweeps import named_axes
from cl_func.sweeps.named_axes import Axes, Label

Index = int | list[int]
Replay = Callable[[int], Any]
JOINED, CHOSEN = "joined", "at"  # attributes: of each label of a joined axis, and the labels of the axes that are gone


def positions(axes: Axes, point: Mapping[str, Any]) -> dict[str, Index]:
    """The place of some labels on their axes, by axis: a number for a label, several for a list of labels.

    point: by the name of an axis; or by the paths that a zipped axis is named by, all of which are needed.
    Raises ValueError for an axis and a label that are not there, and for a label that is there more than once.
    """
    found: dict[str, Index] = {}
    for name, label in _by_axis(axes, point).items():
        labels, label = axes[name], _plain(name, label)
        if isinstance(label, (list, tuple, range)) and not _places(labels, label):
            if not label:
                raise ValueError(f"{name}: expected at least one label, got {label!r}; there is {labels}.")
            places = [position(name, labels, one) for one in label]
            if len(set(places)) < len(places):
                raise ValueError(f"{name}: a label occurs twice in {label!r}; give each once.")
            found[name] = places
        else:
            found[name] = position(name, labels, label)
    return found


def _by_axis(axes: Axes, point: Mapping[str, Any]) -> dict[str, Label]:
    """The labels by axis, where those of zipped axes may be given path by path."""
    found, zips = dict[str, Label](), dict[str, dict[str, Any]]()
    for path, label in point.items():
        if path in axes:
            found[path] = label
            continue
        name = next((name for name in axes if path in named_axes.paths(name, axes[name])), None)
        if name is None:
            known = [path for name, labels in axes.items() for path in named_axes.paths(name, labels) or [name]]
            raise ValueError(f"{path!r}: no such axis; there is {', '.join(known)}.")
        zips.setdefault(name, {})[path] = _plain(path, label)
    for name, parts in zips.items():
        missing = [path for path in named_axes.paths(name, axes[name]) if path not in parts]
        if missing or name in found:
            mend = f"give {' and '.join(map(repr, missing))} too" if missing else "give each once"
            raise ValueError(f"{name}: its points have a value for each path; {mend}.")
        found[name] = parts
    return found


def _plain(name: str, label: Any) -> Label:
    """A label as axes hold it: a tensor or an array as a list of numbers."""
    if isinstance(label, Tensor) and label.is_meta:
        raise ValueError(f"{name}: the label is on the device meta, which holds no values.")
    return label.tolist() if isinstance(label, (Tensor, np.ndarray, np.generic)) else label


def _places(labels: Sequence[Label], label: Label) -> list[int]:
    """Where a label is: among those of its type, if there are any, since 1 is equal to 1.0; but True is neither."""
    equal = [i for i, one in enumerate(labels) if isinstance(one, bool) == isinstance(label, bool) and bool(one == label)]
    return [i for i in equal if type(labels[i]) is type(label)] or equal


def position(name: str, labels: Sequence[Label], label: Any) -> int:
    """The place of a label among those of an axis; ValueError, with that name, if it is not there, or more than once."""
    label = _plain(name, label)
    places = _places(labels, label)
    if len(places) != 1:
        raise ValueError(f"{name}: expected one of {labels}, {'which are not distinct, ' if places else ''}got {label!r}.")
    return places[0]


def taken_axes(axes: Axes, index: Mapping[str, Index]) -> Axes:
    """The axes of the part at some places; those with one place are gone."""
    found = {}
    for name, labels in axes.items():
        places = index.get(name, list(range(len(labels))))
        if not isinstance(places, int):
            found[name] = [labels[i] for i in places]
    return found


def take(values: Tensor, axes: Axes, index: Mapping[str, Index]) -> Tensor:
    """The part of a tensor [*axes, ...] at some places; an axis with one place is gone."""
    for a, name in reversed(list(enumerate(axes))):
        place = index.get(name)
        if isinstance(place, int):
            values = values.select(a, place)
        elif place is not None:
            values = values.index_select(a, torch.tensor(place))
    return values.clone()


@dataclasses.dataclass(frozen=True)
class TakenReplay:
    """The final states of some of the runs."""

    replay: Replay
    runs: tuple[int, ...]

    def __call__(self, index: int) -> Any:
        return self.replay(self.runs[index])


def taken_replay(replay: Replay | None, axes: Axes, index: Mapping[str, Index]) -> Replay | None:
    """How the final states of a part of the runs are made."""
    if replay is None:
        return None
    shape = [len(labels) for labels in axes.values()]
    return TakenReplay(replay, tuple(take(torch.arange(int(np.prod(shape))).reshape(shape), axes, index).flatten().tolist()))


def taken_attributes(
    attributes: dict[str, Any], seconds: float, axes: Axes, index: Mapping[str, Index]
) -> tuple[dict[str, Any], float]:
    """The attributes and the seconds of a part: of a joined axis what belongs to its labels, of others which label was chosen."""
    found = _labels_of_joined(attributes)
    chosen = [(name, place) for name, place in index.items() if isinstance(place, int) and name not in {"seed", *found}]
    at = {path: label for name, place in chosen for path, label in named_axes.flat(name, axes[name][place]).items()}
    return _taken_parts(attributes, seconds, axes, {name: place for name, place in index.items() if name in found}, at)


def attributes_of_labels(attributes: dict[str, Any], seconds: float, axes: Axes) -> tuple[dict[str, Any], float]:
    """The attributes and the seconds of what has been left of some Runs, whose axes have these labels now.

    Raises ValueError for labels of a joined axis that those Runs did not have.
    """
    changed = dict[str, Index]()
    for name, known in _labels_of_joined(attributes).items():
        new = [label for label in axes.get(name, []) if label not in known]
        if new:
            raise ValueError(
                f"dataset: the axis {name!r} has the label {new[0]!r}, but was joined of {known}; name them in `join`."
            )
        if name in axes and axes[name] != known:
            changed[name] = list(range(len(axes[name])))
    return _taken_parts(attributes, seconds, axes, changed, {}) if changed else (attributes, seconds)


def _labels_of_joined(attributes: Mapping[str, Any]) -> dict[str, list[str]]:
    """The labels of the axes that Runs were joined along, at every level."""
    found = dict[str, list[str]]()
    for name, parts in attributes.get(JOINED, {}).items():
        found.setdefault(name, []).extend(label for label in parts if label not in found[name])
        for part in parts.values():
            for inner, labels in _labels_of_joined(part["attributes"]).items():
                found.setdefault(inner, []).extend(label for label in labels if label not in found[inner])
    return found


def _taken_parts(
    attributes: Mapping[str, Any], seconds: float, axes: Axes, index: Mapping[str, Index], at: dict[str, Any]
) -> tuple[dict[str, Any], float]:
    """Of every part what belongs to the labels in `index`, which is of joined axes; `at` are the labels of the others."""
    own = {name: value for name, value in attributes.items() if name != JOINED}
    kept: dict[str, Any] = {}
    if at:
        own[CHOSEN] = {**own.get(CHOSEN, {}), **at}
    for name, parts in attributes.get(JOINED, {}).items():
        place = index.get(name)
        labels = axes[name] if place is None else [axes[name][i] for i in ([place] if isinstance(place, int) else place)]
        taken = {label: _taken_parts(parts[label]["attributes"], parts[label]["seconds"], axes, index, at) for label in labels}
        seconds = sum(part_seconds for _, part_seconds in taken.values()) if index else seconds
        if isinstance(place, int):
            inner, _ = taken[labels[0]]
            kept |= inner.pop(JOINED, {})
            own |= inner
        else:
            kept[name] = {
                label: {**parts[label], "attributes": inner, "seconds": taking} for label, (inner, taking) in taken.items()
            }
    return own | ({JOINED: kept} if kept else {}), seconds
