"""What functions take: whether one that is given can be called as it will be, asked where it is given, not within a run.

The four kinds are all plain functions, so nothing but what they take tells a Loss from an Update.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterable
from typing import Any, TypeVar

from cl_func import checks

T = TypeVar("T")

_KINDS = {
    ("params", "state", "exp"): ": a Loss; cl.train_step(loss, optimizer) makes an Update of it",
    ("grads", "state", "exp"): ": a GradientTransform; it goes into cl.train_step(loss, optimizer, transform)",
    ("state", "exp"): ": an Update or a Probe",
}


def update(name: str, value: T) -> T:
    """Check that a value can be an Update; TypeError otherwise."""
    return _kind(name, value, 2, "an Update, a function (state, exp) -> state")


def loss(name: str, value: T, expected: str = "a Loss, a function (params, state, exp) -> (scalar, state)") -> T:
    """Check that a value can be a Loss; TypeError otherwise."""
    return _kind(name, value, 3, expected)


def transform(name: str, value: T) -> T:
    """Check that a value can be a GradientTransform; TypeError otherwise."""
    return _kind(name, value, 3, "a GradientTransform, a function (grads, state, exp) -> (grads, state)")


def probe(name: str, value: T) -> T:
    """Check that a value can be a Probe; TypeError otherwise."""
    return _kind(name, value, 2, "a Probe (state, exp) -> tree of tensors, such as cl.evaluate(model, benchmark.test)")


def model_or_function(name: str, value: T) -> T:
    """Check that `cl.evaluate` can take a value: a model, or a function `(state, exp) -> logits`; TypeError otherwise."""
    expected = "a Model or a function (state, exp) -> logits [n, C]"
    if checks.has_methods(value, "init", "apply"):
        return value
    if getattr(value, "model", None) is not None and checks.has_methods(value, "init", "update"):
        raise TypeError(f"{name}: expected {expected}, got a {type(value).__name__}; give its model, strategy.model.")
    if not checks.is_function(value):
        raise checks.type_error(name, expected, value)
    return function(name, value, 2, expected)


def function(name: str, value: T, n: int, expected: str, most: int = 0, keywords: Iterable[str] = ()) -> T:
    """Check that a value can be called with n positional arguments, and keywords; TypeError otherwise, which says what it takes.

    most: one that takes more, up to so many, will do as well. What has no signature to look at, as some built-in functions, passes.
    """
    checks.function(name, value, expected)
    signature = _signature(value)
    if signature is None or any(_fits(signature, several, keywords) for several in range(n, max(n, most) + 1)):
        return value
    raise _error(name, value, signature, expected)


def _kind(name: str, value: T, n: int, expected: str) -> T:
    """Also refuse a function of this library that makes such a value, given in its place, such as cl.plasticity.reset_head."""
    function(name, value, n, expected)
    if inspect.isfunction(value) and _of_library(value):
        signature = inspect.signature(value)
        if next(iter(signature.parameters), None) not in ("state", "agent", "params", "grads"):
            raise _error(name, value, signature, expected)
    return value


def _of_library(value: Any) -> bool:
    """Whether a module of this library has a function by its name; code that is executed from a text is of no module."""
    module = value.__module__ or ""
    return module.startswith("cl_func.") and getattr(sys.modules.get(module), value.__name__, None) is value


def _fits(signature: inspect.Signature, n: int, keywords: Iterable[str]) -> bool:
    try:
        signature.bind(*[None] * n, **dict.fromkeys(keywords))
    except TypeError:
        return False
    return True


def _signature(value: Any) -> inspect.Signature | None:
    try:
        return inspect.signature(value)
    except (TypeError, ValueError):
        return None


def _error(name: str, value: Any, signature: inspect.Signature, expected: str) -> TypeError:
    while isinstance(value, functools.partial):
        value = value.func
    called = getattr(value, "__name__", type(value).__name__).lstrip("_")
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = [one for one in signature.parameters.values() if one.kind not in optional]
    needed = tuple(one.name for one in parameters if one.default is one.empty)
    hint = f"; give what {called}({needed[0]}, ...) returns" if needed[:1] == ("model",) else _KINDS.get(needed, "")
    return TypeError(f"{name}: expected {expected}, got {called}, which takes ({', '.join(needed)}){hint}.")
