"""Keys and draws: published vectors, frozen values, statistics, lanes, and compiled against eager.

Every draw here has a fixed key, so the statistical tests give the same verdict each time. Their p-values are asked to exceed 1e-3:
a sound generator fails one of about 60 such tests with probability 6%, and whoever changes the hash sees all of them drawn anew.
"""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx

from cl_func import random, transforms
from cl_func.compiler import program
from cl_func.testing import key_uses

P_VALUE = 1e-3
N = 100_000


# ---------------------------------------------------------------- an independent implementation with Python's integers

MASK = (1 << 64) - 1


def signed(x):
    return x - (1 << 64) if x >> 63 else x


def python_bits(key, n):
    """SplitMix64 as published: the state starts at the key and grows by the golden gamma."""
    out, state = [], key & MASK
    for _ in range(n):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        out.append(z ^ (z >> 31))
    return out


def python_fold_in(key, data):
    z = (key + (data + 1) * 0xD1342543DE82EF95) & MASK
    z = ((z ^ (z >> 33)) * 0xFF51AFD7ED558CCD) & MASK
    z = ((z ^ (z >> 33)) * 0xC4CEB9FE1A85EC53) & MASK
    return z ^ (z >> 33)


def python_key(seed):
    return python_fold_in(int.from_bytes(b"cl_func", "big"), seed)


PUBLISHED = {
    1234567: [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821],
    0: [16294208416658607535, 7960286522194355700, 487617019471545679],
}


@pytest.mark.parametrize("seed", PUBLISHED)
def test_bits_are_the_published_splitmix64_outputs(seed):
    expected = PUBLISHED[seed]
    assert python_bits(seed, len(expected)) == expected
    assert random.bits(torch.tensor(seed), len(expected)).tolist() == [signed(x) for x in expected]


@pytest.mark.parametrize("raw", [0, 1, -1, 2**63 - 1, -(2**63), 123456789012345678])
def test_bits_equal_python_integers(raw):
    assert random.bits(torch.tensor(raw), 100).tolist() == [signed(x) for x in python_bits(raw, 100)]


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 20240229])
def test_derivation_equals_python_integers(seed):
    root = python_key(seed)
    key = random.key(seed)
    assert key.item() == signed(root)
    assert random.split(key, 20).tolist() == [signed(python_fold_in(root, i)) for i in range(20)]
    for data in (0, 5, -1, -7, 2**63 - 1, -(2**63)):
        assert random.fold_in(key, data).item() == signed(python_fold_in(root, data))
        assert random.fold_in(key, torch.tensor(data)).item() == signed(python_fold_in(root, data))


FROZEN = {
    "split": [-6284088127978463181, -6106190652895250573],
    "fold_in": 743185914471524199,
    "bits": [-426630993308489875, -4660734343522264884],
    "uniform": [0.9768722653388977, 0.7473410367965698, 0.8170899748802185],
    "normal": [0.03344598412513733, 0.6117968559265137, 0.20222732424736023],
    "randint": [0, -4, 1, 5, 6],
    "permutation": [1, 5, 2, 3, 0, 4],
    "beta": [0.17438845336437225, 0.1305607110261917, 0.009802143089473248],
}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_draws_equal_python_integers(seed):
    key, words = random.key(seed), python_bits(python_key(seed), 50)
    assert random.uniform(key, 50).tolist() == [(w >> 40) / 2**24 for w in words]
    assert random.uniform(key, 50, torch.float64).tolist() == [(w >> 11) / 2**53 for w in words]
    assert random.randint(key, 50, -10, 10).tolist() == [(w >> 1) % 20 - 10 for w in words]
    assert random.bernoulli(key, 0.25, 50).tolist() == [(w >> 40) / 2**24 < 0.25 for w in words]
    assert random.permutation(key, 50).tolist() == sorted(range(50), key=lambda i: signed(words[i]))
    normal = [math.sqrt(-2 * math.log(((w >> 32) + 1) / 2**32)) * math.cos(2 * math.pi * (w % 2**32) / 2**32) for w in words]
    assert random.normal(key, 50, torch.float64).tolist() == pytest.approx(normal, rel=1e-12, abs=1e-12)


