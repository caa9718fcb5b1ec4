"""B7: the import time on top of torch's own, and the time of the first compiled step of B1 with a cold and with a warm cache."""

from __future__ import annotations

import json
import sys
import tempfile

from benchmarks.process import WorkerError, shown, timed
from benchmarks.speed.report import Bar, Measured, Report
from benchmarks.speed.steps import Settings

IMPORT = "import of cl_func over torch's own"
OVER_TORCH = "import time, torch; start = time.perf_counter(); import cl_func; print(time.perf_counter() - start)"


def b7(settings: Settings, report: Report) -> None:
    """Time to import, then cold and cached compilation, each in a new process, in turn."""
    work = "B7"
    report.titles[work] = "start-up; the compiled step is that of B1 on 4 lanes, first call"
    compile_time = settings.peers.command("ours", "benchmarks.speed.workers.compile_time")
    values: dict[str, list[float]] = {IMPORT: [], "cold compile": [], "cached compile": []}
    try:
        timed([sys.executable, "-c", OVER_TORCH])  # reads the files into the disk cache
        for turn in range(settings.rounds):
            print(f"  round {turn + 1} of {settings.rounds}", flush=True)
            values[IMPORT].append(float(timed([sys.executable, "-c", OVER_TORCH])[1]))
            with tempfile.TemporaryDirectory() as cache:
                for name in ("cold compile", "cached compile"):
                    _, printed = timed(compile_time or [], {"TORCHINDUCTOR_CACHE_DIR": cache})
                    values[name].append(json.loads(printed.strip().splitlines()[-1])["seconds"])
    except WorkerError as error:
        report.missing.append((work, "all", f"failed: {error}"))
        return
    for name, bound in ((IMPORT, 0.3), ("cold compile", 15.0), ("cached compile", 2.0)):
        command = f"python -c '{OVER_TORCH}'" if name == IMPORT else shown(compile_time or [])
        measured = Measured(work, name, "s", values[name], command)
        report.measured.append(measured)
        report.bars.append(Bar(work, f"{name}, s", measured.median, bound, at_most=True))
