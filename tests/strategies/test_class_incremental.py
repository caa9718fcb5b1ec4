"""Herding, classifiers by means, LDA and bias correction, and iCaRL, BiC, NCM and SLDA, against independent computations."""

from __future__ import annotations

import numpy as np
import pytest
import registry
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

import cl_func as cl
from cl_func import testing
from cl_func.classifiers import bias_correction, nearest_mean, slda
from cl_func.experiences import stream
from cl_func.memory import herding

MODEL, NORMED, BENCH = registry.MODEL, registry.NORMED, registry.BENCH
LINEAR = cl.models.mlp(6, hidden=(), n_classes=4)  # its features are its inputs
SGD = cl.optim.sgd(1.0)
FROZEN = ("ncm", "slda", "ranpac", "fecam", "acil")  # methods on the features of a network that stands still


# Herding


def greedy(phi, m):
    """The definition, in float64: p_k = argmin |mu - 1/k (phi + sum of those before)|, the first of equals."""
    mu, chosen, total = phi.mean(0), [], np.zeros(phi.shape[1])
    for k in range(1, min(m, len(phi)) + 1):
        gaps = [np.inf if i in chosen else np.linalg.norm(mu - (total + phi[i]) / k) for i in range(len(phi))]
        best = min(gaps)
        chosen.append(next(i for i, gap in enumerate(gaps) if gap <= best + 1e-9))
        total = total + phi[chosen[-1]]
    return chosen


def points(n, width=5, seed=0):
    return cl.random.normal(cl.key(seed), (n, width)) + 0.5


def store(capacity, n_classes, batches, embed=lambda rows: rows["x"]):
    memory = herding.init(capacity, {"x": torch.zeros(batches[0][0].shape[1]), "id": torch.tensor(0)}, n_classes)
    start = 1
    for x, y, valid in batches:
        rows = {"x": x, "id": torch.arange(start, start + len(y))}
        memory, start = herding.add(memory, cl.key(0), rows, valid, y, embed), start + len(y)
    return memory


def exemplars(memory, label):
    """The ids of a class's exemplars, in the order of their rank."""
    mine = memory.occupied & (memory.label == label)
    order = torch.argsort(memory.rank[mine])
    assert memory.rank[mine][order].tolist() == list(range(int(mine.sum())))
    return memory.data["id"][mine][order].tolist()


