"""What a method is made of: the four kinds of pure functions, the state of an agent, and a Strategy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from torch import Tensor

from cl_func import checks, tree
from cl_func.tree import PyTree, state, static

S = TypeVar("S")  # the state of an agent, or of a slot
E = TypeVar("E")  # what a stream holds: experiences, or anything else that an update takes

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

    if TYPE_CHECKING:  # `state` gives it to every class

        def replace(self, **changes: Any) -> Self: ...


@state(kw_only=False)
class Strategy:
    """A continual-learning method: `init(key) -> state` and `update(state, exp) -> state` on one experience.

    `model` is optional, what `cl.evaluate` takes: the Model, or for a method with a classifier of its own a function `(state, exp)
    -> logits [n, C]`. With it a sweep knows what to evaluate when no probe is given. Raises TypeError for other things.
    """

    init: Callable[[Tensor], Any]
    update: Update
    model: Any = static(default=None)

    def __post_init__(self) -> None:
        checks.function("init", self.init)
        checks.function("update", self.update)
        if self.model is not None:
            checks.model_or_function("model", self.model)


def resolve(agent: Any, value: float | str) -> Any:
    """A hyperparameter: a number stands for itself, a path such as "lwf.strength" for that leaf of the state."""
    return tree.get(agent, value) if isinstance(value, str) else value
