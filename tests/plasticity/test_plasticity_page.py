"""The Python blocks of docs/plasticity.md run, and its table names every method."""

import re
from pathlib import Path

import pytest

import cl_func as cl

PAGE = Path(__file__).parents[2] / "docs" / "plasticity.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", TEXT, re.S))
def test_a_block_of_the_page(block):
    exec(compile(block, str(PAGE), "exec"), {"__name__": "page"})


def test_the_page_names_every_method():
    methods = {name for name in cl.plasticity.__all__ if not isinstance(getattr(cl.plasticity, name), type)}
    assert {name for name in methods if f"`{name}(" not in TEXT and f"plasticity.{name}(" not in TEXT} == set()
