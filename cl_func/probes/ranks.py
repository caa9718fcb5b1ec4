r"""How many directions the hidden activations span: ranks of the matrix H [n, units] of a layer, by its singular values s.

    effective rank    exp(-sum_k p_k log p_k),   p_k = s_k / sum_j s_j
    stable rank       ||H||_F^2 / ||H||_2^2 = sum_k s_k^2 / s_1^2

(Roy & Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007; Rudelson & Vershynin, "Sampling from
large matrices: an approach through geometric functional analysis", JACM 2007.)

Both lie between 1 and the rank, which they are for equal singular values, and change with the values continuously, as the rank does
not. The rows are not centred, as in Dohare et al. (Nature 2024); of zeros both are 0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks
from cl_func.experiences import Experience
from cl_func.models import Model, activations
from cl_func.probes.rows import OnRows, on_rows


def effective_rank(model: Model, exp: Experience | None = None, *, n: int | None = None) -> OnRows:
    """The Probe of the effective rank of the hidden activations.

    It returns "effective_rank" (), that of the last hidden layer, from which the outputs are computed, and
    "effective_rank_by_layer" [L], of all of them in the order in which they run, as in `cl.models.activations`; float32.

    exp: the rows to measure on, which the model is given at once; None for those of the experience trained on last. A rank is at
        most the number of rows, so compare those of equally many. n: only the first so many of its rows.

    Raises TypeError or ValueError for other arguments; when applied, ValueError for a model without activation functions.
    """
    checks.model("model", model)
    return on_rows(partial(_ranks, model=model, of=_effective, name="effective_rank"), exp, n)


def stable_rank(model: Model, exp: Experience | None = None, *, n: int | None = None) -> OnRows:
    """The Probe of the stable rank of the hidden activations: "stable_rank" () and "stable_rank_by_layer" [L], float32.

    Arguments and errors are those of `effective_rank`.
    """
    checks.model("model", model)
    return on_rows(partial(_ranks, model=model, of=_stable, name="stable_rank"), exp, n)


def _ranks(state: Any, exp: Experience, *, model: Model, of: Callable[[Tensor], Tensor], name: str) -> dict[str, Tensor]:
    found = []
    for h in activations(model, state.model, exp).values():
        # A row of zeros, in place of one that is not valid, leaves the singular values as they are.
        found.append(of(torch.linalg.svdvals(torch.where(exp.valid[:, None], h, 0).float())))
    return {name: found[-1], f"{name}_by_layer": torch.stack(found)}


def _effective(values: Tensor) -> Tensor:
    total = values.sum()
    p = values / torch.where(total > 0, total, 1)
    return torch.where(total > 0, torch.exp(-torch.special.xlogy(p, p).sum()), 0)


def _stable(values: Tensor) -> Tensor:
    # Relative to the largest, so that no square overflows or vanishes.
    largest = values.max()
    return (values / torch.where(largest > 0, largest, 1)).square().sum()
