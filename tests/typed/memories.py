"""What a type checker understands of memories: checked by `mypy`, not run; see `revealed.py`."""

from __future__ import annotations

from typing import Any, assert_type

import torch
from torch import Tensor

import cl_func as cl
from cl_func import memory


@cl.state
class Own:
    """A memory of a user's own, with no base class."""

    data: dict[str, Tensor]
    occupied: Tensor

    @property
    def capacity(self) -> int:
        """How many rows there is room for."""
        return self.occupied.shape[0]


def draw(held: memory.Memory, key: Tensor) -> tuple[Any, Tensor]:
    """A draw from any memory."""
    return memory.draws.distinct(held, key, 2)


def revealed(own: Own, rows: dict[str, Tensor], valid: Tensor, label: Tensor) -> None:
    """Never called."""
    key, row = cl.key(0), {"x": torch.zeros(3), "y": torch.tensor(0), "task": torch.tensor(0)}
    reservoir, ring = memory.reservoir.init(4, row), memory.ring.init(4, row, 2)
    balanced, gdumb = memory.balanced.init(4, row), memory.gdumb.init(4, row, 2)
    gss, herding = memory.gss.init(4, row), memory.herding.init(4, row, 2)

    assert_type(memory.reservoir.add(reservoir, key, rows, valid), memory.Reservoir)
    assert_type(memory.ring.add(ring, key, rows, valid, label), memory.Ring)
    assert_type(memory.balanced.add(balanced, key, rows, valid, label), memory.Balanced)
    assert_type(memory.gdumb.add(gdumb, key, rows, valid, label), memory.GDumb)
    assert_type(memory.balanced.add(gdumb, key, rows, valid, label), memory.GDumb)
    assert_type(memory.gss.add(gss, key, rows, valid, label.float()), memory.GSS)
    assert_type(memory.herding.add(herding, key, rows, valid, label, lambda rows: rows["x"]), memory.Herding)
    for held in (reservoir, ring, balanced, gdumb, gss, herding, own):
        draw(held, key)
    assert_type(memory.reservoir.draw(reservoir, key, 2)[1], Tensor)
    assert_type(memory.ring.draw(ring, key, 2)[1], Tensor)
