"""Experiences one after the other, each read ahead while the one before is worked on, if their data is on a disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from cl_func.core.kinds import E
from cl_func.experiences import Experience


def on_disk(exp: Any) -> bool:
    """Whether the inputs of an experience are read from a disk."""
    return isinstance(exp, Experience) and exp.source.on_disk


def read_ahead(experiences: Iterable[E]) -> Iterator[E]:
    """The same experiences; if the first one is on a disk, each is made, and begun to be read, before the one before it is given.

    So it is for experiences that may be made early, such as those of a sequence, and of small ones: of more than 64 MB nothing is
    read ahead.
    """
    following = iter(experiences)
    for exp in following:
        if not on_disk(exp):
            yield exp
            yield from following
            return
        current: Any = exp
        for coming in following:
            _begin(coming)
            yield current
            current = coming
        yield current


def _begin(exp: Any) -> None:
    if on_disk(exp):
        exp.source.read_ahead(exp.rows)
