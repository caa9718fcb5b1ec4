"""How well the methods learn: settings x methods on Fashion-MNIST, as a table and a figure.

    python -m benchmarks.accuracy --data FOLDER            the whole protocol, 2000 iterations: eight methods, class-incremental
    python -m benchmarks.accuracy --data FOLDER --quick    300 iterations, 10 seeds: all methods, all settings

The protocol is described in benchmarks/methods.py. Each method runs with its best hyperparameters: every point of its grid is tried
with a few seeds that serve for nothing else, 300 iterations per experience, on a validation set of a tenth of the training data; if
the best value lies at the end of its range, the range is extended. The point with the best average accuracy is then run on all
training data and measured on the test data. Cells that --out already holds from an earlier call with the same numbers are kept, so
that the work can be done in parts.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
import traceback
from pathlib import Path

import cl_func as cl
from benchmarks import machine, results
from benchmarks.accuracy.table import Results, shown
from benchmarks.accuracy.tuning import QUICK, TUNING, WIDER, Protocol, Sweeper, measure, tune
from benchmarks.methods import METHODS, SETTINGS, find, load_problem
from benchmarks.process import command_line

FULL = ("naive", "joint", "er", "lwf", "ewc", "si", "agem", "icarl")


def arguments() -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the idx files of Fashion-MNIST, plain or .gz")
    parser.add_argument(
        "--quick", action="store_true", help="300 iterations and 10 seeds; all methods and settings if none is named"
    )
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), metavar="NAME", help=f"of {', '.join(SETTINGS)}")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help=f"of {', '.join(m.name for m in METHODS)}")
    parser.add_argument("--seeds", type=int, help="runs that are reported (default: 3, quick: 10)")
    parser.add_argument("--iterations", type=int, help="per experience (default: 2000, quick: 300)")
    parser.add_argument("--tuning-seeds", type=int, default=2, help="runs for each value of a grid")
    parser.add_argument("--tuning-iterations", type=int, help="per experience, where values are chosen (default: 300 at most)")
    parser.add_argument("--sgd", type=float, metavar="LR", help="plain SGD instead of Adam, for methods that project gradients")
    parser.add_argument("--lanes", type=int, default=2, help="runs in one program; 0 lets the sweep find what is fastest")
    parser.add_argument("--device", help="where to run, such as cuda (default: the processor)")
    parser.add_argument("--limit", type=int, help="only the first rows of the data, for a trial")
    parser.add_argument("--again", action="store_true", help="run what --out already holds, too")
    parser.add_argument("--out", type=Path, default=Path("out/accuracy"), help="folder for accuracy.json, .md and .png")
    args = parser.parse_args()
    args.settings = args.settings or (list(SETTINGS) if args.quick else ["class"])
    args.methods = args.methods or ([m.name for m in METHODS] if args.quick else list(FULL))
    args.seeds = args.seeds or (10 if args.quick else 3)
    args.iterations = args.iterations or (QUICK if args.quick else 2000)
    args.tuning_iterations = args.tuning_iterations or min(args.iterations, QUICK)
    try:
        args.methods = [find(name) for name in args.methods]
    except ValueError as error:
        parser.error(f"--methods: {error}")
    if not args.data.is_dir():
        parser.error(f"--data: there is no folder {args.data}")
    if not 1 <= args.tuning_seeds <= len(TUNING):
        parser.error(f"--tuning-seeds: expected 1 to {len(TUNING)}, got {args.tuning_seeds}")
    return args


def main() -> int:
    """Run what is asked for and not done yet, write after every cell; 1 if a method failed."""
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    protocol = Protocol(args.iterations, args.seeds, args.tuning_iterations, args.tuning_seeds, args.limit)
    sweeper = Sweeper(args.lanes or "auto", args.device)
    command = command_line("benchmarks.accuracy", sys.argv[1:], ("--data", "--out"))
    asked = dataclasses.asdict(protocol) | ({} if args.sgd is None else {"sgd": args.sgd})
    try:
        cells = results.earlier(args.out / "accuracy.json", "cells", "protocol", asked)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    table, failed = Results(command, machine.describe(), asked, cells), 0
    for setting in args.settings:
        problem = load_problem(setting, args.data, args.iterations, args.limit)
        if args.sgd is not None:
            problem = dataclasses.replace(problem, optimizer=cl.optim.sgd(args.sgd))
        for entry in args.methods:
            name = f"{entry.name}, {setting}"
            if not entry.available:
                table.missing[entry.name] = "not in cl.strategies"
                print(f"{name}: not in cl.strategies")
                continue
            if setting not in entry.settings:
                continue
            grid = {path: list(values) for path, values in entry.grid.items()}
            kept = table.cell(setting, entry.name)
            settled = kept and (kept.get("wider") == WIDER or not kept["chosen"]["at_edge"])
            if kept and settled and kept["grid"] == grid and not args.again:
                print(f"{name}: kept, {shown(kept['accuracy'])}")
                continue
            start = time.perf_counter()
            try:
                choice = tune(entry, problem, protocol, sweeper)
                measured = measure(entry, problem, choice["values"], protocol, sweeper)
            except Exception as error:  # one method that fails must not cost the others' hours
                traceback.print_exc()
                table.missing[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                failed = 1
                continue
            seconds = time.perf_counter() - start
            cell = {"setting": setting, "method": entry.name, "protocol": asked, "grid": grid, "wider": WIDER, "chosen": choice}
            table.put({**cell, "seconds": seconds, **measured})
            table.write(args.out)
            print(f"{name}: {shown(measured['accuracy'])} {choice['values'] or ''} ({seconds:.0f} s)", flush=True)
    table.write(args.out)
    print(f"\n{table.table()}\n\nwritten: {args.out}/accuracy.json, .md, .png")
    return failed


if __name__ == "__main__":
    sys.exit(main())
