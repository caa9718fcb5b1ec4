"""A warning for what is easily forgotten: without a batch size a whole experience is one minibatch, one step of the optimiser."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from cl_func import user_warnings
from cl_func.core.nodes import Wrapper, in_order
from cl_func.core.steps import TrainStep
from cl_func.experiences import Experience

ROWS = 1000  # of an experience from which on one step is hardly meant
ONLINE = 100  # experiences: a stream of more consists of minibatches, however large


def warn_single_step(update: Any, exp: Any, n: int) -> None:
    """Warn if an experience of many rows, the first of a stream of n, is to be a single step."""
    if n > ONLINE or not isinstance(exp, Experience) or len(exp) < ROWS:
        return
    if any(isinstance(part, TrainStep) for whole in in_order(update) for part in _parts(whole)):
        user_warnings.warn(
            f"batch_size: without it each experience is one minibatch, so that the {len(exp):,} rows of the first one are a single "
            "step of the optimiser; give a batch_size, such as 32, or iterate with epochs=."
        )


def _parts(update: Any) -> Iterator[Any]:
    """An update and what it was made of."""
    yield update
    inner: tuple[Any, ...] = ()
    if isinstance(update, Wrapper):
        inner = (update.inner,)
    elif isinstance(update, functools.partial):
        inner = (*update.args, *update.keywords.values())
    for part in inner:
        yield from _parts(part)
