"""Memory Aware Synapses (Aljundi et al., "Memory aware synapses: learning what (not) to forget", ECCV 2018, eq. 2 to 4).

Parameters that the model's outputs are sensitive to are held in place; labels play no part:
    importance <- decay * importance + mean_i | d ||f(x_i)||^2 / d theta |,   anchor <- theta       after each experience
    L = strength / 2 * sum_k importance_k * (p_k - anchor_k)^2
The paper accumulates, decay 1, and writes lambda for strength / 2; f are the logits.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.core import Update
from cl_func.models import Model
from cl_func.regularizers import importance, quadratic
from cl_func.regularizers.quadratic import Quadratic, _fraction
from cl_func.tree import PyTree, bounded, state


@state
class MAS(Quadratic):
    """The slot of MAS; `strength` and `decay` are hyperparameters."""

    # () float32 in [0, 1], what is left of the importances after each experience
    decay: Tensor = bounded(partial(checks.number, low=0, high=1, ends="[]"))
    rows: Tensor  # () int64, how many rows the last importances are the mean of


def init(params: PyTree, strength: float, decay: float = 1.0) -> MAS:
    """A slot without importances. Raises ValueError for a decay outside [0, 1]."""
    checks.tensors("params", params)
    rows = torch.zeros((), dtype=torch.int64, device=tree.leaves(params)[0].device)
    return MAS(**quadratic.fields(params, strength), decay=_fraction("decay", params, decay), rows=rows)


def consolidate(model: Model, slot: str = "mas", *, batch_size: int | None = None, samples: int | None = None) -> Update:
    """The Update that adds the sensitivities on an experience to `state.<slot>`; compose it after the training.

    batch_size, samples: as in `importance.accumulate`.
    """
    checks.model("model", model)
    checks.path("slot", slot, "mas")
    measure = importance.sensitivity(model)
    return importance.accumulate(measure, slot, MAS, begin=_begin, add=_add, batch_size=batch_size, samples=samples)


def _begin(mas: MAS, params: PyTree) -> MAS:
    return tree.replace(mas, anchor=params, importance=tree.map(lambda old: old * mas.decay, mas.importance))


def _add(mas: MAS, params: PyTree, part: PyTree) -> MAS:
    return tree.replace(mas, importance=tree.map(torch.add, mas.importance, part))
