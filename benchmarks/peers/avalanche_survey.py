"""ER of the online survey in Avalanche 0.6, as that survey composed it: three epochs of each minibatch and the replay plugin.

A step is one minibatch of ten rows, an experience of an online stream, stepped on three times with ten rows of a class-balanced
memory of 2,000; images are cropped and flipped as they are read. Random images stand for CIFAR-100: time is all that is asked.
"""

# pyright: reportMissingImports=false
# Avalanche has an environment of its own (benchmarks/peers/interpreters.py).

from __future__ import annotations

import argparse
import itertools

import avalanche
import torch
from avalanche.benchmarks import nc_benchmark, split_online_stream
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.models import SlimResNet18
from avalanche.training import ClassBalancedBuffer, Naive
from avalanche.training.plugins import EvaluationPlugin
from torch.utils.data import TensorDataset
from torchvision import transforms

from benchmarks.peers.avalanche_er import Replay
from benchmarks.protocol import serve

ROWS, CLASSES, EXPERIENCES, BATCH, MEMORY = 10_000, 100, 20, 10, 2_000
MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


class Images(TensorDataset):
    """Random images, bytes [N, 3, 32, 32], with the list of targets that Avalanche looks for."""

    def __init__(self) -> None:
        labels = torch.arange(ROWS) % CLASSES
        super().__init__(torch.randint(0, 256, (ROWS, 3, 32, 32), dtype=torch.uint8), labels)
        self.targets: list[int] = labels.tolist()


def main() -> None:
    """Serve the run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1, help="threads within an operation")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one repetition")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    scaled = [transforms.ConvertImageDtype(torch.float32), transforms.Normalize(MEAN, STD)]
    moved = transforms.Compose([transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), *scaled])
    kept = transforms.Compose(scaled)
    data = as_classification_dataset(Images(), transform_groups={"train": (moved, None), "eval": (kept, None)})
    bench = nc_benchmark(data, data, n_experiences=EXPERIENCES, task_labels=False, shuffle=False)
    stream = itertools.cycle(split_online_stream(bench.train_stream, BATCH, seed=0))
    net = SlimResNet18(CLASSES)
    sizes = {"mem_size": MEMORY, "batch_size": BATCH, "batch_size_mem": BATCH}
    method = Naive(
        model=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.06),
        criterion=torch.nn.CrossEntropyLoss(),
        train_epochs=3,
        train_mb_size=BATCH,
        plugins=[Replay(**sizes, storage_policy=ClassBalancedBuffer(MEMORY))],
        evaluator=EvaluationPlugin(loggers=[]),
    )

    def run(n: int) -> int:
        for _ in range(n):
            method.train(next(stream))
        return n

    versions = {"avalanche": avalanche.__version__, "torch": torch.__version__}
    serve(run, seconds=args.seconds, steps=None, versions=versions)


if __name__ == "__main__":
    main()
