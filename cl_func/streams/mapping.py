"""The inputs of a benchmark through a function, evaluated within the step; and parameters that follow the stream."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from torch import Tensor

from cl_func import checks, tree
from cl_func.experiences import Benchmark, Experience, Stream
from cl_func.sources import Source
from cl_func.sources.mapped import Mapped
from cl_func.streams.lazy import Lazy, as_lazy
from cl_func.tree import PyTree


def mapped(benchmark: Benchmark, function: Callable[..., Tensor], params: PyTree | None = None) -> Benchmark:
    """Show the inputs of every experience through `function(x [n, ...]) -> x`, or `function(x, params)`.

    It is given the rows of a minibatch as a model sees them, uint8 images as floats in [0, 1], and is part of the compiled step:
    nothing is copied. Train, test and valid streams are mapped alike.

    function: pure, each row by itself; a module-level function or a `functools.partial` of one, so that streams can be pickled.
    params: a tree of tensors with a first axis of the experiences: experience i has `leaf[i]`, or `leaf[0]` where that axis has
        length 1. So a stream drifts; and with a key per seed each lane drifts in its own way.

    Map before a stream is cut: `split_online(mapped(...), 10)`.
    Raises TypeError or ValueError for a function that does not return inputs, or mixes rows, and for params whose first axis is
    neither 1 nor the number of experiences.

    >>> import torch
    >>> from cl_func.data import digits
    >>> from cl_func.streams import split_by_class
    >>> darker = mapped(split_by_class(*digits(), n_experiences=5), torch.mul, torch.tensor([1.0, 0.8, 0.6, 0.4, 0.2]))
    >>> [f"{float(exp.x.max()):.1f}" for exp in darker.test]
    ['1.0', '0.8', '0.6', '0.4', '0.2']
    """
    checks.instance("benchmark", benchmark, Benchmark, "a Benchmark such as cl.streams.split_by_class(...)")
    found = {}
    for name in ("train", "test", "valid"):
        stream = getattr(benchmark, name)
        if stream is not None:
            check_params(params, len(stream), name)
            found[name] = Stream(_Mapped(as_lazy(stream), function, params), len(stream))
            found[name].make.source(0)  # type: ignore[attr-defined]  # a bad function is refused here
    return dataclasses.replace(benchmark, **found)


def check_params(params: PyTree | None, n: int, name: str) -> None:
    """Check that every leaf of the params has a first axis of length n, or 1; TypeError or ValueError otherwise."""
    for path, leaf in [] if params is None else tree.items(checks.tensors("params", params)):
        if leaf.ndim == 0 or len(leaf) not in (1, n):
            raise ValueError(
                f"params: expected a first axis of the {n} experiences of {name}, or of length 1, got {tree.describe(leaf)}"
                f"{f' at {path!r}' if path else ''}."
            )


def params_of(params: PyTree | None, index: int) -> PyTree | None:
    """The params of one experience."""
    return None if params is None else tree.map(lambda leaf: leaf[index if len(leaf) > 1 else 0], params)


@dataclasses.dataclass(frozen=True, eq=False)
class _Mapped(Lazy):
    """The experiences of another stream, their inputs through a function."""

    parent: Lazy
    function: Callable[..., Tensor]
    params: PyTree | None

    def view(self, index: int) -> Experience:
        return self.parent.view(index)

    def source(self, index: int) -> Source:
        return Mapped(self.parent.source(index), self.function, params_of(self.params, index))

    @property
    def ordered(self) -> bool:
        return self.parent.ordered