@pytest.mark.parametrize("seed", range(20))
def test_herding_is_the_greedy_choice(seed):
    x, y = points(40, seed=seed), cl.random.randint(cl.key(seed), 40, 0, 3)
    valid = cl.random.bernoulli(cl.key(seed + 99), 0.8, (40,))
    memory = store(20, 3, [(x, y, valid)])
    for label in range(3):
        mine = (valid & (y == label)).nonzero().flatten()
        phi = F.normalize(x[mine].double(), dim=1).numpy()
        assert exemplars(memory, label) == [int(mine[i]) + 1 for i in greedy(phi, 20 // 3)]


def test_the_exemplars_mean_follows_the_classs_mean():
    x = points(300)
    phi = F.normalize(x, dim=1)
    memory = store(20, 2, [(x, torch.zeros(300, dtype=torch.int64), torch.ones(300) > 0)])
    chosen = F.normalize(memory.data["x"], dim=1).mean(0)
    at_random = torch.stack([phi[cl.random.permutation(cl.key(i), 300)[:20]].mean(0) for i in range(50)])
    assert (chosen - phi.mean(0)).norm() < 0.5 * (at_random - phi.mean(0)).norm(dim=1).min()


def test_a_class_makes_room_by_its_last_exemplars():
    every = torch.ones(30, dtype=torch.bool)
    batches = [(points(30, seed=c), torch.full((30,), c), every) for c in range(3)]
    after = [store(12, 4, batches[: i + 1]) for i in range(3)]
    first = exemplars(after[0], 0)
    assert len(first) == 12
    assert exemplars(after[1], 0) == first[:6]
    assert exemplars(after[2], 0) == first[:4]
    assert exemplars(after[2], 1) == exemplars(after[1], 1)[:4]
    assert after[2].seen.tolist() == [True, True, True, False]


def test_a_class_that_comes_again_is_herded_with_its_exemplars():
    every = torch.ones(9, dtype=torch.bool)
    zeros = torch.zeros(9, dtype=torch.int64)
    x = points(18)
    once = store(5, 2, [(x[:9], zeros, every)])
    old = torch.tensor(exemplars(once, 0)) - 1
    again = store(5, 2, [(x[:9], zeros, every), (x[9:], zeros, every)])
    union = torch.cat([old, torch.arange(9, 18)])
    expected = greedy(F.normalize(x[union].double(), dim=1).numpy(), 5)
    assert exemplars(again, 0) == [int(union[i]) + 1 for i in expected]


@settings(deadline=None, max_examples=50)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    capacity=st.integers(4, 15),
    key=testing.keys(),
    data=st.data(),
)
def test_herding_keeps_its_quotas(sizes, capacity, key, data):
    batches, offered = [], {}
    for i, n in enumerate(sizes):
        y = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
        valid = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
        batches.append((cl.random.normal(cl.random.fold_in(key, i), (n, 3)), y, valid))
        for label in y[valid].tolist():
            offered[label] = offered.get(label, 0) + 1
    memory = store(capacity, 4, batches)
    for label in range(4):
        found = exemplars(memory, label)
        assert len(found) <= capacity // max(1, len(offered))
        assert len(found) >= min(offered.get(label, 0), capacity // 4)
        assert len(set(found)) == len(found)
    assert (memory.data["id"][memory.occupied] > 0).all()  # no row that was not offered
    assert (memory.data["id"][~memory.occupied] == 0).all()
    drawn, valid = herding.draw(memory, key, 9)
    assert valid.sum() == min(9, int(memory.filled))
    assert (drawn["id"][valid] > 0).all()


def test_lanes_are_herded_each_by_itself():
    x, y, steps = points(60), torch.arange(60) % 2, torch.tensor(25)
    both = torch.func.vmap(herding._herd, in_dims=(0, None, None))(torch.stack([x, x + 1]), y, steps)
    assert torch.equal(both, torch.stack([herding._herd(x, y, steps), herding._herd(x + 1, y, steps)]))


# Classifiers


def parts(n, sizes=(1, 7, 2, 30)):
    cuts = np.cumsum(sizes)
    return [slice(a, b) for a, b in zip([0, *cuts], [*cuts, n], strict=True)]


def labelled(n, width, n_classes, seed=0):
    y = cl.random.randint(cl.key(seed), n, 0, n_classes - 1)  # the last class has no rows
    mix = cl.random.normal(cl.key(seed + 1), (width, width))
    centres = 3 * cl.random.normal(cl.key(seed + 2), (n_classes, width))
    return centres[y] + cl.random.normal(cl.key(seed + 3), (n, width)) @ mix + 2, y


@pytest.mark.parametrize("seed", range(3))
def test_streaming_means_are_the_means(seed):
    x, y = labelled(80, 6, 5, seed)
    valid = cl.random.bernoulli(cl.key(seed + 9), 0.8, (80,))
    slot = nearest_mean.init(5, x[0])
    for part in parts(80):
        slot = nearest_mean.add(slot, x[part], y[part], valid[part])
    means = np.stack([x[valid & (y == c)].double().mean(0).numpy() for c in range(4)])
    np.testing.assert_allclose(slot.means[:4], means, rtol=1e-5, atol=1e-6)
    logits = nearest_mean.logits(slot, x)
    expected = -((x.double().numpy()[:, None] - means) ** 2).sum(-1)
    np.testing.assert_allclose(logits[:, :4], expected, rtol=1e-4, atol=1e-4)
    assert (logits[:, 4] < -1e8).all()
    assert not (logits.argmax(1) == 4).any()


@pytest.mark.parametrize("shrinkage", [1e-4, 0.1])
@pytest.mark.parametrize("seed", range(3))
def test_slda_equals_batch_lda(seed, shrinkage):
    x, y = labelled(200, 8, 5, seed)
    valid = cl.random.bernoulli(cl.key(seed + 9), 0.8, (200,))
    slot = slda.init(5, x[0], shrinkage)
    for part in parts(200):
        slot = slda.add(slot, x[part], y[part], valid[part])
    rows, labels = x[valid].double().numpy(), y[valid].numpy()
    means = np.stack([rows[labels == c].mean(0) for c in range(4)])
    centred = rows - means[labels]
    precision = np.linalg.inv((1 - shrinkage) * centred.T @ centred / len(rows) + shrinkage * np.eye(8))
    expected = x.double().numpy() @ precision @ means.T - 0.5 * np.einsum("cf,fg,cg->c", means, precision, means)
    logits = slda.logits(slot, x)
    np.testing.assert_allclose(logits[:, :4], expected, rtol=1e-4, atol=1e-4)
    assert (logits[:, 4] < -1e8).all()
    one_by_one = slda.init(5, x[0], shrinkage)
    for i in reversed(range(200)):
        one_by_one = slda.add(one_by_one, x[i : i + 1], y[i : i + 1], valid[i : i + 1])
    torch.testing.assert_close(slda.logits(one_by_one, x)[:, :4], logits[:, :4])


def biased(n=4000, alpha=0.6, beta=-1.5, seed=0):
    """Labels drawn from softmax(true logits) of 5 classes, and the logits with the last two scaled and shifted away."""
    true = 2 * cl.random.normal(cl.key(seed), (n, 5))
    y = cl.random.categorical(cl.key(seed + 1), true)
    new = torch.tensor([False, False, False, True, True])
    return torch.where(new, (true - beta) / alpha, true), y, new, true


def test_bias_correction_undoes_a_bias():
    logits, y, new, true = biased(20000)
    slot = bias_correction.fit(bias_correction.init(5, 1e-6), logits, y, torch.ones(20000) > 0, ~new, new)
    assert slot.alpha == pytest.approx(0.6, abs=0.03)
    assert slot.beta == pytest.approx(-1.5, abs=0.1)
    torch.testing.assert_close(bias_correction.correct(slot, logits)[:, :3], true[:, :3])
    hit = [(z.argmax(1) == y).double().mean() for z in (logits, bias_correction.correct(slot, logits), true)]
    assert hit[0] < hit[2] - 0.05
    assert hit[1] > hit[2] - 0.003


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("decay", [1e-6, 0.1])
def test_bias_correction_is_the_minimum(seed, decay):
    """Against scipy's optimiser on the same objective, with a class that is neither old nor new and rows that are not valid."""
    logits, y, new, _ = biased(60, alpha=3.0, beta=4.0, seed=10 * seed)
    old = torch.tensor([False, True, True, False, False])
    valid = y != 0
    slot = bias_correction.fit(bias_correction.init(5, decay), 5 * logits, y, valid, old, new)
    z, t = 5 * logits[valid][:, 1:].double().numpy(), y[valid].numpy() - 1

    def objective(point):
        q = np.concatenate([z[:, :2], point[0] * z[:, 2:] + point[1]], 1)
        cost = np.log(np.exp(q - q.max(1, keepdims=True)).sum(1)) + q.max(1) - q[np.arange(len(t)), t]
        return cost.mean() + decay / 2 * ((point[0] - 1) ** 2 + point[1] ** 2)

    best = minimize(objective, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12, "maxiter": 2000})
    assert objective([slot.alpha.item(), slot.beta.item()]) <= best.fun + 1e-6
    assert slot.alpha == pytest.approx(best.x[0], rel=1e-2, abs=1e-3)


def test_bias_correction_is_finite_and_else_the_identity():
    logits = torch.tensor([[5.0, 0.0], [0.0, 5.0]])
    y, every = torch.tensor([0, 1]), torch.ones(2) > 0
    old, new = torch.tensor([True, False]), torch.tensor([False, True])
    start = bias_correction.init(2)
    separable = bias_correction.fit(start, 1000 * logits, y, every, old, new)
    assert separable.alpha.isfinite()
    assert separable.beta.isfinite()
    for arguments in ((y, ~every, old, new), (y, every, old & new, new), (y, every, old, old & new)):
        slot = bias_correction.fit(start.replace(alpha=start.alpha * 3), logits, *arguments)
        assert (slot.alpha, slot.beta) == (1, 0)


# Features


@pytest.mark.parametrize(
    ("model", "last"),
    [
        (MODEL, "2"),
        (NORMED, "4"),
        (LINEAR, "0"),
        (cl.models.mlp(6, (5, 7), 4, head="cosine"), "4"),
        (cl.models.cnn((1, 8, 8), (2,), 3, 4), "out"),
        (cl.models.slim_resnet18((1, 8, 8), 4, 1), "linear"),
    ],
)
def test_the_last_layer_of_the_features_gives_the_logits(model, last):
    net = model.init(cl.key(0))
    x = cl.random.normal(cl.key(1), (5, *model.input_shape))
    rows = cl.models.features(model, net, x)
    assert rows[0].shape == cl.models.sample_features(model, net).shape
    if f"{last}.scale" in net.params:
        logits = net.params[f"{last}.scale"] * F.normalize(rows) @ F.normalize(net.params[f"{last}.weight"]).T
    else:
        logits = F.linear(rows, net.params[f"{last}.weight"], net.params[f"{last}.bias"])
    torch.testing.assert_close(logits, model.apply(net.params, net.buffers, x)[0], rtol=1e-5, atol=1e-6)


MASKS = torch.tensor([[True, True, False, False], [False, False, True, True]])
TASKS = [cl.tree.replace(exp, task=torch.tensor(i)) for i, exp in enumerate(BENCH.train)]


@pytest.mark.parametrize("name", [*FROZEN, "icarl"])
def test_only_the_classes_of_a_rows_task_compete(name):
    heads = cl.models.multi_head(MODEL, MASKS)
    own = {} if name == "slda" else registry.ARGUMENTS[name]
    strategy = getattr(cl.strategies, name)(heads, SGD, batch_size=5, **own)
    testing.check_strategy(strategy, cl.Benchmark(train=stream(TASKS), test=stream(TASKS)))
    agent = cl.fold(strategy.update, strategy.init(cl.key(0)), TASKS)
    for task in (0, 1):  # rows of either task, called task `task`
        asked = [cl.tree.replace(exp, task=torch.tensor(task)) for exp in BENCH.train]
        answers = torch.cat([strategy.model(agent, exp).argmax(1) for exp in asked])
        assert MASKS[task][answers].all()


def test_icarl_with_heads_is_trained_as_without():
    """Every output is a classifier of its own, so the old heads are distilled on the new rows too."""
    models = (MODEL, cl.models.multi_head(MODEL, MASKS))
    made = [cl.strategies.icarl(m, SGD, capacity=9, replay_size=4, batch_size=5) for m in models]
    plain, heads = (cl.fold(s.update, s.init(cl.key(0)), TASKS) for s in made)
    testing.assert_equal(heads, plain, "heads")


# Strategies


def trained(strategy, n=2, seed=0):
    return cl.fold(strategy.update, strategy.init(cl.key(seed)), BENCH.train[:n])


def test_icarl_follows_its_loss():
    """One step on the second experience, against the paper's sum written out row by row and class by class."""
    strategy = cl.strategies.icarl(MODEL, SGD, capacity=8, replay_size=6)
    before, exp = trained(strategy, 1), BENCH.train[1]
    after = strategy.update(before, exp)
    _, draw_key = cl.random.split(before.key)
    rows, valid = herding.draw(before.replay, draw_key, 6)
    assert valid.all()
    params = {name: value.clone().requires_grad_() for name, value in before.model.params.items()}
    teacher = MODEL.apply(before.model.params, {}, torch.cat([exp.x, rows["x"]]))[0].sigmoid()
    outputs = MODEL.apply(params, {}, torch.cat([exp.x, rows["x"]]))[0].sigmoid()
    n, filled = len(exp), 8
    loss = 0.0
    for i, label in enumerate([*exp.y.tolist(), *rows["y"].tolist()]):
        weight = 1 / (n + filled) if i < n else filled / 6 / (n + filled)
        for c in range(4):
            target = teacher[i, c] if c < 2 else float(label == c)
            loss = loss - weight * (target * outputs[i, c].log() + (1 - target) * (1 - outputs[i, c]).log())
    grads = torch.autograd.grad(loss, list(params.values()))
    for (name, old), grad in zip(before.model.params.items(), grads, strict=True):
        torch.testing.assert_close(after.model.params[name], old - grad, rtol=1e-4, atol=1e-5)


def test_icarl_keeps_teaching_classes_where_no_new_one_comes():
    """The classes that came last have no teacher yet; their exemplars must go on teaching them by their labels."""
    strategy = cl.strategies.icarl(MODEL, SGD, capacity=8, replay_size=6, batch_size=5)
    exp = BENCH.train[1]
    last = cl.tree.replace(exp.take(exp.rows, exp.valid & (exp.y == 2)), classes=torch.tensor([False, False, True, False]))
    before = trained(strategy, 2)
    after = strategy.update(before, last)
    moved = (after.model.params["2.weight"] - before.model.params["2.weight"]).abs().amax(1)
    assert (moved > 1e-4).all()


def test_bic_follows_its_loss():
    """One step on the third of three experiences, so that the teacher is a corrected one, against the loss row by row."""
    bench = testing.small_benchmark(n_classes=6, n_experiences=3, rows_per_class=20)
    model = cl.models.mlp(6, (8,), 6)
    strategy = cl.strategies.bic(model, SGD, capacity=24, replay_size=5, validation=0.5, temperature=2.0)
    before = cl.fold(strategy.update, strategy.init(cl.key(0)), bench.train[:2])
    begin, loop, *_ = strategy.update.updates
    exp = bench.train[2]
    agent = begin(before, exp)
    after = loop(agent, exp)
    assert agent.teacher[1].alpha != 1
    rows, drawn = herding.draw(agent.replay, cl.random.split(agent.key)[1], 5)
    assert drawn.all()
    held = (cl.random.children(agent.holdout_key, exp.rows) & 0xFFFFFF) < 2**23
    x, y = torch.cat([exp.x[~held], rows["x"]]), [*exp.y[~held].tolist(), *rows["y"].tolist()]
    n, filled = int((~held).sum()), int(agent.replay.filled)
    params = {name: value.clone().requires_grad_() for name, value in agent.model.params.items()}
    outputs = model.apply(params, {}, x)[0]
    teacher = model.apply(before.model.params, {}, x)[0]
    teacher[:, 2:4] = before.bic.alpha * teacher[:, 2:4] + before.bic.beta
    loss = 0.0
    for i, label in enumerate(y):
        p, q = torch.softmax(teacher[i, :4] / 2, 0), torch.log_softmax(outputs[i, :4] / 2, 0)
        value = 4 / 6 * -(p * q).sum() + 2 / 6 * -torch.log_softmax(outputs[i], 0)[label]
        loss = loss + value * (1 / (n + filled) if i < n else filled / 5 / (n + filled))
    grads = torch.autograd.grad(loss, list(params.values()))
    for (name, old), grad in zip(agent.model.params.items(), grads, strict=True):
        torch.testing.assert_close(after.model.params[name], old - grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*FROZEN, "icarl", "bic"])
