"""W + d W + A B in place, where gates are open, as one operation of torch: what a plain gradient step on a weight becomes."""

from __future__ import annotations

import torch
from torch import Tensor


def _add_product(weight: Tensor, gate: Tensor | None, decay: Tensor | None, a: Tensor, b: Tensor) -> None:
    if gate is not None:
        lanes = gate.flatten().tolist()
        if not any(lanes):
            return
        if not all(lanes):  # both factors: 0 times NaN is NaN
            a, b = torch.where(gate, a, 0), torch.where(gate, b, 0)
            decay = None if decay is None else torch.where(gate, decay, 0)
    if decay is not None and any(d != 0.0 for d in decay.flatten().tolist()):
        weight.addcmul_(weight, decay)
    weight, a, b = product_operands(weight, a, b)
    if weight.ndim == 3:
        torch.baddbmm(weight, a, b, out=weight)
    else:
        torch.addmm(weight, a, b, out=weight)


def product_operands(weight: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The operands of W + A B as those of a batch of products with one for each thread, where that can be done.

    A single product is badly split over threads if B has few rows; one product for each thread is not.
    """
    threads = torch.get_num_threads()
    if weight.ndim == 2 and threads > 1 and weight.shape[0] % threads == 0:
        return weight.unflatten(0, (threads, -1)), a.unflatten(0, (threads, -1)), b.expand(threads, *b.shape)
    return weight, a, b


torch.library.define("cl_func::add_product", "(Tensor(a!) weight, Tensor? gate, Tensor? decay, Tensor a, Tensor b) -> ()")
torch.library.impl("cl_func::add_product", "CPU")(_add_product)
torch.library.register_fake("cl_func::add_product")(lambda weight, gate, decay, a, b: None)

ADD_PRODUCT = torch.ops.cl_func.add_product.default
