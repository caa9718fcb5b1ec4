"""Spectral regularisation: the largest singular value of each weight is held near 1.

    L(p) = strength * sum_W (s(W)^exponent - 1)^2            s: the largest singular value of W [out, in * kernel]
    u = W v / |W v|,   v <- W' u / |W' u|,   s(W) = u' W v   a step of power iteration at each call, v kept in the state

The gradient of s by W is u v', with u and v held fixed. Networks whose weights keep the spectrum of their initialisation stay
trainable: Lewandowski, Bortkiewicz, Kumar, Gyorgy, Schuurmans, Ostaszewski & Machado, "Learning continually by spectral
regularization", ICLR 2025, with exponent 2 and one step of power iteration. Parameters of one dimension, biases and those of norms,
are left free here.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.checks import positive_int
from cl_func.experiences import Experience
from cl_func.models.model import ModelState
from cl_func.optim.hyperparameters import nonnegative
from cl_func.torch_private import stop_gradient
from cl_func.tree import bounded, state

_FIRST = 20  # steps of power iteration for a new slot


@state
class Spectra:
    """The slot of spectral regularisation; `strength` is a hyperparameter."""

    strength: Tensor = bounded(partial(nonnegative, example=1e-3))  # () float32, at least 0
    vectors: dict[str, Tensor]  # [in * kernel] of length 1, the right singular vector of each weight


@dataclasses.dataclass(frozen=True)
class Spectral:
    """The Loss made by `spectral`, and the number that a new slot starts from."""

    strength: float
    exponent: int
    iterations: int
    slot: str

    def init(self, net: ModelState) -> Spectra:
        """The slot for a network, with singular vectors near those of its weights. ValueError for a network without weights."""
        checks.instance("net", net, ModelState, "the ModelState of model.init(key)")
        weights = {name: p.flatten(1) for name, p in net.params.items() if p.ndim > 1}
        if not weights:
            raise ValueError("net: it has no weights, parameters of two dimensions or more; give a network that has.")
        device = next(iter(weights.values())).device
        vectors = {name: power_iteration(w, _start(w), _FIRST)[2] for name, w in weights.items()}
        return Spectra(strength=torch.tensor(self.strength, device=device), vectors=vectors)

    def __call__(self, params: dict[str, Tensor], state: Any, exp: Experience) -> tuple[Tensor, Any]:
        """The penalty, (), whatever the experience, and the state with the singular vectors moved on."""
        held: Spectra = checks.slot(state, self.slot, Spectra, "a Spectra made by spectral(...).init(net)")
        terms, vectors = [], {}
        for name, v in held.vectors.items():
            value, _, vectors[name] = power_iteration(params[name].flatten(1), v, self.iterations)
            terms.append((value**self.exponent - 1).square())
        return held.strength * torch.stack(terms).sum(), tree.set(state, {self.slot: tree.replace(held, vectors=vectors)})


def spectral(strength: float, *, exponent: int = 2, iterations: int = 1, slot: str = "spectral") -> Spectral:
    """The Loss that holds the largest singular value of each weight near 1: add it to another with `cl.losses.total`.

    `spectral.strength` is a leaf of its slot, which `.init(net)` makes. Whatever has two dimensions or more is a weight; that of a
    convolution counts as the matrix [out, in * kernel].

    exponent: of the singular value, at least 1.
    iterations: steps of power iteration at each call, at least 1.

    Raises TypeError or ValueError for other arguments.
    """
    return Spectral(
        strength=nonnegative("strength", strength, 1e-3),
        exponent=positive_int("exponent", exponent),
        iterations=positive_int("iterations", iterations),
        slot=checks.path("slot", slot, "spectral"),
    )


def power_iteration(weight: Tensor, v: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """The largest singular value of a weight [out, in], differentiable by the weight, and its vectors u [out] and v [in].

    From a v of length 1, in n steps. A vector stays where it is if the weight is 0 on it.
    """
    held = stop_gradient(weight)
    u = held @ v
    for _ in range(n):
        u = _unit(held @ v, u)
        v = _unit(u @ held, v)
    return u @ (weight @ v), u, v


def _start(weight: Tensor) -> Tensor:
    """A vector [in] of length 1 that no weight has reason to be orthogonal to, the same for all runs: no draw is needed for it."""
    v = torch.arange(1, weight.shape[1] + 1, dtype=torch.float32, device=weight.device) * (5**0.5 - 1) / 2 % 1 - 0.5
    return (v / torch.linalg.vector_norm(v)).to(weight.dtype)


def _unit(new: Tensor, old: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(new)
    return torch.where(length > 0, new / torch.where(length > 0, length, 1), old)
