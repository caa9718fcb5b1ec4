"""A functional view of any `torch.nn.Module`: its tensors go in and come out, and nothing else changes.

    outputs, buffers' = pure(factory).apply(params, buffers, *args, method=, train=, valid=)

`init` builds the module with torch's generator seeded from the key and takes its tensors; `apply` calls it, or a method of it,
through `torch.func.functional_call` on templates without memory (their tensors are on the meta device), one in train and one in
eval mode, so that no call ever changes a mode, a weight or a statistic. Batch normalisation and layers that draw are replaced
(`replace.py`); a trial call finds whatever else draws, and refuses it (`trial.py`). `from_module` builds on this.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from cl_func import checks, random, signatures, torch_private
from cl_func.models import fresh
from cl_func.models.batch_norm import BatchNorm
from cl_func.models.initialisation import Initialisation, record
from cl_func.models.keyed import KeyedLayer
from cl_func.models.model import Fresh, ModelState
from cl_func.models.replace import Replacements, check_replacements, replaced
from cl_func.models.seeding import seeded
from cl_func.models.trial import Trial
from cl_func.tree import describe


class PureApply(Protocol):
    """The call of a module, or of a method of it."""

    def __call__(
        self,
        params: dict[str, Tensor],
        buffers: dict[str, Tensor],
        /,
        *args: Any,
        method: str = "forward",
        train: bool = False,
        valid: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Any, dict[str, Tensor]]: ...


@dataclasses.dataclass(frozen=True)
class PureModule:
    """The functions of a module made by `pure`; it holds no weights.

    init: `(key) -> ModelState`, key () int64.
    apply: `(params, buffers, *args, method="forward", train=False, valid=None, **kwargs) -> (outputs, buffers)`, the method of that
        name on `args` and `kwargs`; see `pure`.
    fresh: `(key, params) -> params`, new parameters of the distribution of `init`, as that of a `Model`.
    """

    init: Callable[[Tensor], ModelState]
    apply: PureApply
    fresh: Fresh

    def __post_init__(self) -> None:
        signatures.function("init", self.init, 1, "a function from a key to a ModelState")
        signatures.function("apply", self.apply, 3, "a function (params, buffers, *args, ...) -> (outputs, buffers)")
        signatures.function("fresh", self.fresh, 2, "a function (key, params) -> params")


def pure(factory: Callable[[], nn.Module], *, replace: Replacements | None = None) -> PureModule:
    """The functions of the modules that `factory()` builds, of any inputs and outputs: for what has no logits, such as a VAE.

    `apply(params, buffers, *args, method="encode", train=True)` calls `module.encode(*args)` in train mode and returns what that
    returns and the buffers; with train=False the buffers are returned as they are, the same object. What the layers do is what it
    is in `from_module`: dropout draws from the keys in the buffers, and batch norm returns its statistics. `valid` [n] bool marks
    the rows that are no padding, for batch norm; all other keywords are the method's.

    factory, replace: as in `from_module`; for draws of its own a module calls a `KeyedLayer` that it holds.

    Raises what `from_module` raises for the factory; from `apply`, TypeError or ValueError for a method that the module does not
    have, tensors of another module and arguments that it cannot take, and ValueError, at the first call of a method, for a layer
    that draws from a generator.

    >>> coder = pure(lambda: nn.Bilinear(2, 3, 4))
    >>> net = coder.init(random.key(0))
    >>> coder.apply(net.params, net.buffers, torch.ones(5, 2), torch.ones(5, 3))[0].shape
    torch.Size([5, 4])
    """
    module = Templates(factory, check_replacements(replace))
    return PureModule(partial(init_module, module), partial(_apply, module), partial(fresh_params, module))


class Templates:
    """What the functions made from one factory share. Pickled by the arguments of its class alone."""

    def __init__(self, factory: Callable[[], nn.Module], replace: Replacements | None = None) -> None:
        self.factory, self.replace = factory, replace or {}
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
        self.trials: dict[str, Trial] = {}
        self.initialisation: Initialisation | None = None  # recorded when it is first asked for
        self.lock = threading.RLock()  # functional_call puts the tensors into the template while it runs

    def __reduce__(self) -> tuple[Any, ...]:
        return Templates, (self.factory, self.replace)

    def build(self, key: Tensor) -> nn.Module:
        """A new module with its layers replaced and its weights drawn from a key."""
        with seeded(key):
            return replaced(_made(self.factory), self.replace)

    def named(self, params: Any, buffers: Any, valid: Tensor | None) -> dict[str, Tensor]:
        """The tensors of a call by their names in the module, after checks of them."""
        checks.instance("params", params, dict, "the tensors of a model by name")
        checks.instance("buffers", buffers, dict, "the tensors of a model by name")
        named = {**params, **buffers}
        if named.keys() != self.names:
            wrong = sorted(map(str, named.keys() ^ self.names))[0]
            raise ValueError(
                f"params, buffers: {wrong!r} is {'missing' if wrong in self.names else 'not a tensor of this model'}; "
                "pass the params and buffers of a state made by this model's init."
            )
        for name in self.maybe_written:
            named[name] = named[name].clone()  # the module may write into it, and it belongs to the caller
        if valid is not None:
            named.update(dict.fromkeys(self.valids, valid))
        return named

    def call(
        self, template: nn.Module, named: dict[str, Tensor], args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The outputs of a template with some tensors in place of its own; `named` then holds what it assigned to its buffers."""
        with contextlib.nullcontext() if torch.compiler.is_compiling() else self.lock:  # dynamo cannot enter a lock
            return torch.func.functional_call(template, named, args, kwargs, tie_weights=self.tied)

    def call_with(
        self,
        function: Callable[..., Any],
        template: nn.Module,
        named: dict[str, Tensor],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """The same for a function of the module, `function(template, *args, **kwargs)`."""
        within = {f"module.{name}": value for name, value in named.items()}
        out = self.call(_Called(template, function), within, args, kwargs)
        named.update({name: within[f"module.{name}"] for name in named})
        return out


class _Called(nn.Module):
    """A module whose forward pass is a function of another."""

    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.module, self.function = module, function
        self.training = module.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self.module, *args, **kwargs)


