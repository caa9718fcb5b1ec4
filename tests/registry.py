"""Every public component, once: what `test_laws.py` takes through the laws. A new component that is not here fails a test."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import cl_func as cl
from cl_func import classifiers, losses, memory, optim, plasticity, projections, regularizers
from cl_func.models.mlp import _layout, _Stack
from cl_func.strategies.extending import with_slots

BENCHES = {target: cl.testing.small_benchmark(target=target) for target in ("class", "multilabel", "regression")}
BENCH = BENCHES["class"]
MODEL = cl.models.mlp(6, hidden=(8,), n_classes=4)
OPTIMIZERS = {
    "sgd": optim.sgd(0.1),
    "sgd_momentum": optim.sgd(0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": optim.adam(1e-2, weight_decay=1e-3),
    "adamw": optim.adamw(1e-2),
    "adam_count_each": optim.adam(1e-2, count_each=True),
}


def bn_net() -> torch.nn.Module:
    """With batch norm, whose large eps keeps few rows with nearly equal values from blowing rounding errors up."""
    return torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8, eps=0.5), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(8, 4)
    )


class Odd(torch.nn.Module):
    """Parameters of every kind: frozen, tied, of shape () and [8], of a convolution and of batch norms.

    The large eps keeps few rows with nearly equal values from blowing rounding errors up.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.conv_norm = torch.nn.Conv2d(1, 2, (1, 2), bias=False), torch.nn.BatchNorm2d(2, eps=0.5)
        self.frozen = torch.nn.Linear(8, 8).requires_grad_(False)
        self.norm = torch.nn.BatchNorm1d(8, eps=0.5)
        self.first, self.second = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8, bias=False)
        self.second.weight = self.first.weight
        self.gate = torch.nn.Parameter(torch.ones(8))
        self.last = cl.models.CosineLinear(8, 4, scale=2.0)  # its scale has the shape ()

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.conv_norm(self.conv(x.unflatten(1, (1, 2, 3))))).flatten(1)
        h = torch.tanh(self.norm(self.frozen(h)))
        return self.last(torch.tanh(self.second(torch.tanh(self.first(h)))) * self.gate)


def stack_net() -> torch.nn.Module:
    """The module of STACK, whose batch norms have a large eps here, for the reason that Odd gives."""
    net = _Stack(_layout((6, 8, 5, 4), cosine=False, activation="crelu"), "batch", 0.2)
    for layer in net:
        if isinstance(layer, torch.nn.BatchNorm1d):
            layer.eps = 0.5
    return net


def picture_net() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Dropout(0.2), torch.nn.Linear(8, 4)
    )


NORMED = cl.models.from_module(bn_net, n_classes=4, input_shape=(6,), last_layer="4")
ODD = cl.models.from_module(Odd, n_classes=4, input_shape=(6,), last_layer="last")
STACK = cl.models.mlp(6, hidden=(8, 5), n_classes=4, activation="crelu", norm="batch", dropout=0.2)
TRAINED_STACK = cl.models.from_module(stack_net, n_classes=4, input_shape=(6,), last_layer="8")
# In eval mode alone: 17 batch norms blow rounding errors of float32 up; `models/test_models.py` trains it in float64.
RESNET = cl.models.resnet18(4, width=2, input_shape=(1, 2, 3))
VIT = cl.models.vit(1, 1, n_classes=4, channels=6, width=8, depth=1, heads=2, dropout=0.1)
VIEWS = cl.augment.compose(cl.augment.random_crop(padding=1), cl.augment.horizontal_flip(), cl.augment.cutout(1))
PICTURES = cl.models.from_module(picture_net, n_classes=4, input_shape=(1, 2, 3), last_layer="4")
AUGMENTED = cl.models.augmented(cl.models.normalized(PICTURES, 0.1, 2.0), VIEWS)
PROJECTED = {
    "linear": cl.models.projected(AUGMENTED, 5, head="linear"),
    **{name: cl.models.projected(model, 5) for name, model in {"mlp": MODEL, "bn": NORMED, "odd": ODD}.items()},
}
HEADS = cl.models.multi_head(MODEL, torch.tensor([[True, False, True, False], [False, True, False, True]]))


@cl.state
class Everything(cl.Agent):
    """An agent with every slot, so that each component finds its own."""

    replay: memory.Reservoir
    lwf: regularizers.LwF
    seen: Tensor


def init(key: Tensor, model: Any = MODEL, optimizer: Any = OPTIMIZERS["sgd_momentum"]) -> Everything:
    key, weights, rows = cl.random.split(key, 3)
    net = model.init(weights)
    slot = regularizers.lwf.init(cl.tree.map(lambda w: w * 0.5 if w.is_floating_point() else w, net), 4)
    old = torch.tensor([True, False, True, False])
    store = memory.reservoir.init(5, memory.sample(model))
    first = BENCH.train[1]
    store = memory.reservoir.add(store, rows, memory.replay.fields(None, first), first.valid)
    return Everything(
        key=key,
        model=net,
        opt=optimizer.init(net.params),
        replay=store,
        lwf=slot.replace(old=old, seen=old),
        seen=torch.ones(4) > 0,
    )


def holding(make: Callable[..., Any]) -> Callable[..., Any]:
    """A start whose memory is `make(sample)`, with an experience offered by `insert` where there is one."""

    def start(key: Tensor, model: Any, optimizer: Any) -> Any:
        empty, insert = make(memory.sample(model))
        return insert(init(key, model, optimizer).replace(replay=empty), BENCH.train[1])

    return start


def _gss(sample: Any, model: Any = MODEL) -> Any:
    return memory.gss.init(9, sample), memory.gss.insert(model, 3)


BALANCED = holding(lambda sample: (memory.balanced.init(5, sample), memory.balanced.insert()))
GDUMB = holding(lambda sample: (memory.gdumb.init(7, sample, 4), memory.gdumb.insert()))
GSS = holding(_gss)
GSS_NORMED = holding(lambda sample: _gss(sample, NORMED))
GSS_ODD = holding(lambda sample: _gss(sample, ODD))
RING = holding(lambda sample: (memory.ring.init(3, sample, 4), memory.ring.insert()))


