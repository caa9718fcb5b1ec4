"""Rows that remember the logits they once had: what dark experience replay stores (Buzzega et al. 2020).

`sample(model)` allocates a memory for them; `fields(model)` makes an insertion compute them:

    memory = cl.memory.reservoir.init(200, cl.memory.dark.sample(model))
    store = cl.memory.reservoir.insert(fields=cl.memory.dark.fields(model))
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks
from cl_func.core import Update
from cl_func.experiences import Experience
from cl_func.memory import replay, reservoir
from cl_func.models import Model
from cl_func.sources.source import Target
from cl_func.torch_private import stop_gradient


def sample(model: Model, target: Target = "class") -> dict[str, Tensor]:
    """One row: x, y and task as `cl.memory.sample(model, target)` has them, and its logits [C], of the dtype of x if it floats."""
    checks.model("model", model)
    dtype = model.input_dtype if model.input_dtype.is_floating_point else torch.float32
    return {**replay.sample(model, target), "logits": torch.zeros(model.n_classes, dtype=dtype)}


def fields(model: Model) -> Callable[[Any, Experience], dict[str, Tensor]]:
    """The function of (state, exp) that gives the rows with the present model's logits in eval mode, for insertions."""
    checks.model("model", model)
    return partial(_with_model_logits, model=model)


def _with_model_logits(state: Any, exp: Experience, *, model: Model) -> dict[str, Tensor]:
    net = state.model
    logits, _ = model.apply(net.params, net.buffers, exp.x, train=False, valid=exp.valid, task=exp.tasks)
    return {**replay.fields(state, exp), "logits": logits}


def insert(logits: Tensor, slot: str = "replay") -> Update:
    """The Update that offers an experience to the reservoir in `state.<slot>` with logits [n, C] computed before."""
    checks.tensor("logits", logits)
    return reservoir.insert(slot, partial(_with_given_logits, logits=stop_gradient(logits)))


def _with_given_logits(state: Any, exp: Experience, *, logits: Tensor) -> dict[str, Tensor]:
    return {**replay.fields(state, exp), "logits": logits}
