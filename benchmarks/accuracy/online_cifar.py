"""The online survey on Split CIFAR-100: ten methods on one pass over the data.

    python -m benchmarks.accuracy.online_cifar --data FOLDER                    the whole protocol, a day or two on two cores
    python -m benchmarks.accuracy.online_cifar --data FOLDER --methods ER SCR   these
    python -m benchmarks.accuracy.online_cifar --data FOLDER --experiences 2 --fraction 0.1 --memory 100 --eager

The last is a trial, of minutes. FOLDER holds CIFAR-100 as published, python or binary version, or images as
train/CLASS/NAME.png and test/CLASS/NAME.png.

20 experiences of 5 classes, in an order drawn from the seed; 5% of the training rows are held out; minibatches of 10 come once
and are stepped on three times, with 10 rows of a memory of 2000; slim ResNet-18, SGD without momentum, crops and flips of new and
replayed rows. What each method does otherwise is in `online_methods.py`. Soutif-Cormerais, Carta, Cossu, Hurtado, Hemati,
Lomonaco & van de Weijer, "A comprehensive empirical evaluation on online continual learning", ICCV workshops 2023.

Two runs at a time, each in a process with one thread; --jobs 1 on one core. Runs that --out holds are kept, and one that was
interrupted goes on where its last checkpoint was: call the same command again. On a GPU the seeds of a method are lanes of one run,
and several methods share it: --device cuda --jobs 9. Runs of one kind of machine go on on the other with --together.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.accuracy.online_methods import METHODS
from benchmarks.accuracy.online_run import EXPERIENCES, Protocol, Task, run
from benchmarks.accuracy.online_table import OnlineResults
from benchmarks.process import command_line


def arguments() -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy.online_cifar",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of CIFAR-100")
    parser.add_argument(
        "--methods", nargs="+", choices=list(METHODS), metavar="NAME", default=list(METHODS), help="of " + ", ".join(METHODS)
    )
    parser.add_argument("--seeds", type=int, help="runs of each method (default: 3 of ER, ER-ACE, DER++ and SCR, else 1)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default: 2)")
    parser.add_argument("--experiences", type=int, default=EXPERIENCES, help="only the first of the 20, for a trial")
    parser.add_argument("--fraction", type=float, default=1.0, help="of the images of each class, for a trial")
    parser.add_argument("--memory", type=int, default=2000, help="rows in the memory (default: 2000)")
    parser.add_argument("--evaluations", type=int, default=4, help="on validation data, in each experience (default: 4)")
    parser.add_argument("--width", type=int, default=20, help="filters of the first stage of the net (default: 20)")
    parser.add_argument("--device", default="cpu", help="where to run, such as cuda")
    parser.add_argument("--together", action="store_true", help="the seeds of a method as lanes of one run, as on a GPU")
    parser.add_argument("--eager", action="store_true", help="do not compile the steps; a trial is over sooner")
    parser.add_argument("--out", type=Path, default=Path("out/online"), help="folder for online.json, .md, .png and the runs")
    args = parser.parse_args()
    if not args.data.is_dir():
        parser.error(f"--data: there is no folder {args.data}")
    if not 1 <= args.experiences <= EXPERIENCES or not 0 < args.fraction <= 1:
        parser.error(f"expected --experiences of 1 to {EXPERIENCES} and a --fraction in (0, 1]")
    for name in ("seeds", "jobs", "memory", "evaluations", "width"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name}: expected at least 1, got {getattr(args, name)}")
    return args


def apart(task: Task) -> list[dict[str, Any]]:
    """The results of a task, made in a process of its own, which ends with it. Raises RuntimeError if that fails."""
    process = multiprocessing.get_context("spawn").Process(target=run, args=(task,))  # torch's threads do not survive a fork
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"its process ended with status {process.exitcode}")
    found: list[dict[str, Any]] = json.loads(task.result.read_text())["runs"]
    return found


def main() -> int:
    """Make the runs that are not there yet, and write after each of them; 1 if one failed."""
    args = arguments()
    protocol = Protocol(args.experiences, args.fraction, args.memory, args.evaluations, args.width)
    runs = args.out / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    command = command_line("benchmarks.accuracy.online_cifar", sys.argv[1:], ("--data", "--out"))
    try:
        table = OnlineResults.read(args.out, command, machine.describe(), dataclasses.asdict(protocol))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    tasks = [
        Task(name, seeds, protocol, args.data, runs, not args.eager, 1, args.device, os.getpid())
        for name, seeds in _wanted(args.methods, args.seeds, args.together or args.device != "cpu", table)
    ]
    print(f"{sum(len(task.seeds) for task in tasks)} runs to be made, {len(table.runs)} are there", flush=True)
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        futures = {pool.submit(apart, task): task for task in tasks}
        for future in concurrent.futures.as_completed(futures):
            task = futures[future]
            try:
                for found in future.result():
                    table.put(found)
            except Exception:  # one run that fails must not cost the others' hours
                traceback.print_exc()
                print(f"{task.name}: failed", flush=True)
                failed = 1
                continue
            table.write(args.out)
    table.write(args.out)
    print(f"\n{table.table()}\n\nwritten: {args.out}/online.json, .md, .png")
    return failed


def _wanted(methods: Sequence[str], seeds: int | None, together: bool, table: OnlineResults) -> list[tuple[str, tuple[int, ...]]]:
    """The runs to be made, as (method, seeds); together: all seeds of a method in one."""
    missing = {name: [seed for seed in range(seeds or METHODS[name].seeds) if table.run(name, seed) is None] for name in methods}
    if together:
        return [(name, tuple(found)) for name, found in missing.items() if found]
    # Seed by seed, so that after the first every method has a number.
    single = [(seed, i, name) for i, (name, found) in enumerate(missing.items()) for seed in found]
    return [(name, (seed,)) for seed, _, name in sorted(single)]


if __name__ == "__main__":
    sys.exit(main())
