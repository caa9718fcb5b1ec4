"""State trees: immutable dataclasses of tensors that every transformation can see through.

A state is a frozen dataclass whose fields are tensors, dicts or tuples of tensors, or other states. `@state` registers the
class as a pytree twice: with optree (namespace "cl_func", used by this library for its speed and its paths) and with
`torch.utils._pytree` (the only registry that `torch.func` and `torch.compile` consult). Fields marked `static()` and
fields that are None belong to the structure, not to the leaves.

A leaf is addressed by its path, field names and keys joined by dots: `"opt.lr"`, `"model.params.0.weight"`.
"""

from cl_func.tree.comparison import difference, equal
from cl_func.tree.descriptions import describe
from cl_func.tree.lanes import stack, unstack, where
from cl_func.tree.paths import get, set
from cl_func.tree.states import NAMESPACE, bounded, per_lane, replace, state, static
from cl_func.tree.structure import PyTree, flatten, items, leaves, map, to, unflatten

__all__ = [
    "NAMESPACE",
    "PyTree",
    "bounded",
    "describe",
    "difference",
    "equal",
    "flatten",
    "get",
    "items",
    "leaves",
    "map",
    "per_lane",
    "replace",
    "set",
    "stack",
    "state",
    "static",
    "to",
    "unflatten",
    "unstack",
    "where",
]
