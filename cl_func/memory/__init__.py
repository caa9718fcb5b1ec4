"""Replay memories: a State, `init`, an insertion, and a draw; all of fixed capacity, so that they vmap and compile."""

from cl_func.memory import dark, herding, reservoir
from cl_func.memory.herding import Herding
from cl_func.memory.replay import fields, join, recalled, sample, union_weights
from cl_func.memory.reservoir import Reservoir

__all__ = ["Herding", "Reservoir", "dark", "fields", "herding", "join", "recalled", "reservoir", "sample", "union_weights"]
