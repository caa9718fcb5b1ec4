"""BiC (Wu et al., "Large scale incremental learning", CVPR 2019): distillation and exemplars, then a correction of the bias
towards the new classes.

Stage 1 (eq. 1 to 3), on the new rows and the exemplars together, with n old and m new classes:

    L = n / (n + m) * distillation over the old classes + m / (n + m) * cross-entropy over old and new

The teacher is the corrected classifier before the new classes came. Stage 2 fits `classifiers.bias_correction` on a balanced memory
of validation rows, which stage 1 never sees.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_func import checks, classifiers, memory, random, tree
from cl_func.checks import positive_int
from cl_func.classifiers import bias_correction
from cl_func.core import Agent, Optimizer, Strategy, Update, compose, minibatches, train_step
from cl_func.experiences import Experience
from cl_func.losses import divergence, mask_logits
from cl_func.memory import herding, replay
from cl_func.models import Model, ModelState, forward, split_heads
from cl_func.models.heads import Classifier
from cl_func.optim.hyperparameters import nonnegative
from cl_func.tree import PyTree, bounded, state


@state
class BiCAgent(Agent):
    """An agent with exemplars for training and for validation, a teacher, and a bias correction."""

    replay: memory.Herding
    validation: memory.Herding
    holdout_key: Tensor  # () int64, the key that decides which rows are for validation
    teacher: PyTree  # (ModelState, BiasCorrection) before the newest classes came
    old: Tensor  # [C] bool, the classes that the teacher knows
    share: Tensor  # () float32, the fraction of the training rows that are exemplars
    temperature: Tensor = bounded(partial(nonnegative, example=2.0, positive=True))  # () float32, above 0
    bic: classifiers.BiasCorrection


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
    """Distil the old classes, replay exemplars, and correct the bias towards the new classes on rows held out for it.

    Every minibatch is joined by exemplars, weighted so that the loss is a mean over all new rows and all exemplars. Where no new
    class comes, those that came last remain the new ones; if all came in the first experience, it is replay alone.

    Reference: Wu, Chen, Wang, Ye, Liu, Guo & Fu, "Large scale incremental learning", CVPR 2019.

    Hyperparameter paths: `temperature`, `bic.decay`, those of the optimiser.

    Args:
        model: The network to train, such as `cl.models.mlp(64, hidden=(256,), n_classes=10)`. It must give `features`, by which the
            exemplars are chosen, have an `input_shape`, and be no multi-head model.
        optimizer: The optimiser, such as `cl.optim.sgd(lr=0.1)`.
        capacity: Exemplars in all, those for validation included; each of the two parts has room for at least one of every class.
        replay_size: Exemplars drawn with every minibatch, from 1 to `capacity`.
        validation: The fraction of the exemplars, and of all rows, that is held out of the training for the correction, above 0 and
            below 1.
        temperature: Divides the logits of teacher and student before the softmax, above 0; the higher, the softer.
        decay: Weight of the penalty that keeps the correction near the identity, above 0 (see `cl.classifiers.bias_correction`).
        batch_size: Rows per minibatch, at least 1; None, the default, takes each experience as one minibatch, as in online streams.
        epochs: Passes over each experience, at least 1.
        iterations: Minibatches per experience, at least 1, instead of whole passes; then `epochs` must be 1. None by default.

    Returns:
        A Strategy with the state `BiCAgent`; `Strategy.model` is the corrected classifier, a function `(state, exp) -> logits [n,
        C]`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A number is out of its range, both `epochs` and `iterations` are given, a part of the memory has no room for
            some class, or the model gives no features, has no `input_shape`, or has several heads, which do not compete.
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
    empty, empty_held = (herding.init(size, memory.sample(model), model.n_classes) for size in (capacity - n_held, n_held))
    step = train_step(partial(_loss, model=model, replay_size=replay_size, validation=validation), optimizer)
    insert, insert_held = herding.insert(model), herding.insert(model, slot="validation")
    return Strategy(
        partial(
            _init,
            model=model,
            optimizer=optimizer,
            empty=empty,
            empty_held=empty_held,
            temperature=float(temperature),
            decay=decay,
        ),
        compose(
            partial(_begin, n_classes=model.n_classes, validation=validation),
            minibatches(step, batch_size=batch_size, epochs=epochs, iterations=iterations),
            partial(_store, insert=insert, insert_held=insert_held, validation=validation),
            partial(_fit, model=model),
        ),
        Classifier(partial(_logits, model), model),
    )