def test_data_with_more_classes_than_the_model_are_refused(name):
    strategy = getattr(cl.strategies, name)(cl.models.mlp(6, (8,), 3), SGD, batch_size=5, **registry.ARGUMENTS[name])
    with pytest.raises(ValueError, match=r"n_classes: .* 3 .*data has 4"):
        cl.fold(strategy.update, strategy.init(cl.key(0)), BENCH.train)


@pytest.mark.parametrize("name", FROZEN)
def test_a_lane_that_has_diverged_does_not_stop_the_others(name):
    strategy = getattr(cl.strategies, name)(MODEL, cl.optim.sgd(0.1), batch_size=5, **registry.ARGUMENTS[name])
    start = strategy.init(cl.key(0))
    lanes = cl.tree.stack([start, cl.tree.set(start, {"opt.lr": 1e30})])
    end = cl.fold(cl.vmap(strategy.update), lanes, BENCH.train)
    found = cl.vmap(cl.evaluate(strategy.model, BENCH.test))(end)["accuracy"][0]
    alone = cl.evaluate(strategy.model, BENCH.test)(cl.fold(strategy.update, start, BENCH.train))["accuracy"]
    torch.testing.assert_close(found, alone)


def test_an_evaluation_solves_once(monkeypatch):
    """All batches of all test experiences share one solution, the same as that of each batch."""
    strategy = cl.strategies.slda(MODEL, batch_size=5, shrinkage=0.1)
    calls, solve = [], slda.solve
    monkeypatch.setattr(slda, "solve", lambda slot: calls.append(0) or solve(slot))
    agents = [trained(strategy, seed=seed) for seed in (0, 1)]
    for agent, wrap in ((agents[0], lambda probe: probe), (cl.tree.stack(agents), cl.vmap)):
        once = wrap(cl.evaluate(strategy.model, BENCH.test, batch_size=4))(agent)
        assert len(calls) == 1
        each = wrap(cl.evaluate(lambda state, exp: strategy.model(state, exp), BENCH.test, batch_size=4))(agent)
        assert len(calls) > 1 + len(BENCH.test)
        testing.assert_equal(once, each, "solved once", 1e-6, 1e-6)
        calls.clear()


