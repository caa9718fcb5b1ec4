"""The Python blocks of docs/plasticity.md run, and its table names every method."""

from __future__ import annotations

import pages
import pytest

import cl_func as cl

PAGE = "plasticity.md"
TEXT = pages.text(PAGE)


@pytest.mark.parametrize("block", pages.blocks(PAGE))
def test_a_block_of_the_page(block):
    pages.run(PAGE, block)


def test_the_page_names_every_method():
    methods = {name for name in cl.plasticity.__all__ if not isinstance(getattr(cl.plasticity, name), type)}
    assert {name for name in methods if f"`{name}(" not in TEXT and f"plasticity.{name}(" not in TEXT} == set()
