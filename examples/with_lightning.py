"""ER + LwF in Lightning: its Trainer makes the steps, with torch's optimiser; memory, losses, stream and evaluation are from here.

    python examples/with_lightning.py [--epochs 3] [--accelerator cpu]

A Loss is a function of parameters, so it takes those of a `torch.nn.Module`: Lightning's `training_step` is one call of it.
The state has what the module has not: the key, the memory, the teacher. Needs `pip install lightning`.
"""

from __future__ import annotations

import argparse
import logging
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import cl_func as cl


def build() -> nn.Module:
    """The network, an ordinary module."""
    return nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10))


MODEL = cl.models.from_module(build, n_classes=10, input_shape=(64,))
LOSS = cl.losses.total(cl.losses.with_replay(cl.losses.cross_entropy(MODEL), n=16), cl.regularizers.lwf.distillation(MODEL))
BEFORE, AFTER = cl.regularizers.lwf.snapshot(), cl.memory.reservoir.insert()


@cl.state
class Agent(cl.Agent):
    """The state of the method."""

    replay: cl.memory.Reservoir
    lwf: cl.regularizers.LwF


def init(key: Tensor) -> Agent:
    """The state before the first experience."""
    key, init_key = cl.random.split(key)
    net = MODEL.init(init_key)
    replay = cl.memory.reservoir.init(200, cl.memory.sample(MODEL))
    return Agent(key=key, model=net, replay=replay, lwf=cl.regularizers.lwf.init(net, n_classes=10))


QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Learner(lightning.LightningModule):
    """A module that learns one experience at a time; `agent` is the state, whose parameters and buffers are the module's own."""

    def __init__(self, key: Tensor) -> None:
        super().__init__()
        self.net, self.agent = build(), init(key)
        self.experience: cl.Experience
        self.net.load_state_dict({**self.agent.model.params, **self.agent.model.buffers})

    def transfer_batch_to_device(self, batch: cl.Experience, device: torch.device, dataloader_idx: int) -> cl.Experience:
        """Lightning copies what it knows; an experience is a tree, whose tensors are there already."""
        return cl.tree.to(batch, device)

    def training_step(self, batch: cl.Experience, index: int) -> Tensor:
        """The loss of a minibatch; the state goes on, with keys that were drawn from and statistics that have moved."""
        value, self.agent = LOSS(dict(self.net.named_parameters()), self.agent, batch)
        return value

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Any optimiser of torch."""
        return torch.optim.SGD(self.net.parameters(), lr=0.05, momentum=0.9)

    def current(self) -> Agent:
        """The state, on the module's device, with the module's parameters, which the optimiser has moved."""
        params = {name: p.detach().clone() for name, p in self.net.named_parameters()}
        return cl.tree.to(cl.tree.set(self.agent, {"model.params": params}), self.device)

    def on_train_start(self) -> None:
        """Before an experience: the teacher."""
        self.agent = BEFORE(self.current(), self.experience)

    def on_train_end(self) -> None:
        """After an experience: its rows are offered to the memory."""
        self.agent = AFTER(self.current(), self.experience)


def loader(exp: cl.Experience, batch_size: int) -> DataLoader[Any]:
    """The minibatches of an experience, shuffled anew in each epoch: each is an experience with fewer rows."""

    def collate(chosen: list[int]) -> cl.Experience:
        return exp.take(exp.rows[chosen], exp.valid[chosen])

    return DataLoader(range(len(exp)), batch_size, shuffle=True, drop_last=True, collate_fn=collate)  # type: ignore[arg-type]


def main() -> None:
    """Train on the stream, and test after each experience."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--accelerator", default="cpu")
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    lightning.seed_everything(0, verbose=False)  # of the order of the rows; all else draws from the key
    bench = cl.streams.split_by_class(*cl.data.digits(), n_experiences=5)
    learner, evaluate = Learner(cl.key(0)), cl.evaluate(MODEL, bench.test)
    R = []
    for exp in bench.train:
        trainer = lightning.Trainer(accelerator=args.accelerator, max_epochs=args.epochs, **QUIET)
        learner.experience = cl.tree.to(exp, trainer.strategy.root_device)
        trainer.fit(learner, loader(learner.experience, batch_size=16))
        R.append(evaluate(cl.tree.to(learner.current(), "cpu"))["accuracy"])
        print(f"after experience {len(R)}: {' '.join(f'{a:.2f}' for a in R[-1].tolist())}")
    print(f"average accuracy {cl.metrics.average_accuracy(torch.stack(R))[-1]:.3f}")


if __name__ == "__main__":
    main()
