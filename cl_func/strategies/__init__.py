"""Continual-learning methods, one file each: the whole training loop of a method, top to bottom on one screen.

Every factory takes the model and the optimiser first, then what the method needs by name, and last `batch_size`, `epochs` and
`iterations` as `cl.minibatches` does (batch_size=None: the experience is one minibatch, as in online streams).
"""

from cl_func.strategies.er import ER, er
from cl_func.strategies.er_lwf import ERLwF, er_lwf
from cl_func.strategies.gdumb import GDumbAgent, gdumb
from cl_func.strategies.gss import GSSAgent, gss
from cl_func.strategies.joint import Joint, joint
from cl_func.strategies.lwf import LwFAgent, lwf
from cl_func.strategies.mir import MIR, mir
from cl_func.strategies.naive import naive

__all__ = [
    "ER",
    "MIR",
    "ERLwF",
    "GDumbAgent",
    "GSSAgent",
    "Joint",
    "LwFAgent",
    "er",
    "er_lwf",
    "gdumb",
    "gss",
    "joint",
    "lwf",
    "mir",
    "naive",
]
