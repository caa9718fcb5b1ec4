"""The Python blocks of docs/pretrained.md run."""

from __future__ import annotations

import pages
import pytest

PAGE = "pretrained.md"


@pytest.mark.parametrize("block", pages.blocks(PAGE))
def test_block(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pages.run(PAGE, block)
