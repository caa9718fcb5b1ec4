"""Resets of the head: the last layer begins anew with each experience, and what is below it stays.

    W, b <- as the model's initialisation draws them ("initial"), or 0 ("zero");      moments of both <- 0

For streams in which each experience has labels of its own meaning, such as Continual ImageNet, where Dohare et al. ("Loss of
plasticity in deep continual learning", Nature 2024) set the head to 0 for each task.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from cl_func import checks, random, tree
from cl_func.core import Update
from cl_func.experiences import Experience
from cl_func.models.model import Fresh, Model, fresh_function
from cl_func.plasticity.replacing import map_slots
from cl_func.plasticity.units import last_layers


def reset_head(model: Model, to: Literal["initial", "zero"] = "initial", *, layers: tuple[str, ...] | None = None) -> Update:
    """The Update that resets the last layer, and what the optimiser remembers of it; compose it before the training.

    It needs no slot. It resets whenever it is called: `cl.when(condition, reset_head(model))` does so for some experiences only.

    to: "initial", newly drawn from the model's initialisation (`model.fresh`), or "zero".
    layers: the names of the layers to reset, such as ("4",) for "4.weight" and "4.bias"; None takes those that lead to no other.

    Raises TypeError or ValueError for other arguments, for a layer that the model does not have, and for a model without `fresh`,
    or without `input_shape` if the layers are not named.
    """
    checks.model("model", model)
    fresh = fresh_function(model) if checks.choice("to", to, "initial", "zero") == "initial" else None
    return partial(_reset_head, names=last_layers(model, layers), fresh=fresh)


def _reset_head(state: Any, exp: Experience, *, names: tuple[str, ...], fresh: Fresh | None) -> Any:
    params: dict[str, Tensor] = state.model.params
    head = {name: params[name] for name in names}
    if fresh is None:
        new = tree.map(torch.zeros_like, head)
    else:
        key, draw_key = random.split(state.key)
        state, new = state.replace(key=key), fresh(draw_key, head)

    def forget(slots: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: torch.zeros_like(value) if name in head else value for name, value in slots.items()}

    opt = map_slots(forget, state.opt, params)
    return state.replace(model=tree.replace(state.model, params={**params, **new}), opt=opt)