def test_nearest_means_far_from_the_origin():
    """In float32 |f|^2 - 2 f mu + |mu|^2 loses all digits there."""
    means = cl.random.normal(cl.key(0), (3, 64))
    rows = means + 0.1 * cl.random.normal(cl.key(1), (3, 64))
    held = nearest_mean.NearestMean(means=means + 1e4, counts=torch.tensor([5, 5, 5]))
    expected = -torch.cdist(rows, means).square()
    torch.testing.assert_close(nearest_mean.logits(held, rows + 1e4), expected, rtol=0.01, atol=0.1)


@pytest.mark.parametrize(
    ("make", "path", "value"),
    [
        (lambda: cl.strategies.slda(MODEL), "slda.shrinkage", 2.0),
        (lambda: cl.strategies.acil(MODEL, projection_size=9), "acil.ridge", 0.0),
        (lambda: cl.strategies.ranpac(MODEL, projection_size=9, ridge=1.0), "ranpac.ridge", -1.0),
        (lambda: cl.strategies.fecam(MODEL), "fecam.gamma1", 0.0),
        (lambda: cl.strategies.fecam(MODEL), "fecam.gamma2", -1.0),
        (lambda: cl.strategies.fecam(MODEL), "fecam.tukey", 1.5),
        (lambda: cl.strategies.bic(MODEL, SGD, capacity=20, replay_size=4, validation=0.5), "temperature", 0.0),
        (lambda: cl.strategies.bic(MODEL, SGD, capacity=20, replay_size=4, validation=0.5), "bic.decay", -1.0),
        (lambda: cl.strategies.gem(MODEL, SGD, memory_per_experience=3, n_experiences=2), "gem.margin", -1.0),
        (lambda: cl.strategies.owm(MODEL, SGD), "owm.alpha", 0.0),
        (lambda: cl.strategies.ewc(MODEL, SGD, strength=1.0), "ewc.strength", -1.0),
        (lambda: cl.strategies.ewc_online(MODEL, SGD, strength=1.0, epochs=2), "ewc.decay", 1.5),
        (lambda: cl.strategies.mas(MODEL, SGD, strength=1.0, epochs=2), "mas.decay", -0.5),
        (lambda: cl.strategies.si(MODEL, SGD, strength=1.0, epochs=2), "si.damping", 0.0),
        (lambda: cl.strategies.rwalk(MODEL, SGD, strength=1.0, epochs=2), "rwalk.alpha", 2.0),
        (lambda: cl.strategies.der_pp(MODEL, SGD, capacity=6, replay_size=4), "alpha", -1.0),
        (lambda: cl.strategies.der_pp(MODEL, SGD, capacity=6, replay_size=4), "beta", -1.0),
        (lambda: cl.strategies.mir(MODEL, SGD, capacity=6, replay_size=4), "virtual_lr", -1.0),
    ],
)
def test_hyperparameters_are_checked_where_they_are_set(make, path, value):
    with pytest.raises(ValueError, match=path):
        cl.tree.set(make().init(cl.key(0)), {path: value})


