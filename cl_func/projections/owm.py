"""Orthogonal Weight Modification (Zeng, Chen, Cui & Yu, "Continual learning of context-dependent processing in neural networks",
Nature Machine Intelligence 1, 2019, eq. 1 and Methods).

Each linear layer has a projector P, the identity at first. After an experience it takes up the mean input h of each minibatch, by a
step of recursive least squares:

    k = P h / (alpha + h'P h),    P <- P - k h'P

and in later experiences the gradient dW [out, in] of the layer is replaced by dW P: the new weights answer old mean inputs as the
old ones did, the better the smaller alpha is. A bias counts as the weight of an input that is always 1, so P is [in + 1, in + 1].
P is kept in float64: in float32 rounding makes it indefinite after some hundred minibatches, and then k is unbounded.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.core import GradientTransform, Update
from cl_func.experiences import Experience, experience
from cl_func.models import Model, ModelState, linear_inputs
from cl_func.models.model import zero_input
from cl_func.optim.hyperparameters import nonnegative
from cl_func.sources.dataset import unchecked
from cl_func.tree import bounded, state, static


@state
class OWM:
    """The slot of OWM; `alpha` is a hyperparameter."""

    projectors: dict[str, Tensor]  # [in + 1, in + 1] float64 by the weight's name; [in, in] for a layer without bias
    alpha: Tensor = bounded(partial(nonnegative, example=1e-3, positive=True))  # () float32, above 0
    biases: tuple[tuple[str, str | None], ...] = static()  # (weight's name, bias's name)


def init(model: Model, net: ModelState, alpha: float = 1e-3) -> OWM:
    """A projector for each linear layer, the identity: nothing is protected yet.

    Raises ValueError for an alpha that is not positive, for a model without `input_shape`, and for one with trained parameters
    outside linear layers (convolutions, normalisations), which OWM would leave unprotected.
    """
    checks.model("model", model)
    checks.instance("net", net, ModelState, "the ModelState of model.init(key)")
    alpha = nonnegative("alpha", alpha, 1e-3, positive=True)
    if model.input_shape is None:
        raise ValueError("model: OWM must know the shape of one input; build it with from_module(..., input_shape=(...)).")
    first = tree.leaves(net.params)[0]
    # A forward pass of one row of zeros shows which layers there are.
    dummy = unchecked(zero_input(model, first), torch.zeros(1, dtype=torch.int64, device=first.device), None, 1)
    inputs = linear_inputs(model, net, experience(dummy))
    covered = {name for names in inputs for name in names}
    unprotected = [name for name in net.params if name not in covered]
    if unprotected:
        raise ValueError(
            f"model: {unprotected[0]!r} belongs to no linear layer, so OWM cannot protect it; use a model of linear layers such as "
            "cl.models.mlp, or freeze it in the module (requires_grad=False)."
        )
    projectors = {
        weight: torch.eye(h.shape[-1] + (bias is not None), dtype=torch.float64, device=h.device)
        for (weight, bias), h in inputs.items()
    }
    return OWM(projectors=projectors, alpha=torch.tensor(alpha, device=first.device), biases=tuple(inputs))


def absorb(model: Model, slot: str = "owm") -> Update:
    """The Update by which the projectors take up the mean inputs of a minibatch (in eval mode); compose it after the training:

    `cl.minibatches(owm.absorb(model), batch_size=...)`.
    """
    checks.model("model", model)
    checks.path("slot", slot, "owm")
    return partial(_absorb, model=model, slot=slot)


def _absorb(state: Any, exp: Experience, *, model: Model, slot: str) -> Any:
    owm: OWM = checks.slot(state, slot, OWM, "an OWM made by owm.init")
    projectors = {}
    for (weight, bias), h in linear_inputs(model, state.model, exp).items():
        if bias is not None:
            h = torch.cat([h, torch.ones_like(h[:, :1])], 1)
        mean = torch.where(exp.valid[:, None], h.double(), 0).sum(0) / exp.valid.sum().clamp(min=1)
        P = owm.projectors[weight]
        Ph = P @ mean
        projectors[weight] = P - torch.outer(Ph, Ph) / (owm.alpha.double() + mean @ Ph)
    return tree.set(state, {slot: tree.replace(owm, projectors=projectors)})


def project(slot: str = "owm") -> GradientTransform:
    """The GradientTransform dW <- dW P of all linear layers, with the projectors in `state.<slot>`."""
    checks.path("slot", slot, "owm")
    return partial(_project, slot=slot)


def _project(grads: dict[str, Tensor], state: Any, exp: Any, *, slot: str) -> tuple[dict[str, Tensor], Any]:
    owm: OWM = checks.slot(state, slot, OWM, "an OWM made by owm.init")
    projected = dict(grads)
    for weight, bias in owm.biases:
        dW = grads[weight]
        P = owm.projectors[weight].to(dW.dtype)
        if bias is None:
            projected[weight] = dW @ P
        else:
            both = torch.cat([dW, grads[bias][:, None]], 1) @ P
            projected[weight], projected[bias] = both[:, :-1], both[:, -1]
    return projected, state
