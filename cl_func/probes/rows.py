"""A Probe on rows: those of an experience that it has, or of the one that was trained on last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, random, tree
from cl_func.checks import positive_int
from cl_func.experiences import Experience
from cl_func.models import keyed
from cl_func.tree import state, static


@state
class OnRows:
    """The Probe made by the functions of `cl.probes` that measure on rows."""

    measure: Callable[[Any, Experience], dict[str, Tensor]]  # the leaf
    exp: Experience | None = static()
    n: int | None = static()

    def __call__(self, state: Any, exp: Any = None) -> dict[str, Tensor]:
        """What is measured of a state; `exp`, the experience just trained on, gives the rows where the probe has none."""
        on = exp if self.exp is None else self.exp
        if on is None:
            raise ValueError("exp: the probe has no rows to measure on; give it some, exp=benchmark.test[0], or call it with some.")
        checks.instance("exp", on, Experience, "an Experience")
        if self.n is not None:
            on = on.take(on.rows[..., : self.n], on.valid[..., : self.n])
        return self.measure(state, on)


def on_rows(measure: Callable[[Any, Experience], dict[str, Tensor]], exp: Any, n: Any) -> OnRows:
    """The Probe of a function (state, exp) -> {name: tensor}. Raises TypeError or ValueError for other rows than those of an
    experience, and for an n below 1.
    """
    if exp is not None:
        checks.instance("exp", exp, Experience, "None or an Experience such as benchmark.test[0]")
    if n is not None:
        positive_int("n", n)
    return OnRows(measure=measure, exp=exp, n=n)


def apart(state: Any, number: int) -> Any:
    """The state with keys of a probe's own, so that what a loss draws in it is not what the next update draws."""
    found = getattr(state, "key", None)
    if not isinstance(found, Tensor):
        raise checks.no_agent("state", state, "key")
    return tree.replace(state, key=random.fold_in(found, number), model=keyed.aside(state.model, number))


def mean_over_rows(values: Tensor, valid: Tensor) -> Tensor:
    """The mean [units] of values [n, units] over the valid rows; NaN where there is none."""
    return torch.where(valid[:, None], values, 0).sum(0) / valid.sum()