def test_frozen_values():
    """Results of earlier versions are reproduced: changing one of these changes everybody's runs."""
    key = random.key(0)
    assert key.item() == -4258209101828557696
    assert random.split(key).tolist() == FROZEN["split"]
    assert random.fold_in(key, 7).item() == FROZEN["fold_in"]
    assert random.bits(key, 2).tolist() == FROZEN["bits"]
    assert random.uniform(key, 3).tolist() == pytest.approx(FROZEN["uniform"], abs=0)
    assert random.normal(key, 3).tolist() == pytest.approx(FROZEN["normal"], rel=1e-6)
    assert random.randint(key, 5, -10, 10).tolist() == FROZEN["randint"]
    assert random.permutation(key, 6).tolist() == FROZEN["permutation"]
    assert random.beta(key, 0.5, 2.0, 3).tolist() == pytest.approx(FROZEN["beta"], rel=1e-6)


# ---------------------------------------------------------------- shapes, dtypes, purity

DRAWS = {
    "bits": lambda key, n=5: random.bits(key, n),
    "uniform": lambda key, n=5: random.uniform(key, n),
    "uniform float64": lambda key, n=5: random.uniform(key, n, torch.float64),
    "normal": lambda key, n=5: random.normal(key, n),
    "normal float64": lambda key, n=5: random.normal(key, n, torch.float64),
    "randint": lambda key, n=5: random.randint(key, n, -3, 1000),
    "randint tensor": lambda key, n=5: random.randint(key, n, torch.tensor(-3), torch.arange(n) + 1),
    "bernoulli": lambda key, n=5: random.bernoulli(key, 0.3, n),
    "permutation": lambda key, n=5: random.permutation(key, n),
    "beta": lambda key, n=5: random.beta(key, 0.3, torch.tensor(2.0), n),
    "categorical": lambda key, n=5: random.categorical(key, torch.linspace(0, 2, 4).expand(n, 4)),
    "split": lambda key, n=5: random.split(key, n),
    "fold_in": lambda key, n=5: random.fold_in(key, n),
}
DTYPES = {"uniform": torch.float32, "beta": torch.float32, "normal": torch.float32, "bernoulli": torch.bool}


@pytest.mark.parametrize("name", DRAWS)
def test_dtype_shape_and_purity(name):
    key = random.key(3)
    before, generator = key.clone(), torch.get_rng_state()
    a, b = DRAWS[name](key), DRAWS[name](key)
    assert torch.equal(a, b)
    assert torch.equal(key, before)
    assert torch.equal(torch.get_rng_state(), generator)
    assert a.shape == (() if name == "fold_in" else (5,))
    assert a.dtype == (torch.float64 if "float64" in name else DTYPES.get(name, torch.int64))


@pytest.mark.parametrize("shape", [(), 0, 7, (7,), (2, 3), (2, 0, 3), torch.Size([2, 2])])
def test_shapes(shape):
    key = random.key(0)
    size = torch.Size((shape,) if isinstance(shape, int) else shape)
    for name in ("bits", "uniform", "normal", "bernoulli", "beta"):
        draw = DRAWS[name]
        assert draw(key, shape).shape == size
        assert torch.equal(draw(key, shape).flatten(), draw(key, size.numel()))


def test_a_longer_draw_begins_with_the_shorter_one():
    key = random.key(0)
    assert torch.equal(random.bits(key, 100)[:7], random.bits(key, 7))


def test_ranges():
    key = random.key(0)
    for dtype, digits in ((torch.float32, 24), (torch.float64, 53)):
        u = random.uniform(key, N, dtype)
        assert u.min() >= 0
        assert u.max() < 1
        assert torch.equal((u * 2**digits).frac(), torch.zeros_like(u))
    assert random.normal(key, N).isfinite().all()
    assert random.permutation(key, 0).shape == (0,)
    assert random.permutation(key, 1).tolist() == [0]


# ---------------------------------------------------------------- statistics


def uniform_p(values, cells=64):
    counts = np.histogram(values.double().numpy(), bins=cells, range=(0, 1))[0]
    return min(scipy.stats.kstest(values.double().numpy(), "uniform").pvalue, scipy.stats.chisquare(counts).pvalue)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_uniform_is_uniform(seed, dtype):
    assert uniform_p(random.uniform(random.key(seed), N, dtype)) > P_VALUE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normal_is_normal(dtype):
    z = random.normal(random.key(0), N, dtype).double().numpy()
    assert scipy.stats.kstest(z, "norm").pvalue > P_VALUE
    assert abs(z.mean()) < 4 / math.sqrt(N)
    assert abs(z.var() - 1) < 4 * math.sqrt(2 / N)
    assert abs(scipy.stats.kurtosis(z)) < 4 * math.sqrt(24 / N)


