"""Streams: benchmarks made lazily from datasets, by splitting and transforming them.

    class-incremental    split_by_class, class_repetition
    task-incremental     task_incremental
    domain-incremental   domain_incremental, permuted, rotated, noisy
    from datasets        from_datasets, split_by_task
    from elsewhere       from_avalanche, from_continuum
    drawn, not stored    generated, slowly_changing_regression
    from a benchmark     split_online, blurred, mapped, in_memory, with_validation, cumulative

(van de Ven & Tolias, "Three scenarios for continual learning", 2019, arXiv:1904.07734, for the first three.)
"""

from cl_func.streams.blurred import blurred
from cl_func.streams.class_splits import domain_incremental, split_by_class, task_incremental
from cl_func.streams.datasets import from_datasets
from cl_func.streams.domains import noisy, permuted, rotated
from cl_func.streams.elsewhere import from_avalanche, from_continuum
from cl_func.streams.generation import generated
from cl_func.streams.holdout import with_validation
from cl_func.streams.in_memory import in_memory
from cl_func.streams.joint import cumulative
from cl_func.streams.mapping import mapped
from cl_func.streams.online import split_online
from cl_func.streams.repetition import class_repetition
from cl_func.streams.slow_regression import slowly_changing_regression
from cl_func.streams.task_splits import split_by_task

__all__ = [
    "blurred",
    "class_repetition",
    "cumulative",
    "domain_incremental",
    "from_avalanche",
    "from_continuum",
    "from_datasets",
    "generated",
    "in_memory",
    "mapped",
    "noisy",
    "permuted",
    "rotated",
    "slowly_changing_regression",
    "split_by_class",
    "split_by_task",
    "split_online",
    "task_incremental",
    "with_validation",
]
