"""A small convex quadratic program with lower bounds:

    min over v >= lower of   1/2 v'Av + b'v,        A [T, T] positive semidefinite

Mehrotra's predictor-corrector interior-point method ("On the implementation of a primal-dual interior point method", SIAM J.
Optimization 2, 1992). With u = v - lower and c = b + A lower it follows u_i z_i = mu to mu = 0 on

    A u + c = z,    u >= 0,    z >= 0

Every step is two solves with A + diag(z / u), of all lanes at once: 12 steps give 9 digits on random problems of 20 unknowns. (How
many steps an active-set method takes depends on the data, and the slowest lane would hold up the others.)

To the compiler the solver is one operator: unrolled into a thousand small operations it would take a minute to compile.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cl_func.compiler.operators import opaque

STEPS = 25
CONVERGED = 1e-20  # the mean u_i z_i, in the scaled problem, below which float64 has no more digits to gain


def solve(A: Tensor, b: Tensor, lower: Tensor) -> Tensor:
    """The minimiser v [T] of 1/2 v'Av + b'v over v >= lower, () or [T]; float64. It cannot be differentiated.

    A may be singular: v is then one of several, and A v is the same for all of them. For a row of zeros in A and b, v is any
    number of at least `lower`. A and b may be float32: A is shifted by a few of its rounding errors so that it is not indefinite.
    """
    shift = A.new_full((), A.shape[-1] * torch.finfo(A.dtype).eps, dtype=torch.float64)
    return _lower_bounded_qp(A.double(), b.double(), lower.double().expand(b.shape), shift)


@opaque("A, b, lower, shift", like=lambda A, b, lower, shift: torch.empty_like(b), batched=True)
def _lower_bounded_qp(A: Tensor, b: Tensor, lower: Tensor, shift: Tensor) -> Tensor:
    """The minimisers of a batch of problems: A [..., T, T], b and lower [..., T]."""
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    diagonal = torch.diagonal(A, dim1=-2, dim2=-1)
    empty = diagonal <= 0
    scale = torch.where(empty, 1, diagonal).sqrt()
    # In units in which A has a diagonal of ones and the largest element of c is 1, one starting point serves all problems.
    c = (b + _times(A, lower)) / scale
    unit = c.abs().amax(-1, keepdim=True)
    unit = torch.where(unit > 0, unit, 1)
    c = c / unit
    A = A / scale[..., :, None] / scale[..., None, :] + (empty[..., None] + shift[..., None, None]) * eye
    u, z = torch.ones_like(c), torch.ones_like(c)
    for _ in range(STEPS):
        mu = (u * z).mean(-1, keepdim=True)
        unfinished = mu > CONVERGED
        if A.device.type == "cpu" and not bool(
            unfinished.any()
        ):  # on other devices, waiting for the value costs more than the steps
            break
        du, dz = _step(A, c, u, z, mu)
        u, z = torch.where(unfinished, u + du, u), torch.where(unfinished, z + dz, z)
    return lower + u * unit / scale


def _times(A: Tensor, v: Tensor) -> Tensor:
    return (A @ v[..., None])[..., 0]


def _step(A: Tensor, c: Tensor, u: Tensor, z: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
    """The changes of the primal u and the dual z, both positive, in one step; mu [..., 1] is the mean of u z."""
    ratio = z / u
    factor = torch.linalg.cholesky_ex(A + torch.diag_embed(ratio))[0]
    slope = _times(A, u) + c

    def direction(target: Tensor) -> tuple[Tensor, Tensor]:
        """The Newton step to A u + c = z, z = target."""
        du = torch.cholesky_solve((target - slope)[..., None], factor)[..., 0]
        return du, target - z - ratio * du

    def longest(du: Tensor, dz: Tensor) -> Tensor:
        """The step length [..., 1] at which the first element of u or z becomes 0."""
        value, change = torch.cat([u, z], -1), torch.cat([du, dz], -1)
        return torch.where(change < 0, -value / change, torch.inf).amin(-1, keepdim=True)

    du, dz = direction(torch.zeros_like(u))
    length = longest(du, dz).clamp(max=1)
    predicted = ((u + length * du) * (z + length * dz)).mean(-1, keepdim=True)
    centre = mu * (predicted / mu) ** 3
    du, dz = direction((centre - du * dz) / u)
    length = (0.99 * longest(du, dz)).clamp(max=1)
    return length * du, length * dz
