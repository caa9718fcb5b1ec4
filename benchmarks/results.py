"""Results as JSON that diffs well: each field on a line of its own, and each member of a list or a mapping."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def dumps(fields: Mapping[str, Any]) -> str:
    """The JSON text of a mapping; the rows of a table stay one line each."""
    return "{\n" + ",\n".join(f" {json.dumps(name)}: {_value(value)}" for name, value in fields.items()) + "\n}\n"


def write(path: Path, fields: Mapping[str, Any]) -> None:
    """Write a file of results."""
    path.write_text(dumps(fields), encoding="utf-8")


def earlier(file: Path, rows: str, under: str, numbers: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The list `rows` that an earlier call wrote to a JSON file, so that the work can be done in parts; empty without a file.

    Raises ValueError if the file was made with other numbers, which it holds under the name `under`: a table must not mix the two.
    """
    if not file.exists():
        return []
    content = json.loads(file.read_text())
    found = {name: content[under].get(name) for name in numbers}
    if found != dict(numbers):
        raise ValueError(f"--out: {file.parent} holds results with {found}, this call has {dict(numbers)}; give another folder.")
    return content[rows]


def _value(value: Any) -> str:
    if isinstance(value, Mapping) and value:
        return "{\n" + ",\n".join(f"  {json.dumps(str(name))}: {json.dumps(part)}" for name, part in value.items()) + "\n }"
    if isinstance(value, (list, tuple)) and value:
        return "[\n" + ",\n".join(f"  {json.dumps(part)}" for part in value) + "\n ]"
    return json.dumps(value)
