"""Augmentations: pure functions `(key, x [n, C, H, W]) -> x`, which draw for each row.

    random_crop, horizontal_flip, cutout     moved and hidden pixels
    random_resized_crop                      a window, stretched
    color_jitter, grayscale, normalize       colours
    compose                                  one after the other

`cl.models.augmented(model, augment)` makes one a part of the model's training pass, as dropout is, so that every method has it;
methods that compare two views of a row call `augment(key, x)` themselves.

>>> from cl_func import augment, models, random
>>> views = augment.compose(augment.random_crop(padding=4), augment.horizontal_flip(), augment.cutout(size=8))
>>> x = random.uniform(random.key(0), (10, 3, 32, 32))
>>> one, other = (views(key, x) for key in random.split(random.key(1)))
>>> one.shape, bool((one == other).all())
(torch.Size([10, 3, 32, 32]), False)
>>> model = models.augmented(models.slim_resnet18((3, 32, 32), n_classes=10), views)
"""

from cl_func.augment.color import color_jitter, grayscale, normalize
from cl_func.augment.kinds import Augment, compose
from cl_func.augment.resized import random_resized_crop
from cl_func.augment.spatial import cutout, horizontal_flip, random_crop

__all__ = [
    "Augment",
    "color_jitter",
    "compose",
    "cutout",
    "grayscale",
    "horizontal_flip",
    "normalize",
    "random_crop",
    "random_resized_crop",
]
