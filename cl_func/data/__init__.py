"""Datasets: one that comes with the library, MNIST-format files, arrays and torch Datasets."""

from cl_func.data import class_orders
from cl_func.data.cifar_batches import cifar
from cl_func.data.convert import from_arrays, from_npz
from cl_func.data.folder import class_names, from_folder
from cl_func.data.idx import idx_folder
from cl_func.data.items import from_hf, from_torch
from cl_func.data.shipped import digits
from cl_func.experiences import Dataset

__all__ = [
    "Dataset",
    "cifar",
    "class_names",
    "class_orders",
    "digits",
    "from_arrays",
    "from_folder",
    "from_hf",
    "from_npz",
    "from_torch",
    "idx_folder",
]
