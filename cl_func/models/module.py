"""Any `torch.nn.Module` as a pure Model.

`init` builds the module with torch's generator seeded from the key and takes its tensors; `apply` runs it through
`torch.func.functional_call` on templates without memory (their tensors are on the meta device), one in train and one in eval
mode, so that no call ever changes a mode, a weight or a statistic. Batch normalisation and dropout become the pure layers of
`layers.py`.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from cl_func import checks, random
from cl_func.core import positive
from cl_func.models.layers import BatchNorm, Dropout
from cl_func.models.model import Model, ModelState
from cl_func.tree import describe

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_SEEDING = threading.RLock()
_CHANNEL_DROPOUTS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@contextlib.contextmanager
def seeded(key: Tensor) -> Iterator[None]:
    """Within it, torch's CPU generator starts from the key and new tensors are on the CPU; afterwards all is as it was before.

    There is one generator for all threads, so they take turns. Weights are made on the CPU wherever the key is, so that one key
    gives the same weights on every device. Raises TypeError for a key that is no int64 tensor, ValueError for a batch of keys or a
    traced one.
    """
    if not isinstance(key, Tensor) or key.dtype != torch.int64:
        raise TypeError(f"key: expected an int64 tensor of shape () made by cl.key(seed), got {describe(key)}.")
    try:
        seed = int(key) if key.ndim == 0 and not key.is_meta else None
    except RuntimeError:  # vmap, make_fx and fake tensors refuse to give a value
        seed = None
    if seed is None:
        raise ValueError(
            f"key: a model is initialised from one key with a value, got {describe(key)}, a batch of keys or a traced key; "
            "initialise in a loop: cl.tree.stack([model.init(key) for key in keys])."
        )
    with _SEEDING, torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs too
        yield


def input_size(shape: Any) -> tuple[int, ...]:
    """Check the shape of one sample and return it as a tuple; TypeError or ValueError naming it otherwise."""
    return checks.sizes("input_shape", shape)


def from_module(
    factory: Callable[[], nn.Module], *, n_classes: int, input_shape: tuple[int, ...] | None = None, last_layer: str | None = None
) -> Model:
    """A Model of the modules that `factory()` builds, called with x [n, ...] and returning logits [n, n_classes].

    The factory must build a new module at each call, with torch's generator as its only randomness. If it is a function of an
    importable file (or a functools.partial of one), the Model can be pickled. Parameters with requires_grad=False are kept among
    the buffers, so nothing trains them. nn.BatchNorm1d/2d/3d and nn.Dropout, nn.Dropout1d/2d/3d are replaced by `BatchNorm` and
    `Dropout`. Calls of one model from several threads take turns.

    last_layer: its name, such as "fc" or "4" in an nn.Sequential. What it is given are the model's `features` (the
        module's output with nn.Identity in its place), for methods that classify by them.

    Raises TypeError if the factory is no callable or returns no module; ValueError if it returns modules that share tensors, has no
    layer `last_layer`, or has one that is lazy, that draws from torch's generator in training, or whose statistics padding would
    disturb; and, from `apply`, ValueError for logits of another shape. A draw in the module's own `forward` (`F.dropout`) is not
    seen here; under vmap torch refuses it, and so it does recurrent layers (it has no batching rule for them).

    >>> model = from_module(lambda: nn.Linear(4, 3), n_classes=3)
    >>> model.init(random.key(0))
    ModelState(params={weight: float32[3, 4], bias: float32[3]}, buffers={})
    """
    module = _Module(factory, positive("n_classes", n_classes), last_layer)
    shape = None if input_shape is None else input_size(input_shape)
    return Model(module.init, module.apply, n_classes, shape, None if last_layer is None else module.features)


class _Module:
    """The two functions of a Model made from a module. Pickled by its factory alone."""

    def __init__(self, factory: Callable[[], nn.Module], n_classes: int, last_layer: str | None = None) -> None:
        self.factory, self.n_classes, self.last_layer = factory, n_classes, last_layer
        with seeded(random.key(0)):
            modules = {train: _built(factory) for train in (True, False)}
        parts = [{id(part) for part in (*m.modules(), *m.parameters(), *m.buffers())} for m in modules.values()]
        if parts[0] & parts[1]:  # must be known before anything is replaced in a module that is the user's own
            raise ValueError(
                "factory: expected a new module at each call, but two calls returned the same one or shared tensors; "
                "build it inside the factory, or return a copy: lambda: copy.deepcopy(module)."
            )
        self.templates = {train: _emptied(_purified(m)).train(train) for train, m in modules.items()}
        template = self.templates[True]
        # The pure layers, by the prefix of their tensors' names.
        pure = [(f"{path}." if path else "", m) for path, m in template.named_modules() if isinstance(m, (BatchNorm, Dropout))]
        self.keys = [f"{path}key" for path, layer in pure if isinstance(layer, Dropout)]
        self.valids = [f"{path}valid" for path, layer in pure if isinstance(layer, BatchNorm)]
        moved_by_assignment = {path + name for path, layer in pure for name, _ in layer.named_buffers(recurse=False)}
        buffers = [name for name, _ in template.named_buffers()]
        self.maybe_written = [name for name in buffers if name not in moved_by_assignment]
        self.names = {name for name, _ in template.named_parameters()}.union(buffers)
        tensors = (template.named_parameters, template.named_buffers)
        self.tied = any(len(list(named())) != len(list(named(remove_duplicate=False))) for named in tensors)
        self.trunk = None if last_layer is None else _trunk(self.templates[False], last_layer)
        below = [] if self.trunk is None else [*self.trunk.named_parameters(), *self.trunk.named_buffers()]
        self.in_trunk = {name for name, _ in below}.union(self.valids)
        self.lock = threading.RLock()  # functional_call puts the tensors into the template while it runs

    def __reduce__(self) -> tuple[Any, ...]:
        return _Module, (self.factory, self.n_classes, self.last_layer)

    def init(self, key: Tensor) -> ModelState:
        with seeded(key):
            module = _purified(_built(self.factory))
        params: dict[str, Tensor] = {}
        buffers: dict[str, Tensor] = {}
        for name, value in (*module.named_parameters(), *module.named_buffers()):
            group = params if isinstance(value, nn.Parameter) and value.requires_grad else buffers
            group[name] = value.detach().to(key.device, copy=True)
        buffers.update({name: random.fold_in(key, i) for i, name in enumerate(self.keys)})
        return ModelState(params=params, buffers=buffers)

    def apply(
        self,
        params: dict[str, Tensor],
        buffers: dict[str, Tensor],
        x: Tensor,
        *,
        train: bool = False,
        valid: Tensor | None = None,
        task: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        named = self._named(params, buffers, x, valid)
        logits = self._call(self.templates[bool(train)], named, x)
        if not isinstance(logits, Tensor) or logits.shape != (x.shape[0], self.n_classes):
            raise ValueError(
                f"factory: the module must return logits [n, n_classes] = [{x.shape[0]}, {self.n_classes}], "
                f"got {describe(logits)}; give n_classes the size of its last layer, or end it in nn.Linear(..., n_classes)."
            )
        # functional_call has put what the module assigned to its buffers into `named`.
        return logits, {name: named[name] for name in buffers} if train else buffers

    def features(
        self,
        params: dict[str, Tensor],
        buffers: dict[str, Tensor],
        x: Tensor,
        *,
        valid: Tensor | None = None,
        task: Tensor | None = None,
    ) -> Tensor:
        assert self.trunk is not None
        named = {name: value for name, value in self._named(params, buffers, x, valid).items() if name in self.in_trunk}
        found = self._call(self.trunk, named, x)
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(x):
            raise ValueError(
                f"last_layer: without its last layer {self.last_layer!r} the module must return features [n, F] with n = {len(x)}, "
                f"got {describe(found)}; name the linear layer that gives the logits."
            )
        return found

    def _named(self, params: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, valid: Tensor | None) -> dict[str, Tensor]:
        checks.instance("params", params, dict, "the tensors of a model by name")
        checks.instance("buffers", buffers, dict, "the tensors of a model by name")
        if not isinstance(x, Tensor) or x.ndim < 2:
            raise checks.refuse("x", "a tensor [n, ...]", x)
        named = {**params, **buffers}
        if named.keys() != self.names:
            wrong = sorted(named.keys() ^ self.names)[0]
            raise ValueError(
                f"params, buffers: {wrong!r} is {'missing' if wrong in self.names else 'not a tensor of this model'}; "
                "pass the params and buffers of a state made by this model's init."
            )
        if valid is not None:
            checks.tensor("valid", valid, x.shape[:1], torch.bool, like=x)
        for name in self.maybe_written:
            named[name] = named[name].clone()  # the module may write into it, and it belongs to the caller
        if valid is not None:
            named.update(dict.fromkeys(self.valids, valid))
        return named

    def _call(self, template: nn.Module, named: dict[str, Tensor], x: Tensor) -> Any:
        try:
            with contextlib.nullcontext() if torch.compiler.is_compiling() else self.lock:  # dynamo cannot enter a lock
                return torch.func.functional_call(template, named, (x,), tie_weights=self.tied)
        except RuntimeError as error:
            if type(error) is not RuntimeError or torch._C._functorch.peek_interpreter_stack() is not None:
                raise
            reason = str(error).partition("\n")[0]
            raise ValueError(f"x: the module cannot take {describe(x)} on {x.device} with these params: {reason}") from error


def _built(factory: Callable[[], nn.Module]) -> nn.Module:
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


def _purified(module: nn.Module) -> nn.Module:
    """The module with torch's batch normalisation and dropout replaced by the pure layers, wherever they occur."""
    done: dict[int, nn.Module] = {}

    def visit(layer: nn.Module, path: str) -> nn.Module:
        if id(layer) not in done:
            done[id(layer)] = new = _pure(layer, path)
            for name, child in list(new._modules.items()):  # named_children would skip the second name of a shared layer
                if child is not None:
                    new._modules[name] = visit(child, f"{path}.{name}" if path else name)
        return done[id(layer)]

    return visit(module, "")


