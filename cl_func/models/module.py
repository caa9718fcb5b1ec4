"""Any `torch.nn.Module` as a pure Model.

`init` builds the module with torch's generator seeded from the key and takes its tensors; `apply` runs it through
`torch.func.functional_call` on templates without memory (their tensors are on the meta device), one in train and one in eval
mode, so that no call ever changes a mode, a weight or a statistic. Batch normalisation and layers that draw are replaced
(`replace.py`); a trial pass finds whatever else draws, and refuses it (`trial.py`).
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from cl_func import checks, random, torch_private
from cl_func.checks import positive_int
from cl_func.models.batch_norm import BatchNorm
from cl_func.models.keyed import KeyedLayer
from cl_func.models.model import Model, ModelState
from cl_func.models.replace import Replacements, check_replacements, replaced
from cl_func.models.seeding import seeded
from cl_func.models.trial import Trial
from cl_func.tree import describe


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
) -> Model:
    """A Model of the modules that `factory()` builds, called with x [n, ...] and returning logits [n, n_classes].

    The factory must build a new module at each call, with torch's generator as its only randomness. If it is a function of an
    importable file (or a functools.partial of one), the Model can be pickled. Parameters with requires_grad=False are kept among
    the buffers, so nothing trains them. Calls of one model from several threads take turns.

    nn.BatchNorm1d/2d/3d are replaced by `BatchNorm`; torch's dropouts and nn.RReLU, torchvision's StochasticDepth and timm's
    DropPath by layers that draw from a key in the buffers: `Dropout`, `AlphaDropout`, `RReLU`, `DropPath`. Other draws, such as
    F.dropout in a `forward`, are found by a trial pass on the CPU, here if the input's shape is known, else at the first `apply`.

    last_layer: its name, such as "fc" or "4" in an nn.Sequential. Its inputs are the model's `features` (the module's
        output with nn.Identity in its place), for methods that classify by them.
    replace: replacements for further kinds of layers, {Type: function of the layer that gives a module}, such as
        `{Noisy: lambda layer: Noise(layer.std)}` with a Noise derived from `KeyedLayer`.

    Raises TypeError if the factory is no callable or returns no module; ValueError if it returns modules that share tensors or that
    differ, has no layer `last_layer`, or has a layer that is lazy, that draws from a generator, or whose statistics padding would
    disturb; and, from `apply`, ValueError for logits of another shape. Under vmap torch refuses recurrent layers (it has no
    batching rule for them).

    >>> model = from_module(lambda: nn.Linear(4, 3), n_classes=3)
    >>> model.init(random.key(0))
    ModelState(params={weight: float32[3, 4], bias: float32[3]}, buffers={})
    """
    module = _Module(factory, positive_int("n_classes", n_classes), last_layer, check_replacements(replace))
    shape = None if input_shape is None else input_size(input_shape)
    if shape is not None:
        module.trial.run_on_shape(4, shape)
    features = None if last_layer is None else partial(_features, module)
    return Model(partial(_init, module), partial(_apply, module), n_classes, shape, features)


class _Module:
    """What the functions of a Model made from a module share. Pickled by the arguments of `from_module` alone."""

    def __init__(
        self, factory: Callable[[], nn.Module], n_classes: int, last_layer: str | None = None, replace: Replacements | None = None
    ) -> None:
        self.factory, self.n_classes, self.last_layer, self.replace = factory, n_classes, last_layer, replace or {}
        modules = {}
        for train in (True, False):
            with seeded(random.key(0)):
                modules[train] = _made(factory)
        ids = [{id(part) for part in (*m.modules(), *m.parameters(), *m.buffers())} for m in modules.values()]
        if ids[0] & ids[1]:  # must be known before anything is replaced in a module that is the user's own
            raise ValueError(
                "factory: expected a new module at each call, but two calls returned the same one or shared tensors; "
                "build it inside the factory, or return a copy: lambda: copy.deepcopy(module)."
            )
        _check_equal(*modules.values())
        with seeded(random.key(0)):  # functions of `replace` may make tensors
            self.templates = {train: _emptied(replaced(m, self.replace)).train(train) for train, m in modules.items()}
        template = self.templates[True]
        # The pure layers, by the prefix of their tensors' names.
        pure = [(f"{path}." if path else "", m) for path, m in template.named_modules() if isinstance(m, (BatchNorm, KeyedLayer))]
        self.keys = [f"{path}key" for path, layer in pure if isinstance(layer, KeyedLayer)]
        self.valids = [f"{path}valid" for path, layer in pure if isinstance(layer, BatchNorm)]
        assigned = {path + name for path, layer in pure for name, _ in layer.named_buffers(recurse=False)}
        buffers = [name for name, _ in template.named_buffers()]
        self.maybe_written = [name for name in buffers if name not in assigned]
        self.names = {name for name, _ in template.named_parameters()}.union(buffers)
        tensors = (template.named_parameters, template.named_buffers)
        self.tied = any(len(list(named())) != len(list(named(remove_duplicate=False))) for named in tensors)
        self.trunk = None if last_layer is None else _trunk(self.templates[False], last_layer)
        in_trunk = [] if self.trunk is None else [*self.trunk.named_parameters(), *self.trunk.named_buffers()]
        self.in_trunk = {name for name, _ in in_trunk}.union(self.valids)
        self.trial = Trial(partial(_built, factory, self.replace))
        self.lock = threading.RLock()  # functional_call puts the tensors into the template while it runs

    def __reduce__(self) -> tuple[Any, ...]:
        return _Module, (self.factory, self.n_classes, self.last_layer, self.replace)


def _init(module: _Module, key: Tensor) -> ModelState:
    built = _built(module.factory, module.replace, key)
    params: dict[str, Tensor] = {}
    buffers: dict[str, Tensor] = {}
    for name, value in (*built.named_parameters(), *built.named_buffers()):
        group = params if isinstance(value, nn.Parameter) and value.requires_grad else buffers
        group[name] = value.detach().to(key.device, copy=True)
    buffers.update({name: random.fold_in(key, i) for i, name in enumerate(module.keys)})
    return ModelState(params=params, buffers=buffers)


def _apply(
    module: _Module,
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
    if not isinstance(logits, Tensor) or logits.shape != (x.shape[0], module.n_classes):
        raise ValueError(
            f"factory: the module must return logits [n, n_classes] = [{x.shape[0]}, {module.n_classes}], "
            f"got {describe(logits)}; give n_classes the size of its last layer, or end it in nn.Linear(..., n_classes)."
        )
    if first:
        module.trial.done.set()  # also if it could not take the input: a pass on the CPU may be what the module cannot do
    # functional_call has put what the module assigned to its buffers into `named`.
    return logits, {name: named[name] for name in buffers} if train else buffers


def _features(
    module: _Module,
    params: dict[str, Tensor],
    buffers: dict[str, Tensor],
    x: Tensor,
    *,
    valid: Tensor | None = None,
    task: Tensor | None = None,
) -> Tensor:
    assert module.trunk is not None
    named = {name: value for name, value in _named(module, params, buffers, x, valid).items() if name in module.in_trunk}
    found = _call(module, module.trunk, named, x)
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(x):
        raise ValueError(
            f"last_layer: without its last layer {module.last_layer!r} the module must return features [n, F] with n = {len(x)}, "
            f"got {describe(found)}; name the linear layer that gives the logits."
        )
    return found


def _named(
    module: _Module, params: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, valid: Tensor | None
) -> dict[str, Tensor]:
    """The tensors of a call by their names in the module, after checks of its arguments."""
    checks.instance("params", params, dict, "the tensors of a model by name")
    checks.instance("buffers", buffers, dict, "the tensors of a model by name")
    if not isinstance(x, Tensor) or x.ndim < 2:
        raise checks.type_error("x", "a tensor [n, ...]", x)
    named = {**params, **buffers}
    if named.keys() != module.names:
        wrong = sorted(named.keys() ^ module.names)[0]
        raise ValueError(
            f"params, buffers: {wrong!r} is {'missing' if wrong in module.names else 'not a tensor of this model'}; "
            "pass the params and buffers of a state made by this model's init."
        )
    if valid is not None:
        checks.tensor("valid", valid, x.shape[:1], torch.bool, like=x)
    for name in module.maybe_written:
        named[name] = named[name].clone()  # the module may write into it, and it belongs to the caller
    if valid is not None:
        named.update(dict.fromkeys(module.valids, valid))
    return named


def _call(module: _Module, template: nn.Module, named: dict[str, Tensor], x: Tensor) -> Any:
    try:
        with contextlib.nullcontext() if torch.compiler.is_compiling() else module.lock:  # dynamo cannot enter a lock
            return torch.func.functional_call(template, named, (x,), tie_weights=module.tied)
    except RuntimeError as error:
        if type(error) is not RuntimeError or torch_private.in_transform():
            raise
        reason = str(error).partition("\n")[0]
        raise ValueError(f"x: the module cannot take {describe(x)} on {x.device} with these params: {reason}") from error


def _built(factory: Callable[[], nn.Module], replace: Replacements, key: Tensor) -> nn.Module:
    """A new module with its layers replaced and its weights drawn from a key."""
    with seeded(key):
        return replaced(_made(factory), replace)


def _made(factory: Callable[[], nn.Module]) -> nn.Module:
    """What the factory makes, after a check that it is a module with weights."""
    if not callable(factory) or isinstance(factory, nn.Module):
        raise TypeError(
            f"factory: expected a function without arguments that builds a module, got {factory!r}; give lambda: MyNet()."
        )
    module = factory()
    if not isinstance(module, nn.Module):
        raise TypeError(f"factory: expected it to return a torch.nn.Module, got {describe(module)}.")
    lazy = [name for name, value in (*module.named_parameters(), *module.named_buffers()) if is_lazy(value)]
    if lazy:
        raise ValueError(f"factory: {lazy[0]!r} belongs to a lazy layer, which has no weights yet; give the layer its input size.")
    return module


def _check_equal(one: nn.Module, other: nn.Module) -> None:
    """ValueError unless two modules made from one seed hold equal tensors."""
    pairs = zip((*one.named_parameters(), *one.named_buffers()), (*other.named_parameters(), *other.named_buffers()), strict=False)
    for (name, a), (_, b) in pairs:
        if a.shape != b.shape or not (a.is_meta or torch.equal(a, b) or torch.allclose(a, b, 0, 0, equal_nan=True)):
            raise ValueError(
                f"factory: two calls from one seed gave two values of {name!r}; give every tensor a value, and let torch's "
                "generator be the only randomness."
            )


def _trunk(template: nn.Module, last_layer: str) -> nn.Module:
    """A copy of a template with nn.Identity in place of its last layer."""
    layers = [name for name, _ in template.named_modules() if name]
    if last_layer not in layers:
        leaves = ", ".join(name for name, layer in template.named_modules() if name and not list(layer.children()))
        raise ValueError(
            f"last_layer: the module has no layer {last_layer!r}; its layers are {leaves or 'none: put it into an nn.Sequential'}."
        )
    without = copy.deepcopy(template)
    parent, _, name = last_layer.rpartition(".")
    without.get_submodule(parent)._modules[name] = nn.Identity()
    return without


def _emptied(module: nn.Module) -> nn.Module:
    """The module with its tensors on the meta device; tied tensors stay tied (Module.to would untie them)."""
    done: dict[int, Tensor] = {}
    for layer in module.modules():
        for name, param in list(layer._parameters.items()):
            if param is not None:
                empty = nn.Parameter(param.detach().to("meta"), requires_grad=param.requires_grad)
                setattr(layer, name, done.setdefault(id(param), empty))
        for name, buffer in list(layer._buffers.items()):
            if buffer is not None:
                setattr(layer, name, done.setdefault(id(buffer), buffer.detach().to("meta")))
    return module
