"""Runs that are killed again and again, and must end as if nothing had happened.

    python -m benchmarks.soak.kills [--kills 200] [--sweep-kills 20]

A run with a checkpoint after every training step, and a sweep on a process pool, are killed with SIGKILL at random moments (most of
the time goes into saving, so most kills interrupt a save), resumed each time, and compared with uninterrupted ones: state and
history must be equal to the last bit. Prints the number of kills, and at how many different checkpoints they left the run.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import filelock
import torch

import cl_func as cl
from cl_func.core import Probe


@dataclasses.dataclass
class Report:
    """Counts over all kills."""

    kills: int = 0
    finished: int = 0
    damaged: int = 0  # temporary files that a kill left behind
    checkpoints: set[int] = dataclasses.field(default_factory=set)  # numbers of the checkpoints found after the kills


def forked(work: Callable[[], object]) -> int:
    """Run something in a child process that leads a group of its own; returns its id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()  # os._exit would not print it
        finally:
            os._exit(code)
    with contextlib.suppress(OSError):
        os.setpgid(child, child)  # in both processes, since either may come first
    return child


def killed_after(child: int, seconds: float) -> bool:
    """Wait, then kill the child and its whole group; False if it ended before. Raises RuntimeError if it failed."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if os.waitstatus_to_exitcode(status) != 0:
                raise RuntimeError("the run failed without being killed; see what it printed")
            return False
        time.sleep(0.0005)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def soak(run: Callable[[Path], object], check: Callable[[Path], None], kills: int, longest: float, seed: int = 0) -> Report:
    """Start `run(folder)`, kill it after up to `longest` seconds, start it again; `check(folder)` once it has finished."""
    report, draws = Report(), random.Random(seed)
    while report.kills < kills:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            while killed_after(forked(partial(run, path)), draws.uniform(0, longest)):
                report.kills += 1
                for lock in path.rglob(".lock"):  # workers of the killed process hold it until they are gone, too
                    filelock.FileLock(lock, timeout=60).acquire().lock.release()
                report.damaged += len(list(path.rglob(".*.tmp")))
                report.checkpoints.update(int(f.stem.rpartition("-")[2]) for f in path.rglob("checkpoint-*.safetensors"))
            check(path)
            report.finished += 1
    return report


def small_problem() -> tuple[cl.Strategy, cl.Benchmark, Probe]:
    """A method whose state holds everything there is (memory, teacher, moments, keys), its benchmark and its probe."""
    bench = cl.testing.small_benchmark(rows_per_class=12, n_experiences=4)
    model = cl.models.mlp(6, (16,), 4)
    strategy = cl.strategies.er_lwf(model, cl.optim.adam(1e-2), capacity=12, replay_size=4, batch_size=5, epochs=6)
    return strategy, bench, cl.evaluate(model, bench.test)


def soak_scan(kills: int, *, compiled: bool = False, longest: float = 0.4) -> Report:
    """A scan, killed and resumed: bitwise equal to the uninterrupted one."""
    strategy, bench, probe = small_problem()
    update = cl.compile(strategy.update) if compiled else strategy.update
    start = strategy.init(cl.key(0))
    expected = cl.scan(update, start, bench.train, probe, donate=compiled)

    def run(folder: Path) -> tuple[Any, Any]:
        checkpoint = cl.Checkpoint(folder / "checkpoints", steps=1)
        tap = cl.taps.csv(folder / "history.csv")
        return cl.scan(update, start, bench.train, probe, donate=compiled, checkpoint=checkpoint, tap=tap)

    def check(folder: Path) -> None:
        difference = cl.tree.difference(run(folder), expected)
        if difference is not None:
            raise AssertionError(f"the resumed run differs: {difference}")
        lines = (folder / "history.csv").read_text().splitlines()
        if [line.partition(",")[0] for line in lines] != ["time", *map(str, range(len(bench.train)))]:
            raise AssertionError(f"the log differs: {lines}")

    return soak(run, check, kills, longest)


def soak_sweep(kills: int, *, longest: float = 4.0) -> Report:
    """A sweep on a process pool, killed with its workers and resumed: bitwise equal to the uninterrupted one."""
    strategy, bench, _ = small_problem()
    sweep = partial(cl.sweep, seeds=4, hparams=cl.grid({"opt.lr": [1e-3, 1e-2]}), compile=False, lanes=2, progress=False)
    expected = sweep(strategy, bench).history

    def run(folder: Path) -> cl.Runs:
        context = multiprocessing.get_context("fork")
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
            return sweep(strategy, bench, executor=pool, checkpoint=cl.Checkpoint(folder, steps=3))

    def check(folder: Path) -> None:
        difference = cl.tree.difference(run(folder).history, expected)
        if difference is not None:
            raise AssertionError(f"the resumed sweep differs: {difference}")

    return soak(run, check, kills, longest)


def main() -> None:
    """Kill, resume, compare and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--sweep-kills", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)  # before the first fork: threads do not survive one
    for name, work, kills in (
        ("scan, eager", soak_scan, args.kills - args.kills // 4),
        ("scan, compiled and donated", partial(soak_scan, compiled=True), args.kills // 4),
        ("sweep on a process pool", soak_sweep, args.sweep_kills),
    ):
        start = time.perf_counter()
        report = work(kills)
        print(
            f"{name}: {report.kills} kills, {report.finished} runs finished, each equal to the last bit; "
            f"{report.damaged} kills left a temporary file; {len(report.checkpoints)} different checkpoints; "
            f"{time.perf_counter() - start:.0f} s"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
