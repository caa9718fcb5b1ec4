"""Losses made of losses: sums, multiples, and a loss on a minibatch joined by replayed rows or on those rows alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from cl_func import checks, random, signatures, tree
from cl_func.checks import positive_int
from cl_func.core import Loss, resolve
from cl_func.experiences import Experience
from cl_func.memory import draws, replay
from cl_func.memory.kinds import Draw
from cl_func.tree import PyTree

Combine = Callable[[Experience, dict[str, Tensor], Tensor], Experience]  # (exp, rows, valid) -> what the loss is given


def total(*losses: Loss) -> Loss:
    """The sum of several losses; the state is threaded from left to right."""
    if not losses:
        raise TypeError("losses: expected at least one loss function, got none.")
    for one in losses:
        signatures.loss("losses", one)
    return partial(_total, losses=losses)


def _total(params: PyTree, state: Any, exp: Experience, *, losses: tuple[Loss, ...]) -> tuple[Tensor, Any]:
    total, state = losses[0](params, state, exp)
    for loss in losses[1:]:
        value, state = loss(params, state, exp)
        total = total + value
    return total, state


def scaled(loss: Loss, by: float | str) -> Loss:
    """A multiple of a loss. `by` is a fixed number, or the path of a leaf of the state such as "ewc.strength"."""
    signatures.loss("loss", loss)
    by = checks.number_or_path("by", by, "ewc.strength")
    return partial(_scaled, loss=loss, by=by)


def _scaled(params: PyTree, state: Any, exp: Experience, *, loss: Loss, by: float | str) -> tuple[Tensor, Any]:
    factor = resolve(state, by)
    value, state = loss(params, state, exp)
    return factor * value, state


def with_replay(loss: Loss, n: int, slot: str = "replay", draw: Draw = draws.uniform) -> Loss:
    """The loss on the minibatch joined by n rows drawn from the memory in `state.<slot>`: one mean over all valid rows.

    Experience replay (Chaudhry et al. 2019, "On tiny episodic memories in continual learning"). `draw(memory, key, n)` returns
    (rows, valid); rows need x, y and task. While the memory is empty this is the loss on the minibatch alone.
    """
    return _on_drawn_rows(loss, n, slot, draw, replay.join)


def replayed(loss: Loss, n: int, slot: str = "replay", draw: Draw = draws.uniform) -> Loss:
    """The loss on n rows drawn from the memory in `state.<slot>` alone, for instance to give it a weight of its own in a `total`.

    `draw` as for `with_replay`. While the memory is empty no row is valid.
    """
    return _on_drawn_rows(loss, n, slot, draw, replay.recalled)


def _on_drawn_rows(loss: Loss, n: int, slot: str, draw: Draw, combine: Combine) -> Loss:
    positive_int("n", n)
    signatures.loss("loss", loss)
    checks.path("slot", slot, "replay")
    signatures.function("draw", draw, 3, "a function draw(memory, key, n)")
    return partial(_loss_on_drawn_rows, loss=loss, n=n, slot=slot, draw=draw, combine=combine)


def _loss_on_drawn_rows(
    params: PyTree, state: Any, exp: Experience, *, loss: Loss, n: int, slot: str, draw: Draw, combine: Combine
) -> tuple[Tensor, Any]:
    key, draw_key = random.split(state.key)
    rows, valid = draw(tree.get(state, slot), draw_key, n)
    return loss(params, state.replace(key=key), combine(exp, rows, valid))
