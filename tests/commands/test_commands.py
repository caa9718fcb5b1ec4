"""`python -m cl_func`: what it reads, that every method works with its defaults, what it prints and what it writes."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import made_files
import numpy as np
import pytest
import torch

import cl_func as cl
from cl_func.__main__ import main
from cl_func.commands import methods, problems

SMALL = ["--hidden", "8", "--epochs", "2", "--quiet"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """An npz file with 40 rows of ten classes, for what need not be accurate."""
    x = np.random.default_rng(0).random((60, 6)).astype(np.float32)
    y = np.arange(60) % 10
    path = tmp_path_factory.mktemp("small") / "data.npz"
    np.savez(path, x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:])
    return path


# ---------------------------------------------------------------- methods


@pytest.mark.parametrize("name", methods.names())
def test_every_method_works_with_its_defaults(name, small):
    """In each setting that it is for: a run that does not diverge."""
    train, test = problems.read(small)
    for setting in methods.settings(name):
        problem = problems.problem(setting, train, test, hidden=(8,), epochs=1, batch_size=4, capacity=100)
        bench = methods.STREAMS.get(name, lambda benchmark: benchmark)(problem.benchmark)
        runs = cl.sweep(methods.make(name, problem), bench, seeds=1, compile=False, progress=False)
        assert bool(runs.finished.all())
        assert not bool(runs.diverged.any()), setting
    for setting in set(methods.SETTINGS) - set(methods.settings(name)):
        problem = problems.problem(setting, train, test, hidden=(8,))
        with pytest.raises(ValueError, match=rf"^methods: '{name}' is for the setting .*, not for '{setting}'"):
            methods.make(name, problem)


def test_the_methods_are_those_of_the_library(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == methods.names()
    assert {"er", "der_pp", "lwf", "slda", "joint"} <= set(methods.names())
    assert re.search(r"^scr +class +Supervised contrastive replay", "\n".join(lines), re.M)
    assert re.search(r"^slda +class, domain +Deep streaming LDA \(Hayes & Kanan", "\n".join(lines), re.M)


# ---------------------------------------------------------------- data


def idx(folder):
    folder.mkdir()
    for part, n in (("train", 20), ("t10k", 10)):
        labels = bytes(i % 10 for i in range(n))
        (folder / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, n, 2, 2) + bytes(4 * n))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, n) + labels)
    return folder


def pair_of_npz(folder):
    folder.mkdir()
    for part, n in (("train", 20), ("test", 9)):  # of which the test part lacks a class
        np.savez(folder / f"{part}.npz", x=np.zeros((n, 4), dtype=np.float32), y=np.arange(n) % 10)
    return folder


def one_npz(folder):
    folder.mkdir()
    arrays = {"x_train": np.zeros((20, 4), dtype=np.float32), "y_train": np.arange(20) % 10}
    np.savez(folder / "mine.npz", **arrays, x_test=arrays["x_train"][:9], y_test=arrays["y_train"][:9])
    return folder


def images(folder):
    return made_files.photos(folder, [str(i) for i in range(10)], per_class=5)


def parted_images(folder):
    return made_files.photos(folder, [str(i) for i in range(10)], per_class=5, split=("train", "test"))


def cifar(folder):
    folder.mkdir()
    made_files.cifar(folder, "cifar-10-batches-py", n=10)
    return folder


@pytest.mark.parametrize(
    ("make", "rows", "shape"),
    [
        (idx, (20, 10), (1, 2, 2)),
        (pair_of_npz, (20, 9), (4,)),
        (one_npz, (20, 9), (4,)),
        (images, (40, 10), (3, 8, 6)),
        (parted_images, (50, 20), (3, 8, 6)),
        (cifar, (50, 10), (3, 32, 32)),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_folders_are_recognised(make, rows, shape, tmp_path):
    train, test = problems.read(make(tmp_path / "data"))
    assert (len(train), len(test)) == rows
    assert tuple(train.x.shape[1:]) == shape
    assert (train.n_classes, test.n_classes) == (10, 10)
    problem = problems.problem("class", train, test)
    assert len(problem.benchmark.train) == 5
    problem.model.init(cl.key(0))
    layers = {name.partition(".")[0] for name in problem.model.init(cl.key(0)).params}
    assert len(layers) > 3 if shape[0] == 3 else len(layers) == 3


def test_what_is_no_data_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^data: no such file or folder"):
        problems.read(tmp_path / "nowhere")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"^data: expected a folder or an npz file"):
        problems.read(tmp_path / "notes.txt")
    train, _ = problems.read(None)
    assert (len(train), train.n_classes) == (1438, 10)
    numbers = cl.Dataset(train.x, train.x[:, 0].float().clone())
    with pytest.raises(ValueError, match=r"^data: expected class labels"):
        problems.problem("class", numbers, numbers)


def test_the_classes_are_parted_as_equally_as_can_be():
    assert [problems.experiences(n) for n in (10, 100, 9, 8, 7, 2, 1)] == [5, 5, 3, 4, 7, 2, 1]


# ---------------------------------------------------------------- the command


def test_it_prints_and_writes(tmp_path, capsys):
    out = tmp_path / "out"
    options = ["--methods", "naive", "er", "joint", "--seeds", "2", "--out", str(out), "--hidden", "64", "--epochs", "5", "--quiet"]
    assert main(["compare", *options]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.startswith("1,438 training and 359 test rows, 10 classes, 5 experiences; minibatches of 32, 5 epochs, a memory")
    rows = dict(re.findall(r"^\| (\w+) \| ([0-9.]+) ± [0-9.]+ [^|]*\| -?[0-9.]+ ±", said.out, re.M))
    assert float(rows["naive"]) + 0.3 < float(rows["er"]) < float(rows["joint"])
    assert "| naive | er | -0." in said.out
    assert "2 seeds: p is at least 0.5 in Wilcoxon's test" in said.out
    assert {path.name for path in out.iterdir()} == {"table.md", "runs.safetensors", "accuracy.png", "ranks.png"}
    assert (out / "table.md").read_text().strip() in said.out
    runs = cl.load(out / "runs.safetensors")
    assert runs.axes == {"method": ["naive", "er", "joint"], "seed": [0, 1]}
    assert f"{runs.metric()[1].mean():.3f}" == rows["er"]


def test_settings_are_an_axis_and_a_folder_is_resumed(small, tmp_path, capsys, monkeypatch):
    options = ["--data", str(small), "--setting", "class", "task", "domain", "--methods", "er", "lwf", "--seeds", "1", *SMALL]
    options += ["--resume", str(tmp_path / "kept")]
    assert main(["compare", *options]) == 0
    said = capsys.readouterr().out
    assert re.findall(r"^\| (\w+) \| (class|task|domain) \| [0-9.]+ ", said, re.M) == [
        (name, setting) for name in ("er", "lwf") for setting in ("class", "task", "domain")
    ]
    monkeypatch.setattr("cl_func.sweeps.sweep.run_here", lambda *arguments: pytest.fail("it was run again"))
    assert main(["compare", *options]) == 0
    assert capsys.readouterr().out == said


def test_a_method_that_fails_leaves_the_table(small, capsys, monkeypatch):
    def broken(state, exp):
        raise RuntimeError("no such luck")

    def made(name, problem):
        strategy = make(name, problem)
        return cl.Strategy(strategy.init, broken, strategy.model) if name == "lwf" else strategy

    make = methods.make
    monkeypatch.setattr(methods, "make", made)
    assert main(["compare", "--data", str(small), "--methods", "naive", "lwf", "--seeds", "1", *SMALL]) == 1
    said = capsys.readouterr()
    assert re.search(r"^\| naive \| [0-9.]+", said.out, re.M)
    assert "1 of 2 failed: 'lwf': RuntimeError: no such luck" in said.err


def test_a_method_that_diverges_leaves_the_rest(small, tmp_path, capsys, monkeypatch):
    """All that can be written is written, and what cannot be ranked is named."""

    def diverged(state, exp):
        return state.replace(model=cl.tree.replace(state.model, params=cl.tree.map(lambda p: p * float("nan"), state.model.params)))

    def made(name, problem):
        strategy = make(name, problem)
        return cl.Strategy(strategy.init, diverged, strategy.model) if name == "lwf" else strategy

    make, out = methods.make, tmp_path / "out"
    monkeypatch.setattr(methods, "make", made)
    arguments = ["--data", str(small), "--methods", "naive", "er", "lwf", "--seeds", "2", "--out", str(out), *SMALL]
    assert main(["compare", *arguments]) == 0
    said = capsys.readouterr()
    assert "no ranks.png: plot_critical_difference: 0 of 2 runs have a number for all that is ranked" in said.err
    assert "there is none for 'lwf' (2 of 2)." in said.err
    assert {path.name for path in out.iterdir()} == {"table.md", "runs.safetensors", "accuracy.png"}
    assert "accuracy.png" in said.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--methods", "er", "foo"], r"methods: 'foo' is none of .*er_ace"),
        (["--methods", "scr", "--setting", "task"], "methods: 'scr' is for the setting class, not for 'task'"),
        (["--methods", "er", "er"], "give each once"),
        (["--seeds", "0"], "argument --seeds: expected an integer of at least 1, got '0'"),
        (["--seeds", "many"], "argument --seeds: expected an integer of at least 1, got 'many'"),
        (["--setting", "online"], "argument --setting: invalid choice"),
        (["--data", "/nowhere"], "data: no such file or folder: /nowhere"),
        (["--experiences", "3"], "n_experiences"),
        (["--lr", "-1"], "lr"),
        (["--device", "nowhere"], "device"),
    ],
)
def test_bad_arguments_are_said_in_a_line(arguments, says, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["compare", *SMALL, *arguments])
    assert caught.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.search(says, last)
    assert last.startswith("python -m cl_func")


def test_the_module_is_a_command(small, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(cl.__file__).parents[1])}
    command = [sys.executable, "-m", "cl_func", "compare", "--data", str(small), "--methods", "naive", "--seeds", "1", *SMALL]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert run.returncode == 0, run.stderr
    assert "| naive |" in run.stdout
    assert not list(tmp_path.iterdir())
    assert torch.get_num_threads() == 1