def correlation(a, b):
    return abs(np.corrcoef(a.double().numpy(), b.double().numpy())[0, 1]) * math.sqrt(len(a))


def test_no_serial_correlation():
    u = random.uniform(random.key(0), N, torch.float64)
    for lag in (1, 2, 3, 7, 16, 64, 1000):
        assert correlation(u[:-lag], u[lag:]) < 4
    z = random.normal(random.key(0), N, torch.float64)
    assert correlation(z[:-1], z[1:]) < 4
    assert correlation(z[:-1] ** 2, z[1:] ** 2) < 4


def test_consecutive_pairs_fill_the_square():
    cells = (random.uniform(random.key(1), (N, 2)) * 16).long()
    assert scipy.stats.chisquare(torch.bincount(cells[:, 0] * 16 + cells[:, 1], minlength=256).numpy()).pvalue > P_VALUE


@pytest.mark.parametrize("make", [lambda n: random.bits(random.key(0), n), lambda n: random.split(random.key(0), n)])
def test_each_of_the_64_bits_is_balanced(make):
    words = make(N)
    ones = torch.stack([(words >> i & 1).sum() for i in range(64)]).double()
    z = (ones - N / 2) / math.sqrt(N / 4)
    assert z.abs().max() < 4.5
    assert scipy.stats.chi2.sf((z**2).sum().item(), 64) > P_VALUE


def test_bits_of_a_word_are_independent():
    words = random.bits(random.key(0), N)
    bits = torch.stack([(words >> i & 1) for i in range(64)]).double().numpy()
    off = np.abs(np.corrcoef(bits) - np.eye(64)).max() * math.sqrt(N)
    assert off < 5


def test_one_bit_of_the_key_changes_half_of_the_draw():
    root = random.key(0)
    for derive in (lambda key: random.bits(key, 64), lambda key: random.split(key, 64)):
        flipped = torch.stack([derive(root ^ (1 << i if i < 63 else -(2**63))) ^ derive(root) for i in range(64)])
        share = torch.stack([(flipped >> i & 1).double().mean() for i in range(64)])
        assert (share - 0.5).abs().max() < 5 * math.sqrt(0.25 / flipped.numel() * 64)


def test_parents_children_and_siblings_are_independent():
    root = random.key(0)
    a, b = random.split(root)
    grandchild = random.split(a)[0]
    families = [random.uniform(k, N, torch.float64) for k in (root, a, b, grandchild, random.fold_in(root, 2), random.key(1))]
    for i, x in enumerate(families):
        for y in families[:i]:
            assert correlation(x, y) < 4
            assert correlation(x[1:], y[:-1]) < 4


def test_children_of_many_keys_are_uniform_and_distinct():
    keys = random.split(random.key(0), N)
    assert len(keys.unique()) == N
    first = torch.func.vmap(lambda k: random.uniform(k, (), torch.float64))(keys)
    assert uniform_p(first) > P_VALUE
    assert correlation(first[:-1], first[1:]) < 4


def test_a_child_is_never_a_draw_of_its_parent():
    key = random.key(0)
    assert not set(random.bits(key, N).tolist()) & set(random.split(key, N).tolist())


def test_roots_of_seeds_are_no_relatives():
    """The key of one seed must not be a child or a draw of another seed's key (seed -1 once had the key 0, the root of all)."""
    seeds = [*range(-100, 1000), 2**63 - 1, -(2**63)]
    roots = {random.key(s).item() for s in seeds}
    assert len(roots) == len(seeds)
    for seed in range(-100, 100):
        children = set(random.split(random.key(seed), 1000).tolist()) | set(random.bits(random.key(seed), 1000).tolist())
        assert not children & roots


def test_seeds_that_are_close_are_independent():
    keys = torch.stack([random.key(s) for s in range(2000)])
    draws = torch.func.vmap(lambda k: random.uniform(k, 5, torch.float64))(keys)
    assert uniform_p(draws.flatten()) > P_VALUE
    assert all(correlation(draws[:-1, j], draws[1:, j]) < 4 for j in range(5))


