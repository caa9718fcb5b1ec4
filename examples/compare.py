"""Five methods with the same seeds: a table, which differences are significant, and a picture of their ranks.

    python examples/compare.py [--seeds 8] [--out out/compare]

The methods differ in their states: in what they store, and one in its network. `streams` gives the upper bound its own stream.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

import cl_func as cl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8, help="runs of each method (default: 8)")
    parser.add_argument("--out", type=Path, default=Path("out/compare"), help="folder for the picture")
    args = parser.parse_args()
    torch.set_num_threads(1)

    bench = cl.streams.split_by_class(*cl.data.digits(), n_experiences=5)
    model, wide = (cl.models.mlp(64, hidden=(width,), n_classes=10) for width in (64, 256))
    optimizer = cl.optim.sgd(lr=0.05, momentum=0.9)
    loop: dict[str, Any] = {"batch_size": 32, "epochs": 5}
    memory: dict[str, Any] = {"capacity": 200, "replay_size": 32, **loop}
    methods = {
        "naive": cl.strategies.naive(model, optimizer, **loop),
        "LwF": cl.strategies.lwf(model, optimizer, **loop),
        "ER": cl.strategies.er(model, optimizer, **memory),
        "ER, wide": cl.strategies.er(wide, optimizer, **memory),
        "joint": cl.strategies.joint(model, optimizer, **loop),
    }
    runs = cl.compare(methods, bench, seeds=args.seeds, streams={"joint": cl.streams.cumulative}, progress=False)
    print(runs.table(["average_accuracy", "forgetting"]))
    print(f"\n{runs.compare('ER')}")  # ER against each of the others

    args.out.mkdir(parents=True, exist_ok=True)
    runs.plot_critical_difference(title="Split-Digits").savefig(args.out / "ranks.png")
    print(f"\npicture: {args.out / 'ranks.png'}")


if __name__ == "__main__":
    main()
