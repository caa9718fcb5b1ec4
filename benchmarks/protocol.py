"""How a worker answers the process that times it: one JSON line when ready, then one for each line "go" on its standard input.

    {"ready": true, "versions": {...}, ...}
    {"us_per_step": 212.3, "rss_mb": 540.1}

A worker sets up and warms up once, and blocks on its standard input between repetitions. Only the standard library is imported,
since peers' environments have nothing else in common.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.works import WORKS


def arguments(description: str | None, works: Sequence[str] = tuple(WORKS)) -> argparse.ArgumentParser:
    """The arguments of all workers that time a training step, in a parser; the first line of `description` describes it."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("work", choices=works)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of one repetition")
    parser.add_argument("--steps", type=int, help="steps of one repetition, instead of --seconds")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda (JAX takes the device that its environment names)")
    return parser


def serve(run: Callable[[int], int], *, seconds: float, steps: int | None, lanes: int = 1, **ready: Any) -> None:
    """Warm up, then answer each "go" with the time per step of one run.

    run(n) takes at least n steps in each of the lanes (whole experiences), and returns their number when they are finished.
    """
    few = 10
    run(few)
    while steps is None:
        run(few)  # compiles, and fills memories
        start = time.perf_counter()
        done = run(few)
        elapsed = time.perf_counter() - start
        if elapsed > seconds / 8 or few >= 10_000:
            steps = max(few, round(done * seconds / elapsed))
        few *= 4
    run(steps)
    _say({"ready": True, "lanes": lanes, "steps": steps, **ready})
    for line in sys.stdin:
        if line.strip() == "go":
            start = time.perf_counter()
            done = run(steps)
            elapsed = time.perf_counter() - start
            _say({"us_per_step": elapsed / (done * lanes) * 1e6, "rss_mb": _resident()})


def synchronize(device: str) -> None:
    """Wait until a device of torch has finished all its work."""
    if device != "cpu":
        import torch

        torch.cuda.synchronize()


def _say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def _resident() -> float | None:
    """The resident memory of this process in MB; None where the system does not report it."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        return None
