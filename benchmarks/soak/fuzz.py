"""python -m benchmarks.soak.fuzz [--count 200] [--seed 0] [--seconds 3600]: random configurations, compiled against eager.

Each configuration draws a strategy with its arguments, a model (MLP, cosine head with its 0-d scale, multi-head, batch norm and
dropout, convolutions, frozen and tied parameters), an optimiser, odd sizes of minibatches and experiences (down to one row) and
classes that may return. Its lanes, vmapped, compiled and donated, must end where eager single runs do; what one refuses, the other
must refuse, too. Configuration i depends on the seed and i alone: `--only i` runs it again.

Where a run differs by more than the tolerance it is repeated in float64. If both agree there to 1e-5, the difference was rounding
(a comparison that chose another row, say), and is counted separately.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import dataclasses
import json
import multiprocessing
import random
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import cl_func as cl
from benchmarks import machine

CLASSES, LANES = 4, 2
RTOL, ATOL = 1e-3, 1e-4
CHANGES: dict[str, Callable[[random.Random], dict[str, Any]]] = {
    "er": lambda r: {"capacity": r.choice([5, 9]), "replay_size": r.choice([1, 3, 5])},
    "er_ace": lambda r: {"capacity": 7, "replay_size": r.choice([1, 4])},
    "er_lwf": lambda r: {"capacity": 7, "replay_size": r.choice([1, 4])},
    "der": lambda r: {"capacity": 7, "replay_size": r.choice([1, 4])},
    "der_pp": lambda r: {"capacity": 7, "replay_size": r.choice([1, 4])},
    "mir": lambda r: {"capacity": 9, "replay_size": 2, "candidates": r.choice([4, 7])},
    "gss": lambda r: {"capacity": 9, "replay_size": r.choice([1, 4]), "subset_size": 3},
    "gdumb": lambda r: {"capacity": r.choice([5, 9])},
    "ewc": lambda r: {"strength": 10.0, "labels": r.choice(["true", "model", "all"])},
    "ewc_online": lambda r: {"strength": 10.0, "decay": r.choice([0.5, 1.0])},
    "si": lambda r: {"strength": 1.0},
    "mas": lambda r: {"strength": 0.1},
    "rwalk": lambda r: {"strength": 1.0, "interval": r.choice([1, 3])},
    "agem": lambda r: {"capacity": 6, "sample_size": r.choice([2, 5])},
    "gem": lambda r: {"memory_per_experience": 3, "n_experiences": 4},
    "owm": lambda r: {"alpha": r.choice([0.01, 0.1])},
    "ogd": lambda r: {"capacity": 7, "per_experience": r.choice([2, 4])},
    "icarl": lambda r: {"capacity": 7, "replay_size": 4},
    "bic": lambda r: {"capacity": 14, "replay_size": 4, "validation": 0.4},
    "slda": lambda r: {"shrinkage": 0.1},
    "ranpac": lambda r: {"projection_size": 16, "ridge": 0.1},
    "fecam": lambda r: {"gamma2": r.choice([0.0, 1.0])},
    "acil": lambda r: {"projection_size": r.choice([3, 16])},
}
STRATEGIES = ("naive", "joint", "cumulative", "from_scratch", "lwf", "ncm", *CHANGES)


def _off_the_kink(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    """Give batch normalisation a bias: a single row is normalised to 0, where rounding would decide ReLU's derivative."""
    nn.init.uniform_(norm.bias, 0.1, 0.5)


