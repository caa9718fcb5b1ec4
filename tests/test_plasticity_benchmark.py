"""The benchmark of plasticity on images: its tasks, each method on them, and a call that goes on where another stopped."""

from __future__ import annotations

import gzip
import json
import struct
import sys

import numpy as np
import pytest
import torch

import cl_func as cl
from benchmarks.accuracy import plasticity


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images whose rows of pixels tell the class."""
    found, generator = tmp_path_factory.mktemp("idx"), np.random.default_rng(0)
    for part, n in (("train", 60), ("t10k", 10)):
        y = np.arange(n, dtype=np.uint8) % 10
        x = generator.integers(0, 60, (n, 28, 28)).astype(np.uint8)
        x[np.arange(n), y] += 180
        with gzip.open(found / f"{part}-images-idx3-ubyte.gz", "wb") as file:
            file.write(struct.pack(">4I", 0x803, n, 28, 28) + x.tobytes())
        with gzip.open(found / f"{part}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(struct.pack(">2I", 0x801, n) + y.tobytes())
    return found


def test_tasks(folder):
    data = cl.data.idx_folder(folder)[0]
    permuted = plasticity.stream(3, data=data, problem="permuted", tasks=3).train
    assert len(permuted) == 3
    first, second = (exp.x.flatten(1) for exp in permuted[:2])
    assert not torch.equal(first, second)
    assert torch.equal(first.sort(1).values, second.sort(1).values)
    labels = plasticity.stream(3, data=data, problem="labels", tasks=3).train
    for exp in labels:
        assert torch.equal(exp.x, labels[0].x)
        assert exp.y.bincount().tolist() == [6] * 10
    assert not torch.equal(labels[0].y, labels[1].y)
    assert not torch.equal(plasticity.stream(4, data=data, problem="labels", tasks=3).train[0].y, labels[0].y)


def run(monkeypatch, folder, out, *words):
    size = ["--tasks", "2", "--rows", "40", "--hidden", "10", "10", "--seeds", "2", "--tuning-seeds", "1"]
    monkeypatch.setattr(sys, "argv", ["", "--data", str(folder), "--out", str(out), *size, *words])
    return plasticity.main()


def test_methods(folder, tmp_path, monkeypatch, capsys):
    words = ["--problem", "labels", "--epochs", "2"]
    assert run(monkeypatch, folder, tmp_path, *words, "--methods", "plain", "CReLU") == 0
    assert run(monkeypatch, folder, tmp_path, *words) == 0  # the others
    said = capsys.readouterr().out
    assert said.count("plain:") == said.count("CReLU:") == 1
    rows = json.loads((tmp_path / "plasticity.json").read_text())["rows"]
    assert [one["method"] for one in rows[:2]] == ["plain", "CReLU"]
    assert {one["method"] for one in rows} == set(plasticity.METHODS)
    for one in rows:
        accuracy = torch.tensor(one["accuracy"])
        assert accuracy.shape == (2, 2)
        assert one["all"][0] == pytest.approx(accuracy.mean().item(), abs=1e-3)
        assert one["change"][0] == pytest.approx((accuracy[:, 1] - accuracy[:, 0]).mean().item(), abs=1e-3)
        assert set(one["values"]) == set(plasticity.METHODS[one["method"]].grid)
        assert f"| {one['method']} |" in (tmp_path / "plasticity.md").read_text()
    assert (tmp_path / "plasticity.png").stat().st_size > 1000
    assert run(monkeypatch, folder, tmp_path, *words, "--lr", "0.1") == 2  # another protocol in the same folder