def test_permutation_is_uniform_over_the_24_orders_of_4():
    keys = random.split(random.key(0), 24_000)
    orders = torch.func.vmap(lambda k: random.permutation(k, 4))(keys)
    codes = (orders * torch.tensor([64, 16, 4, 1])).sum(-1)
    counts = codes.unique(return_counts=True)[1]
    assert len(counts) == 24
    assert scipy.stats.chisquare(counts.numpy()).pvalue > P_VALUE


@pytest.mark.parametrize("n", [1, 2, 16, 17, 1000])
def test_permutation_holds_each_number_once(n):
    assert torch.equal(random.permutation(random.key(n), n).sort().values, torch.arange(n))


@pytest.mark.parametrize(
    ("low", "high"), [(0, 10), (-7, 6), (5, 6), (torch.tensor(-2), 9), (0, torch.tensor(3)), (-(2**40), 2**40)]
)
def test_randint_is_uniform_within_its_bounds(low, high):
    draws = random.randint(random.key(4), N, low, high)
    assert draws.dtype == torch.int64
    assert draws.min() >= low
    assert draws.max() < high
    if high - low < 100:
        counts = torch.bincount(draws - low, minlength=int(high - low))
        assert len(counts) == high - low
        assert len(counts) == 1 or scipy.stats.chisquare(counts.numpy()).pvalue > P_VALUE
    else:
        assert uniform_p((draws - low).double() / (high - low)) > P_VALUE


def test_randint_with_a_bound_per_element():
    high = torch.arange(1, 21)
    draws = torch.func.vmap(lambda k: random.randint(k, 20, 0, high))(random.split(random.key(0), 20_000))
    for j in range(1, 20):
        assert scipy.stats.chisquare(torch.bincount(draws[:, j], minlength=j + 1).numpy()).pvalue > P_VALUE / 20
    assert (draws[:, 0] == 0).all()


@given(
    seed=st.integers(0, 2**64 - 1),
    n=st.integers(1, 40),
    ends=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=2),
    each=st.sampled_from(["one", "each", "column"]),
)
def test_few_draws_are_those_of_a_transformed_run_to_the_bit(seed, n, ends, each):
    """Eager code draws on Python's integers or numpy's, transformed code on tensors; overflow of the range included."""
    key, (low, high) = random.key(seed), (torch.tensor(end) for end in ends)
    if each == "each":
        high = high - torch.arange(n)
    shape = (2, n) if each == "column" else (n,)

    def draws(key):
        return random.split(key, n), random.bits(key, shape), random.randint(key, shape, low, high)

    for drawn, lane in zip(draws(key), torch.func.vmap(draws)(key[None]), strict=True):
        assert torch.equal(drawn, lane[0])


@pytest.mark.parametrize("n", [1, 5, 40])
@pytest.mark.parametrize("name", DRAWS)
def test_every_use_of_a_key_is_seen_by_the_law_fresh(name, n):
    key = random.key(3)
    with key_uses.record_key_uses(key) as uses:
        DRAWS[name](key, n)
    assert (set(uses.drawn) | set(uses.derived)) & {int(key)}
    assert bool(uses.drawn) == (name not in ("split", "fold_in"))
    with key_uses.record_key_uses(key) as uses:
        DRAWS[name](key, n)
        random.bits(key)
    assert uses.faults


@pytest.mark.parametrize("n", [1, 5, 40])
@pytest.mark.parametrize("name", [name for name in DRAWS if name not in ("randint tensor", "beta", "categorical")])
def test_draws_are_where_their_key_is(name, n):
    """Whatever torch's default device is."""
    key = random.key(3)
    expected = DRAWS[name](key, n)
    with torch.device("meta"):
        assert torch.equal(DRAWS[name](key, n), expected)


def test_randint_of_an_empty_tensor_range_gives_low():
    assert random.randint(random.key(0), 3, 5, torch.tensor(5)).tolist() == [5, 5, 5]


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (0.2, 0.2), (0.5, 3.0), (8.0, 2.0), (40.0, 40.0)])
def test_beta_is_beta(a, b):
    for ends in ((a, b), (torch.tensor(a), torch.full((N,), b))):
        draws = random.beta(random.key(0), *ends, N, torch.float64)
        assert scipy.stats.kstest(draws.numpy(), "beta", (a, b)).pvalue > P_VALUE
        assert correlation(draws[:-1], draws[1:]) < 4


