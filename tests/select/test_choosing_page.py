"""The Python blocks of docs/choosing.md run, one after the other, and its table is that of the data."""

from __future__ import annotations

import re

import pages

from cl_func.select import literature

PAGE = "choosing.md"
TEXT = pages.text(PAGE)


def test_blocks(capsys):
    names = {}
    for block in pages.blocks(PAGE):
        pages.run(PAGE, block, names)
    said = capsys.readouterr().out
    assert "chosen on a held-out 10% of each experience, with the seeds 10000 to 10002\n" in said
    assert re.search(r"^Hyperparameters opt\.lr=0\.\d+, alpha=[\d.]+ chosen on a held-out 10% of each experience", said, re.M)
    assert [runs.shape for runs in names["point"].searched] == [(6, 3), (2, 3)]
    assert "{'batch_size': 32, 'epochs': 50, 'capacity': 500, 'replay_size': 32, 'alpha': 0.2, 'beta': 0.5}" in said


def test_the_table_names_what_is_known():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", TEXT, re.M))
    assert set(rows) == {one.source for one in literature._entries()}
    for one in literature._entries():
        assert re.search(rf"\b{one.benchmark}\b", rows[one.source])
        assert re.search(rf"\b{one.method}\b", rows[one.source].partition("|")[2])
    for source, row in rows.items():
        benchmarks, methods = row.split("|")
        known = {word for one in literature._entries() if one.source == source for word in (one.benchmark, one.method)}
        named = set(re.findall(r"\b(?:split|permuted|rotated)_\w+", benchmarks)) | set(re.findall(r"\w+", methods))
        assert named == known
