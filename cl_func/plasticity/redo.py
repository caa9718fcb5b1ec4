"""ReDo, recycling dormant neurons: every so many steps, hidden units that are nearly silent are replaced by new ones.

    s_i = mean |h_i| / mean_k mean |h_k|        over the rows of a minibatch, and the units k of unit i's layer
    every `every` steps the units with s_i <= threshold are replaced, see `replacing.py`

Sokar, Agarwal, Castro & Evci, "The dormant neuron phenomenon in deep reinforcement learning", ICML 2023, definition 3.1 and
algorithm 1; their thresholds are 0.1 and 0.025, their period 1,000 steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, random, tree
from cl_func.checks import positive_int
from cl_func.experiences import Experience
from cl_func.models.fresh import FreshRows, fresh_rows
from cl_func.models.model import Model, ModelState
from cl_func.optim.hyperparameters import nonnegative
from cl_func.plasticity.activity import layer_inputs, mean_size
from cl_func.plasticity.layers import Layer
from cl_func.plasticity.replacing import Chosen, replace_units
from cl_func.plasticity.units import hidden_layers
from cl_func.torch_private import is_eager_cpu
from cl_func.tree import bounded, state


@state
class Recycling:
    """The slot of ReDo; `threshold` and `every` are hyperparameters. The dict is by layer, such as "0"."""

    threshold: Tensor = bounded(partial(nonnegative, example=0.1))  # () float32, of the mean activity
    every: Tensor = bounded(positive_int)  # () int64, steps from one recycling to the next
    count: Tensor  # () int64, steps so far
    replaced: dict[str, Tensor]  # () int64, units replaced so far


@dataclasses.dataclass(frozen=True)
class ReDo:
    """The Update made by `redo`, and the numbers that a new slot starts from."""

    model: Model
    layers: tuple[Layer, ...]
    threshold: float
    every: int
    slot: str
    fresh: FreshRows

    def init(self, net: ModelState) -> Recycling:
        """The slot for a network of this model."""
        checks.instance("net", net, ModelState, "the ModelState of model.init(key)")
        device = next(iter(net.params.values())).device
        zero = torch.zeros((), dtype=torch.int64, device=device)
        return Recycling(
            threshold=torch.tensor(self.threshold, device=device),
            every=torch.tensor(self.every, device=device),
            count=zero,
            replaced={layer.name: torch.zeros_like(zero) for layer in self.layers},
        )

    def __call__(self, state: Any, exp: Experience) -> Any:
        """The state, one step later; where a recycling is due, with the dormant units replaced."""
        held: Recycling = checks.slot(state, self.slot, Recycling, "a Recycling made by redo(...).init(net)")
        key, draw_key = random.split(state.key)
        held = tree.replace(held, count=held.count + 1)
        due = held.count % held.every == 0
        state = state.replace(key=key)
        if is_eager_cpu(due) and not due:
            return tree.set(state, {self.slot: held})
        inputs = layer_inputs(self.model, state.model, exp, [feed.weight for layer in self.layers for feed in layer.feeds])
        chosen = [Chosen(due & (dormancy(layer, inputs, exp.valid) <= held.threshold)) for layer in self.layers]
        counts = {layer.name: one.mask.sum() for layer, one in zip(self.layers, chosen, strict=True)}
        replaced = {name: held.replaced[name] + n for name, n in counts.items()}
        state = tree.set(state, {self.slot: tree.replace(held, replaced=replaced)})
        return replace_units(state, draw_key, self.layers, chosen, self.fresh)


def redo(
    model: Model,
    threshold: float = 0.1,
    every: int = 1000,
    *,
    layers: Sequence[str] | None = None,
    slot: str = "redo",
) -> ReDo:
    """The Update that replaces dormant hidden units every so many steps; compose it after each step.

    `threshold` and `every` are leaves of its slot, which `.init(net)` makes: `redo.threshold`. Uncompiled it costs nothing in
    between; vmapped or compiled, the model is run at each call, since lanes may differ, so that with a long period it belongs after
    the experiences, with every=1. What the optimiser remembers of replaced weights becomes 0, as in `continual_backprop`.

    threshold: the activity up to which a unit is dormant, as a fraction of the mean of its layer, at least 0; with 0 only units
        that gave 0 for all rows are.
    every: the steps, or calls, from one recycling to the next, at least 1.
    layers: as for `continual_backprop`.

    Raises TypeError or ValueError for other arguments, for a model without `fresh` or `input_shape`, and for a layer whose units
    cannot be replaced.
    """
    found = hidden_layers(model, layers)
    fresh = fresh_rows(model)
    return ReDo(
        model=model,
        layers=found,
        threshold=nonnegative("threshold", threshold, 0.1),
        every=positive_int("every", every),
        slot=checks.path("slot", slot, "redo"),
        fresh=fresh,
    )


def dormancy(layer: Layer, inputs: dict[str, Tensor], valid: Tensor) -> Tensor:
    """The scores s_i of the units of a layer, [units]; all 0 for a layer that gives nothing at all."""
    size = mean_size(layer, inputs, valid).mean(1)
    return size / (size.mean() + 1e-9)  # as in the authors' code
