"""The supervised contrastive loss (Khosla, Teterwak, Wang, Sarna, Tian, Isola, Maschinot, Liu & Krishnan, "Supervised contrastive
learning", NeurIPS 2020, eq. 2): rows of one class attract each other, all others repel.

    l_i = mean_{p in P(i)} -log( exp(z_i z_p / t) / sum_{a != i} exp(z_i z_a / t) ),        L = mean_i l_i

z_i are embeddings of length 1, P(i) the other rows of the class of row i, and t the temperature. With an augmented model each row
comes in two views, as it is and augmented, so that every P(i) has a row: the pairs of supervised contrastive replay (Mai et al.,
CVPRW 2021, eq. 5). The authors' program multiplies L by t / 0.07, which belongs to the learning rate.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, random
from cl_func.core import Loss, resolve
from cl_func.experiences import Experience, require_target
from cl_func.losses.classification import weighted_mean
from cl_func.losses.mixing import with_inputs
from cl_func.models import Model, forward, split_augment, split_heads
from cl_func.models.augmented import image_shape
from cl_func.models.cnn import as_images
from cl_func.models.cosine import unit
from cl_func.optim.hyperparameters import nonnegative_or_path
from cl_func.tree import PyTree


def supervised_contrastive(model: Model, temperature: float | str = 0.1) -> Loss:
    """The Loss that brings the embeddings of a class together; a model's outputs are the embeddings, of any length.

    model: such as `cl.models.projected(model)`, which embeds by a projection of the features. An augmented model gives each row a
        second view; without augmentation a row has one, and counts only where another of its class is in the minibatch. Heads of
        tasks do not matter.
    temperature: above 0, or the path of a leaf of the state.

    It trains no classifier: classify by the nearest mean of the features, as `cl.strategies.scr` does. Padding rows are
    ignored, and a minibatch without a pair has the loss 0.

    Raises TypeError or ValueError for other arguments; from the loss, ValueError for targets that are no class labels.
    """
    checks.model("model", model)
    temperature = nonnegative_or_path("temperature", temperature, 0.1)
    return partial(_supervised_contrastive, model=split_heads(model)[0], temperature=temperature)


def _supervised_contrastive(
    params: PyTree, state: Any, exp: Experience, *, model: Model, temperature: float | str
) -> tuple[Tensor, Any]:
    checks.instance("exp", exp, Experience, "an Experience")
    require_target(exp, "the supervised contrastive loss", "class")
    plain, augment = split_augment(model)
    if augment is not None:
        key, view_key = random.split(state.key)
        x = as_images(exp.x, image_shape(plain, "for views of its images"), any_size=True)
        # The views of a row follow each other, so that padding stays at the end.
        rows = torch.arange(2 * len(exp), device=exp.rows.device) // 2
        views = torch.stack([x, augment(view_key, x)], 1).flatten(0, 1)
        state, exp = state.replace(key=key), with_inputs(exp.take(exp.rows[rows], exp.valid[rows]), views)
    z, state = forward(plain, params, state, exp)
    return contrast(z, exp.y, exp.valid, resolve(state, temperature)), state


def contrast(embeddings: Tensor, labels: Tensor, valid: Tensor, temperature: float | Tensor) -> Tensor:
    """L, (), of embeddings [n, D] of any length, labels [n] int64 and valid [n] bool, at a temperature above 0.

    Rows without another valid one of their class, and those that are not valid, do not count; it is 0 if none does.

    Raises TypeError or ValueError for other dtypes, shapes and devices.

    >>> z = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    >>> contrast(z, torch.tensor([0, 0, 1]), torch.ones(3) > 0, 1.0)  # log(1 + 1 / e) for the first two, the third has no pair
    tensor(0.3133)
    """
    if not isinstance(embeddings, Tensor) or embeddings.ndim != 2 or not embeddings.is_floating_point():
        raise checks.type_error("embeddings", "a floating tensor [n, D]", embeddings)
    checks.tensor("labels", labels, embeddings.shape[:1], torch.int64, like=embeddings)
    checks.tensor("valid", valid, embeddings.shape[:1], torch.bool, like=embeddings)
    if not isinstance(temperature, Tensor):
        temperature = checks.number("temperature", temperature, 0)
    else:
        checks.tensor("temperature", temperature, (), like=embeddings)
    # Zeros in place of what padding holds: a value that is not finite would reach the gradient through a product with 0.
    z = unit(torch.where(valid[:, None], embeddings, 0))
    other = ~torch.eye(len(z), dtype=torch.bool, device=z.device) & valid & valid[:, None]
    pairs = other & (labels == labels[:, None])
    similarity = (z @ z.T) / temperature
    largest = torch.where(other, similarity, -torch.inf).amax(1, keepdim=True).detach()
    similarity = torch.where(other, similarity - torch.where(largest.isfinite(), largest, 0), 0)
    log_sum = torch.where(other, similarity.exp(), 0).sum(1)
    count = pairs.sum(1)
    row_losses = torch.where(log_sum > 0, log_sum, 1).log() - torch.where(pairs, similarity, 0).sum(1) / count.clamp(min=1)
    return weighted_mean(row_losses, valid & (count > 0))
