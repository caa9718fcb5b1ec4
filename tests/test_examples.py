"""Every example and every Python block of the README runs."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import made_files
import pytest
import registry

import cl_func as cl

ROOT = Path(__file__).parent.parent
# The latter are torch's own, where it imports forward mode.
STRICT = ["-W", "error", *(f"-Wignore:`torch.jit.script:{kind}" for kind in ("DeprecationWarning", "FutureWarning"))]
ARGUMENTS = {"quickstart.py": ["--seeds", "2"], "cifar.py": ["--data", "cifar-10-batches-py", "--epochs", "1", "--width", "4"]}


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_example(path, tmp_path):
    out = tmp_path / "out"
    if path.name == "cifar.py":
        made_files.cifar(tmp_path, "cifar-10-batches-py", n=10)
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


def test_cifar_takes_a_folder_of_images_too(tmp_path):
    digits = [str(i) for i in range(10)]
    folder = made_files.photos(tmp_path, digits, per_class=4, split=("train", "test"), size=(32, 32))
    script = ROOT / "examples" / "cifar.py"
    options = ["--data", str(folder), "--fraction", "0.5", "--epochs", "1", "--buffer", "40", "--seeds", "2", "--width", "4"]
    run = subprocess.run([sys.executable, *STRICT, str(script), *options], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "20 training and 10 test images" in run.stdout
    assert run.stdout.count("after experience 4") == 2
    assert len(re.findall(r"^(class|task)-IL +[01]\.\d{3} ± ", run.stdout, re.M)) == 2


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S))
def test_readme(block, tmp_path):
    made_files.photos(tmp_path, [f"class {i}" for i in range(6)], per_class=10, size=(40, 30))
    env = {**os.environ, "MPLBACKEND": "Agg"}
    run = subprocess.run([sys.executable, *STRICT, "-c", block], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert run.returncode == 0, run.stderr[-3000:]


def test_own_images_take_few_lines():
    (block,) = [
        block for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S) if "from_folder" in block
    ]
    assert len([line for line in block.splitlines() if line.strip()]) <= 8
    assert ".table()" in block


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
