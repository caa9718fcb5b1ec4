"""Analytic class-incremental learning (Zhuang et al., "ACIL: analytic class-incremental learning with absolute memorization and
privacy protection", NeurIPS 2022): a frozen network for the features, a random layer, and ridge regression by recursive least
squares, which equals the regression on all rows so far.

It stores no rows, and of a frozen network what it knows after a stream does not depend on the order of the rows. As in the
paper's base training, the network may be trained on the first experience; after that it is frozen.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from cl_func import checks, classifiers, random
from cl_func.checks import positive_int
from cl_func.classifiers import acil as analytic
from cl_func.core import Agent, Optimizer, Strategy, compose, minibatches, train_step, when
from cl_func.experiences import Experience
from cl_func.losses import cross_entropy
from cl_func.models import Model, ModelState, features, sample_features
from cl_func.models.heads import Classifier, of_their_task
from cl_func.optim.hyperparameters import nonnegative
from cl_func.strategies._train_state import check_untrained, init_train_state
from cl_func.tree import state


@state
class ACILAgent(Agent):
    """An agent that classifies by ridge regression on random features of its features."""

    acil: classifiers.ACIL


def acil(
    model: Model,
    optimizer: Optimizer | None = None,
    *,
    projection_size: int = 2000,
    ridge: float = 0.1,
    weights: ModelState | None = None,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Classify by ridge regression on random features of the network's features, solved recursively; no rows are stored.

    Of features that stand still, what it knows after a stream does not depend on the order of the rows; with an `optimizer` the
    network, and so the features, depend on the first experience. A network without hidden layers,
    `cl.models.mlp(n_features, hidden=(), ...)`, has its inputs as features.

    Reference: Zhuang, Weng, Wei, Xie, Toh & Lin, "ACIL: analytic class-incremental learning with absolute memorization and privacy
    protection", NeurIPS 2022.

    Hyperparameter paths: `acil.ridge`, which counts when the first rows come, and those of the optimiser, such as `opt.lr`.

    Args:
        model: The network to train, such as `cl.models.mlp(64, hidden=(256,), n_classes=10)`. It must give `features`, and have an
            `input_shape`. With a multi-head model only the classes of a row's task compete.
        optimizer: The optimiser, such as `cl.optim.sgd(lr=0.1)`. It trains the network by cross-entropy on the first experience;
            None, the default, leaves the network as it is.
        projection_size: Random features M, at least 1; the state holds M x M numbers in float64. The paper has 8,000 and more.
        ridge: Weight of the squared norm of the regression's weights, above 0.
        weights: The network to start from, such as a pretrained one; None, the default, draws one from the key.
        batch_size: Rows per minibatch, at least 1; None, the default, takes each experience as one minibatch, as in online streams.
        epochs: Passes over each experience, at least 1.
        iterations: Minibatches per experience, at least 1, instead of whole passes; then `epochs` must be 1. None by default.

    Returns:
        A Strategy with the state `ACILAgent`; `Strategy.model` is the classifier, a function `(state, exp) -> logits [n, C]`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of its range, both `epochs` and `iterations` are given, or the model gives no features. From
            `Strategy.init`: the model has no `input_shape`.
    """
    checks.model("model", model)
    if weights is not None:
        checks.instance("weights", weights, ModelState, "the ModelState of model.init(key)")
    positive_int("projection_size", projection_size)  # here, not when the first run starts
    nonnegative("ridge", ridge, 0.1, positive=True)
    empty = partial(analytic.init, projection_size=projection_size, ridge=ridge)
    init = partial(_init, model=model, optimizer=optimizer, empty=empty, weights=weights)
    classifier = Classifier(partial(_logits, model), model)
    observe = minibatches(analytic.insert(model), batch_size=batch_size, shuffle=False)
    if optimizer is None:
        check_untrained(epochs, iterations)
        return Strategy(init, observe, classifier)
    step = when(_is_first, train_step(cross_entropy(model), optimizer))
    fit = minibatches(step, batch_size=batch_size, epochs=epochs, iterations=iterations)
    return Strategy(init, compose(fit, observe), classifier)


def _init(
    key: Tensor,
    *,
    model: Model,
    optimizer: Optimizer | None,
    empty: partial[classifiers.ACIL],
    weights: ModelState | None,
) -> ACILAgent:
    key, net, opt = init_train_state(key, model, optimizer, weights)
    key, projection_key = random.split(key)
    return ACILAgent(key=key, model=net, opt=opt, acil=empty(model.n_classes, sample_features(model, net), projection_key))


def _is_first(agent: ACILAgent, exp: Experience) -> Tensor:
    """Whether this is the first experience, () bool: the regression takes up its rows when the training on it is over."""
    return agent.acil.counts.sum() == 0


def _logits(model: Model, agent: ACILAgent, exp: Experience) -> Tensor:
    logits = analytic.logits(agent.acil, features(model, agent.model, exp.x, exp.valid, exp.tasks))
    return of_their_task(model, logits, exp.tasks)