def test_beta_of_tiny_parameters_is_zero_or_one():
    draws = random.beta(random.key(0), 1e-3, 1e-3, N)
    assert draws.isfinite().all()
    assert ((draws < 1e-6) | (draws > 1 - 1e-6)).float().mean() > 0.98
    assert scipy.stats.binomtest(int((draws > 0.5).sum()), N).pvalue > P_VALUE


@pytest.mark.parametrize("p", [0, 0.1, 0.5, 0.93, 1])
def test_bernoulli_frequency(p):
    for chance in (p, torch.tensor(float(p))):
        share = random.bernoulli(random.key(2), chance, N).double().mean().item()
        assert abs(share - p) <= 4 * math.sqrt(p * (1 - p) / N)


def test_bernoulli_with_a_probability_per_element():
    p = torch.tensor([0.0, 0.25, 1.0])
    share = random.bernoulli(random.key(0), p, (N, 3)).double().mean(0)
    assert (share - p).abs().max() < 4 * math.sqrt(0.25 / N)
    assert share[[0, 2]].tolist() == [0, 1]


def test_categorical_frequencies():
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    draws = random.categorical(random.key(0), probabilities.log().expand(N, 4))
    counts = torch.bincount(draws, minlength=4).numpy()
    assert scipy.stats.chisquare(counts, N * probabilities.double().numpy() / probabilities.double().sum().item()).pvalue > P_VALUE


def test_categorical_never_takes_what_is_masked():
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 1000.0, -1000.0]).expand(N, 5)
    assert random.categorical(random.key(0), logits).unique().tolist() == [3]
    one = torch.tensor([-torch.inf, -torch.inf, 0.0]).expand(100, 3)
    assert (random.categorical(random.key(0), one) == 2).all()


# ---------------------------------------------------------------- errors

KEY = torch.tensor(0)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: random.key(0.5), TypeError, "seed: expected an int"),
        (lambda: random.key(True), TypeError, "seed: expected an int"),
        (lambda: random.key(2**64), ValueError, "64 bits"),
        (lambda: random.key(-(2**63) - 1), ValueError, "64 bits"),
        (lambda: random.bits(3), TypeError, r"key: expected an int64 tensor of shape \(\) made by cl.key"),
        (lambda: random.bits(torch.tensor(0.0)), TypeError, "key: expected an int64 tensor"),
        (lambda: random.split(torch.zeros(2, dtype=torch.int64)), ValueError, r"got \[2\]; for many keys use cl.vmap"),
        (lambda: random.fold_in(torch.zeros(1, dtype=torch.int64), 0), ValueError, "key: expected shape"),
        (lambda: random.fold_in(KEY, 1.5), TypeError, "data: expected an integer"),
        (lambda: random.fold_in(KEY, torch.tensor(1.5)), TypeError, "data: expected an integer"),
        (lambda: random.split(KEY, 0), ValueError, "n: expected an integer of at least 1"),
        (lambda: random.split(KEY, 2.0), ValueError, "n: expected an integer of at least 1"),
        (lambda: random.split(KEY, True), ValueError, "n: expected an integer of at least 1"),
        (lambda: random.bits(KEY, -1), ValueError, "shape: sizes are integers of at least 0, got -1"),
        (lambda: random.bits(KEY, (2, 1.5)), ValueError, "shape: sizes are integers"),
        (lambda: random.uniform(KEY, 2, torch.float16), TypeError, "dtype: expected torch.float32 or torch.float64"),
        (lambda: random.normal(KEY, 2, torch.int64), TypeError, "dtype: expected"),
        (lambda: random.randint(KEY, 2, 3, 3), ValueError, "high: expected more than low = 3"),
        (lambda: random.randint(KEY, 2, -(2**63), 2**63 - 1), ValueError, r"by less than 2\^63"),
        (lambda: random.randint(KEY, 2, 0, 2.5), TypeError, "high: expected an integer"),
        (lambda: random.randint(KEY, 2, torch.tensor(0.0), 5), TypeError, "low: expected an integer"),
        (lambda: random.randint(KEY, (), 0, torch.tensor([3, 4])), ValueError, r"high: its shape \[2\] .* pass shape=\[2\]"),
        (lambda: random.bernoulli(KEY, 1.5), ValueError, r"p: expected a finite number in \[0, 1\], got 1.5"),
        (lambda: random.bernoulli(KEY, torch.tensor([0.5, 0.5])), ValueError, r"p: its shape \[2\] .* pass shape=\[2\]"),
        (lambda: random.bernoulli(KEY, torch.tensor([0.5, 0.5]), 3), ValueError, r"p: its shape \[2\]"),
        (lambda: random.permutation(KEY, (2, 3)), TypeError, "n: expected an integer"),
        (lambda: random.permutation(KEY, -1), ValueError, "at least 0, got -1"),
    ],
)
def test_errors(call, error, match):
    with pytest.raises(error, match=match):
        call()


