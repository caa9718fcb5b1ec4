"""Explicit random keys and draws that a vmapped run and a single run share bit for bit.

A key is one int64 tensor of shape (). Draw i of a key is the i-th output of the SplitMix64 generator seeded with it:
    bits(key)[i] = mix(key + (i + 1) * 0x9E3779B97F4A7C15)
(Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014). Being a hash of (key, counter), a draw
depends on nothing else: not on the number of lanes, not on what was drawn before, not on torch's global generator.
Child keys come from another finaliser (Murmur3's fmix64) and another increment, so a child is never a draw of its parent.

Use a key once: either draw from it or derive children from it, then go on with a child.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.tree import describe


def _int64(unsigned: int) -> int:
    return unsigned - (1 << 64) if unsigned >= (1 << 63) else unsigned


GAMMA = _int64(0x9E3779B97F4A7C15)
GAMMA_INVERSE = _int64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
ROOT = int.from_bytes(b"cl_func", "big")  # not 0: some seed's key is 0 then, and its children are the keys of seeds 0, 1, 2, ...
CHILD = _int64(0xD1342543DE82EF95)
CHILD_INVERSE = _int64(pow(0xD1342543DE82EF95, -1, 1 << 64))
SPLITMIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
FMIX = (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53)


def _shift(z: Tensor, n: int) -> Tensor:
    return (z >> n) & ((1 << (64 - n)) - 1)  # int64 shifts drag the sign along: mask to get the logical shift


def _splitmix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _int64(SPLITMIX[0])
    z = (z ^ _shift(z, 27)) * _int64(SPLITMIX[1])
    return z ^ _shift(z, 31)


def _fmix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 33)) * _int64(FMIX[0])
    z = (z ^ _shift(z, 33)) * _int64(FMIX[1])
    return z ^ _shift(z, 33)


# The same for eager code, without a dozen operations on small tensors: on Python's integers for a few words, otherwise on numpy's.
_WORD = (1 << 64) - 1
_FEW = 16


def _mix_word(word: int, shifts: tuple[int, int, int], factors: tuple[int, int]) -> int:
    word = ((word ^ (word >> shifts[0])) * factors[0]) & _WORD
    word = ((word ^ (word >> shifts[1])) * factors[1]) & _WORD
    return word ^ (word >> shifts[2])


def _few_words(key: Tensor, n: int) -> list[int]:
    first = int(key)
    return [_mix_word((first + i * GAMMA) & _WORD, (30, 27, 31), SPLITMIX) for i in range(1, n + 1)]


def _many_words(key: Tensor, n: int) -> np.ndarray:
    # The key as an array of one: numpy warns of overflow in scalars, not in arrays.
    z = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(GAMMA & _WORD) + key.detach().numpy().view(np.uint64)[None]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(SPLITMIX[0])
    z = (z ^ (z >> np.uint64(27))) * np.uint64(SPLITMIX[1])
    return z ^ (z >> np.uint64(31))


def _check(key: Tensor) -> None:
    if not isinstance(key, Tensor) or key.dtype != torch.int64:
        raise TypeError(f"key: expected an int64 tensor of shape () made by cl.key(seed), got {key!r}.")
    if key.is_meta:
        raise ValueError("key: it is on the device meta, which holds no values; make it with cl.key(seed).")
    if key.ndim:
        raise ValueError(f"key: expected shape (), got {list(key.shape)}; for many keys use cl.vmap or torch.func.vmap.")


def _shape(shape: int | Sequence[int]) -> tuple[int, ...]:
    if not isinstance(shape, (int, tuple, list)):
        raise checks.type_error("shape", "a size or a tuple of sizes", shape)
    dims = (shape,) if isinstance(shape, int) else tuple(shape)
    if any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in dims):
        raise ValueError(f"shape: sizes are integers of at least 0, got {shape!r}.")
    return dims


def _floating(dtype: torch.dtype) -> None:
    if dtype is not torch.float32 and dtype is not torch.float64:
        raise TypeError(f"dtype: expected torch.float32 or torch.float64, got {dtype}.")


def _integer(name: str, value: int | Tensor) -> None:
    if isinstance(value, Tensor):
        right = not (value.dtype.is_floating_point or value.dtype.is_complex or value.dtype == torch.bool)
    else:
        right = isinstance(value, int) and not isinstance(value, bool)
    if not right:
        raise checks.type_error(name, "an integer or an integer tensor", value)
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{name}: expected an integer of 64 bits, got {value}.")


def _check_broadcast(name: str, value: object, dims: tuple[int, ...]) -> None:
    if isinstance(value, Tensor) and (
        value.ndim > len(dims) or any(n not in (1, m) for n, m in zip(value.shape[::-1], dims[::-1], strict=False))
    ):
        raise ValueError(
            f"{name}: its shape {list(value.shape)} does not broadcast to the shape {list(dims)} of the draws; "
            f"for one draw per element pass shape={list(value.shape)}."
        )


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
    return fold_in(torch.tensor(ROOT, device=device), _int64(unsigned))


def fold_in(key: Tensor, data: int | Tensor) -> Tensor:
    """The child of a key for one integer, () int64: an experience's index, a step, a seed."""
    _check(key)
    _integer("data", data)
    if isinstance(data, Tensor) and (data.ndim or data.device != key.device):
        raise ValueError(f"data: expected one integer on {key.device}, got {describe(data)}; for several use random.children.")
    return _child(key, data)


