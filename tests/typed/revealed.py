"""What a type checker understands of a user's code: checked by mypy and pyright, both strict, and never run.

`assert_type` fails where a type is another.
"""

# pyright: strict

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_type

import torch
from torch import Tensor

import cl_func as cl
from cl_func.experiences import Experience


@cl.state
class MyAgent(cl.Agent):
    """A user's state."""

    seen: Tensor


def step(state: MyAgent, exp: Experience) -> MyAgent:
    """A user's Update."""
    return state.replace(seen=state.seen + 1)


def agent(key: Tensor) -> MyAgent:
    """A user's init."""
    return MyAgent(key=key, seen=key)


def revealed() -> None:
    """Never called."""
    start = agent(cl.key(0))
    train, test = cl.data.digits()
    assert_type(cl.plots.matrix(start.seen, title="ER"), cl.plots.Picture)
    assert_type(cl.data.digits(), tuple[cl.Dataset, cl.Dataset])
    data = cl.Dataset(train.x, train.y)
    assert_type(data, cl.Dataset)
    assert_type(data.x, Tensor)
    assert_type(data.y, Tensor)
    assert_type(data.task, Tensor | None)
    assert_type(data.n_classes, int)
    mlp, coder = cl.models.mlp(64), cl.models.pure(torch.nn.Flatten)
    assert_type(cl.data.features(mlp, mlp.init(cl.key(0)), data, cache="features"), cl.Dataset)
    assert_type(cl.data.features(coder, coder.init(cl.key(0)), data, preprocess=torch.relu), cl.Dataset)
    bench = cl.streams.split_by_class(train, test, n_experiences=5)
    assert_type(bench, cl.Benchmark)
    assert_type(bench.train[0], Experience)
    assert_type(bench.train[1:], cl.Stream)
    assert_type(bench.valid, cl.Stream | None)
    assert_type(cl.streams.with_validation(bench, key=cl.key(1)).valid, cl.Stream)

    assert_type(start.replace(seen=start.seen), MyAgent)
    assert_type(cl.tree.replace(start, seen=start.seen), MyAgent)
    assert_type(start.key, Tensor)
    assert_type(cl.compose(step, step), Callable[[MyAgent, Experience], MyAgent])
    assert_type(cl.minibatches(step, batch_size=4), Callable[[MyAgent, Experience], MyAgent])
    assert_type(cl.repeat(step, 2)(start, bench.train[0]), MyAgent)
    assert_type(cl.fold(step, start, bench.train), MyAgent)
    state, _ = cl.scan(cl.compose(step, step), start, bench.train)
    assert_type(state, MyAgent)
    assert_type(cl.evaluate(cl.models.mlp(64), bench.test)(state), dict[str, Tensor])
    assert_type(cl.vmap(step)(start, bench.train[0]), MyAgent)
    assert_type(cl.compile(step)(start, bench.train[0]), MyAgent)
    assert_type(cl.check_finite(step)(start, bench.train[0]), MyAgent)
    assert_type(cl.load("state.safetensors", like=start), MyAgent)
    assert_type(cl.tree.stack([start, start]), MyAgent)
    assert_type(cl.testing.vary(start), MyAgent)
    assert_type(cl.tree.set(start, {"seen": start.seen}), MyAgent)
    assert_type(cl.maybe_init(start, seen=lambda s: s.key), MyAgent)
    strategy = cl.Strategy(agent, step)
    assert_type(strategy, cl.Strategy)
    assert_type(strategy.init, Callable[[Tensor], Any])
    assert_type(strategy.update, Callable[[Any, Any], Any])
    assert_type(cl.vmap(strategy), cl.Strategy)
    assert_type(cl.compile(strategy), cl.Strategy)

    model, optimizer = cl.models.mlp(64, (8,), 10), cl.optim.sgd(0.1)
    assert_type(cl.strategies.naive(model, optimizer), cl.Strategy)
    assert_type(cl.strategies.joint(model, optimizer, epochs=2), cl.Strategy)
    cbp, held, upgd = cl.plasticity.continual_backprop(model), cl.plasticity.l2_init(1e-3), cl.plasticity.upgd()
    assert_type(cl.extend(strategy, loss=(held, cl.plasticity.spectral(0.1)), transform=upgd, after_step=cbp), cl.Strategy)
    assert_type(cl.extend(strategy, before=cl.plasticity.reset_head(model), after=step), cl.Strategy)
    assert_type(cbp.init(model.init(cl.key(0))), cl.plasticity.CBP)
    cl.train_step(cl.losses.total(cl.losses.cross_entropy(model), held), optimizer, upgd)
    cl.minibatches(cl.compose(cl.train_step(held, optimizer), cbp, cl.plasticity.redo(model)), batch_size=2)
    assert_type(cl.plasticity.hidden_layers(model)[0].units, int)
    assert_type(cl.strategies.er(model, optimizer, capacity=10, replay_size=2), cl.Strategy)
    assert_type(cl.strategies.der_pp(model, optimizer, capacity=10, replay_size=2, batch_size=4), cl.Strategy)
    assert_type(cl.strategies.ewc(model, optimizer, strength=1.0, labels="true"), cl.Strategy)
    assert_type(cl.strategies.lwf(model, optimizer), cl.Strategy)
    assert_type(cl.strategies.slda(model), cl.Strategy)
    assert_type(cl.strategies.ranpac(model, projection_size=100, choose_on="all"), cl.Strategy)
    runs = cl.sweep(cl.Strategy(agent, step), bench)
    assert_type(runs, cl.Runs)
    both = cl.compare({"ER": cl.Strategy(agent, step)}, {"class": bench}, seeds=2, streams={"ER": cl.streams.cumulative})
    assert_type(both, cl.Runs)
    pair = both.compare("ER", "DER++")[0]
    assert_type(pair.p_holm, float)
    assert_type(pair.seeds, tuple[int, ...])
    assert_type([one.n for one in both.compare()], list[int])
    assert_type(cl.Runs.join({"ER": runs, "DER++": runs}, axis="method").at(method="ER"), cl.Runs)
    point = cl.select.validation(0.1).choose(cl.Strategy(agent, step), bench, cl.grid({"opt.lr": [0.1, 0.2]}), seeds=5)
    assert_type(point, cl.select.Chosen)
    assert_type(point.searched, tuple[cl.Runs, ...])
    assert_type(cl.sweep(cl.Strategy(agent, step), bench, hparams=point), cl.Runs)
    assert_type(cl.sweep(cl.Strategy(agent, step), bench, hparams={"opt.lr": 0.1}), cl.Runs)
    assert_type(cl.select.successive_halving(cl.select.first_experiences(2), eta=2), cl.select.Halving)
    assert_type(runs.ranked("forgetting")[0], dict[str, Any])
    assert_type(cl.select.published("er", "split_mnist").make(model), cl.Strategy)
    assert_type(runs.metric("forgetting"), Tensor)
    assert_type(runs.metric(lambda R: R[-1].min(), history="accuracy"), Tensor)
    assert_type(runs.table(["average_accuracy", cl.metrics.forgetting, ("forgetting", "loss")], format="latex"), str)
    assert_type(runs.table({"A": "average_accuracy"}, "html"), str)
    assert_type(cl.random_grid(3, {"opt.lr": cl.log(1e-4, 1), "k": cl.choice([1, 2]), "u": (0.1, 1)}, key=cl.key(0)), cl.Grid)

    assert_type(cl.trace.init(10), cl.trace.Trace)
    assert_type(cl.trace.read(cl.trace.init(10)), Tensor)
    traced = cl.train_step(cl.trace.loss(cl.losses.cross_entropy(model), "losses"), optimizer, cl.trace.grad_norm("norms"))
    assert_type(traced, cl.core.TrainStep)
    assert_type(cl.trace.probe("losses", beside=cl.evaluate(model, bench.test)), cl.trace.TraceProbe)
    assert_type(cl.trace.online.measure(model, target="regression"), cl.trace.online.Measure)
    assert_type(cl.metrics.online_accuracy({"online_accuracy": torch.zeros(2), "online_rows": torch.ones(2).long()}), Tensor)
    assert_type(cl.probes.dormant_units(model, bench.test[0], threshold=0.1), cl.probes.OnRows)
    assert_type(cl.probes.join(cl.evaluate(model, bench.test), cl.probes.weight_norm()), cl.probes.Joined)
    assert_type(cl.probes.effective_rank(model)(state, bench.train[0]), dict[str, Tensor])
