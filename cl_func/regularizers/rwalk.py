"""Riemannian Walk (Chaudhry, Dokania, Ajanthan & Torr, "Riemannian walk for incremental learning", ECCV 2018).

EWC++ (eq. 6), at each step on a minibatch, with its Fisher information F_batch (per row, eval mode):
    fisher <- alpha * F_batch + (1 - alpha) * fisher            (with their alpha, 0.9, mostly that of the newest minibatch)
The score of the path (eq. 7), over intervals of `interval` steps, each with its path integral (see `path`) and its shift of theta:
    score <- score + max(0, path / (fisher / 2 * shift^2 + damping))
After each experience the scores are averaged with the earlier ones, both terms are scaled to [0, 1] by their maximum, and
    L = strength / 2 * sum_k (fisher_k + score_k) * (p_k - anchor_k)^2                    (eq. 8; their lambda is strength / 2)
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.checks import positive_int
from cl_func.core import SkipEmpty, Update
from cl_func.experiences import Experience
from cl_func.models import Model
from cl_func.optim.hyperparameters import nonnegative
from cl_func.regularizers import importance, quadratic
from cl_func.regularizers.importance import Labels
from cl_func.regularizers.quadratic import Quadratic, _fraction, _scalar
from cl_func.sources.source import Target
from cl_func.tree import PyTree, bounded, state

_EXPECTED = "an RWalk made by rwalk.init"


@state
class RWalk(Quadratic):
    """The slot of RWalk; `strength`, `alpha` and `damping` are hyperparameters. The trees are like the params."""

    fisher: PyTree  # running Fisher information
    score: PyTree  # of the current experience
    past: PyTree  # running mean of the scores of earlier experiences
    path: PyTree  # path integral of the current interval
    start: PyTree  # the params at the start of the interval
    # () float32 in [0, 1], weight of the newest minibatch in `fisher`
    alpha: Tensor = bounded(partial(checks.number, low=0, high=1, ends="[]"))
    damping: Tensor = bounded(partial(nonnegative, example=1e-3, positive=True))  # () float32, above 0
    rows: Tensor  # () int64, rows of the newest minibatch
    steps: Tensor  # () int64, since the start of the experience
    experiences: Tensor  # () int64, consolidated so far


def init(params: PyTree, strength: float, alpha: float = 0.9, damping: float = 1e-3) -> RWalk:
    """A slot without importances; the first interval starts at `params`. Raises ValueError for numbers out of range."""
    checks.tensors("params", params)
    zeros = tree.map(torch.zeros_like, params)
    count = torch.zeros((), dtype=torch.int64, device=tree.leaves(params)[0].device)
    return RWalk(
        **quadratic.fields(params, strength),
        fisher=zeros,
        score=zeros,
        past=zeros,
        path=zeros,
        start=params,
        alpha=_fraction("alpha", params, alpha),
        damping=_scalar(params, nonnegative("damping", damping, 1e-3, positive=True)),
        rows=count,
        steps=count,
        experiences=count,
    )


def track(
    model: Model,
    slot: str = "rwalk",
    *,
    labels: Labels | None = None,
    target: Target = "class",
    batch_size: int | None = None,
) -> Update:
    """The Update that adds a minibatch to the running Fisher information; compose it before the training step.

    labels, target: as in `importance.fisher`; batch_size: as in `importance.accumulate`.
    """
    checks.model("model", model)
    checks.path("slot", slot, "rwalk")
    measure = importance.fisher(model, labels, target)
    return importance.accumulate(measure, slot, RWalk, begin=_begin, add=_add, batch_size=batch_size)


def _begin(walk: RWalk, params: PyTree) -> RWalk:
    return tree.replace(walk, fisher=tree.map(lambda old: (1 - walk.alpha) * old, walk.fisher))


def _add(walk: RWalk, params: PyTree, part: PyTree) -> RWalk:
    return tree.replace(walk, fisher=tree.map(lambda old, new: old + walk.alpha * new, walk.fisher, part))


def score(slot: str = "rwalk", *, interval: int = 10) -> Update:
    """The Update that counts a step and, at the end of an interval, scores its path; compose it after the training step."""
    checks.path("slot", slot, "rwalk")
    return partial(_count_and_score, slot=slot, interval=positive_int("interval", interval))


def _count_and_score(agent: Any, exp: Experience, *, slot: str, interval: int) -> Any:
    walk: RWalk = checks.slot(agent, slot, RWalk, _EXPECTED)
    walk = tree.replace(walk, steps=walk.steps + 1)
    return tree.set(agent, {slot: tree.where(walk.steps % interval == 0, _scored(walk, agent.model.params), walk)})


def consolidate(slot: str = "rwalk") -> Update:
    """The Update that turns Fisher information and scores into importances; compose it after the training.

    An interval cut short by the end of the experience is scored first.
    """
    checks.path("slot", slot, "rwalk")
    return SkipEmpty(partial(_consolidate, slot=slot))


def _consolidate(agent: Any, exp: Experience, *, slot: str) -> Any:
    params = agent.model.params
    walk = _scored(checks.slot(agent, slot, RWalk, _EXPECTED), params)
    first = walk.experiences == 0
    past = tree.map(lambda new, old: torch.where(first, new, (old + new) / 2), walk.score, walk.past)
    walk = tree.replace(
        walk,
        anchor=params,
        importance=tree.map(torch.add, _to_unit(walk.fisher), _to_unit(past)),
        past=past,
        score=tree.map(torch.zeros_like, walk.score),
        steps=torch.zeros_like(walk.steps),
        experiences=walk.experiences + 1,
    )
    return tree.set(agent, {slot: walk})


def _scored(walk: RWalk, params: PyTree) -> RWalk:
    """The slot with the path of the interval that ends now added to the score; the next interval starts here."""

    def grown(score: Tensor, path: Tensor, fisher: Tensor, p: Tensor, start: Tensor) -> Tensor:
        return score + torch.relu(path / (fisher / 2 * (p - start).square() + walk.damping))

    score = tree.map(grown, walk.score, walk.path, walk.fisher, params, walk.start)
    return tree.replace(walk, score=score, path=tree.map(torch.zeros_like, walk.path), start=params)


def _to_unit(weights: PyTree) -> PyTree:
    """Weights divided by the largest of them all, so that they lie in [0, 1]."""
    largest = torch.stack([leaf.amax() for leaf in tree.leaves(weights)]).amax()
    return tree.map(lambda leaf: leaf / largest.clamp(min=torch.finfo(leaf.dtype).tiny), weights)