def _pure(layer: nn.Module, path: str) -> nn.Module:
    if type(layer) in _BATCH_NORMS:
        return BatchNorm.like(layer)  # type: ignore[arg-type]
    if type(layer) is nn.Dropout or type(layer) in _CHANNEL_DROPOUTS:
        return Dropout(layer.p, channels=type(layer) is not nn.Dropout).train(layer.training)  # type: ignore[arg-type]
    draws = "draws from torch's generator in training, which no run owns"
    disturbed = "takes statistics in which padding would count"
    rate = getattr(layer, "dropout", 0)
    if isinstance(layer, nn.RReLU):
        problem, mend = draws, "use nn.LeakyReLU"
    elif isinstance(layer, _DropoutNd):
        problem, mend = draws, "use nn.Dropout, or cl_func.models.Dropout as a base"
    elif isinstance(layer, (nn.RNNBase, nn.MultiheadAttention)) and rate > 0:
        problem, mend = f"has dropout={rate} and {draws}", "set its dropout to 0 and put nn.Dropout layers around it"
    elif isinstance(layer, _BatchNorm):
        problem, mend = disturbed, "use nn.BatchNorm1d/2d/3d itself, or cl_func.models.BatchNorm as a base"
    elif isinstance(layer, _InstanceNorm) and layer.track_running_stats:
        problem, mend = disturbed, "set track_running_stats=False"
    else:
        return layer
    raise ValueError(f"factory: layer {path or 'the module itself'!r} ({type(layer).__name__}) {problem}; {mend}.")


def _trunk(template: nn.Module, last_layer: str) -> nn.Module:
    """A copy of a template with nn.Identity in the place of its last layer."""
    layers = [name for name, _ in template.named_modules() if name]
    if last_layer not in layers:
        there = ", ".join(name for name, layer in template.named_modules() if name and not list(layer.children()))
        raise ValueError(
            f"last_layer: the module has no layer {last_layer!r}; its layers are {there or 'none: put it into an nn.Sequential'}."
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
