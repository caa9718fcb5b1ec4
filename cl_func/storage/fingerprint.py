"""What a run is made of, so that it is not resumed as another one: a flat dict from readable paths to short values.

    {"update.0.step.inner.loss.n": "3", "stream.make.data.y": "int64[40] #1c0f...", "code.my_loss": "my_loss code #77ab...", ...}

Compared: tensors and arrays by content; functions by their code (wherever it is written, see `codes.py`), defaults, closures, and
the variables and functions that they use, of their module or of modules that they import while they run; partials, methods,
dataclasses and other objects by what pickle would save of them; mappings with the order of their keys; classes by their methods;
autocast and the default dtype, where they are set. Anything from an installed library, this
one included, is compared by its name, and the library by its version. A module of the user's own that is handed on whole counts by
its code, not by what it imports.

Compared by type only: what cannot be pickled (generators, iterators, open files, locks), objects that contain such things, and
whatever is nested more than 40 levels deep. Not compared is what a function finds by text, as by `globals()["name"]`. Lists, sets
and dicts that a function only adds to are taken for its log and ignored.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import importlib
import inspect
import sys
import types
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cl_func.core.nodes import Combinator, Fused, Wrapper, in_order
from cl_func.experiences import Stream
from cl_func.sources import Dataset, Stored
from cl_func.sources.dataset import digest
from cl_func.storage import codes, pickled
from cl_func.tree import describe

Entries = dict[str, str]
CLOSED = "(not looked into)"
DEEPEST = 40
MOST = 1000  # entries of one object; more become a single digest
WITHIN = 100  # entries of a wrapper that a library puts around a function; with more, only the function is compared
_ADDING = {"append", "appendleft", "extend", "insert", "add", "update", "clear"}
# Attributes of a class that Python or `dataclass` derives from the others, and those that only describe it.
_DERIVED = {"__init__", "__eq__", "__hash__", "__setattr__", "__delattr__", "__replace__", "__lt__", "__le__", "__gt__", "__ge__"}
_DESCRIBING = {"__repr__", "__str__", "__doc__", "_registration"}  # the last is how a state is a pytree


def of(**parts: Any) -> Entries:
    """The fingerprint of named values, with the code of the functions and classes that they use, and the versions of libraries."""
    walker = _Walker()
    found: Entries = {}
    for name, value in parts.items():
        found |= _under(name, walker(value))
    found |= walker.code() | _settings()
    return found | {f"version.{name}": version for name, version in sorted(walker.versions.items())}


def _settings() -> Entries:
    """What torch is set to outside of all functions, where that is not the usual and numbers depend on it."""
    found = {f"torch.autocast.{on}": str(torch.get_autocast_dtype(on)) for on in ("cpu", "cuda") if torch.is_autocast_enabled(on)}
    default = torch.get_default_dtype()
    return found if default == torch.float32 else found | {"torch.default_dtype": str(default)}


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:40]}... #{_hash(text)}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def _under(name: str, entries: Entries) -> Entries:
    name = name or "''"  # or the entries of a part could not be told from those of the whole
    return {f"{name}.{path}" if path else name: value for path, value in entries.items()}


def _joined(*several: Entries) -> Entries:
    """All entries of several; of two with one path, as of {"a.b": 1, "a": {"b": 2}}, the later one is "a.b (again)"."""
    found: Entries = {}
    for entries in several:
        for path, value in entries.items():
            while path in found:
                path += " (again)"
            found[path] = value
    return found


def _is_plain(value: Any) -> bool:
    """Whether its repr says all; an object of a user's class derived from str or float may have more to it."""
    return isinstance(value, pickled.PLAIN) and not _is_own(type(value))


