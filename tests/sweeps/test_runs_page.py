"""The Python blocks of docs/runs.md run, one after the other."""

from __future__ import annotations

import re
from pathlib import Path

import cl_func as cl

PAGE = Path(__file__).parents[2] / "docs" / "runs.md"


def test_blocks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S):
        exec(compile(block, str(PAGE), "exec"), names)
    said = capsys.readouterr().out
    assert "Runs(opt.lr: 2, seed: 3; accuracy float32[2, 3, 5, 5]" in said
    assert "| method | average_accuracy (3 seeds) | forgetting (3 seeds) | average_loss (3 seeds) |" in said
    assert "\\begin{tabular}{lccc}" in said
    assert repr(names["again"]) == repr(names["both"]) == repr(cl.Runs.load("both.safetensors"))
    assert set(names["derpp"].best()) == {"opt.lr", "alpha"}
