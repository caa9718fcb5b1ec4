"""Loss of plasticity on images: tasks that change for ever, and how well each is learned while it is there.

    python -m benchmarks.accuracy.plasticity --data FOLDER                                  500 permutations
    python -m benchmarks.accuracy.plasticity --data FOLDER --problem labels                 50 tasks of random labels
    python -m benchmarks.accuracy.plasticity --data FOLDER --optimizer adam --tasks 50      a part of it

FOLDER holds MNIST or Fashion-MNIST as idx files. The protocols are those of Kumar, Marklund & Van Roy, "Maintaining plasticity in
continual learning via regenerative regularization" (CoLLAs 2024), by their code (github.com/skumar9876/L2_Init): an MLP of 2 x 100
ReLUs, SGD with step size 0.01 or Adam with 0.001, minibatches of 16.

    permuted    10,000 images, each shown once in each task, with their pixels in an order of the task's own
    labels      1,200 images, whose labels are shuffled in each task, for 400 epochs

What is measured is the accuracy on each minibatch before the step on it, averaged over a task. The hyperparameters of a method are
those of its grid whose average over all tasks is best, with seeds that serve for nothing else. --hidden 2000 2000 2000 --batch 1
--lr 0.003 is the online permuted MNIST of Dohare et al. (Nature 2024), with --tasks 800 --rows 60000.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import cl_func as cl
from benchmarks import machine, results
from benchmarks.process import command_line

TUNING = 1000  # the first seed of those by which hyperparameters are chosen
LABELS, PERMUTED = {"tasks": 50, "rows": 1200, "epochs": 400}, {"tasks": 500, "rows": 10_000, "epochs": 1}


@dataclass(frozen=True)
class Method:
    """What is put into plain training, from the model, or another model; and the values that are tried."""

    extension: Callable[[cl.models.Model], dict[str, Any]] = lambda model: {}
    model: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, list[float]] = field(default_factory=dict)


METHODS = {
    "plain": Method(),
    "L2": Method(grid={"opt.weight_decay": [1e-4, 1e-3, 1e-2]}),
    "L2 Init": Method(lambda model: {"loss": cl.plasticity.l2_init(1e-3)}, grid={"l2_init.strength": [1e-4, 1e-3, 1e-2]}),
    "shrink and perturb": Method(
        lambda model: {"after_step": cl.plasticity.shrink_and_perturb(model, 1 - 1e-4, 1e-3)},
        grid={"snp.shrink": [1 - 1e-3, 1 - 1e-4], "snp.perturb": [1e-4, 1e-3, 1e-2]},
    ),
    "continual backprop": Method(
        lambda model: {"around_step": cl.plasticity.continual_backprop(model, utility="adaptable_contribution")},
        grid={"cbp.rate": [1e-4, 1e-3, 1e-2]},
    ),
    "layer norm": Method(model={"norm": "layer"}),
    "CReLU": Method(model={"activation": "crelu", "shrunk": 0.82}),  # with which it has as many parameters as the others
}


def arguments() -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy.plasticity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the idx files, plain or .gz")
    parser.add_argument("--problem", choices=("permuted", "labels"), default="permuted")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), metavar="NAME", default=list(METHODS))
    parser.add_argument("--tasks", type=int, help="(default: 500, of labels 50)")
    parser.add_argument("--rows", type=int, help="images of a task (default: 10000, of labels 1200)")
    parser.add_argument("--epochs", type=int, help="in which each image is shown in a task (default: 1, of labels 400)")
    parser.add_argument("--hidden", type=int, nargs="+", default=[100, 100], help="units of the hidden layers")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--optimizer", choices=("sgd", "adam"), default="sgd")
    parser.add_argument("--lr", type=float, help="step size (default: 0.01, of Adam 0.001)")
    parser.add_argument("--seeds", type=int, default=10, help="runs that are reported")
    parser.add_argument("--tuning-seeds", type=int, default=2, help="runs for each point of a grid")
    parser.add_argument("--device", help="where to run, such as cuda (default: the processor)")
    parser.add_argument("--out", type=Path, default=Path("out/plasticity"), help="folder for the .json, .md and .png")
    args = parser.parse_args()
    args.lr = args.lr or (0.001 if args.optimizer == "adam" else 0.01)
    for name, value in (LABELS if args.problem == "labels" else PERMUTED).items():
        setattr(args, name, value if getattr(args, name) is None else getattr(args, name))
    for name in ("tasks", "rows", "epochs", "batch", "seeds", "tuning_seeds"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: expected at least 1, got {getattr(args, name)}")
    if not args.data.is_dir():
        parser.error(f"--data: there is no folder {args.data}")
    return args


def stream(seed: int, *, data: cl.Dataset, problem: str, tasks: int) -> cl.Benchmark:
    """The tasks of a seed. What is tested on is never looked at."""
    key, test = torch.tensor(seed), cl.Dataset(data.x[:1], data.y[:1], n_classes=10)
    if problem == "permuted":
        return cl.streams.permuted(data, test, n_experiences=tasks, key=key)
    labels = [data.y[cl.random.permutation(cl.random.fold_in(key, i), len(data))] for i in range(tasks)]
    return cl.streams.in_memory(cl.streams.from_datasets([(cl.Dataset(data.x, y, n_classes=10), test) for y in labels]))


def strategy(method: Method, args: argparse.Namespace) -> tuple[cl.Strategy, cl.models.Model]:
    """A method, measured before each step, and its model."""
    options = dict(method.model)
    shrunk = options.pop("shrunk", 1.0)
    model = cl.models.mlp(784, hidden=[round(shrunk * width) for width in args.hidden], n_classes=10, **options)
    optimizer = cl.optim.adam(args.lr) if args.optimizer == "adam" else cl.optim.sgd(args.lr)
    plain = cl.strategies.naive(model, optimizer, batch_size=args.batch, epochs=args.epochs)
    return cl.extend(plain, before_step=cl.trace.online.measure(model), **method.extension(model)), model


def measure(method: Method, make: Any, seeds: list[int], hparams: Any, args: argparse.Namespace) -> dict[str, Tensor]:
    """The online accuracy of each task and the fraction of dead units after it, [points of the grid..., seed, task]."""
    learner, model = strategy(method, args)
    probe = cl.probes.join(cl.trace.online.probe(), cl.probes.dead_units(model, n=500))
    runs = cl.sweep(learner, make, seeds=seeds, hparams=hparams, probe=probe, progress=False, device=args.device)
    return {"accuracy": cl.metrics.online_accuracy(runs.history), "dead": runs.history["dead_units"]}


def chosen(method: Method, make: Any, args: argparse.Namespace) -> dict[str, float]:
    """The point of a method's grid with the best average online accuracy."""
    if not method.grid:
        return {}
    grid = cl.grid(method.grid)
    found = measure(method, make, list(range(TUNING, TUNING + args.tuning_seeds)), grid, args)["accuracy"].mean((-1, -2))
    best = int(found.nan_to_num(-1).flatten().argmax())
    return {path: float(value) for path, value in list(grid.points())[best].items()}


