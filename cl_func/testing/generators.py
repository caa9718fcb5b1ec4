"""Inputs for tests: a small benchmark, and Hypothesis strategies for keys, experiences, streams and agents."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from cl_func import checks, random, tree
from cl_func.experiences import Benchmark, Dataset, Experience, Stream, experience, stream

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

S = TypeVar("S")


def small_benchmark(n_features: int = 6, n_classes: int = 4, rows_per_class: int = 7, n_experiences: int = 2) -> Benchmark:
    """A small class-incremental benchmark of separable Gaussian blobs, for tests; x is float32 [N, n_features]."""
    for name, size in {"n_features": n_features, "n_classes": n_classes, "rows_per_class": rows_per_class}.items():
        checks.positive_int(name, size)
    if n_classes % checks.positive_int("n_experiences", n_experiences):
        raise ValueError(f"n_experiences: {n_experiences} does not divide the {n_classes} classes.")
    n = n_classes * rows_per_class
    centre_key, noise_key = random.split(random.key(2024))
    y = torch.arange(n_classes).repeat_interleave(rows_per_class)
    x = 2 * random.normal(centre_key, (n_classes, n_features))[y] + random.normal(noise_key, (n, n_features))
    data = Dataset(x, y)
    group = y // (n_classes // n_experiences)
    parts = [experience(data, (group == i).nonzero().flatten(), index=i) for i in range(n_experiences)]
    return Benchmark(train=stream(parts), test=stream(parts))


def keys() -> SearchStrategy[Tensor]:
    """Hypothesis strategy: random keys, () int64."""
    st = checks.optional("hypothesis.strategies", "cl.testing.keys", "testing")

    return st.integers(0, 2**64 - 1).map(random.key)


def experiences(n_features: int = 6, n_classes: int = 4, max_rows: int = 12, min_rows: int = 1) -> SearchStrategy[Experience]:
    """Hypothesis strategy: experiences of min_rows to max_rows rows, of which some may be padding and at least one is valid."""
    st = checks.optional("hypothesis.strategies", "cl.testing.experiences", "testing")

    for name, size in {"n_features": n_features, "n_classes": n_classes, "min_rows": min_rows}.items():
        checks.positive_int(name, size)
    if checks.positive_int("max_rows", max_rows) < min_rows:
        raise ValueError(f"min_rows: expected at most max_rows = {max_rows}, got {min_rows}.")

    @st.composite
    def make(draw: Any) -> Experience:
        n = draw(st.integers(min_rows, max_rows))
        valid = torch.tensor(draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(any)))
        y = torch.tensor(draw(st.lists(st.integers(0, n_classes - 1), min_size=n, max_size=n)))
        x = random.normal(draw(keys()), (n, n_features))
        index = draw(st.integers(0, 3))
        return tree.replace(experience(Dataset(x, y, n_classes=n_classes), index=index), valid=valid)

    return make()


def streams(n_features: int = 6, n_classes: int = 4, max_length: int = 3) -> SearchStrategy[Stream]:
    """Hypothesis strategy: streams of 1 to max_length experiences."""
    st = checks.optional("hypothesis.strategies", "cl.testing.streams", "testing")

    checks.positive_int("max_length", max_length)
    return st.lists(experiences(n_features, n_classes), min_size=1, max_size=max_length).map(stream)


def agents(init: Callable[[Tensor], S]) -> SearchStrategy[S]:
    """Hypothesis strategy: states `init(key)` of random keys."""
    checks.function("init", init, "a function from a key to a state")
    return keys().map(init)
