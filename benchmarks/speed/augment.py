"""What augmentation costs: the time of a training step of the slim ResNet-18 on 32 x 32 images, relative to the step without.

    python -m benchmarks.speed.augment [--rows 32] [--rounds 15]

A step is the gradient of the cross-entropy and one step of SGD, on one core, eager and compiled. All contenders take their steps
in turn; a ratio is the median, over the rounds, of a step's time to that of the plain step of the same round. Times are the
processor's for this process, in which other processes count only through the caches and the memory that they share.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import cl_func as cl
from benchmarks import machine, results
from benchmarks.process import command_line
from cl_func import augment, losses

SHAPE = (3, 32, 32)
PLAIN = "nothing"


def contenders() -> dict[str, tuple[cl.models.Model, cl.core.Loss]]:
    """A model and a loss by what is done to the images."""
    net = cl.models.slim_resnet18(SHAPE, n_classes=10)
    moved = (augment.random_crop(padding=4), augment.horizontal_flip())
    colours = (augment.color_jitter(0.4, 0.4, 0.4, 0.1, p=0.8), augment.grayscale(0.2))
    views = {
        "crop, flip": moved,
        "crop, flip, cutout": (*moved, augment.cutout(16)),
        "crop, flip, jitter, grey": (*moved, *colours),
    }
    found = {PLAIN: (net, losses.cross_entropy(net))}
    for name, parts in views.items():
        model = cl.models.augmented(net, augment.compose(*parts))
        found[name] = (model, losses.cross_entropy(model))
    return {**found, "mixup": (net, losses.mixup(net)), "cutmix": (net, losses.cutmix(net))}


class Timed:
    """A step that is warm, with its state."""

    def __init__(self, model: cl.models.Model, loss: cl.core.Loss, exp: cl.Experience, compiled: bool) -> None:
        optimizer = cl.optim.sgd(0.01)
        step: Callable[..., Any] = cl.train_step(loss, optimizer)
        self.step, self.exp = cl.compile(step) if compiled else step, exp
        key, weights = cl.random.split(cl.key(0))
        net = model.init(weights)
        self.state = self.step(cl.Agent(key=key, model=net, opt=optimizer.init(net.params)), exp)

    def seconds(self) -> float:
        """One step."""
        start = time.process_time()
        self.state = self.step(self.state, self.exp)
        return time.process_time() - start


def measure(rows: int, rounds: int, compiled: bool) -> list[dict[str, Any]]:
    """A row of the table for each contender."""
    x = cl.random.uniform(cl.key(1), (rows, *SHAPE))
    exp = cl.experience(cl.Dataset(x, torch.arange(rows) % 10, n_classes=10))
    timed = {}
    for name, (model, loss) in contenders().items():
        timed[name] = Timed(model, loss, exp, compiled)
        print(f"{'compiled' if compiled else 'eager'}: {name} is warm", flush=True)
    times: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds):
        for name, one in timed.items():
            times[name].append(one.seconds())
    found = []
    for name, taken in times.items():
        ratios = sorted(t / plain for t, plain in zip(taken, times[PLAIN], strict=True))
        quarter = len(ratios) // 4
        found.append(
            {
                "step": "compiled" if compiled else "eager",
                "to the images": name,
                "milliseconds": 1e3 * statistics.median(taken),
                "ratio": statistics.median(ratios),
                "from": ratios[quarter],
                "to": ratios[-1 - quarter],
            }
        )
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Ratios with the range of the middle half of the rounds."""
    lines = ["| step | to the images | ms a step | relative to nothing | middle half |", "|" + " --- |" * 5]
    for r in rows:
        figures = f"{r['milliseconds']:.0f} | {r['ratio']:.3f} | {r['from']:.3f} to {r['to']:.3f}"
        lines.append(f"| {r['step']} | {r['to the images']} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.augment", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=32, help="rows of a minibatch")
    parser.add_argument("--rounds", type=int, default=15, help="steps of each contender")
    parser.add_argument("--out", type=Path, default=Path("out/augment"), help="folder for augment.json and augment.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    facts = {**machine.describe(), "torch": torch.__version__, "rows": args.rows, "rounds": args.rounds}
    rows = [row for compiled in (False, True) for row in measure(args.rows, args.rounds, compiled)]
    command = command_line("benchmarks.speed.augment", sys.argv[1:], ("--out",))
    args.out.mkdir(parents=True, exist_ok=True)
    results.write(args.out / "augment.json", {"command": command, "machine": facts, "rows": rows})
    page = ["# Augmentation", f"`{command}`", "\n".join(f"- {n}: {v}" for n, v in facts.items()), table(rows)]
    (args.out / "augment.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")
    print(f"\n{table(rows)}\n\nwritten: {args.out}/augment.json, augment.md")


if __name__ == "__main__":
    main()
