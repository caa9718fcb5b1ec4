"""How the hidden units of a model are found: by trial, from its forward pass alone, so for a model of any kind.

Every linear layer and convolution is made to give constants, whatever it is given. One of its units is moved, up in one row and
down in another, and one sees which inputs of which other layers move: those features are the unit's. Norms, which look at several
units at once, are passed by in the trial; what they multiply is theirs. Parameters of neither, such as the gain of a branch that
begins at 1e-6 (LayerScale) or 0 (ReZero), are about 1 in it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cl_func import random
from cl_func.models.model import Model, ModelState, zero_input
from cl_func.plasticity.layers import Features, Feed, Layer, Norm

CONVOLUTIONS = {F.conv1d, F.conv2d, F.conv3d}
_TRANSPOSED = {F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d}
_NORMS = {F.layer_norm, F.rms_norm, F.batch_norm, F.group_norm, F.instance_norm}
_CHUNK = 64  # units that are moved in one pass
_BY = 3.0  # how far


def layer_arguments(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
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


def by_position(x: Tensor, last: bool) -> Tensor:
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
        self.used: dict[str, int] = {}  # how many layers and norms have a bias, a scale or a statistic of this name
        self.moved: tuple[str, int, int] | None = None  # the weight of a layer, and which of its units move
        self.inputs: dict[str, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.linear or func in CONVOLUTIONS or func in _TRANSPOSED:
            given = layer_arguments(func, args, kwargs)
            name = self.names.get(id(given["weight"]))
            if name in self.trained:
                assert name is not None
                if self.moved is None:
                    self.enter(name, given, func, args, kwargs)
                return self.give(name, given["input"], func is F.linear)
            # A frozen layer, or one whose weight is computed, such as that of a cosine head.
            key = name or f"layer {sum(1 for k in self.inputs if k.startswith('layer '))} of computed weights"
            self.refused.setdefault(key, "it is frozen" if name else "its weight is computed in the forward pass")
            self.inputs[key] = by_position(given["input"], func is F.linear)
        elif func in _NORMS:
            given = layer_arguments(func, args, kwargs)
            axis_last = func in (F.layer_norm, F.rms_norm)
            key = f"norm {sum(1 for k in self.inputs if k.startswith('norm'))}"
            self.inputs[key] = by_position(given["input"], axis_last)
            if self.moved is None:
                self.norms[key] = self.norm(given)
            return given["input"]
        return func(*args, **kwargs)

    def enter(self, name: str, given: dict[str, Any], func: Any, args: Any, kwargs: Any) -> None:
        if name in self.layers:
            self.refused[name] = "it runs twice in one forward pass"
        elif func in _TRANSPOSED:
            self.refused[name] = "it is a transposed convolution"
        elif func in CONVOLUTIONS and given["weight"].shape[1] != given["input"].shape[1]:
            self.refused[name] = "it is a grouped convolution"
        self.layers[name] = (self.names.get(id(given["bias"])), func is F.linear)
        self.count(self.layers[name][0])
        out = func(*args, **kwargs)
        noise = random.uniform(random.fold_in(random.key(0), len(self.constants)), tuple(out.shape[1:]))
        self.constants[name] = (2 * noise - 1)[None].to(out.dtype)

    def with_gains(self, net: ModelState) -> ModelState:
        """The model's state with a number in [0.5, 1.5] for each parameter that is of no layer and no norm."""
        of_norms = {name for norm in self.norms.values() for name in norm.params}
        known = {*self.layers, *(bias for bias, _ in self.layers.values()), *of_norms}
        params = {
            name: value if name in known else (0.5 + random.uniform(random.fold_in(random.key(1), i), tuple(value.shape))).to(value)
            for i, (name, value) in enumerate(net.params.items())
        }
        self.names.update({id(value): name for name, value in params.items()})
        return ModelState(params=params, buffers=net.buffers)

    def count(self, *names: str | None) -> None:
        for name in names:
            if name is not None:
                self.used[name] = self.used.get(name, 0) + 1

    def norm(self, given: dict[str, Any]) -> Norm:
        found = {part: self.names.get(id(given.get(part))) for part in ("weight", "bias", "running_mean", "running_var")}
        params = tuple(name for part in ("weight", "bias") if (name := found[part]) in self.trained and name is not None)
        firsts = ((found["running_mean"], 0.0), (found["running_var"], 1.0))
        self.count(*found.values())
        return Norm(params, tuple((name, value) for name, value in firsts if name is not None), Features(0, 1, 1, 1))

    def give(self, name: str, x: Tensor, last: bool) -> Tensor:
        self.inputs[name] = by_position(x, last)
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


def analyse(model: Model) -> tuple[tuple[Layer, ...], dict[str, str], tuple[str, ...]]:
    """The hidden layers, by name those whose units cannot be taken apart, with the reason, and the last layers."""
    net = model.init(random.key(0))
    like = next(iter(net.params.values()))
    with _Cut(net) as cut:
        _pass(model, net, zero_input(model, like), 1)
    net = cut.with_gains(net)
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
    found, why_not, last = [], {}, []
    for name, targets in reached.items():
        label = name.rpartition(".")[0] or name
        if not targets.keys() & (cut.layers.keys() | cut.refused.keys()):
            if "logits" in targets:
                last.append(label)
            else:
                why_not[label] = "moving them changes nothing that comes after them"
            continue
        try:
            found.append(_layer(label, name, targets, owners, cut))
        except _NotApartError as error:
            why_not[label] = str(error)
    return tuple(found), why_not, tuple(last)


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
    bias = cut.layers[name][0]
    if bias is not None and cut.used[bias] > 1:
        raise _NotApartError(f"their bias, {bias!r}, is that of another layer too")
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
            norm = cut.norms[key]
            shared = next((own for own in (*norm.params, *(s for s, _ in norm.statistics)) if cut.used[own] > 1), None)
            if shared is not None:
                raise _NotApartError(f"they go through a norm that is used twice, {shared!r}")
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
