"""What it costs to hand a sweep to an executor: time and memory on a process pool, beside the same sweep in this process.

    python -m benchmarks.speed.executors [--size 93000] [--runs 10] [--workers 2] [--start spawn]

A cheap run over a few rows of a large source (93,000 x 784 float32 are 292 MB), whose test set is a view of it. The first chunk of
a worker has to bring the data; what counts is the rate from the second on. All numbers are of one call, so that their ratios hold
on a busy machine too. Memory is a worker's peak over that of one with a source of 1,000 rows, as a multiple of the source
(with --start fork, what it inherits of this process counts too, though it is shared).
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

FEATURES, TRAINED, TESTED = 784, 2_000, 500


def benchmark(n: int) -> cl.Benchmark:
    """Some rows of one array, and others of a view of it."""
    x, y = torch.rand(n, FEATURES, generator=torch.Generator().manual_seed(0)), torch.arange(n) % 10
    train, test = cl.Dataset(x, y), cl.Dataset(x[: n // 2], y[: n // 2])
    return cl.Benchmark(
        cl.Stream([cl.experience(train, torch.arange(0, n, max(1, n // TRAINED)))].__getitem__, 1),
        cl.Stream([cl.experience(test, torch.arange(0, n // 2, max(1, n // 2 // TESTED)))].__getitem__, 1),
    )


def peak() -> int:
    """The most memory that this process has had so far, in bytes."""
    try:  # that of the process proper: what getrusage says contains that of the parent from before the program was started
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Looked:
    """The accuracies, and where and when a run ended and the highest memory of its process until then."""

    def __init__(self, evaluate: Any) -> None:
        self.evaluate = evaluate

    def __call__(self, state: Any, exp: Any) -> dict[str, torch.Tensor]:
        found = self.evaluate(state, exp)
        return found | {
            "pid": torch.tensor(os.getpid()),
            "time": torch.tensor(time.time(), dtype=torch.float64),
            "peak": torch.tensor(peak()),
        }


def swept(n: int, runs: int, executor: Any) -> tuple[cl.Runs, float]:
    """A sweep over a source of n rows, one run a chunk, and its seconds."""
    bench, model = benchmark(n), cl.models.mlp(FEATURES, hidden=(64,), n_classes=10)
    strategy = cl.strategies.naive(model, cl.optim.sgd(0.1), batch_size=50)
    probe, start = Looked(cl.evaluate(model, bench.test)), time.perf_counter()
    swept = cl.sweep(strategy, bench, seeds=runs, probe=probe, compile=False, lanes=1, executor=executor, progress=False)
    return swept, time.perf_counter() - start


def rate(runs: cl.Runs) -> float:
    """Seconds a run, from the time on when every process has finished its first."""
    times, pids = runs["time"].flatten(), runs["pid"].flatten()
    first = max(float(times[pids == pid].min()) for pid in pids.unique())
    after = times[times > first]
    return (float(after.max()) - first) / len(after)


def main() -> None:
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
    here, seconds_here = swept(args.size, args.runs, None)
    with pool() as executor:
        there, seconds_there = swept(args.size, args.runs, executor)
        again, seconds_again = swept(args.size, args.runs, executor)
    assert all(torch.equal(here[name], runs[name]) for runs in (there, again) for name in ("accuracy", "loss"))
    size, base = args.size * FEATURES * 4, small["peak"].max()
    print(f"source {size / 1e6:,.0f} MB, {args.runs} runs of one chunk each, {args.workers} workers ({args.start})")
    print(f"in this process   {seconds_here:6.2f} s, {1e3 * rate(here):7.1f} ms a run")
    for name, runs, seconds in (("executor", there, seconds_there), ("executor, again", again, seconds_again)):
        line = f"{name:16}  {seconds:6.2f} s, {1e3 * rate(runs):7.1f} ms a run after the first: {rate(runs) / rate(here):.2f} times"
        print(f"{line}; peak {float(runs['peak'].max() - base) / size:.2f} sources over {float(base) / 1e6:,.0f} MB")


if __name__ == "__main__":
    main()
