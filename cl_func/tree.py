"""State trees: immutable dataclasses of tensors that every transformation can see through.

A state is a frozen dataclass whose fields are tensors, dicts or tuples of tensors, or other states. `@state` registers the
class as a pytree twice: with optree (namespace "cl_func", used by this library for its speed and its paths) and with
`torch.utils._pytree` (the only registry that `torch.func` and `torch.compile` consult). Fields marked `static()` and
fields that are None belong to the structure, not to the leaves.

A leaf is addressed by its path, field names and keys joined by dots: `"opt.lr"`, `"model.params.0.weight"`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FunctionType, MethodType
from typing import Any, TypeVar, dataclass_transform, overload

import numpy as np
import optree
import torch
from optree import PyTreeSpec
from torch import Tensor

from cl_func.torch_private import in_dispatch_mode, in_transform, is_wrapped, unwrap
from cl_func.torch_private import pytree as torch_pytree

PyTree = Any
T = TypeVar("T")
NAMESPACE = "cl_func"
_LONGEST = 300  # characters of a value in an error message


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
        made, _leaf_names(made), tuple(f.name for f in dataclasses.fields(made) if f.metadata.get("static"))
    )
    made.replace = replace
    if "__repr__" not in cls.__dict__:
        made.__repr__ = _repr
    return made


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
    names = _field_names(type(node))
    if not changes.keys() <= names.keys():
        unknown = next(name for name in changes if name not in names)
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
def _field_names(kind: Any) -> dict[str, None]:
    return dict.fromkeys(f.name for f in dataclasses.fields(kind))


def describe(value: Any) -> str:
    """A value in words: a tensor as dtype[shape], a container by its contents, a function by its name, anything else by its repr.

    What is longer than 300 characters has its middle left out.
    """
    text = "".join(line if line.endswith("(") else f"{line} " for line in map(str.strip, _words(value).split("\n"))).strip()
    return text if len(text) <= _LONGEST else " ".join(f"{text[:200]} ... {text[-50:]}".split())


def _words(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_words(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        inner = ", ".join(_words(v) for v in value)
        return f"({inner})" if isinstance(value, tuple) else f"[{inner}]"
    if isinstance(value, functools.partial):
        given = [*(_words(v) for v in value.args), *(f"{k}={_words(v)}" for k, v in value.keywords.items())]
        return f"{_words(value.func)}({', '.join(given)})"
    if dataclasses.is_dataclass(value) and hasattr(type(value).__repr__, "__wrapped__"):  # the repr that dataclasses make
        return _repr(value)
    if isinstance(value, (FunctionType, MethodType)):  # whose repr has an address, as that of any object has
        return value.__qualname__
    return repr(value) if type(value).__repr__ is not object.__repr__ else type(value).__qualname__


def _repr(node: Any) -> str:
    shown = [f"{f.name}={_words(getattr(node, f.name))}" for f in dataclasses.fields(node)]
    line = f"{type(node).__name__}({', '.join(shown)})"
    if len(line) <= 100:
        return line
    body = ",\n".join("  " + part.replace("\n", "\n  ") for part in shown)
    return f"{type(node).__name__}(\n{body},\n)"


def map(function: Callable[..., Any], tree: PyTree, *rest: PyTree) -> PyTree:
    """Apply a function to every leaf, or to the corresponding leaves of several trees of one structure."""
    if not callable(function):
        raise TypeError(f"function: expected a function of a leaf, got {describe(function)}.")
    try:
        return optree.tree_map(function, tree, *rest, namespace=NAMESPACE)
    except ValueError as error:
        for other in rest:
            if flatten(other)[1] != flatten(tree)[1]:
                raise ValueError(f"tree, rest: the structures differ: {error}") from error
        raise


def to(tree: T, device: torch.device | str) -> T:
    """The tree with its tensors on a device; tensors that are already on it are not copied.

    Raises TypeError or ValueError for a device that this machine does not have, TypeError for a leaf that is not a tensor.
    """
    if not isinstance(device, (str, torch.device)):
        raise TypeError(f"device: expected a device such as 'cpu' or 'cuda:0', got {describe(device)}.")
    wrong = next(((path, leaf) for path, leaf in items(tree) if not isinstance(leaf, Tensor)), None)
    if wrong is not None:
        raise TypeError(f"tree: expected a tree of tensors, got {describe(wrong[1])} at {wrong[0]!r}.")
    try:
        return map(lambda leaf: leaf.to(device), tree)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"device: cannot move to {device!r}: {reason}") from error


def leaves(tree: PyTree) -> list[Any]:
    """The leaves from left to right."""
    return optree.tree_leaves(tree, namespace=NAMESPACE)


def _changed_leaves(new: PyTree, old: PyTree) -> list[Any]:
    """The leaves of `new` in those of its fields that are other objects than in `old`; all of them if it is no state."""
    if type(new) is not type(old) or not dataclasses.is_dataclass(new):
        return leaves(new)
    kind: Any = type(new)
    after, before = new.__dict__, old.__dict__
    return leaves([after[name] for name in _leaf_names(kind) if after[name] is not before[name]])


@functools.cache
def _leaf_names(kind: Any) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(kind) if not f.metadata.get("static"))


def flatten(tree: PyTree) -> tuple[list[Any], PyTreeSpec]:
    """The leaves and the structure; `unflatten(structure, leaves)` is the inverse."""
    return optree.tree_flatten(tree, namespace=NAMESPACE)


def unflatten(structure: PyTreeSpec, leaves: Sequence[Any]) -> PyTree:
    """Build the tree of a structure from its leaves."""
    if not isinstance(structure, PyTreeSpec):
        raise TypeError(f"structure: expected what `flatten` returns beside the leaves, got {describe(structure)}.")
    if not isinstance(leaves, Sequence) or len(leaves) != structure.num_leaves:
        raise ValueError(f"leaves: expected a sequence of {structure.num_leaves} leaves, got {describe(leaves)}.")
    return optree.tree_unflatten(structure, leaves)


def items(tree: PyTree) -> list[tuple[str, Any]]:
    """(path, leaf) of every leaf, from left to right."""
    paths, values, _ = optree.tree_flatten_with_path(tree, namespace=NAMESPACE)
    return [(".".join(str(entry) for entry in path), value) for path, value in zip(paths, values, strict=True)]


def _step(node: Any, rest: str, whole: str) -> tuple[Any, str]:
    """The child that a path enters first (a key or a field name), and what remains of the path."""
    if isinstance(node, dict):
        # Parameter names contain dots themselves ("0.weight"), so the longest key that matches is the one meant.
        fitting = [k for k in node if rest == str(k) or rest.startswith(f"{k}.")]
        if fitting:
            key = max(fitting, key=lambda k: len(str(k)))
            return key, rest[len(str(key)) + 1 :]
        names = [str(k) for k in node]
    elif hasattr(node, "_fields") or (dataclasses.is_dataclass(node) and not isinstance(node, type)):
        kind: Any = type(node)
        names = list(getattr(node, "_fields", None) or _field_names(kind))
        head, _, tail = rest.partition(".")
        if hasattr(node, "_fields") and head.isdecimal() and int(head) < len(names):
            head = names[int(head)]  # `items` counts the fields of a named tuple
        if head in names:
            return head, tail
    elif isinstance(node, (tuple, list)):
        names = [str(i) for i in range(len(node))]
        head, _, tail = rest.partition(".")
        if head in names:
            return int(head), tail
    else:
        names = []
    known = ", ".join(names) if names else f"nothing: it ends at {describe(node)}"
    longer = [path for path, _ in items(node) if path.endswith(f".{rest}")] if names else []
    meant = f" Did you mean {whole.removesuffix(rest)}{longer[0]}?" if len(longer) == 1 else ""
    raise ValueError(f"path {whole!r}: no {rest!r} in {type(node).__name__}; there is {known}.{meant}")


def get(tree: PyTree, path: str) -> Any:
    """The leaf or subtree at a path. Raises ValueError, listing the names that exist, if the path leads nowhere.

    >>> get({"a": {"0.weight": 1}}, "a.0.weight")
    1
    """
    if not isinstance(path, str):
        raise TypeError(f"path: expected a string such as 'opt.lr', got {path!r}.")
    node, rest = tree, path
    while rest:
        entry, rest = _step(node, rest, path)
        node = getattr(node, entry) if not isinstance(node, (dict, tuple, list)) or hasattr(node, "_fields") else node[entry]
    return node


def set(tree: T, changes: Mapping[str, Any]) -> T:
    """A copy of the tree with the values at some paths replaced.

    A number takes the dtype and device of the 0-d leaf it replaces. A tensor must have the dtype and the shape of the leaf:
    nothing is cast or broadcast. Raises ValueError (unknown path, wrong shape) or TypeError (wrong dtype), naming the path.

    >>> set({"lr": torch.tensor(0.1)}, {"lr": 0.5})["lr"]
    tensor(0.5000)
    """
    if not isinstance(changes, Mapping):
        raise TypeError(f"changes: expected a mapping from paths to values such as {{'opt.lr': 0.1}}, got {describe(changes)}.")
    for path, value in changes.items():
        if not isinstance(path, str) or not path:
            raise ValueError(f"tree.set: a path is a non-empty string such as 'opt.lr', got {path!r}.")
        tree = _set(tree, path, value, path)
    return tree


def _set(node: Any, rest: str, value: Any, whole: str) -> Any:
    if not rest:
        return _fit(node, value, whole)
    entry, tail = _step(node, rest, whole)
    if isinstance(node, dict):
        return type(node)((k, _set(v, tail, value, whole) if k == entry else v) for k, v in node.items())
    if hasattr(node, "_fields"):
        return node._replace(**{entry: _set(getattr(node, entry), tail, value, whole)})
    if isinstance(node, (tuple, list)):
        return type(node)(_set(v, tail, value, whole) if i == entry else v for i, v in enumerate(node))
    new = _set(getattr(node, entry), tail, value, whole)
    check = next(f.metadata.get("check") for f in dataclasses.fields(node) if f.name == entry)
    if check is not None and not isinstance(value, Tensor):  # a tensor may be traced, and is set by code
        check(f"tree.set({whole!r})", value)
    return replace(node, **{entry: new})


def _fit(old: Any, value: Any, path: str) -> Any:
    if old is None and isinstance(value, (bool, int, float)):
        raise ValueError(f"tree.set({path!r}): there is no leaf, the field is None; initialise it first, then set its value.")
    if isinstance(old, (dict, tuple, list)) or dataclasses.is_dataclass(old):
        kinds: Any = dict if isinstance(old, dict) else (tuple, list) if type(old) in (tuple, list) else type(old)
        if not isinstance(value, kinds):
            raise TypeError(f"tree.set({path!r}): there is {describe(old)}; give one like it, got {describe(value)}.")
        return value
    if not isinstance(old, Tensor):
        return value
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, Tensor):
        if isinstance(value, bool) != (old.dtype == torch.bool) or not isinstance(value, (bool, int, float)):
            raise TypeError(f"tree.set({path!r}): the leaf is {describe(old)}; give a tensor like it, got {value!r}.")
        if isinstance(value, float) and not old.dtype.is_floating_point:
            raise TypeError(f"tree.set({path!r}): the leaf is {describe(old)}; give an integer, got {value!r}.")
        if not old.dtype.is_floating_point and not -(1 << 63) <= value < 1 << 63:
            raise ValueError(f"tree.set({path!r}): expected an integer of 64 bits, got {value}.")
        value = torch.tensor(value, dtype=old.dtype, device=old.device)
    if value.dtype != old.dtype:
        raise TypeError(
            f"tree.set({path!r}): the leaf is {describe(old)}, got {describe(value)}; convert it with .to({old.dtype})."
        )
    if value.shape != old.shape:
        raise ValueError(f"tree.set({path!r}): the leaf is {describe(old)}, got {describe(value)}; give it the leaf's shape.")
    if value.is_meta and not old.is_meta:
        raise ValueError(f"tree.set({path!r}): the tensor given is on the device meta, which holds no values.")
    return value.to(old.device)


def _is_eager_cpu(value: Tensor) -> bool:
    """Whether a tensor is a plain CPU tensor outside of any transformation, so that reading its value costs nothing.

    Eager code may then take a shortcut to the same result; code that is vmapped, traced or differentiated from outside may not.
    """
    return (
        value.device.type == "cpu"
        and not value.requires_grad
        and not in_transform()
        and not in_dispatch_mode()
        and not torch.compiler.is_compiling()
    )


def _unwrap_all(value: Tensor) -> Tensor:
    """The tensor beneath all wrappers of torch.func's transformations: for a vmapped tensor, all of its lanes."""
    while is_wrapped(value):
        value = unwrap(value)
    return value


