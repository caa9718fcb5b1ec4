"""A point of a grid that was chosen, what is remembered of how, and the sentence that tables say about it.

A sweep at a chosen point keeps in its attributes, under "chosen", the values by path and by what they were chosen. Joined Runs have
this for each label, so that a table of several methods tells those whose hyperparameters were chosen on test data from the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cl_func import checks
from cl_func.sweeps import named_axes
from cl_func.sweeps import ranges as scales
from cl_func.sweeps.ranges import Value
from cl_func.sweeps.selection import CHOSEN, JOINED

if TYPE_CHECKING:
    from cl_func.sweeps.runs import Runs

CHOICE = "chosen"  # attribute: {"values": path -> label, "by": how they were chosen, such as "chosen on test data"}


class Chosen(dict[str, Any]):
    """A point, path -> value, as `cl.sweep(hparams=)` and `cl.tree.set` take it.

    how: in words how it was chosen, such as "chosen on a held-out 10% of each experience, with the seeds 10000, 10001, 10002".
    searched: the Runs that it was chosen from, one for each round.
    """

    def __init__(self, point: Mapping[str, Any], how: str, searched: tuple[Runs, ...] = ()) -> None:
        super().__init__(point)
        self.how, self.searched = how, searched

    def __reduce__(self) -> tuple[type[Chosen], tuple[dict[str, Any], str, tuple[Runs, ...]]]:
        return type(self), (dict(self), self.how, self.searched)


def check_point(name: str, point: Mapping[str, Any]) -> dict[str, Value]:
    """Check a point, path -> one value; TypeError or ValueError otherwise."""
    found = dict[str, Value]()
    for path, given in point.items():
        checks.path(name, path, "opt.lr")
        value = scales.as_value(given)
        if value is None:
            expected = "a number or a tensor, the value of all runs (for several values give cl.grid)"
            raise checks.type_error(f"{name}: {path!r}", expected, given)
        found[path] = value
    return found


def attributes(point: Mapping[str, Any]) -> dict[str, Any]:
    """What a sweep at one point remembers of it."""
    labels = {path: scales.label_of(value) for path, value in check_point("hparams", point).items()}
    choice = {CHOICE: {"values": labels, "by": point.how}} if isinstance(point, Chosen) else {}
    return ({CHOSEN: labels} if labels else {}) | choice


def note(attributes: Mapping[str, Any]) -> str:
    """How the hyperparameters of some Runs were chosen, as a sentence for the foot of a table; empty if that is not known."""
    points = dict[str, list[str]]()
    for label, values, how in _each(attributes):
        named = f"{label} ({values})" if label and values else label or values
        points.setdefault(how, []).append(named)
    parts = []
    for how, names in points.items():
        whose = ", ".join(filter(None, names))
        parts.append(f"{'of ' if whose and JOINED in attributes else ''}{whose}{' ' if whose else ''}{how}")
    return f"Hyperparameters {'; '.join(parts)}." if parts else ""


def _each(attributes: Mapping[str, Any], label: str = "", at: Mapping[str, Any] | None = None) -> Iterator[tuple[str, str, str]]:
    """(label, values, how) of all Runs that were joined, or of the one, of which that is known; at: labels that were taken."""
    rest = {key: value for key, value in attributes.items() if key != JOINED}
    at = {**(at or {}), **attributes.get(CHOSEN, {})}
    for axis, parts in attributes.get(JOINED, {}).items():
        for name, part in parts.items():
            # Of Runs that were joined twice one label may have been taken of the inner axis.
            longer = label if axis in at else ", ".join(filter(None, (label, str(name))))
            if at.get(axis, name) == name:
                yield from _each({**rest, **part["attributes"]}, longer, at)
    if CHOICE in attributes and JOINED not in attributes:
        choice = attributes[CHOICE]
        values = [f"{path}={text}" for path, value in choice["values"].items() for text in named_axes.texts(path, [value])]
        yield label, ", ".join(values), str(choice["by"])