def test_icarl_classifies_by_the_nearest_mean_of_exemplars():
    strategy = cl.strategies.icarl(MODEL, cl.optim.sgd(0.1), capacity=9, replay_size=6, batch_size=5)
    agent = trained(strategy)
    store = agent.replay
    phi = F.normalize(cl.models.features(MODEL, agent.model, store.data["x"]), dim=1)
    means = torch.stack([F.normalize(phi[store.occupied & (store.label == c)].mean(0), dim=0) for c in range(4)])
    exp = BENCH.test[0]
    gaps = torch.cdist(F.normalize(cl.models.features(MODEL, agent.model, exp.x), dim=1), means)
    torch.testing.assert_close(strategy.model(agent, exp), -gaps.square(), rtol=1e-4, atol=1e-5)
    right = (gaps.argmin(1) == exp.y).float().mean()
    assert cl.evaluate(strategy.model, BENCH.test)(agent)["accuracy"][0] == right


@pytest.mark.parametrize("name", ["icarl", "bic"])
def test_the_teacher_is_taken_where_new_classes_come(name):
    online = cl.streams.split_online(BENCH, experience_size=4)
    strategy = getattr(cl.strategies, name)(MODEL, cl.optim.sgd(0.1), capacity=40, replay_size=4)
    state, known = strategy.init(cl.key(0)), []
    for exp in online.train:
        before, state = state, strategy.update(state, exp)
        if not torch.equal(state.old, before.old):
            known.append(int(exp.index))
            taken = state.teacher[0] if name == "bic" else state.teacher
            testing.assert_equal(taken, before.model, "teacher")
    assert known == [4]  # 14 rows of the first experience are 4 pieces
    assert state.old.tolist() == [True, True, False, False]


