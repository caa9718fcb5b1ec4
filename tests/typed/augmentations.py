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
    assert_type(cl.random.beta(key, 0.2, 0.2, 4), Tensor)
