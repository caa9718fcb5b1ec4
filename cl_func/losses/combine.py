"""Losses made of losses: sums, multiples, and a loss on a minibatch joined by replayed rows or on those rows alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from cl_func import checks, random, tree
from cl_func.checks import positive_int
from cl_func.core import Loss, resolve
from cl_func.experiences import Experience
from cl_func.memory import draws, replay


def total(*losses: Loss) -> Loss:
    """The sum of several losses; the state is threaded from left to right."""
    if not losses:
        raise TypeError("losses: expected at least one loss function, got none.")
    for one in losses:
        checks.function("losses", one, "loss functions (params, state, exp) -> (scalar, state)")

    def loss(params: Any, state: Any, exp: Experience) -> tuple[Tensor, Any]:
        value, state = losses[0](params, state, exp)
        for term in losses[1:]:
            more, state = term(params, state, exp)
            value = value + more
        return value, state

    return loss


def scaled(loss: Loss, by: float | str) -> Loss:
    """A multiple of a loss. `by` is a fixed number, or the path of a leaf of the state such as "ewc.strength"."""
    checks.function("loss", loss, "a loss function")
    by = checks.number_or_path("by", by, "ewc.strength")

    def scaled_loss(params: Any, state: Any, exp: Experience) -> tuple[Tensor, Any]:
        factor = resolve(state, by)
        value, state = loss(params, state, exp)
        return factor * value, state

    return scaled_loss


def with_replay(loss: Loss, n: int, slot: str = "replay", draw: Callable[..., Any] = draws.uniform) -> Loss:
    """The loss on the minibatch joined by n rows drawn from the memory in `state.<slot>`: one mean over all valid rows.

    Experience replay (Chaudhry et al. 2019, "On tiny episodic memories in continual learning"). `draw(memory, key, n)` returns
    (rows, valid); rows need x, y and task. While the memory is empty this is the loss on the minibatch alone.
    """
    return _drawn(loss, n, slot, draw, replay.join)


def replayed(loss: Loss, n: int, slot: str = "replay", draw: Callable[..., Any] = draws.uniform) -> Loss:
    """The loss on n rows drawn from the memory in `state.<slot>` and on nothing else, with a weight of its own in a `total`.

    `draw` as for `with_replay`. While the memory is empty no row is valid.
    """
    return _drawn(loss, n, slot, draw, replay.recalled)


def _drawn(loss: Loss, n: int, slot: str, draw: Callable[..., Any], combine: Callable[..., Experience]) -> Loss:
    """The loss on what the minibatch and n drawn rows become together: `combine(exp, rows, valid)`."""
    positive_int("n", n)
    checks.function("loss", loss, "a loss function")
    checks.path("slot", slot, "replay")
    checks.function("draw", draw, "a function draw(memory, key, n)")

    def replayed_loss(params: Any, state: Any, exp: Experience) -> tuple[Tensor, Any]:
        key, draw_key = random.split(state.key)
        rows, valid = draw(tree.get(state, slot), draw_key, n)
        return loss(params, state.replace(key=key), combine(exp, rows, valid))

    return replayed_loss
