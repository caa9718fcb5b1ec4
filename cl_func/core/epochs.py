"""Minibatches: an Update on a minibatch becomes an Update on an experience, for a number of epochs or of iterations."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, contracts, random, signatures, tree, user_warnings
from cl_func.checks import positive_int
from cl_func.core import looping
from cl_func.core.kinds import S, Update
from cl_func.core.looping import Slices
from cl_func.core.nodes import Combinator, Order, Wrapper, calls
from cl_func.experiences import Experience
from cl_func.torch_private import is_eager_cpu
from cl_func.tree import state, static


@dataclasses.dataclass(frozen=True)
class SkipEmpty(Wrapper):
    """An Update that does nothing on a minibatch without a valid row: every counter and key stays as it was.

    In minibatches of minibatches it also wraps the function that draws the order of the inner ones, which returns rows with the
    state: the state is kept, and any rows will do.
    """

    def __call__(self, state: Any, exp: Experience) -> Any:
        any_valid = exp.valid.any()
        if is_eager_cpu(any_valid):
            return self.inner(state, exp) if any_valid else state
        out = self.inner(state, exp)
        if contracts.has_rows(out, state):
            return tree.where(any_valid, out[0], state), out[1]
        return tree.where(any_valid, contracts.update_output(out, state, leaves=True), state)


def batches_per_epoch(n: int, batch_size: int, drop_last: bool) -> int:
    """How many minibatches make one pass over n rows; ValueError if there are none."""
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
    """The state, and the rows of one pass, [n] int64, a multiple of the batch size, with their validity [n] bool, padding last.

    Each position draws its own random word, so padding at the end does not change the order of the other rows. With `wrap` the
    last minibatch is filled up with rows from the start of the pass, otherwise with padding.
    """
    rows, valid = exp.rows, exp.valid
    n = batches_per_epoch(len(exp), batch_size, drop_last) * batch_size
    words = torch.arange(len(exp), device=rows.device)
    if shuffle:
        try:
            key, draw_key = random.split(agent.key)
        except AttributeError:
            raise checks.no_agent("state", agent, "key") from None
        words = random.bits(draw_key, len(exp)) >> 1
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

    step: Update
    order: Order | None  # draws the rows of a pass; None: as they are
    view: Order | None = None  # the rows to iterate over, if not the experience's own
    batch_size: int | None = static()
    epochs: int = static()
    iterations: int | None = static()
    drop_last: bool = static()
    min_steps: int = static(default=1)  # on an experience; with fewer the method does nothing

    child_fields = ("step",)

    def calls(self, n: int) -> int:
        size, per_epoch, total = self._counts(n)
        return total * calls(self.step, size) + (-(-total // per_epoch) if self.order is not None else 0)

    def _counts(self, n: int) -> tuple[int, int, int]:
        """For n rows: the rows of a minibatch, the minibatches of an epoch, and all minibatches."""
        size = self.batch_size or n
        per_epoch = batches_per_epoch(n, size, self.drop_last)
        return size, per_epoch, self.iterations or self.epochs * per_epoch

    @property
    def orders(self) -> tuple[Order, ...]:
        return () if self.order is None else (self.order,)

    def reordered(self, orders: tuple[Order, ...]) -> Minibatches:
        return tree.replace(self, order=orders[0]) if orders else self

    def simplified(self) -> Update:
        """Its step alone, if that is called just once, on the experience itself."""
        single = self.order is None and self.view is None and (self.iterations or self.epochs) == 1
        return self.step if single else self

    def __call__(self, state: Any, exp: Experience) -> Any:
        checks.instance("exp", exp, Experience, "an Experience")
        if self.view is not None:
            state, (rows, valid) = _state_and_rows(self.view(state, exp), exp)
            exp = exp.take(rows, valid)
        size, per_epoch, total = self._counts(len(exp))
        if total < self.min_steps:
            user_warnings.warn(
                f"batch_size: {self.batch_size} makes one step of the {len(exp)} rows of an experience, taken where the parameters "
                "still are those that they are held to: the method does nothing there. Give a smaller batch_size, or more epochs."
            )
        rows, valid = exp.rows, exp.valid
        on_disk = exp.source is not None and exp.source.on_disk
        i = 0
        while i < total:
            start = i % per_epoch * size
            if start == 0 and self.order is not None:
                state, (rows, valid) = _state_and_rows(self.order(state, exp), exp)
            if on_disk and i + 1 < total and start + size < rows.shape[-1]:  # while this minibatch is trained on
                exp.source.read_ahead(rows[..., start + size : start + 2 * size])
            count = min(per_epoch - i % per_epoch, total - i)
            done = 0 if on_disk or count < 2 else looping.taken(self.step, state, Slices(exp, rows, valid, start, size, count))
            if done == 0:
                batch = exp.take(rows[..., start : start + size], valid[..., start : start + size])
                state = contracts.update_output(self.step(state, batch), state)
                done = 1
            i += done
        return state


def _state_and_rows(out: Any, exp: Experience) -> tuple[Any, tuple[Tensor, Tensor]]:
    """The output of an Order; one that `SkipEmpty` has skipped gives the state alone, and then any rows will do."""
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
    epochs: passes over the experience, each in a new order drawn from `state.key`; the last minibatch of a pass is padded to
        `batch_size` with rows that are not valid, or left out with `drop_last`.
    iterations: take this many minibatches instead, in as many passes as they need. All are full: the last one of a pass is filled
        up from the start of that pass. (The length of a pass counts all rows, so padding of a minibatch or more makes it longer;
        each valid row is still drawn equally often. Lanes whose experiences differ in length are padded, so that there a lane may
        have other passes than its single run; `cl.sweep` makes such runs one by one.)
    A minibatch without a valid row changes nothing.
    """
    signatures.update("step", step)
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
