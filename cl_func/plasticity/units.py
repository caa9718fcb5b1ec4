"""The hidden units of a model: which entries of which parameters come into a unit, and which lead out of it.

    in:   row i of the layer's weight, entry i of its bias, and what belongs to unit i in the norms that follow
    out:  in each layer fed by unit i, the columns of the weight for the features that come from it

It is found by trial, from the forward pass alone, so for any model: every linear layer and convolution is made to give constants,
one of its units is moved, and one sees which inputs of which other layers move. A unit has one feature behind a ReLU, two behind a
CReLU, as many as there are positions behind a convolution that is flattened. Norms that look at several units at once are
passed by: to them belongs what they multiply.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cl_func import checks, random
from cl_func.experiences import Experience
from cl_func.models.model import Model, ModelState, zero_input
from cl_func.tree import describe

_CONVOLUTIONS = {F.conv1d, F.conv2d, F.conv3d}
_TRANSPOSED = {F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d}
_NORMS = {F.layer_norm, F.rms_norm, F.batch_norm, F.group_norm, F.instance_norm}
_CHUNK = 64  # units that are moved in one pass, each of them up in one row and down in another
_BY = 3.0  # how far


@dataclasses.dataclass(frozen=True)
class Features:
    """Where the units of a layer are among features: start + (copy * units + unit) * positions + position."""

    start: int
    copies: int
    units: int
    positions: int

    @property
    def count(self) -> int:
        """How many features there are of these units."""
        return self.copies * self.units * self.positions

    def of(self, features: Tensor) -> Tensor:
        """Values of all features of a layer [..., F] as those of each unit, [..., units, copies * positions]."""
        own = features[..., self.start : self.start + self.count]
        return own.reshape(*own.shape[:-1], self.copies, self.units, self.positions).transpose(-3, -2).flatten(-2)

    def spread(self, units: Tensor, total: int) -> Tensor:
        """Values of units, [units] or [units, copies * positions], as those of all `total` features of a layer, 0 elsewhere."""
        each = units.reshape(self.units, -1).expand(self.units, self.copies * self.positions)
        own = each.reshape(self.units, self.copies, self.positions).transpose(0, 1).reshape(-1)
        return F.pad(own, (self.start, total - self.start - self.count))


@dataclasses.dataclass(frozen=True)
class Feed:
    """A layer that units lead to: its weight and bias by name, and which of its features are theirs."""

    weight: str
    bias: str | None
    features: Features


@dataclasses.dataclass(frozen=True)
class Norm:
    """A norm that units go through: its parameters by name, its running statistics with their first values, and where units are."""

    params: tuple[str, ...]
    statistics: tuple[tuple[str, float], ...]
    features: Features


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer of hidden units; a unit is a row of its weight."""

    name: str
    weight: str
    bias: str | None
    units: int
    norms: tuple[Norm, ...]
    feeds: tuple[Feed, ...]


def hidden_layers(model: Model, layers: Sequence[str] | None = None) -> tuple[Layer, ...]:
    """The hidden layers of a model in the order in which they run, or those of them that are named.

    layers: their names, "0" for the layer of "0.weight"; None takes all.
    Raises ValueError for a model without `input_shape` or without hidden units, and, naming it, for a layer that units cannot be
    taken out of: its units are added to those of another layer (a residual connection), are mixed by something else than a layer
    (attention, a cosine head), lead to a grouped or transposed convolution, or its weight is used twice.
    """
    checks.model("model", model)
    if layers is not None and (
        not isinstance(layers, (tuple, list)) or not layers or not all(isinstance(name, str) for name in layers)
    ):
        raise checks.type_error("layers", "None or names of layers such as ('0', '2')", layers)
    if getattr(model, "input_shape", None) is None:
        raise ValueError(
            "model: its hidden units are found by a trial, for which one must know the shape of an input; build the model with "
            "from_module(factory, n_classes=..., input_shape=(...))."
        )
    found, why_not = _analyse(model)
    if layers is None:
        if why_not:
            name, why = next(iter(why_not.items()))
            rest = f"; leave it out: layers={tuple(layer.name for layer in found)}" if found else ""
            raise ValueError(f"model: the units of its layer {name!r} cannot be replaced, since {why}{rest}.")
        if not found:
            raise ValueError("model: it has no hidden units, layers that feed other layers; give a model that has, such as an MLP.")
        return found
    by_name = {layer.name: layer for layer in found}
    for name in layers:
        if name not in by_name:
            reason = f"since {why_not[name]}" if name in why_not else "since it is no hidden layer of this model"
            raise ValueError(f"layers: the units of {name!r} cannot be replaced, {reason}; there are {tuple(by_name)}.")
    return tuple(layer for layer in found if layer.name in layers)


