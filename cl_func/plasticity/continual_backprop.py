"""Continual backprop: at each step the hidden units that do least are replaced by new ones, a few at a time.

For unit i of a layer, after each step, over the rows of its minibatch (a_i counts the steps since the unit was new):
    a_i <- a_i + 1,    m_f <- decay * m_f + (1 - decay) * mean h_f        for each feature f of the unit, behind its activation
    y_i  = contribution:            sum_f mean |h_f| * sum_k |w_kf|        w_kf: from feature f to unit k of the next layer
           zero_contribution:       sum_f mean |h_f - m_f'| * sum_k |w_kf|         x' = x / (1 - decay^a_i)
           adaptable_contribution:  zero_contribution / sum_j |w_ij|               w_ij: into unit i
           feature_by_input:        sum_f mean |h_f - m_f'| / sum_j |w_ij|
           weight:                  sum_f sum_k |w_kf|
           adaptation:              1 / sum_j |w_ij|
           random:                  a uniform draw
    u_i <- decay * u_i + (1 - decay) * y_i
    due <- due + rate * #{i: a_i > maturity},    n = floor(due),    due <- due - n
    the n units of lowest u_i' among those with a_i > maturity are replaced (see `replacing.py`); their a, u and m become 0
n is at most the number of units times the larger of the first rate and 0.1, rounded down, plus 1: so many are drawn at each step,
of which n are used. What is over stays due.

Dohare, Hernandez-Garcia, Lan, Rahman, Mahmood & Sutton, "Loss of plasticity in deep continual learning", Nature 2024, algorithm 1
(contribution); Dohare, Sutton & Mahmood, "Continual backprop", arXiv 2108.06325 (adaptable_contribution). In their code the h are
those of before the step, as in `around`, and the weights those of after it; as an Update after the step both are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from cl_func import checks, random, tree
from cl_func.checks import positive_int
from cl_func.core import Update
from cl_func.experiences import Experience
from cl_func.models.fresh import FreshRows, fresh_rows
from cl_func.models.model import Model, ModelState
from cl_func.plasticity.activity import layer_inputs, mean_size, mean_value, of_units
from cl_func.plasticity.layers import Layer
from cl_func.plasticity.replacing import Chosen, replace_units
from cl_func.plasticity.units import hidden_layers
from cl_func.tree import bounded, state

Utility = Literal[
    "contribution", "zero_contribution", "adaptable_contribution", "feature_by_input", "weight", "adaptation", "random"
]


@state
class CBP:
    """The slot of continual backprop; `rate`, `maturity` and `decay` are hyperparameters. Dicts are by layer, such as "0"."""

    rate: Tensor = bounded(partial(checks.number, low=0, high=1, ends="[]"))  # () float64, of the mature units, a step
    maturity: Tensor = bounded(partial(positive_int, least=0))  # () int64, steps in which a new unit is left alone
    decay: Tensor = bounded(partial(checks.number, low=0, high=1, ends="[)"))  # () float32, of the running means
    age: dict[str, Tensor]  # [units] int64, steps since the unit was new
    utility: dict[str, Tensor]  # [units] float, without the correction by age
    mean: dict[str, Tensor]  # [units, features of a unit] float, of what is behind the activation, without the correction
    due: dict[str, Tensor]  # () float64, units that are still to be replaced, a fraction
    replaced: dict[str, Tensor]  # () int64, units replaced so far


@dataclasses.dataclass(frozen=True)
class ContinualBackprop:
    """The Update made by `continual_backprop`, and the numbers that a new slot starts from."""

    model: Model
    layers: tuple[Layer, ...]
    rate: float
    maturity: int
    decay: float
    utility: Utility
    keep_mean: bool
    slot: str
    fresh: FreshRows

    def init(self, net: ModelState) -> CBP:
        """The slot for a network of this model, whose units are all new."""
        checks.instance("net", net, ModelState, "the ModelState of model.init(key)")
        like = next(iter(net.params.values()))
        zeros = partial(torch.zeros, device=like.device)
        kind = torch.promote_types(like.dtype, torch.float32)
        features = {layer.name: sum(feed.features.count for feed in layer.feeds) // layer.units for layer in self.layers}
        return CBP(
            rate=torch.tensor(self.rate, dtype=torch.float64, device=like.device),
            maturity=torch.tensor(self.maturity, device=like.device),
            decay=torch.tensor(self.decay, device=like.device),
            age={layer.name: zeros(layer.units, dtype=torch.int64) for layer in self.layers},
            utility={layer.name: zeros(layer.units, dtype=kind) for layer in self.layers},
            mean={layer.name: zeros(layer.units, features[layer.name], dtype=kind) for layer in self.layers},
            due={layer.name: zeros((), dtype=torch.float64) for layer in self.layers},
            replaced={layer.name: zeros((), dtype=torch.int64) for layer in self.layers},
        )

    def __call__(self, state: Any, exp: Experience) -> Any:
        """The state with ages and utilities moved on by the rows of a minibatch, and with those units replaced that are due."""
        return self._moved_on(state, exp, self._inputs(state, exp))

    def around(self, step: Update, state: Any, exp: Experience) -> Any:
        """The same after an Update, `step`, but by the activations of before it."""
        inputs = self._inputs(state, exp)
        return self._moved_on(step(state, exp), exp, inputs)

    def _inputs(self, state: Any, exp: Experience) -> dict[str, Tensor]:
        return layer_inputs(self.model, state.model, exp, [feed.weight for layer in self.layers for feed in layer.feeds])

    def _moved_on(self, state: Any, exp: Experience, inputs: dict[str, Tensor]) -> Any:
        held: CBP = checks.slot(state, self.slot, CBP, "a CBP made by continual_backprop(...).init(net)")
        key, draw_key, utility_key = random.split(state.key, 3)
        chosen, means = list[Chosen](), list[Tensor]()
        after: dict[str, dict[str, Tensor]] = {name: {} for name in ("age", "utility", "mean", "due", "replaced")}
        for i, layer in enumerate(self.layers):
            name = layer.name
            age = held.age[name] + 1
            correction = -torch.expm1(age * torch.log(held.decay))  # 1 - decay^age
            mean = torch.lerp(mean_value(layer, inputs, exp.valid), held.mean[name], held.decay.to(held.mean[name].dtype))
            means.append(mean / correction[:, None])
            new = _utility(self.utility, layer, state.model.params, inputs, exp.valid, means[i], random.fold_in(utility_key, i))
            utility = torch.lerp(new, held.utility[name], held.decay.to(new.dtype))
            mature = age > held.maturity
            due = held.due[name] + held.rate * mature.sum()
            lowest = torch.argsort(torch.where(mature, utility / correction, torch.inf), stable=True)[: self._most(layer)]
            n = torch.minimum(due.floor(), mature.sum()).clamp(max=len(lowest))
            gone = torch.zeros_like(mature).index_copy(0, lowest, torch.arange(len(lowest), device=age.device) < n)
            chosen.append(Chosen(gone, lowest))
            after["age"][name] = torch.where(gone, 0, age)
            after["utility"][name] = torch.where(gone, 0, utility)
            after["mean"][name] = torch.where(gone[:, None], 0, mean)
            after["due"][name] = due - n
            after["replaced"][name] = held.replaced[name] + n.long()
        state = tree.set(state.replace(key=key), {self.slot: tree.replace(held, **after)})
        return replace_units(state, draw_key, self.layers, chosen, self.fresh, means if self.keep_mean else None)

    def _most(self, layer: Layer) -> int:
        """How many units of a layer can be replaced in one step."""
        return min(layer.units, int(layer.units * max(self.rate, 0.1)) + 1)


def continual_backprop(
    model: Model,
    rate: float = 1e-4,
    maturity: int = 100,
    *,
    utility: Utility = "contribution",
    decay: float = 0.99,
    keep_mean: bool = False,
    layers: Sequence[str] | None = None,
    slot: str = "cbp",
) -> ContinualBackprop:
    """The Update that replaces the least useful hidden units; compose it after each step. Its slot is made by `.init(net)`.

    It runs the model once more, in eval mode, on the rows of the minibatch: after the step, or before it in the Update
    `functools.partial(cbp.around, step)`, which takes the step too and is what the authors' code does. A unit is a row of a linear
    layer's weight, or a channel of a convolution. `rate`, `maturity` and `decay` are leaves of the slot: `cbp.rate`. What the
    optimiser remembers of each replaced weight, a velocity or moments, becomes 0; Adam's count of steps does if it is
    `cl.optim.adam(count_each=True)`, as in the authors' code.

    rate: the fraction of the mature units of a layer that is replaced in a step, in [0, 1]; fractions of a unit add up. The leaf
        may be set to anything up to 0.1, or up to this number if it is larger; beyond, units stay due, in `cbp.due`.
    maturity: the steps, at least 0, in which a new unit is left alone.
    utility: what a unit does, by its features' mean |h| and the sums out and in of its outgoing and incoming |w|: "contribution",
        |h| * out, as in Nature 2024; "zero_contribution", |h - mean h| * out; "adaptable_contribution", the same / in, as in arXiv
        2108.06325; "feature_by_input", |h - mean h| / in; "weight", out; "adaptation", 1 / in; or "random".
    decay: of the running means, in [0, 1).
    keep_mean: whether what a unit has contributed on average is added to the biases of the next layer when it goes, as in arXiv
        2108.06325. (Their code means to do so too, but sets the mean to 0 before it is used.)
    layers: the layers whose units may be replaced, such as ("0", "2") of an MLP with two hidden layers; None takes all.

    Raises TypeError or ValueError for other arguments, for a model without `fresh` or `input_shape`, and for a layer whose units
    cannot be replaced, such as one of a residual connection: see `cl_func.plasticity.units`.

    >>> import cl_func as cl
    >>> model = cl.models.mlp(6, hidden=(8,), n_classes=4)
    >>> cbp = continual_backprop(model, rate=0.01)
    >>> slot = cbp.init(model.init(cl.key(0)))
    >>> slot.age["0"].shape, slot.rate
    (torch.Size([8]), tensor(0.0100, dtype=torch.float64))
    """
    found = hidden_layers(model, layers)
    fresh = fresh_rows(model)
    if checks.flag("keep_mean", keep_mean):
        without = next((feed.weight for layer in found for feed in layer.feeds if feed.bias is None), None)
        if without is not None:
            raise ValueError(
                f"keep_mean: the layer of {without!r} has no bias that a mean could be added to; give keep_mean=False."
            )
    return ContinualBackprop(
        model=model,
        layers=found,
        rate=checks.number("rate", rate, 0, 1, ends="[]"),
        maturity=positive_int("maturity", maturity, least=0),
        decay=checks.number("decay", decay, 0, 1, ends="[)"),
        utility=checks.choice("utility", utility, *get_args(Utility)),
        keep_mean=keep_mean,
        slot=checks.path("slot", slot, "cbp"),
        fresh=fresh,
    )


def _utility(
    kind: Utility,
    layer: Layer,
    params: dict[str, Tensor],
    inputs: dict[str, Tensor],
    valid: Tensor,
    means: Tensor,
    key: Tensor,
) -> Tensor:
    """The utility of each unit on a minibatch, [units]."""
    if kind == "random":
        return random.uniform(key, layer.units, means.dtype)
    value = torch.ones_like(means[:, 0])
    if kind != "adaptation":
        center = None if kind == "contribution" else means
        each = torch.ones_like(means) if kind == "weight" else mean_size(layer, inputs, valid, center)
        if kind != "feature_by_input":
            each = each * of_units(layer, lambda feed: params[feed.weight].abs().transpose(0, 1).flatten(1).sum(1)).to(means.dtype)
        value = each.sum(1)
    if kind in ("adaptation", "adaptable_contribution", "feature_by_input"):
        value = value / params[layer.weight].abs().flatten(1).sum(1).to(means.dtype)
    return value
