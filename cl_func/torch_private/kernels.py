"""The kernels of a program in a few C++ files, instead of one for each of them.

Whatever a file holds, g++ takes 0.4 s for torch's header, though it is precompiled, and 0.2 s to link: more than most kernels take.
And before it looks into its cache on disk, inductor has g++ preprocess that header, 0.2 s, to see whether it has changed.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch._inductor import async_compile
from torch._inductor.async_compile import AsyncCompile, get_compile_threads
from torch._inductor.codecache import CodeCacheFuture, CppPythonBindingsCodeCache
from torch._inductor.utils import clear_on_fresh_cache

FULL = 60_000  # characters, after which a file gets no further kernel: 1.6 s of g++, and another core can take the next file

FUNCTION = re.compile(r'extern "C"\s+void\s+kernel\(')
DIRECTIVE = re.compile(r"^\s*#\s*(?!pragma\b)", re.MULTILINE)
INCLUDE = re.compile(r"^#include .*\n", re.MULTILINE)

HEAD = """
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <cstdlib>
#include <exception>

static void* (*elements)(PyObject*);  // of a tensor
"""

KERNEL = """
namespace n{i} {{
{source}
}}
static PyObject* call_{i}(PyObject*, PyObject* const* given, Py_ssize_t n) {{
    if (n != {n}) {{
        PyErr_SetString(PyExc_TypeError, "kernel_{i} takes {n} tensors");
        return nullptr;
    }}
    try {{
        n{i}::kernel_{i}({arguments});
    }} catch (const std::exception& error) {{
        PyErr_SetString(PyExc_RuntimeError, error.what());
        return nullptr;
    }}
    Py_RETURN_NONE;
}}
"""

MODULE = """
static PyMethodDef methods[] = {{
{methods}
    {{nullptr, nullptr, 0, nullptr}}}};
static PyModuleDef module = {{PyModuleDef_HEAD_INIT, "kernels", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr}};

PyMODINIT_FUNC PyInit_kernels() {{
    const char* address = std::getenv("_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR");
    elements = reinterpret_cast<void* (*)(PyObject*)>(address ? std::strtoull(address, nullptr, 10) : 0);
    if (elements == nullptr) {{
        PyErr_SetString(PyExc_RuntimeError, "_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR must be set");
        return nullptr;
    }}
    return PyModule_Create(&module);
}}
"""


@clear_on_fresh_cache
class Built(CppPythonBindingsCodeCache):
    """Inductor's cache of libraries on disk, for Python modules of several kernels, which are built where they are missing."""

    cache = dict[str, Callable[[], Any]]()  # noqa: RUF012 (each class has its own, as the base class declares it)
    cache_clear = staticmethod(cache.clear)
    entry_function = "kernels"


@clear_on_fresh_cache
class Found(Built):
    """The same for modules that are on disk, which takes no look at the header."""

    cache = dict[str, Callable[[], Any]]()  # noqa: RUF012 (each class has its own, as the base class declares it)
    cache_clear = staticmethod(cache.clear)

    @classmethod
    def _get_uncompiled_header(cls, device: str) -> None:
        return None


class Waiting(CodeCacheFuture):
    """A kernel whose file is not built yet."""

    def __init__(self, types: Sequence[str], source: str) -> None:
        self.types, self.source = types, source


class Together(AsyncCompile):
    """What builds the kernels of a generated program when it is loaded; those of C++ together."""

    def cpp_pybinding(self, argtypes: list[str], source_code: str) -> Any:
        """A kernel for later, or built by itself if it is of a form that is not known."""
        known = len(FUNCTION.findall(source_code)) == 1 and not DIRECTIVE.search(INCLUDE.sub("", source_code))
        if not known or not all(kind.endswith("*") for kind in argtypes):
            return super().cpp_pybinding(argtypes, source_code)
        return Waiting(argtypes, source_code)

    def wait(self, scope: dict[str, Any]) -> None:
        """Put the kernels in the place of those that wait, in the variables of the program."""
        names = [name for name, value in scope.items() if isinstance(value, Waiting)]
        files = _files([scope[name] for name in names])
        loads = [_load(_text(kernels)) for kernels in files]
        built = [getattr(load(), f"kernel_{i}") for load, kernels in zip(loads, files, strict=True) for i in range(len(kernels))]
        scope.update(zip(names, built, strict=True))
        super().wait(scope)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Have the kernels of programs that are compiled or loaded meanwhile built together."""
    module: Any = async_compile
    module.AsyncCompile = Together
    try:
        yield
    finally:
        module.AsyncCompile = AsyncCompile


def _files(kernels: list[Waiting]) -> list[list[Waiting]]:
    """The kernels in order, each file closed when it is full. The same on all machines, whose caches may be shared."""
    files, size = list[list[Waiting]](), FULL
    for kernel in kernels:
        if size + len(kernel.source) > FULL:
            files.append([])
            size = 0
        files[-1].append(kernel)
        size += len(kernel.source)
    return files


def _text(kernels: list[Waiting]) -> str:
    """A file of some kernels, each in a namespace of its own, and a Python function for each of them."""
    includes = dict.fromkeys(line for kernel in kernels for line in INCLUDE.findall(kernel.source))
    parts = ["".join(includes), HEAD]
    for i, kernel in enumerate(kernels):
        source = FUNCTION.sub(f'extern "C" void kernel_{i}(', INCLUDE.sub("", kernel.source))
        arguments = ", ".join(f"static_cast<{kind}>(elements(given[{j}]))" for j, kind in enumerate(kernel.types))
        parts.append(KERNEL.format(i=i, source=source, n=len(kernel.types), arguments=arguments))
    cast = "reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>"
    methods = [f'    {{"kernel_{i}", {cast}(call_{i})), METH_FASTCALL, nullptr}},' for i in range(len(kernels))]
    return "".join(parts) + MODULE.format(methods="\n".join(methods))


def _load(text: str) -> Callable[[], Any]:
    """What gives the module of a file, which is being built meanwhile if it is not on disk."""
    missing = list[Any]()
    load = Found.load_async(text, submit_fn=missing.append)  # called with the task of building it
    if missing:
        _forget(load)
        load = Built.load_async(text, submit_fn=Together.submit if get_compile_threads() > 1 else None)

    def module() -> Any:
        try:
            return load()
        except BaseException:  # such as g++ killed by Ctrl-C: another try begins anew
            _forget(load)
            raise

    return module


def _forget(load: Callable[[], Any]) -> None:
    """Remove what gives a module from the caches in memory."""
    for cache in (Found.cache, Built.cache):
        for key in [key for key, value in cache.items() if value is load]:
            cache.pop(key, None)


# The threads that run g++ do not exist in a forked process, where a pool of them would wait for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=AsyncCompile.pool.cache_clear)
