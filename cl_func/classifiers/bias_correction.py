"""The bias correction of BiC (Wu et al., "Large scale incremental learning", CVPR 2019, eq. 4 and 5).

A network trained on many rows of new classes and few of old ones prefers the new ones. Two numbers undo this, fitted on held-out
rows with equally many of each class:

    q_c = alpha o_c + beta if class c is new else o_c,    alpha, beta = argmin mean_i -log softmax(q(x_i))[y_i]

The problem is convex, so it is solved by Newton's method with step halving, where the paper uses gradient descent. On separable
rows it has no finite solution, so decay / 2 ((alpha - 1)^2 + beta^2) is added.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.compiler.operators import opaque
from cl_func.models import mask_logits
from cl_func.optim.hyperparameters import nonnegative
from cl_func.tree import bounded, state

_EXPECTED = "a BiasCorrection made by bias_correction.init"
_NEWTON_STEPS = 20
_FRACTIONS = (1.0, 0.5, 0.25, 0.0625, 0.0)  # of a Newton step, tried at once; 0 if none of them decreases the objective


@state
class BiasCorrection:
    """The slot of the correction; `decay` is a hyperparameter."""

    alpha: Tensor  # () float32, 1 where there is nothing to correct
    beta: Tensor  # () float32, 0 where there is nothing to correct
    new: Tensor  # [C] bool, the classes that are corrected
    decay: Tensor = bounded(partial(nonnegative, example=1e-3, positive=True))  # () float32, above 0


def init(n_classes: int, decay: float = 1e-3, device: torch.device | None = None) -> BiasCorrection:
    """A correction that changes nothing. Raises ValueError for a decay that is not above 0."""
    checks.positive_int("n_classes", n_classes)
    checks.device("device", device)
    value = nonnegative("decay", decay, 1e-3, positive=True)
    return BiasCorrection(
        alpha=torch.tensor(1.0, device=device),
        beta=torch.tensor(0.0, device=device),
        new=torch.zeros(n_classes, dtype=torch.bool, device=device),
        decay=torch.tensor(value, device=device),
    )


def correct(slot: BiasCorrection, logits: Tensor) -> Tensor:
    """The corrected logits [n, C]. Raises TypeError or ValueError for logits of another dtype or number of classes."""
    checks.instance("slot", slot, BiasCorrection, _EXPECTED)
    checks.tensor("logits", logits, logits.shape[:1] + slot.new.shape if isinstance(logits, Tensor) else None, like=slot.new)
    return torch.where(slot.new, slot.alpha * logits + slot.beta, logits)


@opaque("outputs, target, weight, new, decay", like=lambda outputs, target, weight, new, decay: outputs.new_empty(2))
def _solve_bias(outputs: Tensor, target: Tensor, weight: Tensor, new: Tensor, decay: Tensor) -> Tensor:
    """(alpha, beta), [2], for logits and one-hot labels [n, C], weights [n] of the rows, a mask [C] and a decay ()."""
    slope = torch.stack([torch.where(new, outputs, 0), new.to(outputs.dtype).expand_as(outputs)])  # dq/d(alpha, beta) [2, n, C]
    identity = outputs.new_tensor([1.0, 0.0])

    def corrected(points: Tensor) -> Tensor:
        return outputs + torch.tensordot(points - identity, slope, 1)

    def objective(points: Tensor) -> Tensor:  # [k, 2] -> [k]
        cost = -(corrected(points).log_softmax(-1) * target).sum(-1)
        return cost @ weight + decay / 2 * (points - identity).square().sum(-1)

    point = identity
    fractions = outputs.new_tensor(_FRACTIONS)
    for _ in range(_NEWTON_STEPS):
        p = corrected(point).softmax(-1)
        gradient = ((p - target) * slope).sum(-1) @ weight + decay * (point - identity)
        mean = (p * slope).sum(-1)  # [2, n]
        covariance = ((p * slope)[:, None] * slope).sum(-1) - mean[:, None] * mean  # of `slope` under p, [2, 2, n]
        hessian = covariance @ weight + decay * torch.eye(2, dtype=decay.dtype, device=decay.device)
        candidates = point - fractions[:, None] * torch.linalg.solve(hessian, gradient)
        point = candidates[objective(candidates).argmin()]
    return point.clone()


def fit(slot: BiasCorrection, logits: Tensor, labels: Tensor, valid: Tensor, old: Tensor, new: Tensor) -> BiasCorrection:
    """The correction of the `new` [C] bool classes' logits against those of the `old` [C] ones, fitted on logits [n, C].

    labels [n] int64, valid [n] bool: only valid rows count. It changes nothing while there is no old class, no new class, or no
    valid row. Raises TypeError or ValueError for other dtypes and shapes.
    """
    checks.instance("slot", slot, BiasCorrection, _EXPECTED)
    checks.tensor("logits", logits, logits.shape[:1] + slot.new.shape if isinstance(logits, Tensor) else None, like=slot.new)
    checks.tensor("labels", labels, logits.shape[:1], torch.int64, like=logits)
    checks.tensor("valid", valid, logits.shape[:1], torch.bool, like=logits)
    checks.tensor("old", old, slot.new.shape, torch.bool, like=logits)
    checks.tensor("new", new, slot.new.shape, torch.bool, like=logits)
    outputs = mask_logits(logits.double(), old | new)
    target = (labels[:, None] == torch.arange(logits.shape[1], device=labels.device)).to(outputs.dtype)
    weight = valid.to(outputs.dtype) / valid.sum().clamp(min=1)
    alpha, beta = _solve_bias(outputs, target, weight, new, slot.decay.double()).to(slot.alpha.dtype)
    fitted = old.any() & new.any() & valid.any()
    one, zero = torch.ones_like(alpha), torch.zeros_like(beta)
    return tree.replace(slot, alpha=torch.where(fitted, alpha, one), beta=torch.where(fitted, beta, zero), new=new)