@cl.state
class Featured(Everything):
    """With what works on features."""

    herd: memory.Herding
    ncm: classifiers.NearestMean
    slda: classifiers.SLDA
    ranpac: classifiers.RanPAC
    fecam: classifiers.FeCAM
    acil: classifiers.ACIL


def featured(key: Tensor, model: Any = MODEL, optimizer: Any = OPTIMIZERS["sgd_momentum"]) -> Featured:
    agent = init(key, model, optimizer)
    row = cl.models.sample_features(model, agent.model)
    wide = Featured(
        **{name: getattr(agent, name) for name in ("key", "model", "opt", "replay", "lwf", "seen")},
        herd=memory.herding.init(7, memory.sample(model), 4),
        ncm=classifiers.nearest_mean.init(4, row),
        slda=classifiers.slda.init(4, row, shrinkage=0.1),
        ranpac=classifiers.ranpac.init(4, row, cl.random.fold_in(key, 1), 16),
        fecam=classifiers.fecam.init(4, row),
        acil=classifiers.acil.init(4, row, cl.random.fold_in(key, 2), 16),
    )
    parts = (classifiers.nearest_mean, classifiers.slda, classifiers.ranpac, classifiers.fecam, classifiers.acil)
    fill = cl.compose(memory.herding.insert(model, slot="herd"), *[part.insert(model) for part in parts])
    return fill(wide, BENCH.train[1])


def with_logits(key: Tensor, model: Any = MODEL, optimizer: Any = OPTIMIZERS["sgd_momentum"]) -> Everything:
    """The same, with a memory whose rows store logits."""
    state = init(key, model, optimizer)
    store = memory.reservoir.init(12, memory.dark.sample(model))
    return memory.reservoir.insert(fields=memory.dark.fields(model))(state.replace(replay=store), BENCH.train[1])


def insert_inputs_as_logits(state: Any, exp: Any) -> Any:
    """`memory.dark.insert` of logits that follow from the experience, as a method has them."""
    return memory.dark.insert(exp.x[:, :4])(state, exp)


@cl.state
class Regularised(cl.Agent):
    """An agent with the slots of the regularisers that hold parameters."""

    ewc: regularizers.EWC
    online: regularizers.EWC
    mas: regularizers.MAS
    si: regularizers.SI
    rwalk: regularizers.RWalk


def regularised(key: Tensor, model: Any = MODEL, optimizer: Any = OPTIMIZERS["sgd_momentum"]) -> Regularised:
    """In the middle of a run: importances and paths are there, and the anchors lie elsewhere."""
    key, weights, other = cl.random.split(key, 3)
    net, before = model.init(weights), model.init(other).params

    def used(slot: Any) -> Any:
        trees = {
            name: cl.tree.map(lambda leaf: 0.1 + leaf.square(), net.params)
            for name in ("importance", "fisher", "score", "past", "path")
            if hasattr(slot, name)
        }
        return slot.replace(**trees)

    return Regularised(
        key=key,
        model=net,
        opt=optimizer.init(net.params),
        ewc=used(regularizers.ewc.init(before, 0.5)),
        online=used(regularizers.ewc.init(before, 0.5, decay=0.9)),
        mas=used(regularizers.mas.init(before, 0.5, decay=0.9)),
        si=used(regularizers.si.init(before, 0.5)),
        rwalk=used(regularizers.rwalk.init(before, 0.5)),
    )


@cl.state
class Constrained(cl.Agent):
    """An agent with the slots of the gradient constraints, filled."""

    replay: memory.Reservoir
    gem: projections.GEMMemory
    ogd: projections.OGD
    owm: projections.OWM | None = None  # for models of linear layers


def constrained(key: Tensor, model: Any = MODEL, optimizer: Any = OPTIMIZERS["sgd_momentum"]) -> Constrained:
    start = init(key, model, optimizer)
    agent = Constrained(
        key=start.key,
        model=start.model,
        opt=start.opt,
        replay=start.replay,
        gem=projections.gem.init(4, 3, memory.sample(model)),
        ogd=projections.ogd.init(model, start.model, 5),
        owm=projections.owm.init(model, start.model, alpha=0.1) if model is MODEL else None,
    )
    fill = [projections.gem.insert(), projections.ogd.store(model, 2)]
    return cl.compose(*fill, *([projections.owm.absorb(model)] if model is MODEL else []))(agent, BENCH.train[1])


@cl.state
class Traced(Everything):
    """With a trace, in which as many values have been recorded as it holds, and one more."""

    trace: cl.trace.Trace


def traced(key: Tensor, model: Any = MODEL, optimizer: Any = OPTIMIZERS["sgd_momentum"]) -> Traced:
    trace = cl.trace.init(3)
    for value in torch.arange(4.0):
        trace = cl.trace.add(trace, value)
    return Traced(**vars(init(key, model, optimizer)), trace=trace)


def measured(key: Tensor, model: Any = MODEL, optimizer: Any = OPTIMIZERS["sgd_momentum"]) -> Any:
    """With the sums of an online evaluation, after a few rows."""
    state, online = init(key, model, optimizer), cl.trace.online.measure(model)
    return online(with_slots(state, online=online.init(state.model)), BENCH.train[1])


CBP_UTILITIES = ("adaptable_contribution", "random")


def _cbp(model: Any, utility: Any, **more: Any) -> Any:
    return plasticity.continual_backprop(model, 0.5, 1, utility=utility, slot=f"cbp_{utility}", **more)


def plastic(key: Tensor, model: Any = MODEL, optimizer: Any = OPTIMIZERS["sgd_momentum"]) -> Any:
    """With the slots of the methods against loss of plasticity, in the middle of a run: some units are new, some mature."""
    agent = init(key, model, optimizer)
    parts: list[Any] = [plasticity.shrink_and_perturb(model), plasticity.l2_init(0.5), plasticity.spectral(0.5)]
    parts += [plasticity.upgd(0.1, slot="upgd")]
    before = model.init(cl.random.fold_in(key, 1))
    cbps = [] if model is ODD else [_cbp(model, utility) for utility in CBP_UTILITIES]
    cbps += [] if model is ODD else [plasticity.redo(model, 0.9, 2)]
    agent = with_slots(agent, **{part.slot: part.init(before) for part in (*parts, *cbps)})
    for part in cbps * 3:
        agent = part(agent, BENCH.train[1])
    return agent


