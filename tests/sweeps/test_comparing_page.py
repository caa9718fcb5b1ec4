"""The Python blocks of docs/comparing.md run, one after the other, and its numbers are right."""

from __future__ import annotations

import re

import pages

from cl_func.__main__ import parser
from cl_func.sweeps import significance

PAGE = "comparing.md"
TEXT = pages.text(PAGE)


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for block in pages.blocks(PAGE):
        pages.run(PAGE, block, names)
    said = capsys.readouterr().out
    assert re.search(r"ER \(opt\.lr=0\.0[15]\) chosen on a held-out 20% of each experience", said)
    assert "3 seeds: p is at least 0.25 in Wilcoxon's test" in said


def test_the_seeds_that_are_needed():
    comparisons, seeds = ([*map(int, re.findall(r"\d+", line))] for line in re.findall(r"^\| (?:comp|seeds).*$", TEXT, re.M))
    assert [significance.needed("wilcoxon", 0.05, m) for m in comparisons] == seeds


def test_the_commands_are_understood():
    for line in re.findall(r"^    python -m cl_func (.*)$", TEXT, re.M):
        parser().parse_args(line.split())