def children(key: Tensor, data: Tensor) -> Tensor:
    """The children of a key for several integers, int64 in the shape of `data`: `fold_in(key, i)` for every i in it."""
    _check(key)
    if not isinstance(data, Tensor) or data.dtype != torch.int64 or data.device != key.device:
        raise TypeError(f"data: expected an int64 tensor on {key.device}, got {describe(data)}.")
    return _child(key, data)


def _child(key: Tensor, data: int | Tensor) -> Tensor:
    # (data + 1 + key / CHILD) * CHILD = key + (data + 1) * CHILD, written in this form for the reason given in `bits`.
    return _fmix((data + 1 + key * CHILD_INVERSE) * CHILD)


def split(key: Tensor, n: int = 2) -> Tensor:
    """n child keys, [n] int64, the i-th being `fold_in(key, i)`; unpack them: `key, draw_key = split(key)`."""
    _check(key)
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n: expected an integer of at least 1, got {n!r}.")
    if n <= _FEW and tree._is_eager_cpu(key):
        first = int(key)
        words = [_int64(_mix_word((first + i * CHILD) & _WORD, (33, 33, 33), FMIX)) for i in range(1, n + 1)]
        return torch.tensor(words, device=key.device)
    return _fmix((torch.arange(1, n + 1, device=key.device) + key * CHILD_INVERSE) * CHILD)


def bits(key: Tensor, shape: int | Sequence[int] = ()) -> Tensor:
    """64 random bits per element, int64 of the given shape, in the order of SplitMix64's outputs."""
    _check(key)
    dims = _shape(shape)
    if tree._is_eager_cpu(key):
        return torch.from_numpy(_many_words(key, math.prod(dims)).view(np.int64).reshape(dims))
    # Algebraically key + i * GAMMA, but inductor makes that a loop which g++ ends too early, since signed overflow is undefined (a
    # test has the case). From this form g++ concludes less, and cl.compile defines the overflow by -fwrapv.
    counter = torch.arange(1, math.prod(dims) + 1, device=key.device)
    return _splitmix((counter + key * GAMMA_INVERSE) * GAMMA).reshape(dims)


def _row_bits(key: Tensor, shape: tuple[int, ...], rows: Tensor) -> Tensor:
    """`bits(key, shape)[rows]`, for rows [m] int64, without the words of the other rows."""
    _check(key)
    size = math.prod(shape[1:])
    place = rows.reshape(-1, 1) * size + torch.arange(1, size + 1, device=key.device)
    return _splitmix((place + key * GAMMA_INVERSE) * GAMMA).reshape(-1, *shape[1:])


def uniform(key: Tensor, shape: int | Sequence[int] = (), dtype: torch.dtype = torch.float32) -> Tensor:
    """Uniform draws from [0, 1): multiples of 2^-24 (float32) or 2^-53 (float64)."""
    _floating(dtype)
    return _as_uniform(bits(key, shape), dtype)


def _as_uniform(word: Tensor, dtype: torch.dtype) -> Tensor:
    digits = 24 if dtype == torch.float32 else 53
    return _shift(word, 64 - digits).to(dtype) * 2.0**-digits