def stack(trees: Sequence[T]) -> T:
    """Stack trees of one structure along a new leading axis, one lane each: the input of `cl.vmap`."""
    if not isinstance(trees, Iterable) or isinstance(trees, (str, bytes, Mapping, Tensor)):
        raise TypeError(f"trees: expected a sequence of states, got {describe(trees)}.")
    trees = list(trees)
    if not trees:
        raise ValueError("trees: got none; give at least one.")
    for i, other in enumerate(trees):
        mismatch = _mismatch(trees[0], other)
        if mismatch:
            raise ValueError(f"trees: lane {i} does not stack on lane 0, {mismatch}; make all of them with one init.")
    return map(lambda *lanes: torch.stack(lanes), *trees)


def _mismatch(a: PyTree, b: PyTree) -> str | None:
    """The first leaf that is not a tensor, or the first difference in structure, shape, dtype or device, in words; else None."""
    (_, structure_a), (_, structure_b) = flatten(a), flatten(b)
    if structure_a != structure_b:
        return f"the structures differ: {structure_a} against {structure_b}"
    for (path, x), (_, y) in zip(items(a), items(b), strict=True):
        if not isinstance(x, Tensor) or not isinstance(y, Tensor):
            return (
                f"{path}: {describe(x)} is not a tensor" if not isinstance(x, Tensor) else f"{path}: {describe(y)} is not a tensor"
            )
        if x.shape != y.shape or x.dtype != y.dtype or x.device != y.device:
            return f"{path}: {describe(x)} on {x.device} against {describe(y)} on {y.device}"
    return None


