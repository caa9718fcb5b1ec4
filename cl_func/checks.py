"""Checks of arguments where users call the library: each error names the argument, what was expected and what was given.

Factories call them once. Code that runs at every step checks only types, shapes and dtypes: that is cheap and, unlike reading
values, works while a function is vmapped or traced.
"""

from __future__ import annotations

import importlib
import math
import numbers
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor

from cl_func import tree
from cl_func.tree import PyTree, describe

T = TypeVar("T")


def type_error(name: str, expected: str, value: Any) -> TypeError:
    """The TypeError to raise for an argument of the wrong kind."""
    return TypeError(f"{name}: expected {expected}, got {describe(value)}.")


def optional(module: str, what: str, extra: str) -> ModuleType:
    """Import a module of an optional dependency; the ImportError says what needs it and which extra of this package installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = {"torch.utils.tensorboard": "tensorboard", "PIL.Image": "pillow"}.get(module, module.partition(".")[0])
        raise ImportError(f'{what} needs {package}: pip install "cl_func[{extra}]"') from error


def instance(name: str, value: Any, kind: type | tuple[type, ...], expected: str) -> Any:
    """Check that a value is an instance of a class; TypeError otherwise."""
    if not isinstance(value, kind):
        raise type_error(name, expected, value)
    return value


def function(name: str, value: T, expected: str = "a function") -> T:
    """Check that a value is callable; TypeError otherwise."""
    if not callable(value):
        raise type_error(name, expected, value)
    return value


def flag(name: str, value: Any) -> bool:
    """Check that a value is True or False; TypeError otherwise."""
    if not isinstance(value, bool):
        raise type_error(name, "True or False", value)
    return value


def choice(name: str, value: T, *options: Any) -> T:
    """Check that a value is one of some strings, bools or None; ValueError otherwise."""
    if not (value is None or isinstance(value, (str, bool))) or value not in options:
        *others, last = (repr(option) for option in options)
        raise ValueError(f"{name}: expected {', '.join(others)}{' or ' if others else ''}{last}, got {describe(value)}.")
    return value


def text(name: str, value: Any) -> str:
    """Check that a value is a string; TypeError otherwise."""
    if not isinstance(value, str):
        raise type_error(name, "a string", value)
    return value


def path(name: str, value: Any, example: str) -> str:
    """Check that a value is a path into the state; ValueError otherwise."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name}: expected a path such as {example!r}, got {describe(value)}.")
    return value


def positive_int(name: str, value: Any, least: int = 1) -> int:
    """Check that a size is an integer of at least 1 (or `least`); TypeError or ValueError naming it otherwise."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise type_error(name, f"an integer of at least {least}", value)
    if value < least:
        raise ValueError(f"{name}: expected an integer of at least {least}, got {value}.")
    return value


def drawable(name: str, value: Any, capacity: Any) -> int:
    """Check that a number of rows to draw is between 1 and a memory's capacity, which is checked too; TypeError or ValueError."""
    if positive_int(name, value) > positive_int("capacity", capacity):
        raise ValueError(f"{name}: expected at most the capacity, {capacity}, got {value}; draw fewer rows, or store more.")
    return value


def is_memory(value: Any) -> bool:
    """Whether a value is a memory: it has `data`, and the mask `occupied` of its slots."""
    return isinstance(getattr(value, "occupied", None), Tensor) and hasattr(value, "data")


def occupied(name: str, memory: Any) -> Tensor:
    """The mask of occupied slots of a memory, [capacity] bool; TypeError for a value that is not a memory."""
    if not is_memory(memory):
        raise type_error(name, "a memory with data and occupied, such as a Reservoir", memory)
    found: Tensor = memory.occupied
    return found


def sizes(name: str, value: Any) -> tuple[int, ...]:
    """Check that a value is a non-empty tuple or list of sizes; TypeError or ValueError otherwise."""
    if not isinstance(value, (tuple, list)) or not value:
        raise type_error(name, "sizes such as (1, 28, 28)", value)
    return tuple(positive_int(name, size) for size in value)


def number(name: str, value: Any, low: float = -math.inf, high: float = math.inf, *, ends: str = "()") -> float:
    """Check that a value is a finite number in a range, and return it as a float.

    ends: whether each end belongs to the range, "[" and "]", or not, "(" and ")".
    Raises TypeError for a value that is not a number (a bool counts as none), ValueError for a number out of range.
    """
    expected = "a finite number"
    if math.isfinite(low) or math.isfinite(high):
        expected += f" in {ends[0] if math.isfinite(low) else '('}{low:g}, {high:g}{ends[1] if math.isfinite(high) else ')'}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise type_error(name, expected, value)
    given = float(value)
    above = given >= low if ends[0] == "[" else given > low
    below = given <= high if ends[1] == "]" else given < high
    if not (math.isfinite(given) and above and below):
        raise ValueError(f"{name}: expected {expected}, got {given:g}.")
    return given


def number_or_path(name: str, value: Any, example: str) -> float | str:
    """Check that a value is a finite number or the path of a leaf of the state; TypeError or ValueError otherwise."""
    if isinstance(value, str):
        return path(name, value, example)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise type_error(name, f"a number or the path of a leaf such as {example!r}", value)
    return number(name, value)


