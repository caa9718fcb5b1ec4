"""Five continual-learning methods on class-incremental Split-Digits, over several seeds, as a table, a test and two pictures.

    python examples/quickstart.py [--data FOLDER] [--seeds 10] [--out out/quickstart]

The ten digits arrive two at a time in five experiences; after each one the model is tested on all five. `joint` trains on
everything so far. All seeds of a method run at once, as lanes. `--data FOLDER` takes MNIST-format idx files instead.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

import cl_func as cl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of MNIST-format idx files, plain or .gz (default: the digits shipped)")
    parser.add_argument("--seeds", type=int, default=10, help="runs of each method (default: 10)")
    parser.add_argument("--out", type=Path, default=Path("out/quickstart"), help="folder for the pictures")
    args = parser.parse_args()
    if args.seeds < 2:
        parser.error(f"--seeds: expected at least 2, got {args.seeds}")
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.data:
        torch.set_num_threads(1)  # a net of this size gains nothing from a second thread, and loses much where cores are shared

    train, test = cl.data.idx_folder(args.data) if args.data else cl.data.digits()
    bench = cl.streams.split_by_class(train, test, n_experiences=5)
    model = cl.models.mlp(train.x[0].numel(), hidden=(256, 256), n_classes=bench.n_classes)
    optimizer = cl.optim.sgd(lr=0.05, momentum=0.9)
    loop: dict[str, Any] = {"batch_size": 128, "epochs": 1} if args.data else {"batch_size": 32, "epochs": 10}
    memory: dict[str, Any] = {"capacity": 1000, "replay_size": 128} if args.data else {"capacity": 200, "replay_size": 32}
    methods = {
        "naive": cl.strategies.naive(model, optimizer, **loop),
        "LwF": cl.strategies.lwf(model, optimizer, strength=1.0, **loop),
        "ER": cl.strategies.er(model, optimizer, **memory, **loop),
        "ER + LwF": cl.strategies.er_lwf(model, optimizer, strength=0.5, **memory, **loop),
        "joint": cl.strategies.joint(model, optimizer, **loop),
    }
    # All seeds of a method as lanes of one run, and uncompiled, which for so small a run takes less time than compiling.
    streams = {"joint": cl.streams.cumulative}
    runs = cl.compare(methods, bench, seeds=args.seeds, streams=streams, lanes=args.seeds, compile=False)

    print(f"{len(train):,} training and {len(test):,} test samples, 5 experiences, mean ± 95% confidence interval\n")
    print(runs.table(["average_accuracy", "forgetting"]))
    print(f"\nER and each of the others, with the same seeds:\n{runs.compare('ER')}")
    runs.plot_timeline().savefig(args.out / "accuracy.png")
    runs.plot_matrix().savefig(args.out / "matrices.png")
    print(f"\n{runs.seconds:.0f} s; pictures: {args.out / 'accuracy.png'}, {args.out / 'matrices.png'}")


if __name__ == "__main__":
    main()
