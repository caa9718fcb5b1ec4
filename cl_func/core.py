"""Updates and how they compose: `(state, exp) -> state`, folded over minibatches, over experiences, over anything in order.

Four kinds of pure functions make a method:
    Update             (state, exp) -> state
    Loss               (params, state, exp) -> (scalar, state)
    GradientTransform  (grads, state, exp) -> (grads, state)
    Probe              (state, exp) -> tree of tensors

`compose`, `minibatches`, `repeat` and `at` return small pytree nodes whose leaves are functions, so a transformation such as
`cl.vmap` or `cl.compile` maps over the leaves and leaves the Python loops between them as they are. Whatever runs outside
the leaves therefore sees states with or without a lane axis and indexes only from the right (`rows[..., i:j]`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from cl_func import checks, contracts, random, tree
from cl_func.checks import positive
from cl_func.experience import Experience
from cl_func.tree import PyTree, state, static

Update = Callable[[Any, Any], Any]
Loss = Callable[[Any, Any, Any], tuple[Tensor, Any]]
GradientTransform = Callable[[Any, Any, Any], tuple[Any, Any]]
Probe = Callable[[Any, Any], Any]


class Optimizer(Protocol):
    """Anything with `init(params) -> state` and `update(grads, state, params) -> (updates, state)`; updates are added to params."""

    def init(self, params: PyTree, /) -> PyTree: ...

    def update(self, grads: PyTree, state: PyTree, params: PyTree, /) -> tuple[PyTree, PyTree]: ...


@state
class Agent:
    """The base of all agent states; a method adds its own fields: `@cl.state class ER(cl.Agent): replay: Reservoir`.

    Fields may be None until `maybe_init` has filled them.
    """

    key: Tensor  # () int64, split by whatever draws
    model: PyTree = None  # ModelState: params and buffers, both dicts of tensors
    opt: PyTree = None  # the optimiser's state; hyperparameters are leaves, such as opt.lr


@state(kw_only=False)
class Strategy:
    """A continual-learning method: `init(key) -> state` and `update(state, exp) -> state` on one experience.

    `model` is optional, what `cl.evaluate` takes: the Model, or for a method with a classifier of its own a function `(state, exp)
    -> logits [n, C]`. With it a sweep knows what to evaluate when no probe is given. Raises TypeError for other things.
    """

    init: Any
    update: Any
    model: Any = static(default=None)

    def __post_init__(self) -> None:
        checks.function("init", self.init)
        checks.function("update", self.update)
        if self.model is not None:
            checks.model_or_function("model", self.model)


def number(agent: Any, value: float | str) -> Any:
    """A hyperparameter: a number stands for itself, a path such as "lwf.strength" for that leaf of the state."""
    return tree.get(agent, value) if isinstance(value, str) else value


@state
class Compose:
    """Several Updates from left to right; made by `compose`."""

    updates: tuple[Any, ...]

    def __call__(self, state: Any, exp: Any) -> Any:
        for update in self.updates:
            state = contracts.update_output(update(state, exp), state)
        return state


def compose(*updates: Update) -> Any:
    """One Update that applies several from left to right to the same experience.

    >>> double = compose(lambda s, e: s + e, lambda s, e: s + e)
    >>> double(1, 10)
    21
    """
    if not updates:
        raise TypeError("updates: expected at least one Update, got none.")
    return Compose(updates=tuple(checks.function("updates", u) for u in updates))


@state
class Repeat:
    """An Update several times; made by `repeat`."""

    update: Any
    times: int = static()

    def __call__(self, state: Any, exp: Any) -> Any:
        for _ in range(self.times):
            state = contracts.update_output(self.update(state, exp), state)
        return state


def repeat(update: Update, times: int) -> Any:
    """Apply an Update several times to the same experience."""
    return Repeat(update=checks.function("update", update), times=positive("times", times))


@state
class At:
    """An Update on a slot; made by `at`."""

    update: Any
    slot: str = static()

    def __call__(self, state: Any, exp: Any) -> Any:
        return tree.set(state, {self.slot: self.update(tree.get(state, self.slot), exp)})


def at(slot: str, update: Update) -> Any:
    """Lift an Update on one slot, `(state.slot, exp) -> state.slot`, to the whole agent. The slot is a path."""
    return At(update=checks.function("update", update), slot=checks.path("slot", slot, "replay"))


def when(condition: Callable[[Any, Any], Tensor], update: Update) -> Update:
    """Apply an Update only where `condition(state, exp)` (() bool) holds.

    Vmapped or compiled, both outcomes are computed and one is selected, so that lanes may differ; meant for cheap updates such as a
    snapshot. It is a single leaf: a transformation sees it as one function.
    """
    checks.function("condition", condition)
    checks.function("update", update)

    def conditional(state: Any, exp: Any) -> Any:
        chosen = condition(state, exp)
        if not isinstance(chosen, bool):
            if not isinstance(chosen, Tensor) or chosen.dtype != torch.bool or chosen.ndim:
                raise checks.refuse("condition", "it to give one bool, a tensor bool[] such as mask.any()", chosen)
            if not tree.plain(chosen):
                return tree.where(chosen, contracts.update_output(update(state, exp), state, leaves=True), state)
        return contracts.update_output(update(state, exp), state) if chosen else state

    return conditional


@dataclasses.dataclass(frozen=True)
class Gated:
    """An Update that a minibatch without a valid row leaves undone, to the last counter and key.

    In minibatches of minibatches also the order of the inner ones, which comes with the state: its rows are taken as they come.
    """

    inner: Update

    def __call__(self, state: Any, exp: Experience) -> Any:
        some = exp.valid.any()
        if tree.plain(some):
            return self.inner(state, exp) if some else state
        out = self.inner(state, exp)
        if type(out) is tuple and len(out) == 2 and type(out[0]) is type(state):
            return tree.where(some, out[0], state), out[1]
        return tree.where(some, contracts.update_output(out, state, leaves=True), state)


def _per_pass(n: int, batch_size: int, drop_last: bool) -> int:
    count = n // batch_size if drop_last else -(-n // batch_size)
    if count == 0:
        raise ValueError(
            f"batch_size: {batch_size} is more than the {n} rows of the experience, and drop_last=True drops the only minibatch; "
            "choose a smaller batch_size or drop_last=False."
        )
    return count


def _order(
    agent: Any, exp: Experience, *, batch_size: int, drop_last: bool, shuffle: bool, wrap: bool
) -> tuple[Any, tuple[Tensor, Tensor]]:
    """The rows of one pass, whole minibatches [n] int64, and which of them are valid [n] bool, padding last.

    Each position draws its own word, so appended padding does not change the order of the others. With `wrap` a pass is filled up
    from its own start, otherwise with padding.
    """
    rows, valid = exp.rows, exp.valid
    n = _per_pass(len(exp), batch_size, drop_last) * batch_size
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
class Minibatches:
    """An Update on minibatches as an Update on an experience; made by `minibatches`."""

    step: Any
    order: Any
    view: Any = None  # (state, exp) -> (state, (rows, valid)): rows to go over instead of the experience's own
    batch_size: int | None = static()
    epochs: int = static()
    iterations: int | None = static()
    drop_last: bool = static()

    @property
    def once(self) -> bool:
        """Whether it is no more than its step: the experience as it is, one time."""
        return self.order is None and self.view is None and (self.iterations or self.epochs) == 1

    def __call__(self, state: Any, exp: Experience) -> Any:
        checks.instance("exp", exp, Experience, "an Experience")
        if self.view is not None:
            state, (rows, valid) = _picked(self.view(state, exp), exp)
            exp = exp.take(rows, valid)
        size = self.batch_size or len(exp)
        per_pass = _per_pass(len(exp), size, self.drop_last)
        total = self.iterations or self.epochs * per_pass
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
    step: Update,
    *,
    batch_size: int | None,
    epochs: int = 1,
    iterations: int | None = None,
    shuffle: bool = True,
    drop_last: bool = False,
) -> Any:
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
        positive("batch_size", batch_size)
    positive("epochs", epochs)
    checks.flag("shuffle", shuffle)
    checks.flag("drop_last", drop_last)
    if iterations is not None:
        positive("iterations", iterations)
        if epochs != 1:
            raise ValueError(f"epochs, iterations: give one of them, got epochs={epochs} and iterations={iterations}.")
    order = None
    if batch_size is not None:
        order = functools.partial(_order, batch_size=batch_size, drop_last=drop_last, shuffle=shuffle, wrap=iterations is not None)
    return Minibatches(
        step=tree.map(Gated, step), order=order, batch_size=batch_size, epochs=epochs, iterations=iterations, drop_last=drop_last
    )


def gradient(loss: Loss, state: Any, exp: Any) -> tuple[Any, Any]:
    """The gradient of a Loss by the parameters `state.model.params`, in their structure, and the state that the loss returns."""
    checks.function("loss", loss)
    try:
        params = state.model.params
    except AttributeError:
        raise checks.no_agent("state", state, "model") from None
    leaves, structure = tree.flatten(params)
    try:
        outside = any(leaf.requires_grad for leaf in tree.leaves((state, exp)))
    except AttributeError:
        checks.tensors("state", state)
        checks.tensors("exp", exp)
        raise
    if not leaves or not tree.plain(leaves[0]) or outside:

        def value_of(params: Any) -> tuple[Tensor, Any]:
            value, after = contracts.loss_output(loss(params, state, exp), state)
            contracts.update_output(after, state, leaves=True, name="loss")
            # Vmapped and traced too, grad knows at its own level what came from the params; what is closed over has no such level.
            if leaves and not (value.requires_grad and torch._C._functorch.is_gradtrackingtensor(value)):
                raise contracts.independent()
            return value, after

        # The state is closed over, not an argument of grad: grad would wrap each of its leaves, a large memory included.
        return torch.func.grad(value_of, has_aux=True)(params)
    # The same by autograd's own graph: the wrappers of torch.func cost several times an eager step of a small net.
    with torch.enable_grad():
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        value, after = contracts.loss_output(loss(tree.unflatten(structure, leaves), state, exp), state)
        if not value.requires_grad:
            raise contracts.independent()
        found = torch.autograd.grad(value, leaves, allow_unused=True)
    if all(grad is None for grad in found):  # it follows a tensor that requires a gradient for other reasons
        raise contracts.independent()
    grads = [torch.zeros_like(leaf) if grad is None else grad for grad, leaf in zip(found, tree.leaves(params), strict=True)]
    try:
        if any(leaf.requires_grad for leaf in tree.leaves(after)):
            after = tree.map(torch.detach, after)
    except AttributeError:
        contracts.update_output(after, state, leaves=True, name="loss")
        raise
    return tree.unflatten(structure, grads), after


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """One gradient step on a minibatch; made by `train_step`."""

    loss: Loss
    optimizer: Optimizer
    transforms: tuple[GradientTransform, ...]

    def __call__(self, state: Any, exp: Experience) -> Any:
        grads, state = gradient(self.loss, state, exp)
        return self.follow(grads, state, exp)[0]

    def follow(self, grads: Any, state: Any, exp: Experience) -> tuple[Any, Any]:
        """The state after the transforms of a gradient and the optimiser's step along it, and the change of the parameters."""
        for transform in self.transforms:
            grads, state = contracts.transform_output(transform(grads, state, exp), grads, state)
        updates, opt = self.optimizer.update(grads, state.opt, state.model.params)
        params = tree.map(torch.add, state.model.params, updates)
        return state.replace(model=state.model.replace(params=params), opt=opt), updates


def train_step(loss: Loss, optimizer: Optimizer, *transforms: GradientTransform) -> TrainStep:
    """The Update that follows the gradient of a loss: gradient, then gradient transforms in order, then the optimiser."""
    checks.function("loss", loss)
    checks.optimizer("optimizer", optimizer)
    return TrainStep(loss, optimizer, tuple(checks.function("transforms", t) for t in transforms))


def maybe_init(agent: Any, **fields: Callable[[Any], Any]) -> Any:
    """Fill only the fields that are None, in the order given; each function sees the state with the fields before it.

    >>> agent = maybe_init(Agent(key=random.key(0)), model=lambda s: torch.zeros(2), opt=lambda s: torch.ones_like(s.model))
    >>> agent.opt
    tensor([1., 1.])
    """
    if not dataclasses.is_dataclass(agent) or not hasattr(agent, "replace"):
        raise checks.no_agent("agent", agent, "fields")
    for name, make in fields.items():
        checks.function(name, make)
        agent = agent.replace(**{name: make(agent)}) if tree.get(agent, name) is None else agent
    return agent
