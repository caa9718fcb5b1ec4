"""The pages in docs/, the README, and their Python blocks, which tests run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
README = "../README.md"


def text(name: str) -> str:
    """A page, such as "runs.md"."""
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(name: str) -> list[str]:
    """Its Python blocks."""
    return re.findall(r"```python\n(.*?)```", text(name), re.S)


def run(name: str, block: str, names: dict[str, Any] | None = None) -> None:
    """Run a block of a page, with the names that earlier blocks have made."""
    exec(compile(block, f"docs/{name}", "exec", dont_inherit=True), {"__name__": "page"} if names is None else names)
