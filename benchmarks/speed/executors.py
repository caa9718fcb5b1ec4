"""The cost of giving a sweep to an executor: time and memory on a process pool, beside the same sweep in this process.

    python -m benchmarks.speed.executors [--size 93000] [--runs 10] [--workers 2] [--start spawn]

Each run is cheap: a few rows of a large source (93,000 x 784 float32, 292 MB), with a view of it as the test set. The data travel
with a worker's first chunk, so what counts is the rate from its second on. All numbers are from one call, so that their ratios hold
on a busy machine too. Memory is a worker's peak less that of a worker with a source of 1,000 rows, as a multiple of the source
(with --start fork it includes what the worker shares with this process).
"""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
import os
import resource
import time
from pathlib import Path
from typing import Any

import torch

import cl_func as cl
from cl_func.core import Probe

FEATURES, TRAINED, TESTED = 784, 2_000, 500


def benchmark(n: int) -> cl.Benchmark:
    """A train experience of some rows of one array, and a test experience of rows of a view of it."""
    x, y = torch.rand(n, FEATURES, generator=torch.Generator().manual_seed(0)), torch.arange(n) % 10
    train, test = cl.Dataset(x, y), cl.Dataset(x[: n // 2], y[: n // 2])
    return cl.Benchmark(
        cl.Stream([cl.experience(train, torch.arange(0, n, max(1, n // TRAINED)))].__getitem__, 1),
        cl.Stream([cl.experience(test, torch.arange(0, n // 2, max(1, n // 2 // TESTED)))].__getitem__, 1),
    )


def peak() -> int:
    """The peak memory of this process so far, in bytes."""
    try:  # of this process alone: getrusage includes the peak of the parent before the program was started
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Recorded:
    """A probe: the accuracies, and the process in which a run ended, the time, and the peak memory of the process until then."""

    def __init__(self, evaluate: Probe) -> None:
        self.evaluate = evaluate

    def __call__(self, state: Any, exp: Any) -> dict[str, torch.Tensor]:
        return self.evaluate(state, exp) | {
            "pid": torch.tensor(os.getpid()),
            "time": torch.tensor(time.time(), dtype=torch.float64),
            "peak": torch.tensor(peak()),
        }


def swept(n: int, runs: int, executor: concurrent.futures.Executor | None) -> tuple[cl.Runs, float]:
    """A sweep over a source of n rows, one run per chunk, and the seconds that it took."""
    bench, model = benchmark(n), cl.models.mlp(FEATURES, hidden=(64,), n_classes=10)
    strategy = cl.strategies.naive(model, cl.optim.sgd(0.1), batch_size=50)
    probe, start = Recorded(cl.evaluate(model, bench.test)), time.perf_counter()
    found = cl.sweep(strategy, bench, seeds=runs, probe=probe, compile=False, lanes=1, executor=executor, progress=False)
    return found, time.perf_counter() - start


def rate(runs: cl.Runs) -> float:
    """Seconds per run, counted from when every process has finished its first."""
    times, pids = runs["time"].flatten(), runs["pid"].flatten()
    first = max(float(times[pids == pid].min()) for pid in pids.unique())
    after = times[times > first]
    return (float(after.max()) - first) / len(after)


def main() -> None:
    """Sweep here, then twice on the pool, and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=93_000, help="rows of the source, 3,136 bytes each")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--start", choices=multiprocessing.get_all_start_methods(), default="spawn", help="how workers are started")
    args = parser.parse_args()
    context = multiprocessing.get_context(args.start)

    def pool() -> concurrent.futures.Executor:
        return concurrent.futures.ProcessPoolExecutor(args.workers, mp_context=context)

    with pool() as executor:
        small, _ = swept(1_000, args.runs, executor)
    local, seconds_local = swept(args.size, args.runs, None)
    with pool() as executor:
        remote, seconds_remote = swept(args.size, args.runs, executor)
        again, seconds_again = swept(args.size, args.runs, executor)
    assert all(torch.equal(local[name], runs[name]) for runs in (remote, again) for name in ("accuracy", "loss"))
    size, base = args.size * FEATURES * 4, small["peak"].max()
    print(f"source {size / 1e6:,.0f} MB, {args.runs} runs of one chunk each, {args.workers} workers ({args.start})")
    print(f"in this process   {seconds_local:6.2f} s, {1e3 * rate(local):7.1f} ms a run")
    for name, runs, seconds in (("executor", remote, seconds_remote), ("executor, again", again, seconds_again)):
        line = (
            f"{name:16}  {seconds:6.2f} s, {1e3 * rate(runs):7.1f} ms a run after the first: {rate(runs) / rate(local):.2f} times"
        )
        print(f"{line}; peak {float(runs['peak'].max() - base) / size:.2f} sources over {float(base) / 1e6:,.0f} MB")


if __name__ == "__main__":
    main()
