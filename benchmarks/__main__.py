"""python -m benchmarks [B1 B2 ...]: this library beside its peers.

    B1  a step of online ER on an MLP 784-256-256-10, at 1 to 64 lanes     B5  a whole experiment on Fashion-MNIST (--data)
    B2  the same on an MLP 64-64-10                                        B6  growth with steps, capacity and lanes
    B3  naive, ER and LwF in batch mode, Adam, batches of 128              B7  import and compile time
    B4  online ER on a slim ResNet-18                                      B8  checkpoints, taps, progress
    B9  slowly changing regression, 100 runs, an example at a time

The contenders run in their own environments and take turns (A B C A B C ...), so that a machine that slows down slows all of them
down; the table gives medians. Where we lose, it says so. Peers that are not installed are listed, with the way to install them.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmarks import machine
from benchmarks.peers.interpreters import Peers
from benchmarks.process import command_line
from benchmarks.speed.experiment import b5
from benchmarks.speed.growth import b6
from benchmarks.speed.overhead import b8
from benchmarks.speed.report import Report
from benchmarks.speed.startup import b7
from benchmarks.speed.steps import Settings, b1, b2, b3, b4, b9

BENCHMARKS = {"B1": b1, "B2": b2, "B3": b3, "B4": b4, "B5": b5, "B6": b6, "B7": b7, "B8": b8, "B9": b9}
PATHS = ("--data", "--out", "--jax-python", "--avalanche-python")


def arguments() -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="B1 B2 ...", help="which ones (default: all)")
    parser.add_argument("--quick", action="store_true", help="a short trial: less of everything, 2 rounds; no figures to quote")
    parser.add_argument("--rounds", type=int, help="timed repetitions of each contender (default: 5)")
    parser.add_argument("--out", type=Path, default=Path("out/bench"), help="folder for results.json and results.md")
    parser.add_argument("--data", type=Path, help="folder of the idx files of Fashion-MNIST, for B5")
    parser.add_argument("--jax-python", help="the interpreter of an environment with JAX (or CL_BENCH_JAX)")
    parser.add_argument("--avalanche-python", help="the interpreter of an environment with Avalanche (or CL_BENCH_AVALANCHE)")
    args = parser.parse_args()
    args.names = args.names or list(BENCHMARKS)
    args.rounds = args.rounds or (2 if args.quick else 5)
    for name in args.names:
        if name not in BENCHMARKS:
            parser.error(f"{name}: no such benchmark; there are {', '.join(BENCHMARKS)}")
    if args.rounds < 1:
        parser.error(f"--rounds: expected at least 1, got {args.rounds}")
    if args.data and not args.data.is_dir():
        parser.error(f"--data: there is no folder {args.data}")
    try:
        args.peers = Peers.of(args.jax_python, args.avalanche_python)
    except ValueError as error:
        parser.error(str(error))
    return args


def main() -> int:
    """Run, print the table, write the two files; 1 if a contender failed (one that is not installed has not)."""
    args = arguments()
    # Absolute: the workers run in the root of the repository, wherever this was called.
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    report = Report(command_line("benchmarks", sys.argv[1:], PATHS), machine.describe())
    settings = Settings(
        peers=args.peers,
        rounds=args.rounds,
        seconds=0.2 if args.quick else 0.5,
        quick=args.quick,
        out=out,
        data=args.data and args.data.resolve(),
    )
    if args.rounds < 5 or args.quick:
        report.notes.append(f"a quick trial (rounds: {args.rounds}): no figures to quote")
    if machine.busy():
        report.notes.append("the machine was busy when this began: see its load average")
    start = time.perf_counter()
    for name in args.names:
        print(f"{name}: {(BENCHMARKS[name].__doc__ or '').splitlines()[0]}", flush=True)
        BENCHMARKS[name](settings, report)
        report.write(out)
    print(f"\n{report.table()}\n")
    for note in report.notes:
        print(f"- {note}")
    print(f"- {time.perf_counter() - start:.0f} s; written: {out}/results.json, results.md")
    return int(any(why.startswith("failed") for _, _, why in report.missing))


if __name__ == "__main__":
    sys.exit(main())
