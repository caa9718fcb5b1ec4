"""Split-Fashion-MNIST in Avalanche: the experiment of benchmarks/speed/fashion.py for one seed, with Avalanche's own metrics."""

# pyright: reportMissingImports=false
# Avalanche has an environment of its own (benchmarks/peers/interpreters.py).

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np
import torch
from avalanche.benchmarks import split_online_stream
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin

from benchmarks.peers import nets
from benchmarks.peers.avalanche_er import Labelled, split, strategy
from benchmarks.works import WORKS

EXPERIENCES = 5


def read(folder: Path, part: str, limit: int | None) -> Labelled:
    """The images as vectors in [0, 1], float32, and their labels."""
    arrays = []
    for name, header in ((f"{part}-images-idx3-ubyte", 16), (f"{part}-labels-idx1-ubyte", 8)):
        path = folder / name
        content = path.read_bytes() if path.is_file() else gzip.decompress((folder / f"{name}.gz").read_bytes())
        arrays.append(np.frombuffer(content, np.uint8, offset=header))
    y = torch.from_numpy(arrays[1].astype(np.int64))
    x = torch.from_numpy(arrays[0].reshape(len(y), -1).astype(np.float32) / 255)
    return Labelled(x[:limit], y[:limit])


def main() -> None:
    """Train, evaluate after each experience, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST-format idx files, plain or .gz")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="only the first rows of the training data")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    work = WORKS["B1"]
    bench = split(read(args.data, "train", args.limit), read(args.data, "t10k", None), EXPERIENCES)
    evaluator = EvaluationPlugin(accuracy_metrics(experience=True), loggers=[])
    method = strategy(work, nets.network(work), evaluator)
    print("| after experience | " + " | ".join(f"test {j}" for j in range(EXPERIENCES)) + " | average |")
    print("|" + " --- |" * (EXPERIENCES + 2))
    for i in range(EXPERIENCES):
        for experience in split_online_stream(bench.train_stream[i : i + 1], work.batch, seed=args.seed):
            method.train(experience)
        metrics = method.eval(bench.test_stream)
        row = [value for name, value in sorted(metrics.items()) if name.startswith("Top1_Acc_Exp/eval_phase/test_stream")]
        print(f"| {i} | " + " | ".join(f"{value:.3f}" for value in row) + f" | {sum(row[: i + 1]) / (i + 1):.3f} |")


if __name__ == "__main__":
    main()