def layer_inputs(model: Model, net: ModelState, exp: Experience, weights: Sequence[str]) -> dict[str, Tensor]:
    """What some layers are given for the rows of an experience, in eval mode: weight's name -> [n, positions, features]."""
    with _Inputs({id(net.params[name]): name for name in weights}) as watch:
        model.apply(net.params, net.buffers, exp.x, train=False, valid=exp.valid, task=exp.tasks)
    for name in weights:
        if name not in watch.seen or watch.seen[name].shape[0] != len(exp):
            given = describe(watch.seen[name]) if name in watch.seen else "nothing"
            raise ValueError(f"model: the layer of {name!r} is given {given} for {len(exp)} rows; keep rows on the first axis.")
    return watch.seen


class _Inputs(TorchFunctionMode):
    """Records the inputs of layers by their weights' names."""

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self.names, self.seen = names, dict[str, Tensor]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.linear or func in _CONVOLUTIONS:
            given = _arguments(func, args, kwargs)
            name = self.names.get(id(given["weight"]))
            if name is not None:
                self.seen[name] = _by_position(given["input"], func is F.linear)
        return func(*args, **kwargs)


def _arguments(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The first arguments of a layer by name."""
    names = ("input", "weight", "bias") if func not in _NORMS else _NORM_ARGUMENTS[func.__name__]
    return {**dict.fromkeys(names), **dict(zip(names, args, strict=False)), **kwargs}


_NORM_ARGUMENTS = {
    "layer_norm": ("input", "normalized_shape", "weight", "bias"),
    "rms_norm": ("input", "normalized_shape", "weight"),
    "group_norm": ("input", "num_groups", "weight", "bias"),
    "batch_norm": ("input", "running_mean", "running_var", "weight", "bias"),
    "instance_norm": ("input", "running_mean", "running_var", "weight", "bias"),
}


def _by_position(x: Tensor, last: bool) -> Tensor:
    """Inputs as [n, positions, features], of linear layers [n, ..., features] or of convolutions [n, features, ...]."""
    if last:
        return x.flatten(1, -2) if x.ndim > 2 else x.unsqueeze(1)
    return x.flatten(2).transpose(1, 2) if x.ndim > 2 else x.unsqueeze(1)


class _Cut(TorchFunctionMode):
    """Runs the model with its layers cut apart: each gives constants, one of them with some of its units moved."""

    def __init__(self, net: ModelState) -> None:
        super().__init__()
        tensors = {**net.params, **net.buffers}
        self.names, self.trained = {id(value): name for name, value in tensors.items()}, set(net.params)
        self.constants: dict[str, Tensor] = {}  # by weight: what the layer gives, [1, ...]
        self.layers: dict[str, tuple[str | None, bool]] = {}  # by weight: its bias, and whether features are on the last axis
        self.norms: dict[str, Norm] = {}  # by the order in which they run
        self.refused: dict[str, str] = {}
        self.moved: tuple[str, int, int] | None = None  # the weight of a layer, and which of its units move
        self.inputs: dict[str, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.linear or func in _CONVOLUTIONS or func in _TRANSPOSED:
            given = _arguments(func, args, kwargs)
            name = self.names.get(id(given["weight"]))
            if name in self.trained:
                assert name is not None
                if self.moved is None:
                    self.enter(name, given, func, args, kwargs)
                return self.give(name, given["input"], func is F.linear)
            # A frozen layer, or one whose weight is computed, such as that of a cosine head.
            key = name or f"layer {sum(1 for k in self.inputs if k.startswith('layer '))} of computed weights"
            self.refused.setdefault(key, "it is frozen" if name else "its weight is computed in the forward pass")
            self.inputs[key] = _by_position(given["input"], func is F.linear)
        elif func in _NORMS:
            given = _arguments(func, args, kwargs)
            axis_last = func in (F.layer_norm, F.rms_norm)
            key = f"norm {sum(1 for k in self.inputs if k.startswith('norm'))}"
            self.inputs[key] = _by_position(given["input"], axis_last)
            if self.moved is None:
                self.norms[key] = self.norm(given)
            return given["input"]
        return func(*args, **kwargs)

    def enter(self, name: str, given: dict[str, Any], func: Any, args: Any, kwargs: Any) -> None:
        if name in self.layers:
            self.refused[name] = "it runs twice in one forward pass"
        elif func in _TRANSPOSED:
            self.refused[name] = "it is a transposed convolution"
        elif func in _CONVOLUTIONS and given["weight"].shape[1] != given["input"].shape[1]:
            self.refused[name] = "it is a grouped convolution"
        self.layers[name] = (self.names.get(id(given["bias"])), func is F.linear)
        out = func(*args, **kwargs)
        noise = random.uniform(random.fold_in(random.key(0), len(self.constants)), tuple(out.shape[1:]))
        self.constants[name] = (2 * noise - 1)[None].to(out.dtype)

    def norm(self, given: dict[str, Any]) -> Norm:
        found = {part: self.names.get(id(given.get(part))) for part in ("weight", "bias", "running_mean", "running_var")}
        params = tuple(name for part in ("weight", "bias") if (name := found[part]) in self.trained and name is not None)
        firsts = ((found["running_mean"], 0.0), (found["running_var"], 1.0))
        return Norm(params, tuple((name, value) for name, value in firsts if name is not None), Features(0, 1, 1, 1))

    def give(self, name: str, x: Tensor, last: bool) -> Tensor:
        self.inputs[name] = _by_position(x, last)
        constant = self.constants[name]
        out = constant.expand(x.shape[0], *constant.shape[1:])
        if self.moved is None or self.moved[0] != name:
            return out
        _, first, count = self.moved
        moves = torch.zeros(x.shape[0], constant.shape[-1 if last else 1], dtype=out.dtype)
        unit = torch.arange(count)
        moves[1 + unit, first + unit], moves[1 + count + unit, first + unit] = _BY, -_BY
        shape = (x.shape[0], *[1] * (out.ndim - 2), -1) if last else (x.shape[0], -1, *[1] * (out.ndim - 2))
        return out + moves.reshape(shape)


def _analyse(model: Model) -> tuple[tuple[Layer, ...], dict[str, str]]:
    """The hidden layers, and by name the layers whose units cannot be taken apart, with the reason."""
    net = model.init(random.key(0))
    like = next(iter(net.params.values()))
    with _Cut(net) as cut:
        _pass(model, net, zero_input(model, like), 1)
    reached: dict[str, dict[str, Tensor]] = {}  # layer -> what its units reach -> [units, features] bool
    for name, constant in cut.constants.items():
        units = constant.shape[-1 if cut.layers[name][1] else 1]
        parts: dict[str, list[Tensor]] = {}
        for first in range(0, units, _CHUNK):
            count = min(_CHUNK, units - first)
            cut.moved, cut.inputs = (name, first, count), {}
            with cut:
                logits = _pass(model, net, zero_input(model, like), 1 + 2 * count)
            for key, x in {**cut.inputs, "logits": logits[:, None]}.items():
                moved = ((x[1:] - x[:1]).abs() > 1e-4).any(1)
                parts.setdefault(key, []).append(moved[:count] | moved[count:])
        reached[name] = {key: torch.cat(part) for key, part in parts.items() if any(bool(one.any()) for one in part)}
    owners: dict[str, Tensor] = {}
    for targets in reached.values():
        for key, moved in targets.items():
            owners[key] = owners.get(key, 0) + moved.any(0).long()
    found, why_not = [], {}
    for name, targets in reached.items():
        if not targets.keys() & (cut.layers.keys() | cut.refused.keys()):
            continue  # the last layer
        label = name.rpartition(".")[0] or name
        try:
            found.append(_layer(label, name, targets, owners, cut))
        except _NotApartError as error:
            why_not[label] = str(error)
    return tuple(found), why_not


def _pass(model: Model, net: ModelState, x: Tensor, n: int) -> Tensor:
    ones = torch.ones(n, dtype=torch.bool)
    rows = x.expand(n, *x.shape[1:])
    return model.apply(net.params, net.buffers, rows, train=False, valid=ones, task=ones.long() - 1)[0]


class _NotApartError(Exception):
    """Says why the units of a layer cannot be taken apart."""


def _layer(label: str, name: str, targets: dict[str, Tensor], owners: dict[str, Tensor], cut: _Cut) -> Layer:
    if name in cut.refused:
        raise _NotApartError(cut.refused[name])
    for key in targets:
        if key in cut.refused:
            raise _NotApartError(f"they lead to {key!r}, and {cut.refused[key]}")
    if "logits" in targets:
        raise _NotApartError("they reach the logits past the layers that they lead to")
    feeds, norms = [], []
    units = next(iter(targets.values())).shape[0]
    for key, moved in targets.items():
        if bool((owners[key][moved.any(0)] > 1).any()) and key in cut.layers:
            raise _NotApartError(f"they are added to those of another layer before {key!r}, as in a residual connection")
        features = _regular(moved)
        if features is None:
            raise _NotApartError(f"{key!r} is not fed by them one by one: something else than a layer mixes them")
        if key in cut.layers:
            feeds.append(Feed(key, cut.layers[key][0], features))
        elif bool((owners[key][moved.any(0)] == 1).all()):
            norms.append(dataclasses.replace(cut.norms[key], features=features))
    return Layer(label, name, cut.layers[name][0], units, tuple(norms), tuple(feeds))


def _regular(moved: Tensor) -> Features | None:
    """Where units are among features, from which unit moves which, [units, features] bool; None if in no regular way."""
    units = moved.shape[0]
    own = moved.any(0).nonzero().flatten().tolist()
    start, count = own[0], len(own)
    if own[-1] != start + count - 1 or bool((moved.sum(0) > 1).any()) or count % units:
        return None
    unit_of = moved[:, start : start + count].long().argmax(0)
    positions = int((unit_of != unit_of[0]).long().argmax()) if units > 1 else count
    features = Features(start, count // (units * positions) if count % (units * positions) == 0 else 0, units, positions)
    if features.copies == 0:
        return None
    wanted = torch.arange(units).repeat_interleave(positions).repeat(features.copies)
    return features if torch.equal(unit_of, wanted) else None
