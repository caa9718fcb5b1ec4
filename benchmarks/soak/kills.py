"""Runs that are killed again and again, and end as if nothing had happened.

    python -m benchmarks.soak.kills [--kills 200] [--sweep-kills 20]

A run with a checkpoint after every training step, and a sweep on a process pool, are killed with SIGKILL at random moments (most of
the time is spent in saving, so most kills fall into a save), resumed each time, and compared with the uninterrupted ones: state and
history must be equal to the last bit. Prints how many kills there were and where they left the run.
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
from pathlib import Path
from typing import Any

import filelock
import torch

import cl_func as cl


@dataclasses.dataclass
class Report:
    """What happened."""

    kills: int = 0
    finished: int = 0
    damaged: int = 0  # temporary files that a kill left behind
    places: set[int] = dataclasses.field(default_factory=set)  # numbers of the newest checkpoint at the kills


def forked(work: Callable[[], None]) -> int:
    """Run something in a child process of its own group; says its id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()  # os._exit says nothing
        finally:
            os._exit(code)
    with contextlib.suppress(OSError):
        os.setpgid(child, child)  # both do it: whoever comes first
    return child


def killed_after(child: int, seconds: float) -> bool:
    """Wait so long, then kill the child and all of its group; False if it had ended before."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if os.waitstatus_to_exitcode(status) != 0:
                raise RuntimeError("the run failed by itself; see what it printed")
            return False
        time.sleep(0.0005)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def soak(work: Callable[[Path], None], check: Callable[[Path], None], kills: int, longest: float, seed: int = 0) -> Report:
    """Start `work(folder)`, kill it after up to `longest` seconds, start it again; `check(folder)` when it ends by itself."""
    report, draw = Report(), random.Random(seed)
    while report.kills < kills:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            while killed_after(forked(lambda: work(place)), draw.uniform(0, longest)):  # noqa: B023 - called before it changes
                report.kills += 1
                for lock in place.rglob(".lock"):  # workers of the killed process hold it until they are gone too
                    filelock.FileLock(lock, timeout=60).acquire().lock.release()
                report.damaged += len(list(place.rglob(".*.tmp")))
                report.places.update(int(f.stem.rpartition("-")[2]) for f in place.rglob("checkpoint-*.safetensors"))
            check(place)
            report.finished += 1
    return report


def method() -> tuple[Any, Any, Any]:
    """A small method with everything that a state can hold: memory, teacher, moments, keys; in passes over minibatches."""
    bench = cl.testing.small_benchmark(rows_per_class=12, n_experiences=4)
    model = cl.models.mlp(6, (16,), 4)
    strategy = cl.strategies.er_lwf(model, cl.optim.adam(1e-2), capacity=12, replay_size=4, batch_size=5, epochs=6)
    return strategy, bench, cl.evaluate(model, bench.test)


def soak_scan(kills: int, *, compiled: bool = False, longest: float = 0.4) -> Report:
    """A scan, killed and resumed; bitwise equal to the uninterrupted one."""
    strategy, bench, probe = method()
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

    return soak(lambda folder: [run(folder), None][1], check, kills, longest)


def soak_sweep(kills: int, *, longest: float = 4.0) -> Report:
    """A sweep on a process pool, killed with its workers and resumed, with other lanes each time it ends."""
    strategy, bench, _ = method()
    asked = {"seeds": 4, "hparams": cl.grid({"opt.lr": [1e-3, 1e-2]}), "compile": False, "progress": False}
    expected = cl.sweep(strategy, bench, lanes=2, **asked).history

    def run(folder: Path) -> Any:
        context = multiprocessing.get_context("fork")
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
            return cl.sweep(strategy, bench, lanes=2, executor=pool, checkpoint=cl.Checkpoint(folder, steps=3), **asked)

    def check(folder: Path) -> None:
        difference = cl.tree.difference(run(folder).history, expected)
        if difference is not None:
            raise AssertionError(f"the resumed sweep differs: {difference}")

    return soak(lambda folder: [run(folder), None][1], check, kills, longest)


def main() -> None:
    """Soak and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--sweep-kills", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)  # before the first fork: threads do not survive one
    for name, work, kills in (
        ("scan, eager", soak_scan, args.kills - args.kills // 4),
        ("scan, compiled and donated", lambda n: soak_scan(n, compiled=True), args.kills // 4),
        ("sweep on a process pool", soak_sweep, args.sweep_kills),
    ):
        start = time.perf_counter()
        report = work(kills)
        print(
            f"{name}: {report.kills} kills, {report.finished} runs finished, each equal to the last bit; "
            f"{report.damaged} kills left a temporary file; {len(report.places)} different places; "
            f"{time.perf_counter() - start:.0f} s"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
