"""How well the methods learn: settings x methods on Fashion-MNIST, as a table and a figure.

    python -m benchmarks.accuracy --data FOLDER            the whole protocol, 2000 iterations: eight methods, class-incremental
    python -m benchmarks.accuracy --data FOLDER --quick    300 iterations, 10 seeds: all methods, all settings

The protocol is told in benchmarks/methods.py. Each method comes at its best strength: the values of its grid are tried with a few
seeds of their own, 300 iterations per experience, on a tenth of the train data that is held out, and more values if the best lies
at the end of the grid; the one with the best average accuracy there is then run on all train data and measured on the test data.
Cells of the table that --out already holds from an earlier call with the same numbers are kept, so that the work may be done in
parts.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch

import cl_func as cl
from benchmarks import machine, results
from benchmarks.accuracy.figure import draw
from benchmarks.earlier import earlier
from benchmarks.methods import METHODS, SETTINGS, Method, Problem, method, problem
from benchmarks.process import command_line

FULL = ("naive", "joint", "er", "lwf", "ewc", "si", "agem", "icarl")
QUICK = 300  # iterations per experience
WIDER = 2  # how often a range is made wider
TUNING = range(1000, 1100)  # seeds by which strengths are chosen, none of those that are reported

# What one is led to expect: in a setting the first is better than the second. Split-MNIST in van de Ven et al. 2022, table 2; DER++
# against ER in Buzzega et al. 2020, table 2; GDumb and MIR against ER depend on the budget and are not asked for.
EXPECTED = (
    *(("class", a, b) for a, b in (("joint", "er"), ("joint", "icarl"), ("icarl", "lwf"), ("er", "agem"), ("agem", "naive"))),
    *(("class", "er", b) for b in ("lwf", "ewc", "si", "naive")),
    ("class", "der_pp", "er"),
    *(("domain", a, b) for a, b in (("joint", "er"), ("er", "agem"), ("er", "lwf"), ("lwf", "naive"), ("agem", "naive"))),
    *(("task", a, "naive") for a in ("ewc", "si", "lwf", "agem", "er", "joint")),
    *(("permuted", a, "naive") for a in ("ewc", "si", "er", "agem", "joint")),
)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What decides the numbers of a cell, besides its method and setting."""

    iterations: int
    seeds: int
    tuning_iterations: int
    tuning_seeds: int
    limit: int | None


@dataclasses.dataclass(frozen=True)
class Running:
    """How the runs are carried out, which changes no result."""

    lanes: Any
    device: str | None

    def sweep(self, strategy: cl.Strategy, bench: cl.Benchmark, seeds: Any, points: Any, every: int = 1) -> cl.Runs:
        """The sweep of a strategy, measured after every so many experiences and after the last."""
        return cl.sweep(strategy, bench, seeds=seeds, hparams=cl.grid(points), lanes=self.lanes, device=self.device, every=every)


def chosen(entry: Method, place: Problem, protocol: Protocol, running: Running) -> dict[str, Any]:
    """The best point on validation data of the method's grid, all points' accuracies, and the paths at the end of their range.

    Where the best value lies at the end of its range the next one is tried as well, `WIDER` times at most.
    """
    if not entry.grid:
        return {"values": {}, "tried": [], "at_edge": []}
    held = cl.streams.with_validation(place.bench, 0.1, key=cl.key(0))
    place = dataclasses.replace(place, bench=cl.Benchmark(held.train, held.valid), iterations=protocol.tuning_iterations)
    seeds, strategy, bench = TUNING[: protocol.tuning_seeds], entry.strategy(place), entry.benchmark(place)
    tried: list[dict[str, Any]] = []
    parts = [{path: list(values) for path, values in entry.grid.items()}]
    for _ in range(1 + WIDER):
        for part in parts:
            found = running.sweep(strategy, bench, seeds, part, every=place.experiences).metric().mean(-1).flatten().tolist()
            tried += [{"values": v, "accuracy": a} for v, a in zip(cl.grid(part).points(), found, strict=True)]
        best = max(tried, key=lambda point: -math.inf if math.isnan(point["accuracy"]) else point["accuracy"])["values"]
        ranges = {path: sorted({point["values"][path] for point in tried}) for path in entry.grid}
        edges = {path: further for path, value in best.items() if (further := beyond(ranges[path], value))}
        parts = [{**ranges, path: [further]} for path, further in edges.items()]
    return {"values": best, "tried": tried, "at_edge": list(edges)}


def beyond(values: list[float], value: float) -> float:
    """What follows a value at an end of a sorted range, a factor as far as its neighbour; 0 inside the range, or next to a 0."""
    if value not in (values[0], values[-1]):
        return 0.0
    neighbour = values[1] if value == values[0] else values[-2]
    return value * value / neighbour if neighbour else 0.0


