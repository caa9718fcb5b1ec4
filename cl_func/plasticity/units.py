"""The hidden layers of a model, and its last ones, by the names of their parameters, with an error where units are not apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cl_func import checks, random
from cl_func.models.model import Model
from cl_func.plasticity.layers import Layer
from cl_func.plasticity.trial import analyse


def hidden_layers(model: Model, layers: Sequence[str] | None = None) -> tuple[Layer, ...]:
    """The hidden layers of a model in the order in which they run, or those of them that are named.

    layers: their names, "0" for the layer of "0.weight"; None takes all.
    Raises ValueError for a model without `input_shape` or without hidden units, and, naming it, for a layer that units cannot be
    taken out of: its units are added to those of another layer (a residual connection), are mixed by something else than a layer
    (attention, a cosine head), lead to a grouped or transposed convolution, or its weight is used twice.
    """
    checks.model("model", model)
    names = None if layers is None else checked_names(layers)
    checked_shape(model)
    found, why_not, _ = analyse(model)
    if names is None:
        if why_not:
            name, why = next(iter(why_not.items()))
            rest = f"; leave it out: layers={tuple(layer.name for layer in found)}" if found else ""
            raise ValueError(f"model: the units of its layer {name!r} cannot be replaced, since {why}{rest}.")
        if not found:
            raise ValueError("model: it has no hidden units, layers that feed other layers; give a model that has, such as an MLP.")
        return found
    by_name = {layer.name: layer for layer in found}
    for name in names:
        if name not in by_name:
            reason = f"since {why_not[name]}" if name in why_not else "since it is no hidden layer of this model"
            raise ValueError(f"layers: the units of {name!r} cannot be replaced, {reason}; there are {tuple(by_name)}.")
    return tuple(layer for layer in found if layer.name in names)


def checked_names(layers: Any) -> tuple[str, ...]:
    """Check that layers are named by a tuple or list of at least one string; TypeError otherwise."""
    if not isinstance(layers, (tuple, list)) or not layers or not all(isinstance(name, str) for name in layers):
        raise checks.type_error("layers", "None or names of layers such as ('0', '2')", layers)
    return tuple(layers)


def checked_shape(model: Model) -> None:
    """Check that the shape of a model's inputs is known; ValueError otherwise."""
    if getattr(model, "input_shape", None) is None:
        raise ValueError(
            "model: its layers are found by a trial, for which one must know the shape of an input; build the model with "
            "from_module(factory, n_classes=..., input_shape=(...))."
        )


def last_layers(model: Model, layers: Sequence[str] | None = None) -> tuple[str, ...]:
    """The names of the parameters of the layers that lead to no other layer, or of those layers that are named.

    Raises ValueError for a layer that the model does not have, and where none is named for a model in which none is found.
    """
    params = model.init(random.key(0)).params
    if layers is None:
        checked_shape(model)
        _, _, last = analyse(model)
        if not last:
            raise ValueError("model: its last layer is not known, since its weight is computed; name it: layers=(...).")
    else:
        last = tuple(checked_names(layers))
    found = {name: [p for p in params if p.rpartition(".")[0] == name or p == name] for name in last}
    for name, own in found.items():
        if not own:
            known = sorted({p.rpartition(".")[0] for p in params})
            raise ValueError(f"layers: this model has no layer {name!r}; there are {', '.join(map(repr, known))}.")
    return tuple(p for own in found.values() for p in own)
