"""Regularisers: a slot of the state, the Updates that maintain it, and the Loss that reads it.

`quadratic.loss(slot)` reads the slots of `ewc`, `si`, `mas` and `rwalk` alike.
"""

from cl_func.regularizers import ewc, importance, lwf, mas, path, quadratic, rwalk, si
from cl_func.regularizers.ewc import EWC
from cl_func.regularizers.lwf import LwF
from cl_func.regularizers.mas import MAS
from cl_func.regularizers.quadratic import Quadratic
from cl_func.regularizers.rwalk import RWalk
from cl_func.regularizers.si import SI

__all__ = [
    "EWC",
    "MAS",
    "SI",
    "LwF",
    "Quadratic",
    "RWalk",
    "ewc",
    "importance",
    "lwf",
    "mas",
    "path",
    "quadratic",
    "rwalk",
    "si",
]
