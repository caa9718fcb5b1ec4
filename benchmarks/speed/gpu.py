"""python -m benchmarks.speed.gpu [B1 B2 B3-er B4]: a training step on an NVIDIA GPU, ours beside loops by hand and JAX.

All contenders run with the interpreter of this call; JAX is left out where it is not installed. They all start together (each
compiles for itself); those of a work are then timed in turn. The figure is the time per step of one run: the time of a step of all
lanes, divided by their number.
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
from benchmarks.speed.report import Measured, Report
from benchmarks.speed.steps import PER_STEP, count
from benchmarks.works import WORKS

ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "0", "JAX_PLATFORMS": "cuda", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
LANES = {"B1": (1, 16, 256), "B2": (1, 64, 1024), "B3-er": (1, 16), "B4": (1, 16)}


def contenders(work: str, lanes: Sequence[int]) -> dict[str, list[object]]:
    """The module and the arguments of each contender of a work, by name."""
    found: dict[str, list[object]] = {f"ours, compiled, {count(n)}": ["speed.workers.ours", work, "--lanes", n] for n in lanes}
    found |= {"ours, eager": ["speed.workers.ours", work, "--mode", "eager"]}
    found |= {"by hand, eager": ["peers.by_hand", work], "by hand, torch.compile": ["peers.by_hand", work, "--mode", "compiled"]}
    if work in ("B1", "B2") and importlib.util.find_spec("jax"):
        found |= {f"JAX, {count(n)}": ["peers.jax_er", work, "--lanes", n] for n in lanes}
    return found


def commands(work: str, seconds: float) -> dict[str, list[str]]:
    """The command of each contender of a work, by name."""
    rest = ["--seconds", str(seconds), "--device", "cuda"]
    return {
        name: [sys.executable, "-m", f"benchmarks.{module}", *map(str, words), *rest]
        for name, (module, *words) in contenders(work, LANES[work]).items()
    }


def measure(report: Report, works: Sequence[str], rounds: int, seconds: float, out: Path) -> None:
    """Start the contenders of all works, then time work after work, its contenders in turn."""
    asked = {(work, name): command for work in works for name, command in commands(work, seconds).items()}
    started: dict[str, dict[str, Worker]] = {work: {} for work in works}
    failed: dict[str, dict[str, str]] = {work: {} for work in works}
    with concurrent.futures.ThreadPoolExecutor(len(asked)) as pool:
        futures = {
            (work, name): pool.submit(Worker, command, out / "logs" / work / f"{name.replace(' ', '-')}.log", 300, ENVIRONMENT)
            for (work, name), command in asked.items()
        }
        for (work, name), future in futures.items():
            try:
                started[work][name] = future.result()
            except WorkerError as error:
                failed[work][name] = str(error)
    try:
        for work in works:
            report.titles[work] = WORKS[work].title
            for name, answers in alternate(started[work], failed[work], rounds).items():
                values = [answer["us_per_step"] for answer in answers]
                report.measured.append(Measured(work, name, PER_STEP, values, shown(asked[work, name])))
                who = "jax" if name.startswith("JAX") else "ours"
                report.versions.setdefault(who, {}).update(started[work][name].ready.get("versions", {}))
            report.missing += [(work, name, f"failed: {why}") for name, why in failed[work].items()]
            report.write(out)
    finally:
        for worker in (w for some in started.values() for w in some.values()):
            worker.close()


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
    report = Report(command_line("benchmarks.speed.gpu", sys.argv[1:], ("--out",)), facts)
    measure(report, args.names or list(LANES), args.rounds, args.seconds, out)
    print(report.table())
    return int(bool(report.missing))


if __name__ == "__main__":
    sys.exit(main())
