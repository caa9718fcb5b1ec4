"""Datasets: one that comes with the library, MNIST-format files, arrays and torch Datasets; and features of any of them."""

from cl_func.data.convert import from_arrays, from_torch
from cl_func.data.extraction import features
from cl_func.data.idx import idx_folder
from cl_func.data.shipped import digits
from cl_func.experiences import Dataset

__all__ = ["Dataset", "digits", "features", "from_arrays", "from_torch", "idx_folder"]