def tensor(
    name: str,
    value: Any,
    shape: tuple[int, ...] | None = None,
    dtype: torch.dtype | None = None,
    like: Tensor | None = None,
) -> Tensor:
    """Check a tensor's shape, dtype (floating if None) and device (that of `like`); it may be traced. TypeError or ValueError."""
    right = isinstance(value, Tensor) and (value.is_floating_point() if dtype is None else value.dtype == dtype)
    if not right or (shape is not None and value.shape != shape):
        kind = "floating" if dtype is None else str(dtype).removeprefix("torch.")
        error = type_error(
            name, f"{'an' if kind[0] == 'i' else 'a'} {kind} tensor" + ("" if shape is None else f" of shape {list(shape)}"), value
        )
        raise ValueError(*error.args) if right else error
    if like is not None and value.device != like.device:
        raise ValueError(f"{name}: on {value.device}, but the others are on {like.device}; move it with .to(device).")
    return value


def tensors(name: str, value: T) -> T:
    """Check that a value is a tree of at least one tensor; otherwise TypeError, naming the first leaf that is not a tensor."""
    items = tree.items(value)
    wrong = next(((path, leaf) for path, leaf in items if not isinstance(leaf, Tensor)), None)
    if wrong is not None or not items:
        where = f" at {wrong[0]!r}" if wrong is not None and wrong[0] else ""
        got = value if wrong is None else wrong[1]
        mend = ""
        if wrong is not None and isinstance(got, (bool, int, float)):
            mend = f"; give torch.tensor({got})"
            if wrong[0]:
                mend += f", or in place of replace use cl.tree.set(state, {{{wrong[0]!r}: {got}}}), which converts numbers"
        raise TypeError(f"{name}: expected a tree of tensors{where}, got {describe(got)}{mend}.")
    return value


def key(name: str, value: Any) -> Tensor:
    """Check that a value is a single key, not on the device "meta", which holds no values; TypeError or ValueError otherwise."""
    if not isinstance(value, Tensor) or value.dtype != torch.int64 or value.ndim:
        raise type_error(name, "an int64 tensor of shape () made by cl.key(seed)", value)
    if value.is_meta:
        raise ValueError(f"{name}: it is on the device meta, which holds no values; make it with cl.key(seed).")
    return value


def has_methods(value: Any, *names: str) -> bool:
    """Whether a value has some methods."""
    return all(callable(getattr(value, name, None)) for name in names)


def is_function(value: Any) -> bool:
    """Whether a value is callable, but neither a class nor a module, whose call would not be what is meant."""
    return callable(value) and not isinstance(value, (type, torch.nn.Module))


def model(name: str, value: T) -> T:
    """Check that a value is a model, with `init(key)` and `apply(params, buffers, x, ...)`; TypeError otherwise."""
    if isinstance(value, type) or not has_methods(value, "init", "apply"):
        raise type_error(name, "a model such as cl.models.mlp(...), or cl.models.from_module(factory, n_classes=...)", value)
    return value


def optimizer(name: str, value: T) -> T:
    """Check that a value is an optimiser, with `init(params)` and `update(grads, state, params)`; TypeError otherwise."""
    if (
        isinstance(value, type) or not has_methods(value, "init", "update") or hasattr(value, "model")
    ):  # a Strategy has the two as well
        raise type_error(name, "an object with init(params) and update(grads, state, params), such as cl.optim.sgd(0.1)", value)
    return value


def stream(name: str, value: T) -> T:
    """Check that a value can be a stream: an iterable other than a tensor, a text or a mapping; TypeError otherwise."""
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes, Mapping, Tensor)):
        raise type_error(name, "a sequence of experiences such as benchmark.train", value)
    return value


def slot(state: Any, path: str, kind: type, expected: str) -> Any:
    """The value in a slot of the state, checked to be of a class; ValueError for an unknown path, TypeError for another class."""
    found = tree.get(state, path)
    if not isinstance(found, kind):
        raise type_error(f"slot {path!r}", expected, found)
    return found


def device(name: str, value: Any) -> torch.device | None:
    """Check that a value is None or a device that this machine has; TypeError or ValueError otherwise."""
    if value is None:
        return None
    if not isinstance(value, (str, torch.device)):
        raise type_error(name, "a device such as 'cpu' or 'cuda:0'", value)
    try:
        found = torch.empty(0, device=value).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{name}: expected a device that is here, such as 'cpu', got {value!r}: {reason}") from error
    if found.type == "meta":
        raise ValueError(f"{name}: the device meta holds no values; give one that does, such as 'cpu'.")
    return found


def params(state: Any) -> PyTree:
    """The parameters of the model in a state; TypeError for a state without a model."""
    try:
        return state.model.params
    except AttributeError:
        raise no_agent("state", state, "model") from None


def no_agent(name: str, value: Any, needs: str) -> TypeError:
    """The TypeError to raise for a state that lacks a field."""
    return type_error(name, f"the state of an agent with {needs}, such as strategy.init(key)", value)
