r"""The curvature of a loss: the top eigenvalue of its Hessian, by power iteration on products of the Hessian with a vector.

    v <- H v / ||H v||,    lambda = v . H v,    H v = grad_w (grad loss(w) . v)

Products with the Hessian need no Hessian (Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 1994). Lambda
tends to the eigenvalue of the largest size, with its sign (as in Yao, Gholami, Keutzer & Mahoney, "PyHessian", 2020). For any v
of length 1 there is an eigenvalue within ||H v - lambda v|| of lambda, so that this residual says how far the iteration has come.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, contracts, random, signatures, tree
from cl_func.checks import positive_int
from cl_func.core import Loss
from cl_func.experiences import Experience
from cl_func.probes.norms import joint_norm
from cl_func.probes.rows import OnRows, apart, on_rows
from cl_func.tree import PyTree

_LOSS, _START = 0x6C6F7373, 0x68657373  # of what the loss draws, and of the vector that the iteration starts from


def hessian_top_eigenvalue(loss: Loss, exp: Experience | None = None, *, iterations: int = 20, n: int | None = None) -> OnRows:
    """The Probe of the eigenvalue of the largest size of a loss's Hessian with respect to the model's parameters.

    It returns "hessian_top_eigenvalue" () and "hessian_residual" (): within the residual of the former there is an eigenvalue.

    loss: a Loss `(params, state, exp) -> (scalar, state)`, twice differentiable. What it does to the state is dropped, and what it
        draws, it draws from keys that no update uses, the same in all iterations.
    exp: the rows to measure on, as one batch; None for those of the experience trained on last. n: only the first so many.
    iterations: products of the Hessian with a vector before the last one, each of about twice the cost of a gradient.

    Raises TypeError or ValueError for other arguments.
    """
    signatures.loss("loss", loss)
    return on_rows(partial(_top, loss=loss, iterations=positive_int("iterations", iterations)), exp, n)


def _top(state: Any, exp: Experience, *, loss: Loss, iterations: int) -> dict[str, Tensor]:
    params, own = checks.params(state), apart(state, _LOSS)

    def value(params: PyTree) -> Tensor:
        return contracts.loss_output(loss(params, own, exp), own)[0]

    # The loss is computed once, and a product is one pass back through its gradient.
    product = torch.func.vjp(torch.func.grad(value), params)[1]
    leaves, structure = tree.flatten(params)
    sizes = [leaf.numel() for leaf in leaves]
    drawn = random.normal(random.fold_in(state.key, _START), sum(sizes)).split(sizes)
    v = _normed(tree.unflatten(structure, [part.reshape(p.shape).to(p.dtype) for part, p in zip(drawn, leaves, strict=True)]))
    for _ in range(iterations):
        v = _normed(product(v)[0])
    image = product(v)[0]
    found = torch.stack([(a * b).sum() for a, b in zip(tree.leaves(v), tree.leaves(image), strict=True)]).sum()
    residual = joint_norm(tree.map(lambda a, b: b - found.to(a.dtype) * a, v, image))
    return {"hessian_top_eigenvalue": found, "hessian_residual": residual}


def _normed(v: PyTree) -> PyTree:
    """The vector with length 1; one of zeros, of a Hessian that maps it to 0, stays as it is."""
    norm = joint_norm(v)
    return tree.map(lambda leaf: leaf / torch.where(norm > 0, norm, 1).to(leaf.dtype), v)
