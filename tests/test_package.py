"""What is published: an sdist that holds its own tests, and a wheel that works in an empty folder, with and without extras."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pages
import pytest

ROOT = Path(__file__).parents[1]
BESIDE = ("cl_func", "tests", "benchmarks", "examples", "docs")
WITHOUT = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        hidden = name.partition(".")[0] in {extras!r}
        return None if hidden else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Without, sys.meta_path)
"""
EXTRAS = {
    "PIL",
    "matplotlib",
    "tqdm",
    "hypothesis",
    "safetensors",
    "filelock",
    "tensorboard",
    "cloudpickle",
    "pandas",
    "scipy",
    "xarray",
}


def run(*command, **options):
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with the sdist and the wheel that is built from it."""
    source, out = tmp_path_factory.mktemp("source") / "cl_func", tmp_path_factory.mktemp("dist")
    source.mkdir()
    for name in BESIDE:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file() and path.suffix in {".toml", ".md", ".txt", ".in", ""}:
            shutil.copy(path, source)
    run("-m", "build", "--no-isolation", "--outdir", out, source, env={**os.environ, "PYTHONWARNINGS": "ignore"})
    return out


def test_the_metadata_are_whole(built):
    run("-m", "twine", "check", "--strict", *built.iterdir())
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        (name,) = [name for name in content.namelist() if name.endswith("METADATA")]
        text = content.read(name).decode()
        names = content.namelist()
    assert "License-Expression: MIT" in text
    assert "Provides-Extra: all" in text
    assert {"cl_func/py.typed", "cl_func/data/digits.npz", "cl_func/core/updates.py", "cl_func/select/published.toml"} <= set(names)
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "examples"))]


def test_the_tests_run_from_the_sdist(built, tmp_path):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as content:
        content.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    every = run("-m", "pytest", "-n0", "--collect-only", "-q", "-p", "no:cacheprovider", cwd=folder, env=environment)
    ours = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert {Path(line.partition(":")[0]).name for line in every.splitlines() if ": " in line} >= ours
    run("-m", "pytest", "-n0", "-q", "tests/test_layout.py", "tests/test_tree.py", cwd=folder, env=environment)


@pytest.mark.parametrize("extras", [True, False])
def test_the_first_block_of_the_readme_runs_from_the_wheel_in_an_empty_folder(built, tmp_path, extras):
    (wheel,) = built.glob("*.whl")
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    with zipfile.ZipFile(wheel) as content:
        content.extractall(site)
    block = pages.blocks(pages.README)[0]
    where = f"import cl_func; assert cl_func.__file__.startswith({str(site)!r}), cl_func.__file__\n"
    script = empty / "first.py"
    script.write_text(("" if extras else WITHOUT.format(extras=EXTRAS)) + where + block)
    said = run(script, cwd=empty, env={**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"})
    assert re.fullmatch(r"tensor\(\[[\d., ]+\]\) tensor\(0\.\d+\)\ntensor\(\[[\d., ]+\]\)\n", said)
