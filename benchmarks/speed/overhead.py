"""B8: what checkpoints, taps and a progress bar cost a run at their default settings."""

from __future__ import annotations

from benchmarks.speed.report import Report
from benchmarks.speed.steps import Contender, Settings, compare

NAMES = ("scan", "scan with checkpoints and a CSV tap", "sweep", "sweep with checkpoints and progress")


def b8(settings: Settings, report: Report) -> None:
    """One compiled run of B1, with and without them, in turn."""
    work = "B8"
    report.titles[work] = (
        "online ER of B1, one compiled run of some seconds on one thread: with and without checkpoints at default settings"
    )
    steps = 2_000 if settings.quick else 10_000
    contenders = [
        Contender(name, "ours", "speed.workers.overhead", ("B1", "--steps", steps, "--mode", mode))
        for name, mode in zip(NAMES, ("scan", "scan+", "sweep", "sweep+"), strict=True)
    ]
    compare(settings, report, work, contenders)
    for plain, kept in (NAMES[:2], NAMES[2:]):
        report.bar(work, f"{kept} / {plain}", report.median(work, kept), report.median(work, plain), 1.02)
