"""Retrospective adversarial replay (Kumari, Wang, Zhou & Bilmes, "Retrospective adversarial replay for continual learning", NeurIPS
2022): replayed rows are trained on as they are and as they look when pushed to where the coming step would make them forgotten.

A step on the minibatch B alone is tried, v = theta - virtual_lr * grad L(B; theta). Under v each replayed row x has a target t, the
class of the row of B that is nearest to it in feature space, of those of another class than its own. It is perturbed towards t by
T steps of the momentum iterative fast gradient sign method (Dong et al., "Boosting adversarial attacks with momentum", CVPR 2018):

    g_0 = 0,  x_0 = x
    g_{i+1} = decay * g_i + d / |d|_1,   d = grad_x loss(x_i, t; v),      x_{i+1} = x_i - epsilon / T * sign(g_{i+1})

so that no input moves by more than epsilon. The loss is that of `er`, in which the loss of a replayed row is

    (1 - beta) loss(x, y) + beta loss(x_T, y)

The paper's second idea, replay of mixed rows, is `cl.losses.mixup`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_func import checks, memory, random, tree
from cl_func.core import Agent, Loss, Optimizer, Strategy, TrainStep, compose, minibatches, train_step
from cl_func.core.steps import unchecked_gradient
from cl_func.experiences import Experience
from cl_func.losses import cross_entropy
from cl_func.losses.classification import check_classes
from cl_func.models import Model, ModelState, feature_function, features, forward, split_heads
from cl_func.models.keyed import with_keys
from cl_func.optim.hyperparameters import nonnegative
from cl_func.strategies._train_state import init_train_state
from cl_func.tree import PyTree, bounded, state

_unit_interval = partial(checks.number, low=0, high=1, ends="[]")


@state
class RARAgent(Agent):
    """An agent with a replay memory and the strengths of the perturbation."""

    replay: memory.Reservoir
    epsilon: Tensor = bounded(partial(nonnegative, example=8 / 255))  # () float32, in units of the inputs
    beta: Tensor = bounded(_unit_interval)  # () float32, what the perturbed rows weigh
    decay: Tensor = bounded(partial(nonnegative, example=1.0))  # () float32, of the directions of earlier steps
    virtual_lr: Tensor = bounded(partial(nonnegative, example=0.1))  # () float32


def rar(
    model: Model,
    optimizer: Optimizer,
    *,
    capacity: int,
    replay_size: int,
    epsilon: float = 8 / 255,
    beta: float = 0.4,
    attack_steps: int = 2,
    decay: float = 1.0,
    virtual_lr: float = 0.1,
    bounds: tuple[float, float] | None = None,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Train on replayed rows as they are and perturbed towards the classes of the minibatch that they are nearest to.

    The perturbation is found in eval mode, on the rows as the memory holds them; what the model's training pass does to its inputs,
    such as augmentation, is done to the perturbed ones too. Where all rows of the minibatch are of the row's own class, it stays as
    it is. With `epsilon` 0 this is `er`, but for what a layer draws by the position of a row and for batch statistics, which see
    the rows twice. After the training, the experience is offered to the memory.

    Reference: Kumari, Wang, Zhou & Bilmes, "Retrospective adversarial replay for continual learning", NeurIPS 2022.

    Hyperparameter paths: `epsilon`, `beta`, `decay`, `virtual_lr`, those of the optimiser.

    Args:
        model: The network to train, such as `cl.models.mlp(64, hidden=(256,), n_classes=10)`. It must give `features`, and have an
            `input_shape`. In a multi-head model all classes compete where rows are perturbed.
        optimizer: The optimiser, such as `cl.optim.sgd(lr=0.1)`.
        capacity: Rows that the memory holds, at least 1.
        replay_size: Rows drawn from the memory with every minibatch, from 1 to `capacity`.
        epsilon: How far an input may be moved, at least 0; 8 / 255 is 8 levels of a pixel in [0, 1].
        beta: What a perturbed row weighs in the loss, from 0 to 1, its unperturbed one being the rest.
        attack_steps: Steps of the perturbation, at least 1.
        decay: What the directions of earlier steps weigh in a later one, at least 0.
        virtual_lr: Learning rate of the step that is tried, at least 0.
        bounds: Smallest and largest value that an input may have, such as (0.0, 1.0) for images; None, the default, is no bound.
        batch_size: Rows per minibatch, at least 1; None, the default, takes each experience as one minibatch, as in online streams.
        epochs: Passes over each experience, at least 1.
        iterations: Minibatches per experience, at least 1, instead of whole passes; then `epochs` must be 1. None by default.

    Returns:
        A Strategy with the state `RARAgent`; `Strategy.model` is `model`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of its range, both `epochs` and `iterations` are given, or the model gives no features, has no
            `input_shape` or takes tokens, which cannot be moved a little.
    """
    checks.drawable("replay_size", replay_size, capacity)
    feature_function(model)
    if model.input_dtype == torch.int64:
        raise ValueError("model: it takes tokens, which cannot be moved a little; give a model of floating inputs, such as images.")
    strengths = {
        "epsilon": nonnegative("epsilon", epsilon, 8 / 255),
        "beta": _unit_interval("beta", beta),
        "decay": nonnegative("decay", decay, 1.0),
        "virtual_lr": nonnegative("virtual_lr", virtual_lr, 0.1),
    }
    step = partial(
        _step,
        model=model,
        loss=cross_entropy(model),
        train=train_step(partial(_loss, model=model, replay_size=replay_size), optimizer),
        replay_size=replay_size,
        attack_steps=checks.positive_int("attack_steps", attack_steps),
        bounds=_checked(bounds),
    )
    empty = memory.reservoir.init(capacity, memory.sample(model))
    return Strategy(
        partial(_init, model=model, optimizer=optimizer, empty=empty, strengths=strengths),
        compose(
            minibatches(step, batch_size=batch_size, epochs=epochs, iterations=iterations),
            memory.reservoir.insert(),
        ),
        model,
    )


