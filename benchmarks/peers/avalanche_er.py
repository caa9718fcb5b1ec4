"""The works in Avalanche 0.6: its Naive strategy with its replay or LwF plugin, without loggers or metrics.

online: an online stream of experiences of ten samples, a step is strategy.train on one of them. batch: long experiences and
Avalanche's replay data loader, a step is one of its iterations. The experiences are made beforehand, as for all contenders.
"""

# pyright: reportMissingImports=false
# Avalanche has an environment of its own (benchmarks/peers/interpreters.py).

from __future__ import annotations

import itertools
from typing import Any

import avalanche
import torch
from avalanche.benchmarks import nc_benchmark, split_online_stream
from avalanche.training import Naive, ReservoirSamplingBuffer
from avalanche.training.plugins import EvaluationPlugin, LwFPlugin, ReplayPlugin, SupervisedPlugin
from torch import Tensor
from torch.utils.data import TensorDataset

from benchmarks.peers import nets
from benchmarks.protocol import arguments, serve
from benchmarks.works import WORKS, Work


class Labelled(TensorDataset):
    """Inputs [n, ...] and labels [n], with the list of targets that Avalanche looks for."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        super().__init__(x, y)
        self.targets: list[int] = y.tolist()


def split(train: Labelled, test: Labelled, experiences: int) -> Any:
    """The class-incremental benchmark of two datasets, classes in order."""
    return nc_benchmark(train, test, n_experiences=experiences, task_labels=False, shuffle=False)


class Replay(ReplayPlugin):
    """Avalanche's replay without the call of a function that 0.6 deprecates, which would print a warning at each step."""

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.storage_policy.post_adapt(strategy, strategy.experience)


def strategy(work: Work, net: torch.nn.Module, evaluator: EvaluationPlugin | None = None) -> Naive:
    """The method of a work."""
    plugins: list[SupervisedPlugin] = []
    if work.method == "er":
        buffer = ReservoirSamplingBuffer(work.capacity)
        sizes = {"mem_size": work.capacity, "batch_size": work.batch, "batch_size_mem": work.replayed}
        plugins.append(Replay(**sizes, storage_policy=buffer))
    if work.method == "lwf":
        plugins.append(LwFPlugin(alpha=1, temperature=2))
    return Naive(
        model=net,
        optimizer=nets.optimizer(work, net),
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=work.batch,
        train_epochs=1,
        eval_mb_size=512,
        plugins=plugins,
        evaluator=evaluator or EvaluationPlugin(loggers=[]),
    )


def main() -> None:
    """Serve one work, as an online stream or in batch mode."""
    parser = arguments(__doc__, ("B1", "B2", "B3-naive", "B3-er", "B3-lwf"))
    parser.add_argument("--mode", choices=("online", "batch"), help="default: that of the work")
    args = parser.parse_args()
    work = WORKS[args.work]
    torch.manual_seed(0)
    data = Labelled(*nets.data(work))
    bench = split(data, data, work.experiences)
    online = args.mode == "online" or (args.mode is None and work.online)
    stream = list(split_online_stream(bench.train_stream, work.batch, seed=0) if online else bench.train_stream)
    method, experiences = strategy(work, nets.network(work)), itertools.cycle(stream)

    def run(n: int) -> int:
        start = method.clock.train_iterations
        while method.clock.train_iterations - start < n:
            method.train(next(experiences))
        return method.clock.train_iterations - start

    versions = {"avalanche": avalanche.__version__, "torch": torch.__version__}
    serve(run, seconds=args.seconds, steps=args.steps, versions=versions, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
