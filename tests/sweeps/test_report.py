"""The report of a sweep: one page that parses, loads nothing, and holds what is known of the runs."""

from __future__ import annotations

import base64
import html.parser
import re
import sys
import types

import pytest
import torch

import cl_func as cl
from cl_func import progress
from cl_func.sweeps import html_report

VOID = {"meta", "img"}


class Page(html.parser.HTMLParser):
    """A page read back: its text, its tables by rows, its pictures; tags must close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.rows, self.pictures = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        assert not {"href", "onload"} & found.keys()
        if tag == "img":
            self.pictures.append((found["alt"], found["src"]))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def made(axes=("opt.lr",), **changed):
    """Runs of two points of each axis and three seeds."""
    labels = {name: [0.1, 0.3] for name in axes} | {"seed": [0, 1, 2]}
    shape = tuple(len(v) for v in labels.values())
    accuracy = torch.rand(*shape, 4, 4, generator=torch.Generator().manual_seed(0))
    loss = torch.ones(*shape, 4, 4)
    loss[(0,) * len(axes) + (1,)] = torch.nan
    history = {"accuracy": accuracy, "loss": loss}
    return cl.Runs(labels, history, torch.ones(shape, dtype=torch.bool), 1.5, **changed)


def test_the_page_holds_what_is_known(tmp_path):
    runs = made(attributes={"torch": "2.13.0", "device": "cpu", "at": {"lwf.strength": 0.5}})
    path = runs.report(tmp_path / "out.html", title="A < B & C", command="make demo")
    assert path == tmp_path / "out.html"
    page = Page(path.read_text(encoding="utf-8"))
    said = " ".join(page.text)
    assert "A < B & C" in said
    assert "make demo" in said
    assert "6 runs (opt.lr: 2, seed: 3)" in said
    assert "1 of 6 diverged" in said
    mean, half = runs.mean_ci("average_accuracy")
    assert ["0.3", f"{mean[1]:.3f} ± {half[1]:.3f}"] == next(row for row in page.rows if row[0] == "0.3")[:2]
    rows = {row[0]: row[1:] for row in page.rows}
    assert rows["torch"] == ["2.13.0"]
    assert rows["at, lwf.strength"] == ["0.5"]
    assert rows["opt.lr"] == ["0.1, 0.3"]
    assert rows["seed"] == ["0, 1, 2"]
    assert [alt for alt, _ in page.pictures] == [
        "average over the stream",
        "after each experience, on each",
        "each experience over time",
    ]
    for _, source in page.pictures:
        kind, _, data = source.partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data, validate=True).startswith(b"\x89PNG")
    assert not re.search(r"https?://|url\(", path.read_text(encoding="utf-8"))


def test_two_axes_have_a_grid_and_metrics_may_be_named(tmp_path):
    runs = made(axes=("opt.lr", "beta"))
    page = Page(runs.report(tmp_path / "out.html", metrics=["forgetting", "average_loss"]).read_text(encoding="utf-8"))
    assert [alt for alt, _ in page.pictures][1] == "over opt.lr and beta"
    assert page.rows[0][2:] == ["forgetting (3 seeds)", "average_loss (3 seeds)"]


def test_what_cannot_be_drawn_is_said(tmp_path):
    runs = made()
    history = {"mse": runs["accuracy"][..., 0]}  # by time only: no matrix
    unfinished = cl.Runs(runs.axes, history, torch.tensor([[True, True, False]] * 2), 1.0)
    page = Page(unfinished.report(tmp_path / "out.html", metrics=["final_mse"]).read_text(encoding="utf-8"))
    assert [alt for alt, _ in page.pictures] == ["average over the stream"]
    assert "not drawn" in " ".join(page.text)
    assert "2 of 6 unfinished" in " ".join(page.text)


def test_joined_runs_tell_their_points(tmp_path):
    runs = made()
    joined = cl.Runs.join({"ER": runs.at(**{"opt.lr": 0.1}), "DER++": runs.at(**{"opt.lr": 0.3})})
    rows = {row[0]: row[1:] for row in Page(joined.report(tmp_path / "out.html").read_text(encoding="utf-8")).rows}
    assert rows["joined, method, ER, at, opt.lr"] == ["0.1"]
    assert rows["joined, method, DER++, at, opt.lr"] == ["0.3"]


def test_it_tells_with_which_arguments_each_method_was_made(tmp_path):
    bench, model, sgd = cl.testing.small_benchmark(), cl.models.mlp(6, hidden=(5,), n_classes=4), cl.optim.sgd(0.07)
    methods = {
        "naive": cl.strategies.naive(model, sgd, batch_size=5, epochs=3),
        "ER": cl.strategies.er(model, sgd, capacity=23, replay_size=4),
    }
    runs = cl.compare(methods, bench, seeds=1, compile=False, progress=False)
    rows = {row[0]: row[1] for row in Page(runs.report(tmp_path / "out.html").read_text(encoding="utf-8")).rows}
    assert {name: rows[f"joined, method, {name}, strategy"] for name in methods} == {name: repr(methods[name]) for name in methods}
    assert "epochs=3" in rows["joined, method, naive, strategy"]
    assert "float32[23, 6]" in rows["joined, method, ER, strategy"]
    runs.save(tmp_path / "runs")
    assert cl.Runs.load(tmp_path / "runs").at(method="ER").attributes["strategy"] == repr(methods["ER"])


@pytest.mark.parametrize(
    ("name", "message"),
    [("out.txt", "expected a file such as"), ("none/out.html", "its folder does not exist"), ("folder.html", "it is a folder")],
)
def test_paths_that_are_no_page(name, message, tmp_path):
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(ValueError, match=f"path: .*{message}"):
        made().report(tmp_path / name)


def test_the_command_of_this_process(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "orig_argv", ["/usr/bin/python3", f"{tmp_path}/study.py", "--name", "a b"])
    assert html_report.own_command() == "python3 study.py --name 'a b'"
    monkeypatch.setattr(sys, "orig_argv", ["python", "-c", "pass"])
    assert html_report.own_command() == ""
    monkeypatch.setattr(sys, "orig_argv", ["python", "kernel.py"])
    for is_kernel in (True, False):  # of the process; ipykernel may be imported for other reasons
        app = types.SimpleNamespace(IPKernelApp=types.SimpleNamespace(initialized=lambda answer=is_kernel: answer))
        monkeypatch.setitem(sys.modules, "ipykernel.kernelapp", app)
        assert html_report.own_command() == ("" if is_kernel else "python kernel.py")
        assert progress.is_shown(None) == (is_kernel or sys.stderr.isatty())
