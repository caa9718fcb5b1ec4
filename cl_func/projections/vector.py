"""A tree of gradients as one vector [P]: its leaves flattened, one after the other in leaf order."""

from __future__ import annotations

import torch
from torch import Tensor

from cl_func import tree
from cl_func.optim.hyperparameters import working_dtype
from cl_func.tree import PyTree


def to_vector(grads: PyTree) -> Tensor:
    """All leaves in one vector [P], float32 or the wider dtype of a leaf."""
    dtype = working_dtype("grads", grads)
    return torch.cat([leaf.reshape(-1).to(dtype) for leaf in tree.leaves(grads)])


def from_vector(vector: Tensor, like: PyTree) -> PyTree:
    """The inverse: a tree of the shapes and dtypes of `like`, cut from a vector [P]."""
    leaves, structure = tree.flatten(like)
    parts = vector.split([leaf.numel() for leaf in leaves])
    return tree.unflatten(structure, [p.reshape(leaf.shape).to(leaf.dtype) for p, leaf in zip(parts, leaves, strict=True)])