def refused(error: RuntimeError, name: str, what: str) -> ValueError:
    """The ValueError for inputs that a module cannot take, to be raised; other errors than torch's own are raised as they are."""
    if type(error) is not RuntimeError or torch_private.in_transform():
        raise error
    reason = str(error).partition("\n")[0]
    return ValueError(f"{name}: the module cannot take {what} with these params: {reason}")


def init_module(module: Templates, key: Tensor) -> ModelState:
    """New tensors from a key: parameters, and buffers with frozen parameters and the keys of layers that draw."""
    built = module.build(key)
    params: dict[str, Tensor] = {}
    buffers: dict[str, Tensor] = {}
    for name, value in (*built.named_parameters(), *built.named_buffers()):
        group = params if isinstance(value, nn.Parameter) and value.requires_grad else buffers
        group[name] = value.detach().to(key.device, copy=True)
    buffers.update({name: random.fold_in(key, i) for i, name in enumerate(module.keys)})
    return ModelState(params=params, buffers=buffers)


def fresh_params(
    module: Templates, key: Tensor, params: dict[str, Tensor], rows: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """New parameters like `params` from a key, () int64, of the distribution that `init_module` draws from; see `fresh_rows`."""
    with module.lock:
        if module.initialisation is None:
            module.initialisation = record(module.build)
    return fresh.run(module.initialisation, key, params, rows)


def _run(module: nn.Module, /, *args: Any, method: str, **kwargs: Any) -> Any:
    return getattr(module, method)(*args, **kwargs)


def _apply(
    module: Templates,
    params: dict[str, Tensor],
    buffers: dict[str, Tensor],
    /,
    *args: Any,
    method: str = "forward",
    train: bool = False,
    valid: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Any, dict[str, Tensor]]:
    template = module.templates[checks.flag("train", train)]
    if not callable(getattr(template, checks.text("method", method), None)):
        raise ValueError(f"method: {type(template).__name__} has no method {method!r}.")
    if valid is not None:
        checks.tensor("valid", valid, dtype=torch.bool)
    named = module.named(params, buffers, valid)
    function = partial(_run, method=method)
    trial = module.trials.setdefault(method, Trial(module.build, function))
    first = not torch.compiler.is_compiling() and not trial.done.is_set()
    if first:
        trial.run_like(args, kwargs)
    try:
        outputs = module.call_with(function, template, named, args, kwargs)
    except RuntimeError as error:
        raise refused(error, "args", f"{describe(args)}{describe(kwargs) if kwargs else ''}") from error
    if first:
        trial.done.set()
    return outputs, {name: named[name] for name in buffers} if train else buffers


def _made(factory: Callable[[], nn.Module]) -> nn.Module:
    """What the factory makes, after a check that it is a module with weights."""
    if not callable(factory) or isinstance(factory, nn.Module):
        raise TypeError(
            f"factory: expected a function without arguments that builds a module, got {factory!r}; give lambda: MyNet()."
        )
    signatures.function("factory", factory, 0, "a function without arguments that builds a module, such as lambda: MyNet()")
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