class Odd(nn.Module):
    """Parameters of every shape: 0-d, 1-d, frozen, tied; with batch normalisation and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.tensor(1.5)), nn.Parameter(torch.zeros(8))
        self.frozen = nn.Linear(6, 8).requires_grad_(False)
        self.norm, self.drop = nn.BatchNorm1d(8), nn.Dropout(0.1)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.out = nn.Linear(8, CLASSES)
        _off_the_kink(self.norm)

    def forward(self, x: Tensor) -> Tensor:
        h = self.drop(torch.relu(self.norm(self.frozen(x) * self.scale + self.shift)))
        return self.out(torch.relu(self.second(torch.relu(self.first(h)))))


def normed() -> nn.Module:
    """A linear net with batch normalisation and dropout."""
    norm = nn.BatchNorm1d(8)
    _off_the_kink(norm)
    return nn.Sequential(nn.Linear(6, 8), norm, nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, CLASSES))


def normed_cnn() -> nn.Module:
    """A convolutional net with batch normalisation."""
    norm = nn.BatchNorm2d(4)
    _off_the_kink(norm)
    convolutions = [nn.Conv2d(1, 4, 3, padding=1), norm, nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(16, CLASSES))


MLP = cl.models.mlp(6, (8,), CLASSES)
MODELS: dict[str, cl.models.Model] = {
    "mlp": MLP,
    "cosine": cl.models.mlp(6, (8,), CLASSES, head="cosine"),
    "multi_head": cl.models.multi_head(MLP, torch.tensor([[True, True, False, False], [False, False, True, True]])),
    "batch norm": cl.models.from_module(normed, n_classes=CLASSES, input_shape=(6,), last_layer="4"),
    "odd": cl.models.from_module(Odd, n_classes=CLASSES, input_shape=(6,), last_layer="out"),
    "cnn": cl.models.cnn((1, 4, 4), n_classes=CLASSES, channels=(4,), hidden=8),
    "conv, batch norm": cl.models.from_module(normed_cnn, n_classes=CLASSES, input_shape=(1, 4, 4), last_layer="5"),
}
OPTIMIZERS: dict[str, Callable[[], cl.core.Optimizer]] = {
    "sgd": lambda: cl.optim.sgd(0.1),
    "momentum": lambda: cl.optim.sgd(0.05, momentum=0.9, weight_decay=1e-3),
    "nesterov": lambda: cl.optim.sgd(0.05, momentum=0.9, nesterov=True),
    # A large eps: otherwise a gradient that is 0 up to rounding, as of a bias before batch norm, makes a step of a whole rate.
    "adam": lambda: cl.optim.adam(1e-2, eps=1e-2),
    "adamw": lambda: cl.optim.adamw(1e-2, eps=1e-2),
}


@dataclasses.dataclass(frozen=True)
class Configuration:
    """One draw: names and numbers, from which everything is made."""

    strategy: str
    model: str
    optimizer: str
    arguments: dict[str, Any]
    sizes: tuple[int, ...]  # rows of each experience
    classes: tuple[tuple[int, ...], ...]  # of each experience

    def __str__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"{self.strategy}({self.model}, {self.optimizer}, {given}) on {self.sizes} rows of the classes {self.classes}"


def draw(seed: int, index: int) -> Configuration:
    """Configuration `index`; the strategies take turns."""
    r = random.Random(f"{seed} {index}")
    strategy, model = STRATEGIES[index % len(STRATEGIES)], r.choice(list(MODELS))
    loop: dict[str, Any] = {"batch_size": r.choice([None, 1, 3, 7])}
    if loop["batch_size"] and r.random() < 0.3:
        loop["iterations"] = r.choice([1, 3, 4])
    else:
        loop["epochs"] = r.choice([1, 2])
    tasks = [(0, 1), (2, 3)]
    classes = tuple(
        tasks[i % 2] if model == "multi_head" else tuple(sorted(r.sample(range(CLASSES), r.choice([1, 2, 2, 3])))) for i in range(2)
    )
    sizes = tuple(r.choice([1, 5, 5, 11]) for _ in classes)
    changes = CHANGES.get(strategy, lambda r: {})(r)
    return Configuration(strategy, model, r.choice(list(OPTIMIZERS)), loop | changes, sizes, classes)


def stream(config: Configuration, dtype: torch.dtype) -> cl.Stream:
    """The experiences of a configuration: normal inputs, the classes of each in turn."""
    model = MODELS[config.model]
    rows = sum(config.sizes)
    y = torch.cat([torch.tensor(classes).repeat(n)[:n] for n, classes in zip(config.sizes, config.classes, strict=True)])
    shape = model.input_shape or ()
    x = cl.random.normal(cl.key(rows), (rows, *shape), dtype) + y.reshape(-1, *[1] * len(shape))
    data, ends = cl.Dataset(x, y, n_classes=CLASSES), [sum(config.sizes[: i + 1]) for i in range(len(config.sizes))]
    parts = []
    for i, (n, end) in enumerate(zip(config.sizes, ends, strict=True)):
        task = i % 2 if config.model == "multi_head" else 0
        parts.append(cl.experience(data, torch.arange(end - n, end), index=i, task=task))
    return cl.Stream(tuple(parts).__getitem__, len(parts))


def doubled(state: Any) -> Any:
    """The state in float64, except for the share, which iCaRL and BiC recompute in float32."""
    leaves = [leaf.double() if leaf.dtype == torch.float32 and path != "share" else leaf for path, leaf in cl.tree.items(state)]
    return cl.tree.unflatten(cl.tree.flatten(state)[1], leaves)


def build(config: Configuration) -> cl.Strategy:
    """The strategy of a configuration."""
    return getattr(cl.strategies, config.strategy)(MODELS[config.model], OPTIMIZERS[config.optimizer](), **config.arguments)


def ends(config: Configuration, dtype: torch.dtype) -> tuple[Any, Any]:
    """The final states of eager single runs, stacked, and of the compiled, donated lanes; a string where one was refused."""
    strategy = build(config)
    train, starts = stream(config, dtype), [strategy.init(cl.key(seed)) for seed in range(LANES)]
    starts = [doubled(state) for state in starts] if dtype == torch.float64 else starts
    update = cl.compile(cl.vmap(strategy.update))
    return (
        attempt(lambda: cl.tree.stack([cl.fold(strategy.update, state, train) for state in starts])),
        attempt(lambda: cl.fold(update, cl.tree.stack(starts), train, donate=True)),
    )


def attempt(run: Callable[[], Any]) -> Any:
    """What a run returns, or the message of the error that refuses it."""
    try:
        return run()
    except (ValueError, TypeError) as error:
        return f"{type(error).__name__}: {error}"


def check(seed: int, index: int) -> tuple[str, str]:
    """The outcome of a configuration, "equal", "rounding", "refused" or "FAULT", and the details."""
    config = draw(seed, index)
    try:
        start = attempt(lambda: build(config).init(cl.key(0)))
        if isinstance(start, str):
            return "refused", start
        eager, compiled = ends(config, torch.float32)
        if isinstance(eager, str) or isinstance(compiled, str):
            both = isinstance(eager, str) and isinstance(compiled, str)
            return ("refused" if both else "FAULT"), f"{eager if isinstance(eager, str) else compiled}"
        difference = cl.tree.difference(compiled, eager, RTOL, ATOL)
        if difference is None:
            return "equal", ""
        eager, compiled = ends(config, torch.float64)
        if isinstance(eager, str) or isinstance(compiled, str):
            return "FAULT", f"{difference}; float64: {eager if isinstance(eager, str) else compiled}"
        exact = cl.tree.difference(compiled, eager, 1e-5, 1e-5)
        return ("rounding", difference) if exact is None else ("FAULT", f"{difference}; float64: {exact}")
    except Exception as error:
        return "FAULT", f"{type(error).__name__}: {str(error)[:300]}"


def _one_thread() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


def main() -> int:
    """Run, print every difference as it is found, write the report; 1 if there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3600, help="start no new ones after so many seconds")
    parser.add_argument("--only", type=int, help="just this configuration, printed")
    parser.add_argument("--workers", type=int, default=machine.cores())
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"), help="folder for fuzz.md and fuzz.json")
    args = parser.parse_args()
    if args.only is not None:
        _one_thread()
        print(draw(args.seed, args.only), *check(args.seed, args.only), sep="\n")
        return 0
    start, found = time.perf_counter(), dict[int, tuple[str, str]]()
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(args.workers, context, _one_thread, max_tasks_per_child=40) as pool:
        pending: dict[concurrent.futures.Future[tuple[str, str]], int] = {}
        left = list(range(args.count))[::-1]
        while pending or (left and time.perf_counter() - start < args.seconds):
            while left and len(pending) < args.workers and time.perf_counter() - start < args.seconds:
                index = left.pop()
                pending[pool.submit(check, args.seed, index)] = index
            for future in concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED).done:
                index = pending.pop(future)
                found[index] = future.result()
                print(f"{len(found)} of {args.count}", end="\r", flush=True)
                if found[index][0] != "equal":
                    print(f"{index} {found[index][0]}: {draw(args.seed, index)}: {found[index][1]}", flush=True)
    counts = collections.Counter(outcome for outcome, _ in found.values())
    minutes = (time.perf_counter() - start) / 60
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "fuzz.md").write_text(page(args, found, counts, minutes))
    rows = [
        {"index": i, "configuration": str(draw(args.seed, i)), "outcome": o, "details": d} for i, (o, d) in sorted(found.items())
    ]
    (args.out / "fuzz.json").write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    print(f"{dict(counts)} in {minutes:.0f} minutes; written: {args.out}/fuzz.md")
    return int(counts["FAULT"] > 0)


