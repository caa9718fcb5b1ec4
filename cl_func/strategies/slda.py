"""Deep streaming LDA (Hayes & Kanan, "Lifelong machine learning with deep streaming linear discriminant analysis", CVPR workshops
2020): a frozen network for the features, and on them a linear discriminant classifier that learns from one row at a time.

It stores no rows, and what it knows after a stream does not depend on the order of the rows. As in the paper's base
initialisation, the network may be trained on the first experience; from there on it is frozen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from cl_func import checks, classifiers, random
from cl_func.classifiers import slda as lda
from cl_func.core import Agent, Optimizer, Strategy, compose, minibatches, train_step, when
from cl_func.experiences import Experience
from cl_func.losses import cross_entropy
from cl_func.models import Model, ModelState, features, sample_features
from cl_func.models.heads import Classifier, of_their_task
from cl_func.optim.hyperparameters import nonnegative
from cl_func.tree import state


@state
class SLDAAgent(Agent):
    """An agent that classifies by streaming LDA on its features."""

    slda: classifiers.SLDA


def predict(model: Model) -> Callable[[Any, Experience], Tensor]:
    """The classifier `(state, exp) -> logits [n, C]`, for `cl.evaluate`."""

    def logits(agent: Any, exp: Experience) -> Tensor:
        found = lda.logits(agent.slda, features(model, agent.model, exp.x, exp.valid, exp.tasks))
        return of_their_task(model, found, exp.tasks)

    return Classifier(logits, model)


def slda(
    model: Model,
    optimizer: Optimizer | None = None,
    *,
    shrinkage: float = 1e-4,
    weights: ModelState | None = None,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Classify by streaming LDA on the model's features. Strategy.model is the classifier.

    optimizer: trains the network by cross-entropy on the first experience; None leaves it as it is.
    weights: the network to start from, such as a pretrained one; by default it is initialised from the key.
    `cl.models.mlp(n_features, hidden=(), ...)` has its inputs as features.

    Hyperparameter paths: `slda.shrinkage`, those of the optimiser, such as `opt.lr`.
    """
    checks.model("model", model)
    if weights is not None:
        checks.instance("weights", weights, ModelState, "the ModelState of model.init(key)")

    def init(key: Tensor) -> SLDAAgent:
        key, draw = random.split(key)
        net = model.init(draw) if weights is None else weights
        opt = None if optimizer is None else optimizer.init(net.params)
        slot = lda.init(model.n_classes, sample_features(model, net), shrinkage)
        return SLDAAgent(key=key, model=net, opt=opt, slda=slot)

    nonnegative("shrinkage", shrinkage, 1e-4, positive=True, below=1)  # here, not when the first run starts
    observe = minibatches(lda.insert(model), batch_size=batch_size, shuffle=False)
    if optimizer is None:
        return Strategy(init, observe, predict(model))
    step = when(lambda agent, exp: agent.slda.counts.sum() == 0, train_step(cross_entropy(model), optimizer))
    fit = minibatches(step, batch_size=batch_size, epochs=epochs, iterations=iterations)
    return Strategy(init, compose(fit, observe), predict(model))
