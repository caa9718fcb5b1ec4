"""One method in Avalanche on class-incremental Split-Fashion-MNIST, for benchmarks/peers/against_avalanche.py.

Prints one JSON line per seed: {"seed": 0, "accuracy": R, "seconds": s}, with R[i][j] after experience i on test experience j by
Avalanche's own metrics. Training on an experience ends after a number of iterations, in whichever epoch that is. With --mended a
method with a known fault runs without it, which shows whether the fault explains the difference.
"""

# pyright: reportMissingImports=false
# Avalanche has an environment of its own (benchmarks/peers/interpreters.py).

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import qpsolvers
import scipy.optimize
import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training import DER, ER_ACE, ICaRL, Naive, ReservoirSamplingBuffer, StreamingLDA
from avalanche.training.losses import ICaRLLossPlugin
from avalanche.training.plugins import (
    AGEMPlugin,
    EvaluationPlugin,
    EWCPlugin,
    GDumbPlugin,
    GEMPlugin,
    LwFPlugin,
    MIRPlugin,
    SupervisedPlugin,
)
from avalanche.training.supervised import icarl
from avalanche.training.utils import cycle, zerolike_params_dict
from torch import Tensor, nn

from benchmarks.peers import nets
from benchmarks.peers.avalanche_er import Replay, split
from benchmarks.peers.avalanche_fashion import EXPERIENCES, read
from benchmarks.works import WORKS

WORK = WORKS["B3-naive"]  # the same network, optimiser and batch
FOREVER = 1_000_000  # epochs


