"""cl_func: continual learning as pure functions `(state, exp) -> state` over immutable state trees, on PyTorch.

    import cl_func as cl

See `cl_func.core` for the four kinds of functions, `cl_func.strategies` for the methods, `cl_func.testing` for the laws.
"""

from cl_func import (
    augment,
    classifiers,
    core,
    data,
    losses,
    memory,
    metrics,
    models,
    optim,
    plasticity,
    plots,
    probes,
    projections,
    random,
    regularizers,
    select,
    sources,
    strategies,
    streams,
    testing,
    trace,
    transforms,
    tree,
)
from cl_func.core import (
    Agent,
    Strategy,
    at,
    compose,
    maybe_init,
    minibatches,
    repeat,
    stop,
    train_step,
    when,
)
from cl_func.core.loop import fold, scan
from cl_func.debug import check_finite
from cl_func.evaluation import evaluate
from cl_func.experiences import Benchmark, Experience, Stream, experience
from cl_func.extending import extend
from cl_func.random import key
from cl_func.sources import Dataset
from cl_func.storage import taps
from cl_func.storage.checkpoint import Checkpoint, load, save
from cl_func.sweeps.compare import compare
from cl_func.sweeps.grids import Grid, grid, random_grid, zipped
from cl_func.sweeps.ranges import choice, integers, log, uniform
from cl_func.sweeps.runs import Runs
from cl_func.sweeps.sweep import sweep
from cl_func.transforms import compile, vmap
from cl_func.tree import state, static

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "Benchmark",
    "Checkpoint",
    "Dataset",
    "Experience",
    "Grid",
    "Runs",
    "Strategy",
    "Stream",
    "at",
    "augment",
    "check_finite",
    "choice",
    "classifiers",
    "compare",
    "compile",
    "compose",
    "core",
    "data",
    "evaluate",
    "experience",
    "extend",
    "fold",
    "grid",
    "integers",
    "key",
    "load",
    "log",
    "losses",
    "maybe_init",
    "memory",
    "metrics",
    "minibatches",
    "models",
    "optim",
    "plasticity",
    "plots",
    "probes",
    "projections",
    "random",
    "random_grid",
    "regularizers",
    "repeat",
    "save",
    "scan",
    "select",
    "sources",
    "state",
    "static",
    "stop",
    "strategies",
    "streams",
    "sweep",
    "taps",
    "testing",
    "trace",
    "train_step",
    "transforms",
    "tree",
    "uniform",
    "vmap",
    "when",
    "zipped",
]
