"""BiC (Wu et al., "Large scale incremental learning", CVPR 2019): distillation and exemplars, then a correction of the bias
towards the new classes.

Stage 1 (eq. 1 to 3), on the new rows and the exemplars together, with n old and m new classes:

    L = n / (n + m) * distillation over the old classes + m / (n + m) * cross-entropy over old and new

the teacher being the corrected classifier before the new classes came. Stage 2 fits `classifiers.bias_correction` on a balanced
memory of validation rows, which stage 1 never sees.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_func import checks, classifiers, memory, random, tree
from cl_func.checks import positive_int
from cl_func.classifiers import bias_correction
from cl_func.core import Agent, Optimizer, Strategy, compose, minibatches, train_step
from cl_func.experiences import Experience
from cl_func.losses import divergence, mask_logits
from cl_func.memory import herding, replay
from cl_func.models import Model, forward, split_heads
from cl_func.models.heads import Classifier
from cl_func.optim.hyperparameters import nonnegative
from cl_func.tree import PyTree, bounded, state


@state
class BiCAgent(Agent):
    """An agent with exemplars for training and for validation, a teacher, and a bias correction."""

    replay: memory.Herding
    validation: memory.Herding
    holdout_key: Tensor  # () int64, the key that tells which rows are for validation
    teacher: PyTree  # (ModelState, BiasCorrection) before the newest classes came
    old: Tensor  # [C] bool, the classes that the teacher knows
    share: Tensor  # () float32, the exemplars' part of all rows trained on
    temperature: Tensor = bounded(partial(nonnegative, example=2.0, positive=True))  # () float32, above 0
    bic: classifiers.BiasCorrection


def _logits(model: Model, net: Any, x: Tensor, valid: Tensor, task: Tensor) -> Tensor:
    return model.apply(net.params, net.buffers, x, train=False, valid=valid, task=task)[0]


def predict(model: Model) -> Callable[[Any, Experience], Tensor]:
    """The corrected classifier `(state, exp) -> logits [n, C]` of the classes seen so far, for `cl.evaluate`."""

    def logits(agent: Any, exp: Experience) -> Tensor:
        raw = _logits(model, agent.model, exp.x, exp.valid, exp.tasks)
        return mask_logits(bias_correction.correct(agent.bic, raw), agent.old | agent.bic.new)

    return Classifier(logits, model)


def bic(
    model: Model,
    optimizer: Optimizer,
    *,
    capacity: int,
    replay_size: int,
    validation: float = 0.1,
    temperature: float = 2.0,
    decay: float = 1e-3,
    batch_size: int | None = None,
    epochs: int = 1,
    iterations: int | None = None,
) -> Strategy:
    """Distil, replay, and correct the bias on held-out rows; the model needs features. Strategy.model is the corrected classifier.

    capacity: exemplars in all, chosen by herding. validation: the fraction of them, and of all rows, that is kept for stage 2.
    Every minibatch is joined by `replay_size` exemplars, weighted so that the loss is a mean over all new rows and all exemplars.

    Where no new class comes, as in a domain-incremental stream, it is replay alone. Raises ValueError for a multi-head model.

    Hyperparameter paths: `temperature`, `bic.decay` (see `bias_correction`), those of the optimiser.
    """
    if split_heads(model)[1] is not None:
        raise ValueError(
            "model: the heads of a multi-head model do not compete, so there is no bias to correct; give a single head."
        )
    checks.drawable("replay_size", replay_size, capacity)
    nonnegative("temperature", temperature, 2.0, positive=True)
    nonnegative("decay", decay, 1e-3, positive=True)
    n_held = round(positive_int("capacity", capacity) * nonnegative("validation", validation, 0.1, positive=True, below=1))
    if min(n_held, capacity - n_held) < model.n_classes:
        raise ValueError(
            f"capacity: {capacity - n_held} rows for training and {n_held} for validation leave none to some of the "
            f"{model.n_classes} classes; give a larger capacity, or a validation nearer to 0.5."
        )
    stores = [herding.init(size, memory.sample(model), model.n_classes) for size in (capacity - n_held, n_held)]
    keep, keep_held = herding.insert(model), herding.insert(model, slot="validation")

    def parted(agent: Any, exp: Experience, held: bool) -> Experience:
        """The experience with only its rows for validation valid, or only the others."""
        word = random.children(agent.holdout_key, exp.rows) & 0xFFFFFF  # by the row's number: the same whenever it comes
        return exp.take(exp.rows, exp.valid & ((word < int(validation * 2**24)) == held))

    def begin(agent: Any, exp: Experience) -> Any:
        replay.labels(exp, model.n_classes)
        seen, filled = agent.old | agent.bic.new, agent.replay.filled
        arrived = (exp.classes & ~seen).any()
        teacher = tree.where(arrived, (agent.model, agent.bic), agent.teacher)
        old = torch.where(arrived, seen, agent.old)
        share = filled / (filled + parted(agent, exp, held=False).valid.sum()).clamp(min=1)
        new = (seen | exp.classes) & ~old
        return agent.replace(teacher=teacher, old=old, share=share, bic=agent.bic.replace(new=new))

    def loss(params: Any, agent: Any, exp: Experience) -> tuple[Tensor, Any]:
        key, draw_key = random.split(agent.key)
        rows, valid = herding.draw(agent.replay, draw_key, replay_size)
        exp = parted(agent, exp, held=False)
        both = memory.join(exp, rows, valid)
        logits, agent = forward(model, params, agent.replace(key=key), both)
        net, bias = agent.teacher
        before = bias_correction.correct(bias, _logits(model, net, both.x, both.valid, both.tasks))
        seen = agent.old | agent.bic.new
        kept = agent.old.sum() / seen.sum().clamp(min=1)
        distilled = divergence(logits, before, agent.old, agent.temperature) / agent.temperature**2  # eq. 1 has no such factor
        value = kept * distilled + (1 - kept) * F.cross_entropy(mask_logits(logits, seen), both.y, reduction="none")
        return (memory.union_weights(valid, exp.valid, agent.share) * value).sum(), agent

    def store(agent: Any, exp: Experience) -> Any:
        agent = keep(agent, parted(agent, exp, held=False))
        return keep_held(agent, parted(agent, exp, held=True))

    def fit(agent: Any, exp: Experience) -> Any:
        held, valid = agent.validation.data, agent.validation.occupied
        logits = _logits(model, agent.model, held["x"], valid, held["task"])
        return agent.replace(bic=bias_correction.fit(agent.bic, logits, held["y"], valid, agent.old, agent.bic.new))

    def init(key: Tensor) -> BiCAgent:
        key, init_key, holdout_key = random.split(key, 3)
        net, none = model.init(init_key), torch.zeros(model.n_classes, dtype=torch.bool, device=key.device)
        bias = bias_correction.init(model.n_classes, decay, key.device)
        return BiCAgent(
            key=key,
            model=net,
            opt=optimizer.init(net.params),
            replay=tree.to(stores[0], key.device),
            validation=tree.to(stores[1], key.device),
            holdout_key=holdout_key,
            teacher=(net, bias),
            old=none,
            share=torch.tensor(0.0, device=key.device),
            temperature=torch.tensor(float(temperature), device=key.device),
            bic=bias,
        )

    train = minibatches(train_step(loss, optimizer), batch_size=batch_size, epochs=epochs, iterations=iterations)
    return Strategy(init, compose(begin, train, store, fit), predict(model))
