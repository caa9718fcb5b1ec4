"""A function's code, wherever it is written: its digest, the outer names that it uses, and to whom it belongs.

The digest covers the instructions with their constants and names, but not comments, docstrings, line numbers or the file, so a
function may be moved, reformatted and documented. It is valid for one version of Python; another compiles to other instructions.
"""

from __future__ import annotations

import bisect
import dis
import functools
import hashlib
import importlib.machinery
import importlib.util
import inspect
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

# Instructions that only serve the interpreter, or a debugger that stops at each line.
_SILENT = {"NOP", "RESUME", "CACHE", "PUSH_NULL", "PRECALL", "EXTENDED_ARG"}
_KINDS = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS | inspect.CO_GENERATOR | inspect.CO_COROUTINE
_OUTER = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_GLOBALS", "LOAD_FROM_DICT_OR_DEREF"}
_LOCAL = {"LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_FAST_BORROW", "LOAD_NAME"}
_STORES = {"STORE_FAST", "STORE_NAME", "STORE_DEREF", "STORE_GLOBAL"}
_JUMPS = {*dis.hasjrel, *dis.hasjabs}
_ATTRIBUTES = {"LOAD_ATTR", "LOAD_METHOD"}

# Two instructions in one, which Python 3.13 and later make of two that stand in one line.
_PAIRS = {
    f"{first}_{second}": (first, second)
    for first, second in [("LOAD_FAST", "LOAD_FAST"), ("STORE_FAST", "LOAD_FAST"), ("STORE_FAST", "STORE_FAST")]
} | {"LOAD_FAST_BORROW_LOAD_FAST_BORROW": ("LOAD_FAST_BORROW", "LOAD_FAST_BORROW")}

_INTERPRETER = {"built-in", "frozen"}  # what stands for the file of a module that is part of the interpreter

Chain = tuple[str, ...]  # successive attributes of a name: ("streams", "permuted") for cl in cl.streams.permuted(...)


def _instructions(code: CodeType) -> Iterator[dis.Instruction]:
    for found in dis.get_instructions(code):
        if found.opname in _PAIRS:
            for name, value in zip(_PAIRS[found.opname], found.argval, strict=True):
                yield found._replace(opname=name, opcode=dis.opmap[name], argval=value)
        elif found.opname not in _SILENT:
            yield found


def digest(code: CodeType) -> str:
    """The SHA-256 of what a code object does, as hexadecimal digits."""
    hashed = hashlib.sha256()
    instructions = list(_instructions(code))
    offsets = [found.offset for found in instructions]

    def index(offset: int) -> int:
        return bisect.bisect_left(offsets, offset)

    handlers = [(index(start), index(end), index(target), rest) for start, end, target, rest in _handlers(code.co_exceptiontable)]
    signature = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & _KINDS)
    hashed.update(f"{signature} {handlers}\n".encode())
    for found in instructions:
        if found.opcode in _JUMPS:
            argument = f"{index(found.argval)}"
        elif found.opcode in dis.hasconst:
            argument = _constant(found.argval)
        else:
            argument = "" if found.arg is None else repr(found.argval)
        hashed.update(f"{found.opname} {argument}\n".encode())
    return hashed.hexdigest()


