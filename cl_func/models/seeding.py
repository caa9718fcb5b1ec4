"""New weights from a key: torch's initialisers draw from its global generator, which is seeded for them and then restored."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch
from torch import Tensor

from cl_func.tree import describe

_SEEDING = threading.RLock()


@contextlib.contextmanager
def seeded(key: Tensor) -> Iterator[None]:
    """A context in which torch's CPU generator starts from the key and new tensors are on the CPU; on exit it is restored.

    All threads share this generator, so they take turns. Weights are made on the CPU wherever the key is, so that one key gives
    the same weights on every device. Raises TypeError for a key that is no int64 tensor, ValueError for a batch of keys or a
    traced one.
    """
    if not isinstance(key, Tensor) or key.dtype != torch.int64:
        raise TypeError(f"key: expected an int64 tensor of shape () made by cl.key(seed), got {describe(key)}.")
    try:
        seed = int(key) if key.ndim == 0 and not key.is_meta else None
    except RuntimeError:  # vmap, make_fx and fake tensors refuse to give a value
        seed = None
    if seed is None:
        raise ValueError(
            f"key: a model is initialised from one key with a value, got {describe(key)}, a batch of keys or a traced key; "
            "initialise in a loop: cl.tree.stack([model.init(key) for key in keys])."
        )
    with _SEEDING, torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs too
        yield
