r"""Hidden units that have stopped contributing.

Unit i of layer l has the score (Sokar, Agarwal, Castro & Evci, "The dormant neuron phenomenon in deep reinforcement learning", ICML
2023, definition 3.1)

    s_i^l = E_x |h_i^l(x)| / (1/H^l sum_k E_x |h_k^l(x)|)

and is tau-dormant if s_i^l <= tau. It is dead if h_i^l(x) = 0 for all x, as a ReLU whose inputs are all negative, from which no
gradient comes back (Dohare et al., "Loss of plasticity in deep continual learning", Nature 2024); so the dead units are those that
are 0-dormant. In a layer of nothing but zeros all units are dormant.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks
from cl_func.experiences import Experience
from cl_func.models import Model
from cl_func.models.activations import activity
from cl_func.probes.rows import OnRows, mean_over_rows, on_rows


def dormant_units(model: Model, exp: Experience | None = None, *, threshold: float = 0.1, n: int | None = None) -> OnRows:
    """The Probe of the fraction of hidden units that are dormant.

    It returns "dormant_units" (), of all hidden units, and "dormant_units_by_layer" [L], of those of each layer, float32, the L
    layers in the order in which they run, as in `cl.models.activations`. They are NaN where no row is valid. Of a unit at several
    positions, as of a convolution, E_x is over the positions too.

    exp: the rows to measure on, which the model is given at once; None for those of the experience trained on last.
    n: only the first so many of its rows.
    threshold: tau >= 0, the share of the layer's mean activity up to which a unit is dormant.

    Raises TypeError or ValueError for other arguments; when applied, ValueError for a model without activation functions.
    """
    checks.model("model", model)
    tau = checks.number("threshold", threshold, 0, ends="[)")
    return on_rows(partial(_dormant, model=model, threshold=tau, name="dormant_units"), exp, n)


def dead_units(model: Model, exp: Experience | None = None, *, n: int | None = None) -> OnRows:
    """The Probe of the fraction of hidden units that are 0 on all rows: "dead_units" () and "dead_units_by_layer" [L], float32.

    Arguments and errors are those of `dormant_units`; only activation functions with an exact 0, such as ReLU, have dead units.
    """
    checks.model("model", model)
    return on_rows(partial(_dormant, model=model, threshold=0.0, name="dead_units"), exp, n)


def _dormant(state: Any, exp: Experience, *, model: Model, threshold: float, name: str) -> dict[str, Tensor]:
    dormant = []
    for h in activity(model, state.model, exp).values():
        size = mean_over_rows(h.float(), exp.valid)
        # Not a quotient, which a layer of zeros has none of; a NaN, of no valid row, stays one.
        dormant.append(torch.where(size.isnan(), size, (size <= threshold * size.mean()).float()))
    return {name: torch.cat(dormant).mean(), f"{name}_by_layer": torch.stack([layer.mean() for layer in dormant])}
