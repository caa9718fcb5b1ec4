"""Deep streaming LDA (Hayes & Kanan, "Lifelong machine learning with deep streaming linear discriminant analysis", CVPR workshops
2020): a frozen network for the features, and on them a linear discriminant classifier that learns from one row at a time.

It stores no rows, and of a frozen network what it knows after a stream does not depend on the order of the rows. As in the
paper's base initialisation, the network may be trained on the first experience; after that it is frozen.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from cl_func import checks, classifiers
from cl_func.classifiers import linear
from cl_func.classifiers import slda as lda
from cl_func.core import Agent, Optimizer, Strategy, compose, minibatches, train_step, when
from cl_func.experiences import Experience
from cl_func.losses import cross_entropy
from cl_func.models import Model, ModelState, features, sample_features
from cl_func.models.heads import Classifier, of_their_task
from cl_func.optim.hyperparameters import nonnegative
from cl_func.strategies._train_state import check_untrained, init_train_state
from cl_func.tree import state


@state
class SLDAAgent(Agent):
    """An agent that classifies by streaming LDA on its features."""

    slda: classifiers.SLDA


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
    """Classify by streaming linear discriminant analysis of the network's features; no rows are stored.

    Of features that stand still, what it knows after a stream does not depend on the order of the rows; with an `optimizer` the
    network, and so the features, depend on the first experience. A network without hidden layers,
    `cl.models.mlp(n_features, hidden=(), ...)`, has its inputs as features.

    Reference: Hayes & Kanan, "Lifelong machine learning with deep streaming linear discriminant analysis", CVPR workshops 2020.

    Hyperparameter paths: `slda.shrinkage`, those of the optimiser, such as `opt.lr`.

    Args:
        model: The network to train, such as `cl.models.mlp(64, hidden=(256,), n_classes=10)`. It must give `features`, and have an
            `input_shape`. With a multi-head model only the classes of a row's task compete.
        optimizer: The optimiser, such as `cl.optim.sgd(lr=0.1)`. It trains the network by cross-entropy on the first experience;
            None, the default, leaves the network as it is.
        shrinkage: Weight of the identity in the covariance, above 0 and below 1.
        weights: The network to start from, such as a pretrained one; None, the default, draws one from the key.
        batch_size: Rows per minibatch, at least 1; None, the default, takes each experience as one minibatch, as in online streams.
        epochs: Passes over each experience, at least 1.
        iterations: Minibatches per experience, at least 1, instead of whole passes; then `epochs` must be 1. None by default.

    Returns:
        A Strategy with the state `SLDAAgent`; `Strategy.model` is the classifier, a function `(state, exp) -> logits [n, C]`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of its range, both `epochs` and `iterations` are given, or the model gives no features. From
            `Strategy.init`: the model has no `input_shape`.
    """
    checks.model("model", model)
    if weights is not None:
        checks.instance("weights", weights, ModelState, "the ModelState of model.init(key)")
    nonnegative("shrinkage", shrinkage, 1e-4, positive=True, below=1)  # here, not when the first run starts
    init = partial(_init, model=model, optimizer=optimizer, shrinkage=shrinkage, weights=weights)
    classifier = Classifier(partial(_logits, model), model, prepare=_solve)
    observe = minibatches(lda.insert(model), batch_size=batch_size, shuffle=False)
    if optimizer is None:
        check_untrained(epochs, iterations)
        return Strategy(init, observe, classifier)
    step = when(_is_first, train_step(cross_entropy(model), optimizer))
    fit = minibatches(step, batch_size=batch_size, epochs=epochs, iterations=iterations)
    return Strategy(init, compose(fit, observe), classifier)


def _init(key: Tensor, *, model: Model, optimizer: Optimizer | None, shrinkage: float, weights: ModelState | None) -> SLDAAgent:
    key, net, opt = init_train_state(key, model, optimizer, weights)
    return SLDAAgent(key=key, model=net, opt=opt, slda=lda.init(model.n_classes, sample_features(model, net), shrinkage))


def _is_first(agent: SLDAAgent, exp: Experience) -> Tensor:
    """Whether this is the first experience, () bool: the statistics take up its rows when the training on it is over."""
    return agent.slda.counts.sum() == 0


def _solve(agent: SLDAAgent) -> tuple[ModelState, classifiers.LinearClassifier]:
    return agent.model, lda.solve(agent.slda)


def _logits(model: Model, solved: tuple[ModelState, classifiers.LinearClassifier], exp: Experience) -> Tensor:
    net, classifier = solved
    logits = linear.logits(classifier, features(model, net, exp.x, exp.valid, exp.tasks))
    return of_their_task(model, logits, exp.tasks)
