"""RanPAC (McDonnell, Gong, Parvaneh, Abbasnejad & van den Hengel, "RanPAC: random projections and pre-trained models for continual
learning", NeurIPS 2023): a frozen network for the features, a random layer, and ridge regression from sums, with the ridge chosen
on held-out rows.

It stores no rows. The paper's first phase, in which adapters within the network are trained on the first experience, is not here;
the network itself may be trained on it, after which it is frozen.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import Tensor

from cl_func import checks, classifiers, random
from cl_func.checks import positive_int
from cl_func.classifiers import _random_features, linear
from cl_func.classifiers import ranpac as regression
from cl_func.core import Agent, Optimizer, Strategy, compose, minibatches, train_step, when
from cl_func.experiences import Experience
from cl_func.losses import cross_entropy
from cl_func.models import Model, ModelState, features, sample_features
from cl_func.models.heads import Classifier, of_their_task
from cl_func.optim.hyperparameters import nonnegative
from cl_func.strategies._train_state import check_untrained, init_train_state
from cl_func.tree import state


@state
class RanPACAgent(Agent):
    """An agent that classifies by ridge regression on random features of its features."""

    ranpac: classifiers.RanPAC


def ranpac(
    model: Model,
    optimizer: Optimizer | None = None,
    *,
    projection_size: int = 2000,
    ridge: float | None = None,
    choose_on: Literal["experience", "all"] = "experience",
    validation: float = 0.2,
    weights: ModelState | None = None,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Classify by ridge regression on random features of the network's features, its ridge chosen on held-out rows; none is stored.

    The sums that it is made of do not depend on the order of the rows; the ridge chosen on an experience does, on which comes last.
    A network without hidden layers, `cl.models.mlp(n_features, hidden=(), ...)`, has its inputs as features.

    The equations are solved when the classifier is used: `cl.evaluate` does so once, which takes O(projection_size^3).

    Reference: McDonnell, Gong, Parvaneh, Abbasnejad & van den Hengel, "RanPAC: random projections and pre-trained models for
    continual learning", NeurIPS 2023, without its phase 1 (parameter-efficient tuning of the network).

    Hyperparameter paths: `ranpac.ridge` if it is given, and those of the optimiser, such as `opt.lr`.

    Args:
        model: The network to train, such as `cl.models.mlp(64, hidden=(256,), n_classes=10)`. It must give `features`, and have an
            `input_shape`. With a multi-head model only the classes of a row's task compete.
        optimizer: The optimiser, such as `cl.optim.sgd(lr=0.1)`. It trains the network by cross-entropy on the first experience;
            None, the default, leaves the network as it is.
        projection_size: Random features M, at least 1; the paper has 10,000. The state holds M x M numbers in float64, up to three
            times.
        ridge: Weight of the squared norm of the regression's weights, above 0. None, the default, chooses it from 10^-8, 10^-7,
            ..., 10^8 by the squared error on held-out rows; see `cl.classifiers.ranpac.choose_ridge`.
        choose_on: The held-out rows that count: "experience", those of the newest experience, as in the paper, or "all", those of
            all experiences so far, for experiences of few rows, as in online streams, and to be independent of their order.
        validation: The fraction of the rows that is held out for the choice, above 0 and below 1; the final weights are of all
            rows.
        weights: The network to start from, such as a pretrained one; None, the default, draws one from the key.
        batch_size: Rows per minibatch, at least 1; None, the default, takes each experience as one minibatch, as in online streams.
        epochs: Passes over each experience, at least 1.
        iterations: Minibatches per experience, at least 1, instead of whole passes; then `epochs` must be 1. None by default.

    Returns:
        A Strategy with the state `RanPACAgent`; `Strategy.model` is the classifier, a function `(state, exp) -> logits [n, C]`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of its range, both `epochs` and `iterations` are given, or the model gives no features. From
            `Strategy.init`: the model has no `input_shape`.
    """
    checks.model("model", model)
    if weights is not None:
        checks.instance("weights", weights, ModelState, "the ModelState of model.init(key)")
    positive_int("projection_size", projection_size)  # here, not when the first run starts
    if ridge is not None:
        nonnegative("ridge", ridge, 1.0, positive=True)
    checks.choice("choose_on", choose_on, "experience", "all")
    empty = partial(regression.init, projection_size=projection_size, ridge=ridge, choose_on=choose_on)
    init = partial(_init, model=model, optimizer=optimizer, empty=empty, weights=weights)
    classifier = Classifier(partial(_logits, model), model, prepare=_solve)
    observe = compose(
        regression.begin(),
        minibatches(regression.insert(model, validation=validation), batch_size=batch_size, shuffle=False),
    )
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
    empty: partial[classifiers.RanPAC],
    weights: ModelState | None,
) -> RanPACAgent:
    key, net, opt = init_train_state(key, model, optimizer, weights)
    key, projection_key = random.split(key)
    return RanPACAgent(key=key, model=net, opt=opt, ranpac=empty(model.n_classes, sample_features(model, net), projection_key))


def _is_first(agent: RanPACAgent, exp: Experience) -> Tensor:
    """Whether this is the first experience, () bool: the regression takes up its rows when the training on it is over."""
    return agent.ranpac.counts.sum() == 0


def _solve(agent: RanPACAgent) -> tuple[ModelState, Tensor, classifiers.LinearClassifier]:
    return agent.model, agent.ranpac.projection, regression.solve(agent.ranpac)


def _logits(model: Model, solved: tuple[ModelState, Tensor, classifiers.LinearClassifier], exp: Experience) -> Tensor:
    net, projection, classifier = solved
    rows = _random_features.expand(projection, features(model, net, exp.x, exp.valid, exp.tasks))
    return of_their_task(model, linear.logits(classifier, rows), exp.tasks)
