"""B6: the time of a step must not grow with the steps taken or the capacity; and the memory that a lane takes."""

from __future__ import annotations

import dataclasses
import statistics

from benchmarks.speed.report import Measured, Report
from benchmarks.speed.steps import Contender, Settings, compare
from benchmarks.works import WORKS

CAPACITIES = (500, 5_000, 50_000)
# Two threads that share one small product wait for each other; where cores are shared, that makes times vary by half.
ONE = ("--threads", 1)


def b6(settings: Settings, report: Report) -> None:
    """Time per step by steps, capacity and lanes; and memory per lane."""
    work, steps = "B6", 300 if settings.quick else 1000
    lanes = (1, 4) if settings.quick else (1, 4, 16, 64)
    report.titles[work] = "growth: ours on the step of B1, compiled; one run on one thread, and lanes on all"
    contenders = [
        *(Contender(f"{n:,} steps", "ours", "speed.workers.ours", ("B1", "--steps", n, *ONE)) for n in (steps, 10 * steps)),
        *(Contender(f"capacity {n:,}, full", "ours", "speed.workers.ours", ("B1", "--capacity", n, *ONE)) for n in CAPACITIES),
        *(Contender(f"{n} lanes", "ours", "speed.workers.ours", ("B1", "--lanes", n)) for n in lanes[1:]),
    ]
    answers = compare(settings, report, work, contenders)
    times = {c.name: report.median(work, c.name) for c in contenders}
    one, ten = f"{steps:,} steps", f"{10 * steps:,} steps"
    report.bar(work, "10 times the steps: time per step", times[ten], times[one], 1.15)
    small, large = (f"capacity {n:,}, full" for n in (CAPACITIES[0], CAPACITIES[-1]))
    report.bar(work, "100 times the capacity: time per step", times[large], times[small], 1.15)

    _flat(settings, report)
    _dead(settings, report)

    # The resident memory that a lane adds is the difference between many lanes and one, in which program and libraries cancel.
    many = f"{lanes[-1]} lanes"
    if many in answers and one in answers:
        base = statistics.median(answer["rss_mb"] for answer in answers[one][1:])
        added = [(answer["rss_mb"] - base) / (lanes[-1] - 1) for answer in answers[many][1:]]
        report.measured.append(Measured(work, f"memory that one lane adds, over {lanes[-1]} lanes", "MB", added))
        report.measured.append(Measured(work, "of which the state of a run", "MB", [answers[many][0]["state_mb_per_lane"]]))


def _dead(settings: Settings, report: Report) -> None:
    """A step with Adam where most units are dead, beside one where none is."""
    work = "B6-dead"
    report.titles[work] = f"{WORKS[work].title}, one thread: dead units, whose averages are numbers too small for full precision"
    contenders = [
        Contender(f"{mode}, {what}", "ours", "speed.workers.ours", (work, "--mode", mode, "--dead", dead, *ONE))
        for mode in ("compiled", "eager")
        for dead, what in ((0.0, "no unit is dead"), (0.6, "60% of the units are dead"))
    ]
    compare(settings, report, work, contenders)
    none, most, *_ = (report.median(work, one.name) for one in contenders)
    report.bar(work, "60% dead / none, compiled: time per step", most, none, 1.05)


def _flat(settings: Settings, report: Report) -> None:
    """A long run of the step of B2, one lane: its last tenth beside its first, in time per step and in resident memory."""
    work, total = "B6-flat", 10_000 if settings.quick else 1_000_000
    report.titles[work] = f"one run of {total:,} steps of B2, in tenths"
    name = f"{total:,} steps"
    tenth = Contender(name, "ours", "speed.workers.ours", ("B2", "--steps", total // 10, *ONE))
    answers = compare(dataclasses.replace(settings, rounds=10), report, work, [tenth]).get(name)
    if answers is not None:
        first, *_, last = answers[1:]
        report.bar(work, "last tenth / first: time per step", last["us_per_step"], first["us_per_step"], 1.05)
        report.bar(work, "last tenth / first: resident memory", last["rss_mb"], first["rss_mb"], 1.05)
