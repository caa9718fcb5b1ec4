"""A strategy with more in it: Losses and GradientTransforms in each gradient step, Updates after it or after each experience.

A strategy is a tree of functions, so another method is put into it by going through the tree, to each `TrainStep`. What the method
keeps gets a field of its own in the agent's state, whose class is derived from that of the strategy:

    extend(er, after_step=cbp)          ERAgent(key, model, opt, replay)  ->  ERAgent with cbp (key, model, opt, replay, cbp)
"""

from __future__ import annotations

import copyreg
import dataclasses
import functools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from cl_func import checks, signatures, tree
from cl_func.core import GradientTransform, Loss, Strategy, TrainStep, Update, compose
from cl_func.core.nodes import Combinator, Wrapper
from cl_func.core.updates import _conditional
from cl_func.losses import total
from cl_func.regularizers import path
from cl_func.tree import PyTree


def extend(
    strategy: Strategy,
    *,
    loss: Loss | tuple[Loss, ...] = (),
    around_loss: Callable[[Loss], Loss] | tuple[Callable[[Loss], Loss], ...] = (),
    transform: GradientTransform | tuple[GradientTransform, ...] = (),
    before_step: Update | tuple[Update, ...] = (),
    around_step: Any = (),
    after_step: Update | tuple[Update, ...] = (),
    after: Update | tuple[Update, ...] = (),
    before: Update | tuple[Update, ...] = (),
    slots: Mapping[str, PyTree] | None = None,
) -> Strategy:
    """The strategy with further functions in it, such as those of `cl.plasticity`: each argument is a function or a tuple of them.

    A function with `slot` and `init`, as those of `cl.plasticity` have, gets a field of that name in the agent's state, made by
    `init(model_state)` of the first network; its hyperparameters are paths like all others: `cl.grid({"cbp.rate": [...]})`.

    loss: Losses added to that of each gradient step.
    around_loss: Functions from a Loss to a Loss, applied in order to that sum, such as `partial(cl.trace.loss, slot="losses")`.
    transform: GradientTransforms after those of each gradient step, before the optimiser.
    before_step, after_step: Updates before and after each gradient step, on the same minibatch.
    around_step: Methods with a function `around(step, state, exp)`, which takes a step itself, such as `continual_backprop`.
    before, after: Updates before and after each experience.
    slots: Further fields of the agent's state by name: what each is at the start, a tree of tensors such as `cl.trace.init(20)`, or
        a function of the ModelState that makes it. It is brought to the device of the key.

    These fields go on where a strategy begins anew: `from_scratch`, `joint` and `gdumb` restart network and optimiser alone.

    Gradient steps are those made by `cl.train_step`; a method that steps in another way is left as it is there. Extend first, then
    `cl.vmap` or `cl.compile`.

    Raises TypeError for other arguments; ValueError for a strategy without gradient steps to put them into, one that is vmapped or
    compiled already, and for names that no field can have or that come twice. Its `init` raises TypeError where the function of a
    slot gives anything but tensors, ValueError for a slot that the agent has already.

    >>> import cl_func as cl
    >>> model = cl.models.mlp(6, hidden=(8,), n_classes=4)
    >>> naive = cl.strategies.naive(model, cl.optim.sgd(0.1))
    >>> strategy = extend(naive, loss=cl.plasticity.l2_init(1e-3), after_step=cl.plasticity.continual_backprop(model))
    >>> state = strategy.init(cl.key(0))
    >>> type(state).__name__, cl.tree.get(state, "l2_init.strength")
    ('Agent with l2_init, cbp', tensor(0.0010))
    >>> traced = extend(naive, around_loss=partial(cl.trace.loss, slot="losses"), slots={"losses": cl.trace.init(20)})
    >>> traced.init(cl.key(0)).losses
    Trace(values=float32[20], count=int64[])
    """
    checks.instance("strategy", strategy, Strategy, "a Strategy such as cl.strategies.naive(model, optimizer)")
    given = {
        "loss": loss,
        "around_loss": around_loss,
        "transform": transform,
        "before_step": before_step,
        "around_step": around_step,
        "after_step": after_step,
    }
    parts = {name: _functions(name, value) for name, value in {**given, "before": before, "after": after}.items()}
    for one in parts["around_step"]:
        if not callable(getattr(one, "around", None)) or isinstance(one, Wrapper):
            raise checks.type_error("around_step", "a method with a function around(step, state, exp)", one)
    found = _Extension(*(parts[name] for name in given))
    update, steps = _extended(strategy.update, found)
    if steps == 0 and any(parts[name] for name in given):
        raise ValueError("strategy: it takes no gradient step made by cl.train_step, so there is nothing to extend; use after.")
    if parts["before"] or parts["after"]:
        update = compose(*parts["before"], update, *parts["after"])
    fields = _fields(parts, slots)
    return Strategy(partial(_init, base=strategy.init, fields=fields) if fields else strategy.init, update, strategy.model)


def _fields(parts: dict[str, tuple[Any, ...]], slots: Mapping[str, PyTree] | None) -> tuple[tuple[str, Any], ...]:
    """The new fields of the agent, each with what it is at the start, or the function of a network that makes it."""
    own = [(part.slot, part.init) for group in parts.values() for part in group if hasattr(part, "slot") and hasattr(part, "init")]
    given = {} if slots is None else slots
    checks.instance("slots", given, Mapping, "a dict of names and values, such as {'losses': cl.trace.init(20)}")
    fields = [*own, *given.items()]
    names = [name for name, _ in fields]
    for name in names:
        if not isinstance(name, str) or not name.isidentifier() or names.count(name) > 1:
            raise ValueError(f"slots: expected a name of its own for each slot, such as 'cbp', got {names}.")
    for name, start in given.items():
        if not callable(start):
            checks.tensors(f"slots: {name}", start)
    return tuple(fields)


