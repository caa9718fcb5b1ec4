"""docs/scenarios.md: what it shows runs, and every stream that there is stands on it or in the page on data."""

import pages
import pytest

import cl_func as cl

PAGE = "scenarios.md"


@pytest.mark.parametrize("block", pages.blocks(PAGE))
def test_a_block_of_the_page_runs(block):
    pages.run(PAGE, block)


def test_every_stream_is_told_of():
    text = pages.text(PAGE) + pages.text("data.md") + pages.text("stored.md")
    assert [name for name in cl.streams.__all__ if name not in text] == []
