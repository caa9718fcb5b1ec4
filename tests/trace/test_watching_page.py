"""The Python blocks of docs/watching.md run, and the page names every tap."""

from __future__ import annotations

import pages
import pytest

import cl_func as cl

PAGE = "watching.md"
TEXT = pages.text(PAGE)


@pytest.mark.parametrize("block", pages.blocks(PAGE))
def test_block(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pages.run(PAGE, block)
    if "# [False, True]" in block:
        assert capsys.readouterr().out.strip() == "[False, True]"


def test_every_tap_is_on_the_page():
    taps = {name for name in cl.taps.__all__ if name[0].islower()}
    assert {name for name in taps if f"`cl.taps.{name}(" not in TEXT} == set()