def _functions(name: str, value: Any) -> tuple[Any, ...]:
    several = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    kinds: dict[str, Callable[[str, Any], Any]] = {
        "loss": signatures.loss,
        "around_loss": _around_loss,
        "transform": signatures.transform,
        "around_step": checks.function,
    }
    return tuple(kinds.get(name, signatures.update)(name, one) for one in several)


def _around_loss(name: str, value: Any) -> Any:
    return signatures.function(name, value, 1, "a function from a Loss to a Loss, such as partial(cl.trace.loss, slot='losses')")


def _init(key: Tensor, *, base: Callable[[Tensor], Any], fields: tuple[tuple[str, Any], ...]) -> Any:
    agent = base(key)
    starts = {name: start(agent.model) if callable(start) else start for name, start in fields}
    for name, start in starts.items():
        checks.tensors(f"slots: {name}", start)
    return with_slots(agent, **tree.to(starts, key.device))


@dataclasses.dataclass(frozen=True)
class _Extension:
    """What is put into each gradient step, before it and after it."""

    losses: tuple[Loss, ...]
    around_losses: tuple[Callable[[Loss], Loss], ...]
    transforms: tuple[GradientTransform, ...]
    before: tuple[Update, ...]
    around: tuple[Any, ...]
    after: tuple[Update, ...]

    def step(self, step: TrainStep) -> TrainStep:
        """A gradient step with the losses and transforms in it."""
        if isinstance(step, path.PathStep):  # the path is that of the task's gradient alone
            step = dataclasses.replace(step, beside=total(step.beside, *self.losses)) if self.losses else step
            loss = path._total_loss(step) if self.around_losses else step.loss
        else:
            loss = total(step.loss, *self.losses) if self.losses else step.loss
        for around in self.around_losses:
            loss = signatures.loss("around_loss", around(loss), "a function that gives a Loss")
        return dataclasses.replace(step, loss=loss, transforms=(*step.transforms, *self.transforms))


def _extended(update: Any, extension: _Extension) -> tuple[Any, int]:
    """The Update with the extension in it, and how many gradient steps there are in it."""
    if isinstance(update, Combinator):
        children, counts = zip(*(_extended(child, extension) for child in update.children), strict=True)
        return update.rebuild(children), sum(counts)
    if isinstance(update, Wrapper):
        if update.same or update.closed:
            raise ValueError("strategy: it is vmapped or compiled already; extend it first, then transform it.")
        inner, count = _extended(update.inner, extension)
        return tree.map(update.around, inner), count
    if isinstance(update, partial) and update.func is _conditional:
        inner, count = _extended(update.keywords["update"], extension)
        return partial(_conditional, condition=update.keywords["condition"], update=inner), count
    found, count = _steps_extended(update, extension)
    if count:
        for method in extension.around:
            found = partial(method.around, found)
        if extension.before or extension.after:
            found = compose(*extension.before, found, *extension.after)
    return found, count


def _steps_extended(update: Any, extension: _Extension) -> tuple[Any, int]:
    """A function with the gradient steps among its arguments extended."""
    if isinstance(update, TrainStep):
        return extension.step(update), 1
    if not isinstance(update, partial):
        return update, 0
    args = [_steps_extended(value, extension) for value in update.args]
    kwargs = {name: _steps_extended(value, extension) for name, value in update.keywords.items()}
    count = sum(n for _, n in (*args, *kwargs.values()))
    new = partial(update.func, *(value for value, _ in args), **{name: value for name, (value, _) in kwargs.items()})
    return (new, count) if count else (update, 0)


def with_slots(agent: Any, **slots: PyTree) -> Any:
    """The state of an agent with more fields: of a class derived from its own, the same for the same names, which can be pickled.

    Raises ValueError for a field that it has already.

    >>> import torch
    >>> import cl_func as cl
    >>> with_slots(cl.Agent(key=cl.key(0)), seen=torch.zeros(2)).seen
    tensor([0., 0.])
    """
    if not dataclasses.is_dataclass(agent) or isinstance(agent, type) or not hasattr(agent, "replace"):
        raise checks.no_agent("agent", agent, "fields")
    fields = [f.name for f in dataclasses.fields(agent)]
    for name in slots:
        if name in fields:
            raise ValueError(f"slots: the agent has a field {name!r} already; give another name, such as slot={name + '2'!r}.")
    return _with_fields(type(agent), tuple(slots))(**{name: getattr(agent, name) for name in fields}, **slots)


class _Extended(type):
    """The class of classes made here, by which pickle finds them: by what they are made from."""


@functools.cache
def _with_fields(base: type, names: tuple[str, ...]) -> type:
    name = f"{base.__name__} with {', '.join(names)}"
    inside = {"__annotations__": dict.fromkeys(names, Any), "__module__": base.__module__, "__qualname__": name}
    made: Any = _Extended(name, (base,), inside)
    found: Any = tree.state(made)
    found._made_from = (base, names)
    return found


def _reduce(made: Any) -> Any:
    return _with_fields, made._made_from


copyreg.pickle(_Extended, _reduce)
