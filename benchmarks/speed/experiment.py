"""B5: a whole experiment, from the start of the process to its table, including compilation."""

from __future__ import annotations

import tempfile

from benchmarks.peers.interpreters import MAKE
from benchmarks.process import WorkerError, shown, timed
from benchmarks.speed.report import Measured, Report
from benchmarks.speed.steps import Settings

FOLDER = "FOLDER"  # shown instead of a local path


def b5(settings: Settings, report: Report) -> None:
    """Split-Fashion-MNIST: many seeds of ours beside one seed of Avalanche."""
    work, seeds = "B5", 4 if settings.quick else 20
    report.titles[work] = f"Split-Fashion-MNIST, 5 experiences, online ER: {seeds} seeds of ours, 1 of Avalanche"
    if settings.data is None:
        report.missing.append((work, "all", "skipped: give --data FOLDER with the idx files of Fashion-MNIST"))
        print("  skipped: give --data FOLDER with the idx files of Fashion-MNIST")
        return
    rows = ("--limit", 3000) if settings.quick else ()
    arguments = ("--data", settings.data, *rows)
    commands = {
        f"ours, {seeds} seeds": settings.peers.command("ours", "benchmarks.speed.fashion", (*arguments, "--seeds", seeds)),
        "Avalanche, 1 seed": settings.peers.command("avalanche", "benchmarks.peers.avalanche_fashion", arguments),
    }
    if settings.quick:
        report.notes.append("B5: the first 3,000 training images only, so start-up and compilation dominate")
    seconds: dict[str, list[float]] = {}
    for name, command in commands.items():
        if command is None:
            report.missing.append((work, name, f"not installed: {MAKE['avalanche']}"))
    for turn in range(settings.rounds):
        print(f"  round {turn + 1} of {settings.rounds}", flush=True)
        for name, command in commands.items():
            if command is None or any(m[:2] == (work, name) for m in report.missing):
                continue
            # A new folder each time, so that nothing is compiled beforehand.
            with tempfile.TemporaryDirectory() as cache:
                try:
                    elapsed, printed = timed(command, {"TORCHINDUCTOR_CACHE_DIR": cache})
                except WorkerError as error:
                    report.missing.append((work, name, f"failed: {error}"))
                    print(f"  {name}: {error}", flush=True)
                    continue
            seconds.setdefault(name, []).append(elapsed)
            if turn == 0:
                print(printed)
                average = printed.strip().splitlines()[-1].split("|")[-2].strip()
                report.notes.append(f"B5: {name}: average accuracy at the end {average}")
    for name, values in seconds.items():
        text = shown([FOLDER if part == str(settings.data) else part for part in commands[name] or ()])
        report.measured.append(Measured(work, name, "s", values, text))
    ours, avalanche = (report.median(work, name) for name in commands)
    report.bar(work, f"our {seeds} seeds / Avalanche's 1 seed", ours, avalanche, 2.0)
