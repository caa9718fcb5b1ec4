"""Keys: of a seed, and children of keys."""

from __future__ import annotations

import torch
from torch import Tensor

from cl_func import checks
from cl_func.random.words import CHILD, CHILD_INVERSE, FEW, FMIX, ROOT, WORD, fmix, int64, mix_word
from cl_func.torch_private import is_eager_cpu
from cl_func.tree import describe


def check_key(key: Tensor) -> None:
    """Refuse what is no key."""
    if not isinstance(key, Tensor) or key.dtype != torch.int64:
        raise TypeError(f"key: expected an int64 tensor of shape () made by cl.key(seed), got {key!r}.")
    if key.is_meta:
        raise ValueError("key: it is on the device meta, which holds no values; make it with cl.key(seed).")
    if key.ndim:
        raise ValueError(f"key: expected shape (), got {list(key.shape)}; for many keys use cl.vmap or torch.func.vmap.")


def check_integer(name: str, value: int | Tensor) -> None:
    """Refuse what is no integer of 64 bits and no tensor of integers."""
    if isinstance(value, Tensor):
        right = not (value.dtype.is_floating_point or value.dtype.is_complex or value.dtype == torch.bool)
    else:
        right = isinstance(value, int) and not isinstance(value, bool)
    if not right:
        raise checks.type_error(name, "an integer or an integer tensor", value)
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{name}: expected an integer of 64 bits, got {value}.")


def key(seed: int, device: torch.device | str | None = None) -> Tensor:
    """The root key of a seed: () int64. Similar seeds give unrelated keys.

    >>> key(0)
    tensor(-4258209101828557696)
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed: expected an int, got {seed!r}.")
    if not -(1 << 63) <= seed < 1 << 64:
        raise ValueError(f"seed: expected an integer of 64 bits, got {seed}.")
    checks.device("device", device)
    unsigned = seed % (1 << 64)
    return fold_in(torch.tensor(ROOT, device=device), int64(unsigned))


def fold_in(key: Tensor, data: int | Tensor) -> Tensor:
    """The child of a key for one integer, () int64: an experience's index, a step, a seed."""
    check_key(key)
    check_integer("data", data)
    if isinstance(data, Tensor) and (data.ndim or data.device != key.device):
        raise ValueError(f"data: expected one integer on {key.device}, got {describe(data)}; for several use random.children.")
    return _child(key, data)


def children(key: Tensor, data: Tensor) -> Tensor:
    """The children of a key for several integers, int64 in the shape of `data`: `fold_in(key, i)` for every i in it."""
    check_key(key)
    if not isinstance(data, Tensor) or data.dtype != torch.int64 or data.device != key.device:
        raise TypeError(f"data: expected an int64 tensor on {key.device}, got {describe(data)}.")
    return _child(key, data)


def _child(key: Tensor, data: int | Tensor) -> Tensor:
    # (data + 1 + key / CHILD) * CHILD = key + (data + 1) * CHILD, written in this form for the reason given in `bits`.
    return fmix((data + 1 + key * CHILD_INVERSE) * CHILD)


def split(key: Tensor, n: int = 2) -> Tensor:
    """n child keys, [n] int64, the i-th being `fold_in(key, i)`; unpack them: `key, draw_key = split(key)`."""
    check_key(key)
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n: expected an integer of at least 1, got {n!r}.")
    if n <= FEW and is_eager_cpu(key):
        first = int(key)
        words = [int64(mix_word((first + i * CHILD) & WORD, (33, 33, 33), FMIX)) for i in range(1, n + 1)]
        return torch.tensor(words, device=key.device)
    return fmix((torch.arange(1, n + 1, device=key.device) + key * CHILD_INVERSE) * CHILD)
