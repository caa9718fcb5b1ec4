"""Supervised contrastive replay (Mai et al., "Supervised contrastive replay: revisiting the nearest class mean classifier in online
class-incremental continual learning", CVPR workshops 2021): features trained by contrast, classified by the memory's class means.

    L = supervised contrastive loss of the minibatch and of rows of the memory, each as it is and augmented     (eq. 5)
    class of x = argmin_c | f(x) / |f(x)| - mu_c |,    mu_c the mean of the features of class c in the memory, at length 1

f are the features, which the loss sees through a projection that is used in training alone. There is no last layer that new classes
could pull to themselves. The means belong to the weights of the moment, so they are computed when the model is evaluated, once for
all its batches, and not after each experience, of which an online stream has thousands.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from cl_func import checks, classifiers, memory, tree
from cl_func.classifiers import nearest_mean
from cl_func.core import Agent, Loss, Optimizer, Strategy, compose, minibatches, train_step
from cl_func.experiences import Experience, require_target
from cl_func.losses import supervised_contrastive, with_replay
from cl_func.memory import herding
from cl_func.models import Model, ModelState, features, projected
from cl_func.models.heads import Classifier, of_their_task
from cl_func.models.projected import unprojected
from cl_func.optim.hyperparameters import nonnegative
from cl_func.strategies._train_state import init_train_state
from cl_func.tree import PyTree, bounded, state


@state
class SCRAgent(Agent):
    """An agent with a replay memory, by whose rows it classifies; its model has the projection's parameters too."""

    replay: memory.Reservoir
    temperature: Tensor = bounded(partial(nonnegative, example=0.1, positive=True))  # () float32, above 0


@state
class _Means:
    """What classifying takes of an agent."""

    net: ModelState  # without the projection
    ncm: classifiers.NearestMean


def scr(
    model: Model,
    optimizer: Optimizer,
    *,
    capacity: int,
    replay_size: int,
    temperature: float = 0.1,
    projection: Literal["mlp", "linear"] = "mlp",
    projection_size: int = 128,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Bring the features of a class together, on new and replayed rows, and classify by the nearest mean of the memory's features.

    After the training, the experience is offered to the memory, a reservoir. A class without a row in it cannot be predicted. The
    paper replays 100 rows with 10 new ones: the loss compares rows with each other, so the more the better.

    Reference: Mai, Li, Kim & Sanner, "Supervised contrastive replay: revisiting the nearest class mean classifier in online
    class-incremental continual learning", CVPR workshops 2021.

    Hyperparameter paths: `temperature`, those of the optimiser.

    Args:
        model: The network to train, such as `cl.models.mlp(64, hidden=(256,), n_classes=10)`. It must give `features`, and have an
            `input_shape`. An augmented one, `cl.models.augmented(...)`, gives each row a second view; without, a row is compared
            with others of its class alone. With a multi-head model only the classes of a row's task compete.
        optimizer: The optimiser, such as `cl.optim.sgd(lr=0.1)`.
        capacity: Rows that the memory holds, at least 1.
        replay_size: Rows drawn from the memory with every minibatch, from 1 to `capacity`.
        temperature: Divides the cosines of the embeddings, above 0; the lower, the more the nearest rows count.
        projection: What embeds the features: "mlp" has a hidden layer as wide as they are, "linear" has none.
        projection_size: Dimensions of the embedding, at least 1.
        batch_size: Rows per minibatch, at least 1; None, the default, takes each experience as one minibatch, as in online streams.
        epochs: Passes over each experience, at least 1.
        iterations: Minibatches per experience, at least 1, instead of whole passes; then `epochs` must be 1. None by default.

    Returns:
        A Strategy with the state `SCRAgent`; `Strategy.model` is the classifier, a function `(state, exp) -> logits [n, C]`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of its range, both `epochs` and `iterations` are given, or the model gives no features or has no
            `input_shape`.
    """
    temperature = nonnegative("temperature", temperature, 0.1, positive=True)
    checks.choice("projection", projection, "mlp", "linear")
    checks.positive_int("projection_size", projection_size)
    checks.drawable("replay_size", replay_size, capacity)
    empty = memory.reservoir.init(capacity, memory.sample(model))
    embedding = projected(model, projection_size, projection)
    loss = with_replay(supervised_contrastive(embedding, "temperature"), replay_size)
    step = train_step(partial(_loss, loss=loss), optimizer)
    return Strategy(
        partial(_init, model=embedding, optimizer=optimizer, empty=empty, temperature=temperature),
        compose(
            minibatches(step, batch_size=batch_size, epochs=epochs, iterations=iterations),
            memory.reservoir.insert(),
        ),
        Classifier(partial(_logits, model), model, partial(_means, model=model)),
    )


def _init(key: Tensor, *, model: Model, optimizer: Optimizer, empty: memory.Reservoir, temperature: float) -> SCRAgent:
    key, net, opt = init_train_state(key, model, optimizer)
    leaf = torch.tensor(temperature, device=key.device)
    return SCRAgent(key=key, model=net, opt=opt, replay=tree.to(empty, key.device), temperature=leaf)


def _loss(params: PyTree, agent: SCRAgent, exp: Experience, *, loss: Loss) -> tuple[Tensor, SCRAgent]:
    require_target(exp, "supervised contrastive replay", "class")  # before a memory of class labels says that others do not fit it
    return loss(params, agent, exp)


def _means(agent: SCRAgent, *, model: Model) -> _Means:
    """The mean features of the memory's classes under the present weights."""
    net = unprojected(agent.model)
    return _Means(net=net, ncm=nearest_mean.of_memory(model, net, agent.replay))


def _logits(model: Model, means: _Means, exp: Experience) -> Tensor:
    rows = herding.unit(features(model, means.net, exp.x, exp.valid, exp.tasks))
    return of_their_task(model, nearest_mean.logits(means.ncm, rows), exp.tasks)
