"""Which runs have diverged or give constant answers, judged by the histories that `cl.evaluate` measures.

A model whose parameters are NaN predicts the same class for everything, as does one whose units are all dead. Its accuracy is that
of guessing: a number like any other, and the same for every seed. Only the loss and the accuracy on each class show it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cl_func import tree
from cl_func.torch_private import in_dispatch_mode, in_transform


def diverged(history: Mapping[str, Tensor], finished: Tensor) -> Tensor:
    """Which runs have diverged, [*axes, seed] bool: at the end the loss is NaN on a test experience that has rows.

    history: name -> [*axes, seed, time, ...], of which "loss" and "accuracy" are used; both are NaN where a test experience has no
    rows. An accuracy that is NaN on all test experiences counts, too. A mean squared error, "mse", that is infinite on some test
    experience or NaN on all of them counts where there is no accuracy. Histories of several probes, "0.accuracy" and "1.accuracy",
    are judged probe by probe. finished: [*axes, seed] bool; other runs have not diverged.
    """
    found = torch.zeros_like(finished)
    for part in _by_probe(history):
        found |= _diverged(part, finished)
    return found & finished


def has_diverged(history: Any) -> bool:
    """Whether a run has, or one of its lanes, by its history of leaves [time, ...]; not told of values that cannot be read."""
    found = {path: leaf for path, leaf in tree.items(history) if isinstance(leaf, Tensor) and not leaf.is_meta}
    if in_transform() or in_dispatch_mode() or not found:
        return False
    return bool(diverged(found, torch.ones((), dtype=torch.bool, device=next(iter(found.values())).device)))


def _by_probe(history: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The histories of each probe by the last part of their paths."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in history.items():
        probe, _, own = name.rpartition(".")
        found.setdefault(probe, {})[own] = value
    return list(found.values())


def _diverged(history: Mapping[str, Tensor], finished: Tensor) -> Tensor:
    loss = _last(history, "loss", finished)
    accuracy = _last(history, "accuracy" if "accuracy" in history else "mean_average_precision", finished)
    found = torch.zeros_like(finished)
    if accuracy is not None:
        found |= accuracy.isnan().all(-1)
    if loss is not None and accuracy is not None and loss.shape == accuracy.shape:
        found |= (loss.isnan() & ~accuracy.isnan()).any(-1)
    elif loss is not None:
        found |= loss.isnan().all(-1)
    error = _last(history, "mse", finished)
    if error is not None and accuracy is None:
        found |= error.isnan().all(-1) | error.isinf().any(-1)
    return found


def constant(history: Mapping[str, Tensor], finished: Tensor) -> Tensor:
    """Which runs give constant answers but have not diverged, [*axes, seed] bool: at the end one class for all rows.

    Then "class_accuracy" is 1 for that class and 0 for all others. It does not count if the accuracy on the last test experience is
    1: that experience holds this class alone, and after training on a single class a model may well predict nothing else.
    """
    found = torch.zeros_like(finished)
    for part in _by_probe(history):
        found |= _constant(part, finished)
    return found & finished & ~diverged(history, finished)


def _constant(history: Mapping[str, Tensor], finished: Tensor) -> Tensor:
    by_class, accuracy = _last(history, "class_accuracy", finished), _last(history, "accuracy", finished)
    if by_class is None:
        return torch.zeros_like(finished)
    known = (~by_class.isnan()).sum(-1)  # NaN for a class without rows
    found = ((by_class == 1).sum(-1) == 1) & ((by_class == 0).sum(-1) == known - 1) & (known > 1)
    if accuracy is not None:
        found &= accuracy[..., -1] < 1
    return found


def _last(history: Mapping[str, Tensor], name: str, finished: Tensor) -> Tensor | None:
    """The last entry of a floating history, [*axes, seed, n]; None if there is no such history or it is empty."""
    value = history.get(name)
    if value is None or not value.is_floating_point() or value.ndim <= finished.ndim or 0 in value.shape:
        return None
    return value.select(finished.ndim, -1).reshape(*finished.shape, -1)
