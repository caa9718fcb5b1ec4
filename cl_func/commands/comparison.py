"""The command `compare`: methods of the library on a folder of data, as a Markdown table, and on request as files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from cl_func import plots
from cl_func.commands import methods, problems
from cl_func.storage.checkpoint import save
from cl_func.sweeps.compare import FailedMethods, compare
from cl_func.sweeps.runs import Runs

COLUMNS = ["average_accuracy", "forgetting"]


def run(args: argparse.Namespace) -> int:
    """Run it; the status to exit with: 1 if a method failed. Raises what its parts raise."""
    train, test = problems.read(args.data)
    if len(train) <= problems.LARGE:
        torch.set_num_threads(1)  # nets of this size gain nothing from a second thread, and lose much where cores are shared
    found = {
        setting: problems.problem(
            setting,
            train,
            test,
            args.experiences,
            tuple(args.hidden),
            args.batch_size,
            args.epochs,
            args.capacity,
            args.lr,
        )
        for setting in args.setting
    }
    strategies = {name: {setting: methods.make(name, one) for setting, one in found.items()} for name in args.methods}
    benchmarks = {setting: one.benchmark for setting, one in found.items()}
    one = next(iter(found.values()))
    print(
        f"{len(train):,} training and {len(test):,} test rows, {train.n_classes} classes, {len(one.benchmark.train)} experiences; "
        f"minibatches of {one.batch_size}, {one.epochs} {'epoch' if one.epochs == 1 else 'epochs'}, a memory of {one.capacity}"
    )
    single = len(found) == 1
    options: dict[str, Any] = {"seeds": args.seeds, "resume": args.resume, "progress": not args.quiet, "device": args.device}
    try:
        runs = compare(
            {name: next(iter(own.values())) if single else own for name, own in strategies.items()},
            one.benchmark if single else benchmarks,
            streams={name: function for name, function in methods.STREAMS.items() if name in args.methods} or None,
            **options,
        )
    except FailedMethods as error:
        if error.runs is not None:
            _show(error.runs, args.out)
        print(error, file=sys.stderr)
        return 1
    _show(runs, args.out)
    return 0


def _show(runs: Runs, out: Path | None) -> None:
    """Print the tables of runs, and write them, the runs and pictures to a folder."""
    text = runs.table(COLUMNS)
    if len(runs.axes["method"]) > 1:
        try:
            text += f"\n\n{runs.compare()!r}"
        except ImportError as error:
            print(error, file=sys.stderr)
    print(f"\n{text}")
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(f"{text}\n", encoding="utf-8")
    save(out / "runs.safetensors", runs)
    written = [out / "table.md", out / "runs.safetensors"]
    if bool(runs.finished.all()):
        runs.plot_timeline().savefig(out / "accuracy.png")
        written.append(out / "accuracy.png")
        if len(runs.axes["method"]) > 2 and runs.finished[0].numel() > 1:
            try:
                plots.critical_difference(runs).savefig(out / "ranks.png")
                written.append(out / "ranks.png")
            except ValueError as error:  # a method that diverged with all seeds leaves nothing to rank
                print(f"no ranks.png: {error}", file=sys.stderr)
    print("\nwritten: " + ", ".join(map(str, written)))


def show_methods() -> int:
    """Print the names of the methods, the settings that they are for, and where they come from."""
    width = max(map(len, methods.names()))
    for name in methods.names():
        print(f"{name:<{width}}  {', '.join(methods.settings(name)):<19}  {methods.source(name)}")
    return 0
