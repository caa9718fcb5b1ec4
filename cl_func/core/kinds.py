"""What a method is made of: the four kinds of pure functions, the state of an agent, and a Strategy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from torch import Tensor

from cl_func import signatures, tree
from cl_func.tree import PyTree, state, static

S = TypeVar("S")  # the state of an agent, or of a slot
E = TypeVar("E")  # the items of a stream: experiences, or whatever else an update takes

# Of any agent state: one that is known by its class is a TypeVar S in a signature.
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

    key: Tensor  # () int64, split by every function that draws
    model: PyTree = None  # ModelState: params and buffers, both dicts of tensors
    opt: PyTree = None  # the optimiser's state; hyperparameters are leaves, such as opt.lr

    if TYPE_CHECKING:  # added by `state`

        def replace(self, **changes: Any) -> Self: ...


@state(kw_only=False)
class Strategy:
    """A continual-learning method: `init(key) -> state` and `update(state, exp) -> state` on one experience.

    `model` is optional: the Model, or for a method with its own classifier a function `(state, exp) -> logits [n, C]`; a sweep
    without a probe evaluates it. Raises TypeError for arguments of another kind.
    """

    init: Callable[[Tensor], Any]
    update: Update
    model: Any = static(default=None)  # what `cl.evaluate` takes; Any, so that it can be passed there although it may be None

    def __post_init__(self) -> None:
        signatures.function("init", self.init, 1, "a function from a key to a state")
        signatures.update("update", self.update)
        if self.model is not None:
            signatures.model_or_function("model", self.model)


def resolve(agent: Any, value: float | str) -> float | Tensor:
    """The value of a hyperparameter: a number is itself, a path such as "lwf.strength" means that leaf of the state."""
    return tree.get(agent, value) if isinstance(value, str) else value
