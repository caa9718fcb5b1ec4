"""Words of 64 bits: SplitMix64's, which are drawn, and Murmur3's finaliser, which makes children of keys.

All draws are made of the words that `words_at`, `many_words` or `few_words` give; the three give the same. Within transformations
and compiled programs a key is a tensor to compute with; otherwise numpy's arrays are faster, and Python's integers for a few words.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def int64(unsigned: int) -> int:
    """The signed integer of 64 bits with the bits of an unsigned one."""
    return unsigned - (1 << 64) if unsigned >= (1 << 63) else unsigned


GAMMA = int64(0x9E3779B97F4A7C15)
GAMMA_INVERSE = int64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
ROOT = int.from_bytes(b"cl_func", "big")  # not 0: some seed's key is 0 then, and its children are the keys of seeds 0, 1, 2, ...
CHILD = int64(0xD1342543DE82EF95)
CHILD_INVERSE = int64(pow(0xD1342543DE82EF95, -1, 1 << 64))
SPLITMIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
FMIX = (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53)

WORD = (1 << 64) - 1
FEW = 16


def words_at(key: Tensor, place: Tensor) -> Tensor:
    """The words of a key, () int64, at some places, int64 counted from 1, in their shape."""
    # Algebraically key + place * GAMMA, but inductor makes that a loop which g++ ends too early, since signed overflow is undefined
    # (a test has the case). From this form g++ concludes less, and cl.compile defines the overflow by -fwrapv.
    z = (place + key * GAMMA_INVERSE) * GAMMA
    z = (z ^ shift(z, 30)) * int64(SPLITMIX[0])
    z = (z ^ shift(z, 27)) * int64(SPLITMIX[1])
    return z ^ shift(z, 31)


def many_words(key: Tensor, n: int) -> np.ndarray:
    """The first n words of a key, [n] int64."""
    # The key as an array of one: numpy warns of overflow in scalars, not in arrays.
    z = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(GAMMA & WORD) + key.detach().numpy().view(np.uint64)[None]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(SPLITMIX[0])
    z = (z ^ (z >> np.uint64(27))) * np.uint64(SPLITMIX[1])
    return (z ^ (z >> np.uint64(31))).view(np.int64)


def few_words(key: Tensor, n: int) -> list[int]:
    """The first n words of a key, unsigned."""
    first = int(key)
    return [mix_word((first + i * GAMMA) & WORD, (30, 27, 31), SPLITMIX) for i in range(1, n + 1)]


def mix_word(word: int, shifts: tuple[int, int, int], factors: tuple[int, int]) -> int:
    """One of the hashes of an unsigned integer of 64 bits."""
    word = ((word ^ (word >> shifts[0])) * factors[0]) & WORD
    word = ((word ^ (word >> shifts[1])) * factors[1]) & WORD
    return word ^ (word >> shifts[2])


def fmix(z: Tensor) -> Tensor:
    """Murmur3's finaliser of words, int64."""
    z = (z ^ shift(z, 33)) * int64(FMIX[0])
    z = (z ^ shift(z, 33)) * int64(FMIX[1])
    return z ^ shift(z, 33)


def shift(z: Tensor, n: int) -> Tensor:
    """Words shifted to the right, with zeros from the left."""
    return (z >> n) & ((1 << (64 - n)) - 1)  # int64 shifts drag the sign along


def as_uniform(word: Tensor, dtype: torch.dtype) -> Tensor:
    """Words as numbers in [0, 1): multiples of 2^-24 (float32) or 2^-53 (float64)."""
    digits = 24 if dtype == torch.float32 else 53
    return shift(word, 64 - digits).to(dtype) * 2.0**-digits


def as_normal(word: Tensor, dtype: torch.dtype) -> Tensor:
    """Words as standard normal numbers (Box & Muller 1958): 32 bits for the radius, 32 for the angle."""
    radius = (shift(word, 32) + 1).to(dtype) * 2.0**-32
    angle = (word & 0xFFFFFFFF).to(dtype) * 2.0**-32
    return torch.sqrt(-2.0 * torch.log(radius)) * torch.cos(2.0 * math.pi * angle)
