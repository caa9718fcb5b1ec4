"""Any `torch.nn.Module` as a pure Model: the functions of `pure.py`, for a module that maps x [n, ...] to logits [n, C].

Whatever the module's signature is, `forward(module, x) -> logits` adapts it; what it takes is floating, or whole numbers (tokens).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cl_func import checks, signatures, torch_private, user_warnings
from cl_func.checks import positive_int
from cl_func.models.model import Model, input_kind
from cl_func.models.pure import Templates, fresh_params, init_module, refused
from cl_func.models.replace import Replacements, check_replacements
from cl_func.models.trial import Trial
from cl_func.tree import describe

# What torch says of floating indices, as nn.Embedding, F.one_hot and x[index] get them.
_INDICES = re.compile(r"'indices'|used as indices|index tensor|for index\b")


def input_size(shape: Any) -> tuple[int, ...]:
    """Check the shape of one sample and return it as a tuple; TypeError or ValueError naming it otherwise."""
    return checks.sizes("input_shape", shape)


def from_module(
    factory: Callable[[], nn.Module],
    *,
    n_classes: int,
    input_shape: tuple[int, ...] | None = None,
    last_layer: str | None = None,
    replace: Replacements | None = None,
    forward: Callable[[Any, Tensor], Tensor] | None = None,
    input_dtype: torch.dtype = torch.float32,
) -> Model:
    """A Model of the modules that `factory()` builds, called with x [n, ...] and returning logits [n, n_classes].

    The factory must build a new module at each call, with torch's generator as its only randomness. If it is a function of an
    importable file (or a functools.partial of one), the Model can be pickled. Parameters with requires_grad=False are kept among
    the buffers, so nothing trains them. Calls of one model from several threads take turns.

    nn.BatchNorm1d/2d/3d and timm's BatchNormAct2d are replaced by `BatchNorm`; torch's dropouts and nn.RReLU, torchvision's
    StochasticDepth and timm's DropPath by layers that draw from a key in the buffers: `Dropout`, `AlphaDropout`, `RReLU`,
    `DropPath`. Other draws, such as F.dropout in a `forward`, are found by a trial pass on the CPU, here if the input's shape is
    known, else at the first `apply`.

    last_layer: its name, such as "fc" or "4" in an nn.Sequential. Its inputs are the model's `features` (the module's
        output with nn.Identity in its place), for methods that classify by them.
    replace: replacements for further kinds of layers, {Type: function of the layer that gives a module}, such as
        `{Noisy: lambda layer: Noise(layer.std)}` with a Noise derived from `KeyedLayer`.
    forward: a function (module, x) -> logits, for a module with another signature, such as
        `lambda module, x: module(input_ids=x, attention_mask=(x != 0).long()).logits`.
    input_dtype: torch.int64 for a module that takes whole numbers, such as tokens for an nn.Embedding: x is then int64, as in a
        `Dataset` of int64, and nothing else. Otherwise x is floating (uint8 images are scaled to [0, 1] by their experience), and
        memories store it in this dtype.

    The model's `fresh` draws from the distribution that the factory's initialisers draw from, whatever they are; at its first call
    it builds three modules. ValueError for a factory whose initialisation cannot be known, such as one with draws that branch.

    Raises TypeError if the factory is no callable or returns no module; ValueError if it returns modules that share tensors or that
    differ, has no layer `last_layer`, or has a layer that is lazy, that draws from a generator, or whose statistics padding would
    disturb; for logits of another shape, and a module that does not take rows of `input_shape` (a warning where there is a GPU,
    which it may need); and, from `apply`, TypeError for inputs of another kind.

    >>> from cl_func import random
    >>> model = from_module(lambda: nn.Linear(4, 3), n_classes=3)
    >>> model.init(random.key(0))
    ModelState(params={weight: float32[3, 4], bias: float32[3]}, buffers={})
    """
    if forward is not None:
        signatures.function("forward", forward, 2, "a function (module, x) -> logits [n, n_classes]")
    given = (positive_int("n_classes", n_classes), last_layer, forward, input_kind(input_dtype))
    module = _Classifier(factory, check_replacements(replace), *given)
    shape = None if input_shape is None else input_size(input_shape)
    if shape is not None:
        _try_on(module, shape)
    features = None if last_layer is None else partial(_features, module)
    return Model(
        partial(init_module, module),
        partial(_apply, module),
        n_classes,
        shape,
        features,
        partial(fresh_params, module),
        input_dtype,
    )


class _Classifier(Templates):
    """The templates of a module that gives logits, and of the same without its last layer."""

    def __init__(
        self,
        factory: Callable[[], nn.Module],
        replace: Replacements | None,
        n_classes: int,
        last_layer: str | None,
        forward: Callable[[Any, Tensor], Tensor] | None,
        input_dtype: torch.dtype,
    ) -> None:
        super().__init__(factory, replace)
        self.n_classes, self.last_layer, self.forward, self.input_dtype = n_classes, last_layer, forward, input_dtype
        self.trunk = None if last_layer is None else _trunk(self.templates[False], last_layer)
        self.in_trunk = dict(zip(self.valids, self.valids, strict=True))  # names in the trunk -> names in the whole module
        if self.trunk is not None:
            whole = self.templates[False]
            named = [*whole.named_parameters(remove_duplicate=False), *whole.named_buffers(remove_duplicate=False)]
            first: dict[int, str] = {}  # of tied tensors, the first name is the one that the state has
            own = {name: first.setdefault(id(value), name) for name, value in named}
            of_trunk = (*self.trunk.named_parameters(), *self.trunk.named_buffers())
            self.in_trunk.update({name: own[name] for name, _ in of_trunk})
        self.trial = Trial(self.build, forward)
        layers = [(path, layer) for path, layer in self.templates[False].named_modules() if isinstance(layer, nn.RNNBase)]
        self.recurrent = [f"{path}.{name}" if path else name for path, layer in layers for name, _ in layer.named_parameters()]

    def __reduce__(self) -> tuple[Any, ...]:
        return _Classifier, (self.factory, self.replace, self.n_classes, self.last_layer, self.forward, self.input_dtype)


def _apply(
    module: _Classifier,
    params: dict[str, Tensor],
    buffers: dict[str, Tensor],
    x: Tensor,
    *,
    train: bool = False,
    valid: Tensor | None = None,
    task: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    named = _named(module, params, buffers, x, valid)
    first = not torch.compiler.is_compiling() and not module.trial.done.is_set()
    if first:
        module.trial.run(x)
    logits = _call(module, module.templates[bool(train)], named, x)
    _check_logits(module, logits, x.shape[0])
    if first:
        module.trial.done.set()  # also if it could not take the input: a pass on the CPU may be what the module cannot do
    # functional_call has put what the module assigned to its buffers into `named`.
    return logits, {name: named[name] for name in buffers} if train else buffers


def _try_on(module: _Classifier, shape: tuple[int, ...]) -> None:
    """Try the module on rows of a shape: whether it takes them, what it returns, and whether it draws from a generator."""
    trial, n = module.trial, 4
    out, error = trial.run_on_shape(n, shape, module.input_dtype)
    if error is not None:
        n = 64  # some take rows in groups
        out, error = trial.run_on_shape(n, shape, module.input_dtype)
    if error is None:
        _check_logits(module, out, n)
        return
    said = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    if module.input_dtype != torch.int64 and _INDICES.search(str(error)):
        what = (
            f"input_dtype: the module takes whole numbers, such as tokens, not rows of {module.input_dtype}: {said}. Give "
            "input_dtype=torch.int64."
        )
    else:
        what = (
            f"input_shape: the module does not take rows of the shape {list(shape)}, {module.input_dtype}: {said}. Give the shape "
            "of one row; if the module takes more than x, adapt it with forward=lambda module, x: ..."
        )
    if not torch.accelerator.is_available():
        raise ValueError(what) from error
    user_warnings.warn(f"{what} (This was on the processor; if it runs on nothing else, all is well.)")


def _check_logits(module: _Classifier, logits: Any, n: int) -> None:
    """Check what a module has returned for n rows; ValueError if it is no tensor [n, n_classes]."""
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"factory: the module must return logits [n, n_classes], got {_shown(logits)}; take them out of what it "
            "returns with from_module(..., forward=lambda module, x: module(x).logits), say."
        )
    if logits.shape != (n, module.n_classes):
        raise ValueError(
            f"factory: the module must return logits [n, n_classes] = [{n}, {module.n_classes}], "
            f"got {describe(logits)}; give n_classes the size of its last layer, or end it in nn.Linear(..., n_classes)."
        )


def _shown(value: Any) -> str:
    """What a module returned, in words: tensors and containers as dtype[shape], anything else by its class."""
    return describe(value) if isinstance(value, (tuple, list)) or type(value) is dict else type(value).__name__


def _features(
    module: _Classifier,
    params: dict[str, Tensor],
    buffers: dict[str, Tensor],
    x: Tensor,
    *,
    valid: Tensor | None = None,
    task: Tensor | None = None,
) -> Tensor:
    assert module.trunk is not None
    given = _named(module, params, buffers, x, valid)
    named = {name: given[own] for name, own in module.in_trunk.items() if own in given}
    found = _call(module, module.trunk, named, x)
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(x):
        raise ValueError(
            f"last_layer: without its last layer {module.last_layer!r} the module must return features [n, F] with n = {len(x)}, "
            f"got {describe(found)}; name the linear layer that gives the logits."
        )
    return found


def _named(
    module: _Classifier, params: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, valid: Tensor | None
) -> dict[str, Tensor]:
    """The tensors of a call by their names in the module, after checks of its arguments."""
    if not isinstance(x, Tensor) or x.ndim < 2:
        raise checks.type_error("x", "a tensor [n, ...]", x)
    whole = module.input_dtype == torch.int64
    if x.dtype != torch.int64 if whole else not x.is_floating_point():
        raise checks.type_error(
            "x",
            "tokens, an int64 tensor [n, ...], as the model was made with input_dtype=torch.int64"
            if whole
            else "a floating tensor [n, ...], such as x.float(); for tokens make the model with from_module(..., "
            "input_dtype=torch.int64)",
            x,
        )
    if valid is not None:
        checks.tensor("valid", valid, x.shape[:1], torch.bool, like=x)
    return module.named(params, buffers, valid)


def _call(module: _Classifier, template: nn.Module, named: dict[str, Tensor], x: Tensor) -> Any:
    def called(named: dict[str, Tensor]) -> Any:
        if module.forward is not None:
            return module.call_with(module.forward, template, named, (x,), {})
        return module.call(template, named, (x,))

    try:
        if module.recurrent and not template.training and torch_private.in_transform():
            # Torch vmaps a recurrent layer where it takes it apart, and it does so only where it could differentiate it.
            weights = {name: named[name] for name in module.recurrent if name in named}
            return torch.func.vjp(lambda weights: called({**named, **weights}), weights)[0]
        return called(named)
    except IndexError as error:
        if "index out of range in self" not in str(error):  # of an embedding
            raise
        raise ValueError(f"x: {describe(x)} holds a token outside of the vocabulary of the module ({error}).") from error
    except RuntimeError as error:
        raise refused(error, "x", f"{describe(x)} on {x.device}") from error


def _trunk(template: nn.Module, last_layer: str) -> nn.Module:
    """A copy of a template with nn.Identity in place of its last layer."""
    layers = [name for name, _ in template.named_modules() if name]
    if last_layer not in layers:
        leaves = ", ".join(name for name, layer in template.named_modules() if name and not list(layer.children()))
        raise ValueError(
            f"last_layer: the module has no layer {last_layer!r}; its layers are {leaves or 'none: put it into an nn.Sequential'}."
        )
    try:
        without = copy.deepcopy(template)
    except RuntimeError as error:
        raise ValueError(
            f"last_layer: to be run without its layer {last_layer!r} the module must be copied, and torch cannot copy it; of "
            "torch.nn.utils use parametrizations.weight_norm in place of weight_norm, or leave last_layer out."
        ) from error
    parent, _, name = last_layer.rpartition(".")
    without.get_submodule(parent)._modules[name] = nn.Identity()
    return without
