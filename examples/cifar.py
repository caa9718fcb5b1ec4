"""ER and DER++ on Split CIFAR-10 with the protocol of Mammoth, the code of DER: class-IL and task-IL accuracy.

    python examples/cifar.py --data FOLDER --method der_pp --buffer 500 --device cuda --compile
    python examples/cifar.py --data FOLDER --fraction 0.1 --epochs 1 --width 16     # a minute on a CPU

FOLDER holds CIFAR-10 as published, python or binary version, or images as train/CLASS/NAME.png and test/CLASS/NAME.png.

The ten classes come two at a time. ResNet-18 with a 3x3 stem, SGD, minibatches of 32 and as many rows of the memory for each
term of the loss, 50 epochs; crops and flips drawn anew for new and replayed rows; every minibatch is offered to a reservoir
after its step, at each epoch. Learning rates and strengths are those that they chose. Published are, class-IL with 200 and 500
rows: ER 44.8 and 57.7, DER++ 64.9 and 72.7 (Buzzega, Boschini, Porrello, Abati & Calderara, "Dark experience for general
continual learning", NeurIPS 2020, table 2; https://github.com/aimagelab/mammoth, models/er.py, models/derpp.py,
utils/best_args.py). One forward pass serves all rows of a step, so that batch normalisation sees them together; in Mammoth's
DER++ each term has a pass of its own. Task-IL lets the two classes of the test experience compete alone.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import cl_func as cl
from cl_func import augment

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2615)


def load(folder: Path, fraction: float, device: str) -> cl.Benchmark:
    """Five experiences of two classes, of the first part of each class."""
    parts = cl.data.from_folder(folder) if (folder / "train").is_dir() else cl.data.cifar(folder)
    some = []
    for data in parts:
        rows = [(data.y == label).nonzero().flatten() for label in range(data.n_classes)]
        kept = torch.cat([own[: max(round(fraction * len(own)), 1)] for own in rows])
        some.append(cl.tree.to(cl.Dataset(data.x[kept], data.y[kept], n_classes=data.n_classes), device))
    return cl.streams.split_by_class(some[0], some[1], n_experiences=5)


def er(model: cl.models.Model, buffer: int, epochs: int) -> cl.Strategy:
    """As `cl.strategies.er`, but for the memory, which is filled after each step instead of after each experience."""
    optimizer = cl.optim.sgd(lr=0.1)
    replay = cl.losses.with_replay(cl.losses.cross_entropy(model), n=32, draw=cl.memory.draws.distinct)
    step = cl.compose(cl.train_step(replay, optimizer), cl.memory.reservoir.insert())
    init = cl.strategies.er(model, optimizer, capacity=buffer, replay_size=32).init
    return cl.Strategy(init, cl.minibatches(step, batch_size=32, epochs=epochs), model)


def der_pp(model: cl.models.Model, buffer: int, epochs: int) -> cl.Strategy:
    """Their best strengths depend on the size of the memory."""
    alpha, beta = {200: (0.1, 0.5), 500: (0.2, 0.5), 5120: (0.1, 1.0)}.get(buffer, (0.2, 0.5))
    loop: dict[str, Any] = {"batch_size": 32, "epochs": epochs}
    return cl.strategies.der_pp(model, cl.optim.sgd(lr=0.03), capacity=buffer, replay_size=32, alpha=alpha, beta=beta, **loop)


METHODS = {"er": er, "der_pp": der_pp}


def network(n_classes: int, width: int) -> cl.models.Model:
    """ResNet-18 that normalises its inputs, and in training crops and flips them."""
    net = cl.models.normalized(cl.models.resnet18(n_classes, stem="cifar", width=width), MEAN, STD)
    return cl.models.augmented(net, augment.compose(augment.random_crop(padding=4), augment.horizontal_flip()))


def accuracies(logits: Tensor, exp: cl.Experience) -> dict[str, Tensor]:
    """Whether each row is classified correctly, among all classes and among those of its experience."""
    alone = cl.losses.mask_logits(logits, exp.classes)
    return {"class-IL": logits.argmax(-1) == exp.y, "task-IL": alone.argmax(-1) == exp.y}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of CIFAR-10, or of images train/CLASS, test/CLASS")
    parser.add_argument("--method", choices=METHODS, default="er", help="er or der_pp (default: er)")
    parser.add_argument("--buffer", type=int, default=200, help="rows in the memory (default: 200)")
    parser.add_argument("--epochs", type=int, default=50, help="passes over each experience (default: 50)")
    parser.add_argument("--seeds", type=int, default=1, help="runs (default: 1)")
    parser.add_argument("--fraction", type=float, default=1.0, help="of the images of each class (default: 1)")
    parser.add_argument("--width", type=int, default=64, help="filters of the first stage of the net (default: 64)")
    parser.add_argument("--device", default="cpu", help="such as cuda (default: cpu)")
    parser.add_argument("--compile", action="store_true", help="compile the step, which takes a minute or two")
    args = parser.parse_args()
    if args.seeds < 1 or not 0 < args.fraction <= 1:
        parser.error("expected --seeds of at least 1 and a --fraction in (0, 1]")

    bench = load(args.data, args.fraction, args.device)
    strategy = METHODS[args.method](network(bench.n_classes, args.width), args.buffer, args.epochs)
    update = cl.compile(strategy.update) if args.compile else strategy.update
    probe = cl.evaluate(strategy.model, bench.test, measure=accuracies)
    train, test = (sum(map(len, stream)) for stream in (bench.train, bench.test))
    print(f"{args.method}: {train:,} training and {test:,} test images, {args.epochs} epochs")
    final: dict[str, list[Tensor]] = {"class-IL": [], "task-IL": []}
    for seed in range(args.seeds):
        start = time.perf_counter()

        def show(time_: int, entry: dict[str, Tensor], seed: int = seed, start: float = start) -> None:
            found = ", ".join(f"{name} {value[: time_ + 1].mean():.3f}" for name, value in entry.items())
            print(f"seed {seed}, after experience {time_}: {found} ({time.perf_counter() - start:.0f} s)", flush=True)

        state = strategy.init(cl.key(seed, args.device))
        _, history = cl.scan(update, state, bench.train, probe=probe, tap=show, donate=True)
        for name, values in final.items():
            values.append(history[name][-1].mean().cpu())
    for name, values in final.items():
        mean, half = cl.metrics.mean_ci(torch.stack(values))
        print(f"{name:<9} {mean:.3f}" + (f" ± {half:.3f}" if args.seeds > 1 else ""))


if __name__ == "__main__":
    main()
