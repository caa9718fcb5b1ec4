"""Training on a memory alone: minibatches of its rows instead of the experience's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, signatures, tree
from cl_func.core import minibatches
from cl_func.core.kinds import S
from cl_func.core.nodes import Wrapper
from cl_func.experiences import Experience
from cl_func.memory import replay


@dataclasses.dataclass(frozen=True)
class OnStoredRows(Wrapper):
    """An Update on a minibatch as an Update on the rows of a memory with the minibatch's row numbers."""

    slot: str

    def lifted(self, function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        return self.around(function)

    def __call__(self, state: Any, exp: Experience) -> Any:
        rows = tree.map(lambda stored: stored[exp.rows], tree.get(state, self.slot).data)
        return self.inner(state, replay.recalled(exp, rows, exp.valid))


@dataclasses.dataclass(frozen=True)
class MemoryRows:
    """All rows of a memory in place of the experience's: their numbers, and as valid those that are occupied."""

    slot: str

    def __call__(self, state: Any, exp: Experience) -> tuple[Any, tuple[Tensor, Tensor]]:
        occupied = checks.occupied(f"slot {self.slot!r}", tree.get(state, self.slot))
        # A sum, so that under vmap each lane has row numbers of its own: a compiled leaf does not take lanes that share memory.
        rows = torch.zeros_like(occupied, dtype=torch.int64) + torch.arange(occupied.shape[0], device=occupied.device)
        return state, (rows, occupied)


def rehearse(
    step: Callable[[S, Experience], S],
    slot: str = "replay",
    *,
    batch_size: int | None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Callable[[S, Experience], S]:
    """The Update that trains on the rows in `state.<slot>`, whatever the experience: `cl.minibatches` over the memory.

    batch_size None takes all its rows as one minibatch. A pass takes minibatches for the whole capacity; those without an
    occupied row change nothing. Memories store inputs as floating tensors, so the step sees them as they are.
    """
    checks.path("slot", slot, "replay")
    signatures.update("step", step)
    on_stored_rows: Callable[[S, Experience], S] = tree.map(lambda leaf: OnStoredRows(leaf, slot), step)
    loop = minibatches(on_stored_rows, batch_size=batch_size, epochs=epochs, iterations=iterations)
    return tree.replace(loop, view=MemoryRows(slot))
