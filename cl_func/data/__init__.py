"""Datasets: one that comes with the library, MNIST-format files, arrays, torch Datasets, and data on a disk."""

from cl_func.data.convert import from_arrays, from_torch
from cl_func.data.idx import idx_folder
from cl_func.data.on_disk import stored
from cl_func.data.shipped import digits
from cl_func.sources import Dataset

__all__ = ["Dataset", "digits", "from_arrays", "from_torch", "idx_folder", "stored"]
