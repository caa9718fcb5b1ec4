"""A whole experiment on real data: Split-Fashion-MNIST in five experiences, online ER, evaluated after each, over many seeds.

    python -m benchmarks.speed.fashion --data FOLDER [--seeds 20]

Each image is seen once, ten at a time, with ten replayed from a reservoir of 500 (B1 on real data), in one call of `cl.sweep`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

import cl_func as cl
from benchmarks.works import WORKS

EXPERIENCES = 5


def main() -> None:
    """Run all seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST-format idx files, plain or .gz")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--lanes", type=int, help="seeds in one program (default: chosen by the sweep)")
    parser.add_argument("--limit", type=int, help="only so many rows of the training data")
    args = parser.parse_args()
    start, work = time.perf_counter(), WORKS["B1"]
    train, test = cl.data.idx_folder(args.data)
    if args.limit:  # the same number of each class
        rows = torch.cat([(train.y == c).nonzero().flatten()[: args.limit // train.n_classes] for c in range(train.n_classes)])
        train = cl.Dataset(train.x[rows], train.y[rows], n_classes=train.n_classes)
    bench = cl.streams.split_by_class(train, test, n_experiences=EXPERIENCES)
    online = cl.streams.split_online(bench, work.batch, key=cl.key(0))
    model = cl.models.mlp(work.widths[0], work.widths[1:-1], work.widths[-1])
    method = cl.strategies.er(model, cl.optim.sgd(work.lr), capacity=work.capacity, replay_size=work.replayed)
    each = len(online.train) // EXPERIENCES
    runs = cl.sweep(method, online, seeds=args.seeds, every=each, compile=True, lanes=args.lanes or "auto", progress=False)
    R = runs["accuracy"]  # [seed, after experience, test experience]

    print(f"{args.seeds} seeds, {len(train):,} training images, {time.perf_counter() - start:.1f} s after the imports\n")
    print("| after experience | " + " | ".join(f"test {j}" for j in range(EXPERIENCES)) + " | average |")
    print("|" + " --- |" * (EXPERIENCES + 2))
    for i in range(EXPERIENCES):
        mean = R[:, i].mean(0)
        print(f"| {i} | " + " | ".join(f"{value:.3f}" for value in mean) + f" | {mean[: i + 1].mean():.3f} |")


if __name__ == "__main__":
    main()
