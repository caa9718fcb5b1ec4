"""Whether runs can share a program: lanes whose experiences differ in length are padded, and some loops count the padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cl_func.core import Minibatches
from cl_func.core.nodes import Combinator, Wrapper
from cl_func.experiences import Benchmark
from cl_func.sweeps.run_config import Run, RunConfig

MOST = 1000  # experiences that are looked at: longer streams are made of pieces of one length


def differ(config: RunConfig, runs: Sequence[Run]) -> bool:
    """Whether the passes of some runs over their experiences would not be the same in lanes as alone.

    With `iterations` a pass is begun anew after so many minibatches as the rows of the experience fill, and with `drop_last` it
    ends before the last of them. Those of lanes are the ones of the longest lane.
    """
    loops = list(_counting(config.strategy.update))
    if not loops or isinstance(config.benchmark, Benchmark):
        return False
    trains = [config.benchmark_of(run).train[:MOST] for run in {run.seed: run for run in runs}.values()]
    for exps in zip(*trains, strict=False):
        lengths = {len(exp) for exp in exps}
        if len(lengths) > 1 and any(len({loop._counts(n)[1:] for n in lengths}) > 1 for loop in loops):
            return True
    return False


def _counting(update: Any) -> Iterator[Minibatches]:
    """The loops over the rows of an experience in which padding counts."""
    if isinstance(update, Minibatches) and update.view is None and (update.iterations is not None or update.drop_last):
        yield update
    inner = update.children if isinstance(update, Combinator) else (update.inner,) if isinstance(update, Wrapper) else ()
    for child in inner:
        yield from _counting(child)
