"""Replay memories: a State, `init`, an insertion, and a draw; all of fixed capacity, so that they vmap and compile."""

from cl_func.memory import dark, reservoir
from cl_func.memory.replay import fields, join, recalled, sample
from cl_func.memory.reservoir import Reservoir

__all__ = ["Reservoir", "dark", "fields", "join", "recalled", "reservoir", "sample"]