def row(name: str, values: dict[str, float], found: dict[str, Tensor], seconds: float) -> dict[str, Any]:
    """The numbers of a method: each task's accuracy by seed, and their averages with 95% intervals."""
    accuracy, part = found["accuracy"], max(found["accuracy"].shape[-1] // 10, 1)
    spans = {"all": accuracy, "first": accuracy[:, :part], "last": accuracy[:, -part:]}
    spans["change"] = spans["last"].mean(1, keepdim=True) - spans["first"].mean(1, keepdim=True)
    numbers = {span: [round(float(v), 4) for v in cl.metrics.mean_ci(of.mean(1))] for span, of in spans.items()}
    dead = [round(float(v), 4) for v in cl.metrics.mean_ci(found["dead"][:, -1])]
    curves = [[round(float(v), 4) for v in run] for run in accuracy]
    return {"method": name, "values": values, **numbers, "dead": dead, "seconds": round(seconds), "accuracy": curves}


def page(rows: list[dict[str, Any]], command: str, facts: dict[str, str]) -> str:
    """The rows as a page."""
    lines = [f"# Loss of plasticity\n\n`{command}`\n", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    lines += [
        "Online accuracy, means over the seeds ± 95% intervals: of all tasks, of the first and the last tenth of them, and the"
    ]
    lines += [
        "change from the first to the last tenth, within each run. Dead units: hidden units that are 0 on 500 rows, at the end.\n"
    ]
    lines += ["| method | chosen | all tasks | first tenth | last tenth | change | dead units |", "| --- " * 7 + "|"]
    for one in sorted(rows, key=lambda one: -one["all"][0]):
        values = ", ".join(f"{path} {value:g}" for path, value in one["values"].items())
        cells = [f"{mean:.3f} ± {half:.3f}" for mean, half in (one[n] for n in ("all", "first", "last", "change", "dead"))]
        lines.append(f"| {one['method']} | {values} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the methods that --out does not hold yet, and write after each."""
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    names = ("problem", "tasks", "rows", "epochs", "hidden", "batch", "optimizer", "lr", "seeds", "tuning_seeds")
    protocol = {name: getattr(args, name) for name in names}
    file = args.out / "plasticity.json"
    try:
        rows = results.earlier(file, "rows", "protocol", protocol)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    command = command_line("benchmarks.accuracy.plasticity", sys.argv[1:], ("--data", "--out"))
    facts = machine.describe() | {"torch": torch.__version__}
    train = cl.data.idx_folder(args.data)[0]
    some = cl.random.permutation(cl.key(0), len(train))[: args.rows]
    images = cl.Dataset(train.x[some], train.y[some], n_classes=10)
    make = functools.lru_cache(64)(functools.partial(stream, data=images, problem=args.problem, tasks=args.tasks))
    for name in args.methods:
        if any(one["method"] == name for one in rows):
            continue
        started = time.perf_counter()
        values = chosen(METHODS[name], _by_seed(make), args)
        found = measure(METHODS[name], _by_seed(make), list(range(args.seeds)), values, args)
        rows.append(row(name, values, found, time.perf_counter() - started))
        results.write(file, {"command": command, "machine": facts, "protocol": protocol, "rows": rows})
        (args.out / "plasticity.md").write_text(page(rows, command, facts), encoding="utf-8")
        curves = {one["method"]: torch.tensor(one["accuracy"]) for one in rows}
        figure = cl.plots.accuracy_timeline(curves, xlabel="task", ylabel="online accuracy", higher_is_better=True)
        figure.savefig(args.out / "plasticity.png")
        print(f"{name}: {rows[-1]['all']}, {rows[-1]['change']} {values or ''} ({rows[-1]['seconds']} s)", flush=True)
    return 0


def _by_seed(make: Callable[[int], cl.Benchmark]) -> Callable[[Tensor], cl.Benchmark]:
    """Streams by key, each made once, however many points of a grid it is for."""
    return lambda key: make(int(key))


if __name__ == "__main__":
    torch.set_num_threads(1)  # lanes are what there is to do at once
    sys.exit(main())
