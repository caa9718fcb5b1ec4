"""Normalisation by channel as a part of the model: (x - mean) / std in training and in evaluation, before anything else.

Data then stay in memory as they are, bytes for instance, and an augmentation of colours sees values in [0, 1].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from cl_func import checks
from cl_func.augment import normalize
from cl_func.models.augmented import Augmented, image_shape
from cl_func.models.cnn import as_images
from cl_func.models.heads import multi_head, split_heads
from cl_func.models.model import Model


def normalized(model: Model, mean: float | Sequence[float], std: float | Sequence[float]) -> Model:
    """The model of (x - mean) / std, each a number or one for each channel; on the same state.

    >>> from cl_func import augment
    >>> from cl_func.models import augmented, slim_resnet18
    >>> model = normalized(slim_resnet18(), mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))  # CIFAR-10
    >>> model = augmented(model, augment.compose(augment.color_jitter(0.4, 0.4, 0.4, 0.1), augment.random_crop(padding=4)))

    Raises TypeError or ValueError for numbers that are none or of another count than the channels, or a std that is not above 0;
    ValueError for a model whose `input_shape` is not (C, H, W), and for one that is augmented: normalise first, as above.
    """
    checks.model("model", model)
    shape = image_shape(model, "to be normalized")
    plain, heads = split_heads(model)
    if isinstance(plain.apply, Augmented):
        raise ValueError("model: it is augmented, and would augment what is normalised; normalise it first, then augment it.")
    by_channel = normalize(mean, std)
    for name, values in (("mean", mean), ("std", std)):
        if isinstance(values, Sequence) and len(values) not in (1, shape[0]):
            raise ValueError(f"{name}: given for {len(values)} channels, the model takes {shape[0]}.")
    apply = partial(_normalized, plain.apply, by_channel, shape)
    features = None if plain.features is None else partial(_normalized, plain.features, by_channel, shape)
    made = dataclasses.replace(plain, apply=apply, features=features)
    return made if heads is None else multi_head(made, heads)


def _normalized(
    forward: Callable[..., Any],
    by_channel: Callable[..., Tensor],
    shape: tuple[int, ...],
    params: dict[str, Tensor],
    buffers: dict[str, Tensor],
    x: Tensor,
    **options: Any,
) -> Any:
    """A model's `apply` or `features` on normalised inputs."""
    return forward(params, buffers, by_channel(None, as_images(x, shape, any_size=True)), **options)