def test_bic_never_trains_on_its_validation_rows():
    strategy = cl.strategies.bic(MODEL, cl.optim.sgd(0.1), capacity=16, replay_size=5, validation=0.5, batch_size=5)
    bench = testing.small_benchmark(rows_per_class=20)
    start = strategy.init(cl.key(2))
    after = cl.fold(strategy.update, start, bench.train)
    inputs = {tuple(x.tolist()): i for i, x in enumerate(bench.train[0].source.x)}
    held = {inputs[tuple(x.tolist())] for x in after.validation.data["x"][after.validation.occupied]}
    used = {inputs[tuple(x.tolist())] for x in after.replay.data["x"][after.replay.occupied]}
    assert len(held) == len(used) == 8
    assert not held & used
    for store in (after.validation, after.replay):
        assert torch.bincount(store.label).tolist() == [2, 2, 2, 2]

    moved = bench.train[0].source.x.clone()
    moved[sorted(held)] += 5.0
    other = cl.tree.replace(bench.train[0].source, x=moved)
    again = cl.fold(strategy.update, start, [cl.tree.replace(exp, source=other) for exp in bench.train])
    testing.assert_equal(again.model, after.model, "trained on held-out rows")
    assert again.bic.beta != after.bic.beta


@pytest.mark.parametrize("name", FROZEN)
def test_they_train_the_network_on_the_first_experience_alone(name):
    strategy = getattr(cl.strategies, name)(NORMED, cl.optim.sgd(0.1), batch_size=5, **registry.ARGUMENTS[name])
    start = strategy.init(cl.key(0))
    one, two = trained(strategy, 1), trained(strategy, 2)
    assert not cl.tree.equal(one.model.params, start.model.params)
    testing.assert_equal(two.model, one.model, "frozen")
    step = cl.train_step(cl.losses.cross_entropy(NORMED), cl.optim.sgd(0.1))
    plain = cl.minibatches(step, batch_size=5)
    testing.assert_equal(one.model, plain(start, BENCH.train[0]).model, "cross-entropy")