def learning_rate(state: Any, exp: Any) -> Tensor:
    return state.opt.lr * state.opt.scale


def redrawn(state: Any, exp: Any, *, model: Any) -> Any:
    """Half of the rows of each parameter drawn anew, as a method that resets units does."""
    key, draw_key, choice_key = cl.random.split(state.key, 3)
    old = state.model.params
    new = model.fresh(draw_key, old)
    mixed = {}
    for i, (name, p) in enumerate(old.items()):
        chosen = cl.random.bernoulli(cl.random.fold_in(choice_key, i), 0.5, tuple(p.shape[:1]))
        mixed[name] = torch.where(chosen.reshape(chosen.shape + (1,) * (p.ndim - 1)), new[name], p)
    return state.replace(key=key, model=state.model.replace(params=mixed))


def dormancy(state: Any, exp: Any, *, model: Any) -> dict[str, Tensor]:
    """The mean size of each hidden unit over the valid rows."""
    found = cl.models.activations(model, state.model, exp)
    return {name: (h.abs() * exp.valid[:, None]).sum(0) / exp.valid.sum() for name, h in found.items()}


def inverse(ticks: Tensor) -> Tensor:
    """A schedule of one's own."""
    return 1 / (1.0 + ticks)


@dataclass(frozen=True)
class Case:
    name: str
    make: Callable[[], Any]
    model: Any = MODEL
    optimizer: Any = OPTIMIZERS["sgd_momentum"]
    start: Callable[..., Any] = init  # (key, model, optimizer) -> state, for a component that needs slots of its own
    target: str = "class"  # the kind of targets that it is for

    @property
    def bench(self) -> Any:
        return BENCHES[self.target]

    def state(self, key: Tensor | None = None) -> Any:
        return self.start(cl.key(0) if key is None else key, self.model, self.optimizer)


_MOMENTUM = OPTIMIZERS["sgd_momentum"]


def halved(lr: Tensor, exp: Any) -> Tensor:
    return lr * 0.5


def fast(state: Any, exp: Any) -> Tensor:
    return state.opt.lr > 0.102


def _ce(model: Any = MODEL) -> Any:
    return losses.cross_entropy(model)


LOSSES = [
    Case("losses.cross_entropy", _ce),
    Case("losses.cross_entropy", lambda: _ce(NORMED), model=NORMED),
    Case("losses.cross_entropy", lambda: losses.cross_entropy(MODEL, mask="experience")),
    Case("losses.cross_entropy", lambda: losses.cross_entropy(MODEL, mask="seen")),
    Case("losses.total", lambda: losses.total(_ce(), regularizers.lwf.distillation(MODEL))),
    Case("losses.scaled", lambda: losses.scaled(_ce(), "lwf.strength")),
    Case("losses.with_replay", lambda: losses.with_replay(_ce(), 3)),
    Case("losses.with_replay", lambda: losses.with_replay(_ce(), 3, draw=memory.draws.uniform), start=RING),
    Case("losses.with_replay", lambda: losses.with_replay(_ce(), 3, draw=memory.draws.class_balanced), start=BALANCED),
    Case("losses.with_replay", lambda: losses.with_replay(_ce(), 3, draw=memory.draws.distinct), start=GDUMB),
    Case("losses.with_replay", lambda: losses.with_replay(losses.cross_entropy(NORMED, mask="experience"), 3), model=NORMED),
    Case("losses.replayed", lambda: losses.replayed(_ce(), 3)),
    Case("losses.dark_experience", lambda: losses.dark_experience(MODEL, 3), start=with_logits),
    Case("losses.dark_experience", lambda: losses.dark_experience(NORMED, 12), model=NORMED, start=with_logits),
    Case("regularizers.lwf.distillation", lambda: regularizers.lwf.distillation(MODEL)),
    Case("regularizers.lwf.distillation", lambda: regularizers.lwf.distillation(NORMED), model=NORMED),
    Case("regularizers.lwf.distillation", lambda: regularizers.lwf.distillation(HEADS)),
    Case("regularizers.quadratic.loss", lambda: regularizers.quadratic.loss("ewc"), start=regularised),
    Case("regularizers.quadratic.loss", lambda: regularizers.quadratic.loss("rwalk"), model=ODD, start=regularised),
    Case("regularizers.lwf.distillation", lambda: regularizers.lwf.distillation(ODD), model=ODD),
    Case("losses.mixup", lambda: losses.mixup(MODEL, alpha="lwf.strength", mask="seen")),
    Case("losses.mixup", lambda: losses.with_replay(losses.mixup(NORMED), 3), model=NORMED),
    Case("losses.mixup", lambda: losses.with_replay(losses.mixup(HEADS, 0.2), 3)),
    Case("losses.mixup", lambda: losses.mixup(AUGMENTED), model=AUGMENTED),
    Case("losses.mixup", lambda: losses.mixup(ODD), model=ODD),
    Case("losses.cutmix", lambda: losses.with_replay(losses.cutmix(AUGMENTED, mask="experience"), 3), model=AUGMENTED),
    Case("losses.cutmix", lambda: losses.cutmix(PICTURES), model=PICTURES),
    Case("losses.supervised_contrastive", lambda: losses.supervised_contrastive(MODEL, temperature="lwf.temperature")),
    Case("losses.supervised_contrastive", lambda: losses.supervised_contrastive(AUGMENTED), model=AUGMENTED),
    Case("losses.supervised_contrastive", lambda: losses.supervised_contrastive(ODD), model=ODD),
    Case("losses.supervised_contrastive", lambda: losses.with_replay(losses.supervised_contrastive(NORMED), 3), model=NORMED),
    *[
        Case("losses.supervised_contrastive", lambda model=model: losses.supervised_contrastive(model, 0.5), model=model)
        for model in PROJECTED.values()
    ],
    Case("losses.cross_entropy", lambda: _ce(ODD), model=ODD),
    *[Case("losses.cross_entropy", lambda model=model: _ce(model), model=model) for model in (TRAINED_STACK, VIT)],
    Case("losses.cross_entropy", lambda: _ce(AUGMENTED), model=AUGMENTED),
    Case("losses.with_replay", lambda: losses.with_replay(_ce(AUGMENTED), 3), model=AUGMENTED),
    Case("regularizers.lwf.distillation", lambda: regularizers.lwf.distillation(AUGMENTED), model=AUGMENTED),
    Case("losses.with_replay", lambda: losses.with_replay(_ce(ODD), 3), model=ODD),
    Case("losses.dark_experience", lambda: losses.dark_experience(ODD, 3), model=ODD, start=with_logits),
    Case("trace.loss", lambda: cl.trace.loss(losses.with_replay(_ce(), 3)), start=traced),
    Case("trace.loss", lambda: losses.total(_ce(ODD), cl.trace.loss(_ce(ODD))), model=ODD, start=traced),
    Case("plasticity.l2_init", lambda: plasticity.l2_init(0.5), start=plastic),
    *[Case("plasticity.spectral", lambda: plasticity.spectral(0.5), model=model, start=plastic) for model in (MODEL, ODD)],
]

