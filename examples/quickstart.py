"""Five continual-learning methods on class-incremental Split-Digits, over several seeds, as a table and two pictures.

    python examples/quickstart.py [--data FOLDER] [--seeds 10] [--out out/quickstart]

The ten digits arrive two at a time in five experiences; after each one the model is tested on all five. All seeds of a method run
at once: `cl.vmap` turns its update into one that trains a stack of agents. `--data FOLDER` takes MNIST-format idx files instead.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import cl_func as cl


def methods(model: cl.models.Model, optimizer: cl.core.Optimizer, large: bool) -> dict[str, tuple[cl.Strategy, bool]]:
    """The strategies by name, and whether each trains on the cumulative stream."""
    memory: dict[str, Any] = {"capacity": 1000 if large else 200, "replay_size": 128 if large else 32}
    loop: dict[str, Any] = {"batch_size": 128, "epochs": 1} if large else {"batch_size": 32, "epochs": 10}
    return {
        "naive": (cl.strategies.naive(model, optimizer, **loop), False),
        "LwF": (cl.strategies.lwf(model, optimizer, strength=1.0, **loop), False),
        "ER": (cl.strategies.er(model, optimizer, **memory, **loop), False),
        "ER + LwF": (cl.strategies.er_lwf(model, optimizer, strength=0.5, **memory, **loop), False),
        "joint": (cl.strategies.joint(model, optimizer, **loop), True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of MNIST-format idx files, plain or .gz (default: the digits shipped)")
    parser.add_argument("--seeds", type=int, default=10, help="runs of each method (default: 10)")
    parser.add_argument("--out", type=Path, default=Path("out/quickstart"), help="folder for the pictures")
    args = parser.parse_args()
    if args.seeds < 1:
        parser.error(f"--seeds: expected at least 1, got {args.seeds}")
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.data:
        torch.set_num_threads(1)  # a net of this size gains nothing from a second thread, and loses much where cores are shared

    train, test = cl.data.idx_folder(args.data) if args.data else cl.data.digits()
    bench = cl.streams.split_by_class(train, test, n_experiences=5)
    everything = cl.streams.cumulative(bench)
    model = cl.models.mlp(train.x[0].numel(), hidden=(256, 256), n_classes=bench.n_classes)
    optimizer = cl.optim.sgd(lr=0.05, momentum=0.9)
    probe = cl.vmap(cl.evaluate(model, bench.test))

    print(
        f"{len(train):,} training and {len(test):,} test samples, 5 experiences, {args.seeds} seeds, mean ± 95% confidence interval"
    )
    print(f"\n{'method':<10} {'average accuracy':>20} {'forgetting':>20} {'seconds':>9}")
    curves, matrices = {}, {}
    for name, (strategy, cumulative) in methods(model, optimizer, large=args.data is not None).items():
        start = time.perf_counter()
        states = cl.tree.stack([strategy.init(cl.key(seed)) for seed in range(args.seeds)])
        stream = tqdm((everything if cumulative else bench).train, desc=name, leave=False)
        _, history = cl.scan(cl.vmap(strategy.update), states, stream, probe)
        R = history["accuracy"].transpose(0, 1)  # [seed, after experience, test experience]
        seconds = time.perf_counter() - start

        average, half = cl.metrics.mean_ci(cl.metrics.average_accuracy(R)[:, -1])
        forgetting, forgetting_half = cl.metrics.mean_ci(cl.metrics.forgetting(R))
        print(f"{name:<10} {average:>12.3f} ± {half:.3f} {forgetting:>12.3f} ± {forgetting_half:.3f} {seconds:>9.1f}")
        curves[name], matrices[name] = cl.metrics.average_accuracy(R), R

    cl.plots.accuracy_timeline(curves).savefig(args.out / "accuracy.png")
    cl.plots.matrices(matrices).savefig(args.out / "matrices.png")
    print(f"\npictures: {args.out / 'accuracy.png'}, {args.out / 'matrices.png'}")


if __name__ == "__main__":
    main()
