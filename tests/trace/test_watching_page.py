"""The Python blocks of docs/watching.md run, and the page names every tap."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import cl_func as cl

PAGE = Path(__file__).parents[2] / "docs" / "watching.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", TEXT, re.S))
def test_block(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, str(PAGE), "exec"), {})
    if "# [False, True]" in block:
        assert capsys.readouterr().out.strip() == "[False, True]"


def test_every_tap_is_on_the_page():
    taps = {name for name in cl.taps.__all__ if name[0].islower()}
    assert {name for name in taps if f"`cl.taps.{name}(" not in TEXT} == set()
