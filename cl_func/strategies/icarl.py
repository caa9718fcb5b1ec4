"""iCaRL (Rebuffi, Kolesnikov, Sperl & Lampert, "iCaRL: incremental classifier and representation learning", CVPR 2017).

Training (Algorithm 3) is on the new rows and the exemplars together, every output a binary classifier g_c = sigmoid(logit_c):

    L = mean_i [ sum_{c new} BCE(g_c(x_i), [y_i = c]) + sum_{c old} BCE(g_c(x_i), g'_c(x_i)) ]

with g' the network before the new classes came: the old classes are distilled, on all rows alike. (Where no new class comes, those
that came last remain the new ones.) Exemplars are then chosen by herding (Algorithms 4 and 5), and a row is given the class whose
exemplars' mean feature is nearest (Algorithm 1).
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_func import checks, classifiers, memory, random, tree
from cl_func.classifiers import nearest_mean
from cl_func.core import Agent, Optimizer, Strategy, compose, minibatches, train_step
from cl_func.experiences import Experience
from cl_func.memory import herding, replay
from cl_func.models import Model, features, forward, sample_features, split_heads
from cl_func.models.heads import Classifier, of_their_task
from cl_func.strategies._train_state import init_train_state
from cl_func.tree import PyTree, state


@state
class ICaRLAgent(Agent):
    """An agent with exemplars, the network as it was before the newest classes, and the means it classifies by."""

    replay: memory.Herding
    teacher: PyTree  # ModelState before the newest classes came
    old: Tensor  # [C] bool, the classes that the teacher knows
    seen: Tensor  # [C] bool, with the newest
    share: Tensor  # () float32, the fraction of the training rows that are exemplars
    ncm: classifiers.NearestMean  # of the exemplars' features


def icarl(
    model: Model,
    optimizer: Optimizer,
    *,
    capacity: int,
    replay_size: int,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Distil the old classes, keep exemplars chosen by herding, and classify by the nearest mean of exemplars.

    Every minibatch is joined by exemplars, weighted so that the loss is the paper's: the mean over all new rows and all exemplars.
    The teacher is the network before the newest classes came, in an online stream too.

    Reference: Rebuffi, Kolesnikov, Sperl & Lampert, "iCaRL: incremental classifier and representation learning", CVPR 2017.

    Hyperparameter paths: those of the optimiser, such as `opt.lr`.

    Args:
        model: The network to train, such as `cl.models.mlp(64, hidden=(256,), n_classes=10)`. It must give `features`, and have an
            `input_shape`. With a multi-head model only the classes of a row's task compete in the classifier.
        optimizer: The optimiser, such as `cl.optim.sgd(lr=0.1)`.
        capacity: Exemplars in all, at least the number of classes; the classes seen share them equally.
        replay_size: Exemplars drawn with every minibatch, from 1 to `capacity`.
        batch_size: Rows per minibatch, at least 1; None, the default, takes each experience as one minibatch, as in online streams.
        epochs: Passes over each experience, at least 1.
        iterations: Minibatches per experience, at least 1, instead of whole passes; then `epochs` must be 1. None by default.

    Returns:
        A Strategy with the state `ICaRLAgent`; `Strategy.model` is the classifier, a function `(state, exp) -> logits [n, C]`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of its range, both `epochs` and `iterations` are given, or the model gives no features or has no
            `input_shape`.
    """
    empty = herding.init(capacity, memory.sample(model), model.n_classes)
    checks.drawable("replay_size", replay_size, capacity)
    plain, _ = split_heads(model)  # each output is a classifier of its own: heads matter only where classes compete
    step = train_step(partial(_loss, model=plain, replay_size=replay_size), optimizer)
    return Strategy(
        partial(_init, model=model, optimizer=optimizer, empty=empty),
        compose(
            partial(_begin, n_classes=model.n_classes),
            minibatches(step, batch_size=batch_size, epochs=epochs, iterations=iterations),
            herding.insert(model),
            partial(_exemplar_means, model=model),
        ),
        Classifier(partial(_logits, model), model),
    )


def _init(key: Tensor, *, model: Model, optimizer: Optimizer, empty: memory.Herding) -> ICaRLAgent:
    key, net, opt = init_train_state(key, model, optimizer)
    no_class = torch.zeros(model.n_classes, dtype=torch.bool, device=key.device)
    return ICaRLAgent(
        key=key,
        model=net,
        opt=opt,
        replay=tree.to(empty, key.device),
        teacher=net,
        old=no_class,
        seen=no_class,
        share=torch.tensor(0.0, device=key.device),
        ncm=nearest_mean.init(model.n_classes, sample_features(model, net)),
    )


def _begin(agent: ICaRLAgent, exp: Experience, *, n_classes: int) -> ICaRLAgent:
    """The Update before the training: where a new class comes, the network becomes the teacher of the classes seen before."""
    replay.labels(exp, n_classes, exact=True)
    seen, filled = agent.seen, agent.replay.filled
    arrived = (exp.classes & ~seen).any()
    teacher = tree.where(arrived, agent.model, agent.teacher)
    share = (filled / (filled + exp.valid.sum()).clamp(min=1)).to(agent.share.dtype)
    return agent.replace(teacher=teacher, old=torch.where(arrived, seen, agent.old), seen=seen | exp.classes, share=share)


def _loss(params: PyTree, agent: ICaRLAgent, exp: Experience, *, model: Model, replay_size: int) -> tuple[Tensor, ICaRLAgent]:
    """L, with the exemplars drawn standing in for all of them. An old class that comes again is learned from its labels."""
    key, draw_key = random.split(agent.key)
    rows, drawn = herding.draw(agent.replay, draw_key, replay_size)
    joined = memory.join(exp, rows, drawn)
    logits, agent = forward(model, params, agent.replace(key=key), joined)
    teacher = agent.teacher
    before, _ = model.apply(teacher.params, teacher.buffers, joined.x, valid=joined.valid, task=joined.tasks)
    distilled = agent.old & ~exp.classes
    label = (joined.y[:, None] == torch.arange(model.n_classes, device=joined.y.device)).to(logits.dtype)
    each = F.binary_cross_entropy_with_logits(logits, torch.where(distilled, before.sigmoid(), label), reduction="none")
    row_losses = torch.where(distilled | agent.seen, each, 0).sum(1)
    return (memory.union_weights(drawn, exp.valid, agent.share) * row_losses).sum(), agent


def _exemplar_means(agent: ICaRLAgent, exp: Experience, *, model: Model) -> ICaRLAgent:
    """The Update after the insertion: the mean features of each class's exemplars under the present weights, of length 1."""
    return agent.replace(ncm=nearest_mean.of_memory(model, agent.model, agent.replay))


def _logits(model: Model, agent: ICaRLAgent, exp: Experience) -> Tensor:
    logits = nearest_mean.logits(agent.ncm, herding.unit(features(model, agent.model, exp.x, exp.valid, exp.tasks)))
    return of_their_task(model, logits, exp.tasks)