UPDATES = [
    *[Case("train_step", lambda o=o: cl.train_step(_ce(), o), optimizer=o) for o in OPTIMIZERS.values()],
    Case("train_step", lambda: cl.train_step(losses.with_replay(_ce(NORMED), 3), optim.sgd(0.1)), NORMED, optim.sgd(0.1)),
    Case(
        "compose",
        lambda: cl.compose(losses.mark_seen(), cl.train_step(_ce(), optim.adam()), optim.restart()),
        optimizer=optim.adam(),
    ),
    Case("minibatches", lambda: cl.minibatches(_step(), batch_size=4, epochs=2)),
    Case("minibatches", lambda: cl.minibatches(_step(), batch_size=None, epochs=2)),
    Case("minibatches", lambda: cl.minibatches(_step(), batch_size=20, iterations=5)),
    Case("minibatches", lambda: cl.minibatches(_step(), batch_size=4, shuffle=False)),
    Case("repeat", lambda: cl.repeat(_step(), 3)),
    Case("at", lambda: cl.at("opt.lr", halved)),
    Case("when", lambda: cl.when(regularizers.lwf.new_classes(), regularizers.lwf.snapshot())),
    Case("when", lambda: cl.when(fast, regularizers.lwf.snapshot())),
    Case("losses.mark_seen", lambda: losses.mark_seen()),
    Case("memory.reservoir.insert", lambda: memory.reservoir.insert()),
    Case("memory.balanced.insert", lambda: memory.balanced.insert(), start=BALANCED),
    Case("memory.balanced.insert", lambda: memory.balanced.insert(groups=memory.balanced.by_experience), start=BALANCED),
    Case("memory.balanced.insert", lambda: memory.balanced.insert(groups=memory.balanced.by_task), start=BALANCED),
    Case("memory.gdumb.insert", lambda: memory.gdumb.insert(), start=GDUMB),
    Case("memory.gss.insert", lambda: memory.gss.insert(MODEL, 4), start=GSS),
    Case("memory.gss.insert", lambda: memory.gss.insert(NORMED, 4), model=NORMED, start=GSS_NORMED),
    Case("memory.gss.insert", lambda: memory.gss.insert(ODD, 4), model=ODD, start=GSS_ODD),
    Case("memory.ring.insert", lambda: memory.ring.insert(), start=RING),
    Case("memory.rehearse", lambda: memory.rehearse(_step_alone(), batch_size=4), start=RING),
    Case("memory.rehearse", lambda: memory.rehearse(_step_alone(), batch_size=None), start=BALANCED),
    Case("memory.rehearse", lambda: memory.rehearse(_step_alone(), batch_size=3, iterations=4), start=GSS),
    *[
        Case(name, lambda make=make, model=model: make(model), model=model, start=featured)
        for model in (MODEL, NORMED, ODD)
        for name, make in (
            ("memory.herding.insert", lambda model: memory.herding.insert(model, slot="herd")),
            ("classifiers.nearest_mean.insert", classifiers.nearest_mean.insert),
            ("classifiers.slda.insert", classifiers.slda.insert),
            ("classifiers.ranpac.insert", classifiers.ranpac.insert),
            ("classifiers.fecam.insert", classifiers.fecam.insert),
            ("classifiers.acil.insert", classifiers.acil.insert),
        )
    ],
    Case("classifiers.ranpac.begin", classifiers.ranpac.begin, start=featured),
    Case("memory.dark.insert", lambda: insert_inputs_as_logits, start=with_logits),
    Case("memory.dark.fields", lambda: memory.reservoir.insert(fields=memory.dark.fields(NORMED)), NORMED, start=with_logits),
    Case("regularizers.lwf.snapshot", lambda: regularizers.lwf.snapshot()),
    Case("regularizers.ewc.consolidate", lambda: regularizers.ewc.consolidate(MODEL), start=regularised),
    Case("regularizers.ewc.consolidate", lambda: regularizers.ewc.consolidate(MODEL, "online", labels="model"), start=regularised),
    Case(
        "regularizers.ewc.consolidate",
        lambda: regularizers.ewc.consolidate(NORMED, "online", labels="all", batch_size=32),
        model=NORMED,
        start=regularised,
    ),
    Case("regularizers.mas.consolidate", lambda: regularizers.mas.consolidate(MODEL), start=regularised),
    Case("regularizers.mas.consolidate", lambda: regularizers.mas.consolidate(MODEL, samples=20, batch_size=3), start=regularised),
    Case(
        "regularizers.mas.consolidate", lambda: regularizers.mas.consolidate(NORMED, batch_size=8), model=NORMED, start=regularised
    ),
    Case("regularizers.path.train_step", lambda: regularizers.path.train_step(_ce(), _MOMENTUM, slot="si"), start=regularised),
    Case(
        "regularizers.path.train_step",
        lambda: regularizers.path.train_step(_ce(NORMED), _MOMENTUM, optim.clip_by_global_norm(0.5), slot="rwalk"),
        model=NORMED,
        start=regularised,
    ),
    Case("regularizers.si.consolidate", lambda: regularizers.si.consolidate(), start=regularised),
    Case("regularizers.rwalk.track", lambda: regularizers.rwalk.track(MODEL), start=regularised),
    Case("regularizers.rwalk.score", lambda: regularizers.rwalk.score(interval=1), start=regularised),
    Case("regularizers.rwalk.score", lambda: regularizers.rwalk.score(interval=2), start=regularised),
    Case("regularizers.rwalk.consolidate", lambda: regularizers.rwalk.consolidate(), start=regularised),
    Case("projections.gem.insert", lambda: projections.gem.insert(), start=constrained),
    Case("projections.owm.absorb", lambda: projections.owm.absorb(MODEL), start=constrained),
    Case("projections.ogd.store", lambda: projections.ogd.store(MODEL, 3), start=constrained),
    Case("projections.ogd.store", lambda: projections.ogd.store(NORMED, 3), NORMED, start=constrained),
    Case("projections.ogd.store", lambda: projections.ogd.store(ODD, 3), ODD, start=constrained),
    Case("train_step", lambda: cl.train_step(_ce(ODD), OPTIMIZERS["adamw"]), ODD, OPTIMIZERS["adamw"]),
    Case("train_step", lambda: cl.train_step(losses.with_replay(_ce(AUGMENTED), 3), _MOMENTUM), AUGMENTED),
    Case("memory.herding.insert", lambda: memory.herding.insert(AUGMENTED, slot="herd"), model=AUGMENTED, start=featured),
    Case("memory.dark.fields", lambda: memory.reservoir.insert(fields=memory.dark.fields(ODD)), ODD, start=with_logits),
    Case("regularizers.lwf.snapshot", lambda: regularizers.lwf.snapshot(), model=ODD),
    Case("regularizers.ewc.consolidate", lambda: regularizers.ewc.consolidate(ODD, labels="all"), model=ODD, start=regularised),
    Case("regularizers.mas.consolidate", lambda: regularizers.mas.consolidate(ODD), model=ODD, start=regularised),
    Case(
        "regularizers.path.train_step",
        lambda: regularizers.path.train_step(_ce(ODD), _MOMENTUM, slot="si"),
        model=ODD,
        start=regularised,
    ),
    Case("regularizers.si.consolidate", lambda: regularizers.si.consolidate(), model=ODD, start=regularised),
    Case("regularizers.rwalk.track", lambda: regularizers.rwalk.track(ODD), model=ODD, start=regularised),
    Case("regularizers.rwalk.score", lambda: regularizers.rwalk.score(interval=1), model=ODD, start=regularised),
    Case("regularizers.rwalk.consolidate", lambda: regularizers.rwalk.consolidate(), model=ODD, start=regularised),
    Case("optim.schedule", lambda: optim.schedule(inverse)),
    Case("trace.record", lambda: cl.trace.record(learning_rate), start=traced),
    *[Case("trace.online.measure", lambda m=m: cl.trace.online.measure(m), model=m, start=measured) for m in (MODEL, NORMED, ODD)],
    Case("minibatches", lambda: cl.minibatches(cl.train_step(cl.trace.loss(_ce()), _MOMENTUM), batch_size=4), start=traced),
    Case("optim.exponential_decay", lambda: optim.exponential_decay(0.9)),
    Case("optim.step_decay", lambda: optim.step_decay(2, 0.5)),
    Case("optim.cosine_decay", lambda: optim.cosine_decay(10)),
    Case("optim.restart", lambda: optim.restart()),
    *[
        Case("models.fresh_function", lambda model=model: partial(redrawn, model=model), model=model)
        for model in (MODEL, NORMED, ODD, STACK, RESNET, VIT, PROJECTED["bn"])
    ],
    *[
        Case("plasticity.continual_backprop", lambda model=model, u=utility: _cbp(model, u), model=model, start=plastic)
        for model, utility in ((MODEL, "adaptable_contribution"), (MODEL, "random"), (STACK, "adaptable_contribution"))
    ],
    Case(
        "plasticity.continual_backprop",
        lambda: _cbp(PICTURES, "random", keep_mean=True),
        PICTURES,
        OPTIMIZERS["adam_count_each"],
        plastic,
    ),
    Case("plasticity.redo", lambda: plasticity.redo(MODEL, 0.9, 2), start=plastic),
    Case("plasticity.reset_head", lambda: plasticity.reset_head(MODEL)),
    Case("plasticity.reset_head", lambda: plasticity.reset_head(ODD, "zero", layers=("last", "gate")), ODD, OPTIMIZERS["adam"]),
    Case("plasticity.shrink_and_perturb", lambda: plasticity.shrink_and_perturb(MODEL), start=plastic),
    Case("plasticity.shrink_and_perturb", lambda: plasticity.shrink_and_perturb(ODD, noise="normal"), ODD, start=plastic),
]