def test_ncm_can_train_the_network_on_every_experience():
    every = cl.strategies.ncm(MODEL, cl.optim.sgd(0.1), train="every")
    assert not cl.tree.equal(trained(every, 2).model.params, trained(every, 1).model.params)


def test_a_pretrained_network_is_kept():
    weights = MODEL.init(cl.key(9))
    for name in FROZEN:
        agent = trained(getattr(cl.strategies, name)(MODEL, weights=weights, batch_size=4, **registry.ARGUMENTS[name]))
        testing.assert_equal(agent.model, weights, "weights")
        slot = getattr(agent, name)
        if name not in ("ncm", "slda"):
            continue
        x, y = BENCH.train[0].source.x, BENCH.train[0].source.y
        phi = cl.models.features(MODEL, weights, x)
        torch.testing.assert_close(slot.means.float(), torch.stack([phi[y == c].mean(0) for c in range(4)]))


def test_evaluate_takes_a_function():
    strategy = cl.strategies.naive(MODEL, cl.optim.sgd(0.1))
    agent = trained(strategy)
    by_hand = cl.evaluate(lambda state, exp: MODEL.apply(state.model.params, {}, exp.x)[0], BENCH.test, batch_size=4)
    testing.assert_equal(by_hand(agent), cl.evaluate(MODEL, BENCH.test)(agent), "function", 1e-5, 1e-6)
    runs = cl.sweep(cl.strategies.ncm(LINEAR), BENCH, seeds=2, progress=False)
    assert (runs["accuracy"][:, -1] > 0.6).all()


def test_they_beat_naive():
    """On Split-Digits each is far above naive, which knows the last two classes alone."""
    bench = cl.streams.split_by_class(*cl.data.digits(), n_experiences=5)
    model, opt, how = cl.models.mlp(64, (64,), 10), cl.optim.sgd(0.05, momentum=0.9), {"batch_size": 32, "epochs": 2}
    made = cl.strategies
    strategies = {
        "naive": made.naive(model, opt, **how),
        "icarl": made.icarl(model, opt, capacity=200, replay_size=32, **how),
        "bic": made.bic(model, opt, capacity=200, replay_size=32, **how),
        "ncm": made.ncm(cl.models.mlp(64, (), 10)),
        "slda": made.slda(model),
    }
    found = {}
    for name, strategy in strategies.items():
        state = cl.fold(strategy.update, strategy.init(cl.key(0)), bench.train)
        found[name] = cl.evaluate(strategy.model, bench.test)(state)["accuracy"].mean()
    assert found.pop("naive") < 0.25
    for name, accuracy in found.items():
        assert accuracy > 0.5, name


