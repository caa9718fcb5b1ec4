"""B7: the time to import, of B1's first compiled step with a cold and with a warm cache, and of the first step of a sweep."""

from __future__ import annotations

import json
import sys
import tempfile

from benchmarks.process import WorkerError, shown, timed
from benchmarks.speed.report import Bar, Measured, Report
from benchmarks.speed.steps import Settings

IMPORT = "import of cl_func over torch's own"
FIRST_STEP = "first step of a sweep of 20 runs, eager, one lane"
OVER_TORCH = "import time, torch; start = time.perf_counter(); import cl_func; print(time.perf_counter() - start)"


def b7(settings: Settings, report: Report) -> None:
    """Time to import, then cold and cached compilation, each in a new process, in turn."""
    work = "B7"
    report.titles[work] = "start-up; the compiled step is that of B1 on 4 lanes, first call"
    compile_time = settings.peers.command("ours", "benchmarks.speed.workers.compile_time")
    first_step = settings.peers.command("ours", "benchmarks.speed.workers.first_step", [1])
    values: dict[str, list[float]] = {IMPORT: [], "cold compile": [], "cached compile": [], FIRST_STEP: []}
    try:
        timed([sys.executable, "-c", OVER_TORCH])  # reads the files into the disk cache
        for turn in range(settings.rounds):
            print(f"  round {turn + 1} of {settings.rounds}", flush=True)
            values[IMPORT].append(float(timed([sys.executable, "-c", OVER_TORCH])[1]))
            values[FIRST_STEP].append(json.loads(timed(first_step or [])[1].strip().splitlines()[-1])["seconds"])
            with tempfile.TemporaryDirectory() as cache:
                for name in ("cold compile", "cached compile"):
                    _, printed = timed(compile_time or [], {"TORCHINDUCTOR_CACHE_DIR": cache})
                    values[name].append(json.loads(printed.strip().splitlines()[-1])["seconds"])
    except WorkerError as error:
        report.missing.append((work, "all", f"failed: {error}"))
        return
    commands = {IMPORT: f"python -c '{OVER_TORCH}'", FIRST_STEP: shown(first_step or [])}
    for name, bound in ((IMPORT, 0.3), ("cold compile", 15.0), ("cached compile", 2.0), (FIRST_STEP, 0.02)):
        command = commands.get(name, shown(compile_time or []))
        measured = Measured(work, name, "s", values[name], command)
        report.measured.append(measured)
        report.bars.append(Bar(work, f"{name}, s", measured.median, bound, at_most=True))
