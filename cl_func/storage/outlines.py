"""The structure of a tree in the words of a file, and fields of a state that are None until an update fills them.

A tree is read into the structure of one like it, made anew. What has been filled since is not in that one, and is built from the
file: dicts, lists and tuples, and states of classes that this process has made with `cl.state`. No code comes from a file.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor

from cl_func import tree
from cl_func.torch_private import pytree

T = TypeVar("T")
Node = list[Any]  # [the kind, the keys of its children in order, the reprs of its static fields by name]
PLAIN = (bool, int, float, str, type(None))


def outline(node: Any, path: str = "") -> dict[str, str]:
    """The structure of a tree by path: the type of each inner node with its static fields, without leaves."""
    children = _children(node)
    if children is None:
        return {}
    text = "dict" if isinstance(node, dict) else type(node).__name__
    if _is_state(node):
        text += f"({', '.join(f'{name}={value}' for name, value in _statics(node).items())})"
    found = {path: text}
    for name, child in children.items():
        found |= outline(child, _join(path, name))
    return found


def nodes(node: Any, path: str = "") -> dict[str, Node]:
    """What is needed to build the inner nodes of a tree again, by path; of nodes that no file can describe there is nothing."""
    children = _children(node)
    if children is None:
        return {}
    kind = type(node)
    name = f"{kind.__module__}:{kind.__qualname__}" if _is_state(node) else kind.__name__
    statics = {name: repr(value) for name, value in _static_fields(node).items() if _is_plain(value)}
    complete = len(statics) == len(_static_fields(node)) and all(isinstance(key, (str, int)) for key in children)
    found = {path: [name, list(children), statics]} if complete and not hasattr(node, "_fields") else {}
    for key, child in children.items():
        found |= nodes(child, _join(path, key))
    return found


def filled(like: T, tensors: Mapping[str, Tensor], described: Any, structure: Mapping[str, str], prefix: str) -> T:
    """A tree like `like` in which fields that are None hold what a saved tree has there.

    tensors: the leaves of the saved tree by "prefix.path". described: its `nodes`. structure: its `outline`.
    Raises ValueError, naming the path, for a node that cannot be built: a class that is not known here, or a static field that no
    file holds.
    """
    devices = [leaf.device for leaf in tree.leaves(like) if isinstance(leaf, Tensor)]

    def build(path: str) -> Any:
        leaf = tensors.get(f"{prefix}.{path}")
        if leaf is not None:
            return leaf.to(devices[0]) if devices else leaf
        if path not in structure:
            return None
        if not isinstance(described, dict) or not _is_node(described.get(path)):
            raise _cannot(path, structure[path], "no file can say how it is made")
        kind, keys, statics = described[path]
        children = {key: build(_join(path, key)) for key in keys}
        if kind in ("list", "tuple"):
            return list(children.values()) if kind == "list" else tuple(children.values())
        return children if kind == "dict" else _state(path, kind, children, statics)

    for path in _empty(like):
        found = build(path)
        if found is not None:
            like = tree.set(like, {path: found})
    return like


def _state(path: str, kind: str, children: dict[str, Any], statics: dict[str, str]) -> Any:
    """A state of a class by its name, made of its fields as transformations make it, without its `__init__`."""
    known: list[Any] = [cls for cls in pytree.SUPPORTED_NODES if "_registration" in vars(cls)]
    cls = next((cls for cls in reversed(known) if f"{cls.__module__}:{cls.__qualname__}" == kind), None)
    if cls is None:
        raise _cannot(path, kind.partition(":")[2], "there is no such class of states here")
    fields = {f.name for f in dataclasses.fields(cls)}
    if fields != children.keys() | statics.keys():
        raise _cannot(path, kind.partition(":")[2], f"its class has the fields {sorted(fields)} now")
    node = object.__new__(cls)
    node.__dict__.update(children | {name: ast.literal_eval(value) for name, value in statics.items()})
    return node


def _cannot(path: str, what: str, why: str) -> ValueError:
    return ValueError(
        f"state: {path!r} is None when the state is made, and holds {what} in the file, but {why}; make it when the state is made."
    )


def _empty(node: Any, path: str = "") -> list[str]:
    """The paths of the fields that are None."""
    if node is None:
        return [path] if path else []
    return [found for name, child in (_children(node) or {}).items() for found in _empty(child, _join(path, name))]


def _is_node(value: Any) -> bool:
    """Whether a value read from a file describes a node."""
    return (
        isinstance(value, list)
        and [type(part) for part in value] == [str, list, dict]
        and all(isinstance(key, (str, int)) for key in value[1])
        and all(isinstance(text, str) and _literal(text) for text in value[2].values())
    )


def _literal(text: str) -> bool:
    try:
        return _is_plain(ast.literal_eval(text))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return False


def _is_state(node: Any) -> bool:
    return dataclasses.is_dataclass(node) and not isinstance(node, type)


def _children(node: Any) -> dict[Any, Any] | None:
    """The children of a node by field or key; None for a leaf and for None."""
    if _is_state(node):
        return {f.name: getattr(node, f.name) for f in dataclasses.fields(node) if not f.metadata.get("static")}
    if isinstance(node, dict):
        return node
    if isinstance(node, (tuple, list)):
        return dict(zip(getattr(node, "_fields", range(len(node))), node, strict=True))
    return None


def _static_fields(node: Any) -> dict[str, Any]:
    fields = dataclasses.fields(node) if _is_state(node) else ()
    return {f.name: getattr(node, f.name) for f in fields if f.metadata.get("static")}


def _statics(node: Any) -> dict[str, str]:
    """The static fields of a state in words."""
    return {name: repr(v) if _is_plain(v) else type(v).__qualname__ for name, v in _static_fields(node).items()}  # not an address


def _is_plain(value: Any) -> bool:
    return isinstance(value, PLAIN) or (isinstance(value, tuple) and all(isinstance(part, PLAIN[:4]) for part in value))


def _join(path: str, name: Any) -> str:
    return f"{path}.{name}" if path else str(name)
