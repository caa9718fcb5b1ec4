"""The cosine head: logits that depend on the directions of features and class weights, not on their lengths.

    logits[i, c] = scale * <h_i / |h_i|, w_c / |w_c|>

In a linear head the classes trained last have larger weights and biases; here all weights have length 1. `scale` is learnt.
Hou, Pan, Loy, Wang & Lin, "Learning a unified classifier incrementally via rebalancing", CVPR 2019, eq. 4.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_func.checks import positive_int


def cosine_logits(features: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Logits [n, C] of features [n, d], class weights [C, d] and a scale (). A feature or weight of length 0 has the cosine 0."""
    return scale * F.linear(unit(features), unit(weight))


def unit(vectors: Tensor) -> Tensor:
    """Vectors [..., d] scaled to length 1; 0 stays 0, in float16 too, where the bound of `F.normalize` is 0 and 0 becomes NaN."""
    return F.normalize(vectors, dim=-1, eps=max(1e-12, torch.finfo(vectors.dtype).tiny))


class CosineLinear(nn.Module):
    """A last layer in place of `nn.Linear`, for modules that `from_module` takes: [n, d] to logits [n, C].

    `weight` [C, d] is initialised as that of nn.Linear, `scale` () with the value given; there is no bias. At scale 1 a softmax of
    cosines is nearly uniform, and the scale has to grow before much is learnt; with 10 learning starts at the first step.
    Raises TypeError or ValueError for sizes below 1, ValueError for a scale that is not positive and finite.
    """

    def __init__(self, in_features: int, out_features: int, scale: float = 10.0) -> None:
        super().__init__()
        if not 0 < scale < math.inf:
            raise ValueError(f"scale: expected a finite number above 0, got {scale}; give for instance 10.0.")
        self.weight = nn.Parameter(
            torch.empty(positive_int("out_features", out_features), positive_int("in_features", in_features))
        )
        self.scale = nn.Parameter(torch.tensor(float(scale)))
        bound = 1 / math.sqrt(in_features)
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, features: Tensor) -> Tensor:
        """The logits [n, C] of features [n, d]."""
        return cosine_logits(features, self.weight, self.scale)
