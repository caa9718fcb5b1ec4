"""Regularisers: a slot of the state, the Updates that maintain it, and the Loss that reads it."""

from cl_func.regularizers import lwf
from cl_func.regularizers.lwf import LwF

__all__ = ["LwF", "lwf"]
