"""GSS-greedy: keep rows whose gradients point in different directions (Aljundi, Lin, Goujaud & Bengio, "Gradient based sample
selection for online continual learning", NeurIPS 2019, Algorithm 2).

The score of a row says how similar its gradient g is to those, G_j, of a few random rows of the memory:
    c = max_j <g, G_j> / (|g| |G_j|) + 1        in [0, 2]; 1 if there is none to compare with
While there is room, the row is stored with its score. Afterwards, if c < 1, a row i of the memory is drawn with probability
proportional to its score C_i, and replaced with probability C_i / (C_i + c).

Gradients are of the loss of single rows by all parameters, in eval mode. For models of linear layers only the two factors
of each gradient are computed; for others n + subset_size whole gradients are held at a time, so offer rows in minibatches. The
random rows are drawn once for the n rows of a batch, as in the authors' code.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cl_func import checks, random, signatures, tree
from cl_func.checks import positive_int
from cl_func.compiler.operators import opaque
from cl_func.core import Update
from cl_func.experiences import Experience, require_kind
from cl_func.memory import buffer, draws, replay
from cl_func.memory.draws import uniform as draw
from cl_func.memory.kinds import Fields, Packed, RowLosses
from cl_func.models import Model, ModelState, row_factors
from cl_func.tree import PyTree, state

__all__ = ["GSS", "add", "draw", "init", "insert", "scores"]


def cross_entropies(logits: Tensor, y: Tensor) -> Tensor:
    """The cross-entropy of each row, [n], in nats, from logits [n, C] and labels y [n]."""
    require_kind(y, "cross-entropy, the default loss,", "class")
    return F.cross_entropy(logits, y, reduction="none")


@state
class GSS(Packed):
    """A replay memory of fixed capacity with a score for each row. The first `filled` rows are filled."""

    data: PyTree  # leaves [capacity, ...]: x, y and task
    score: Tensor  # [capacity] float32, the similarity to other rows when it was stored; 0 where not filled
    filled: Tensor  # () int64, how many rows are filled


def init(capacity: int, sample: PyTree) -> GSS:
    """An empty memory for rows like `sample`, a tree of tensors; errors as in `reservoir.init`."""
    data = buffer.allocate(capacity, sample)
    device = tree.leaves(data)[0].device
    return GSS(data=data, score=torch.zeros(capacity, device=device), filled=torch.tensor(0, device=device))


def scores(
    model: Model, net: ModelState, rows: PyTree, others: PyTree, valid: Tensor, losses: RowLosses = cross_entropies
) -> Tensor:
    """The score c [n] float32 of n rows (a dict with x, y and task) against m others, of which those `valid` [m] bool count.

    losses: `(outputs [n, K], y [n, ...]) -> [n]`, the loss of each row, by default the cross-entropy.
    """
    checks.model("model", model)
    signatures.function("losses", losses, 2, "a function (outputs [n, K], y [n, ...]) -> [n]")
    checks.instance("net", net, ModelState, "the ModelState of model.init(key)")
    like = tree.leaves(net.params)[0]
    replay.check_fields("rows", rows, like)
    replay.check_fields("others", others, like, checks.tensor("valid", valid, dtype=torch.bool, like=like))
    similarity = torch.where(valid, _cosines(model, net, rows, others, losses), -1)
    highest = torch.where(valid.any(), similarity.amax(1), 0)
    return (highest + 1).clamp(0, 2).to(torch.float32)


def _cosines(model: Model, net: ModelState, rows: PyTree, others: PyTree, losses: RowLosses) -> Tensor:
    """The cosines [n, m] of the gradients of n rows and m others."""
    n, both = rows["y"].shape[0], tree.map(lambda a, b: torch.cat([a, b]), rows, others)

    def log_likelihood(logits: Tensor) -> Tensor:
        return -losses(logits, both["y"])[:, None]

    ones = torch.ones_like(both["task"], dtype=tree.leaves(net.params)[0].dtype)[:, None, None]
    factors = row_factors(model, net, both["x"], both["task"], log_likelihood, ones)
    if factors is None:
        directions = _directions(model, net, both, losses)
        return directions[:n] @ directions[n:].T
    # <d h^T, e k^T> = <d, e> <h, k> for each layer, and <d, e> for its bias.
    products, squares = torch.zeros((), device=ones.device), torch.zeros((), device=ones.device)
    for (_, bias), (inputs, output_grads) in factors.items():
        d, constant = output_grads[:, 0], bias is not None
        products = products + (d[:n] @ d[n:].T) * (inputs[:n] @ inputs[n:].T + constant)
        squares = squares + d.square().sum(1) * (inputs.square().sum(1) + constant)
    lengths = squares.sqrt().clamp(min=1e-12)
    return products / (lengths[:n, None] * lengths[n:])


def _directions(model: Model, net: ModelState, rows: PyTree, losses: RowLosses) -> Tensor:
    """The gradients of single rows, scaled to length 1: [n, parameters]."""

    def loss(params: PyTree, row: PyTree) -> Tensor:
        logits, _ = model.apply(params, net.buffers, row["x"][None], train=False, task=row["task"][None])
        return losses(logits, row["y"][None])[0]

    grads = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(net.params, rows)
    return F.normalize(torch.cat([g.reshape(g.shape[0], -1) for g in tree.leaves(grads)], dim=1), dim=1)


@opaque("score, valid, row_draw, accept_draw, stored, filled", like=lambda score, *_: torch.empty_like(score, dtype=torch.int64))
def _greedy(score: Tensor, valid: Tensor, row_draw: Tensor, accept_draw: Tensor, stored: Tensor, filled: Tensor) -> Tensor:
    """The index at which each of n rows is stored, offered one by one, int64 [n]; -1 for a row that is not stored.

    One by one, since each replacement changes the odds of the next. score [n] float32, valid [n] bool; row_draw, accept_draw [n]
    float64: uniform draws of the row to replace, and of whether it is replaced; stored [capacity] float32, the memory's scores;
    filled () int64.
    """
    odds, n_filled = stored.cpu().numpy().copy(), int(filled)
    index = np.full(len(score), -1)
    given = (x.cpu().numpy() for x in (score, valid, row_draw, accept_draw))
    for i, (own, is_valid, which, whether) in enumerate(zip(*given, strict=True)):
        if is_valid and n_filled < len(odds):
            index[i] = n_filled
            n_filled += 1
        elif is_valid and own < 1:
            mass = np.cumsum(odds, dtype=np.float64)
            drawn = min(int((mass <= which * mass[-1]).sum()), len(odds) - 1)
            if whether * (odds[drawn] + own) < odds[drawn]:
                index[i] = drawn
        if index[i] >= 0:
            odds[index[i]] = own
    return torch.from_numpy(index).to(score.device)


def add(memory: GSS, key: Tensor, rows: PyTree, valid: Tensor, score: Tensor) -> GSS:
    """Offer n rows with their scores at once: the same as offering the valid ones one by one in order.

    rows: leaves [n, ...] in the structure of `memory.data`; valid: [n] bool; score: [n] float32, as `scores` gives.
    """
    rows = buffer.check_add(memory, GSS, "gss.init", key, rows, valid)
    checks.tensor("score", score, valid.shape, torch.float32, like=valid)
    row_draw, accept_draw = random.uniform(key, (valid.shape[0], 2), torch.float64).unbind(1)
    index = _greedy(score, valid, row_draw, accept_draw, memory.score, memory.filled)
    accepted = index >= 0
    stays = accepted & ~buffer.overwritten(index, accepted, memory.capacity)
    data, stored = buffer.write((memory.data, memory.score), (rows, score), index, stays)
    filled = (memory.filled + valid.sum()).clamp(max=memory.capacity)
    return tree.replace(memory, data=data, score=stored, filled=filled)


def insert(
    model: Model,
    subset_size: int = 10,
    slot: str = "replay",
    fields: Fields = replay.fields,
    losses: RowLosses = cross_entropies,
) -> Update:
    """The Update that offers the rows of a minibatch, scored under the present parameters, to the memory in `state.<slot>`.

    They are offered in a random order: the first rows fill a memory that has room, and rows may come class by class. They are
    compared with `subset_size` random rows of the memory, at most its capacity. `fields(state, exp)` says what is stored of the n
    rows, a tree of [n, ...] with at least x, y and task, which are the default. `losses(outputs [n, K], y [n, ...])` [n] is the
    loss of each row, whose gradients are compared, by default the cross-entropy; `cl.losses.row_losses(loss)` gives that of a loss.
    """
    positive_int("subset_size", subset_size)
    checks.model("model", model)
    checks.path("slot", slot, "replay")
    signatures.function("fields", fields, 2, "a function fields(state, exp)")
    signatures.function("losses", losses, 2, "a function (outputs [n, K], y [n, ...]) -> [n]")
    return partial(_insert, model=model, subset_size=subset_size, slot=slot, fields=fields, losses=losses)


def _insert(state: Any, exp: Experience, *, model: Model, subset_size: int, slot: str, fields: Fields, losses: RowLosses) -> Any:
    key, subset_key, add_key, order_key = random.split(state.key, 4)
    memory: GSS = checks.slot(state, slot, GSS, "a GSS made by gss.init")
    rows = buffer.fit(fields(state, exp), memory.data)
    order = buffer.shuffle(order_key, exp.valid)
    rows, valid = tree.map(lambda row: row[order], (rows, exp.valid))
    others, others_valid = draws.distinct(memory, subset_key, subset_size)
    score = scores(model, state.model, rows, others, others_valid, losses)
    return tree.set(state.replace(key=key), {slot: add(memory, add_key, rows, valid, score)})