def unstack(tree: T) -> list[T]:
    """Take a stacked tree apart into its lanes; the inverse of `stack`."""
    wrong = [leaf for leaf in leaves(tree) if not isinstance(leaf, Tensor)]
    if wrong:
        raise TypeError(f"tree: expected a stacked tree of tensors, got {describe(wrong[0])} in it.")
    sizes = {leaf.shape[0] if leaf.ndim else None for leaf in leaves(tree)}
    if len(sizes) != 1 or None in sizes:
        raise ValueError(f"tree.unstack: leaves need one common leading axis, the lanes; their leading sizes are {sizes}.")
    return [map(lambda leaf, i=i: leaf[i], tree) for i in range(sizes.pop() or 0)]


def where(condition: Tensor, new: T, old: T) -> T:
    """Choose between two trees of one structure; a condition of shape [lanes] chooses lane by lane.

    A leaf that is the same object in both trees is returned as it is, so that a large memory that did not change is not copied.
    """
    if not isinstance(condition, Tensor) or condition.dtype != torch.bool:
        raise TypeError(f"condition: expected a bool tensor of shape () or [lanes], got {describe(condition)}.")

    def choose(a: Tensor, b: Tensor) -> Tensor:
        if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a.shape != b.shape:
            raise ValueError(f"new, old: expected tensors of one shape, got {describe(a)} and {describe(b)}.")
        if condition.shape != a.shape[: condition.ndim] or condition.is_meta != a.is_meta:
            raise ValueError(f"condition: expected one bool, or one for each lane of {describe(a)}, got {describe(condition)}.")
        return a if a is b else torch.where(condition.reshape(condition.shape + (1,) * (a.ndim - condition.ndim)), a, b)

    return map(choose, new, old)


