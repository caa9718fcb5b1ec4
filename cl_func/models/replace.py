"""The layers that are replaced to make a module a pure function, and those that must be refused.

Batch normalisation becomes `BatchNorm`, and layers that draw from torch's generator become keyed layers, wherever they occur. Those
of other libraries are recognised by name, so that these need not be installed; the user may name further kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cl_func import checks
from cl_func.models.batch_norm import BatchNorm, BatchNormAct
from cl_func.models.keyed import AlphaDropout, Dropout, DropPath, RReLU
from cl_func.torch_private import BatchNormBase, DropoutBase, InstanceNormBase, is_eager_cpu
from cl_func.tree import describe

Replacements = Mapping[type[nn.Module], Callable[[Any], nn.Module]]

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_KEYED: Replacements = {
    nn.Dropout: lambda layer: Dropout(layer.p),
    nn.Dropout1d: lambda layer: Dropout(layer.p, channels=True),
    nn.Dropout2d: lambda layer: Dropout(layer.p, channels=True),
    nn.Dropout3d: lambda layer: Dropout(layer.p, channels=True),
    nn.AlphaDropout: lambda layer: AlphaDropout(layer.p),
    nn.FeatureAlphaDropout: lambda layer: AlphaDropout(layer.p, channels=True),
    nn.RReLU: lambda layer: RReLU(layer.lower, layer.upper),
}


def _timm(layer: Any) -> nn.Module:
    return DropPath(layer.drop_prob or 0.0, scale=layer.scale_by_keep)


def _timm_norm(layer: Any) -> nn.Module:
    made = BatchNormAct.like(layer)
    made.drop, made.act = layer.drop, layer.act
    return made


_PURE_BY_NAME: dict[str, Callable[[Any], nn.Module]] = {
    "torchvision.ops.stochastic_depth.StochasticDepth": lambda layer: DropPath(layer.p, layer.mode),
    "timm.layers.drop.DropPath": _timm,
    "timm.models.layers.drop.DropPath": _timm,
    "timm.layers.norm_act.BatchNormAct2d": _timm_norm,
}


def check_replacements(replace: Any) -> Replacements:
    """A mapping from types of modules to functions, empty for None; TypeError otherwise."""
    if replace is None:
        return {}
    expected = "a dict from types of modules to functions, {Type: lambda layer: NewLayer(layer.p)}"
    kinds = checks.instance("replace", replace, Mapping, expected)
    for kind, make in kinds.items():
        if not isinstance(kind, type) or not issubclass(kind, nn.Module) or not callable(make) or isinstance(make, nn.Module):
            raise checks.type_error("replace", expected, {kind: make})
    return dict(kinds)


def replaced(module: nn.Module, own: Replacements) -> nn.Module:
    """The module with its layers replaced, the user's own kinds first; what the user's functions return is not replaced further.

    Raises ValueError, naming the layer, for one that cannot be made pure.
    """
    done: dict[int, nn.Module] = {}

    def visit(layer: nn.Module, path: str) -> nn.Module:
        if id(layer) in done:
            return done[id(layer)]
        if type(layer) in own:
            new = own[type(layer)](layer)
            if not isinstance(new, nn.Module):
                raise TypeError(f"replace: expected the function of {type(layer).__name__} to give a module, got {describe(new)}.")
            done[id(layer)] = new.train(layer.training)
            return new
        done[id(layer)] = new = _pure(layer, path)
        for name, child in list(new._modules.items()):  # named_children would skip the second name of a shared layer
            if child is not None:
                new._modules[name] = visit(child, f"{path}.{name}" if path else name)
        return new

    return visit(module, "")


def _pure(layer: nn.Module, path: str) -> nn.Module:
    kind = type(layer)
    if isinstance(layer, _BATCH_NORMS) and kind in _BATCH_NORMS:  # no class derived from them
        return BatchNorm.like(layer)
    if isinstance(layer, nn.Embedding) and layer.max_norm is None:
        layer.register_forward_pre_hook(partial(_in_vocabulary, path=path))
        return layer
    pure = _KEYED.get(kind) or _PURE_BY_NAME.get(f"{kind.__module__}.{kind.__qualname__}")
    if pure is not None:
        return pure(layer).train(layer.training)
    draws = "draws from torch's generator in training, which no run owns"
    disturbed = "takes statistics in which padding would count"
    rate = getattr(layer, "dropout", 0)
    if isinstance(layer, DropoutBase):
        problem, mend = draws, "use nn.Dropout, cl_func.models.Dropout as a base, or replace={Type: function}"
    elif isinstance(layer, (nn.RNNBase, nn.MultiheadAttention)) and rate > 0:
        problem, mend = f"has dropout={rate} and {draws}", "set its dropout to 0 and put nn.Dropout layers around it"
    elif isinstance(layer, BatchNormBase):
        problem, mend = disturbed, "use nn.BatchNorm1d/2d/3d itself, or cl_func.models.BatchNorm as a base"
    elif isinstance(layer, (nn.Embedding, nn.EmbeddingBag)) and layer.max_norm is not None:
        problem, mend = "scales its own weights in place at each pass", "set max_norm=None, and scale what it returns"
    elif isinstance(layer, InstanceNormBase) and layer.track_running_stats:
        problem, mend = disturbed, "set track_running_stats=False"
    else:
        return layer
    raise ValueError(f"factory: layer {path or 'the module itself'!r} ({kind.__name__}) {problem}; {mend}.")


def _in_vocabulary(layer: nn.Embedding, given: tuple[Any, ...], *, path: str) -> tuple[Any, ...]:
    """The input of an embedding, with tokens outside of its vocabulary such that they are outside of any.

    Vmapped, torch looks all lanes up in one table, [lanes * vocabulary, features], in which a token that is too large would be one
    of the next lane's.
    """
    if not given or not isinstance(given[0], Tensor) or given[0].dtype not in (torch.int32, torch.int64):
        return given  # which torch refuses itself
    tokens, size = given[0], layer.num_embeddings
    outside = (tokens < 0) | (tokens >= size)
    if is_eager_cpu(tokens) and bool(outside.any()):
        where = f"the layer {path!r}" if path else "the module"
        raise ValueError(
            f"x: the token {int(tokens[outside][0])} is outside of the vocabulary 0..{size - 1} of {where}; "
            "give it a larger one, or replace such tokens."
        )
    return torch.where(outside, torch.iinfo(torch.int32).max, tokens), *given[1:]
