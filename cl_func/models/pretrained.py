"""A model that starts from weights that there are already, such as those of a run before."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

from torch import Tensor

from cl_func import checks, random, tree
from cl_func.models.keyed import with_keys
from cl_func.models.model import Model, ModelState
from cl_func.tree import describe


def pretrained(model: Model, net: ModelState) -> Model:
    """The model whose `init` gives the weights of `net`, whatever the key; keys of layers that draw come from the key as before.

    Every method then starts from these weights, and so does what it makes of them at the start: teachers, anchors, and what SI and
    RWalk compare with. (The state of an agent with another network put into it would hold those of the one before.)

    net: the ModelState of the model after training, `state.model`, or one with the same names, shapes and dtypes.

    Raises TypeError for other arguments, ValueError for a network of other names, shapes or dtypes.

    >>> from cl_func import random
    >>> from cl_func.models import mlp
    >>> model = mlp(6, hidden=(8,), n_classes=4)
    >>> net = model.init(random.key(1))
    >>> tree.equal(pretrained(model, net).init(random.key(0)), net)
    True
    """
    checks.model("model", model)
    checks.instance("net", net, ModelState, "the ModelState of model.init(key), or of a state, state.model")
    own = model.init(random.key(0))
    for kind in ("params", "buffers"):
        expected, given = (getattr(one, kind) for one in (own, net))
        differ = [name for name in {**expected, **given} if describe(expected.get(name)) != describe(given.get(name))]
        if differ:
            name = differ[0]
            raise ValueError(
                f"net: the model has {kind} {name!r} {describe(expected.get(name))}, the network {describe(given.get(name))}; give "
                "a network of this model."
            )
    return dataclasses.replace(model, init=partial(_init, init=model.init, net=net))


def _init(key: Tensor, *, init: Callable[[Tensor], ModelState], net: ModelState) -> ModelState:
    return with_keys(tree.to(net, key.device), init(key).buffers)
