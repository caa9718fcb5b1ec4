"""Continual-learning methods, one file each: the whole training loop of a method, top to bottom on one screen.

Every factory takes the model and the optimiser first, then what the method needs by name, and last `batch_size`, `epochs` and
`iterations` as `cl.minibatches` does (batch_size=None: the experience is one minibatch, as in online streams).
"""

from cl_func.strategies.bic import BiC, bic
from cl_func.strategies.er import ER, er
from cl_func.strategies.er_lwf import ERLwF, er_lwf
from cl_func.strategies.icarl import ICaRL, icarl
from cl_func.strategies.joint import Joint, joint
from cl_func.strategies.lwf import LwFAgent, lwf
from cl_func.strategies.naive import naive
from cl_func.strategies.ncm import NCM, ncm
from cl_func.strategies.slda import SLDAAgent, slda

__all__ = [
    "ER",
    "NCM",
    "BiC",
    "ERLwF",
    "ICaRL",
    "Joint",
    "LwFAgent",
    "SLDAAgent",
    "bic",
    "er",
    "er_lwf",
    "icarl",
    "joint",
    "lwf",
    "naive",
    "ncm",
    "slda",
]
