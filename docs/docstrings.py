"""An extension of griffe: the docstrings of this library, which are written for `help`, as Markdown for the reference."""

from __future__ import annotations

import re
from typing import Any

from griffe import Class, Docstring, Extension, Function, Module

_FIELD = re.compile(r"^    (\w+): ([^#=]+?)(?: = [^#]+?)?(?:  # (.*))?$")


def markdown(text: str, parameters: set[str]) -> str:
    """A docstring in which examples are fenced, arguments are items of a list, and each "Raises" is a paragraph.

    >>> print(markdown("Twice x.\\n\\nx: A number.\\n    At least 0.\\nRaises ValueError.\\n\\n>>> twice(2)\\n4", {"x"}))
    Twice x.
    <BLANKLINE>
    - `x`: A number.
        At least 0.
    <BLANKLINE>
    Raises ValueError.
    <BLANKLINE>
    ```pycon
    >>> twice(2)
    4
    ```
    """
    out: list[str] = []
    example = item = False
    for line in text.split("\n"):
        argument = re.match(r"(\w+(?:, \w+)*): (.*)", line)
        if line.startswith(">>>") and not example:
            out += ["", "```pycon"] if out and out[-1] else ["```pycon"]
            example = True
        elif example and not line.strip():
            out.append("```")
            example = False
        elif not example and argument and set(argument[1].split(", ")) <= parameters:
            out += [] if item or not (out and out[-1]) else [""]
            names = ", ".join(f"`{name}`" for name in argument[1].split(", "))
            line, item = f"- {names}: {argument[2]}", True
        elif not example and item and line and not line.startswith(" "):
            out.append("")
            item = False
        elif not example and re.match(r"Raises? \w|Reference: ", line) and out and out[-1]:
            out.append("")
        out.append(line)
    return "\n".join([*out, "```"] if example else out)


def fields(source: list[str]) -> str:
    """The fields of a state class and what is said behind them, as a list."""
    found = [match.groups() for match in map(_FIELD.match, source) if match]
    return "".join(f"\n- `{name}: {kind}`" + (f", {said}" if said else "") for name, kind, said in found)


class Docstrings(Extension):
    """Rewrites docstrings where they are collected."""

    def on_function_instance(self, *, func: Function, **_: Any) -> None:
        """Called with each function."""
        if func.docstring:
            func.docstring.value = markdown(func.docstring.value, {p.name.lstrip("*") for p in func.parameters})

    def on_module_members(self, *, mod: Module, **_: Any) -> None:
        """Called with each module."""
        if mod.docstring:
            mod.docstring.value = markdown(mod.docstring.value, set())

    def on_class_members(self, *, cls: Class, **_: Any) -> None:
        """Called with each class."""
        init = cls.members.get("__init__")
        known = {p.name for p in init.parameters} if isinstance(init, Function) else set()
        text = markdown(cls.docstring.value, known | set(cls.members)) if cls.docstring else ""
        if any(str(one.value).startswith("state") for one in cls.decorators):
            listed = fields(cls.lines)
            text += f"\n{listed}" if listed else ""
        if text:
            cls.docstring = Docstring(text, parent=cls, parser=cls.docstring.parser if cls.docstring else None)
