"""Explicit random keys and draws that a vmapped run and a single run share bit for bit.

A key is one int64 tensor of shape (). Draw i of a key is the i-th output of the SplitMix64 generator seeded with it:
    bits(key)[i] = mix(key + (i + 1) * 0x9E3779B97F4A7C15)
(Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014). Being a hash of (key, counter), a draw
depends on nothing else: not on the number of lanes, not on what was drawn before, not on torch's global generator.
Child keys come from another finaliser (Murmur3's fmix64) and another increment, so a child is never a draw of its parent.

Use a key once: either draw from it or derive children from it, then go on with a child.
"""

from cl_func.random.distributions import beta, categorical
from cl_func.random.draws import bernoulli, bits, normal, permutation, randint, uniform
from cl_func.random.keys import children, fold_in, key, split

__all__ = [
    "bernoulli",
    "beta",
    "bits",
    "categorical",
    "children",
    "fold_in",
    "key",
    "normal",
    "permutation",
    "randint",
    "split",
    "uniform",
]
