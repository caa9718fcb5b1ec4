"""Batch normalisation as a pure layer, which `from_module` puts in place of torch's own.

The batch statistics are taken over the valid rows only, so padding is inert (Ioffe & Szegedy 2015):
    mean = sum_i v_i x_i / sum_i v_i,    var = sum_i v_i (x_i - mean)^2 / sum_i v_i      (i over rows and positions)
The running statistics are updated by assigning new tensors, never in place: `torch.func.functional_call` returns those.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_func import checks
from cl_func.torch_private import is_differentiated, stop_gradient
from cl_func.tree import describe


class BatchNorm(nn.Module):
    """`nn.BatchNorm1d/2d/3d` for x [n, C, ...] with inert padding; the same names, hyperparameters and results.

    Before a call, the buffer `valid` [n] bool may be set to mark the rows that are not padding; `Model.apply` does. None means all.
    Without a valid row the output is finite and the running statistics stay as they are. A single valid value per channel has no
    unbiased variance: `running_var` stays as it is. Raises ValueError for shapes that do not fit and, like torch, for a batch whose
    shape has one value per channel.
    """

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    valid: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        super().__init__()
        checks.positive_int("num_features", num_features)
        checks.number("eps", eps, 0)
        if momentum is not None:
            checks.number("momentum", momentum, 0, 1, ends="[]")
        checks.flag("affine", affine)
        checks.flag("track_running_stats", track_running_stats)
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self.register_parameter("weight", nn.Parameter(torch.ones(num_features)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(num_features)) if affine else None)
        self.register_buffer("running_mean", torch.zeros(num_features) if track_running_stats else None)
        self.register_buffer("running_var", torch.ones(num_features) if track_running_stats else None)
        self.register_buffer("num_batches_tracked", torch.tensor(0) if track_running_stats else None)
        self.register_buffer("valid", None, persistent=False)

    @classmethod
    def like(cls, layer: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) -> BatchNorm:
        """The pure layer with the hyperparameters, the weights and the statistics of torch's (the very same tensors)."""
        made = cls(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            setattr(made, name, getattr(layer, name))
        return made.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [n, C, ...] by the batch in train mode or without running statistics, else by the running statistics."""
        if not isinstance(x, Tensor) or x.ndim < 2 or x.shape[1] != self.num_features or not x.is_floating_point():
            raise ValueError(f"x: BatchNorm expects a floating tensor [n, {self.num_features}, ...], got {describe(x)}.")
        if not self.training and self.running_mean is not None:
            return self._by_running_statistics(x)
        if x.numel() == self.num_features:
            raise ValueError(
                f"x: BatchNorm needs more than one value per channel to take statistics of, got {describe(x)}. Use larger "
                "minibatches or experiences, or a normalisation that does not look at the batch (nn.GroupNorm, nn.LayerNorm)."
            )
        valid = x.new_ones(x.shape[0], dtype=torch.bool) if self.valid is None else self.valid
        if valid.shape != x.shape[:1]:
            raise ValueError(
                f"valid: {describe(valid)} does not fit x, {describe(x)}: the module has merged or split the row axis before this "
                "BatchNorm, so it cannot tell which values are padding. Keep rows on the first axis."
            )
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        n, channels, positions = x.shape[0], x.shape[1], math.prod(x.shape[2:])
        each = (channels, *[1] * (x.ndim - 2))  # the shape of what there is for each channel, beside values [n, C, ...]
        count = valid.sum().to(values.dtype) * positions
        divisor = count.clamp(min=1)
        # Mean and variance take one pass, as E[v] and E[v^2] - E[v]^2. That is accurate for values less the mean of a valid row, of
        # which E[v]^2 <= n var. Sums are over the positions of a row first: the mask then costs nothing.
        # Not argmax: compiled, its index may lie outside where no row is valid (torch 2.13).
        row = torch.where(valid, torch.arange(n, device=x.device), n - 1).amin()
        first = values.index_select(0, row.reshape(1)).reshape(channels, positions)
        shift = stop_gradient(torch.where(valid.any(), first / positions, 0).sum(1))
        values = values - shift.reshape(each)
        mean, square = (
            torch.where(valid[:, None], part.reshape(n, channels, positions).sum(2) / divisor, 0).sum(0)
            for part in (values, values.square())
        )
        var = (square - mean.square()).clamp(min=0)
        if self.training and self.track_running_stats and self.running_mean is not None:
            self._track(stop_gradient(shift + mean), stop_gradient(var), count)
        scale = torch.rsqrt(var + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        offset = -mean * scale
        if self.bias is not None:
            offset = offset + self.bias
        # Kept in the shape of x, so that compiled convolutions find their inputs in the layout that they want.
        normal = values * scale.reshape(each) + offset.reshape(each)
        return normal.to(x.dtype)

    def _by_running_statistics(self, x: Tensor) -> Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        if not (is_differentiated(self.running_mean) or is_differentiated(self.running_var)):
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        # torch's has no derivative with respect to the running statistics, which those of a whole run need
        each = (self.num_features, *[1] * (x.ndim - 2))
        normal = (x - self.running_mean.reshape(each)) * torch.rsqrt(self.running_var + self.eps).reshape(each)
        scaled = normal if self.weight is None else normal * self.weight.reshape(each)
        return (scaled if self.bias is None else scaled + self.bias.reshape(each)).to(x.dtype)

    def _track(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        """Move the running statistics towards those of a batch of `count` values per channel."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked = self.num_batches_tracked + (count > 0)
        # momentum=None: the cumulative average over all batches
        factor = self.momentum if self.momentum is not None else 1.0 / self.num_batches_tracked.clamp(min=1)
        unbiased = var * (count / (count - 1).clamp(min=1))
        for name, old, new, defined in (
            ("running_mean", self.running_mean, mean, count > 0),
            ("running_var", self.running_var, unbiased, count > 1),
        ):
            setattr(self, name, torch.where(defined, old + factor * (new - old), old).to(old.dtype))

    def extra_repr(self) -> str:
        """The hyperparameters, as torch prints them."""
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}"


class BatchNormAct(BatchNorm):
    """Batch norm, then `drop` and `act`, two modules of one's own: timm's BatchNormAct2d, with its names."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """The activations of x [n, C, ...]; same shape and dtype."""
        activated: Tensor = self.act(self.drop(super().forward(x)))
        return activated