def _step_alone() -> Any:
    return cl.train_step(_ce(), OPTIMIZERS["sgd_momentum"])


def _step() -> Any:
    return cl.train_step(losses.with_replay(_ce(), 3), OPTIMIZERS["sgd_momentum"])


TRANSFORMS = [
    Case("plasticity.upgd", lambda: plasticity.upgd(), start=plastic),
    Case("plasticity.upgd", lambda: plasticity.upgd(scale="global_uncorrected", protect=False), ODD, start=plastic),
    Case("plasticity.upgd", lambda: plasticity.upgd(scale="local"), ODD, start=plastic),
    Case("optim.clip_by_global_norm", lambda: optim.clip_by_global_norm(0.5)),
    Case("optim.clip_by_global_norm", lambda: optim.clip_by_global_norm("lwf.temperature")),
    Case("optim.clip_by_value", lambda: optim.clip_by_value(0.1)),
    Case("projections.agem.project", lambda: projections.agem.project(_ce(), 4), start=constrained),
    Case("projections.agem.project", lambda: projections.agem.project(_ce(NORMED), 4), NORMED, start=constrained),
    Case("projections.gem.project", lambda: projections.gem.project(_ce()), start=constrained),
    Case("projections.gem.project", lambda: projections.gem.project(_ce(NORMED)), NORMED, start=constrained),
    Case("projections.gem.project", lambda: projections.gem.project(_ce(AUGMENTED)), AUGMENTED, start=constrained),
    Case("projections.owm.project", lambda: projections.owm.project(), start=constrained),
    Case("projections.ogd.project", lambda: projections.ogd.project(), start=constrained),
    Case("projections.agem.project", lambda: projections.agem.project(_ce(ODD), 4), ODD, start=constrained),
    Case("projections.gem.project", lambda: projections.gem.project(_ce(ODD)), ODD, start=constrained),
    Case("projections.ogd.project", lambda: projections.ogd.project(), ODD, start=constrained),
    Case("optim.clip_by_global_norm", lambda: optim.clip_by_global_norm(0.5), ODD),
    Case("trace.grad_norm", lambda: cl.trace.grad_norm(), start=traced),
    Case("trace.grad_norm", lambda: optim.chain(cl.trace.grad_norm(), optim.clip_by_value(0.1)), ODD, start=traced),
    Case("optim.chain", lambda: optim.chain(optim.clip_by_value(0.1), optim.clip_by_global_norm(0.2))),
]

