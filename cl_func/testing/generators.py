"""Inputs for tests: a small benchmark, and Hypothesis strategies for keys, experiences, streams and agents."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from cl_func import checks, random, signatures, tree
from cl_func.experiences import Benchmark, Experience, Stream, experience, stream
from cl_func.sources import Dataset
from cl_func.sources.source import Target

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

S = TypeVar("S")


def small_benchmark(
    n_features: int = 6,
    n_classes: int = 4,
    rows_per_class: int = 7,
    n_experiences: int = 2,
    target: Target = "class",
) -> Benchmark:
    """A small class-incremental benchmark of separable Gaussian blobs, for tests; x is float32 [N, n_features].

    target: "class"; or, of the same inputs in the same experiences, "regression" for y [N, n_classes] float32, a linear function of
        the inputs that is shifted in each experience; or "multilabel" for y [N, n_classes] bool, whether that function is above 0.
    """
    for name, size in {"n_features": n_features, "n_classes": n_classes, "rows_per_class": rows_per_class}.items():
        checks.positive_int(name, size)
    checks.choice("target", target, "class", "multilabel", "regression")
    if n_classes % checks.positive_int("n_experiences", n_experiences):
        raise ValueError(f"n_experiences: {n_experiences} does not divide the {n_classes} classes.")
    n = n_classes * rows_per_class
    centre_key, noise_key = random.split(random.key(2024))
    blob = torch.arange(n_classes).repeat_interleave(rows_per_class)
    x = 2 * random.normal(centre_key, (n_classes, n_features))[blob] + random.normal(noise_key, (n, n_features))
    group = blob // (n_classes // n_experiences)
    data = Dataset(x, blob if target == "class" else _targets(target, x, group, n_classes))
    parts = [experience(data, (group == i).nonzero().flatten(), index=i) for i in range(n_experiences)]
    return Benchmark(train=stream(parts), test=stream(parts))


def _targets(target: Target, x: Tensor, shift: Tensor, n_targets: int) -> Tensor:
    """Targets [N, n_targets] of inputs [N, F] and a shift [N]: a linear function, or whether it is above 0."""
    weights = random.normal(random.key(7), (x.shape[1], n_targets)) / x.shape[1]
    values = x @ weights + 0.5 * shift[:, None]
    return values > 0 if target == "multilabel" else values


def keys() -> SearchStrategy[Tensor]:
    """Hypothesis strategy: random keys, () int64."""
    st = checks.optional("hypothesis.strategies", "cl.testing.keys", "testing")

    return st.integers(0, 2**64 - 1).map(random.key)


def experiences(
    n_features: int = 6, n_classes: int = 4, max_rows: int = 12, min_rows: int = 1, target: Target = "class"
) -> SearchStrategy[Experience]:
    """Hypothesis strategy: experiences of min_rows to max_rows rows, of which some may be padding and at least one is valid.

    target: what kind of targets they have, as in `small_benchmark`.
    """
    st = checks.optional("hypothesis.strategies", "cl.testing.experiences", "testing")

    for name, size in {"n_features": n_features, "n_classes": n_classes, "min_rows": min_rows}.items():
        checks.positive_int(name, size)
    if checks.positive_int("max_rows", max_rows) < min_rows:
        raise ValueError(f"min_rows: expected at most max_rows = {max_rows}, got {min_rows}.")

    checks.choice("target", target, "class", "multilabel", "regression")

    @st.composite
    def make(draw: Any) -> Experience:
        n = draw(st.integers(min_rows, max_rows))
        valid = torch.tensor(draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(any)))
        y = torch.tensor(draw(st.lists(st.integers(0, n_classes - 1), min_size=n, max_size=n)))
        x = random.normal(draw(keys()), (n, n_features))
        index = draw(st.integers(0, 3))
        data = Dataset(x, y, n_classes=n_classes) if target == "class" else Dataset(x, _targets(target, x, y, n_classes))
        return tree.replace(experience(data, index=index), valid=valid)

    return make()


def streams(n_features: int = 6, n_classes: int = 4, max_length: int = 3, target: Target = "class") -> SearchStrategy[Stream]:
    """Hypothesis strategy: streams of 1 to max_length experiences, with targets as in `small_benchmark`."""
    st = checks.optional("hypothesis.strategies", "cl.testing.streams", "testing")

    checks.positive_int("max_length", max_length)
    return st.lists(experiences(n_features, n_classes, target=target), min_size=1, max_size=max_length).map(stream)


def agents(init: Callable[[Tensor], S]) -> SearchStrategy[S]:
    """Hypothesis strategy: states `init(key)` of random keys."""
    signatures.function("init", init, 1, "a function from a key to a state")
    return keys().map(init)