def _checked(bounds: Any) -> tuple[float, float] | None:
    if bounds is None:
        return None
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        raise checks.type_error("bounds", "None or two numbers such as (0.0, 1.0)", bounds)
    low = checks.number("bounds", bounds[0])
    return low, checks.number("bounds", bounds[1], low)


def _init(key: Tensor, *, model: Model, optimizer: Optimizer, empty: memory.Reservoir, strengths: dict[str, float]) -> RARAgent:
    key, net, opt = init_train_state(key, model, optimizer)
    leaves = {name: torch.tensor(value, device=key.device) for name, value in strengths.items()}
    return RARAgent(key=key, model=net, opt=opt, replay=tree.to(empty, key.device), **leaves)


def _step(
    agent: RARAgent,
    exp: Experience,
    *,
    model: Model,
    loss: Loss,
    train: TrainStep,
    replay_size: int,
    attack_steps: int,
    bounds: tuple[float, float] | None,
) -> RARAgent:
    """The Update on a minibatch: the virtual step, the perturbation of the rows drawn, and the training with both of them."""
    key, draw_key = random.split(agent.key)
    rows, drawn = memory.reservoir.draw(agent.replay, draw_key, replay_size)
    agent = agent.replace(key=key)
    grads, moved = unchecked_gradient(loss, agent, exp)
    # The virtual pass has used up the keys of layers that draw, such as dropout, but must not move their statistics.
    agent = agent.replace(model=with_keys(agent.model, moved.model.buffers))
    params = tree.map(lambda p, g: p - agent.virtual_lr.to(p.dtype) * g, agent.model.params, grads)
    net = agent.model.replace(params=params)
    target, any_target = nearest_other_class(model, net, rows, exp)
    x = perturbed(model, net, rows, target, any_target, agent.epsilon, agent.decay, attack_steps, bounds)
    both = tree.map(lambda clean, moved: torch.cat([clean, moved]), rows, {**rows, "x": x})
    trained: RARAgent = train(agent, memory.join(exp, both, torch.cat([drawn, drawn])))
    return trained


def nearest_other_class(model: Model, net: ModelState, rows: dict[str, Tensor], exp: Experience) -> tuple[Tensor, Tensor]:
    """For each of m rows of a memory the class, [m] int64, of the nearest row of a minibatch that is of another class than its own.

    Nearest by the features under the weights `net`. Whether there is such a row, [m] bool, comes second.
    """
    here = features(model, net, exp.x, exp.valid, exp.tasks)
    there = features(model, net, rows["x"], None, rows["task"])
    labels = exp.y
    other = exp.valid & (rows["y"][:, None] != labels)  # [m, b]
    # The square of the row's own feature is left out, since it is the same for all rows that it is compared with.
    distance = here.square().sum(1) - 2 * there @ here.T
    return labels[torch.where(other, distance, torch.inf).argmin(1)], other.any(1)


def perturbed(
    model: Model,
    net: ModelState,
    rows: dict[str, Tensor],
    target: Tensor,
    moves: Tensor,
    epsilon: Tensor,
    decay: Tensor,
    steps: int,
    bounds: tuple[float, float] | None,
) -> Tensor:
    """The inputs x_T [m, ...] of rows of a memory, moved towards the classes `target` [m] where `moves` [m]."""
    plain, _ = split_heads(model)
    start = rows["x"]

    def to_target(x: Tensor) -> Tensor:
        logits, _ = plain.apply(net.params, net.buffers, x, train=False, task=rows["task"])
        return F.cross_entropy(logits, target, reduction="sum")  # of rows that do not know of each other

    x, direction = start, torch.zeros_like(start)
    each_row = (-1, *[1] * (start.ndim - 1))
    length = epsilon.to(start.dtype) / steps * moves.to(start.dtype).reshape(each_row)
    for _ in range(steps):
        d = torch.func.grad(to_target)(x)
        size = d.flatten(1).abs().sum(1).clamp(min=torch.finfo(d.dtype).tiny)
        direction = decay.to(d.dtype) * direction + d / size.reshape(each_row)
        x = x - length * direction.sign()
        if bounds is not None:
            x = x.clamp(*bounds)
    return x


def _loss(params: PyTree, agent: RARAgent, exp: Experience, *, model: Model, replay_size: int) -> tuple[Tensor, RARAgent]:
    """The mean over replayed rows, which come first, as they are and perturbed, and those of the minibatch."""
    logits, agent = forward(model, params, agent, exp)
    check_classes(logits, exp)
    each = F.cross_entropy(logits, exp.y, reduction="none")
    place = torch.arange(len(exp), device=exp.rows.device)
    beta = agent.beta.to(each.dtype)
    weight = torch.where(place < replay_size, 1 - beta, torch.where(place < 2 * replay_size, beta, 1.0))
    count = exp.valid[replay_size:].sum()  # each replayed row once
    return torch.where(exp.valid, weight * each, 0).sum() / count.clamp(min=1), agent
