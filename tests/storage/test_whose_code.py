"""Whose code it is: the user's own counts as it is written, that of Python and of installed packages by its name and version."""

from __future__ import annotations

import cProfile
import importlib
import runpy
import sys
import types

import pytest
import torch

from cl_func.storage import codes, fingerprint, resuming


def changes(before, now):
    return resuming.changes(fingerprint.of(x=before), fingerprint.of(x=now))


def compiled(text, module):
    made = types.ModuleType(module)
    exec(compile(text, "script.py", "exec"), vars(made))
    return made


@pytest.mark.parametrize("name", ["__main__", "__mp_main__"])
def test_a_script_under_a_profiler_is_the_users(name, monkeypatch):
    """`python -m cProfile script.py` leaves its own file in the place of the script."""
    monkeypatch.setitem(sys.modules, name, cProfile)
    codes.installed.cache_clear()
    assert changes(*(compiled(f"def f(x): return x * {k}", name).f for k in (1.5, 2.5))) != []
    assert changes(*(compiled(f"class C:\n    def f(self): return {k}", name).C() for k in (1.5, 2.5))) != []


@pytest.mark.parametrize(
    "text", ["def f(self): return {}", "rate = {}", "f = staticmethod(lambda: {})", "f = property(lambda self: {})"]
)
def test_classes_of_a_script_that_is_run_by_its_path_count_by_their_code(text, tmp_path):
    found = []
    for value in (1.5, 2.5):
        (tmp_path / "script.py").write_text(f"class C:\n    {text.format(value)}\n")
        found.append(runpy.run_path(str(tmp_path / "script.py"))["C"]())
    assert changes(*found) != []


def test_a_type_of_compiled_code_goes_by_its_name():
    kind = type(torch._C.ScriptModule)
    assert kind.__module__ not in sys.modules
    assert not any(path.startswith("code.") for path in fingerprint.of(x=kind))


def test_a_package_in_two_places_is_installed_where_it_is(tmp_path, monkeypatch):
    """Of a namespace package one part may be installed, and another be the user's own."""
    installed, own = tmp_path / "site-packages", tmp_path / "project"
    for folder, name in ((installed, "theirs"), (own, "mine")):
        (folder / "shared_name").mkdir(parents=True)
        (folder / "shared_name" / f"{name}.py").write_text("def f(): return 1\n")
        monkeypatch.syspath_prepend(str(folder))
    modules = {"shared_name.theirs": True, "shared_name.mine": False, "shared_name": False}
    for imported in (False, True):
        for name in modules if imported else ():
            importlib.import_module(name)
        codes.installed.cache_clear()
        assert {name: codes.installed(name) for name in modules} == modules
        assert imported or not modules.keys() & sys.modules.keys()
    for name in modules:
        monkeypatch.delitem(sys.modules, name)
    codes.installed.cache_clear()


def test_all_of_python_and_of_packages_is_installed():
    for name in ("os", "os.path", "abc", "runpy", "json.decoder", "torch", "torch.ops.aten", "scipy.stats", "cl_func.core", "time"):
        assert codes.installed(name), name
    for name in (__name__, "not_there", "not_there.at_all", ""):
        assert not codes.installed(name), name
