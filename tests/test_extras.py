"""Without a package that only some extra brings: what needs it says so and how to get it; all else works."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import made_runs
import pytest
import registry
import torch

import cl_func as cl

FOLDER = Path(cl.__file__).parent
EXTRAS = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
STRATEGY = cl.strategies.naive(registry.MODEL, registry.SGD, batch_size=5)


def without(monkeypatch, package):
    """As if a package were not installed."""
    also = {"tensorboard": ["torch.utils.tensorboard"], "pillow": ["PIL", "PIL.Image"]}.get(package, [])
    for name in [package, *also, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)


def swept(executor=None):
    return cl.sweep(STRATEGY, registry.BENCH, seeds=1, compile=False, progress=False, executor=executor)


def scanned(folder):
    return cl.scan(STRATEGY.update, STRATEGY.init(cl.key(0)), registry.BENCH.train, checkpoint=cl.Checkpoint(folder))


def photos(folder):
    for part in ("train", "test"):
        (folder / part / "cat").mkdir(parents=True)
        (folder / part / "cat" / "0.png").touch()
    return folder


class Executor:
    def submit(self, function, *args):
        raise AssertionError("nothing was to be sent")


CALLS = {
    "matplotlib": ("plots", lambda folder: cl.plots.accuracy_timeline({"a": torch.rand(3)})),
    "pandas": ("pandas", lambda folder: swept().to_pandas()),
    "scipy": ("stats", lambda folder: made_runs.make({"method": ["a", "b"], "seed": [0, 1]}).compare("a", "b")),
    "scipy ranks": ("stats", lambda folder: cl.plots.critical_difference({name: torch.rand(3) for name in "abc"})),
    "xarray": ("xarray", lambda folder: swept().to_xarray()),
    "safetensors": ("checkpoint", lambda folder: cl.save(folder / "a", {"a": torch.ones(1)})),
    "safetensors features": (
        "checkpoint",
        lambda folder: cl.data.features(
            registry.MODEL, registry.MODEL.init(cl.key(0)), registry.BENCH.train[0].source, cache=folder
        ),
    ),
    "filelock": ("checkpoint", scanned),
    "tensorboard": ("tensorboard", cl.taps.tensorboard),
    "wandb": ("wandb", lambda folder: cl.taps.wandb()),
    "mlflow": ("mlflow", lambda folder: cl.taps.mlflow("digits")),
    "cloudpickle": ("cluster", lambda folder: swept(Executor())),
    "pillow": ("vision", lambda folder: cl.data.from_folder(photos(folder))),
    "hypothesis keys": ("testing", lambda folder: cl.testing.keys()),
    "hypothesis experiences": ("testing", lambda folder: cl.testing.experiences()),
    "hypothesis streams": ("testing", lambda folder: cl.testing.streams()),
    "hypothesis agents": ("testing", lambda folder: cl.testing.agents(STRATEGY.init)),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_needs_a_package_names_its_extra(name, monkeypatch, tmp_path):
    package, (extra, call) = name.split()[0], CALLS[name]
    without(monkeypatch, package)
    with pytest.raises(ImportError, match=rf'^[\w., =()]+ needs {package}: pip install "cl_func\[{extra}\]"$'):
        call(tmp_path)
    assert any(re.match(rf"{package}\b", requirement) for requirement in EXTRAS[extra])


def test_a_sweep_needs_none(monkeypatch, capsys):
    for package in ("tqdm", *(name.split()[0] for name in CALLS)):
        without(monkeypatch, package)
    assert bool(swept().finished.all())


def test_every_optional_import_is_among_these():
    """What is imported and no dependency goes through `checks.optional`, and all that goes through it was tried above."""
    asked, imported = set(), set()
    for path in FOLDER.rglob("*.py"):
        parsed = ast.parse(path.read_text())
        guarded = [part for part in ast.walk(parsed) if isinstance(part, ast.If) and ast.unparse(part.test) == "TYPE_CHECKING"]
        only_for_types = [node for part in guarded for node in part.body]  # never run
        for node in ast.walk(parsed):
            if node in only_for_types:
                continue
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "checks.optional":
                module, _, extra = (argument.value for argument in node.args)
                names = {"torch.utils.tensorboard": "tensorboard", "PIL.Image": "pillow"}
                asked.add((names.get(module, module.split(".")[0]), extra))
            elif isinstance(node, ast.Import):
                imported |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    # matplotlib: where a figure of it has been made already.
    assert imported - sys.stdlib_module_names - {"cl_func", "torch", "numpy", "optree"} == {"matplotlib"}
    assert asked == {(name.split()[0], extra) for name, (extra, _) in CALLS.items()} | {("tqdm", "progress")}
