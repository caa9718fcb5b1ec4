"""Elastic Weight Consolidation: parameters that the answers so far depend on are held in place.

Per experience (Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017, eq. 3), with the Fisher
information F_t and the parameters p_t at the end of each experience t:
    L(p) = strength / 2 * sum_t sum_k F_t,k * (p_k - p_t,k)^2
A sum of parabolas is a parabola: up to a constant, which has no gradient, this is
    strength / 2 * sum_k importance_k * (p_k - anchor_k)^2,  importance = sum_t F_t,  anchor = sum_t F_t * p_t / sum_t F_t
so two trees serve any number of experiences, at the cost of one.

Online (Schwarz et al., "Progress & compress", ICML 2018, eq. 8 and 9), with a decay (their gamma): the anchor is the last p_t,
    importance <- decay * (importance + F_t)
which is gamma F*_t, the weight of the penalty in eq. 8. They normalise each F_t; here it is not normalised.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.core import Update
from cl_func.models import Model
from cl_func.regularizers import importance, quadratic
from cl_func.regularizers.importance import Labels
from cl_func.regularizers.quadratic import Quadratic, _fraction
from cl_func.sources.source import Target
from cl_func.tree import PyTree, bounded, state


@state
class EWC(Quadratic):
    """The slot of EWC; `strength` and `decay` are hyperparameters."""

    # () float32 in [0, 1], for online EWC; None: each experience has an anchor of its own
    decay: Tensor | None = bounded(partial(checks.number, low=0, high=1, ends="[]"), default=None)
    rows: Tensor  # () int64, how many rows the last importances are the mean of


def init(params: PyTree, strength: float, decay: float | None = None) -> EWC:
    """A slot without importances. With a decay in [0, 1] it is online EWC, with None EWC per experience."""
    checks.tensors("params", params)
    held_decay = None if decay is None else _fraction("decay", params, decay)
    rows = torch.zeros((), dtype=torch.int64, device=tree.leaves(params)[0].device)
    return EWC(**quadratic.fields(params, strength), decay=held_decay, rows=rows)


def consolidate(
    model: Model,
    slot: str = "ewc",
    *,
    labels: Labels | None = None,
    target: Target = "class",
    batch_size: int | None = None,
    samples: int | None = None,
) -> Update:
    """The Update that adds the Fisher information of an experience to `state.<slot>`; compose it after the training.

    labels, target: as in `importance.fisher`; batch_size, samples: as in `importance.accumulate`.
    """
    checks.model("model", model)
    checks.path("slot", slot, "ewc")
    measure = importance.fisher(model, labels, target)
    return importance.accumulate(measure, slot, EWC, begin=_begin, add=_add, batch_size=batch_size, samples=samples)


def _begin(ewc: EWC, params: PyTree) -> EWC:
    if ewc.decay is None:
        return ewc
    return tree.replace(ewc, anchor=params, importance=tree.map(lambda old: old * ewc.decay, ewc.importance))


def _add(ewc: EWC, params: PyTree, part: PyTree) -> EWC:
    """Add the penalty `part * (p - params)^2` to the one that the slot holds; online, the anchor is `params` and stays so."""
    if ewc.decay is not None:
        part = tree.map(lambda new: new * ewc.decay, part)
    total = tree.map(torch.add, ewc.importance, part)

    def mean(anchor: Tensor, p: Tensor, new: Tensor, total: Tensor) -> Tensor:
        return anchor + new / total.clamp(min=torch.finfo(total.dtype).tiny) * (p - anchor)

    return tree.replace(ewc, importance=total, anchor=tree.map(mean, ewc.anchor, params, part, total))
