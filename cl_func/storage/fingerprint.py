"""What a run is made of, so that it is not resumed as another one: a flat dict from readable paths to short values.

    {"update.0.step.inner.loss.n": "3", "stream.make.data.y": "int64[40] #1c0f...", "code.my_loss": "my_loss code #77ab...", ...}

Compared: tensors and arrays by content; functions by their code (wherever it is written, see `codes.py`), defaults, closures, and
the variables and functions that they use, of their module or of modules that they import while they run; partials, methods,
dataclasses and other objects by what pickle would save of them; mappings with the order of their keys; classes by their methods;
autocast and the default dtype, where they are set. Anything from an installed library, this one included, is compared by its name,
and the library by its version. A module of the user's own that is handed on whole counts by its code, not by what it imports.

Compared by type only: what cannot be pickled (generators, iterators, open files, locks), objects that contain such things, and
whatever is nested more than 40 levels deep. Not compared is what a function finds by text, as by `globals()["name"]`. Lists, sets
and dicts that a function only adds to are taken for its log and ignored, as are global variables that it sets itself.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import inspect
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cl_func.core.nodes import Combinator, Fused, Wrapper, in_order
from cl_func.experiences import Stream
from cl_func.sources import Dataset, Stored
from cl_func.sources.dataset import digest
from cl_func.storage import codes, pickled
from cl_func.storage.entries import Entries, hashed, joined, short, under
from cl_func.storage.used_code import CodeWalker, is_own, underlying
from cl_func.tree import describe

CLOSED = "(not looked into)"
DEEPEST = 40
MOST = 1000  # entries of one object; more become a single digest


def of(**parts: Any) -> Entries:
    """The fingerprint of named values, with the code of the functions and classes that they use, and the versions of libraries."""
    walker = _Walker()
    found: Entries = {}
    for name, value in parts.items():
        found |= under(name, walker(value))
    found |= walker.code() | _settings()
    return found | {f"version.{name}": version for name, version in sorted(walker.versions.items())}


def _settings() -> Entries:
    """What torch is set to outside of all functions, where that is not the usual and numbers depend on it."""
    found = {f"torch.autocast.{on}": str(torch.get_autocast_dtype(on)) for on in ("cpu", "cuda") if torch.is_autocast_enabled(on)}
    default = torch.get_default_dtype()
    return found if default == torch.float32 else found | {"torch.default_dtype": str(default)}


def _is_plain(value: Any) -> bool:
    """Whether its repr says all; an object of a user's class derived from str or float may have more to it."""
    return isinstance(value, pickled.PLAIN) and not is_own(type(value))


