"""B6: what the time of a step and the memory depend on, and on what they must not."""

from __future__ import annotations

import statistics

from benchmarks.speed.report import Measured, Report
from benchmarks.speed.steps import Contender, Settings, compare

CAPACITIES = (500, 5_000, 50_000)
# Two threads of one small product wait for each other; on a machine whose cores are shared their time varies by half.
ONE = ("--threads", 1)


def b6(settings: Settings, report: Report) -> None:
    """Steps, capacity, lanes: time per step; and memory per lane."""
    work, steps = "B6", 300 if settings.quick else 1000
    lanes = (1, 4) if settings.quick else (1, 4, 16, 64)
    report.titles[work] = "growth: ours on the step of B1, compiled; one run on one thread, and lanes on all"
    contenders = [
        *(Contender(f"{n:,} steps", "ours", "speed.workers.ours", ("B1", "--steps", n, *ONE)) for n in (steps, 10 * steps)),
        *(Contender(f"capacity {n:,}, full", "ours", "speed.workers.ours", ("B1", "--capacity", n, *ONE)) for n in CAPACITIES),
        *(Contender(f"{n} lanes", "ours", "speed.workers.ours", ("B1", "--lanes", n)) for n in lanes[1:]),
    ]
    said = compare(settings, report, work, contenders)
    times = {c.name: report.median(work, c.name) for c in contenders}
    one, ten = f"{steps:,} steps", f"{10 * steps:,} steps"
    report.bar(work, "10 times the steps: time per step", times[ten], times[one], 1.15)
    small, large = (f"capacity {n:,}, full" for n in (CAPACITIES[0], CAPACITIES[-1]))
    report.bar(work, "100 times the capacity: time per step", times[large], times[small], 1.15)

    # Resident memory that a lane adds: the most lanes against one, the program and its libraries cancel.
    many = f"{lanes[-1]} lanes"
    if many in said and one in said:
        base = statistics.median(answer["rss_mb"] for answer in said[one][1:])
        added = [(answer["rss_mb"] - base) / (lanes[-1] - 1) for answer in said[many][1:]]
        report.measured.append(Measured(work, f"memory that one lane adds, over {lanes[-1]} lanes", "MB", added))
        report.measured.append(Measured(work, "of which the state of a run", "MB", [said[many][0]["state_mb_per_lane"]]))
