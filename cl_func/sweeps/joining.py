"""Runs side by side along a new axis, such as those of several methods.

Joined runs remember what they were: `join(runs, axis).at(axis=name)` is `runs[name]`, with its seconds and its attributes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from cl_func import checks
from cl_func.sweeps.named_axes import Axes
from cl_func.sweeps.selection import JOINED, Index, Replay, TakenReplay, take
from cl_func.tree import describe


class Parts(Protocol):
    """What Runs are made of."""

    @property
    def axes(self) -> Axes:
        """Name -> labels."""
        ...

    @property
    def history(self) -> dict[str, Tensor]:
        """Name -> [*axes, time, ...]."""
        ...

    @property
    def finished(self) -> Tensor:
        """[*axes] bool."""
        ...

    @property
    def seconds(self) -> float:
        """The wall time."""
        ...

    @property
    def attributes(self) -> dict[str, Any]:
        """What else is remembered."""
        ...

    @property
    def _replay(self) -> Replay | None: ...


@dataclasses.dataclass(frozen=True)
class JoinedReplay:
    """The final states of several Runs with n runs each, one after the other."""

    replays: tuple[Replay, ...]
    n: int

    def __call__(self, index: int) -> Any:
        return self.replays[index // self.n](index % self.n)


def check(runs: Any, kind: type, axis: str, histories: Sequence[str] | None) -> None:
    """Check the arguments of `Runs.join`; TypeError or ValueError otherwise."""
    if not isinstance(runs, Mapping) or not runs or not all(isinstance(name, str) for name in runs):
        raise checks.type_error("runs", "a mapping from names to Runs, such as {'ER': runs, 'DER++': runs}", runs)
    for name, one in runs.items():
        checks.instance(f"runs[{name!r}]", one, kind, "Runs")
    checks.text("axis", axis)
    taken = next((name for name, one in runs.items() if axis in one.axes), None)
    if not axis or taken is not None:
        of = f", which is an axis of {taken!r}" if axis else ""
        raise ValueError(f"axis: expected a new name such as 'method', got {axis!r}{of}.")
    if histories is not None and (isinstance(histories, str) or not isinstance(histories, Sequence)):
        raise checks.type_error("histories", "a sequence of names such as ['accuracy']", histories)
    for name in histories or ():
        lacks = next((label for label, one in runs.items() if name not in one.history), None)
        if lacks is not None:
            raise ValueError(f"histories: {lacks!r} has no {name!r}, only {', '.join(runs[lacks].history) or 'none'}.")


def join(
    runs: Mapping[str, Parts], axis: str, histories: Sequence[str] | None
) -> tuple[Axes, dict[str, Tensor], Tensor, float, dict[str, Any], Replay | None]:
    """The axes, histories, `finished`, seconds, attributes and final states of Runs along a new first axis, named by `runs`."""
    first = next(iter(runs.values()))
    n_axes, like = len(first.axes), _chosen(first, histories)
    parts, finished, replays = list[dict[str, Tensor]](), list[Tensor](), list[Replay]()
    for name, one in runs.items():
        index = _aligned(f"{name!r} has", one.axes, first.axes)
        found = _chosen(one, histories)
        _check_histories(f"{name!r} has", found, like, n_axes)
        parts.append({h: _reordered(found[h], one.axes, first.axes, index) for h in like})
        finished.append(_reordered(one.finished, one.axes, first.axes, index))
        if one._replay is not None:
            places = torch.arange(one.finished.numel()).reshape(one.finished.shape)
            order = _reordered(places, one.axes, first.axes, index).flatten().tolist()
            replays.append(TakenReplay(one._replay, tuple(order)))
    return (
        {axis: list(runs), **{name: list(labels) for name, labels in first.axes.items()}},
        {h: torch.stack([part[h] for part in parts]) for h in like},
        torch.stack(finished),
        sum(one.seconds for one in runs.values()),
        _joined_attributes(axis, {name: (one.attributes, one.seconds) for name, one in runs.items()}),
        JoinedReplay(tuple(replays), first.finished.numel()) if len(replays) == len(runs) else None,
    )


def _chosen(runs: Parts, histories: Sequence[str] | None) -> dict[str, Tensor]:
    return runs.history if histories is None else {name: runs.history[name] for name in histories}


def _joined_attributes(axis: str, parts: Mapping[str, tuple[dict[str, Any], float]]) -> dict[str, Any]:
    """The attributes of joined Runs: those that all have in common, and under "joined" the others, with the seconds, by label."""
    first = next(iter(parts.values()))[0]
    common = {
        key: value
        for key, value in first.items()
        if key != JOINED and all(key in own and repr(own[key]) == repr(value) for own, _ in parts.values())
    }
    own = {
        label: {"seconds": seconds, "attributes": {key: value for key, value in attributes.items() if key not in common}}
        for label, (attributes, seconds) in parts.items()
    }
    return {**common, JOINED: {axis: own}}


def attributes_of_parts(attributes: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The attributes of each of the Runs that were joined, in however many steps; of Runs that were not, their own."""
    if JOINED not in attributes:
        yield attributes
        return
    common = {key: value for key, value in attributes.items() if key != JOINED}
    for parts in attributes[JOINED].values():
        for part in parts.values():
            yield from attributes_of_parts({**common, **part["attributes"]})


def _aligned(what: str, axes: Axes, like: Axes) -> dict[str, Index]:
    """Where the labels of other axes `like` are on the axes of the same names; ValueError if they are not all there."""
    if set(axes) != set(like):
        raise ValueError(
            f"runs: {what} the axes {list(axes)}, the first {list(like)}; choose a point of the others, "
            "such as runs.at(**runs.best())."
        )
    found: dict[str, Index] = {}
    for name, labels in like.items():
        texts, wanted = [repr(label) for label in axes[name]], [repr(label) for label in labels]
        if sorted(texts) != sorted(wanted) or len(set(texts)) < len(texts):
            both = [label for label in axes[name] if repr(label) in wanted]
            mend = f"take what both have, runs.at(**{{{name!r}: {both}}})" if both else "they have none in common"
            raise ValueError(f"runs: {what} the labels {axes[name]} of {name!r}, the first {labels}; {mend}.")
        found[name] = [texts.index(text) for text in wanted]
    return found


def _reordered(value: Tensor, axes: Axes, like: Axes, index: Mapping[str, Index]) -> Tensor:
    """A tensor [*axes, ...] with its axes and their labels in the order of `like`."""
    names = list(axes)
    order = [names.index(name) for name in like]
    return take(value, axes, index).permute(*order, *range(len(order), value.ndim))


def _check_histories(what: str, histories: Mapping[str, Tensor], like: Mapping[str, Tensor], n_axes: int) -> None:
    """Check that Runs with these histories [*axes, time, ...] can be joined to others; ValueError otherwise."""
    if set(histories) != set(like):
        raise ValueError(
            f"histories: {what} {list(histories) or 'none'}, the first {list(like) or 'none'}; name those to join, histories=[...]."
        )
    for name, value in histories.items():
        if value.shape[n_axes:] != like[name].shape[n_axes:] or value.dtype != like[name].dtype:
            raise ValueError(
                f"history: {what} {name!r} as {describe(value)}, the first as {describe(like[name])}; they were measured at other "
                "times or on other test experiences: sweep with one probe and one `every`, or leave it out, histories=[...]."
            )