class _Walker:
    """Walks through values, and collects the functions and classes that it comes across and the versions of their libraries."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[Any, Entries]] = {}  # keeps the values alive, since an id may be reused
        self.names: dict[int, str] = {}
        self.pending: list[tuple[str, Any]] = []  # functions and classes whose code has yet to be read
        self.versions = {
            "python": ".".join(map(str, sys.version_info[:2])),
            "torch": str(torch.__version__),
            "cl_func": codes.own_version(),
        }
        self.depth = 0

    def __call__(self, value: Any) -> Entries:
        if _is_plain(value):
            return {"": _short(repr(value))}
        if id(value) not in self.seen:
            if self.depth == DEEPEST:
                return {"": f"{type(value).__name__} {CLOSED}"}
            self.seen[id(value)] = value, {"": "itself"}  # if it contains itself
            self.depth += 1
            entries = self._entries(value)
            self.depth -= 1
            if len(entries) > MOST:
                entries = {"": f"{type(value).__name__} of {len(entries)} parts #{_hash(repr(entries))}"}
            self.seen[id(value)] = value, entries
        return self.seen[id(value)][1]

    def _entries(self, value: Any) -> Entries:
        if isinstance(value, pickled.PLAIN):  # of a class of the user's
            return {"": f"{self._name(type(value))} {_short(repr(value))}"} | self._attributes(value)
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
                return {"": f"{len(parts)} updates"} | self._several(enumerate(parts))
            if parts[0] is not value:
                return self(parts[0])
        if isinstance(value, Stream):
            make, indices = value.based()
            slice_of = {} if [*indices] == [*range(len(indices))] else {"places": indices}
            return {"length": repr(len(value))} | self._several({"make": make, **slice_of}.items())
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            return self._method(value)
        if isinstance(value, types.BuiltinFunctionType):
            owner = value.__self__
            name = f"{value.__module__ or ''}.{value.__qualname__}".strip(".")
            return {"": name} | ({} if isinstance(owner, (types.ModuleType, type, type(None))) else _under("self", self(owner)))
        if isinstance(value, functools.partial):
            given = [*pickled.arguments(value.func, value.args).items(), *value.keywords.items(), *vars(value).items()]
            function, arguments = self(value.func), self._several(given)
            # Those of an object or a closure are kept apart from its own parts, which may have the same names.
            return _joined(function, _under("arguments", arguments) if len(function) > 1 else arguments)
        if isinstance(value, types.ModuleType):
            code = None if codes.installed(value.__name__) else codes.of_module(value)
            return {"": f"module {value.__name__}{'' if code is None else f' code #{code[:16]}'}"}
        if isinstance(value, type):
            return {"": self._name(value)}
        if isinstance(value, Mapping):
            factory = {"default_factory": value.default_factory} if isinstance(value, collections.defaultdict) else {}
            return _joined(self._mapping(value), self._several(factory.items()))
        if isinstance(value, (list, tuple)):
            names = getattr(value, "_fields", range(len(value)))
            return self._container(value, list(zip(names, value, strict=True)), "")
        if isinstance(value, (set, frozenset)):
            members = sorted(repr(dict(sorted(self(part).items()))) for part in value)
            return {"": f"{self._kind(value)} of {len(value)} #{_hash(repr(members))}"} | self._attributes(value)
        if dataclasses.is_dataclass(value):
            # A value that is made of an `InitVar`, or set later, is an attribute but no field.
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if hasattr(value, f.name)}
            others = {name: part for name, part in pickled.attributes(value).items() if name not in fields}
            return {"": self._name(type(value))} | self._several([*fields.items(), *others.items()])
        return self._object(value)

    def _several(self, parts: Iterable[tuple[Any, Any]]) -> Entries:
        return _joined(*(_under(str(name), self(part)) for name, part in parts))

    def _attributes(self, value: Any) -> Entries:
        """The attributes of a value of a user's class that is derived from a number, a container or the like."""
        return self._several(pickled.attributes(value).items()) if _is_own(type(value)) else {}

    def _kind(self, value: Any) -> str:
        return self._name(type(value)) if _is_own(type(value)) else type(value).__name__

    def _method(self, value: types.MethodType) -> Entries:
        function: Any = value.__func__
        itself, name = self(value.__self__), getattr(function, "__name__", type(function).__name__)
        kind = value.__self__ if isinstance(value.__self__, type) else type(value.__self__)
        # The code of its class has the function, unless it was bound by hand, or has another name there.
        known = _underlying(inspect.getattr_static(kind, name, None)) is function
        other = {} if known else _under("its function", self(function))
        return _joined({**itself, "": f"method {name} of {itself.get('', kind.__name__)}"}, other)

    def _array(self, value: np.ndarray) -> Entries:
        own = self._attributes(value)
        if isinstance(value, np.ma.MaskedArray):
            mask = {"mask": np.ma.getmaskarray(value), "fill_value": value.fill_value}
            return _joined(self._array(value.data), self._several(mask.items()), own)
        if value.dtype.hasobject:
            return _joined(self(value.tolist()), own)
        flat = np.ascontiguousarray(value).reshape(-1).view(np.uint8)  # dates, for one, have no buffer of their own
        return {"": f"{value.dtype}{[*value.shape]} #{hashlib.sha256(flat.data).hexdigest()[:16]}"} | own

    def _mapping(self, value: Mapping[Any, Any]) -> Entries:
        """The parts of a mapping with the order of its keys, by which a pipeline of functions is run."""
        parts = pickled.named(value)
        if not _is_own(type(value)) and all(map(_is_plain, [*value, *parts.values()])):
            return {"": _short(repr(dict(value.items())))}
        keys = [*value] if all(isinstance(key, pickled.PLAIN) for key in value) else [*parts]  # others may have no lasting repr
        return self._container(value, list(parts.items()), f" #{_hash(repr(keys))}")

    def _container(self, value: Any, parts: list[tuple[Any, Any]], order: str) -> Entries:
        if not _is_own(type(value)) and all(_is_plain(part) for _, part in parts):
            return {"": _short(repr(value))}
        return _joined({"": f"{self._kind(value)} of {len(parts)}{order}"}, self._several(parts), self._attributes(value))

    def _object(self, value: Any) -> Entries:
        """An object by what pickle would save of it: how it is made, and its attributes."""
        name, known = self._name(type(value)), getattr(value, "__name__", None)
        closed = {"": f"{name} {known if isinstance(known, str) else CLOSED}"}
        parts = pickled.parts(value)
        if parts is None:
            return closed
        found = self._several(parts.items())
        return closed if any(entry.endswith(CLOSED) for entry in found.values()) else {"": name} | found

    def _name(self, value: Any) -> str:
        """The name of a function or class; if it is the user's own, its code is read later, once."""
        module = codes.module_of(value)
        full = value.__qualname__ if module in ("__main__", "builtins") else f"{module}.{value.__qualname__}"
        hidden = isinstance(value, type) and module not in sys.modules  # so are scripts that another one runs by their path
        if codes.installed(module) or (hidden and _is_compiled(value)):
            top = module.partition(".")[0]
            version = getattr(sys.modules.get(top), "__version__", None)
            if isinstance(version, str) and top not in sys.stdlib_module_names:
                self.versions.setdefault(top, version)
            return full
        if id(value) not in self.names:
            taken = sum(other.partition(" (")[0] == full for other in self.names.values())
            self.names[id(value)] = f"{full} ({taken + 1})" if taken else full
            self.pending.append((self.names[id(value)], value))
        return self.names[id(value)]

    def code(self) -> Entries:
        """The code of the functions and classes found so far, and of those that they use in turn."""
        found: Entries = {}
        while self.pending:
            name, value = self.pending.pop(0)
            self.seen[id(value)] = value, {"": name}
            entries = _under(f"code.{name}", self._class(value) if isinstance(value, type) else self._inline(value))
            # A method that is used by itself is read with its class, too.
            found = _joined(found, {path: text for path, text in entries.items() if found.get(path) != text})
        return found

    def _function(self, function: types.FunctionType) -> Entries:
        # Functions made inside of others may share a name.
        own = function.__closure__ or "<" in function.__qualname__
        return self._inline(function) if own else {"": self._name(function)}

    def _inline(self, function: types.FunctionType) -> Entries:
        code, module = function.__code__, codes.module_of(function)
        defaults = function.__defaults__ or ()
        optional = code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount]
        parts: list[tuple[str, Any]] = [*zip(optional, defaults, strict=True), *(function.__kwdefaults__ or {}).items()]
        parts += [(name, part) for name, part in vars(function).items() if name != "__wrapped__"]
        closure = zip(code.co_freevars, function.__closure__ or (), strict=True)
        outer = {name: cell.cell_contents for name, cell in closure if cell != types.CellType()}
        if codes.installed(module):
            suffix = f" lambda #{codes.digest(code)[:16]}" if function.__name__ == "<lambda>" else ""
            found = self._several([*parts, *outer.items()])
            if hasattr(function, "__wrapped__") and len(found) > WITHIN:  # such as a compiler with all its settings
                found = self._several([("wrapped function", vars(function)["__wrapped__"])])
            return {"": f"{module}.{code.co_qualname}{suffix}"} | found
        used = [{"": f"{code.co_name} code #{codes.digest(code)[:16]}"}, self._several(parts)]
        for name, chains in codes.uses(code).items():
            if name in outer or name in function.__globals__:
                used.append(_under(name, self._used(outer[name] if name in outer else function.__globals__[name], chains)))
        for name, chains in codes.imports(code, function.__globals__.get("__package__")).items():
            used.append(_under(f"import {name}", self._imported(name, chains)))
        return _joined(*used)

    def _imported(self, name: str, chains: set[codes.Chain]) -> Entries:
        """What a function uses of a module that it imports while it runs; of an installed one nothing is looked at."""
        if codes.installed(name):
            return {}
        try:
            module = importlib.import_module(name)
            for chain in chains:
                if chain and not hasattr(module, chain[0]):
                    importlib.import_module(f"{name}.{chain[0]}")
        except Exception as error:  # it need not be there: the function may handle that
            return {"": f"{type(error).__name__} on import"}
        return self._used(module, chains)

    def _used(self, value: Any, chains: set[codes.Chain]) -> Entries:
        """What a function uses of an outer variable: all of it, or some attributes of a module, a namespace or an object."""
        if () in chains:
            return self(value)
        first = {chain[0] for chain in chains}
        if isinstance(value, (list, set, dict)) and first <= _ADDING:
            return {}
        own = {} if isinstance(value, type) else getattr(value, "__dict__", {})
        if not first <= own.keys() or (isinstance(value, types.ModuleType) and codes.installed(value.__name__)):
            return self(value)
        found: Entries = {}
        for name in sorted(first):
            found |= _under(name, self._used(own[name], {chain[1:] for chain in chains if chain[0] == name}))
        return found

    def _class(self, kind: type) -> Entries:
        found: Entries = {"": f"class {kind.__name__}"}
        hidden = _DESCRIBING | (_DERIVED if dataclasses.is_dataclass(kind) else set())
        parts: dict[str, Any] = {f"base {i}": base for i, base in enumerate(kind.__bases__)}
        if _is_own(type(kind)):
            parts["metaclass"] = type(kind)
        parts |= {name: _underlying(part) for name, part in vars(kind).items() if name not in hidden}
        for field in dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ():
            # With slots a default is no attribute of the class, and what a factory makes never is one.
            if field.default is not dataclasses.MISSING and parts.get(field.name) is not field.default:
                parts[f"default of {field.name}"] = field.default
            if field.default_factory is not dataclasses.MISSING:
                parts[f"default of {field.name}"] = field.default_factory
        for name, part in parts.items():
            if isinstance(part, types.FunctionType) and not codes.installed(codes.module_of(part)):
                found = _joined(found, _under(name, self._inline(part)))
            elif callable(part) or not name.startswith("__"):
                found = _joined(found, _under(name, self(part)))
        return found


def _is_compiled(kind: type) -> bool:
    """Whether a class is a type of compiled code: it has neither functions nor constants that are written in Python."""
    return not any(
        isinstance(_underlying(part), types.FunctionType) or (isinstance(part, pickled.PLAIN) and not name.startswith("__"))
        for name, part in vars(kind).items()
    )


def _underlying(part: Any) -> Any:
    """The function of a method or property of a class."""
    if isinstance(part, (staticmethod, classmethod)):
        return part.__func__
    return part.fget if isinstance(part, property) else part.func if isinstance(part, functools.cached_property) else part


def _is_own(kind: type) -> bool:
    """Whether a class is written by the user, not in a library."""
    module = codes.module_of(kind)
    return isinstance(module, str) and not codes.installed(module)  # a class of compiled code may have no name there
