"""Losses `(params, state, exp) -> (scalar, state)` and how they combine."""

from cl_func.losses.classification import cross_entropy, mark_seen, masked_cross_entropy, weighted_mean
from cl_func.losses.combine import replayed, scaled, total, with_replay
from cl_func.losses.contrastive import contrast, supervised_contrastive
from cl_func.losses.dark import dark_experience, logit_distance
from cl_func.losses.distil import distillation, divergence
from cl_func.losses.mixing import cutmix, mixup
from cl_func.losses.multilabel import binary_cross_entropy
from cl_func.losses.regression import huber, mean_squared_error
from cl_func.losses.targets import TargetLoss, for_target, row_losses, target_of
from cl_func.models import mask_logits

__all__ = [
    "TargetLoss",
    "binary_cross_entropy",
    "contrast",
    "cross_entropy",
    "cutmix",
    "dark_experience",
    "distillation",
    "divergence",
    "for_target",
    "huber",
    "logit_distance",
    "mark_seen",
    "mask_logits",
    "masked_cross_entropy",
    "mean_squared_error",
    "mixup",
    "replayed",
    "row_losses",
    "scaled",
    "supervised_contrastive",
    "target_of",
    "total",
    "weighted_mean",
    "with_replay",
]
