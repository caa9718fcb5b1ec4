"""What a type checker understands of augmentations: checked by `mypy`, not run; see `revealed.py`."""

from __future__ import annotations

from typing import assert_type

from torch import Tensor

import cl_func as cl


def mirrored(key: Tensor, x: Tensor) -> Tensor:
    """A user's own."""
    return x.flip(3)


def revealed(net: cl.models.ModelState) -> None:
    """Never called."""
    key, x = cl.key(0), cl.random.uniform(cl.key(1), (4, 3, 8, 8))
    views = cl.augment.compose(cl.augment.random_crop(padding=4), cl.augment.color_jitter(hue=0.1), mirrored)
    assert_type(views, cl.augment.Augment)
    assert_type(views(key, x), Tensor)
    model = cl.models.normalized(cl.models.cnn((3, 8, 8)), mean=(0.5, 0.5, 0.5), std=0.25)
    assert_type(cl.models.augmented(model, views), cl.models.Model)
    plain, found = cl.models.split_augment(model)
    assert_type(plain, cl.models.Model)
    assert_type(found, cl.augment.Augment | None)
    assert_type(cl.losses.mixup(model, 0.2), cl.core.Loss)
    assert_type(cl.losses.cutmix(model, "mixup.alpha", mask="seen"), cl.core.Loss)
    assert_type(cl.augment.random_resized_crop(scale=(0.2, 1.0)), cl.augment.Augment)
    embedding = cl.models.projected(cl.models.augmented(model, views), size=16, head="linear")
    assert_type(embedding, cl.models.Model)
    assert_type(cl.losses.supervised_contrastive(embedding, "temperature"), cl.core.Loss)
    assert_type(cl.losses.contrast(x.flatten(1), cl.random.randint(key, 4, 0, 2), x[:, 0, 0, 0] > 0, 0.1), Tensor)
    means = cl.classifiers.nearest_mean.of_memory(model, net, cl.memory.reservoir.init(4, cl.memory.sample(model)))
    assert_type(means, cl.classifiers.NearestMean)
    assert_type(cl.strategies.scr(model, cl.optim.sgd(0.1), capacity=4, replay_size=2), cl.Strategy)
    assert_type(cl.strategies.rar(model, cl.optim.sgd(0.1), capacity=4, replay_size=2, bounds=(0.0, 1.0)), cl.Strategy)
    assert_type(cl.random.beta(key, 0.2, 0.2, 4), Tensor)