def measured(entry: Method, place: Problem, values: dict[str, Any], protocol: Protocol, running: Running) -> dict[str, Any]:
    """Accuracy and forgetting of all seeds on the test data, at the values chosen."""
    points = {path: [value] for path, value in values.items()}
    runs = running.sweep(entry.strategy(place), entry.benchmark(place), protocol.seeds, points)
    R = runs["accuracy"].reshape(protocol.seeds, *runs["accuracy"].shape[-2:])
    found = {"accuracy": runs.metric().flatten(), "R": R.mean(0).tolist()}
    if R.shape[-1] == R.shape[-2]:
        found["forgetting"] = runs.metric("forgetting").flatten()
    return {name: summary(value) if isinstance(value, torch.Tensor) else value for name, value in found.items()}


def summary(values: torch.Tensor) -> dict[str, Any]:
    """Mean and half-width of the 95% confidence interval over the seeds, and the values."""
    mean, half = cl.metrics.mean_ci(values) if len(values) > 1 else (values[0], torch.tensor(math.nan))
    return {"mean": float(mean), "half": float(half), "values": values.tolist()}


@dataclasses.dataclass
class Results:
    """The cells of the table, and why those that are missing are."""

    command: str
    machine: dict[str, str]
    protocol: dict[str, Any]
    cells: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    missing: dict[str, str] = dataclasses.field(default_factory=dict)

    def cell(self, setting: str, name: str) -> dict[str, Any] | None:
        """The cell of a method in a setting."""
        return next((c for c in self.cells if (c["setting"], c["method"]) == (setting, name)), None)

    def put(self, cell: dict[str, Any]) -> None:
        """Add a cell, in the place of the one that was there."""
        self.cells = [c for c in self.cells if (c["setting"], c["method"]) != (cell["setting"], cell["method"])] + [cell]

    @property
    def names(self) -> list[str]:
        """The methods that were run, in the order of their registry."""
        return [m.name for m in METHODS if any(c["method"] == m.name for c in self.cells)]

    @property
    def settings(self) -> list[str]:
        """The settings that were run."""
        return [s for s in SETTINGS if any(c["setting"] == s for c in self.cells)]

    def table(self) -> str:
        """Final average accuracy and forgetting, mean ± half-width of the interval."""
        titles = [f"{s}: {what}" for s in self.settings for what in ("accuracy", "forgetting")]
        lines = ["| method | " + " | ".join(titles) + " |", "| --- |" + " --- |" * len(titles)]
        for name in self.names:
            cells = [self.cell(s, name) or {} for s in self.settings]
            lines.append("| " + " | ".join([name, *(shown(c.get(w)) for c in cells for w in ("accuracy", "forgetting"))]) + " |")
        return "\n".join(lines)

    def strengths(self) -> str:
        """What was chosen, and where it lies at the end of the values tried."""
        lines = ["| method | " + " | ".join(self.settings) + " |", "| --- |" + " --- |" * len(self.settings)]
        for name in self.names:
            cells = [self.cell(s, name) or {"chosen": {"values": {}, "at_edge": []}} for s in self.settings]
            texts = [
                ", ".join(
                    f"{path} {value:g}{' (edge)' if path in c['chosen']['at_edge'] else ''}"
                    for path, value in c["chosen"]["values"].items()
                )
                for c in cells
            ]
            if any(texts):
                lines.append(f"| {name} | " + " | ".join(text or "-" for text in texts) + " |")
        return "\n".join(lines)

    def orders(self) -> str:
        """What the literature leads one to expect, and what was found."""
        lines = ["| setting | better | worse | difference | as expected |", "| --- | --- | --- | --- | --- |"]
        for setting, better, worse in EXPECTED:
            a, b = self.cell(setting, better), self.cell(setting, worse)
            if a is None or b is None:
                continue
            gap = a["accuracy"]["mean"] - b["accuracy"]["mean"]
            half = math.hypot(a["accuracy"]["half"], b["accuracy"]["half"])
            verdict = "yes" if gap > half else "NO" if gap < -half else "not told apart"
            lines.append(f"| {setting} | {better} | {worse} | {gap:+.3f} ± {half:.3f} | {verdict} |")
        return "\n".join(lines)

    def markdown(self) -> str:
        """The page."""
        facts = [f"- {name}: {value}" for name, value in self.machine.items()]
        facts += [f"- {name.replace('_', ' ')}: {value}" for name, value in self.protocol.items() if value is not None]
        facts += [f"- {s}: {SETTINGS[s]}" for s in self.settings]
        facts += [f"- not run: {name}: {why}" for name, why in self.missing.items()]
        parts = ["# Accuracy", f"`{self.command}`", "\n".join(facts), self.table()]
        parts += ["Mean ± half-width of the 95% confidence interval over the seeds. -: not run, or not defined."]
        parts += ["## Strengths chosen on validation data", self.strengths(), "## Expected order", self.orders()]
        return "\n\n".join(parts) + "\n"

    def write(self, folder: Path) -> None:
        """accuracy.json, accuracy.md and accuracy.png."""
        results.write(folder / "accuracy.json", dataclasses.asdict(self))
        (folder / "accuracy.md").write_text(self.markdown())
        if self.cells:
            draw(self.cells).savefig(folder / "accuracy.png")


