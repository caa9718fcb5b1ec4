"""python -m benchmarks [--rounds 5] [--lanes 1 4 16] [--out out/bench]: step times beside a loop written by hand.

The contenders take turns (A B C A B C ...), so that a machine that slows down slows down all; the table gives medians.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from pathlib import Path

import torch

from benchmarks.online_er import WORKS, by_hand, ours


def main() -> None:
    """Time every work, print a table, write it as JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="timed repetitions of each contender (default: 5)")
    parser.add_argument("--lanes", type=int, nargs="+", default=[1, 4, 16], help="lane counts of the vmapped runs")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    lines = [
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}; microseconds "
        f"per step of one run, median (min to max) of {args.rounds} rounds in turn",
        "",
        "| work | contender | us per step | times faster than by hand |",
        "| --- | --- | --- | --- |",
    ]
    results = {}
    for name, work in WORKS.items():
        print(f"{name}: {work.name}: compiling", flush=True)
        runs = {"by hand, eager": by_hand(work), "one run, eager": ours(work, 0, compiled=False)}
        runs["one run, compiled"] = ours(work, 0, compiled=True)
        runs |= {f"{lanes} lanes, compiled": ours(work, lanes, compiled=True) for lanes in args.lanes}
        times: dict[str, list[float]] = {label: [] for label in runs}
        for _ in range(args.rounds):
            for label, run in runs.items():
                times[label].append(run())
        reference = statistics.median(times["by hand, eager"])
        for label, values in times.items():
            middle = statistics.median(values)
            spread = f"{middle:.0f} ({min(values):.0f} to {max(values):.0f})"
            lines.append(f"| {name} {work.name} | {label} | {spread} | {reference / middle:.2f} |")
        results[name] = times
    (args.out / "results.md").write_text("\n".join(lines) + "\n")
    (args.out / "results.json").write_text(json.dumps(results, indent=1))
    print("\n".join(lines))
    print(f"\nwritten: {args.out / 'results.md'}, {args.out / 'results.json'}")


if __name__ == "__main__":
    main()
