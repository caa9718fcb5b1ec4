"""The Python blocks of docs/augmentation.md run."""

from __future__ import annotations

import pages
import pytest

PAGE = "augmentation.md"


@pytest.mark.parametrize("block", pages.blocks(PAGE))
def test_block(block):
    pages.run(PAGE, block)
