"""How large the weights are, and the gradient.

    weight norm         ||w||_2
    weight magnitude    the mean of |w|
    gradient norm       ||grad_w loss(w)||_2, on rows

with w all parameters. Dohare et al., "Loss of plasticity in deep continual learning", Nature 2024, report the weight magnitude.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, signatures, tree
from cl_func.core import Loss, Probe
from cl_func.core.steps import unchecked_gradient
from cl_func.experiences import Experience
from cl_func.probes.rows import OnRows, apart, on_rows
from cl_func.tree import PyTree

_KEY = 0x6E6F726D  # of what a loss draws in `gradient_norm`


def joint_norm(values: PyTree) -> Tensor:
    """The L2 norm () of all values of a tree together, float32 or wider."""
    norms = [torch.linalg.vector_norm(v, dtype=torch.promote_types(v.dtype, torch.float32)) for v in tree.leaves(values)]
    return torch.linalg.vector_norm(torch.stack(norms))


def weight_norm() -> Probe:
    """The Probe of the size of the parameters: "weight_norm" (), their joint L2 norm, and "weight_magnitude" (), the mean size."""
    return _weights


def _weights(state: Any, exp: Any = None) -> dict[str, Tensor]:
    params = tree.leaves(checks.params(state))
    total = torch.stack([p.abs().sum(dtype=torch.promote_types(p.dtype, torch.float32)) for p in params]).sum()
    return {"weight_norm": joint_norm(params), "weight_magnitude": total / sum(p.numel() for p in params)}


def gradient_norm(loss: Loss, exp: Experience | None = None, *, n: int | None = None) -> OnRows:
    """The Probe of the joint L2 norm of the gradient of a loss with respect to the model's parameters: "gradient_norm" ().

    loss: a Loss `(params, state, exp) -> (scalar, state)`. What it does to the state is dropped, and what it draws, it draws from
        keys that no update uses.
    exp: the rows to measure on, as one batch; None for those of the experience trained on last. n: only the first so many.

    `cl.trace.grad_norm` has the norms of the minibatches, as the run takes them.
    Raises TypeError or ValueError for other arguments.
    """
    signatures.loss("loss", loss)
    return on_rows(partial(_gradient, loss=loss), exp, n)


def _gradient(state: Any, exp: Experience, *, loss: Loss) -> dict[str, Tensor]:
    return {"gradient_norm": joint_norm(unchecked_gradient(loss, apart(state, _KEY), exp)[0])}
