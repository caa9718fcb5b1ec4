"""The code of the functions and classes of a run, and what they use in turn, as entries of its fingerprint."""

from __future__ import annotations

import abc
import dataclasses
import functools
import importlib
import sys
import types
from collections.abc import Iterable
from typing import Any

import torch

from cl_func.storage import codes, pickled
from cl_func.storage.entries import Entries, joined, under

WITHIN = 100  # entries of a wrapper that a library puts around a function; with more, only the function is compared
_ADDING = {"append", "appendleft", "extend", "insert", "add", "update", "clear"}
# Attributes of a class that Python or `dataclass` derives from the others, and those that only describe it.
_DERIVED = {"__init__", "__eq__", "__hash__", "__setattr__", "__delattr__", "__replace__", "__lt__", "__le__", "__gt__", "__ge__"}
_DESCRIBING = {"__repr__", "__str__", "__doc__", "_registration"}  # the last is how a state is a pytree


class CodeWalker(abc.ABC):
    """Collects the functions and classes that a walk through values comes across, and the versions of their libraries."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[Any, Entries]] = {}  # keeps the values alive, since an id may be reused
        self.names: dict[int, str] = {}
        self.pending: list[tuple[str, Any]] = []  # functions and classes whose code has yet to be read
        self.versions = {
            "python": ".".join(map(str, sys.version_info[:2])),
            "torch": str(torch.__version__),
            "cl_func": codes.own_version(),
        }

    @abc.abstractmethod
    def __call__(self, value: Any) -> Entries:
        """The entries of a value."""

    def several(self, parts: Iterable[tuple[Any, Any]]) -> Entries:
        """The entries of several parts, each below its name."""
        return joined(*(under(str(name), self(part)) for name, part in parts))

    def name(self, value: Any) -> str:
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
            entries = under(f"code.{name}", self._class(value) if isinstance(value, type) else self._inline(value))
            # A method that is used by itself is read with its class, too.
            found = joined(found, {path: text for path, text in entries.items() if found.get(path) != text})
        return found

    def function(self, function: types.FunctionType) -> Entries:
        """The entries of a function: its name, or of one that was made inside of another, which may share its name, all of it."""
        own = function.__closure__ or "<" in function.__qualname__
        return self._inline(function) if own else {"": self.name(function)}

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
            found = self.several([*parts, *outer.items()])
            if hasattr(function, "__wrapped__") and len(found) > WITHIN:  # such as a compiler with all its settings
                found = self.several([("wrapped function", vars(function)["__wrapped__"])])
            return {"": f"{module}.{code.co_qualname}{suffix}"} | found
        used = [{"": f"{code.co_name} code #{codes.digest(code)[:16]}"}, self.several(parts)]
        own = codes.stored(code)
        for name, chains in codes.uses(code).items():
            if name in outer or (name in function.__globals__ and name not in own):
                used.append(under(name, self._used(outer[name] if name in outer else function.__globals__[name], chains)))
        for name, chains in codes.imports(code, function.__globals__.get("__package__")).items():
            used.append(under(f"import {name}", self._imported(name, chains)))
        return joined(*used)

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
            found |= under(name, self._used(own[name], {chain[1:] for chain in chains if chain[0] == name}))
        return found

    def _class(self, kind: type) -> Entries:
        found: Entries = {"": f"class {kind.__name__}"}
        hidden = _DESCRIBING | (_DERIVED if dataclasses.is_dataclass(kind) else set())
        parts: dict[str, Any] = {f"base {i}": base for i, base in enumerate(kind.__bases__)}
        if is_own(type(kind)):
            parts["metaclass"] = type(kind)
        parts |= {name: underlying(part) for name, part in vars(kind).items() if name not in hidden}
        for field in dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ():
            # With slots a default is no attribute of the class, and what a factory makes never is one.
            if field.default is not dataclasses.MISSING and parts.get(field.name) is not field.default:
                parts[f"default of {field.name}"] = field.default
            if field.default_factory is not dataclasses.MISSING:
                parts[f"default of {field.name}"] = field.default_factory
        for name, part in parts.items():
            if isinstance(part, types.FunctionType) and not codes.installed(codes.module_of(part)):
                found = joined(found, under(name, self._inline(part)))
            elif callable(part) or not name.startswith("__"):
                found = joined(found, under(name, self(part)))
        return found


def _is_compiled(kind: type) -> bool:
    """Whether a class is a type of compiled code: it has neither functions nor constants that are written in Python."""
    return not any(
        isinstance(underlying(part), types.FunctionType) or (isinstance(part, pickled.PLAIN) and not name.startswith("__"))
        for name, part in vars(kind).items()
    )


def underlying(part: Any) -> Any:
    """The function of a method or property of a class."""
    if isinstance(part, (staticmethod, classmethod)):
        return part.__func__
    return part.fget if isinstance(part, property) else part.func if isinstance(part, functools.cached_property) else part


def is_own(kind: type) -> bool:
    """Whether a class is written by the user, not in a library."""
    module = codes.module_of(kind)
    return isinstance(module, str) and not codes.installed(module)  # a class of compiled code may have no name there
