"""What an earlier call wrote: it is kept, so that the work may be done in parts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def earlier(file: Path, rows: str, under: str, numbers: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The list `rows` of a JSON file, empty if there is no file.

    Raises ValueError if it was made with other numbers than these, which it keeps under `under`: one table must not mix two.
    """
    if not file.exists():
        return []
    held = json.loads(file.read_text())
    found = {name: held[under].get(name) for name in numbers}
    if found != dict(numbers):
        raise ValueError(f"--out: {file.parent} holds results with {found}, asked for are {dict(numbers)}; give another folder.")
    return held[rows]
