"""Shrink and perturb: all parameters are drawn towards 0, and some of a new initialisation is added.

    p <- shrink * p + perturb * q,      q drawn as the model's initialisation draws p ("initial"), or q ~ N(0, 1) ("normal")

Ash & Adams, "On warm-starting neural network training", NeurIPS 2020, section 4: once before each new part of the data, with the
noise of a network newly initialised, whose scale differs from layer to layer. Dohare et al. (Nature 2024) take a little of it, with
normal noise, at every step.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from cl_func import checks, random, tree
from cl_func.experiences import Experience
from cl_func.models.model import Model, ModelState, fresh_function
from cl_func.optim.hyperparameters import nonnegative
from cl_func.tree import bounded, state


@state
class SnP:
    """The slot of shrink and perturb; both are hyperparameters."""

    shrink: Tensor = bounded(partial(checks.number, low=0, high=1, ends="[]"))  # () float32, what is left of each parameter
    perturb: Tensor = bounded(partial(nonnegative, example=0.01))  # () float32, of the noise


@dataclasses.dataclass(frozen=True)
class ShrinkAndPerturb:
    """The Update made by `shrink_and_perturb`, and the numbers that a new slot starts from."""

    model: Model
    shrink: float
    perturb: float
    noise: Literal["initial", "normal"]
    slot: str

    def init(self, net: ModelState) -> SnP:
        """The slot for a network of this model."""
        checks.instance("net", net, ModelState, "the ModelState of model.init(key)")
        device = next(iter(net.params.values())).device
        return SnP(shrink=torch.tensor(self.shrink, device=device), perturb=torch.tensor(self.perturb, device=device))

    def __call__(self, state: Any, exp: Experience) -> Any:
        """The state with its parameters shrunk and perturbed, whatever the experience."""
        held: SnP = checks.slot(state, self.slot, SnP, "an SnP made by shrink_and_perturb(...).init(net)")
        key, draw_key = random.split(state.key)
        params: dict[str, Tensor] = state.model.params
        noise = fresh_function(self.model)(draw_key, params) if self.noise == "initial" else normal_like(draw_key, params)
        moved = {name: held.shrink.to(p.dtype) * p + held.perturb.to(p.dtype) * noise[name] for name, p in params.items()}
        return state.replace(key=key, model=tree.replace(state.model, params=moved))


def shrink_and_perturb(
    model: Model,
    shrink: float = 0.4,
    perturb: float = 0.1,
    *,
    noise: Literal["initial", "normal"] = "initial",
    slot: str = "snp",
) -> ShrinkAndPerturb:
    """The Update that shrinks all parameters and adds noise; compose it before the training on an experience, or after each step.

    `shrink` and `perturb` are leaves of its slot, which `.init(net)` makes: `snp.shrink`. The optimiser's moments and batch norm's
    statistics stay. An experience without a valid row counts like any other: wrap it in `cl.minibatches` to have it skipped.

    shrink: what is left of each parameter, in [0, 1]; 0.4 is for once an experience. For each step take 1 - 1e-4, say.
    perturb: the factor of the noise, at least 0.
    noise: "initial", parameters newly initialised (`model.fresh`); "normal", the standard normal distribution for all of them.

    Raises TypeError or ValueError for other arguments, and for a model without `fresh`.
    """
    checks.model("model", model)
    if checks.choice("noise", noise, "initial", "normal") == "initial":
        fresh_function(model)
    return ShrinkAndPerturb(
        model=model,
        shrink=checks.number("shrink", shrink, 0, 1, ends="[]"),
        perturb=nonnegative("perturb", perturb, 0.1),
        noise=noise,
        slot=checks.path("slot", slot, "snp"),
    )


def normal_like(key: Tensor, params: dict[str, Tensor]) -> dict[str, Tensor]:
    """Normal noise like the parameters, from a key of its own for each of them."""
    keys = random.split(key, len(params))
    kinds = {name: torch.float64 if p.dtype == torch.float64 else torch.float32 for name, p in params.items()}
    drawn = zip(params.items(), keys, strict=True)
    return {name: random.normal(own, tuple(p.shape), kinds[name]).to(p.dtype) for (name, p), own in drawn}