# ---------------------------------------------------------------- lanes


@pytest.mark.parametrize("n", [1, 5, 33, 1000])
@pytest.mark.parametrize("name", DRAWS)
def test_a_lane_draws_what_the_single_run_draws(name, n):
    keys = random.split(random.key(0), 5)
    lanes = torch.func.vmap(lambda k: DRAWS[name](k, n))(keys)
    for i, key in enumerate(keys):
        assert torch.equal(lanes[i], DRAWS[name](key, n))
    assert torch.equal(torch.func.vmap(lambda k: DRAWS[name](k, n))(keys[:2]), lanes[:2])  # nor does the number of lanes matter


def test_lanes_of_data_and_bounds():
    keys, data = random.split(random.key(0), 4), torch.arange(4) + 3
    folded = torch.func.vmap(random.fold_in)(keys, data)
    assert folded.tolist() == [random.fold_in(k, int(d)).item() for k, d in zip(keys, data, strict=True)]
    drawn = torch.func.vmap(lambda k, high: random.randint(k, 6, 0, high))(keys, data)
    assert torch.equal(drawn, torch.stack([random.randint(k, 6, 0, int(d)) for k, d in zip(keys, data, strict=True)]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["bits", "uniform", "uniform float64", "randint", "bernoulli", "permutation", "split", "fold_in"])
def test_the_gpu_draws_what_the_cpu_draws(name):
    assert torch.equal(DRAWS[name](random.key(0, device="cuda"), 1001).cpu(), DRAWS[name](random.key(0), 1001))


# ---------------------------------------------------------------- compiled against eager

# Inductor writes a main loop of 16 words a time and a tail, so the size modulo 16 matters, and whether there is a main loop at all.
# A loop costs g++ half a second. So by default each function meets one size of each kind, and the other sizes are dealt out, even
# ones plain and odd ones vmapped. CL_FUNC_FULL_GRID=1 takes all functions at all sizes both ways (6 minutes).
COMPILED = ["bits", "uniform", "normal", "randint", "bernoulli", "permutation", "split"]
FULL = os.environ.get("CL_FUNC_FULL_GRID") == "1"
SIZES = [*range(1, 65 if FULL else 33), 997, 999, 1001, 1003]
GROUPS = [[name] for name in COMPILED] if FULL else [COMPILED]


def grid(names, vmapped):
    if FULL:
        return [(name, n) for name in names for n in SIZES]
    common = {(name, n) for name in names for n in (5, 33, 1001)}
    dealt = {(names[n // 2 % len(names)], n) for n in SIZES if n % 2 == vmapped}
    return sorted(common | dealt, key=lambda pair: (pair[1], pair[0]))


@pytest.mark.skipif(not transforms._compiler_available(), reason="needs a C++ compiler")
@pytest.mark.parametrize("names", GROUPS, ids="+".join)
@pytest.mark.parametrize("vmapped", [False, True], ids=["plain", "vmapped"])
def test_compiled_draws_equal_eager_ones(names, vmapped):
    pairs = grid(names, vmapped)
    per_program = 14  # g++ needs more than linear time for more
    for start in range(0, len(pairs), per_program):
        compare(pairs[start : start + per_program], vmapped)


def compare(pairs, vmapped):
    def draw(keys):
        return [DRAWS[name](key, n) for (name, n), key in zip(pairs, keys.unbind(), strict=True)]

    keys = random.split(random.key(0), 3 * len(pairs)).reshape(3, -1)
    function, given = (torch.func.vmap(draw), keys) if vmapped else (draw, keys[0])
    for (name, n), compiled, eager in zip(pairs, compiled_by_us(function, given)(given), function(given), strict=True):
        if name in ("normal", "beta"):  # the compiled logarithm and cosine may round otherwise
            assert torch.allclose(compiled, eager, rtol=1e-6, atol=1e-6), (name, n)
        else:
            assert torch.equal(compiled, eager), (name, n)


@pytest.mark.skipif(not transforms._compiler_available(), reason="needs a C++ compiler")
@pytest.mark.parametrize(("vmapped", "sizes"), [(False, (1001,)), (True, (33,))])
def test_compiled_draws_from_beta_equal_eager_ones(vmapped, sizes):
    compare([("beta", n) for n in sizes], vmapped)


def compiled_by_us(function, given):
    return torch.compile(make_fx(function)(given), fullgraph=True, dynamic=False, options=program.OPTIONS)


@pytest.mark.skipif(not transforms._compiler_available(), reason="needs a C++ compiler")
def test_many_children_of_one_key_compile_right():
    """Products of one key with several constants, in one loop: without -fwrapv g++ 12 gets one of these draws wrong."""

    def draw(key):
        a, b, c, d = (random.fold_in(key, i) for i in (5, 7, 9, 10))
        return random.bits(a, 33), random.bernoulli(b, 0.3, 33), random.split(c, 33), random.randint(d, 33, -3, 1000)

    keys, function = random.split(random.key(0), 3), torch.func.vmap(draw)
    for compiled, eager in zip(compiled_by_us(function, keys)(keys), function(keys), strict=True):
        assert torch.equal(compiled, eager)


TRAP = """
import os, torch
from torch.fx.experimental.proxy_tensor import make_fx
def draw(key):
    return torch.arange(33) * -7046029254386353131 + key
key = torch.tensor(12345678901234567)
program = torch.compile(make_fx(draw)(key), fullgraph=True, dynamic=False)
results = [program(key) for _ in range(500)]  # keeps all: each may be overwritten by a later one that writes past its end
print("right" if all(torch.equal(r, draw(key)) for r in results) else "wrong", flush=True)
os._exit(0)  # without freeing what may be corrupt
"""


@pytest.mark.skipif(not (FULL and transforms._compiler_available()), reason="tells about torch; needs a C++ compiler and a while")
def test_whether_the_compiler_trap_that_bits_avoids_is_still_there(record_property):
    """Never fails. Skipped with "the trap is gone" once `key + arange(n) * GAMMA` compiles right.

    Inductor writes the product as `GAMMA * index` in C++. It overflows, which is undefined for signed integers: g++ concludes that
    the tail of the loop is never reached, drops it, and the main loop runs past the end (with -fwrapv it does not). It runs in a
    subprocess, since the heap is corrupted.
    """
    run = subprocess.run([sys.executable, "-c", TRAP], capture_output=True, text=True, timeout=600, check=False)
    result = "crash" if run.returncode < 0 else (run.stdout.split() or ["error"])[-1]
    record_property("inductor_overflow_trap", result)
    if result == "right":
        pytest.skip("the trap is gone here: if it is on every platform, random.bits can be written as key + counter * GAMMA")
    if result == "error":
        pytest.skip(f"could not tell whether the trap is there: {run.stderr[-500:]}")


@pytest.mark.parametrize("seed", [0, 1, -7, 2**63, 2**64 - 1])
@pytest.mark.parametrize("n", [1, 2, 17, 64])
def test_eager_draws_by_numpy_are_those_of_the_traced_form(seed, n):
    """Eager code hashes in numpy; what is vmapped or compiled hashes in torch operations: bit for bit the same."""
    key = random.key(seed)
    for draw in (lambda k: random.split(k, n), lambda k: random.bits(k, (n, 2)), lambda k: random.bits(k)):
        assert torch.equal(draw(key), torch.func.vmap(draw)(key[None])[0])


def test_children_are_fold_in_for_each():
    key, data = random.key(3), torch.tensor([[0, 5, -1], [2**40, 7, 0]])
    expected = [[random.fold_in(key, int(i)).item() for i in row] for row in data]
    assert random.children(key, data).tolist() == expected
