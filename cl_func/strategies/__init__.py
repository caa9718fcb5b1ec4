"""Continual-learning methods, one file each: the whole training loop of a method, top to bottom on one screen.

Every factory takes the model and the optimiser first, then what the method needs by name, and last `batch_size`, `epochs` and
`iterations` as `cl.minibatches` does (batch_size=None: the experience is one minibatch, as in online streams).
"""

from cl_func.strategies.agem import AGEM, agem
from cl_func.strategies.er import ER, er
from cl_func.strategies.er_lwf import ERLwF, er_lwf
from cl_func.strategies.gem import GEM, gem
from cl_func.strategies.joint import Joint, joint
from cl_func.strategies.lwf import LwFAgent, lwf
from cl_func.strategies.naive import naive
from cl_func.strategies.ogd import OGDAgent, ogd
from cl_func.strategies.owm import OWMAgent, owm

__all__ = [
    "AGEM",
    "ER",
    "GEM",
    "ERLwF",
    "Joint",
    "LwFAgent",
    "OGDAgent",
    "OWMAgent",
    "agem",
    "er",
    "er_lwf",
    "gem",
    "joint",
    "lwf",
    "naive",
    "ogd",
    "owm",
]
