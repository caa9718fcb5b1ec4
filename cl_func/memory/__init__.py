"""Replay memories: each a state, `init`, `add`, `insert` and `draw`, of fixed capacity, so that they vmap and compile.

    reservoir   a uniform sample of everything offered
    balanced    an equal share for every class, experience or task, a uniform sample of each
    ring        the last rows of each class
    gdumb       GDumb's greedy balancing sampler
    gss         GSS-greedy: rows with gradients in different directions
    herding     of each class the rows whose mean feature is nearest to the mean of the class
    dark        rows stored with the logits they had
    draws       uniform, distinct, class-balanced: from any of them

All of them are a `Memory`, take `add(memory, key, rows, valid, ...)` and give `draw(memory, key, n) -> (rows, valid)`.
"""

from cl_func.memory import balanced, dark, draws, gdumb, gss, herding, reservoir, ring
from cl_func.memory.balanced import Balanced
from cl_func.memory.gdumb import GDumb
from cl_func.memory.gss import GSS
from cl_func.memory.herding import Herding
from cl_func.memory.kinds import Memory
from cl_func.memory.rehearsal import rehearse
from cl_func.memory.replay import fields, join, recalled, sample, union_weights
from cl_func.memory.reservoir import Reservoir
from cl_func.memory.ring import Ring

__all__ = [
    "GSS",
    "Balanced",
    "GDumb",
    "Herding",
    "Memory",
    "Reservoir",
    "Ring",
    "balanced",
    "dark",
    "draws",
    "fields",
    "gdumb",
    "gss",
    "herding",
    "join",
    "recalled",
    "rehearse",
    "reservoir",
    "ring",
    "sample",
    "union_weights",
]
