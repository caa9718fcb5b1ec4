"""Datasets: one that comes with the library, published ones, one's own folders and arrays, and those of other libraries.

    digits                                              comes with the library
    from_folder, class_names                            a folder of images, CLASS/NAME.png
    from_arrays, from_npz, from_torch, from_hf          numpy and tensors, npz files, torch Datasets, the Hugging Face hub
    cifar, core50, cub, emnist, idx_folder, tiny_imagenet    files as they are published; idx: MNIST, Fashion-MNIST, KMNIST
    stored                                              a file of numpy or a table larger than memory, read in minibatches
    features                                            those that a pretrained network makes of any of them
    class_orders                                        orders of classes of the literature

Each pair is (train, test). Nothing is downloaded, and nothing in a file is executed.
"""

from cl_func.data import class_orders
from cl_func.data.cifar_batches import cifar
from cl_func.data.convert import from_arrays, from_npz
from cl_func.data.core50_files import core50
from cl_func.data.extraction import features
from cl_func.data.folder import class_names, from_folder
from cl_func.data.idx import emnist, idx_folder
from cl_func.data.image_lists import cub, tiny_imagenet
from cl_func.data.items import from_hf, from_torch
from cl_func.data.on_disk import stored
from cl_func.data.shipped import digits
from cl_func.sources import Dataset

__all__ = [
    "Dataset",
    "cifar",
    "class_names",
    "class_orders",
    "core50",
    "cub",
    "digits",
    "emnist",
    "features",
    "from_arrays",
    "from_folder",
    "from_hf",
    "from_npz",
    "from_torch",
    "idx_folder",
    "stored",
    "tiny_imagenet",
]
