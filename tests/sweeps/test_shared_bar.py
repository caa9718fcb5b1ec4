"""One progress bar over several sweeps."""

from __future__ import annotations

import sys

import registry

import cl_func as cl
from cl_func.progress import ProgressBar, SharedBar

BENCH = registry.BENCH
NAIVE = cl.strategies.naive(registry.MODEL, registry.SGD, batch_size=5)


def said(capsys):
    """The lines without their times: "label: n of total"."""
    return [line.split(" probes")[0] for line in capsys.readouterr().err.splitlines()]


def test_pieces_move_one_bar(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    shared = SharedBar(True, 10, "all")
    shared.begin("a", 5)
    piece = ProgressBar(shared, 7, "sweep", "compiling", warmup=1)  # has more parts than were said
    for _ in range(7):
        piece.update(1)
    piece.close()
    shared.begin("b", 5)  # of which some were done before
    ProgressBar(shared, 2, "sweep").update(2)
    shared.close()
    lines = ["all: 0 of 10", "a, compiling: 1 of 10", *(f"a, sweep: {n} of 10" for n in (2, 3, 4, 5))]
    assert said(capsys) == [*lines, "b, sweep: 7 of 10", "b, sweep: 10 of 10"]


def test_a_piece_that_is_done_already_counts(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    shared = SharedBar(True, 4, "all")
    shared.begin("a", 2)
    shared.begin("b", 2)
    shared.close()
    assert said(capsys) == ["all: 0 of 4", "a: 2 of 4", "b: 4 of 4"]
    shared = SharedBar(False, 4, "all")
    shared.begin("a", 4)
    ProgressBar(shared, 2, "sweep").update(2)
    shared.close()
    assert said(capsys) == []


def test_sweeps_count_the_measurements_of_their_runs(monkeypatch, capsys):
    """However many lanes a chunk has, and though the last one is not full."""
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    shared = SharedBar(True, 10, "all")
    for name, lanes in (("a", 1), ("b", 2)):
        shared.begin(name, 3 * 2)
        cl.sweep(NAIVE, BENCH, seeds=3, lanes=lanes, compile=False, progress=shared)
        assert shared.done == shared.end
    lines = said(capsys)
    assert lines[1] == "a, sweep (eager, 1 run a chunk): 1 of 10"
    assert lines[-1] == "b, sweep (eager, 2 runs a chunk): 12 of 10"
    cl.sweep(NAIVE, BENCH, seeds=3, lanes=2, compile=False)
    assert "6 of 6" in capsys.readouterr().err