def shown(value: dict[str, Any] | None) -> str:
    """A mean and its interval."""
    return "-" if value is None else f"{value['mean']:.3f} ± {value['half']:.3f}"


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
    parser.add_argument("--tuning-iterations", type=int, help="per experience, where a strength is chosen (default: 300 at most)")
    parser.add_argument(
        "--sgd", type=float, metavar="LR", help="plain SGD in the place of Adam, for methods that project gradients"
    )
    parser.add_argument("--lanes", type=int, default=2, help="runs in one program; 0 lets the sweep measure what is best")
    parser.add_argument("--device", help="where to run, such as cuda (default: the processor)")
    parser.add_argument("--limit", type=int, help="only the first rows of the data, to try things out")
    parser.add_argument("--again", action="store_true", help="run also what --out already holds")
    parser.add_argument("--out", type=Path, default=Path("out/accuracy"), help="folder for accuracy.json, .md and .png")
    args = parser.parse_args()
    args.settings = args.settings or (list(SETTINGS) if args.quick else ["class"])
    args.methods = args.methods or ([m.name for m in METHODS] if args.quick else list(FULL))
    args.seeds = args.seeds or (10 if args.quick else 3)
    args.iterations = args.iterations or (QUICK if args.quick else 2000)
    args.tuning_iterations = args.tuning_iterations or min(args.iterations, QUICK)
    try:
        args.methods = [method(name) for name in args.methods]
    except ValueError as error:
        parser.error(f"--methods: {error}")
    if not args.data.is_dir():
        parser.error(f"--data: there is no folder {args.data}")
    if not 1 <= args.tuning_seeds <= len(TUNING):
        parser.error(f"--tuning-seeds: expected 1 to {len(TUNING)}, got {args.tuning_seeds}")
    return args


def main() -> int:
    """Run what is asked for and not yet there, write after every cell; 1 if a method failed."""
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    protocol = Protocol(args.iterations, args.seeds, args.tuning_iterations, args.tuning_seeds, args.limit)
    running = Running(args.lanes or "auto", args.device)
    command = command_line("benchmarks.accuracy", sys.argv[1:], ("--data", "--out"))
    asked = dataclasses.asdict(protocol) | ({} if args.sgd is None else {"sgd": args.sgd})
    try:
        cells = earlier(args.out / "accuracy.json", "cells", "protocol", asked)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    results, failed = Results(command, machine.describe(), asked, cells), 0
    for setting in args.settings:
        place = problem(setting, args.data, args.iterations, args.limit)
        if args.sgd is not None:
            place = dataclasses.replace(place, optimizer=cl.optim.sgd(args.sgd))
        for entry in args.methods:
            name = f"{entry.name}, {setting}"
            if not entry.there:
                results.missing[entry.name] = "not in cl.strategies"
                print(f"{name}: not in cl.strategies")
                continue
            if setting not in entry.settings:
                continue
            grid = {path: list(values) for path, values in entry.grid.items()}
            kept = results.cell(setting, entry.name)
            settled = kept and (kept.get("wider") == WIDER or not kept["chosen"]["at_edge"])
            if kept and settled and kept["grid"] == grid and not args.again:
                print(f"{name}: kept, {shown(kept['accuracy'])}")
                continue
            start = time.perf_counter()
            try:
                choice = chosen(entry, place, protocol, running)
                found = measured(entry, place, choice["values"], protocol, running)
            except Exception as error:  # one method that fails must not cost the others' hours
                traceback.print_exc()
                results.missing[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                failed = 1
                continue
            seconds = time.perf_counter() - start
            cell = {"setting": setting, "method": entry.name, "protocol": asked, "grid": grid, "wider": WIDER, "chosen": choice}
            results.put({**cell, "seconds": seconds, **found})
            results.write(args.out)
            print(f"{name}: {shown(found['accuracy'])} {choice['values'] or ''} ({seconds:.0f} s)", flush=True)
    results.write(args.out)
    print(f"\n{results.table()}\n\nwritten: {args.out}/accuracy.json, .md, .png")
    return failed


if __name__ == "__main__":
    sys.exit(main())
