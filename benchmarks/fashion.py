"""A whole experiment on real data: Split-Fashion-MNIST in five experiences, online ER, evaluated after each, over many seeds.

    python -m benchmarks.fashion --data FOLDER [--seeds 20]

Each image is seen once, ten at a time, with ten replayed from a reservoir of 500 (benchmark B1 on data). The seeds are lanes of one
compiled program, `--lanes` of them at a time: as many as stay in the cache.
"""

from __future__ import annotations

import argparse
import dataclasses
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
    parser.add_argument("--lanes", type=int, default=4, help="seeds at once")
    parser.add_argument("--limit", type=int, help="only the first rows of the training data")
    args = parser.parse_args()
    start, work = time.perf_counter(), WORKS["B1"]
    train, test = cl.data.idx_folder(args.data)
    train = cl.Dataset(train.x[: args.limit], train.y[: args.limit], n_classes=train.n_classes)
    bench = cl.streams.split_by_class(train, test, n_experiences=EXPERIENCES)
    pieces = [
        list(cl.streams.split_online(dataclasses.replace(bench, train=bench.train[i : i + 1]), work.batch, key=cl.key(i)).train)
        for i in range(EXPERIENCES)
    ]
    model = cl.models.mlp(work.widths[0], work.widths[1:-1], work.widths[-1])
    method = cl.strategies.er(model, cl.optim.sgd(work.lr), capacity=work.capacity, replay_size=work.replayed)
    update = cl.compile(cl.vmap(method.update))
    probe = cl.compile(cl.vmap(cl.evaluate(model, bench.test)))

    matrices = []
    for first in range(0, args.seeds, args.lanes):
        seeds = range(first, min(first + args.lanes, args.seeds))
        states, history = cl.tree.stack([method.init(cl.key(seed)) for seed in seeds]), []
        for part in pieces:
            states = cl.fold(update, states, part, donate=True)
            history.append(probe(states)["accuracy"])
        matrices.append(torch.stack(history, dim=1))
    R = torch.cat(matrices)  # [seed, after experience, test experience]

    print(f"{args.seeds} seeds, {len(train):,} training images, {time.perf_counter() - start:.1f} s after the imports\n")
    print("| after experience | " + " | ".join(f"test {j}" for j in range(EXPERIENCES)) + " | average |")
    print("|" + " --- |" * (EXPERIENCES + 2))
    for i in range(EXPERIENCES):
        mean = R[:, i].mean(0)
        print(f"| {i} | " + " | ".join(f"{value:.3f}" for value in mean) + f" | {mean[: i + 1].mean():.3f} |")


if __name__ == "__main__":
    main()
