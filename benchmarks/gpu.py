"""python -m benchmarks.gpu [B1 B2 B3-er B4]: a training step on an NVIDIA GPU, ours beside loops by hand and JAX.

All run in the interpreter that calls this; JAX is left out where it is not installed. The contenders start together (each compiles
for itself) and are then timed in turn. What is told is the time per step of one run: that of a step of all lanes over their number.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import machine
from benchmarks.process import Worker, WorkerError, alternate, command_line, shown
from benchmarks.report import Measured, Report
from benchmarks.steps import PER_STEP, count
from benchmarks.works import WORKS

ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "0", "JAX_PLATFORMS": "cuda", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
LANES = {"B1": (1, 16, 256), "B2": (1, 64, 1024), "B3-er": (1, 16), "B4": (1, 16)}


def contenders(work: str, lanes: Sequence[int]) -> dict[str, list[object]]:
    """Name -> module and arguments."""
    found: dict[str, list[object]] = {f"ours, compiled, {count(n)}": ["ours", work, "--lanes", n] for n in lanes}
    found |= {"ours, eager": ["ours", work, "--mode", "eager"]}
    found |= {"by hand, eager": ["hand", work], "by hand, torch.compile": ["hand", work, "--mode", "compiled"]}
    if work in ("B1", "B2") and importlib.util.find_spec("jax"):
        found |= {f"JAX, {count(n)}": ["jax_er", work, "--lanes", n] for n in lanes}
    return found


def measure(report: Report, work: str, lanes: Sequence[int], rounds: int, seconds: float, logs: Path) -> None:
    """Time the contenders of one work in turn."""
    report.titles[work] = WORKS[work].title
    commands = {
        name: [sys.executable, "-m", f"benchmarks.workers.{module}", *map(str, rest), "--seconds", str(seconds), "--device", "cuda"]
        for name, (module, *rest) in contenders(work, lanes).items()
    }
    started: dict[str, Worker] = {}
    failed: dict[str, str] = {}
    with concurrent.futures.ThreadPoolExecutor(len(commands)) as pool:
        futures = {
            name: pool.submit(Worker, command, logs / work / f"{name.replace(' ', '-')}.log", 300, ENVIRONMENT)
            for name, command in commands.items()
        }
        for name, future in futures.items():
            try:
                started[name] = future.result()
            except WorkerError as error:
                failed[name] = str(error)
    try:
        for name, answers in alternate(started, failed, rounds).items():
            values = [answer["us_per_step"] for answer in answers]
            report.measured.append(Measured(work, name, PER_STEP, values, shown(commands[name])))
            who = "jax" if name.startswith("JAX") else "ours"
            report.versions.setdefault(who, {}).update(started[name].ready.get("versions", {}))
    finally:
        for worker in started.values():
            worker.close()
    report.missing += [(work, name, f"failed: {why}") for name, why in failed.items()]


def main() -> int:
    """Time, print the table, write results.json and results.md; 1 if a contender failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"which works (default: {' '.join(LANES)})")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of one repetition")
    parser.add_argument("--out", type=Path, default=Path("out/gpu"), help="folder for results.json and results.md")
    args = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        parser.error("torch sees no CUDA device here")
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    facts = {"GPU": torch.cuda.get_device_name(), "CUDA": str(torch.version.cuda)} | machine.describe()
    report = Report(command_line("benchmarks.gpu", sys.argv[1:], ("--out",)), facts)
    for name in args.names or LANES:
        measure(report, name, LANES[name], args.rounds, args.seconds, out / "logs")
        report.write(out)
        print(f"{report.table()}\n", flush=True)
    return int(bool(report.missing))


if __name__ == "__main__":
    sys.exit(main())