PROBES = [
    Case("evaluate", lambda: cl.evaluate(MODEL, BENCH.test, batch_size=5)),
    Case("evaluate", lambda: cl.evaluate(NORMED, BENCH.test), model=NORMED),
    Case("evaluate", lambda: cl.evaluate(ODD, BENCH.test), model=ODD),
    *[Case("evaluate", lambda model=model: cl.evaluate(model, BENCH.test), model=model) for model in (STACK, RESNET, VIT)],
    *[
        Case("models.activations", lambda model=model: partial(dormancy, model=model), model=model)
        for model in (MODEL, NORMED, ODD, STACK, RESNET, VIT)
    ],
    Case("evaluate", lambda: cl.evaluate(AUGMENTED, BENCH.test), model=AUGMENTED),
    Case("evaluate", lambda: cl.evaluate(cl.strategies.scr(MODEL, SGD, capacity=5, replay_size=4).model, BENCH.test)),
    Case("evaluate", lambda: cl.evaluate(MODEL, BENCH.test, mask="experience")),
    Case("evaluate", lambda: cl.evaluate(cl.strategies.ncm(MODEL).model, BENCH.test, batch_size=5), start=featured),
    *[
        Case(f"probes.{name}", lambda make=make, model=model: make(model), model=model)
        for name, make in {
            "dormant_units": lambda model: cl.probes.dormant_units(model, threshold=0.5, n=9),
            "dead_units": cl.probes.dead_units,
            "effective_rank": cl.probes.effective_rank,
            "stable_rank": cl.probes.stable_rank,
            "weight_norm": lambda model: cl.probes.weight_norm(),
            "gradient_norm": lambda model: cl.probes.gradient_norm(_ce(model)),
            "hessian_top_eigenvalue": lambda model: cl.probes.hessian_top_eigenvalue(_ce(model), iterations=1),
            "join": lambda model: cl.probes.join(cl.probes.dead_units(model)),
        }.items()
        for model in (MODEL, NORMED, ODD)
    ],
    Case("probes.gradient_norm", lambda: cl.probes.gradient_norm(losses.with_replay(_ce(), 3))),
    Case("trace.online.probe", cl.trace.online.probe, start=measured),
    Case("trace.probe", lambda: cl.trace.probe("trace", beside=cl.evaluate(MODEL, BENCH.test)), start=traced),
    *[
        Case(
            "evaluate",
            lambda name=name: cl.evaluate(getattr(cl.strategies, name)(NORMED).model, BENCH.test),
            NORMED,
            start=featured,
        )
        for name in ("slda", "ranpac", "fecam", "acil")
    ],
]

