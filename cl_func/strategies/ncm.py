"""Nearest class mean: a network for the features, and the class with the nearest mean feature (Mensink et al. 2013).

It stores no rows. The features must not move once means are taken, so the network is not trained, or with an optimiser on the
first experience alone; trained on all of them, the means of old classes go stale, which is what iCaRL's exemplars are for.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import Tensor

from cl_func import checks, classifiers
from cl_func.classifiers import nearest_mean
from cl_func.core import Agent, Optimizer, Strategy, compose, minibatches, train_step, when
from cl_func.experiences import Experience
from cl_func.losses import cross_entropy
from cl_func.models import Model, ModelState, features, sample_features
from cl_func.models.heads import Classifier, of_their_task
from cl_func.strategies._train_state import check_untrained, init_train_state
from cl_func.tree import state


@state
class NCMAgent(Agent):
    """An agent that classifies by the means of its features."""

    ncm: classifiers.NearestMean


def ncm(
    model: Model,
    optimizer: Optimizer | None = None,
    *,
    train: Literal["first", "every"] = "first",
    weights: ModelState | None = None,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Classify by the nearest class mean of the network's features; the means are streaming, and no rows are stored.

    A network without hidden layers, `cl.models.mlp(n_features, hidden=(), ...)`, has its inputs as features.

    Reference: Mensink, Verbeek, Perronnin & Csurka, "Distance-based image classification: generalizing to new classes at near-zero
    cost", TPAMI 2013, with the identity metric.

    Hyperparameter paths: those of the optimiser, such as `opt.lr`.

    Args:
        model: The network to train, such as `cl.models.mlp(64, hidden=(256,), n_classes=10)`. It must give `features`, and have an
            `input_shape`. With a multi-head model only the classes of a row's task compete.
        optimizer: The optimiser, such as `cl.optim.sgd(lr=0.1)`. None, the default, leaves the network as it is.
        train: The experiences that the network is trained on, by cross-entropy: "first" or "every".
        weights: The network to start from, such as a pretrained one; None, the default, draws one from the key.
        batch_size: Rows per minibatch, at least 1; None, the default, takes each experience as one minibatch, as in online streams.
        epochs: Passes over each experience, at least 1.
        iterations: Minibatches per experience, at least 1, instead of whole passes; then `epochs` must be 1. None by default.

    Returns:
        A Strategy with the state `NCMAgent`; `Strategy.model` is the classifier, a function `(state, exp) -> logits [n, C]`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of its range, both `epochs` and `iterations` are given, or the model gives no features. From
            `Strategy.init`: the model has no `input_shape`.
    """
    checks.model("model", model)
    checks.choice("train", train, "first", "every")
    if weights is not None:
        checks.instance("weights", weights, ModelState, "the ModelState of model.init(key)")
    init = partial(_init, model=model, optimizer=optimizer, weights=weights)
    classifier = Classifier(partial(_logits, model), model)
    observe = minibatches(nearest_mean.insert(model), batch_size=batch_size, shuffle=False)
    if optimizer is None:
        check_untrained(epochs, iterations)
        return Strategy(init, observe, classifier)
    step = train_step(cross_entropy(model), optimizer)
    update = when(_is_first, step) if train == "first" else step
    fit = minibatches(update, batch_size=batch_size, epochs=epochs, iterations=iterations)
    return Strategy(init, compose(fit, observe), classifier)


def _init(key: Tensor, *, model: Model, optimizer: Optimizer | None, weights: ModelState | None) -> NCMAgent:
    key, net, opt = init_train_state(key, model, optimizer, weights)
    return NCMAgent(key=key, model=net, opt=opt, ncm=nearest_mean.init(model.n_classes, sample_features(model, net)))


def _is_first(agent: NCMAgent, exp: Experience) -> Tensor:
    """Whether this is the first experience, () bool: the means take up its rows when the training on it is over."""
    return agent.ncm.counts.sum() == 0


def _logits(model: Model, agent: NCMAgent, exp: Experience) -> Tensor:
    logits = nearest_mean.logits(agent.ncm, features(model, agent.model, exp.x, exp.valid, exp.tasks))
    return of_their_task(model, logits, exp.tasks)
