"""Layers that draw from a key of their own, which `from_module` puts in place of those that draw from torch's generator.

The key is a buffer, which every call in train mode advances, so a lane of a vmapped run draws what the single run draws. The new
key is assigned, never written in place: `torch.func.functional_call` returns it.

    Dropout        zero values or channels       Srivastava et al. 2014
    DropPath       leave out a residual branch   Huang et al. 2016, "Deep networks with stochastic depth"
    AlphaDropout   keeps mean and variance       Klambauer et al. 2017, "Self-normalizing neural networks"
    RReLU          a random slope below 0        Xu et al. 2015, "Empirical evaluation of rectified activations"
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_func import checks, random, tree
from cl_func.models.model import ModelState
from cl_func.tree import describe


class KeyedLayer(nn.Module):
    """The base of layers that draw: `draw_key()` gives a key for the functions of `cl_func.random`, another one at each call.

    Call it in train mode only: in eval mode the advanced key is lost.

    >>> class Noise(KeyedLayer):
    ...     def forward(self, x):
    ...         return x + random.normal(self.draw_key(), tuple(x.shape)) if self.training else x
    """

    key: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Not persistent: torch's own layers have no entry in a state_dict either.
        self.register_buffer("key", torch.tensor(0), persistent=False)

    def draw_key(self) -> Tensor:
        """A fresh key, () int64; the layer's own key is advanced."""
        self.key, draw_key = random.split(self.key)
        return draw_key


def _key_names(net: ModelState) -> list[str]:
    return [name for name in getattr(net, "buffers", None) or () if name.rpartition(".")[2] == "key"]


def with_keys(net: ModelState, buffers: dict[str, Tensor]) -> ModelState:
    """The model with the layers' keys of `buffers`, as another pass has advanced them: a key is used only once."""
    keys = {name: buffers[name] for name in _key_names(net)}
    return tree.replace(net, buffers={**net.buffers, **keys}) if keys else net


def aside(net: ModelState, data: int | Tensor) -> ModelState:
    """The model with keys derived from its own by an integer, for a pass whose buffers are dropped."""
    return with_keys(net, {name: random.fold_in(net.buffers[name], data) for name in _key_names(net)})


class Dropout(KeyedLayer):
    """Zeroes each value with probability p in train mode and scales the rest by 1 / (1 - p); the identity in eval mode.

    With `channels=True` whole channels of x [n, C, ...] are dropped, as by nn.Dropout1d/2d/3d. Raises ValueError for p outside
    [0, 1].
    """

    def __init__(self, p: float = 0.5, channels: bool = False) -> None:
        super().__init__()
        self.p, self.channels = checks.number("p", p, 0, 1, ends="[]"), checks.flag("channels", channels)

    def forward(self, x: Tensor) -> Tensor:
        """Drop values (or channels) of x [n, ...]; same shape and dtype."""
        if not self.training or self.p == 0:
            return x
        if self.channels and x.ndim < 3:
            raise ValueError(f"x: dropout of channels expects [n, C, ...] with at least 3 axes, got {describe(x)}; use nn.Dropout.")
        keep = random.bernoulli(self.draw_key(), 1 - self.p, _mask_shape(x, self.channels))
        return torch.where(keep, x / (1 - self.p) if self.p < 1 else x, 0)

    def extra_repr(self) -> str:
        """The hyperparameters, as torch prints them."""
        return f"p={self.p}" + (", channels=True" if self.channels else "")


class DropPath(KeyedLayer):
    """Zeroes whole rows of x [n, ...] with probability p in train mode and scales the rest by 1 / (1 - p); else the identity.

    mode: "row" draws for each row, "batch" once for all of them. scale=False leaves the rest as it is. The same as
    `torchvision.ops.StochasticDepth` and timm's `DropPath`. Raises ValueError for p outside [0, 1] and for another mode.
    """

    def __init__(self, p: float = 0.0, mode: Literal["row", "batch"] = "row", scale: bool = True) -> None:
        super().__init__()
        self.p, self.mode = checks.number("p", p, 0, 1, ends="[]"), checks.choice("mode", mode, "row", "batch")
        self.scale = checks.flag("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        """Drop rows of x [n, ...]; same shape and dtype."""
        if not self.training or self.p == 0:
            return x
        shape = (x.shape[0] if self.mode == "row" else 1, *[1] * (x.ndim - 1))
        keep = random.bernoulli(self.draw_key(), 1 - self.p, shape)
        return torch.where(keep, x / (1 - self.p) if self.scale and self.p < 1 else x, 0)

    def extra_repr(self) -> str:
        """The hyperparameters, as torch prints them."""
        return f"p={self.p}, mode={self.mode!r}" + ("" if self.scale else ", scale=False")


_ALPHA = 1.7580993408473766  # SELU's scale times its alpha: what it tends to far below 0


class AlphaDropout(KeyedLayer):
    """`nn.AlphaDropout`: sets each value with probability p to SELU's lower limit, then restores mean and variance.

        y = a (m x - (1 - m) l) + a l p    with m ~ Bernoulli(1 - p), l = 1.758 and a = ((1 - p) (1 + p l^2))^-1/2

    With `channels=True` one m for each channel of x [n, C, ...], as in nn.FeatureAlphaDropout. Raises ValueError for p outside
    [0, 1].
    """

    def __init__(self, p: float = 0.5, channels: bool = False) -> None:
        super().__init__()
        self.p, self.channels = checks.number("p", p, 0, 1, ends="[]"), checks.flag("channels", channels)

    def forward(self, x: Tensor) -> Tensor:
        """Drop values (or channels) of x [n, ...]; same shape and dtype."""
        if not self.training or self.p == 0:
            return x
        if self.p == 1:
            return torch.zeros_like(x)
        keep = random.bernoulli(self.draw_key(), 1 - self.p, _mask_shape(x, self.channels))
        a = 1 / math.sqrt((1 - self.p) * (1 + self.p * _ALPHA**2))
        return torch.where(keep, a * x, -a * _ALPHA) + a * _ALPHA * self.p

    def extra_repr(self) -> str:
        """The hyperparameters, as torch prints them."""
        return f"p={self.p}" + (", channels=True" if self.channels else "")


class RReLU(KeyedLayer):
    """`nn.RReLU`: values below 0 times a slope drawn uniformly from [lower, upper] in train mode, by its mean in eval mode.

    Raises ValueError unless lower <= upper.
    """

    def __init__(self, lower: float = 1 / 8, upper: float = 1 / 3) -> None:
        super().__init__()
        self.lower, self.upper = checks.number("lower", lower), checks.number("upper", upper)
        if lower > upper:
            raise ValueError(f"lower, upper: expected lower <= upper, got {lower} and {upper}.")

    def forward(self, x: Tensor) -> Tensor:
        """The activations of x, of any shape; same shape and dtype."""
        if not self.training:
            return F.leaky_relu(x, (self.lower + self.upper) / 2)
        slope = self.lower + (self.upper - self.lower) * random.uniform(self.draw_key(), tuple(x.shape))
        return torch.where(x > 0, x, x * slope.to(x.dtype))

    def extra_repr(self) -> str:
        """The hyperparameters, as torch prints them."""
        return f"lower={self.lower}, upper={self.upper}"


def _mask_shape(x: Tensor, channels: bool) -> tuple[int, ...]:
    """One draw for each value of x [n, C, ...], or for each channel."""
    return (*x.shape[:2], *[1] * (x.ndim - 2)) if channels else tuple(x.shape)
