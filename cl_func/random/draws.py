"""Draws from a key: bits, and what is made of them number by number."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cl_func import checks
from cl_func.random.keys import check_integer, check_key
from cl_func.random.words import FEW, WORD, as_normal, as_uniform, few_words, int64, many_words, shift, words_at
from cl_func.torch_private import is_eager_cpu


def sizes(shape: int | Sequence[int]) -> tuple[int, ...]:
    """The sizes of a shape, checked."""
    if not isinstance(shape, (int, tuple, list)):
        raise checks.type_error("shape", "a size or a tuple of sizes", shape)
    dims = (shape,) if isinstance(shape, int) else tuple(shape)
    if any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in dims):
        raise ValueError(f"shape: sizes are integers of at least 0, got {shape!r}.")
    return dims


def check_floating(dtype: torch.dtype) -> None:
    """Refuse a dtype in which nothing is drawn."""
    if dtype is not torch.float32 and dtype is not torch.float64:
        raise TypeError(f"dtype: expected torch.float32 or torch.float64, got {dtype}.")


def check_broadcast(name: str, value: object, dims: tuple[int, ...]) -> None:
    """Refuse a tensor for which there are too few draws."""
    if isinstance(value, Tensor) and (
        value.ndim > len(dims) or any(n not in (1, m) for n, m in zip(value.shape[::-1], dims[::-1], strict=False))
    ):
        raise ValueError(
            f"{name}: its shape {list(value.shape)} does not broadcast to the shape {list(dims)} of the draws; "
            f"for one draw per element pass shape={list(value.shape)}."
        )


def bits(key: Tensor, shape: int | Sequence[int] = ()) -> Tensor:
    """64 random bits per element, int64 of the given shape, in the order of SplitMix64's outputs."""
    check_key(key)
    dims = sizes(shape)
    if is_eager_cpu(key):
        return torch.from_numpy(many_words(key, math.prod(dims)).reshape(dims))
    return words_at(key, torch.arange(1, math.prod(dims) + 1, device=key.device)).reshape(dims)


def row_bits(key: Tensor, shape: tuple[int, ...], rows: Tensor) -> Tensor:
    """`bits(key, shape)[rows]`, for rows [m] int64, without the words of the other rows."""
    check_key(key)
    size = math.prod(shape[1:])
    place = rows.reshape(-1, 1) * size + torch.arange(1, size + 1, device=key.device)
    return words_at(key, place).reshape(-1, *shape[1:])


def uniform(key: Tensor, shape: int | Sequence[int] = (), dtype: torch.dtype = torch.float32) -> Tensor:
    """Uniform draws from [0, 1): multiples of 2^-24 (float32) or 2^-53 (float64)."""
    check_floating(dtype)
    return as_uniform(bits(key, shape), dtype)


def normal(key: Tensor, shape: int | Sequence[int] = (), dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal draws (Box & Muller 1958), one 64-bit word each: 32 bits for the radius, 32 for the angle."""
    check_floating(dtype)
    return as_normal(bits(key, shape), dtype)


def randint(key: Tensor, shape: int | Sequence[int], low: int | Tensor, high: int | Tensor) -> Tensor:
    """Integers uniform over [low, high), int64, with a bias below (high - low) / 2^63. The bounds must broadcast to `shape`.

    With tensor bounds an empty range, which tracing could not see, gives `low`.
    """
    dims = sizes(shape)
    for name, bound in (("low", low), ("high", high)):
        check_integer(name, bound)
        check_broadcast(name, bound, dims)
    if isinstance(low, int) and isinstance(high, int) and not 0 < high - low < 1 << 63:
        raise ValueError(f"high: expected more than low = {low}, by less than 2^63, got {high}.")
    check_key(key)
    if len(dims) == 1 and 0 < dims[0] <= FEW and is_eager_cpu(key) and _is_readable(low) and _is_readable(high):
        starts, ends = (_listed(bound, dims[0]) for bound in (low, high))
        spans = [max(int64((end - start) & WORD), 1) for start, end in zip(starts, ends, strict=True)]
        draws = [(word >> 1) % span + start for word, span, start in zip(few_words(key, dims[0]), spans, starts, strict=True)]
        return torch.tensor(draws, device=key.device)
    span = high - low
    if isinstance(span, Tensor):
        span = span.clamp(min=1)
    return shift(bits(key, shape), 1) % span + low


def _is_readable(bound: int | Tensor) -> bool:
    return isinstance(bound, int) or (bound.dtype == torch.int64 and is_eager_cpu(bound))


def _listed(bound: int | Tensor, n: int) -> list[int]:
    """A bound for each of n draws."""
    if isinstance(bound, int):
        return [bound] * n
    found = bound.tolist()
    return [found] * n if isinstance(found, int) else found * (n // len(found))


def bernoulli(key: Tensor, p: float | Tensor = 0.5, shape: int | Sequence[int] = ()) -> Tensor:
    """Bool draws, True with probability p: a number, or a floating tensor that broadcasts to `shape`."""
    if isinstance(p, Tensor):
        checks.tensor("p", p, like=key)
    elif not isinstance(p, float) or not 0 <= p <= 1:
        p = checks.number("p", p, 0, 1, ends="[]")
    check_broadcast("p", p, sizes(shape))
    return uniform(key, shape) < p


def permutation(key: Tensor, n: int) -> Tensor:
    """A uniform permutation of 0..n-1, [n] int64: the argsort of n random words."""
    checks.positive_int("n", n, least=0)
    return torch.argsort(bits(key, n), stable=True)
