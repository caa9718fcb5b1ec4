"""UPGD, utility-based perturbed gradient descent: weights that are of little use get noise, those that are of use are left alone.

At step t, with the gradient g of the loss by the weights w:
    u <- decay * u + (1 - decay) * (-g * w)              to first order, what the loss would rise by without the weight
    s = sigmoid(u / max u)                               "global": the maximum over all weights
        sigmoid(u / ((1 - decay^t) * max u))             "global_uncorrected", what the authors' code computes
        sigmoid(u / |u|)                                 "local": the length of the row, along the last axis
    g <- (g + sigma * noise) * (1 - s)                   noise ~ N(0, 1); or g + sigma * noise * (1 - s), without protection

Followed by SGD, w <- w - lr * (g + weight_decay * w), this is UPGD-W. Elsayed & Mahmood, "Addressing loss of plasticity and
catastrophic forgetting in continual learning", ICLR 2024, eq. 3 and algorithm 1, with the first-order utility. There u and its
maximum are both divided by 1 - decay^t, which cancels; in their code the maximum is not.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from cl_func import checks, random, tree
from cl_func.experiences import Experience
from cl_func.models.cosine import unit
from cl_func.models.model import ModelState
from cl_func.optim.hyperparameters import nonnegative
from cl_func.plasticity.shrink_and_perturb import normal_like
from cl_func.tree import bounded, state


@state
class WeightUtility:
    """The slot of UPGD; `sigma` and `decay` are hyperparameters."""

    sigma: Tensor = bounded(partial(nonnegative, example=1e-3))  # () float32, standard deviation of the noise
    decay: Tensor = bounded(partial(checks.number, low=0, high=1, ends="[)"))  # () float32, of the running mean
    utility: dict[str, Tensor]  # like the params, without the correction by count
    count: Tensor  # () int64, steps so far


@dataclasses.dataclass(frozen=True)
class UPGD:
    """The GradientTransform made by `upgd`, and the numbers that a new slot starts from."""

    sigma: float
    decay: float
    scale: Literal["global", "global_uncorrected", "local"]
    protect: bool
    slot: str

    def init(self, net: ModelState) -> WeightUtility:
        """The slot for the parameters of a network."""
        checks.instance("net", net, ModelState, "the ModelState of model.init(key)")
        device = next(iter(net.params.values())).device
        return WeightUtility(
            sigma=torch.tensor(self.sigma, device=device),
            decay=torch.tensor(self.decay, device=device),
            utility=tree.map(torch.zeros_like, net.params),
            count=torch.zeros((), dtype=torch.int64, device=device),
        )

    def __call__(self, grads: dict[str, Tensor], state: Any, exp: Experience) -> tuple[dict[str, Tensor], Any]:
        """The gradients with noise, the less of both the more useful a weight is, and the state with utilities moved on."""
        held: WeightUtility = checks.slot(state, self.slot, WeightUtility, "a WeightUtility made by upgd(...).init(net)")
        key, draw_key = random.split(state.key)
        params: dict[str, Tensor] = state.model.params
        count = held.count + 1
        now = tree.map(lambda u, g, p: torch.lerp(-g * p, u, held.decay.to(u.dtype)), held.utility, grads, params)
        scaled = self._scaled(now, -torch.expm1(count * torch.log(held.decay)))
        noise = normal_like(draw_key, params)

        def gated(g: Tensor, xi: Tensor, s: Tensor) -> Tensor:
            noisy = held.sigma.to(g.dtype) * xi
            return (g + noisy) * (1 - s) if self.protect else g + noisy * (1 - s)

        state = tree.set(state.replace(key=key), {self.slot: tree.replace(held, utility=now, count=count)})
        return tree.map(gated, grads, noise, scaled), state

    def _scaled(self, utility: dict[str, Tensor], correction: Tensor) -> dict[str, Tensor]:
        """The utilities as fractions in (0, 1)."""
        if self.scale == "local":
            return tree.map(lambda u: torch.sigmoid(unit(u) if u.ndim else u.sign()), utility)
        kind = torch.promote_types(next(iter(utility.values())).dtype, torch.float32)
        largest = torch.stack([u.max().to(kind) for u in utility.values()]).max()
        if self.scale == "global_uncorrected":
            largest = largest * correction.to(kind)
        # A weight without utility has the fraction 1/2 also where no weight has any.
        return tree.map(lambda u: torch.sigmoid(torch.where(u == 0, 0, u.to(kind) / largest)).to(u.dtype), utility)


def upgd(
    sigma: float = 1e-3,
    decay: float = 0.999,
    *,
    scale: Literal["global", "global_uncorrected", "local"] = "global",
    protect: bool = True,
    slot: str = "upgd",
) -> UPGD:
    """The GradientTransform that protects useful weights and perturbs the others; the optimiser after it is `cl.optim.sgd`.

    `sigma` and `decay` are leaves of its slot, which `.init(net)` makes: `upgd.sigma`. It stands after transforms such as clipping,
    last before the optimiser: `cl.train_step(loss, cl.optim.sgd(0.01, weight_decay=1e-3), cl.plasticity.upgd())`.

    sigma: the standard deviation of the noise, at least 0; like the gradient, it is multiplied by the learning rate.
    decay: of the running mean of the utilities, in [0, 1).
    scale: what a utility u is compared with: "global", the maximum over all weights; "global_uncorrected", the same times
        1 - decay^t, what the authors' code computes; "local", the length of the row. The gate is 1 - sigmoid(u / scale).
    protect: whether the gradient is gated too, against forgetting, or the noise alone.

    Raises TypeError or ValueError for other arguments.
    """
    return UPGD(
        sigma=nonnegative("sigma", sigma, 1e-3),
        decay=checks.number("decay", decay, 0, 1, ends="[)"),
        scale=checks.choice("scale", scale, "global", "global_uncorrected", "local"),
        protect=checks.flag("protect", protect),
        slot=checks.path("slot", slot, "upgd"),
    )
