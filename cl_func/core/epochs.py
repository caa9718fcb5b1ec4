"""Minibatches: an Update on a minibatch as an Update on an experience, over epochs or for so many iterations."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, contracts, random, tree
from cl_func.checks import positive_int
from cl_func.core.kinds import S, Update
from cl_func.core.nodes import Combinator, Wrapper, calls
from cl_func.experiences import Experience
from cl_func.tree import state, static


@dataclasses.dataclass(frozen=True)
class SkipEmpty(Wrapper):
    """An Update that a minibatch without a valid row leaves undone, to the last counter and key.

    In minibatches of minibatches also the order of the inner ones, which comes with the state: its rows are taken as they come.
    """

    def __call__(self, state: Any, exp: Experience) -> Any:
        some = exp.valid.any()
        if tree._is_eager_cpu(some):
            return self.inner(state, exp) if some else state
        out = self.inner(state, exp)
        if contracts.has_rows(out, state):
            return tree.where(some, out[0], state), out[1]
        return tree.where(some, contracts.update_output(out, state, leaves=True), state)


def batches_per_epoch(n: int, batch_size: int, drop_last: bool) -> int:
    """How many minibatches a pass over n rows takes; ValueError for none."""
    count = n // batch_size if drop_last else -(-n // batch_size)
    if count == 0:
        raise ValueError(
            f"batch_size: {batch_size} is more than the {n} rows of the experience, and drop_last=True drops the only minibatch; "
            "choose a smaller batch_size or drop_last=False."
        )
    return count


def epoch_order(
    agent: Any, exp: Experience, *, batch_size: int, drop_last: bool, shuffle: bool, wrap: bool
) -> tuple[Any, tuple[Tensor, Tensor]]:
    """The rows of one pass, whole minibatches [n] int64, and which of them are valid [n] bool, padding last.

    Each position draws its own word, so appended padding does not change the order of the others. With `wrap` a pass is filled up
    from its own start, otherwise with padding.
    """
    rows, valid = exp.rows, exp.valid
    n = batches_per_epoch(len(exp), batch_size, drop_last) * batch_size
    words = torch.arange(len(exp), device=rows.device)
    if shuffle:
        try:
            key, draw = random.split(agent.key)
        except AttributeError:
            raise checks.no_agent("state", agent, "key") from None
        words = random.bits(draw, len(exp)) >> 1
        agent = agent.replace(key=key)
    last = torch.iinfo(torch.int64).max
    order = torch.argsort(torch.where(valid, words, last), stable=True)
    position = torch.arange(n, device=rows.device)
    if wrap:
        position = position % valid.sum().clamp(min=1)
        return agent, (rows[order[position]], valid[order[position]])
    inside = position < len(exp)
    position = position.clamp(max=len(exp) - 1)
    return agent, (rows[order[position]], valid[order[position]] & inside)


@state
class Minibatches(Combinator):
    """An Update on minibatches as an Update on an experience; made by `minibatches`."""

    step: Any
    order: Any
    view: Any = None  # (state, exp) -> (state, (rows, valid)): rows to go over instead of the experience's own
    batch_size: int | None = static()
    epochs: int = static()
    iterations: int | None = static()
    drop_last: bool = static()

    child_fields = ("step",)

    def calls(self, n: int) -> int:
        size, per_pass, total = self._rounds(n)
        return total * calls(self.step, size) + (-(-total // per_pass) if self.order is not None else 0)

    def _rounds(self, n: int) -> tuple[int, int, int]:
        """Of n rows: how many a minibatch has, how many minibatches a pass has, and how many there are in all."""
        size = self.batch_size or n
        per_pass = batches_per_epoch(n, size, self.drop_last)
        return size, per_pass, self.iterations or self.epochs * per_pass

    @property
    def orders(self) -> tuple[Any, ...]:
        return () if self.order is None else (self.order,)

    def reordered(self, orders: tuple[Any, ...]) -> Minibatches:
        return tree.replace(self, order=orders[0]) if orders else self

    def simplified(self) -> Update:
        """Its step, if that is all there is to it: the experience as it is, one time."""
        alone = self.order is None and self.view is None and (self.iterations or self.epochs) == 1
        return self.step if alone else self

    def __call__(self, state: Any, exp: Experience) -> Any:
        checks.instance("exp", exp, Experience, "an Experience")
        if self.view is not None:
            state, (rows, valid) = _picked(self.view(state, exp), exp)
            exp = exp.take(rows, valid)
        size, per_pass, total = self._rounds(len(exp))
        rows, valid = exp.rows, exp.valid
        for i in range(total):
            start = i % per_pass * size
            if start == 0 and self.order is not None:
                state, (rows, valid) = _picked(self.order(state, exp), exp)
            taken = exp.take(rows[..., start : start + size], valid[..., start : start + size])
            state = contracts.update_output(self.step(state, taken), state)
        return state


def _picked(out: Any, exp: Experience) -> tuple[Any, tuple[Tensor, Tensor]]:
    """The state and the rows to go over; where none is valid a gated order was left undone, and any will do."""
    return out if type(out) is tuple else (out, (exp.rows, exp.valid))


def minibatches(
    step: Callable[[S, Experience], S],
    *,
    batch_size: int | None,
    epochs: int = 1,
    iterations: int | None = None,
    shuffle: bool = True,
    drop_last: bool = False,
) -> Callable[[S, Experience], S]:
    """Turn an Update on a minibatch into an Update on an experience.

    batch_size: rows per minibatch; None takes the whole experience as one minibatch, in order (online streams).
    epochs: passes over the experience, each in a new order (drawn from `state.key`); the last minibatch of a pass is padded to
        `batch_size` with rows that are not valid, or left out with `drop_last`.
    iterations: take this many minibatches instead, over as many passes as that needs; they are always full: a pass that does not
        divide is filled up from its own start. (Passes are counted over all rows, so padding of a minibatch or more makes them
        longer; each row is still drawn equally often.)
    A minibatch without a valid row changes nothing at all.
    """
    checks.function("step", step)
    if batch_size is not None:
        positive_int("batch_size", batch_size)
    positive_int("epochs", epochs)
    checks.flag("shuffle", shuffle)
    checks.flag("drop_last", drop_last)
    if iterations is not None:
        positive_int("iterations", iterations)
        if epochs != 1:
            raise ValueError(f"epochs, iterations: give one of them, got epochs={epochs} and iterations={iterations}.")
    order = None
    if batch_size is not None:
        wrap = iterations is not None
        order = functools.partial(epoch_order, batch_size=batch_size, drop_last=drop_last, shuffle=shuffle, wrap=wrap)
    return Minibatches(
        step=tree.map(SkipEmpty, step),
        order=order,
        batch_size=batch_size,
        epochs=epochs,
        iterations=iterations,
        drop_last=drop_last,
    )
