"""Dark experience replay's term: keep the logits that replayed rows once had (Buzzega et al. 2020, eq. 6).

    L = mean_i ||z_i - f(x_i)||^2 / C      over rows (x_i, z_i) drawn from the memory, z_i [C] the logits stored with x_i

The division by the number of classes C is that of the authors' code, for which the weights in their tables hold.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from cl_func import checks, random, signatures, tree
from cl_func.checks import positive_int
from cl_func.core import Loss
from cl_func.experiences import Experience
from cl_func.losses.classification import weighted_mean
from cl_func.memory import draws, replay
from cl_func.memory.kinds import Draw
from cl_func.models import Model, forward
from cl_func.tree import PyTree


def logit_distance(logits: Tensor, stored: Tensor, valid: Tensor) -> Tensor:
    """The mean squared difference, (), of logits [n, C] and stored ones [n, C] over the valid [n] rows; 0 if there are none."""
    same = isinstance(logits, Tensor) and isinstance(stored, Tensor) and logits.shape == stored.shape
    if not same or logits.ndim != 2 or logits.dtype != stored.dtype or logits.device != stored.device:
        raise checks.type_error("logits, stored", "tensors [n, C] of one shape, dtype and device", (logits, stored))
    return weighted_mean((logits - stored).square().mean(-1), valid)


def dark_experience(model: Model, n: int, slot: str = "replay", draw: Draw = draws.uniform) -> Loss:
    """The Loss that keeps n rows drawn from the memory in `state.<slot>` near the logits stored with them; 0 while it is empty.

    The memory is allocated by `cl.memory.dark.sample(model)`; ValueError for one whose rows have no logits. `draw` as for
    `with_replay`.
    """
    checks.model("model", model)
    checks.path("slot", slot, "replay")
    positive_int("n", n)
    signatures.function("draw", draw, 3, "a function draw(memory, key, n)")
    return partial(_dark_experience, model=model, n=n, slot=slot, draw=draw)


def _dark_experience(
    params: PyTree, state: Any, exp: Experience, *, model: Model, n: int, slot: str, draw: Draw
) -> tuple[Tensor, Any]:
    key, draw_key = random.split(state.key)
    rows, valid = draw(tree.get(state, slot), draw_key, n)
    if "logits" not in rows:
        raise ValueError(
            f"{slot}: the memory stores no logits; allocate it with reservoir.init(capacity, cl.memory.dark.sample(model)) "
            "and insert with fields=cl.memory.dark.fields(model)."
        )
    logits, state = forward(model, params, state.replace(key=key), replay.recalled(exp, rows, valid))
    return logit_distance(logits, rows["logits"], valid), state
