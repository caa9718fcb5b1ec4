"""What the methods cost: the time of an experience relative to naive, beside the floating-point operations that it takes.

    python -m benchmarks.speed.cost [--methods er ewc ...]

Rows that --out already holds from an earlier call with the same numbers are kept, so that the work can be done in parts.

The experience is that of the quick protocol (benchmarks/methods.py): 12,000 rows, 300 minibatches of 128, and everything that a
method does before and after them. The data are random, in the shapes of class-incremental Split-Fashion-MNIST. Times are per run,
compiled, on one core, at the best of a few numbers of lanes; naive is timed again beside every method, in turn.

FLOPs are those of matrix products. Counted: what the program does. Needed: the passes that the method has to make, forward and
backward, plus what is counted at the boundary of the experience. States have fixed shapes, so a method whose constraints grow with
the experiences may compute all of them from the start: it is judged by the fifth experience.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import cl_func as cl
from benchmarks import machine, results
from benchmarks.methods import METHODS, Method, Problem, find, synthetic
from benchmarks.process import command_line

SECOND, FIFTH = 1, 4
BAR = 1.5  # times the FLOP ratio


def flops(entry: Method, problem: Problem) -> tuple[int, int]:
    """The FLOPs of a step and of the boundary of an experience, from runs of 2 and of 3 steps, since shapes are fixed."""
    counts = []
    for iterations in (2, 3):  # some methods refuse a single one
        strategy = entry.strategy(dataclasses.replace(problem, iterations=iterations))
        state, exp = strategy.init(cl.key(0)), problem.bench.train[SECOND]
        with FlopCounterMode(display=False) as counter:
            strategy.update(state, exp)
        counts.append(counter.get_total_flops())
    step = counts[1] - counts[0]
    return step, counts[0] - 2 * step


def forward_flops(problem: Problem) -> int:
    """The FLOPs of a forward pass over a minibatch: more than a third of a step, which needs no gradient of the inputs."""
    net, shape = problem.model.init(cl.key(0)), problem.model.input_shape or ()
    with FlopCounterMode(display=False) as counter:
        problem.model.apply(net.params, net.buffers, torch.zeros(problem.batch, *shape))
    return counter.get_total_flops()


class Timed:
    """A method on some lanes, compiled and warmed up, with its states before the second and the fifth experience."""

    def __init__(self, entry: Method, problem: Problem, lanes: int) -> None:
        strategy = entry.strategy(problem)
        states = [strategy.init(cl.key(seed)) for seed in range(lanes)]
        update, state = (cl.vmap(strategy.update), cl.tree.stack(states)) if lanes > 1 else (strategy.update, states[0])
        self.lanes = lanes
        self.update = cl.compile(update, donate=True)
        self.experiences = {k: problem.bench.train[k] for k in (SECOND, FIFTH)}
        self.before: dict[int, Any] = {}
        state = cl.tree.map(torch.clone, state)
        for k, exp in enumerate(problem.bench.train):
            if k in self.experiences:
                self.before[k] = cl.tree.map(torch.clone, state)
            state = self.update(state, exp)

    def seconds(self, k: int) -> float:
        """The time of experience k per run, taken once."""
        state = cl.tree.map(torch.clone, self.before[k])
        start = time.perf_counter()
        self.update(state, self.experiences[k])
        return (time.perf_counter() - start) / self.lanes


def compare(entry: Method, problem: Problem, naive: list[Timed], lanes: list[int], rounds: int) -> dict[str, Any]:
    """The times of a method and of naive in turn, and the FLOPs of the method."""
    both = {"naive": naive, entry.name: naive if entry.name == "naive" else [Timed(entry, problem, n) for n in lanes]}
    times: dict[str, list[dict[int, list[float]]]] = {name: [{SECOND: [], FIFTH: []} for _ in lanes] for name in both}
    for _ in range(rounds):
        for name, contenders in both.items():
            for contender, values in zip(contenders, times[name], strict=True):
                for k in values:
                    values[k].append(contender.seconds(k))
    best = {name: {k: min(statistics.median(t[k]) for t in times[name]) for k in (SECOND, FIFTH)} for name in both}
    step, boundary = flops(entry, problem)
    unit, _ = flops(find("naive"), problem)
    base = unit * problem.iterations
    counted = (step * problem.iterations + boundary) / base
    needed = counted
    if entry.passes is not None:
        trained, forward = entry.passes(FIFTH)
        needed = trained + forward * forward_flops(problem) / unit + boundary / base
    ratios = {k: best[entry.name][k] / best["naive"][k] for k in (SECOND, FIFTH)}
    return {
        "method": entry.name,
        "microseconds_per_step": best[entry.name][FIFTH] / problem.iterations * 1e6,
        "time": ratios[FIFTH],
        "counted": counted,
        "needed": needed,
        "time_per_flop": ratios[FIFTH] / needed,
        "growth": best[entry.name][FIFTH] / best[entry.name][SECOND],
        "lanes": lanes[min(range(len(lanes)), key=lambda i: statistics.median(times[entry.name][i][FIFTH]))],
        "verdict": "met" if ratios[FIFTH] <= BAR * needed else "NOT MET",
        "seconds": {name: [dict(t) for t in found] for name, found in times.items()},
    }


def table(rows: list[dict[str, Any]], missing: dict[str, str]) -> str:
    """One line per method; everything but the time of a step is relative to naive."""
    head = ["method", "us per step", "time", "FLOPs counted", "FLOPs needed", f"time / FLOPs needed (at most {BAR:g})", ""]
    lines = ["| " + " | ".join([*head, "fifth / second", "lanes"]) + " |", "|" + " --- |" * 9]
    for r in rows:
        figures = [
            f"{r['microseconds_per_step']:,.0f}",
            *(f"{r[name]:.2f}" for name in ("time", "counted", "needed", "time_per_flop")),
        ]
        lines.append("| " + " | ".join([r["method"], *figures, r["verdict"], f"{r['growth']:.2f}", str(r["lanes"])]) + " |")
    lines += [f"| {name} | - | - | - | - | - | {why.replace('|', '/')} | - | - |" for name, why in missing.items()]
    return "\n".join(lines)


def main() -> int:
    """Measure what is not done yet, write after every method; 1 if one failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.cost", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [m.name for m in METHODS if m.stream == "plain"]
    parser.add_argument("--methods", nargs="+", choices=names, default=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--iterations", type=int, default=300, help="minibatches of an experience")
    parser.add_argument("--rows", type=int, default=12_000, help="rows of an experience")
    parser.add_argument("--lanes", type=int, nargs="+", default=[1, 4], help="runs at once; the best counts")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("out/cost"), help="folder for cost.json and cost.md")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    protocol = {"iterations": args.iterations, "rows of an experience": args.rows, "rounds": args.rounds, "lanes": args.lanes}
    try:
        rows = results.earlier(args.out / "cost.json", "rows", "machine", protocol)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    problem, missing = synthetic(args.rows, args.iterations), dict[str, str]()
    facts = {**machine.describe(), **protocol}
    naive = [Timed(find("naive"), problem, n) for n in args.lanes]
    for entry in map(find, args.methods):
        if not entry.available:
            missing[entry.name] = "not in cl.strategies"
            print(f"{entry.name}: not in cl.strategies")
            continue
        if any(row["method"] == entry.name for row in rows):
            print(f"{entry.name}: kept")
            continue
        try:
            rows.append(compare(entry, problem, naive, args.lanes, args.rounds))
            print(table(rows[-1:], {}).splitlines()[-1], flush=True)
            rows.sort(key=lambda row: names.index(row["method"]))
        except Exception as error:  # one method that fails must not cost the others' time
            traceback.print_exc()
            missing[entry.name] = f"failed: {type(error).__name__}: {error}".splitlines()[0][:200]
        command = command_line("benchmarks.speed.cost", sys.argv[1:], ("--out",))
        content = {"command": command, "machine": facts, "rows": rows, "missing": missing}
        results.write(args.out / "cost.json", content)
        page = ["# Cost", f"`{command}`", "\n".join(f"- {n}: {v}" for n, v in facts.items()), table(rows, missing)]
        (args.out / "cost.md").write_text("\n\n".join(page) + "\n")
    print(f"\n{table(rows, missing)}\n\nwritten: {args.out}/cost.json, cost.md")
    return int(any(why.startswith("failed") for why in missing.values()))


if __name__ == "__main__":
    sys.exit(main())
