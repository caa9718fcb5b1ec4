"""iCaRL (Rebuffi, Kolesnikov, Sperl & Lampert, "iCaRL: incremental classifier and representation learning", CVPR 2017).

Training (Algorithm 3) is on the new rows and the exemplars together, every output a binary classifier g_c = sigmoid(logit_c):

    L = mean_i [ sum_{c new} BCE(g_c(x_i), [y_i = c]) + sum_{c old} BCE(g_c(x_i), g'_c(x_i)) ]

with g' the network before the new classes came: the old classes are distilled, on all rows alike. (Where no new class comes, those
that came last stay the new ones.) Exemplars are then chosen by herding (Algorithms 4 and 5), and a row is given the class whose
exemplars' mean feature is nearest (Algorithm 1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
from cl_func.tree import PyTree, state


@state
class ICaRLAgent(Agent):
    """An agent with exemplars, the network as it was before the newest classes, and the means it classifies by."""

    replay: memory.Herding
    teacher: PyTree  # ModelState before the newest classes came
    old: Tensor  # [C] bool, the classes that the teacher knows
    seen: Tensor  # [C] bool, with the newest
    share: Tensor  # () float32, the exemplars' part of all rows trained on
    ncm: classifiers.NearestMean  # of the exemplars' features


def predict(model: Model) -> Callable[[Any, Experience], Tensor]:
    """The classifier `(state, exp) -> logits [n, C]` by the nearest mean of exemplars, for `cl.evaluate`."""

    def logits(agent: Any, exp: Experience) -> Tensor:
        found = nearest_mean.logits(agent.ncm, herding.unit(features(model, agent.model, exp.x, exp.valid, exp.tasks)))
        return of_their_task(model, found, exp.tasks)

    return Classifier(logits, model)


def means_of_exemplars(model: Model) -> Callable[[Any, Any], Any]:
    """The Update that takes the mean features of the exemplars, scaled to length 1, under the weights as they are."""

    def update(agent: Any, exp: Any) -> Any:
        store = agent.replay
        rows = herding.unit(features(model, agent.model, store.data["x"], store.occupied, store.data["task"]))
        means = nearest_mean.add(tree.map(torch.zeros_like, agent.ncm), rows, store.label, store.occupied)
        return tree.set(agent.replace(ncm=means), {"ncm.means": herding.unit(means.means)})

    return update


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
    """Distil the old classes, keep `capacity` exemplars, classify by the nearest mean of exemplars; the model needs features.

    Every minibatch is joined by `replay_size` exemplars, weighted so that the loss is that of the paper: the mean over all new rows
    and all exemplars. In an online stream the teacher is taken where new classes come. Strategy.model is the classifier; with a
    multi-head model only the classes of a row's task compete in it.

    Hyperparameter paths: those of the optimiser, such as `opt.lr`.
    """
    empty = herding.init(capacity, memory.sample(model), model.n_classes)
    checks.drawable("replay_size", replay_size, capacity)
    plain, _ = split_heads(model)  # each output is a classifier of its own: heads matter only where classes compete

    def begin(agent: Any, exp: Experience) -> Any:
        replay.labels(exp, model.n_classes)
        seen, filled = agent.seen, agent.replay.filled
        arrived = (exp.classes & ~seen).any()
        teacher = tree.where(arrived, agent.model, agent.teacher)
        share = filled / (filled + exp.valid.sum()).clamp(min=1)
        return agent.replace(teacher=teacher, old=torch.where(arrived, seen, agent.old), seen=seen | exp.classes, share=share)

    def loss(params: Any, agent: Any, exp: Experience) -> tuple[Tensor, Any]:
        key, draw_key = random.split(agent.key)
        rows, valid = herding.draw(agent.replay, draw_key, replay_size)
        both = memory.join(exp, rows, valid)
        logits, agent = forward(plain, params, agent.replace(key=key), both)
        before, _ = plain.apply(agent.teacher.params, agent.teacher.buffers, both.x, valid=both.valid, task=both.tasks)
        distilled = agent.old & ~exp.classes
        label = (both.y[:, None] == torch.arange(model.n_classes, device=both.y.device)).to(logits.dtype)
        each = F.binary_cross_entropy_with_logits(logits, torch.where(distilled, before.sigmoid(), label), reduction="none")
        value = torch.where(distilled | agent.seen, each, 0).sum(1)
        return (memory.union_weights(valid, exp.valid, agent.share) * value).sum(), agent

    def init(key: Tensor) -> ICaRLAgent:
        key, init_key = random.split(key)
        net = model.init(init_key)
        ncm = nearest_mean.init(model.n_classes, sample_features(model, net))
        none = torch.zeros(model.n_classes, dtype=torch.bool, device=key.device)
        share = torch.tensor(0.0, device=key.device)
        opt = optimizer.init(net.params)
        return ICaRLAgent(
            key=key, model=net, opt=opt, replay=tree.to(empty, key.device), teacher=net, old=none, seen=none, share=share, ncm=ncm
        )

    step = train_step(loss, optimizer)
    train = minibatches(step, batch_size=batch_size, epochs=epochs, iterations=iterations)
    return Strategy(init, compose(begin, train, herding.insert(model), means_of_exemplars(model)), predict(model))
