"""FeCAM (Goswami, Liu, Twardowski & van de Weijer, "FeCAM: exploiting the heterogeneity of class distributions in exemplar-free
continual learning", NeurIPS 2023): a frozen network for the features, and on them Mahalanobis distances, with a covariance for each
class.

It stores no rows, and of a frozen network what it knows after a stream does not depend on the order of the rows. As in the
paper the network may be trained on the first experience; after that it is frozen.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from cl_func import checks, classifiers
from cl_func.classifiers import fecam as mahalanobis
from cl_func.core import Agent, Optimizer, Strategy, compose, minibatches, train_step, when
from cl_func.experiences import Experience
from cl_func.losses import cross_entropy
from cl_func.models import Model, ModelState, features, sample_features
from cl_func.models.heads import Classifier, of_their_task
from cl_func.strategies._train_state import check_untrained, init_train_state
from cl_func.tree import state


@state
class FeCAMAgent(Agent):
    """An agent that classifies by the Mahalanobis distances of its features."""

    fecam: classifiers.FeCAM


def fecam(
    model: Model,
    optimizer: Optimizer | None = None,
    *,
    gamma1: float = 1.0,
    gamma2: float = 1.0,
    tukey: float = 0.5,
    weights: ModelState | None = None,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Classify by the Mahalanobis distance of the network's features to each class, with its own covariance; no rows are stored.

    Of features that stand still, what it knows after a stream does not depend on the order of the rows; with an `optimizer` the
    network, and so the features, depend on the first experience. A network without hidden layers,
    `cl.models.mlp(n_features, hidden=(), ...)`, has its inputs as features.

    The state holds C x F x F numbers in float64, for C classes and F features. They are factorised when the classifier is used:
    `cl.evaluate` does so once, which takes O(C F^3).

    Reference: Goswami, Liu, Twardowski & van de Weijer, "FeCAM: exploiting the heterogeneity of class distributions in
    exemplar-free continual learning", NeurIPS 2023.

    Hyperparameter paths: `fecam.gamma1`, `fecam.gamma2`, `fecam.tukey` (which counts as rows come), those of the optimiser, such as
    `opt.lr`.

    Args:
        model: The network to train, such as `cl.models.mlp(64, hidden=(256,), n_classes=10)`. It must give `features`, and have an
            `input_shape`. With a multi-head model only the classes of a row's task compete.
        optimizer: The optimiser, such as `cl.optim.sgd(lr=0.1)`. It trains the network by cross-entropy on the first experience;
            None, the default, leaves the network as it is.
        gamma1: Shrinkage, how many times the mean variance is added to every variance, above 0. The paper has 1 for many rows of a
            class and 100 for few.
        gamma2: How many times the mean covariance is added to every other entry, at least 0 and at most gamma1.
        tukey: The exponent of Tukey's transformation sign(f) |f|^tukey of the features f, above 0 and at most 1, which is none.
        weights: The network to start from, such as a pretrained one; None, the default, draws one from the key.
        batch_size: Rows per minibatch, at least 1; None, the default, takes each experience as one minibatch, as in online streams.
        epochs: Passes over each experience, at least 1.
        iterations: Minibatches per experience, at least 1, instead of whole passes; then `epochs` must be 1. None by default.

    Returns:
        A Strategy with the state `FeCAMAgent`; `Strategy.model` is the classifier, a function `(state, exp) -> logits [n, C]`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of its range, both `epochs` and `iterations` are given, or the model gives no features. From
            `Strategy.init`: the model has no `input_shape`.
    """
    checks.model("model", model)
    if weights is not None:
        checks.instance("weights", weights, ModelState, "the ModelState of model.init(key)")
    mahalanobis.hyperparameters(gamma1, gamma2, tukey)  # here, not when the first run starts
    empty = partial(mahalanobis.init, gamma1=gamma1, gamma2=gamma2, tukey=tukey)
    init = partial(_init, model=model, optimizer=optimizer, empty=empty, weights=weights)
    classifier = Classifier(partial(_logits, model), model, prepare=_solve)
    observe = minibatches(mahalanobis.insert(model), batch_size=batch_size, shuffle=False)
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
    empty: partial[classifiers.FeCAM],
    weights: ModelState | None,
) -> FeCAMAgent:
    key, net, opt = init_train_state(key, model, optimizer, weights)
    return FeCAMAgent(key=key, model=net, opt=opt, fecam=empty(model.n_classes, sample_features(model, net)))


def _is_first(agent: FeCAMAgent, exp: Experience) -> Tensor:
    """Whether this is the first experience, () bool: the statistics take up its rows when the training on it is over."""
    return agent.fecam.counts.sum() == 0


def _solve(agent: FeCAMAgent) -> tuple[ModelState, classifiers.MahalanobisClassifier]:
    return agent.model, mahalanobis.solve(agent.fecam)


def _logits(model: Model, solved: tuple[ModelState, classifiers.MahalanobisClassifier], exp: Experience) -> Tensor:
    net, classifier = solved
    logits = mahalanobis.distances(classifier, features(model, net, exp.x, exp.valid, exp.tasks))
    return of_their_task(model, logits, exp.tasks)
