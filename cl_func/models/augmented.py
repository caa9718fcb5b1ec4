"""Augmentation as a part of the model: its training pass sees augmented inputs, as it sees dropout.

    apply(params, buffers, x, train=True)  = apply'(params, buffers, augment(key, x), train=True)
    apply(params, buffers, x, train=False) = apply'(params, buffers, x, train=False)

The key is a buffer, "augment.key", which every training pass advances. So a method has augmentation without knowing of it, memories
hold images as they came, and a replayed row is augmented anew each time.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

from torch import Tensor

from cl_func import checks, random, signatures
from cl_func.augment import Augment
from cl_func.augment.color import normalizes
from cl_func.models.cnn import as_images
from cl_func.models.heads import multi_head, split_heads
from cl_func.models.model import Features, Model, ModelState
from cl_func.tree import describe

KEY = "augment.key"
_CHILD = int.from_bytes(b"augment", "big")  # layers of the model that draw have the children 0, 1, 2, ...


def augmented(model: Model, augment: Augment) -> Model:
    """The model whose training pass augments its inputs; `features` and the pass in eval mode are as they were.

    augment: a function (key, x [n, C, H, W]) -> x such as `cl.augment.horizontal_flip()`, or several of them in a
        `cl.augment.compose`. It must draw for each row by its number in the batch, as those of `cl.augment` do.

    The weights of `init(key)` are those of the model without augmentation. In a loss with replay every row of the joined minibatch,
    from the stream or from the memory, draws its own. To augment only some rows, give the loss on the others the model of
    `split_augment`, which works on the same state:

    >>> from cl_func import augment, losses
    >>> from cl_func.models import cnn
    >>> model = augmented(cnn((3, 8, 8), (4,), 8), augment.compose(augment.random_crop(padding=1), augment.horizontal_flip()))
    >>> plain, _ = split_augment(model)
    >>> loss = losses.total(losses.cross_entropy(plain), losses.replayed(losses.cross_entropy(model), n=10))

    Raises TypeError for what is no model or no function, ValueError for a model whose `input_shape` is not (C, H, W), for one that
    is augmented already, and for `cl.augment.normalize`, which would hold in training alone; from `apply`, ValueError for x that
    are no images of that shape (flat ones are given it), and for an `augment` that returns another shape or dtype.
    """
    checks.model("model", model)
    signatures.function("augment", augment, 2, "a function (key, x) -> x, such as cl.augment.horizontal_flip()")
    image_shape(model, "to be augmented")
    plain, heads = split_heads(model)
    if isinstance(plain.apply, Augmented):
        raise ValueError("model: it is augmented already; give both augmentations at once, in a cl.augment.compose.")
    if normalizes(augment):
        raise ValueError(
            "augment: cl.augment.normalize would hold in training and not in evaluation; leave it out, and augment the model "
            "cl.models.normalized(model, mean, std), which normalises in both."
        )
    features = None if plain.features is None else partial(_features, plain.features)
    made = dataclasses.replace(plain, init=partial(_init, plain), apply=Augmented(plain, augment), features=features)
    return made if heads is None else multi_head(made, heads)


def split_augment(model: Model) -> tuple[Model, Augment | None]:
    """The model without its augmentation, on the same state, and the augmentation, None if it has none.

    For losses that augment only some of their rows, and for those that draw views of their own: `augment(key, x)`.
    """
    plain, heads = split_heads(checks.model("model", model))
    if not isinstance(plain.apply, Augmented):
        return model, None
    augment = plain.apply.augment
    plain = dataclasses.replace(plain, apply=dataclasses.replace(plain.apply, augment=None))
    return plain if heads is None else multi_head(plain, heads), augment


@dataclasses.dataclass(frozen=True, eq=False)
class Augmented:
    """The `apply` of an augmented model; with `augment` None that of `model` on a state with a key that it does not need."""

    model: Model
    augment: Augment | None

    def __call__(
        self,
        params: dict[str, Tensor],
        buffers: dict[str, Tensor],
        x: Tensor,
        *,
        train: bool = False,
        valid: Tensor | None = None,
        task: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        own, key = _split(buffers)
        if train and self.augment is not None:
            key, draw = random.split(key)
            x = _views(self.augment, draw, as_images(x, image_shape(self.model, "to be augmented"), any_size=True))
        logits, new = self.model.apply(params, own, x, train=train, valid=valid, task=task)
        return logits, {name: key if name == KEY else new[name] for name in buffers} if train else buffers


def _init(model: Model, key: Tensor) -> ModelState:
    net: ModelState = model.init(key)
    return ModelState(params=net.params, buffers={**net.buffers, KEY: random.fold_in(key, _CHILD)})


def _features(
    function: Features,
    params: dict[str, Tensor],
    buffers: dict[str, Tensor],
    x: Tensor,
    *,
    valid: Tensor | None = None,
    task: Tensor | None = None,
) -> Tensor:
    return function(params, _split(buffers)[0], x, valid=valid, task=task)


def _split(buffers: Any) -> tuple[dict[str, Tensor], Tensor]:
    """The buffers of the model itself, and the key."""
    checks.instance("buffers", buffers, dict, "the tensors of a model by name")
    if KEY not in buffers:
        raise ValueError(f"buffers: {KEY!r} is missing; pass the params and buffers of a state made by this model's init.")
    return {name: value for name, value in buffers.items() if name != KEY}, buffers[KEY]


def _views(augment: Augment, key: Tensor, x: Tensor) -> Tensor:
    out = augment(key, x)
    if not isinstance(out, Tensor) or out.shape != x.shape or out.dtype != x.dtype or out.device != x.device:
        raise ValueError(f"augment: expected it to return {describe(x)}, as it was given, got {describe(out)}.")
    return out


def image_shape(model: Model, purpose: str) -> tuple[int, ...]:
    """The (C, H, W) that a model takes; ValueError for a model of other inputs, or of any."""
    shape = model.input_shape
    if shape is None or len(shape) != 3:
        given = "None" if shape is None else f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
        raise ValueError(
            f"model: {purpose} it must take images, input_shape = (C, H, W), its input_shape is {given}; "
            "build it with cl.models.cnn, cl.models.slim_resnet18 or from_module(factory, ..., input_shape=(C, H, W))."
        )
    return shape
