"""The gradient step: the gradient of a loss, gradient transforms in order, then the optimiser."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, contracts, signatures, torch_private, tree
from cl_func.core.kinds import GradientTransform, Loss, Optimizer, S
from cl_func.experiences import Experience
from cl_func.tree import PyTree
from cl_func.tree.structure import changed_leaves


def gradient(loss: Loss, state: S, exp: Any) -> tuple[PyTree, S]:
    """The gradient of a Loss with respect to `state.model.params`, in their structure, and the state that the loss returns."""
    return unchecked_gradient(signatures.loss("loss", loss), state, exp)


def unchecked_gradient(loss: Loss, state: S, exp: Any) -> tuple[PyTree, S]:
    """As `gradient`, for each step of a loss that has been looked at before."""
    params = checks.params(state)
    before, structure = tree.flatten(params)
    try:
        outside = any(leaf.requires_grad for leaf in tree.leaves((state, exp)))
    except AttributeError:
        checks.tensors("state", state)
        checks.tensors("exp", exp)
        raise
    if not before or not torch_private.is_eager_cpu(before[0]) or outside:

        def value_of(params: Any) -> tuple[Tensor, Any]:
            value, after = contracts.loss_output(loss(params, state, exp), state)
            contracts.update_output(after, state, leaves=True, name="loss")
            # Even vmapped or traced, grad marks what was computed from `params` with its own level; nothing else has that level.
            if before and not (value.requires_grad and torch_private.has_gradient_level(value)):
                raise contracts.independent()
            return value, after

        # The state is not an argument of grad, which would wrap each of its leaves, a large memory included.
        try:
            return torch.func.grad(value_of, has_aux=True)(params)
        except RuntimeError:
            _check_differentiable(params)
            raise
    # The same with autograd directly: the wrappers of torch.func cost several times as much as an eager step of a small net.
    with torch.enable_grad():
        try:
            leaves = [leaf.detach().requires_grad_() for leaf in before]
        except RuntimeError:
            _check_differentiable(params)
            raise
        value, after = contracts.loss_output(loss(tree.unflatten(structure, leaves), state, exp), state)
        if not value.requires_grad:
            raise contracts.independent()
        found = torch.autograd.grad(value, leaves, allow_unused=True)
    if all(grad is None for grad in found):  # its gradient leads to other tensors only
        raise contracts.independent()
    grads = [torch.zeros_like(leaf) if grad is None else grad for grad, leaf in zip(found, before, strict=True)]
    try:
        if any(leaf.requires_grad for leaf in changed_leaves(after, state)):
            after = tree.map(torch.detach, after)
    except AttributeError:
        contracts.update_output(after, state, leaves=True, name="loss")
        raise
    return tree.unflatten(structure, grads), after


def _check_differentiable(params: PyTree) -> None:
    """TypeError, naming the first, for parameters that have no gradient."""
    for name, leaf in tree.items(params):
        if not (leaf.is_floating_point() or leaf.is_complex()):
            raise TypeError(
                f"state.model.params: {name!r} is {tree.describe(leaf)}, which has no gradient; give the parameters of "
                "model.init(key), and of a state_dict those of their names: the rest of it are buffers."
            )


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """One gradient step on a minibatch; made by `train_step`."""

    loss: Loss
    optimizer: Optimizer
    transforms: tuple[GradientTransform, ...]

    def __call__(self, state: Any, exp: Experience) -> Any:
        grads, state = unchecked_gradient(self.loss, state, exp)
        return self.apply_gradients(grads, state, exp)[0]

    def apply_gradients(self, grads: PyTree, state: Any, exp: Experience) -> tuple[Any, PyTree]:
        """Transform a gradient and take the optimiser's step: the state after it, and the change of the parameters."""
        for transform in self.transforms:
            grads, state = contracts.transform_output(transform(grads, state, exp), grads, state)
        updates, opt = self.optimizer.update(grads, state.opt, state.model.params)
        params = tree.map(torch.add, state.model.params, updates)
        return state.replace(model=state.model.replace(params=params), opt=opt), updates


def train_step(loss: Loss, optimizer: Optimizer, *transforms: GradientTransform) -> TrainStep:
    """The Update that takes a gradient step on a loss: gradient, gradient transforms in order, optimiser."""
    signatures.loss("loss", loss)
    checks.optimizer("optimizer", optimizer)
    return TrainStep(loss, optimizer, tuple(signatures.transform("transforms", t) for t in transforms))