SGD = optim.sgd(0.1)
STRATEGIES = [
    Case("strategies.naive", lambda: cl.strategies.naive(MODEL, SGD)),
    Case("strategies.naive", lambda: cl.strategies.naive(NORMED, SGD, batch_size=5, epochs=2)),
    Case("strategies.joint", lambda: cl.strategies.joint(MODEL, optim.adam(), batch_size=5)),
    Case("strategies.lwf", lambda: cl.strategies.lwf(MODEL, SGD, batch_size=5, epochs=2)),
    Case("strategies.er", lambda: cl.strategies.er(MODEL, SGD, capacity=6, replay_size=4, batch_size=5)),
    Case("strategies.er", lambda: cl.strategies.er(NORMED, SGD, capacity=6, replay_size=4)),
    Case("strategies.icarl", lambda: cl.strategies.icarl(MODEL, SGD, capacity=7, replay_size=4, batch_size=5, epochs=2)),
    Case("strategies.icarl", lambda: cl.strategies.icarl(NORMED, SGD, capacity=7, replay_size=4)),
    Case("strategies.bic", lambda: cl.strategies.bic(MODEL, SGD, capacity=14, replay_size=4, validation=0.4, batch_size=5)),
    Case("strategies.bic", lambda: cl.strategies.bic(NORMED, SGD, capacity=14, replay_size=4, validation=0.4)),
    Case("strategies.ncm", lambda: cl.strategies.ncm(MODEL, SGD, train="every", batch_size=5)),
    Case("strategies.ncm", lambda: cl.strategies.ncm(NORMED, SGD, batch_size=5, epochs=2)),
    Case("strategies.slda", lambda: cl.strategies.slda(MODEL, batch_size=5, shrinkage=0.1)),
    Case("strategies.slda", lambda: cl.strategies.slda(NORMED, SGD, batch_size=5, shrinkage=0.1)),
    Case("strategies.ranpac", lambda: cl.strategies.ranpac(MODEL, batch_size=5, projection_size=16)),
    Case(
        "strategies.ranpac", lambda: cl.strategies.ranpac(MODEL, batch_size=5, projection_size=16, choose_on="all", validation=0.4)
    ),
    Case("strategies.ranpac", lambda: cl.strategies.ranpac(NORMED, SGD, batch_size=5, projection_size=16, ridge=0.1)),
    Case("strategies.fecam", lambda: cl.strategies.fecam(MODEL, batch_size=5)),
    Case("strategies.fecam", lambda: cl.strategies.fecam(NORMED, SGD, batch_size=5, gamma2=0.0, tukey=1.0)),
    Case("strategies.acil", lambda: cl.strategies.acil(MODEL, batch_size=5, projection_size=16)),
    Case("strategies.acil", lambda: cl.strategies.acil(NORMED, SGD, batch_size=5, projection_size=4)),
    Case("strategies.cumulative", lambda: cl.strategies.cumulative(MODEL, SGD, batch_size=5)),
    Case("strategies.from_scratch", lambda: cl.strategies.from_scratch(NORMED, SGD, batch_size=5)),
    Case("strategies.er_ace", lambda: cl.strategies.er_ace(MODEL, SGD, capacity=6, replay_size=4, batch_size=5)),
    Case("strategies.er_ace", lambda: cl.strategies.er_ace(NORMED, SGD, capacity=6, replay_size=4)),
    Case("strategies.der", lambda: cl.strategies.der(MODEL, SGD, capacity=6, replay_size=4, batch_size=5, epochs=2)),
    Case("strategies.der", lambda: cl.strategies.der(NORMED, SGD, capacity=6, replay_size=4)),
    Case("strategies.der_pp", lambda: cl.strategies.der_pp(MODEL, SGD, capacity=6, replay_size=4)),
    Case("strategies.der_pp", lambda: cl.strategies.der_pp(NORMED, SGD, capacity=6, replay_size=4, batch_size=5, epochs=2)),
    Case("strategies.ewc", lambda: cl.strategies.ewc(MODEL, SGD, strength=1.0, batch_size=5)),
    Case("strategies.ewc", lambda: cl.strategies.ewc(NORMED, SGD, strength=1.0, labels="all", importance_batch_size=9)),
    Case("strategies.ewc_online", lambda: cl.strategies.ewc_online(MODEL, SGD, strength=1.0, decay=0.9, labels="model", epochs=2)),
    Case("strategies.ewc_online", lambda: cl.strategies.ewc_online(NORMED, SGD, strength=1.0, batch_size=5, epochs=2)),
    Case("strategies.si", lambda: cl.strategies.si(MODEL, SGD, strength=1.0, epochs=2)),
    Case("strategies.si", lambda: cl.strategies.si(NORMED, SGD, strength=1.0, batch_size=5, epochs=2)),
    Case("strategies.mas", lambda: cl.strategies.mas(MODEL, SGD, strength=0.1, epochs=2)),
    Case("strategies.mas", lambda: cl.strategies.mas(NORMED, SGD, strength=0.1, batch_size=5, importance_samples=4)),
    Case("strategies.rwalk", lambda: cl.strategies.rwalk(MODEL, SGD, strength=1.0, epochs=2)),
    Case("strategies.rwalk", lambda: cl.strategies.rwalk(NORMED, SGD, strength=1.0, interval=2, batch_size=5, epochs=2)),
    Case("strategies.agem", lambda: cl.strategies.agem(MODEL, SGD, capacity=6, sample_size=4, batch_size=5, epochs=2)),
    Case("strategies.agem", lambda: cl.strategies.agem(NORMED, SGD, capacity=6, sample_size=4, batch_size=5)),
    Case("strategies.gem", lambda: cl.strategies.gem(MODEL, SGD, memory_per_experience=3, n_experiences=4, batch_size=5)),
    Case("strategies.gem", lambda: cl.strategies.gem(NORMED, SGD, memory_per_experience=3, n_experiences=4, batch_size=5)),
    Case("strategies.owm", lambda: cl.strategies.owm(MODEL, SGD, alpha=0.1, batch_size=5, epochs=2)),
    Case("strategies.ogd", lambda: cl.strategies.ogd(MODEL, SGD, capacity=7, per_experience=4, batch_size=5, epochs=2)),
    Case("strategies.ogd", lambda: cl.strategies.ogd(NORMED, SGD, capacity=7, per_experience=4, batch_size=5)),
    Case("strategies.er_lwf", lambda: cl.strategies.er_lwf(MODEL, SGD, capacity=6, replay_size=4, batch_size=5, epochs=2)),
    Case("strategies.gdumb", lambda: cl.strategies.gdumb(MODEL, optim.adam(), capacity=6, batch_size=4, epochs=2)),
    Case("strategies.gdumb", lambda: cl.strategies.gdumb(NORMED, SGD, capacity=7)),
    Case("strategies.gss", lambda: cl.strategies.gss(MODEL, SGD, capacity=9, replay_size=4, subset_size=3, batch_size=5)),
    Case("strategies.gss", lambda: cl.strategies.gss(NORMED, SGD, capacity=9, replay_size=4, subset_size=3)),
    Case("strategies.mir", lambda: cl.strategies.mir(MODEL, SGD, capacity=9, replay_size=2, candidates=6, batch_size=5)),
    Case("strategies.mir", lambda: cl.strategies.mir(NORMED, SGD, capacity=9, replay_size=2, candidates=6, batch_size=5)),
    Case("strategies.rar", lambda: cl.strategies.rar(MODEL, SGD, capacity=9, replay_size=4, epsilon=0.1, batch_size=5)),
    Case("strategies.rar", lambda: cl.strategies.rar(NORMED, SGD, capacity=9, replay_size=4, epsilon=0.1, bounds=(-1.0, 1.0))),
    Case("strategies.scr", lambda: cl.strategies.scr(MODEL, SGD, capacity=9, replay_size=4, projection="linear", batch_size=5)),
    Case("strategies.scr", lambda: cl.strategies.scr(NORMED, SGD, capacity=9, replay_size=4, projection_size=5)),
]

STRATEGIES.append(
    Case(
        "extend",
        lambda: cl.extend(
            cl.strategies.er(NORMED, SGD, capacity=9, replay_size=4, batch_size=5),
            loss=(plasticity.l2_init(0.1), plasticity.spectral(0.1)),
            transform=plasticity.upgd(),
            around_step=plasticity.continual_backprop(NORMED, 0.5, 1, keep_mean=True),
            after_step=plasticity.redo(NORMED, 0.5, 2),
            before=plasticity.shrink_and_perturb(NORMED),
        ),
    )
)

