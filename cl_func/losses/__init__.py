"""Losses `(params, state, exp) -> (scalar, state)` and how they combine."""

from cl_func.losses.classification import cross_entropy, mark_seen, masked_cross_entropy, weighted_mean
from cl_func.losses.combine import replayed, scaled, total, with_replay
from cl_func.losses.dark import dark_experience, logit_distance
from cl_func.losses.distil import distillation, divergence
from cl_func.losses.mixing import cutmix, mixup
from cl_func.models import mask_logits

__all__ = [
    "cross_entropy",
    "cutmix",
    "dark_experience",
    "distillation",
    "divergence",
    "logit_distance",
    "mark_seen",
    "mask_logits",
    "masked_cross_entropy",
    "mixup",
    "replayed",
    "scaled",
    "total",
    "weighted_mean",
    "with_replay",
]
