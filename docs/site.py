"""A hook of mkdocs: the README is the first page, and each public module has a page of the reference."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

import cl_func

ROOT = Path(__file__).parents[1]


def names(module: types.ModuleType) -> list[str]:
    """The public names of a module: functions, then classes, then modules."""
    own = [n for n, v in vars(module).items() if n[0] != "_" and callable(v) and getattr(v, "__module__", "") == module.__name__]
    kinds = (type, types.ModuleType)
    found = {name: getattr(module, name) for name in getattr(module, "__all__", own)}
    return sorted(found, key=lambda name: next((1 + i for i, kind in enumerate(kinds) if isinstance(found[name], kind)), 0))


def modules() -> dict[str, types.ModuleType]:
    """The modules that have a page, by its name, the package first."""
    found = {f"cl.{name}": getattr(cl_func, name) for name in sorted(cl_func.__all__)}
    return {"cl": cl_func, **{name: value for name, value in found.items() if isinstance(value, types.ModuleType)}}


def index() -> str:
    """The README, with its links as they are from docs/."""
    return (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")


def reference(shown: str, module: types.ModuleType) -> str:
    """A module: what its docstring says, then each of its public names, found where they are defined."""
    parts = [f"::: {module.__name__}\n    options: {{members: false, show_root_heading: false, show_root_toc_entry: false}}"]
    for name in names(module):
        value = getattr(module, name)
        if not isinstance(value, types.ModuleType):
            home = getattr(value, "__module__", None) or ""
            here = home.startswith("cl_func") and hasattr(value, "__qualname__")
            path = f"{home}.{value.__qualname__}" if here else f"{module.__name__}.{name}"
            parts.append(f"::: {path}\n    options: {{heading: {shown}.{name}, toc_label: {name}}}")
        elif module is not cl_func:
            parts.append(f"# {shown}.{name}\n\n{reference(f'{shown}.{name}', value)}")
    return "\n\n".join(parts) + "\n"


def on_files(files: Files, config: Any) -> Files:
    """Called by mkdocs with the files of docs/."""
    files.append(File.generated(config, "index.md", content=index()))
    for shown, module in modules().items():
        files.append(File.generated(config, f"reference/{shown}.md", content=f"# {shown}\n\n{reference(shown, module)}"))
    return files


def on_config(config: Any) -> Any:
    """Called by mkdocs with mkdocs.yml: the pages of the reference get into its menu."""
    for entry in config["nav"]:
        if isinstance(entry, dict) and "Reference" in entry:
            entry["Reference"] = [{shown: f"reference/{shown}.md"} for shown in modules()]
    return config