_STORE = {"capacity": 9, "replay_size": 4}
ARGUMENTS: dict[str, dict[str, Any]] = {  # what each strategy needs beside a model, an optimiser and a batch size
    "acil": {"projection_size": 16},
    "agem": {"capacity": 6, "sample_size": 4},
    "bic": {"capacity": 14, "replay_size": 4, "validation": 0.4},
    "fecam": {"gamma2": 0.5, "tukey": 0.9},
    "gdumb": {"capacity": 7},
    "gem": {"memory_per_experience": 3, "n_experiences": 4},
    "gss": {**_STORE, "subset_size": 3},
    "mir": {"capacity": 9, "replay_size": 2, "candidates": 6},
    "ogd": {"capacity": 7, "per_experience": 4},
    "rar": {**_STORE, "epsilon": 0.1, "virtual_lr": 0.5},
    "scr": {**_STORE, "projection_size": 5},
    "ranpac": {"projection_size": 16, "ridge": 0.1},
    "slda": {"shrinkage": 0.1},
    **{name: {"strength": 0.5} for name in ("ewc", "ewc_online", "mas", "rwalk", "si")},
    **dict.fromkeys(("der", "der_pp", "er", "er_ace", "er_lwf", "icarl"), _STORE),
    **{name: {} for name in ("cumulative", "from_scratch", "joint", "lwf", "naive", "ncm")},
    "owm": {"alpha": 0.1},
}
STRATEGIES += [
    Case(f"strategies.{name}", lambda name=name, more=more: getattr(cl.strategies, name)(ODD, SGD, batch_size=5, **more), model=ODD)
    for name, more in sorted(ARGUMENTS.items())
    if name != "owm"  # for linear layers alone
]
STRATEGIES += [
    Case(f"strategies.{name}", lambda name=name: getattr(cl.strategies, name)(AUGMENTED, SGD, batch_size=5, **ARGUMENTS[name]))
    for name in ("er", "from_scratch", "gem", "lwf", "mir", "rar", "scr")
]

# Other targets: every loss for them, every part that looks at targets, and every method that takes a loss.
TARGET_LOSSES = {"regression": losses.mean_squared_error, "multilabel": losses.binary_cross_entropy}


def storing(target: str) -> Callable[..., Any]:
    """A start whose memory is for targets of a kind."""

    def start(key: Tensor, model: Any = MODEL, optimizer: Any = OPTIMIZERS["sgd_momentum"]) -> Everything:
        empty = memory.reservoir.init(12, memory.dark.sample(model, target))
        state = init(key, model, optimizer).replace(replay=empty)
        return memory.reservoir.insert(fields=memory.dark.fields(model))(state, BENCHES[target].train[1])

    return start


def scoring(target: str) -> Callable[..., Any]:
    def start(key: Tensor, model: Any = MODEL, optimizer: Any = OPTIMIZERS["sgd_momentum"]) -> Everything:
        state = init(key, model, optimizer).replace(replay=memory.gss.init(9, memory.sample(model, target)))
        return by_gradients(target, model)(state, BENCHES[target].train[1])

    return start


def by_gradients(target: str, model: Any) -> Any:
    return memory.gss.insert(model, 4, losses=losses.row_losses(TARGET_LOSSES[target](model)))


STORING, SCORING = ({target: start(target) for target in TARGET_LOSSES} for start in (storing, scoring))
LOSSES.append(Case("losses.huber", lambda: losses.huber(MODEL, 0.5), target="regression"))
for _target, _loss in TARGET_LOSSES.items():

    def add(cases: list[Case], name: str, make: Callable[[Any, str], Any], model: Any, start: Any = init, t: str = _target) -> None:
        cases.append(Case(name, lambda: make(model, t), model=model, start=start, target=t))

    for _model in (MODEL, NORMED, ODD):
        _own = {"regression": "mean_squared_error", "multilabel": "binary_cross_entropy"}[_target]
        add(LOSSES, f"losses.{_own}", lambda model, t: TARGET_LOSSES[t](model), _model)
        add(LOSSES, "losses.with_replay", lambda m, t: losses.with_replay(TARGET_LOSSES[t](m), 3), _model, STORING[_target])
        # Of three draws all may be one row, for which batch norm gives rounding errors, on either side of the ReLU's kink.
        _draws = 12 if _model is NORMED else 3
        add(LOSSES, "losses.dark_experience", lambda m, t, n=_draws: losses.dark_experience(m, n), _model, STORING[_target])
        add(LOSSES, "regularizers.lwf.distillation", lambda m, t: regularizers.lwf.distillation(m), _model)
        add(UPDATES, "memory.gss.insert", lambda m, t: by_gradients(t, m), _model, SCORING[_target])
        add(UPDATES, "regularizers.lwf.snapshot", lambda m, t: regularizers.lwf.snapshot(), _model)
        for _labels in ("true", "model", "all"):
            add(
                UPDATES,
                "regularizers.ewc.consolidate",
                lambda m, t, by=_labels: regularizers.ewc.consolidate(m, "online", labels=by, target=t, batch_size=8),
                _model,
                regularised,
            )
        add(UPDATES, "regularizers.rwalk.track", lambda m, t: regularizers.rwalk.track(m, target=t), _model, regularised)
        add(UPDATES, "projections.ogd.store", lambda m, t: projections.ogd.store(m, 3, target=t), _model, constrained)
        add(PROBES, "evaluate", lambda m, t: cl.evaluate(m, BENCHES[t].test, batch_size=5), _model)
        for _name, _more in sorted(ARGUMENTS.items()):
            takes_loss = "loss" in inspect.signature(getattr(cl.strategies, _name)).parameters
            # Once for each kind of targets; for one of them on parameters of every kind, where the method takes those.
            if takes_loss and _model is (ODD if _target == "regression" and _name != "owm" else MODEL):
                add(
                    STRATEGIES,
                    f"strategies.{_name}",
                    lambda m, t, name=_name, more=_more: getattr(cl.strategies, name)(
                        m, SGD, **more, loss=TARGET_LOSSES[t](m), batch_size=5
                    ),
                    _model,
                )

ALL = [*LOSSES, *UPDATES, *TRANSFORMS, *PROBES, *STRATEGIES]

# Public functions that are no component of the four kinds: factories of optimisers, functions on plain tensors. States and modules,
# public too, are told by their type.
NOT_COMPONENTS = {
    "classifiers": set(),
    "losses": {
        "contrast",
        "distillation",
        "divergence",
        "logit_distance",
        "mask_logits",
        "masked_cross_entropy",
        "for_target",
        "row_losses",
        "target_of",
        "weighted_mean",
    },
    "memory": {"fields", "join", "recalled", "sample", "union_weights"},
    "optim": {"sgd", "adam", "adamw"},
    "plasticity": {"hidden_layers"},
    "probes": {"on_test"},  # it makes no Probe until a sweep gives it a stream
    "projections": set(),
    "regularizers": set(),
    "strategies": set(),
    "trace": {"add", "init", "read"},
}
