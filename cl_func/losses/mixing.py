"""Training on mixed pairs of rows, with the cross-entropies to both labels: mixup and cutmix.

    mixup     x' = l_i x_i + (1 - l_i) x_j
    cutmix    x' = x_j in a box of H sqrt(1 - l_i) x W sqrt(1 - l_i) pixels, x_i outside; then l_i is the part of x_i that is left
    L         = mean_i  l_i CE(f(x'), y_i) + (1 - l_i) CE(f(x'), y_j)

with l_i ~ Beta(alpha, alpha), and j a permutation of the valid rows. The two terms are the cross-entropy to the soft target
l_i e(y_i) + (1 - l_i) e(y_j). The listings of both papers draw one l for a minibatch, and cutmix one box; here each pair has its
own, as in their equations.

Zhang, Cisse, Dauphin & Lopez-Paz, "mixup: beyond empirical risk minimization", ICLR 2018. Yun, Han, Oh, Chun, Choe & Yoo, "CutMix:
regularization strategy to train strong classifiers with localizable features", ICCV 2019, algorithm A1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_func import checks, random, tree
from cl_func.augment.spatial import boxes
from cl_func.core import Loss, resolve
from cl_func.experiences import Experience
from cl_func.losses.classification import Mask, check_classes, competing, weighted_mean
from cl_func.memory import replay
from cl_func.memory.buffer import LAST
from cl_func.models import Model, forward, mask_logits, split_augment, split_heads
from cl_func.models.augmented import image_shape
from cl_func.models.cnn import as_images
from cl_func.tree import PyTree, describe

Mix = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]  # (key, x, others, share [n]) -> mixed, share of x in it


def mixup(model: Model, alpha: float | str = 1.0, mask: Mask = None, slot: str = "seen") -> Loss:
    """The Loss on weighted means of pairs of rows, in place of `cross_entropy(model, mask, slot)`.

    alpha: above 0, or the path of a leaf of the state. The smaller it is, the more a mixed row is one of the two: 1 draws the
        weights uniformly, on ImageNet 0.2 did best.
    mask, slot: the classes that compete, as for `cross_entropy`.

    Pairs are drawn among the valid rows that the loss is given: `with_replay(mixup(model), n)` mixes new and replayed rows,
    `total(mixup(model), replayed(mixup(model), n))` each among themselves. An augmented model's views are made first and then
    mixed. With task labels each of the two terms has the head of its own row.

    Raises ValueError for a model of tokens; from the loss, TypeError for inputs that are no floats.
    """
    return _mixing(model, alpha, mask, slot, _weighted)


def cutmix(model: Model, alpha: float | str = 1.0, mask: Mask = None, slot: str = "seen") -> Loss:
    """The Loss on rows with a box of another row's pixels, in place of `cross_entropy(model, mask, slot)`.

    Arguments and pairs as of `mixup`; x are images. The box is of the image's proportions, its centre uniform over the pixels, and
    what leaves the image is lost; the labels weigh by the pixels that are there.

    Raises ValueError for a model whose `input_shape` is not (C, H, W).
    """
    image_shape(checks.model("model", model), "for cutmix")
    return _mixing(model, alpha, mask, slot, _cut)


def _mixing(model: Model, alpha: float | str, mask: Mask, slot: str, mix: Mix) -> Loss:
    if checks.model("model", model).input_dtype == torch.int64:
        raise ValueError("model: it takes tokens, of which there is no mean; give a model of floating inputs, such as images.")
    if not isinstance(checks.number_or_path("alpha", alpha, "mixup.alpha"), str):
        alpha = checks.number("alpha", alpha, 0)
    checks.choice("mask", mask, None, "experience", "seen")
    checks.path("slot", slot, "seen")
    return partial(_loss, model=model, alpha=alpha, mask=mask, slot=slot, mix=mix)


def _loss(
    params: PyTree, state: Any, exp: Experience, *, model: Model, alpha: float | str, mask: Mask, slot: str, mix: Mix
) -> tuple[Tensor, Any]:
    checks.instance("exp", exp, Experience, "an Experience")
    key, view_key, pair_key, share_key, mix_key = random.split(state.key, 5)
    plain, heads = split_heads(model)
    plain, augment = split_augment(plain)
    x = exp.x
    if not x.is_floating_point():
        raise TypeError(f"x: expected floating inputs, or uint8 images, which can be mixed, got {describe(x)}.")
    if augment is not None or mix is _cut:
        x = as_images(x, image_shape(plain, "for its images to be mixed"), any_size=True)
    if augment is not None:
        x = augment(view_key, x)
    other = _partners(pair_key, exp.valid)
    a = resolve(state, alpha)
    share = random.beta(share_key, a, a, len(exp)).to(torch.promote_types(x.dtype, torch.float32))
    x, share = mix(mix_key, x, x[other], share)
    logits, state = forward(plain, params, state.replace(key=key), with_inputs(exp, x))
    check_classes(logits, exp)
    classes = competing(state, exp, mask, slot)
    if classes is not None:
        logits = mask_logits(logits, classes)
    own, others = (_to(logits, exp.y[rows], exp.tasks[rows], heads) for rows in (slice(None), other))
    return weighted_mean(share * own + (1 - share) * others, exp.valid), state


def _to(logits: Tensor, labels: Tensor, tasks: Tensor, heads: Tensor | None) -> Tensor:
    """The cross-entropy of each row to a label, [n], under the head of a task."""
    if heads is not None:
        logits = mask_logits(logits, heads.to(logits.device)[tasks])
    return F.cross_entropy(logits, labels, reduction="none")


def _partners(key: Tensor, valid: Tensor) -> Tensor:
    """For each valid row the index [n] of another one, or of itself: a uniform permutation of them, whatever padding follows."""
    order = torch.argsort(torch.where(valid, random.bits(key, valid.shape[0]) >> 1, LAST), stable=True)
    return order[(valid.cumsum(0) - 1).clamp(min=0)]


def with_inputs(exp: Experience, x: Tensor) -> Experience:
    """The same rows with other inputs [n, ...], such as augmented ones."""
    rows = {"x": x, "y": exp.y, "task": exp.tasks}
    return tree.replace(replay.recalled(exp, rows, exp.valid), classes=exp.classes)


def _weighted(key: Tensor, x: Tensor, others: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    weight = share.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    return weight * x + (1 - weight) * others, share


def _cut(key: Tensor, x: Tensor, others: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    n, _, height, width = x.shape
    row_key, column_key = random.split(key)
    side = torch.sqrt(1 - share)
    half = torch.stack([(side * height).long() // 2, (side * width).long() // 2], 1)
    box = boxes(random.randint(row_key, n, 0, height), random.randint(column_key, n, 0, width), half, half, x)
    return torch.where(box[:, None], others, x), 1 - box.to(share.dtype).mean((1, 2))
