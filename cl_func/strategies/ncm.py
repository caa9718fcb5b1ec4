"""Nearest class mean: a network for the features, and the class with the nearest mean feature (Mensink et al. 2013).

It stores no rows. The features must not move once means are taken, so by default the network is trained on the first experience
alone and frozen; trained on all of them, the means of old classes go stale, which is what iCaRL's exemplars are for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor

from cl_func import checks, classifiers, random
from cl_func.classifiers import nearest_mean
from cl_func.core import Agent, Optimizer, Strategy, compose, minibatches, train_step, when
from cl_func.experiences import Experience
from cl_func.losses import cross_entropy
from cl_func.models import Model, ModelState, features, sample_features
from cl_func.models.heads import Classifier, of_their_task
from cl_func.tree import state


@state
class NCMAgent(Agent):
    """An agent that classifies by the means of its features."""

    ncm: classifiers.NearestMean


def predict(model: Model) -> Callable[[Any, Experience], Tensor]:
    """The classifier `(state, exp) -> logits [n, C]`, for `cl.evaluate`."""

    def logits(agent: Any, exp: Experience) -> Tensor:
        found = nearest_mean.logits(agent.ncm, features(model, agent.model, exp.x, exp.valid, exp.tasks))
        return of_their_task(model, found, exp.tasks)

    return Classifier(logits, model)


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
    """Classify by the nearest class mean of the model's features; the means are streaming. Strategy.model is the classifier.

    optimizer: trains the network by cross-entropy on the "first" experience or on "every" one (`train`); None leaves it as it is.
    weights: the network to start from, such as a pretrained one; by default it is initialised from the key.
    `cl.models.mlp(n_features, hidden=(), ...)` has its inputs as features.

    Hyperparameter paths: those of the optimiser, such as `opt.lr`.
    """
    checks.model("model", model)
    checks.choice("train", train, "first", "every")
    if weights is not None:
        checks.instance("weights", weights, ModelState, "the ModelState of model.init(key)")

    def init(key: Tensor) -> NCMAgent:
        key, draw = random.split(key)
        net = model.init(draw) if weights is None else weights
        opt = None if optimizer is None else optimizer.init(net.params)
        return NCMAgent(key=key, model=net, opt=opt, ncm=nearest_mean.init(model.n_classes, sample_features(model, net)))

    observe = minibatches(nearest_mean.insert(model), batch_size=batch_size, shuffle=False)
    if optimizer is None:
        return Strategy(init, observe, predict(model))
    step = train_step(cross_entropy(model), optimizer)
    if train == "first":
        step = when(lambda agent, exp: agent.ncm.counts.sum() == 0, step)  # type: ignore[assignment]
    fit = minibatches(step, batch_size=batch_size, epochs=epochs, iterations=iterations)
    return Strategy(init, compose(fit, observe), predict(model))
