"""Knowledge distillation: stay close to a teacher's softened probabilities (Hinton, Vinyals & Dean 2015).

    L = T^2 * mean_i KL( softmax(t_i / T) || softmax(z_i / T) )

over the classes of a mask. T^2 keeps the size of the gradient independent of the temperature T. The gradient is that of the
cross-entropy between the two; being a divergence, L is 0 exactly where the student agrees with the teacher.

For other targets than class labels each output is held to the teacher's by itself, and the sum over those of the mask is divided by
the number of all outputs, as in the losses for these targets:

    multilabel   L = T^2 * mean_i 1/C sum_c KL( sigmoid(t_ic / T) || sigmoid(z_ic / T) )   as in iCaRL (Rebuffi et al., "iCaRL:
                     incremental classifier and representation learning", CVPR 2017, Algorithm 3), with a temperature
    regression   L = mean_i 1/K sum_k (z_ik - t_ik)^2      (Ba & Caruana, "Do deep nets really need to be deep?", NeurIPS 2014)
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_func import checks
from cl_func.losses.classification import weighted_mean
from cl_func.models import mask_logits
from cl_func.sources.source import Target


def distillation(student: Tensor, teacher: Tensor, classes: Tensor, valid: Tensor, temperature: float | Tensor) -> Tensor:
    """The distillation loss, (), of logits [n, C] on the classes [C] bool (or [n, C]) over the valid [n] rows.

    0, with zero gradient, when no class is in the mask.
    """
    return weighted_mean(divergence(student, teacher, classes, temperature), valid)


def _check(student: Any, teacher: Any, temperature: Any) -> None:
    if not isinstance(student, Tensor) or student.ndim != 2 or not student.is_floating_point():
        raise checks.type_error("student", "floating logits [n, C]", student)
    same = isinstance(teacher, Tensor) and teacher.is_floating_point() and teacher.shape == student.shape
    if not same or teacher.device != student.device:
        raise checks.type_error("student, teacher", "floating logits of one shape on one device", (student, teacher))
    if not isinstance(temperature, Tensor):
        checks.number("temperature", temperature, 0)
    elif temperature.ndim or not temperature.is_floating_point():
        raise checks.type_error("temperature", "a number or a floating tensor of shape ()", temperature)


def divergence(student: Tensor, teacher: Tensor, classes: Tensor, temperature: float | Tensor) -> Tensor:
    """The distillation loss of each row, [n]; arguments as of `distillation`."""
    _check(student, teacher, temperature)
    log_student = torch.log_softmax(mask_logits(student / temperature, classes), dim=-1)
    log_teacher = torch.log_softmax(mask_logits(teacher / temperature, classes), dim=-1)
    return torch.where(classes, log_teacher.exp() * (log_teacher - log_student), 0).sum(-1) * temperature**2


def distances(student: Tensor, teacher: Tensor, known: Tensor, temperature: float | Tensor, target: Target) -> Tensor:
    """How far the student is from the teacher on each row, [n], by the outputs [n, K] in the mask `known` [K] bool.

    The equations are above: for "class" the softened probabilities of the classes, as by `divergence`; for "multilabel" those of
    each label; for "regression" the values, without a temperature.
    """
    if target == "class":
        return divergence(student, teacher, known, temperature)
    _check(student, teacher, temperature)
    if target == "regression":
        apart = (student - teacher).square()
    else:
        s, t = student / temperature, teacher / temperature
        yes = t.sigmoid() * (F.logsigmoid(t) - F.logsigmoid(s))
        apart = (yes + (-t).sigmoid() * (F.logsigmoid(-t) - F.logsigmoid(-s))) * temperature**2
    return torch.where(known, apart, 0).mean(-1)
