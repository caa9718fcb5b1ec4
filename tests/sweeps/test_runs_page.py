"""The Python blocks of docs/runs.md run, one after the other."""

from __future__ import annotations

import pages
import torch

import cl_func as cl

PAGE = "runs.md"


def test_blocks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in pages.blocks(PAGE):
        pages.run(PAGE, block, names)
    said = capsys.readouterr().out
    assert "Runs(opt.lr: 2, seed: 3; accuracy float32[2, 3, 5, 5]" in said
    assert "| method | average_accuracy (3 seeds) | forgetting (3 seeds) | average_loss (3 seeds) |" in said
    assert "\\begin{tabular}{lccc}" in said
    assert repr(names["again"]) == repr(names["both"]) == repr(cl.Runs.load("both.safetensors"))
    alone = names["both"].at(method=["ER"])
    assert names["part"].axes == alone.axes
    assert torch.equal(names["part"]["accuracy"], alone["accuracy"])
    assert set(names["derpp"].best()) == {"opt.lr", "alpha"}