# Errors

PLAIN = cl.models.from_module(registry.bn_net, n_classes=4, input_shape=(6,))
SHAPELESS = cl.models.from_module(registry.bn_net, n_classes=4, last_layer="4")


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: cl.strategies.icarl(PLAIN, SGD, capacity=8, replay_size=4), ValueError, "model: .*last_layer=NAME"),
        (lambda: cl.strategies.bic(PLAIN, SGD, capacity=80, replay_size=4), ValueError, "model: .*last_layer=NAME"),
        (lambda: cl.strategies.ncm(PLAIN), ValueError, "model: .*last_layer=NAME"),
        (lambda: cl.strategies.slda(PLAIN), ValueError, "model: .*last_layer=NAME"),
        (lambda: cl.strategies.slda(SHAPELESS).init(cl.key(0)), ValueError, "model: .*input_shape"),
        (lambda: cl.strategies.ranpac(PLAIN), ValueError, "model: .*last_layer=NAME"),
        (lambda: cl.strategies.fecam(PLAIN), ValueError, "model: .*last_layer=NAME"),
        (lambda: cl.strategies.acil(PLAIN), ValueError, "model: .*last_layer=NAME"),
        (lambda: cl.strategies.slda(MODEL, shrinkage=0.0), ValueError, "shrinkage"),
        (lambda: cl.strategies.slda(MODEL, shrinkage=1.0), ValueError, "shrinkage"),
        (lambda: cl.strategies.ncm(MODEL, SGD, train="once"), ValueError, "train: expected 'first' or 'every', got 'once'"),
        (lambda: cl.strategies.icarl(MODEL, SGD, capacity=3, replay_size=4), ValueError, "capacity: 3 rows for 4 classes"),
        (lambda: cl.strategies.icarl(MODEL, SGD, capacity=8, replay_size=0), ValueError, "replay_size"),
        (lambda: cl.strategies.bic(MODEL, SGD, capacity=8, replay_size=4), ValueError, "capacity: 7 rows for .* and 1 for"),
        (lambda: cl.strategies.bic(MODEL, SGD, capacity=80, replay_size=4, validation=1.0), ValueError, "validation"),
        (lambda: cl.strategies.bic(MODEL, SGD, capacity=80, replay_size=4, temperature=0), ValueError, "temperature"),
        (lambda: cl.strategies.bic(MODEL, SGD, capacity=80, replay_size=4, decay=0), ValueError, "decay"),
        (
            lambda: cl.strategies.bic(cl.models.multi_head(MODEL, MASKS), SGD, capacity=80, replay_size=4),
            ValueError,
            "model: the heads of a multi-head model do not compete",
        ),
        (lambda: cl.evaluate(3, BENCH.test), TypeError, "model: expected a Model or a function"),
        (
            lambda: cl.evaluate(cl.strategies.slda(MODEL), BENCH.test),
            TypeError,
            r"^model: .* got a Strategy; give its model, strategy.model\.$",
        ),
        (
            lambda: cl.models.from_module(registry.bn_net, n_classes=4, last_layer="5"),
            ValueError,
            "last_layer: .*'5'; its layers are 0, 1",
        ),
        (lambda: _wrong_head(), ValueError, r"last_layer: .* \[n, F\]"),
    ],
)
def test_errors(call, error, match):
    with pytest.raises(error, match=match):
        call()


def _wrong_head():
    model = cl.models.from_module(
        lambda: torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3), torch.nn.Flatten(0)), n_classes=4, last_layer="0"
    )
    return cl.models.features(model, model.init(cl.key(0)), torch.zeros(2, 1, 3))


@pytest.mark.parametrize("name", ["icarl", "bic"])
def test_a_model_for_more_classes_than_the_data_has_is_named(name):
    bench = cl.streams.domain_incremental(*cl.data.digits(), n_experiences=5)
    more = {"capacity": 60, "replay_size": 4, "batch_size": 20} | ({"validation": 0.4} if name == "bic" else {})
    method = getattr(cl.strategies, name)(cl.models.mlp(64, (8,), 10), cl.optim.sgd(0.1), **more)
    with pytest.raises(ValueError, match=r"n_classes: the model has 10 classes, the data has 2; build the model with n_classes=2"):
        method.update(method.init(cl.key(0)), bench.train[0])