def difference(a: PyTree, b: PyTree, rtol: float = 0.0, atol: float = 0.0) -> str | None:
    """The first difference between two trees in words, or None; NaN equals NaN.

    The tolerances apply to floating leaves; all other leaves must be equal. By default all values must be exactly equal.
    """
    for name, tolerance in (("rtol", rtol), ("atol", atol)):
        if isinstance(tolerance, bool) or not isinstance(tolerance, numbers.Real) or not 0 <= tolerance < math.inf:
            error = TypeError if isinstance(tolerance, bool) or not isinstance(tolerance, numbers.Real) else ValueError
            raise error(f"{name}: expected a finite number of at least 0, got {describe(tolerance)}.")
    (_, structure_a), (_, structure_b) = flatten(a), flatten(b)
    if structure_a != structure_b:
        return f"the structures differ: {structure_a} against {structure_b}"
    for (path, x), (_, y) in zip(items(a), items(b), strict=True):
        if not isinstance(x, Tensor) or not isinstance(y, Tensor):
            if x is not y and x != y:
                return f"{path}: {x!r} against {y!r}"
        elif x.shape != y.shape or x.dtype != y.dtype or x.device != y.device:
            return f"{path}: {describe(x)} on {x.device} against {describe(y)} on {y.device}"
        elif not (torch.allclose(x, y, rtol=rtol, atol=atol, equal_nan=True) if x.is_floating_point() else torch.equal(x, y)):
            worst = (x.double() - y.double()).abs().max().item()
            return f"{path}: values differ by up to {worst:.3g}"
    return None


def equal(a: PyTree, b: PyTree, rtol: float = 0.0, atol: float = 0.0) -> bool:
    """Whether two trees have the same structure, shapes, dtypes, devices and values (within the tolerances)."""
    return difference(a, b, rtol, atol) is None