def normal(key: Tensor, shape: int | Sequence[int] = (), dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal draws (Box & Muller 1958), one 64-bit word each: 32 bits for the radius, 32 for the angle."""
    _floating(dtype)
    return _as_normal(bits(key, shape), dtype)


def _as_normal(word: Tensor, dtype: torch.dtype) -> Tensor:
    radius = (_shift(word, 32) + 1).to(dtype) * 2.0**-32
    angle = (word & 0xFFFFFFFF).to(dtype) * 2.0**-32
    return torch.sqrt(-2.0 * torch.log(radius)) * torch.cos(2.0 * math.pi * angle)


def randint(key: Tensor, shape: int | Sequence[int], low: int | Tensor, high: int | Tensor) -> Tensor:
    """Integers uniform over [low, high), int64, with a bias below (high - low) / 2^63. The bounds must broadcast to `shape`.

    With tensor bounds an empty range, which tracing could not see, gives `low`.
    """
    dims = _shape(shape)
    for name, bound in (("low", low), ("high", high)):
        _integer(name, bound)
        _check_broadcast(name, bound, dims)
    if isinstance(low, int) and isinstance(high, int) and not 0 < high - low < 1 << 63:
        raise ValueError(f"high: expected more than low = {low}, by less than 2^63, got {high}.")
    _check(key)
    if len(dims) == 1 and 0 < dims[0] <= _FEW and tree._is_eager_cpu(key) and _is_readable(low) and _is_readable(high):
        starts, ends = (_listed(bound, dims[0]) for bound in (low, high))
        spans = [max(_int64((end - start) & _WORD), 1) for start, end in zip(starts, ends, strict=True)]
        draws = [(word >> 1) % span + start for word, span, start in zip(_few_words(key, dims[0]), spans, starts, strict=True)]
        return torch.tensor(draws, device=key.device)
    span = high - low
    if isinstance(span, Tensor):
        span = span.clamp(min=1)
    return _shift(bits(key, shape), 1) % span + low


def _is_readable(bound: int | Tensor) -> bool:
    return isinstance(bound, int) or (bound.dtype == torch.int64 and tree._is_eager_cpu(bound))


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
    _check_broadcast("p", p, _shape(shape))
    return uniform(key, shape) < p


def permutation(key: Tensor, n: int) -> Tensor:
    """A uniform permutation of 0..n-1, [n] int64: the argsort of n random words."""
    checks.positive_int("n", n, least=0)
    return torch.argsort(bits(key, n), stable=True)


def categorical(key: Tensor, logits: Tensor) -> Tensor:
    """One index per row of logits [..., C] with probability softmax(logits), int64 [...] (the Gumbel-max trick)."""
    _check(key)
    checks.tensor("logits", logits, like=key)
    if not logits.ndim or not logits.shape[-1]:
        raise ValueError(f"logits: expected [..., C] with at least one class, got {describe(logits)}.")
    noise = uniform(key, tuple(logits.shape), torch.float64)
    return torch.argmax(logits.double() - torch.log(-torch.log(noise.clamp(min=2.0**-53))), dim=-1)


_PROPOSALS = 8


def beta(
    key: Tensor, a: float | Tensor, b: float | Tensor, shape: int | Sequence[int] = (), dtype: torch.dtype = torch.float32
) -> Tensor:
    """Draws from Beta(a, b) in [0, 1], a and b above 0, numbers or floating tensors that broadcast to `shape`.

    X / (X + Y) of two gamma draws (Marsaglia & Tsang, "A simple method for generating gamma variables", 2000), by their logarithms,
    which do not underflow. Each is the first accepted one of 8 proposals; with a chance below 1e-10 there is none, and the last is
    taken. The values of tensors a and b are not looked at: where one is not above 0 the draw means nothing.
    """
    _floating(dtype)
    dims, logs = _shape(shape), []
    for name, value, own in zip("ab", (a, b), split(key), strict=True):
        if isinstance(value, Tensor):
            value = checks.tensor(name, value, like=key).double()
            _check_broadcast(name, value, dims)
        else:
            value = checks.number(name, value, 0)
        logs.append(_log_gamma(own, value, dims))
    return torch.sigmoid(logs[0] - logs[1]).to(dtype)


def _log_gamma(key: Tensor, a: float | Tensor, dims: tuple[int, ...]) -> Tensor:
    """The logarithms of draws from Gamma(a): those of Gamma(a + 1) times U^(1 / a)."""
    # In float64: whether a proposal is accepted must not depend on how a compiled program rounds.
    proposed, tested, power = split(key, 3)
    d: float | Tensor = a[..., None] + 2 / 3 if isinstance(a, Tensor) else a + 2 / 3
    z = normal(proposed, (*dims, _PROPOSALS), torch.float64)
    v = (1 + z / (9 * d) ** 0.5) ** 3
    log_v = torch.log(v.clamp(min=1e-300))
    accepted = (v > 0) & (torch.log1p(-uniform(tested, (*dims, _PROPOSALS), torch.float64)) < z**2 / 2 + d * (1 - v + log_v))
    accepted = accepted | (torch.arange(_PROPOSALS, device=key.device) == _PROPOSALS - 1)
    first = accepted & (accepted.cumsum(-1) == 1)
    scale = torch.log(d) if isinstance(d, Tensor) else math.log(d)
    return torch.where(first, scale + log_v, 0).sum(-1) + torch.log1p(-uniform(power, dims, torch.float64)) / a