class _Walker(CodeWalker):
    """Walks through values, and collects the functions and classes that it comes across and the versions of their libraries."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = 0

    def __call__(self, value: Any) -> Entries:
        if _is_plain(value):
            return {"": short(repr(value))}
        if id(value) not in self.seen:
            if self.depth == DEEPEST:
                return {"": f"{type(value).__name__} {CLOSED}"}
            self.seen[id(value)] = value, {"": "itself"}  # if it contains itself
            self.depth += 1
            entries = self._entries(value)
            self.depth -= 1
            if len(entries) > MOST:
                entries = {"": f"{type(value).__name__} of {len(entries)} parts #{hashed(repr(entries))}"}
            self.seen[id(value)] = value, entries
        return self.seen[id(value)][1]

    def _entries(self, value: Any) -> Entries:
        if isinstance(value, pickled.PLAIN):  # of a class of the user's
            return {"": f"{self.name(type(value))} {short(repr(value))}"} | self._attributes(value)
        if isinstance(value, Tensor):
            value = value if value.layout == torch.strided else value.to_dense()
            text = describe(value) if value.is_meta else f"{describe(value)} #{digest(value)}"
            return {"": text} | self._attributes(value)
        if isinstance(value, np.generic):
            return {"": f"{value.dtype} {value.item()!r}"}
        if isinstance(value, np.ndarray):
            return self._array(value)
        if isinstance(value, (Dataset, Stored)):
            return {**value.digests, "n_classes": repr(value.n_classes)}
        if isinstance(value, (Combinator, Wrapper, Fused)):  # the same whether compiled or vmapped or not
            parts = list(in_order(value))
            if len(parts) > 1:
                return {"": f"{len(parts)} updates"} | self.several(enumerate(parts))
            if parts[0] is not value:
                return self(parts[0])
        if isinstance(value, Stream):
            make, indices = value.based()
            slice_of = {} if [*indices] == [*range(len(indices))] else {"places": indices}
            return {"length": repr(len(value))} | self.several({"make": make, **slice_of}.items())
        if isinstance(value, types.FunctionType):
            return self.function(value)
        if isinstance(value, types.MethodType):
            return self._method(value)
        if isinstance(value, types.BuiltinFunctionType):
            owner = value.__self__
            name = f"{value.__module__ or ''}.{value.__qualname__}".strip(".")
            return {"": name} | ({} if isinstance(owner, (types.ModuleType, type, type(None))) else under("self", self(owner)))
        if isinstance(value, functools.partial):
            given = [*pickled.arguments(value.func, value.args).items(), *value.keywords.items(), *vars(value).items()]
            function, arguments = self(value.func), self.several(given)
            # Those of an object or a closure are kept apart from its own parts, which may have the same names.
            return joined(function, under("arguments", arguments) if len(function) > 1 else arguments)
        if isinstance(value, types.ModuleType):
            code = None if codes.installed(value.__name__) else codes.of_module(value)
            return {"": f"module {value.__name__}{'' if code is None else f' code #{code[:16]}'}"}
        if isinstance(value, type):
            return {"": self.name(value)}
        if isinstance(value, Mapping):
            factory = {"default_factory": value.default_factory} if isinstance(value, collections.defaultdict) else {}
            return joined(self._mapping(value), self.several(factory.items()))
        if isinstance(value, (list, tuple)):
            names = getattr(value, "_fields", range(len(value)))
            return self._container(value, list(zip(names, value, strict=True)), "")
        if isinstance(value, (set, frozenset)):
            members = sorted(repr(dict(sorted(self(part).items()))) for part in value)
            return {"": f"{self._kind(value)} of {len(value)} #{hashed(repr(members))}"} | self._attributes(value)
        if dataclasses.is_dataclass(value):
            # A value that is made of an `InitVar`, or set later, is an attribute but no field.
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if hasattr(value, f.name)}
            others = {name: part for name, part in pickled.attributes(value).items() if name not in fields}
            return {"": self.name(type(value))} | self.several([*fields.items(), *others.items()])
        return self._object(value)

    def _attributes(self, value: Any) -> Entries:
        """The attributes of a value of a user's class that is derived from a number, a container or the like."""
        return self.several(pickled.attributes(value).items()) if is_own(type(value)) else {}

    def _kind(self, value: Any) -> str:
        return self.name(type(value)) if is_own(type(value)) else type(value).__name__

    def _method(self, value: types.MethodType) -> Entries:
        function: Any = value.__func__
        itself, name = self(value.__self__), getattr(function, "__name__", type(function).__name__)
        kind = value.__self__ if isinstance(value.__self__, type) else type(value.__self__)
        # The code of its class has the function, unless it was bound by hand, or has another name there.
        known = underlying(inspect.getattr_static(kind, name, None)) is function
        other = {} if known else under("its function", self(function))
        return joined({**itself, "": f"method {name} of {itself.get('', kind.__name__)}"}, other)

    def _array(self, value: np.ndarray) -> Entries:
        own = self._attributes(value)
        if value is np.ma.masked:
            return {"": "masked"}
        if isinstance(value, np.ma.MaskedArray):
            mask = {"mask": np.ma.getmaskarray(value), "fill_value": value.fill_value}
            return joined(self._array(value.data), self.several(mask.items()), own)
        if value.dtype.hasobject:
            return joined(self(value.tolist()), own)
        flat = np.ascontiguousarray(value).reshape(-1).view(np.uint8)  # dates, for one, have no buffer of their own
        return {"": f"{value.dtype}{[*value.shape]} #{hashlib.sha256(flat.data).hexdigest()[:16]}"} | own

    def _mapping(self, value: Mapping[Any, Any]) -> Entries:
        """The parts of a mapping with the order of its keys, by which a pipeline of functions is run."""
        parts = pickled.named(value)
        if not is_own(type(value)) and all(map(_is_plain, [*value, *parts.values()])):
            return {"": short(repr(dict(value.items())))}
        keys = [*value] if all(isinstance(key, pickled.PLAIN) for key in value) else [*parts]  # others may have no lasting repr
        return self._container(value, list(parts.items()), f" #{hashed(repr(keys))}")

    def _container(self, value: Any, parts: list[tuple[Any, Any]], order: str) -> Entries:
        if not is_own(type(value)) and all(_is_plain(part) for _, part in parts):
            return {"": short(repr(value))}
        return joined({"": f"{self._kind(value)} of {len(parts)}{order}"}, self.several(parts), self._attributes(value))

    def _object(self, value: Any) -> Entries:
        """An object by what pickle would save of it: how it is made, and its attributes."""
        name, known = self.name(type(value)), getattr(value, "__name__", None)
        closed = {"": f"{name} {known if isinstance(known, str) else CLOSED}"}
        parts = pickled.parts(value)
        if parts is None:
            return closed
        found = self.several(parts.items())
        return closed if any(entry.endswith(CLOSED) for entry in found.values()) else {"": name} | found
