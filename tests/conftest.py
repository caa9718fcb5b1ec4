"""One thread a process: the tensors of tests are small, and threads of several processes on few cores wait for each other."""

import atexit
import os
import tempfile

os.environ["OMP_NUM_THREADS"] = "1"  # for the examples, which run in processes of their own
os.environ["CL_FUNC_STRICT"] = "1"  # a compiler that fails is a failure here, no warning

import torch

from cl_func.compiler import native, weight_steps

torch.set_num_threads(1)

# The nets of tests are small too: what is rewritten for the speed of large weights must be right for all.
weight_steps.SMALLEST = 1

# Folds in tests are short, and are to be taken by the driver like long ones.
native.CALLS = 1

# What tests measure is not kept for the user's own sweeps; the folder is removed at the end.
CACHE = tempfile.TemporaryDirectory(prefix="cl_func-tests-")
atexit.register(CACHE.cleanup)  # left to itself, it would warn
os.environ["CL_FUNC_CACHE_DIR"] = CACHE.name