def page(args: argparse.Namespace, found: dict[int, tuple[str, str]], counts: dict[str, int], minutes: float) -> str:
    """The report as Markdown."""
    command = f"python -m benchmarks.soak.fuzz --count {args.count} --seed {args.seed}"
    lines = ["# Fuzz: compiled, donated, vmapped against eager single runs", ""]
    lines += [f"`{command}`, torch {torch.__version__}, {minutes:.0f} minutes.", ""]
    lines += [f"{len(found)} configurations: " + ", ".join(f"{n} {outcome}" for outcome, n in sorted(counts.items())) + ".", ""]
    lines += ["| strategy | " + " | ".join(MODELS) + " |", "| --- |" + " --- |" * len(MODELS)]
    drawn = {i: draw(args.seed, i) for i in found}
    for strategy in STRATEGIES:
        cells = []
        for model in MODELS:
            outcomes = [found[i][0] for i, c in drawn.items() if (c.strategy, c.model) == (strategy, model)]
            cells.append(", ".join(f"{n} {o}" for o, n in sorted(collections.Counter(outcomes).items())))
        lines.append(f"| {strategy} | " + " | ".join(cells) + " |")
    lines += ["", "## What was not equal", ""]
    lines += [f"- {i}, {o}: {drawn[i]}: {d}" for i, (o, d) in sorted(found.items()) if o != "equal"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
