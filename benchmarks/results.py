"""Results as JSON that can be read and compared by line: a line for each field, for each member of a field that holds several."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def dumps(fields: Mapping[str, Any]) -> str:
    """The text of a mapping: rows of a table, each on a line of its own, stay rows in the file."""
    return "{\n" + ",\n".join(f" {json.dumps(name)}: {_value(value)}" for name, value in fields.items()) + "\n}\n"


def write(path: Path, fields: Mapping[str, Any]) -> None:
    """Write a file of results."""
    path.write_text(dumps(fields), encoding="utf-8")


def _value(value: Any) -> str:
    if isinstance(value, Mapping) and value:
        return "{\n" + ",\n".join(f"  {json.dumps(str(name))}: {json.dumps(part)}" for name, part in value.items()) + "\n }"
    if isinstance(value, (list, tuple)) and value:
        return "[\n" + ",\n".join(f"  {json.dumps(part)}" for part in value) + "\n ]"
    return json.dumps(value)
