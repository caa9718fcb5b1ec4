"""What a layer of hidden units is: the parameters that come into its units, and those that lead out of them.

    in:   row i of the layer's weight, entry i of its bias, and what belongs to unit i in the norms that follow
    out:  in each layer fed by unit i, the columns of the weight for the features that come from it

A unit has one feature behind a ReLU, two behind a CReLU, and as many as there are positions behind a convolution that is flattened.
"""

from __future__ import annotations

import dataclasses

import torch.nn.functional as F
from torch import Tensor


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
