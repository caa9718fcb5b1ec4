"""Draws by way of other draws: categories and the beta distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cl_func import checks
from cl_func.random.draws import check_broadcast, check_floating, normal, sizes, uniform
from cl_func.random.keys import check_key, split
from cl_func.tree import describe


def categorical(key: Tensor, logits: Tensor) -> Tensor:
    """One index per row of logits [..., C] with probability softmax(logits), int64 [...] (the Gumbel-max trick)."""
    check_key(key)
    checks.tensor("logits", logits, like=key)
    if not logits.ndim or not logits.shape[-1]:
        raise ValueError(f"logits: expected [..., C] with at least one class, got {describe(logits)}.")
    noise = uniform(key, tuple(logits.shape), torch.float64)
    return torch.argmax(logits.double() - torch.log(-torch.log(noise.clamp(min=2.0**-53))), dim=-1)


_PROPOSALS = 8


def beta(
    key: Tensor, a: float | Tensor, b: float | Tensor, shape: int | Sequence[int] = (), dtype: torch.dtype = torch.float32
) -> Tensor:
    """Draws from Beta(a, b) in [0, 1], a and b above 0, numbers or floating tensors that broadcast to `shape`.

    X / (X + Y) of two gamma draws (Marsaglia & Tsang, "A simple method for generating gamma variables", 2000), by their logarithms,
    which do not underflow. Each is the first accepted one of 8 proposals; with a chance below 1e-10 there is none, and the last is
    taken. The values of tensors a and b are not looked at: where one is not above 0 the draw means nothing.
    """
    check_floating(dtype)
    dims, logs = sizes(shape), []
    for name, value, own in zip("ab", (a, b), split(key), strict=True):
        if isinstance(value, Tensor):
            value = checks.tensor(name, value, like=key).double()
            check_broadcast(name, value, dims)
        else:
            value = checks.number(name, value, 0)
        logs.append(_log_gamma(own, value, dims))
    return torch.sigmoid(logs[0] - logs[1]).to(dtype)


def _log_gamma(key: Tensor, a: float | Tensor, dims: tuple[int, ...]) -> Tensor:
    """The logarithms of draws from Gamma(a): those of Gamma(a + 1) times U^(1 / a)."""
    # In float64: whether a proposal is accepted must not depend on how a compiled program rounds.
    proposed, tested, power = split(key, 3)
    d: float | Tensor = a[..., None] + 2 / 3 if isinstance(a, Tensor) else a + 2 / 3
    z = normal(proposed, (*dims, _PROPOSALS), torch.float64)
    v = (1 + z / (9 * d) ** 0.5) ** 3
    log_v = torch.log(v.clamp(min=1e-300))
    accepted = (v > 0) & (torch.log1p(-uniform(tested, (*dims, _PROPOSALS), torch.float64)) < z**2 / 2 + d * (1 - v + log_v))
    accepted = accepted | (torch.arange(_PROPOSALS, device=key.device) == _PROPOSALS - 1)
    first = accepted & (accepted.cumsum(-1) == 1)
    scale = torch.log(d) if isinstance(d, Tensor) else math.log(d)
    return torch.where(first, scale + log_v, 0).sum(-1) + torch.log1p(-uniform(power, dims, torch.float64)) / a
