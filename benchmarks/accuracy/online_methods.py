"""The methods of the online survey, each as it was run there: https://github.com/AlbinSou/ocl_survey, config/best_configs.

Learning rates and strengths are theirs, found on the first experiences, and converted where a loss has another scale. The rest:

ER          composed here: a class-balanced memory, and in training only the classes seen so far compete, as with their
            classifier, which grows. All others are factories of `cl.strategies`: a reservoir, and all classes compete.
ER-ACE      their loss is a weighted mean of the two terms, 0.45 and 0.55; here it is their sum, at half the learning rate.
            A minibatch is offered to the memory after each of its three steps, as in the paper's algorithm, there once.
DER++       likewise offered after each step, with the logits of that step.
ER + LwF    their distillation is not multiplied by the square of the temperature; so the strength is divided by it.
A-GEM       200 rows make the reference gradient.
SCR         118 rows are replayed; their program multiplies the loss by temperature / 0.07, here the learning rate is.
            The images are not cropped and flipped beforehand.
RAR         their sizes are of normalised inputs. In their code the perturbation goes up the loss of the target, which is of
            the farthest row; ours follows the paper, so their values need not be good ones.
GDumb       the memory is filled by the whole stream, then trained on once: 100 epochs, minibatches of 128, a cosine
            schedule.
i.i.d.      ER on the rows of all experiences, shuffled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

import cl_func as cl
from cl_func import augment
from cl_func.regularizers import lwf

MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
CLASSES, REPLAYED, STEPS = 100, 10, 3
MOVED = augment.compose(augment.random_crop(padding=4), augment.horizontal_flip())
CONTRASTED = augment.compose(
    augment.random_resized_crop(scale=(0.2, 1.0)),
    augment.horizontal_flip(),
    augment.color_jitter(0.4, 0.4, 0.4, 0.1, p=0.8),
    augment.grayscale(0.2),
)


@cl.state
class BalancedAgent(cl.Agent):
    """An agent with a class-balanced memory that knows which classes it has seen."""

    replay: cl.memory.Balanced
    seen: Tensor  # [C] bool


def network(views: augment.Augment, width: int) -> cl.models.Model:
    """The slim ResNet-18 that normalises its inputs and augments them in training."""
    net = cl.models.slim_resnet18((3, 32, 32), CLASSES, width=width)
    return cl.models.augmented(cl.models.normalized(net, MEAN, STD), views)


def er(model: cl.models.Model, memory: int) -> cl.Strategy:
    """ER with a class-balanced memory, in which the classes seen so far compete."""
    optimizer = cl.optim.sgd(0.0598728574654861)
    loss = cl.losses.with_replay(cl.losses.cross_entropy(model, mask="seen"), REPLAYED)
    update = cl.compose(
        cl.losses.mark_seen(),
        cl.minibatches(cl.train_step(loss, optimizer), batch_size=None, iterations=STEPS),
        cl.memory.balanced.insert(),
    )
    return cl.Strategy(partial(_init_er, model=model, optimizer=optimizer, memory=memory), update, model)


def _init_er(key: Tensor, *, model: cl.models.Model, optimizer: cl.core.Optimizer, memory: int) -> BalancedAgent:
    key, init_key = cl.random.split(key)
    net = model.init(init_key)
    empty = cl.tree.to(cl.memory.balanced.init(memory, cl.memory.sample(model)), key.device)
    no_class = torch.zeros(CLASSES, dtype=torch.bool, device=key.device)
    return BalancedAgent(key=key, model=net, opt=optimizer.init(net.params), replay=empty, seen=no_class)


def er_lwf(model: cl.models.Model, memory: int) -> cl.Strategy:
    """ER + LwF whose teacher is taken where new classes come, not before every minibatch."""
    temperature = 1.2228156692940246
    strategy = cl.strategies.er_lwf(
        model,
        cl.optim.sgd(0.023247938755185472),
        strength=0.5188603936239411 / temperature**2,
        temperature=temperature,
        **_replay(memory),
    )
    assert isinstance(strategy.update, cl.core.Combinator)
    snapshot, *rest = strategy.update.children
    return cl.Strategy(strategy.init, cl.compose(cl.when(lwf.new_classes(), snapshot), *rest), model)


def gdumb(model: cl.models.Model, memory: int, epochs: int = 100, batch_size: int = 128) -> cl.Strategy:
    """GDumb on one long experience, after which it is asked once."""
    optimizer = cl.optim.sgd(0.1)
    decay = cl.optim.cosine_decay(epochs * -(-memory // batch_size))
    step = cl.compose(cl.train_step(cl.losses.cross_entropy(model), optimizer), decay)
    update = cl.compose(cl.memory.gdumb.insert(), cl.memory.rehearse(step, batch_size=batch_size, epochs=epochs))
    return cl.Strategy(cl.strategies.gdumb(model, optimizer, capacity=memory).init, update, model)


def _replay(memory: int) -> dict[str, Any]:
    return {"capacity": memory, "replay_size": min(REPLAYED, memory), "iterations": STEPS}


def _er_ace(model: cl.models.Model, memory: int) -> cl.Strategy:
    return cl.strategies.er_ace(model, cl.optim.sgd(0.024841548604384433 / 2), **_replay(memory))


def _der_pp(model: cl.models.Model, memory: int) -> cl.Strategy:
    strengths: dict[str, Any] = {"alpha": 1.655178267560094e-07, "beta": 1.736658771491095}
    return cl.strategies.der_pp(model, cl.optim.sgd(0.013513857122144224), **strengths, **_replay(memory))


def _mir(model: cl.models.Model, memory: int) -> cl.Strategy:
    lr = 0.014001056812425501
    more: dict[str, Any] = {"candidates": min(128, memory), "virtual_lr": lr}
    return cl.strategies.mir(model, cl.optim.sgd(lr), **more, **_replay(memory))


def _agem(model: cl.models.Model, memory: int) -> cl.Strategy:
    optimizer = cl.optim.sgd(0.002011343895396423)
    return cl.strategies.agem(model, optimizer, capacity=memory, sample_size=min(200, memory), iterations=STEPS)


def _scr(model: cl.models.Model, memory: int) -> cl.Strategy:
    temperature = 0.17532258875378776
    optimizer = cl.optim.sgd(0.0817694849118531 * temperature / 0.07)
    rows: dict[str, Any] = {"capacity": memory, "replay_size": min(118, memory)}
    return cl.strategies.scr(model, optimizer, temperature=temperature, iterations=STEPS, **rows)


def _rar(model: cl.models.Model, memory: int) -> cl.Strategy:
    return cl.strategies.rar(
        model,
        cl.optim.sgd(0.027749846445771498),
        epsilon=0.052809717123257424 * sum(STD) / len(STD),
        beta=0.6714155973537946,
        attack_steps=2,
        decay=0.8341119868012169,
        virtual_lr=0.00012268439369287308,
        bounds=(0.0, 1.0),
        **_replay(memory),
    )


@dataclass(frozen=True)
class Entry:
    """A method: what makes it of a model and a memory size, how many seeds are run, its views, and the stream that it is given."""

    name: str
    make: Callable[[cl.models.Model, int], cl.Strategy]
    seeds: int = 1
    views: augment.Augment = MOVED
    stream: Literal["online", "shuffled", "whole"] = "online"

    def strategy(self, memory: int, width: int) -> cl.Strategy:
        """The method on the slim ResNet-18 of a width."""
        return self.make(network(self.views, width), memory)


METHODS = {
    entry.name: entry
    for entry in (
        Entry("ER", er, seeds=3),
        Entry("ER-ACE", _er_ace, seeds=3),
        Entry("DER++", _der_pp, seeds=3),
        Entry("SCR", _scr, seeds=3, views=CONTRASTED),
        Entry("MIR", _mir),
        Entry("ER + LwF", er_lwf),
        Entry("RAR", _rar),
        Entry("A-GEM", _agem),
        Entry("GDumb", gdumb, stream="whole"),
        Entry("i.i.d.", er, stream="shuffled"),
    )
}
