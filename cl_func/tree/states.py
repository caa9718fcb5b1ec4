"""The decorator that makes a class a state, and what its fields can be marked as."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform, overload

import optree

from cl_func.torch_private import pytree as torch_pytree
from cl_func.tree.descriptions import describe, state_repr

T = TypeVar("T")
NAMESPACE = "cl_func"


def static(default: Any = dataclasses.MISSING, *, init: bool = True) -> Any:
    """Mark a field of a `@state` class as static: part of the tree's structure (hashable, compared by ==), never a leaf.

    init: whether it is an argument of the class; False for a field that `__post_init__` sets.
    """
    if not isinstance(init, bool):
        raise TypeError(f"init: expected True or False, got {describe(init)}.")
    return dataclasses.field(default=default, init=init, metadata={"static": True})


def bounded(check: Callable[[str, Any], Any], default: Any = dataclasses.MISSING) -> Any:
    """Mark a field of a `@state` class as a number with a range: `set` calls `check(path, number)` on any number it is set to."""
    if not callable(check):
        raise TypeError(f"check: expected a function of a path and a number, got {describe(check)}.")
    return dataclasses.field(default=default, metadata={"check": check})


def per_lane(rank: int) -> Any:
    """Mark a field of a source as a parameter: a tensor of so many dimensions, and a first one more where lanes have their own."""
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 0:
        raise TypeError(f"rank: expected the number of dimensions in one lane, an integer of at least 0, got {describe(rank)}.")
    return dataclasses.field(metadata={"rank": rank})


@overload
@dataclass_transform(
    kw_only_default=True,
    frozen_default=True,
    eq_default=False,
    field_specifiers=(static, bounded, per_lane, dataclasses.field),
)
def state(cls: type[T], *, kw_only: bool = True) -> type[T]: ...


@overload
def state(cls: None = None, *, kw_only: bool = True) -> Callable[[type[T]], type[T]]: ...


def state(cls: type[T] | None = None, *, kw_only: bool = True) -> Any:
    """Class decorator: a frozen dataclass that is a pytree, with `.replace(**changes)` and a repr of shapes and dtypes.

    Equality is identity (tensors have no truth value as a whole); compare values with `tree.equal`.

    >>> import torch
    >>> @state
    ... class Point:
    ...     x: torch.Tensor
    ...     name: str = static(default="p")
    >>> point = Point(x=torch.zeros(2))
    >>> point.replace(x=torch.ones(2)).x
    tensor([1., 1.])
    >>> point
    Point(x=float32[2], name='p')
    """
    if not isinstance(kw_only, bool):
        raise TypeError(f"kw_only: expected True or False, got {describe(kw_only)}.")
    if cls is not None and not isinstance(cls, type):
        raise TypeError(f"cls: expected a class, as in @cl.state above it, got {describe(cls)}.")
    if cls is None:
        return functools.partial(state, kw_only=kw_only)
    made: Any = dataclasses.dataclass(frozen=True, kw_only=kw_only, eq=False, repr=False)(cls)
    made._registration = _Registration(
        made, leaf_names(made), tuple(f.name for f in dataclasses.fields(made) if f.metadata.get("static"))
    )
    made.replace = replace
    made.__setattr__ = _frozen(made.__setattr__)
    if "__repr__" not in cls.__dict__:
        made.__repr__ = state_repr
    return made


def _frozen(assign: Callable[[Any, str, Any], None]) -> Callable[[Any, str, Any], None]:
    """The `__setattr__` of a frozen dataclass, whose error names the mend."""

    @functools.wraps(assign)
    def refuse(self: Any, name: str, value: Any) -> None:
        try:
            assign(self, name, value)
        except dataclasses.FrozenInstanceError:
            raise dataclasses.FrozenInstanceError(
                f"cannot assign to field {name!r}: {type(self).__name__} never changes; make a changed copy, "
                f"state.replace({name}=...), or one of a whole state by a path, as in cl.tree.set(state, {{'opt.lr': ...}})."
            ) from None

    return refuse


class _Registration:
    """That a class is a pytree, with the names of its leaves and of its other fields.

    It is an attribute of the class, so that a class that is pickled by value, as cloudpickle does with one of a notebook, is a
    pytree in the process that unpickles it.
    """

    def __init__(self, made: Any, dynamic: tuple[str, ...], statics: tuple[str, ...]) -> None:
        self.given = (made, dynamic, statics)
        if made not in torch_pytree.SUPPORTED_NODES:
            _register(made, dynamic, statics)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Registration, self.given


def _register(made: Any, dynamic: tuple[str, ...], statics: tuple[str, ...]) -> None:
    empty = dict.fromkeys(dynamic)

    def flatten(node: Any) -> tuple[list[Any], Any]:
        values = node.__dict__.get
        present = tuple([name for name in dynamic if values(name) is not None])
        return [values(name) for name in present], (present, tuple([getattr(node, name) for name in statics]))

    def unflatten(context: Any, children: Any) -> Any:
        # Not through __init__: a transformation may replace a leaf by anything, which a __post_init__ would reject.
        present, static_values = context
        node = object.__new__(made)
        # Straight into the instance's dict: setting frozen fields one by one dominates the tree time of an eager step.
        node.__dict__.update(empty)
        node.__dict__.update(zip(present, children, strict=True))
        node.__dict__.update(zip(statics, static_values, strict=True))
        return node

    def flatten_with_entries(node: Any) -> tuple[list[Any], Any, tuple[str, ...]]:
        children, context = flatten(node)
        return children, context, context[0]

    def flatten_with_keys(node: Any) -> tuple[list[tuple[Any, Any]], Any]:
        children, context = flatten(node)
        return [(torch_pytree.GetAttrKey(name), child) for name, child in zip(context[0], children, strict=True)], context

    optree.register_pytree_node(made, flatten_with_entries, unflatten, path_entry_type=optree.GetAttrEntry, namespace=NAMESPACE)
    torch_pytree.register_pytree_node(
        made,
        flatten,
        lambda children, context: unflatten(context, children),
        serialized_type_name=f"{made.__module__}.{made.__qualname__}",
        flatten_with_keys_fn=flatten_with_keys,
    )


def replace(node: T, **changes: Any) -> T:
    """A copy of a state with the named fields changed. Raises ValueError for a name that is not a field."""
    if not dataclasses.is_dataclass(node) or isinstance(node, type):
        raise TypeError(f"node: expected a state, such as strategy.init(key), got {describe(node)}.")
    names = field_names(type(node))
    if not changes.keys() <= names.keys():
        unknown = next(name for name in changes if name not in names)
        if "." in unknown:
            raise ValueError(
                f"replace: {unknown!r} is a path, {type(node).__name__} has the fields {', '.join(names)}; "
                f"change it by cl.tree.set(state, {{{unknown!r}: ...}})."
            )
        raise ValueError(
            f"replace: {type(node).__name__} has no field {unknown!r}; its fields are {', '.join(names)}. "
            f"To add a field, subclass it: @cl.state class Mine({type(node).__name__}): {unknown}: ..."
        )
    copy = object.__new__(type(node))
    values = node.__dict__
    if values.keys() != names.keys():
        values = {name: values.get(name) for name in names}  # fields only, not cached properties
    copy.__dict__.update(values, **changes)
    return copy


@functools.cache
def field_names(kind: Any) -> dict[str, None]:
    """The fields of a state class, in order."""
    return dict.fromkeys(f.name for f in dataclasses.fields(kind))


@functools.cache
def leaf_names(kind: Any) -> tuple[str, ...]:
    """The fields of a state class that are not static."""
    return tuple(f.name for f in dataclasses.fields(kind) if not f.metadata.get("static"))