class Iterations(SupervisedPlugin):
    """Ends the training on an experience after n iterations."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n, self.done = n, 0

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.done = 0

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self.done += 1
        if self.done == self.n:
            strategy.stop_training()


class SampleEWC(EWCPlugin):
    """EWC with squared gradients of single samples.

    Avalanche squares the gradient of a minibatch's mean, so its importances shrink with the size of the minibatch.
    """

    def compute_importances(
        self,
        model: nn.Module,
        criterion: Callable[[Tensor, Tensor], Tensor],
        optimizer: Any,
        dataset: Any,
        device: Any,
        batch_size: int,
        num_workers: int = 0,
    ) -> dict[str, Any]:
        params = {name: p.detach() for name, p in model.named_parameters()}
        importances: dict[str, Any] = zerolike_params_dict(model)

        def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return criterion(torch.func.functional_call(model, params, (x[None],)), y[None])

        gradients = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))
        for x, y, *_ in torch.utils.data.DataLoader(dataset, batch_size=64):
            for name, gradient in gradients(params, x, y).items():
                importances[name].data += gradient.pow(2).sum(0) / len(dataset)
        return importances


class GEM(GEMPlugin):
    """GEM that also works without the solver quadprog: non-negative least squares solve the dual problem just as exactly."""

    def solve_quadprog(self, g: Tensor) -> Tensor:
        if "quadprog" in qpsolvers.available_solvers:
            return super().solve_quadprog(g)
        G, gradient = self.G.double().numpy(), g.double().numpy()
        P = G @ G.T + 1e-3 * np.eye(len(G))
        # min v'Pv / 2 + (Gg)'v with v >= strength: v = strength + u, and P = A'A makes it min ||Au - b|| with u >= 0.
        A, shift = np.linalg.cholesky(P).T, np.full(len(G), float(self.memory_strength))
        u, _ = scipy.optimize.nnls(A, -np.linalg.solve(A.T, G @ gradient + P @ shift))
        return torch.from_numpy((shift + u) @ G + gradient).float()


class WholeMIR(MIRPlugin):
    """MIR that replays all of its memory.

    After training on an experience, Avalanche leaves out the classes of the last minibatch. That is meant for online streams; in
    batch mode it drops the whole experience, which is then not replayed in the next one.
    """

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.storage_policy.post_adapt(strategy, strategy.experience)
        buffer = self.storage_policy.buffer
        self.replay_loader = cycle(torch.utils.data.DataLoader(buffer, batch_size=self.subsample, shuffle=True))


class SeenICaRLLoss(ICaRLLossPlugin):
    """The loss of iCaRL's Algorithm 3: over the outputs of the classes seen so far.

    Avalanche's includes the outputs of future classes, which it trains to be 0.
    """

    old_logits: Tensor | None

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.seen = sorted({*self.old_classes, *strategy.experience.classes_in_this_experience})

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        old = [index for index, label in enumerate(self.seen) if label in self.old_classes]
        target = (targets[:, None] == torch.tensor(self.seen)).float()
        if self.old_logits is not None:
            target[:, old] = self.old_logits.sigmoid()[:, self.seen][:, old]
            self.old_logits = None
        return torch.nn.functional.binary_cross_entropy_with_logits(logits[:, self.seen], target)


def strategy(name: str, memory: int, n: int, values: dict[str, float], mended: bool) -> Any:
    """The method, trained for n iterations per experience; `values` has Avalanche's names of its hyperparameters."""
    net = nets.mlp(WORK)
    common: dict[str, Any] = {
        "train_mb_size": WORK.batch,
        "train_epochs": FOREVER,
        "eval_mb_size": 512,
        "evaluator": EvaluationPlugin(accuracy_metrics(experience=True), loggers=[]),
    }
    trained = {"model": net, "optimizer": nets.optimizer(WORK, net), "criterion": nn.CrossEntropyLoss()}
    replay, each = {"mem_size": memory, "batch_size_mem": WORK.batch}, {"patterns_per_experience": memory // EXPERIENCES}
    plugins: dict[str, Callable[[], Any]] = {
        "er": lambda: Replay(**replay, batch_size=WORK.batch, storage_policy=ReservoirSamplingBuffer(memory)),
        "agem": lambda: AGEMPlugin(**each, sample_size=WORK.batch),
        "gem": lambda: GEM(**each, **values),
        "ewc": lambda: (SampleEWC if mended else EWCPlugin)(**values),
        "lwf": lambda: LwFPlugin(**values),
        "gdumb": lambda: GDumbPlugin(mem_size=memory),
        "mir": lambda: (WholeMIR if mended else MIRPlugin)(**replay, **values),
    }
    stop = [Iterations(n)]
    if name == "er_ace":
        return ER_ACE(**trained, **replay, **common, plugins=stop)
    if name == "der":
        return DER(**trained, **replay, **values, **common, plugins=stop)
    if name == "icarl":
        icarl.ICaRLLossPlugin = SeenICaRLLoss if mended else ICaRLLossPlugin
        parts = {"feature_extractor": net[:-1], "classifier": net[-1], "optimizer": trained["optimizer"]}
        return ICaRL(**parts, memory_size=memory, buffer_transform=None, fixed_memory=True, **common, plugins=stop)
    if name == "slda":
        sizes = {"input_size": WORK.widths[-2], "num_classes": WORK.widths[-1]}
        once = {**common, "train_epochs": 1}
        return StreamingLDA(slda_model=net[:-1], criterion=trained["criterion"], **sizes, **values, **once)
    return Naive(**trained, **common, plugins=[*([plugins[name]()] if name != "naive" else []), *stop])


def run(name: str, seed: int, args: argparse.Namespace, data: tuple[Any, Any]) -> list[list[float]]:
    """R of one seed."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    bench = split(*data, EXPERIENCES)
    method, R = strategy(name, args.memory, args.iterations, json.loads(args.values), args.mended), []
    for experience in bench.train_stream:
        method.train(experience)
        metrics = method.eval(bench.test_stream)
        R.append([value for key, value in sorted(metrics.items()) if key.startswith("Top1_Acc_Exp/eval_phase/test_stream")])
    return R


def main() -> None:
    """Run all seeds of one method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method")
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST-format idx files, plain or .gz")
    parser.add_argument("--iterations", type=int, required=True)
    parser.add_argument("--memory", type=int, required=True)
    parser.add_argument("--seeds", type=int, required=True)
    parser.add_argument("--values", default="{}", help="hyperparameters as JSON")
    parser.add_argument("--mended", action="store_true", help="without the known fault, if it has one")
    parser.add_argument("--limit", type=int, help="only the first rows of the data")
    args = parser.parse_args()
    data = (read(args.data, "train", args.limit), read(args.data, "t10k", args.limit))
    for seed in range(args.seeds):
        start = time.perf_counter()
        R = run(args.method, seed, args, data)
        print(json.dumps({"seed": seed, "accuracy": R, "seconds": time.perf_counter() - start}), flush=True)


if __name__ == "__main__":
    main()