def _handlers(table: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(start, end, target, depth and flag) of each entry of a code object's exception table, as offsets in bytes.

    The table holds numbers in units of two bytes, six bits at a time: https://github.com/python/cpython/blob/main/InternalDocs/exception_handling.md.
    """
    numbers, value = list[int](), 0
    for byte in table:
        value = value << 6 | byte & 63
        if not byte & 64:
            numbers.append(value)
            value = 0
    for start, length, target, rest in zip(*[iter(numbers)] * 4, strict=True):
        yield 2 * start, 2 * (start + length), 2 * target, rest


def _constant(value: Any) -> str:
    """A constant of a code object as text that is the same in every process."""
    if isinstance(value, CodeType):
        return digest(value)
    if isinstance(value, frozenset):  # its order depends on the hash seed of the process
        return f"frozenset({sorted(map(_constant, value))})"
    return f"({', '.join(map(_constant, value))})" if isinstance(value, tuple) else repr(value)


def uses(code: CodeType) -> dict[str, set[Chain]]:
    """The outer variables that a code object and its inner functions read, each with the chains of attributes taken from it.

    `args.lr * x` uses args with the chain ("lr",); `f(x)` uses f as a whole, with the empty chain.
    """
    found = _read(code, _OUTER)
    for inner in _inner(code):
        for name, chains in uses(inner).items():
            found.setdefault(name, set()).update(chains)
    return found


def stored(code: CodeType) -> set[str]:
    """The global variables that a code object and its inner functions set themselves, such as a counter or a memo."""
    own = {found.argval for found in _instructions(code) if found.opname in ("STORE_GLOBAL", "DELETE_GLOBAL")}
    return own.union(*map(stored, _inner(code)))


def _read(code: CodeType, operations: set[str]) -> dict[str, set[Chain]]:
    """The variables that instructions of some kinds read, each with the chains of attributes taken from it."""
    found: dict[str, set[Chain]] = {}
    instructions = list(_instructions(code))
    for i, instruction in enumerate(instructions):
        if instruction.opname in operations:
            after = itertools.takewhile(lambda later: later.opname in _ATTRIBUTES, itertools.islice(instructions, i + 1, None))
            found.setdefault(instruction.argval, set()).add(tuple(later.argval for later in after))
    return found


def _inner(code: CodeType) -> Iterator[CodeType]:
    return (constant for constant in code.co_consts if isinstance(constant, CodeType))


def imports(code: CodeType, package: str | None) -> dict[str, set[Chain]]:
    """The modules that a function of a package and its inner functions import while they run, with what they take of each."""
    found: dict[str, set[Chain]] = {}
    instructions, read = list(_instructions(code)), _read(code, _LOCAL)
    for name, chains in uses(code).items():
        read.setdefault(name, set()).update(chains)
    for i, instruction in enumerate(instructions):
        if instruction.opname != "IMPORT_NAME":
            continue
        level, names = (instructions[j].argval for j in (i - 2, i - 1))
        try:
            module = importlib.util.resolve_name("." * level + instruction.argval, package)
        except ImportError:  # relative, in a function that belongs to no package: it will fail there too
            continue
        after = itertools.islice(instructions, i + 1, None)
        stored = next((str(later.argval) for later in after if later.opname in _STORES), "")
        if names:
            found.setdefault(module, set()).update((name,) for name in names)
        elif instructions[i + 1].opname in _STORES:  # import a.b, by which a is known
            found.setdefault(module.partition(".")[0], set()).update(read.get(stored, {()}))
        else:  # import a.b as c
            found.setdefault(module, set()).update(read.get(stored, {()}))
    for inner in _inner(code):
        for module, chains in imports(inner, package).items():
            found.setdefault(module, set()).update(chains)
    return found


def of_module(module: ModuleType) -> str | None:
    """The digest of the code of a module, None if it has no source."""
    path = getattr(module, "__file__", None)
    if path is None or Path(path).suffix != ".py" or not Path(path).is_file():
        return None
    return digest(compile(Path(path).read_bytes(), path, "exec", dont_inherit=True))


@functools.cache
def installed(module: str) -> bool:
    """Whether a module, given by name, is part of Python, of this library or of an installed package.

    What is run as `__main__` is not: under a profiler or debugger of Python's that name belongs to the profiler's own file.
    """
    import sysconfig  # not at import, which it would slow down

    top = module.partition(".")[0]
    if top in ("__main__", "__mp_main__"):
        return False
    if top == "cl_func" or top in sys.builtin_module_names:
        return True
    places = set(_places(module))
    paths = map(Path, places - _INTERPRETER)
    packages, stdlib = {"site-packages", "dist-packages"}, sysconfig.get_path("stdlib")
    return bool(places) and all(packages.intersection(path.parts) or path.is_relative_to(stdlib) for path in paths)


def _places(module: str) -> list[str]:
    """The file of a module; the folders of a namespace package; of a module that has neither, those of its package."""
    parent = module.rpartition(".")[0]
    file, folders = _located(module)
    return [file] if file else folders or (_places(parent) if parent else [])


def _located(module: str) -> tuple[str | None, list[str]]:
    """The file of a module and the folders that its submodules are looked for in. Nothing is imported."""
    parent = module.rpartition(".")[0]
    found = sys.modules.get(module)
    spec = getattr(found, "__spec__", None)
    if found is None:
        try:
            finder = importlib.machinery.PathFinder.find_spec
            spec = finder(module, _located(parent)[1]) if parent else importlib.util.find_spec(module)
        except (ImportError, ValueError):
            spec = None
    if isinstance(spec, importlib.machinery.ModuleSpec):
        known = spec.has_location or spec.origin in _INTERPRETER
        return spec.origin if known else None, list(spec.submodule_search_locations or ())
    # A module that was made by hand may name any file, as torch.ops does, and is taken for a part of its package.
    return None if parent else getattr(found, "__file__", None), []


@functools.cache
def own_version() -> str:
    """The version of this library with a digest of its files, since these change between two releases."""
    from cl_func import __version__

    root = Path(__file__).parents[1]
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(root.rglob("*.py")))
    return f"{__version__} #{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def module_of(value: Any) -> str:
    """The module that a function or class is defined in; a decorator may have given a function the `__module__` of another."""
    return (value.__globals__.get("__name__") if isinstance(value, FunctionType) else value.__module__) or ""
