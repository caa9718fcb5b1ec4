"""What the functions of a method must return: one check for each kind of function, with the same message wherever it is called.

    update_output      the state, of the class that it was given
    loss_output        (value, state), the value a floating tensor of shape ()
    transform_output   (gradients, state), a gradient like the one given for each parameter
    probe_output       a tree of tensors

Each returns the output that it checked. Those that run at every step look at classes, shapes and dtypes only, which are known
even while a function is vmapped or traced.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NoReturn, TypeVar

from torch import Tensor

from cl_func import tree

S = TypeVar("S")  # a state
T = TypeVar("T")
_RETURN_STATE = "end it with `return state`"
_RETURN_VALUE_STATE = "end it with `return value, state`"


class ContractError(TypeError):
    """A function returned something other than what functions of its kind must return.

    name: the argument that the function was passed as. gave: what it returned, in words. expected: what it should have returned.
    mend: how to fix it. path: which part of the output is wrong, if it is only a part.
    """

    def __init__(self, name: str, gave: str, expected: str, mend: str, path: str = "") -> None:
        where = f" at {path!r}" if path else ""
        super().__init__(f"{name}: expected it to return {expected}{where}, got {gave}; {mend}.")
        self.name, self.gave, self.expected, self.mend, self.path = name, gave, expected, mend, path

    def __reduce__(self) -> Any:
        return ContractError, (self.name, self.gave, self.expected, self.mend, self.path)


def shown(out: Any) -> str:
    """A returned value in a few words: a state by its class, a tensor as dtype[shape]."""
    if type(out) in (tuple, list):
        inner = ", ".join(shown(part) for part in out)
        return f"({inner})" if type(out) is tuple else f"[{inner}]"
    if dataclasses.is_dataclass(out):
        return type(out).__name__
    text = tree.describe(out)
    return text if len(text) <= 120 else f"{text[:120]}..."


def update_output(out: Any, state: S, *, leaves: bool = False, name: str = "update") -> S:
    """Check that an Update returned a state of the class that it was given; with `leaves` also that tensors are still tensors."""
    kind = type(state)
    if type(out) is not kind:
        within = type(out) in (tuple, list) and any(type(part) is kind for part in out)
        raise ContractError(
            name, shown(out), f"{kind.__name__}, the next state", "return the state alone" if within else _RETURN_STATE
        )
    if leaves and out is not state:
        if all(isinstance(leaf, Tensor) for leaf in tree.leaves(out)):
            return out
        before = dict(tree.items(state))
        for path, leaf in tree.items(out):
            if not isinstance(leaf, Tensor) and isinstance(before.get(path), Tensor):
                _no_tensor(name, path, leaf, tree.describe(before[path]))
    return out


def has_rows(out: Any, state: Any) -> bool:
    """Whether a leaf returned rows with the state, `(state, (rows, valid))`, as the order of minibatches does."""
    return type(out) is tuple and len(out) == 2 and type(out[0]) is type(state)


def loss_output(out: Any, state: S, *, name: str = "loss") -> tuple[Tensor, S]:
    """Check that a Loss returned (value, state)."""
    pair = type(out) is tuple and len(out) == 2
    if pair and type(out[1]) is type(state):
        value = out[0]
        if isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point():
            return out
    kind = type(state)
    if not pair:
        mend = _RETURN_VALUE_STATE
    elif type(out[0]) is kind and type(out[1]) is not kind:
        mend = f"they are in the other order: {_RETURN_VALUE_STATE}"
    elif type(out[1]) is not kind:
        mend = f"the second is not the state: {_RETURN_VALUE_STATE}"
    elif isinstance(out[0], Tensor) and out[0].ndim:
        mend = "reduce the value to one number, such as with .mean() or cl.losses.weighted_mean"
    else:
        mend = "compute the value from `params` with torch, as a floating tensor"
    raise ContractError(name, shown(out), f"two things, (value, state), a floating tensor of shape () and {kind.__name__}", mend)


def transform_output(out: Any, grads: T, state: S, *, name: str = "transforms") -> tuple[T, S]:
    """Check that a GradientTransform returned (gradients, state), with gradients of the shapes and dtypes that it was given."""
    kind = type(state)
    if type(out) is not tuple or len(out) != 2 or type(out[1]) is not kind:
        swapped = type(out) is tuple and len(out) == 2 and type(out[0]) is kind
        mend = f"{'they are in the other order: ' if swapped else ''}end it with `return grads, state`"
        raise ContractError(name, shown(out), f"two things, (grads, state), the gradients and {kind.__name__}", mend)
    new = out[0]
    if new is not grads:
        if isinstance(grads, dict) and isinstance(new, dict) and new.keys() == grads.keys():
            pairs = [(path, new[path], grad) for path, grad in grads.items()]
        elif tree.flatten(new)[1] == tree.flatten(grads)[1]:
            pairs = [(path, now, grad) for (path, now), grad in zip(tree.items(new), tree.leaves(grads), strict=True)]
        else:
            mend = "return one for each parameter, a zero where nothing is to change"
            raise ContractError(name, shown(out), f"gradients of {_names(grads)}, and the state", mend)
        for path, now, grad in pairs:
            if now is not grad and (not isinstance(now, Tensor) or now.shape != grad.shape or now.dtype != grad.dtype):
                mend = "a gradient keeps the shape and the dtype of its parameter"
                raise ContractError(name, shown(now), f"the gradients, {tree.describe(grad)}", mend, path)
    update_output(out[1], state, leaves=True, name=name)
    return out


def probe_output(out: T, *, name: str = "probe") -> T:
    """Check that a Probe returned a tree of tensors."""
    return tensors(out, name=name)


def tensors(out: T, *, name: str) -> T:
    """Check that a function returned a tree of at least one tensor."""
    items = tree.items(out)
    for path, leaf in items:
        if not isinstance(leaf, Tensor):
            _no_tensor(name, path, leaf, "a tensor")
    if not items:
        raise ContractError(name, shown(out), "a tree of tensors", "end it with a return, of one tensor or a dict of them")
    return out


def _no_tensor(name: str, path: str, leaf: Any, expected: str) -> NoReturn:
    mend = f"write torch.tensor({leaf!r})" if isinstance(leaf, (bool, int, float)) else "leave it out, or give it as a tensor"
    raise ContractError(name, shown(leaf), f"a tree of tensors, {expected}", mend, path)


def _names(grads: Any) -> str:
    return ", ".join(path for path, _ in tree.items(grads)) or "no parameter"


def independent() -> ValueError:
    """The error to raise for a Loss whose value does not depend on any of the parameters that it is given, not even times 0."""
    return ValueError(
        "loss: its value does not depend on the parameters that it is given; compute it from `params`, its first argument, "
        "not from state.model.params."
    )
