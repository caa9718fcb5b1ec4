"""Gradient transforms `(grads, state, exp) -> (grads, state)`: clipping, and a chain of several.

    by the global norm:   g <- g * min(1, max_norm / (norm + 1e-6)),   norm = sqrt(sum of all squared elements of all gradients)
    by value:             g <- min(max(g, -limit), limit)

Pascanu, Mikolov & Bengio, "On the difficulty of training recurrent neural networks", ICML 2013, algorithm 1; the 1e-6 is
that of torch.nn.utils.clip_grad_norm_.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from cl_func import signatures, tree
from cl_func.core import GradientTransform
from cl_func.optim.hyperparameters import nonnegative_or_path, resolve, working_dtype
from cl_func.tree import PyTree


def clip_by_global_norm(max_norm: float | str) -> GradientTransform:
    """Scale all gradients down together so that their joint L2 norm is at most `max_norm`; below it they pass unchanged.

    max_norm: a number above 0, or the path of a leaf () of the state that holds it, such as "clip.max_norm".
    Raises TypeError or ValueError for other arguments, and, when applied, for a path that leads nowhere.

    >>> grads, _ = clip_by_global_norm(1.0)({"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}, None, None)
    >>> grads
    {'a': tensor([0.6000]), 'b': tensor([0.8000])}
    """
    return partial(_clip_by_global_norm, max_norm=nonnegative_or_path("max_norm", max_norm, 1.0))


def _clip_by_global_norm(grads: PyTree, state: Any, exp: Any, *, max_norm: float | str) -> tuple[PyTree, Any]:
    dtype = working_dtype("grads", grads)
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g.to(dtype)) for g in tree.leaves(grads)]))
    factor = (resolve(state, "max_norm", max_norm, norm) / (norm + 1e-6)).clamp(max=1.0)
    return tree.map(lambda g: (g * factor).to(g.dtype), grads), state


def clip_by_value(limit: float | str) -> GradientTransform:
    """Clip every element of the gradients to [-limit, limit].

    limit: a number above 0, or the path of a leaf () of the state that holds it, such as "clip.limit". Raises as
    `clip_by_global_norm`.

    >>> clip_by_value(1.0)({"a": torch.tensor([-3.0, 0.5])}, None, None)[0]
    {'a': tensor([-1.0000,  0.5000])}
    """
    return partial(_clip_by_value, limit=nonnegative_or_path("limit", limit, 1.0))


def _clip_by_value(grads: PyTree, state: Any, exp: Any, *, limit: float | str) -> tuple[PyTree, Any]:
    like = torch.zeros((), dtype=working_dtype("grads", grads), device=tree.leaves(grads)[0].device)
    bound = resolve(state, "limit", limit, like)
    return tree.map(lambda g: torch.clamp(g, -bound.to(g.dtype), bound.to(g.dtype)), grads), state


def chain(*transforms: GradientTransform) -> GradientTransform:
    """One GradientTransform that applies several from left to right; none at all leaves the gradients as they are.

    >>> both = chain(clip_by_value(1.0), clip_by_global_norm(0.5))
    >>> both({"a": torch.tensor([-3.0])}, None, None)[0]
    {'a': tensor([-0.5000])}
    """
    for transform in transforms:
        signatures.transform("transforms", transform)
    return partial(_chain, transforms=transforms)


def _chain(grads: PyTree, state: Any, exp: Any, *, transforms: tuple[GradientTransform, ...]) -> tuple[PyTree, Any]:
    for transform in transforms:
        grads, state = transform(grads, state, exp)
    return grads, state