def _init(
    key: Tensor,
    *,
    model: Model,
    optimizer: Optimizer,
    empty: memory.Herding,
    empty_held: memory.Herding,
    temperature: float,
    decay: float,
) -> BiCAgent:
    key, init_key, holdout_key = random.split(key, 3)
    net = model.init(init_key)
    bias = bias_correction.init(model.n_classes, decay, key.device)
    return BiCAgent(
        key=key,
        model=net,
        opt=optimizer.init(net.params),
        replay=tree.to(empty, key.device),
        validation=tree.to(empty_held, key.device),
        holdout_key=holdout_key,
        teacher=(net, bias),
        old=torch.zeros(model.n_classes, dtype=torch.bool, device=key.device),
        share=torch.tensor(0.0, device=key.device),
        temperature=torch.tensor(temperature, device=key.device),
        bic=bias,
    )


def _split(agent: BiCAgent, exp: Experience, validation: float) -> tuple[Experience, Experience]:
    """The experience with only its rows for training valid, and with only those for validation.

    Each row draws by its number in the source, so that it is on the same side whenever it comes.
    """
    bits = random.children(agent.holdout_key, exp.rows) & 0xFFFFFF
    held = bits < int(validation * 2**24)
    return exp.take(exp.rows, exp.valid & ~held), exp.take(exp.rows, exp.valid & held)


def _begin(agent: BiCAgent, exp: Experience, *, n_classes: int, validation: float) -> BiCAgent:
    """The Update before the training: where a new class comes, the classifier becomes the teacher of the classes seen before."""
    replay.labels(exp, n_classes, exact=True)
    seen, filled = agent.old | agent.bic.new, agent.replay.filled
    arrived = (exp.classes & ~seen).any()
    teacher = tree.where(arrived, (agent.model, agent.bic), agent.teacher)
    old = torch.where(arrived, seen, agent.old)
    training, _ = _split(agent, exp, validation)
    share = (filled / (filled + training.valid.sum()).clamp(min=1)).to(agent.share.dtype)
    new = (seen | exp.classes) & ~old
    return agent.replace(teacher=teacher, old=old, share=share, bic=tree.replace(agent.bic, new=new))


def _loss(
    params: PyTree, agent: BiCAgent, exp: Experience, *, model: Model, replay_size: int, validation: float
) -> tuple[Tensor, BiCAgent]:
    """L, with the exemplars drawn standing in for all of them."""
    key, draw_key = random.split(agent.key)
    rows, drawn = herding.draw(agent.replay, draw_key, replay_size)
    training, _ = _split(agent, exp, validation)
    joined = memory.join(training, rows, drawn)
    logits, agent = forward(model, params, agent.replace(key=key), joined)
    net, bias = agent.teacher
    before = bias_correction.correct(bias, _raw_logits(model, net, joined.x, joined.valid, joined.tasks))
    seen = agent.old | agent.bic.new
    old_part = agent.old.sum() / seen.sum().clamp(min=1)
    distilled = divergence(logits, before, agent.old, agent.temperature) / agent.temperature**2  # eq. 1 has no such factor
    classified = F.cross_entropy(mask_logits(logits, seen), joined.y, reduction="none")
    row_losses = old_part * distilled + (1 - old_part) * classified
    return (memory.union_weights(drawn, training.valid, agent.share) * row_losses).sum(), agent


def _store(agent: BiCAgent, exp: Experience, *, insert: Update, insert_held: Update, validation: float) -> BiCAgent:
    """The Update after the training: each of the two memories is offered its rows."""
    training, held = _split(agent, exp, validation)
    stored: BiCAgent = insert_held(insert(agent, training), held)
    return stored


def _fit(agent: BiCAgent, exp: Experience, *, model: Model) -> BiCAgent:
    """The Update of stage 2: the bias correction is fitted on the memory of validation rows, under the present weights."""
    rows, valid = agent.validation.data, agent.validation.occupied
    logits = _raw_logits(model, agent.model, rows["x"], valid, rows["task"])
    return agent.replace(bic=bias_correction.fit(agent.bic, logits, rows["y"], valid, agent.old, agent.bic.new))


def _raw_logits(model: Model, net: ModelState, x: Tensor, valid: Tensor, task: Tensor) -> Tensor:
    """The logits [n, C] of a network in eval mode, not corrected."""
    return model.apply(net.params, net.buffers, x, train=False, valid=valid, task=task)[0]


def _logits(model: Model, agent: BiCAgent, exp: Experience) -> Tensor:
    """The corrected logits [n, C] of the classes seen so far."""
    raw = _raw_logits(model, agent.model, exp.x, exp.valid, exp.tasks)
    return mask_logits(bias_correction.correct(agent.bic, raw), agent.old | agent.bic.new)
