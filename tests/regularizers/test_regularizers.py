"""EWC, SI, MAS, RWalk and multi-head LwF: against linear-softmax models worked out in numpy, and their properties."""

from __future__ import annotations

import numpy as np
import pytest
import registry
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import cl_func as cl
from cl_func import regularizers, strategies, testing
from cl_func.experiences import pad, stream

BENCH, MODEL, SGD = registry.BENCH, registry.MODEL, registry.SGD
LABELS = ("true", "model", "all")


def linear():
    return torch.nn.Linear(6, 4).double()


LINEAR = cl.models.from_module(linear, n_classes=4, input_shape=(6,))
DATA = cl.Dataset(BENCH.train[0].source.x.double(), BENCH.train[0].source.y)
EXPS = [cl.experience(DATA, exp.rows, index=i) for i, exp in enumerate(BENCH.train)]


@cl.state
class Agent(cl.Agent):
    ewc: regularizers.EWC | None = None
    mas: regularizers.MAS | None = None


def agent(model=LINEAR, seed=0, decay=None):
    net = model.init(cl.key(seed))
    return Agent(
        key=cl.key(seed),
        model=net,
        ewc=regularizers.ewc.init(net.params, 2.0, decay),
        mas=regularizers.mas.init(net.params, 2.0),
    )


def arrays(tree):
    return {name: leaf.numpy() for name, leaf in tree.items()}


def probabilities(params, x):
    z = x @ params["weight"].T + params["bias"]
    p = np.exp(z - z.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def row_gradients(params, x, y):
    """Of the cross-entropy of a linear-softmax model, by hand: (p - e_y) x^T."""
    error = probabilities(params, x) - np.eye(4)[y]
    return {"weight": error[:, :, None] * x[:, None, :], "bias": error}


def mean(rows):
    return {name: values.mean(0) for name, values in rows.items()}


def assert_trees(ours, expected, tolerance=1e-9):
    for name, value in expected.items():
        np.testing.assert_allclose(ours[name].numpy(), value, rtol=tolerance, atol=tolerance)


def test_the_fisher_information_of_a_linear_softmax_model():
    state, exp = agent(), EXPS[0]
    params, x, y = arrays(state.model.params), exp.x.numpy(), exp.y.numpy()
    true = regularizers.ewc.consolidate(LINEAR)(state, exp).ewc.importance
    assert_trees(true, mean({name: g**2 for name, g in row_gradients(params, x, y).items()}))

    p = probabilities(params, x)
    variance = p * (1 - p)  # sum_y p_y (delta_yc - p_c)^2
    every = regularizers.ewc.consolidate(LINEAR, labels="all")(state, exp).ewc.importance
    assert_trees(every, mean({"weight": variance[:, :, None] * x[:, None] ** 2, "bias": variance}))


def test_drawn_labels_estimate_the_fisher_information_without_bias():
    state, n = agent(), 20_000
    x = EXPS[0].x[:1]
    exp = cl.experience(cl.Dataset(x.repeat(n, 1), torch.zeros(n, dtype=torch.int64), n_classes=4))
    drawn = regularizers.ewc.consolidate(LINEAR, labels="model")(state, exp).ewc.importance
    p = probabilities(arrays(state.model.params), x.numpy())[0]
    # The square of delta_yc - p_c over draws of y: mean p (1 - p), variance p (1 - p) (1 - 2 p)^2.
    error = np.sqrt(p * (1 - p) * (1 - 2 * p) ** 2 / n)
    assert (np.abs(drawn["bias"].numpy() - p * (1 - p)) < 4 * error + 1e-12).all()
    other = regularizers.ewc.consolidate(LINEAR, labels="model")(state.replace(key=cl.key(1)), exp).ewc.importance
    assert not torch.equal(other["bias"], drawn["bias"])


def test_the_sensitivity_of_a_linear_model():
    state, exp = agent(), EXPS[0]
    x = exp.x.numpy()
    f = x @ state.model.params["weight"].numpy().T + state.model.params["bias"].numpy()
    after = regularizers.mas.consolidate(LINEAR)(state, exp)
    once = mean({"weight": np.abs(2 * f[:, :, None] * x[:, None]), "bias": np.abs(2 * f)})
    assert_trees(after.mas.importance, once)
    twice = regularizers.mas.consolidate(LINEAR)(cl.tree.set(after, {"mas.decay": 0.5}), exp)
    assert_trees(twice.mas.importance, {name: 1.5 * value for name, value in once.items()})


@settings(deadline=None, max_examples=25)
@given(
    exp=testing.experiences(),
    key=testing.keys(),
    batch_size=st.integers(1, 20),
    padding=st.integers(0, 5),
    kind=st.sampled_from([*LABELS, "mas"]),
)
def test_importances_depend_on_neither_chunks_nor_padding(exp, key, batch_size, padding, kind):
    start = agent(MODEL).replace(key=key)

    def importance(exp, batch_size):
        if kind == "mas":
            return regularizers.mas.consolidate(MODEL, batch_size=batch_size)(start, exp).mas.importance
        return regularizers.ewc.consolidate(MODEL, labels=kind, batch_size=batch_size)(start, exp).ewc.importance

    whole = importance(exp, None)
    testing.assert_equal(importance(pad(exp, len(exp) + padding), batch_size), whole, "chunks", 1e-4, 1e-6)
    assert all(bool((leaf >= 0).all()) for leaf in whole.values())
    valid = exp.take(exp.rows[exp.valid], exp.valid[exp.valid])
    single = [importance(valid.take(valid.rows[i : i + 1], valid.valid[i : i + 1]), None) for i in range(len(valid))]
    average = cl.tree.map(lambda *rows: sum(rows) / len(rows), *single)
    testing.assert_equal(average, whole, "the mean of the rows' own", 1e-4, 1e-6)


@pytest.mark.parametrize("kind", ["true", "all", "mas"])
def test_importances_are_taken_in_eval_mode(kind):
    """With batch norm and dropout: neither the other rows nor the key play a part, and nothing moves."""
    state = agent(registry.NORMED)
    exp = BENCH.train[0]
    if kind == "mas":
        update = regularizers.mas.consolidate(registry.NORMED)
    else:
        update = regularizers.ewc.consolidate(registry.NORMED, labels=kind)
    slot = "mas" if kind == "mas" else "ewc"
    after = update(state, exp)
    testing.assert_equal(after.model, state.model, "nothing moves")
    rows = [update(state, exp.take(exp.rows[i : i + 1], exp.valid[i : i + 1])) for i in range(len(exp))]
    average = cl.tree.map(lambda *leaves: sum(leaves) / len(leaves), *[getattr(row, slot).importance for row in rows])
    testing.assert_equal(average, getattr(after, slot).importance, "rows alone", 1e-4, 1e-6)


def test_ewc_is_the_sum_of_a_penalty_per_experience():
    """One parabola stands for three with anchors of their own: the same gradient anywhere, the same value up to a constant."""
    states = [agent(seed=seed) for seed in range(3)]
    held, terms = states[0].ewc, []
    for i, state in enumerate(states):
        state = state.replace(ewc=held)
        held = regularizers.ewc.consolidate(LINEAR, batch_size=3)(state, EXPS[i % 2]).ewc
        alone = regularizers.ewc.consolidate(LINEAR)(agent(seed=i), EXPS[i % 2]).ewc.importance
        terms.append((state.model.params, alone))

    def explicit(params):
        return held.strength / 2 * sum((w[k] * (params[k] - a[k]) ** 2).sum() for a, w in terms for k in params)

    def ours(params):
        return regularizers.quadratic.penalty(params, held)

    points = [LINEAR.init(cl.key(seed)).params for seed in (7, 8)]
    for point in points:
        testing.assert_equal(torch.func.grad(ours)(point), torch.func.grad(explicit)(point), "gradient", 1e-9, 1e-10)
    torch.testing.assert_close(ours(points[0]) - ours(points[1]), explicit(points[0]) - explicit(points[1]))


def test_online_ewc_fades_and_anchors_at_the_last_parameters():
    first, second = agent(seed=0, decay=0.5), agent(seed=1, decay=0.5)
    update = regularizers.ewc.consolidate(LINEAR, batch_size=5)
    one = update(first, EXPS[0]).ewc
    both = update(second.replace(ewc=one), EXPS[1]).ewc
    alone = update(second, EXPS[1]).ewc
    # `one` and `alone` hold gamma F of one experience each; gamma F*_2 = gamma (gamma F_1 + F_2).
    expected = cl.tree.map(lambda old, new: 0.5 * old + new, one.importance, alone.importance)
    whole = regularizers.ewc.consolidate(LINEAR)(agent(seed=0), EXPS[0]).ewc
    testing.assert_equal(one.importance, cl.tree.map(lambda fisher: 0.5 * fisher, whole.importance), "gamma F", 1e-9, 1e-12)
    nothing = update(agent(seed=0, decay=0.0), EXPS[0]).ewc
    assert all(bool((leaf == 0).all()) for leaf in cl.tree.leaves(nothing.importance))
    testing.assert_equal(both.importance, expected, "importance", 1e-9, 1e-12)
    testing.assert_equal(both.anchor, second.model.params, "anchor")


def test_samples_are_rows_of_the_experience():
    state, exp = agent(), EXPS[0]
    params = arrays(state.model.params)
    squares = {name: g**2 for name, g in row_gradients(params, exp.x.numpy(), exp.y.numpy()).items()}
    some = regularizers.ewc.consolidate(LINEAR, samples=len(exp), batch_size=len(exp) // 2)(state, exp).ewc
    assert_trees(some.importance, mean(squares))  # as many as there are: each once
    fewer = regularizers.ewc.consolidate(LINEAR, samples=4, batch_size=128)(state, exp)
    assert int(fewer.ewc.rows) == 4
    assert torch.equal(fewer.key, state.key)
    one = regularizers.ewc.consolidate(LINEAR, samples=1)(state, exp).ewc
    assert np.isclose(one.importance["bias"].numpy(), squares["bias"]).all(1).sum() == 1
    assert int(one.rows) == 1


def test_samples_more_than_there_are_rows():
    """Each row equally often, but for the last ones; which these are does not depend on padding."""
    exp, seen = EXPS[0], []
    measure = regularizers.importance.Measure(
        lambda agent, exp: seen.append(exp.rows[exp.valid]) or cl.tree.map(torch.zeros_like, agent.model.params)
    )
    for given_rows in (exp, pad(exp, len(exp) + 9)):
        seen.clear()
        regularizers.importance.accumulate(
            measure, "ewc", regularizers.EWC, begin=lambda s, p: s, add=lambda s, p, q: s, batch_size=4, samples=2 * len(exp) + 3
        )(agent(), given_rows)
        counts = torch.bincount(torch.cat(seen), minlength=len(exp.source))[exp.rows]
        assert len(torch.cat(seen)) == -(-(2 * len(exp) + 3) // 4) * 4
        assert int(counts.min()) == 2
        assert int(counts.max()) == 3


@settings(deadline=None, max_examples=20)
@given(key=testing.keys(), size=st.floats(0.01, 10.0))
def test_the_penalty_is_zero_at_its_anchor_and_positive_off_it(key, size):
    state = agent(MODEL)
    held = regularizers.ewc.consolidate(MODEL, labels="all")(state, BENCH.train[0]).ewc
    params = state.model.params
    assert regularizers.quadratic.penalty(params, held) == 0
    keys = cl.random.split(key, len(params))
    off = {name: p + size * cl.random.normal(k, tuple(p.shape)) for k, (name, p) in zip(keys, params.items(), strict=True)}
    value = regularizers.quadratic.penalty(off, held)
    assert value > 0
    torch.testing.assert_close(regularizers.quadratic.penalty(off, held.replace(strength=held.strength * 3)), 3 * value)


def test_si_against_a_numpy_loop():
    """Three experiences of five steps: the task's gradient alone moves the path, both gradients move the parameters."""
    lr, strength, damping, steps = 0.25, 4.0, 0.125, 5
    strategy = strategies.si(LINEAR, cl.optim.sgd(lr), strength=strength, damping=damping, epochs=steps)
    state = strategy.init(cl.key(0))
    theta = {name: value.copy() for name, value in arrays(state.model.params).items()}
    anchor, omega = dict(theta), {name: np.zeros_like(value) for name, value in theta.items()}
    pulled = 0.0
    for exp in [*EXPS, EXPS[0]]:
        path = {name: np.zeros_like(value) for name, value in theta.items()}
        for _ in range(steps):
            task = mean(row_gradients(theta, exp.x.numpy(), exp.y.numpy()))
            for name, g in task.items():
                pull = strength * omega[name] * (theta[name] - anchor[name])
                pulled = max(pulled, np.abs(pull).max())
                change = -lr * (g + pull)
                path[name] -= g * change
                theta[name] = theta[name] + change
        for name in theta:
            omega[name] = np.maximum(0, omega[name] + path[name] / ((theta[name] - anchor[name]) ** 2 + damping))
        anchor = dict(theta)
        state = strategy.update(state, exp)
        assert_trees(state.model.params, theta)
        assert_trees(state.si.importance, omega)
        assert_trees(state.si.anchor, anchor)
    assert pulled > 1e-3
    assert max(value.max() for value in omega.values()) > 0.1


def test_the_path_integral_is_the_fall_of_the_loss():
    """To first order in the step size (Zenke et al., eq. 2), with the penalty on or off."""
    step = regularizers.path.train_step(cl.losses.cross_entropy(LINEAR), cl.optim.sgd(1e-3), slot="si")
    start = strategies.si(LINEAR, cl.optim.sgd(1e-3), strength=1.0, epochs=20).init(cl.key(0))
    moved = start.replace(si=start.si.replace(importance=cl.tree.map(torch.ones_like, start.model.params)))
    for state in (start, moved):
        end = cl.repeat(step, 20)(state, EXPS[0])
        loss = cl.losses.cross_entropy(LINEAR)
        fall = loss(state.model.params, state, EXPS[0])[0] - loss(end.model.params, end, EXPS[0])[0]
        torch.testing.assert_close(sum(leaf.sum() for leaf in end.si.path.values()), fall, rtol=0.02, atol=0)


@pytest.mark.parametrize("interval", [1, 2, 3])
def test_rwalk_against_a_numpy_loop(interval):
    """Three experiences of five steps; intervals that divide the experience and that do not."""
    lr, strength, alpha, damping, steps = 0.25, 0.5, 0.75, 0.0625, 5
    strategy = strategies.rwalk(
        LINEAR,
        cl.optim.sgd(lr),
        strength=strength,
        alpha=alpha,
        damping=damping,
        interval=interval,
        epochs=steps,
        importance_batch_size=4,
    )
    state = strategy.init(cl.key(0))
    theta = {name: value.copy() for name, value in arrays(state.model.params).items()}

    def zeros():
        return {name: np.zeros_like(value) for name, value in theta.items()}

    anchor, importance, fisher, past = dict(theta), zeros(), zeros(), None
    for exp in [*EXPS, EXPS[0]]:
        score, path, start = zeros(), zeros(), dict(theta)
        for step in range(1, steps + 1):
            rows = row_gradients(theta, exp.x.numpy(), exp.y.numpy())
            for name, g in mean(rows).items():
                fisher[name] = alpha * (rows[name] ** 2).mean(0) + (1 - alpha) * fisher[name]
                change = -lr * (g + strength * importance[name] * (theta[name] - anchor[name]))
                path[name] -= g * change
                theta[name] = theta[name] + change
                if step % interval == 0 or step == steps:
                    shift = theta[name] - start[name]
                    score[name] += np.maximum(0, path[name] / (0.5 * fisher[name] * shift**2 + damping))
                    path[name], start[name] = np.zeros_like(g), theta[name]
        past = score if past is None else {name: (past[name] + score[name]) / 2 for name in score}
        top = [max(value.max() for value in tree.values()) for tree in (fisher, past)]
        importance = {name: fisher[name] / top[0] + past[name] / top[1] for name in theta}
        anchor = dict(theta)
        state = strategy.update(state, exp)
        assert_trees(state.model.params, theta)
        assert_trees(state.rwalk.fisher, fisher)
        assert_trees(state.rwalk.past, past)
        assert_trees(state.rwalk.importance, importance)


METHODS = {
    "ewc": lambda **loop: strategies.ewc(MODEL, SGD, strength=3.0, **loop),
    "ewc_online": lambda **loop: strategies.ewc_online(MODEL, SGD, strength=3.0, labels="model", **loop),
    "mas": lambda **loop: strategies.mas(MODEL, SGD, strength=0.1, importance_batch_size=3, **loop),
    "si": lambda **loop: strategies.si(MODEL, SGD, strength=3.0, **loop),
    "rwalk": lambda **loop: strategies.rwalk(MODEL, SGD, strength=1.0, interval=2, **loop),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_differ_from_naive_after_the_second_experience_only_if_they_are_on(name):
    loop = {"batch_size": 5, "epochs": 2}
    naive, method = strategies.naive(MODEL, SGD, **loop), METHODS[name](**loop)
    start = method.init(cl.key(0))
    plain = [naive.init(cl.key(0))]
    for exp in BENCH.train:
        plain.append(naive.update(plain[-1], exp))
    off = cl.tree.set(start, {f"{name.removesuffix('_online')}.strength": 0.0})
    testing.assert_equal(cl.fold(method.update, off, BENCH.train).model, plain[2].model, "strength 0 is naive", 1e-6, 1e-6)
    first = method.update(start, BENCH.train[0])
    testing.assert_equal(first.model, plain[1].model, "nothing is held in the first experience", 1e-6, 1e-6)
    second = method.update(first, BENCH.train[1])
    assert not cl.tree.equal(second.model, plain[2].model, 1e-3, 1e-3)

    def distance(state):
        moved = cl.tree.map(lambda a, b: (a - b).square().sum(), state.model.params, first.model.params)
        return sum(cl.tree.leaves(moved))

    assert distance(second) < distance(plain[2])
    held = getattr(second, name.removesuffix("_online"))
    assert all(bool((leaf >= 0).all()) for leaf in cl.tree.leaves(held.importance))
    assert any(bool((leaf > 0).any()) for leaf in cl.tree.leaves(held.importance))


MASKS = torch.tensor([[True, True, False, False], [False, False, True, True]])
HEADS = cl.models.multi_head(MODEL, MASKS)
TASKS = [cl.tree.replace(exp, task=torch.tensor(i)) for i, exp in enumerate(BENCH.train)]


def test_lwf_distils_each_old_head_of_a_multi_head_model():
    """Both heads old: a softmax for each, losses added up; the model itself shows only the head of the row's task."""
    state = registry.init(cl.key(0))
    state = state.replace(lwf=state.lwf.replace(old=torch.ones(4) > 0))
    exp = TASKS[1]
    value, _ = regularizers.lwf.distillation(HEADS)(state.model.params, state, exp)
    student = MODEL.apply(state.model.params, {}, exp.x)[0] / 2
    teacher = MODEL.apply(state.lwf.teacher.params, {}, exp.x)[0] / 2
    expected = sum(
        F.kl_div(student[:, h].log_softmax(-1), teacher[:, h].log_softmax(-1), log_target=True, reduction="batchmean") * 4
        for h in (slice(0, 2), slice(2, 4))
    )
    torch.testing.assert_close(value, expected)
    first_only = state.replace(lwf=state.lwf.replace(old=MASKS[0]))
    grads = torch.func.grad(lambda p: regularizers.lwf.distillation(HEADS)(p, first_only, exp)[0])(state.model.params)
    assert (grads["2.weight"][:2] != 0).any()
    assert (grads["2.weight"][2:] == 0).all()


@pytest.mark.parametrize("kind", ["lwf", "er_lwf"])
def test_lwf_with_a_multi_head_model_keeps_the_old_head(kind):
    memory = {"capacity": 6, "replay_size": 4} if kind == "er_lwf" else {}

    def run(strength):
        method = getattr(strategies, kind)(HEADS, SGD, strength=strength, epochs=30, **memory)
        first = method.update(method.init(cl.key(0)), TASKS[0])
        return first, method.update(first, TASKS[1])

    (first, kept), (_, lost) = run(3.0), run(0.0)
    if kind == "lwf":
        naive = strategies.naive(HEADS, SGD, epochs=30)
        plain = cl.fold(naive.update, naive.init(cl.key(0)), TASKS)
        testing.assert_equal(lost.model, plain.model, "strength 0 is naive with heads", 1e-5, 1e-6)

    def answers(state):  # of the old head on the new inputs
        return HEADS.apply(state.model.params, {}, TASKS[1].x, task=torch.zeros(len(TASKS[1]), dtype=torch.int64))[0].softmax(-1)

    drift = [(answers(state) - answers(first)).abs().mean() for state in (kept, lost)]
    assert drift[0] < 0.5 * drift[1]


def test_multi_head_lwf_obeys_the_laws():
    testing.check_strategy(strategies.lwf(HEADS, SGD, batch_size=5), cl.Benchmark(train=stream(TASKS), test=stream(TASKS)))


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: strategies.ewc(MODEL, SGD, strength=-1.0).init(cl.key(0)), ValueError, "strength: .* got -1"),
        (lambda: strategies.ewc(MODEL, SGD, strength=1.0, labels="most"), ValueError, "labels: expected 'true'.*got 'most'"),
        (lambda: strategies.ewc_online(MODEL, SGD, strength=1.0, decay=1.5).init(cl.key(0)), ValueError, "decay: .* got 1.5"),
        (lambda: strategies.mas(MODEL, SGD, strength=True).init(cl.key(0)), TypeError, "strength: .* got True"),
        (lambda: strategies.mas(MODEL, SGD, strength=1.0, importance_batch_size=0.5), TypeError, "batch_size: .* got 0.5"),
        (lambda: strategies.ewc(MODEL, SGD, strength=1.0, importance_samples=0), ValueError, "samples: .* got 0"),
        (lambda: strategies.si(MODEL, SGD, strength=1.0, damping=0.0).init(cl.key(0)), ValueError, "damping: .* got 0"),
        (lambda: strategies.rwalk(MODEL, SGD, strength=1.0, alpha=-0.1).init(cl.key(0)), ValueError, "alpha: .* got -0.1"),
        (lambda: strategies.rwalk(MODEL, SGD, strength=1.0, interval=0), ValueError, "interval: .* got 0"),
        (
            lambda: regularizers.lwf.penalty(HEADS, torch.zeros(14, 4), registry.init(cl.key(0)).lwf, TASKS[0]),
            ValueError,
            "model: a multi-head model masks the heads .* model, heads = cl.models.split_heads",
        ),
    ],
)
def test_errors(call, error, match):
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize("name", [name for name in METHODS if name != "ewc"])
@pytest.mark.parametrize("loop", [{}, {"iterations": 1}, {"batch_size": 3, "iterations": 1}])
def test_a_single_step_per_experience_is_refused(name, loop):
    """It is taken at the anchor, where the penalty has no gradient: the method would be naive without a word."""
    with pytest.raises(ValueError, match=r"batch_size, epochs, iterations: .* the penalty would do nothing"):
        METHODS[name](**loop)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "ewc"])
def test_a_single_step_of_a_small_experience_is_warned_of(name):
    train = registry.BENCH.train[0]
    strategy, exp = METHODS[name](batch_size=6), cl.experience(train.source, train.rows[:6])
    with pytest.warns(UserWarning, match="batch_size: 6 makes one step of the 6 rows of an experience.*does nothing") as caught:
        strategy.update(strategy.init(cl.key(0)), exp)
    assert [warning.filename for warning in caught] == [__file__]
    METHODS[name](batch_size=5).update(strategy.init(cl.key(0)), exp)
    METHODS[name](batch_size=6, epochs=2).update(strategy.init(cl.key(0)), exp)


@pytest.mark.parametrize("kind", ["lwf", "er_lwf"])
def test_a_single_step_per_experience_is_refused_by_lwf(kind):
    memory = {"capacity": 6, "replay_size": 4} if kind == "er_lwf" else {}
    with pytest.raises(ValueError, match="the penalty would do nothing"):
        getattr(strategies, kind)(MODEL, SGD, **memory)


def test_ewc_holds_with_single_steps_too():
    """Its anchors are those of all experiences, so even the only step of an experience is pulled back."""
    ewc, naive = strategies.ewc(MODEL, SGD, strength=100.0), strategies.naive(MODEL, SGD)
    stream = [*BENCH.train, BENCH.train[0]]
    ours, plain = (cl.fold(s.update, s.init(cl.key(0)), stream).model.params for s in (ewc, naive))
    assert not cl.tree.equal(ours, plain, 1e-4, 1e-4)


@pytest.mark.parametrize("name", ["ewc", "mas"])
def test_sampled_importances_leave_the_rest_of_the_run_alone(name):
    loop = {"batch_size": 5, "epochs": 2}
    method = getattr(strategies, name)(MODEL, SGD, strength=1.0, importance_samples=4, **loop)
    naive = strategies.naive(MODEL, SGD, **loop)
    off = cl.tree.set(method.init(cl.key(0)), {f"{name}.strength": 0.0})
    plain = cl.fold(naive.update, naive.init(cl.key(0)), BENCH.train)
    testing.assert_equal(cl.fold(method.update, off, BENCH.train).model, plain.model, "strength 0", 1e-6, 1e-6)


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("name", ["ewc", "ewc_online"])
def test_the_labels_asked_for_are_those_of_the_importances(name, labels):
    strategy = getattr(strategies, name)(MODEL, SGD, strength=1.0, labels=labels, epochs=2)
    loop, *consolidate = strategy.update.updates[0], *strategy.update.updates[1:]
    trained = loop(strategy.init(cl.key(0)), BENCH.train[0])
    expected = regularizers.ewc.consolidate(MODEL, labels=labels)(trained, BENCH.train[0])
    testing.assert_equal(cl.compose(*consolidate)(trained, BENCH.train[0]).ewc, expected.ewc, "labels", 1e-5, 1e-7)


def test_rwalk_tracks_with_the_labels_asked_for():
    runs = [strategies.rwalk(MODEL, SGD, strength=1.0, labels=labels, epochs=2) for labels in ("true", "all")]
    fishers = [s.update(s.init(cl.key(0)), BENCH.train[0]).rwalk.fisher for s in runs]
    assert not cl.tree.equal(*fishers, 1e-3, 1e-6)


@pytest.mark.parametrize(
    ("update", "match"),
    [
        (lambda: regularizers.ewc.consolidate(MODEL, slot="lwf"), "slot 'lwf': expected a slot of EWC, got"),
        (lambda: regularizers.mas.consolidate(MODEL, slot="lwf"), "slot 'lwf': expected a slot of MAS, got"),
        (lambda: regularizers.si.consolidate(slot="lwf"), "slot 'lwf': expected an SI made by si.init, got"),
        (lambda: regularizers.rwalk.consolidate(slot="lwf"), "slot 'lwf': expected an RWalk made by rwalk.init, got"),
        (lambda: regularizers.rwalk.score(slot="lwf"), "slot 'lwf': expected an RWalk made by rwalk.init, got"),
        (lambda: cl.train_step(regularizers.quadratic.loss("lwf"), SGD), "slot 'lwf': expected a slot made by the init of ewc"),
    ],
)
def test_a_wrong_slot_is_named(update, match):
    with pytest.raises(TypeError, match=match):
        update()(registry.init(cl.key(0)), BENCH.train[0])


def test_the_step_with_a_path_is_watched_as_others_are():
    strategy = strategies.si(MODEL, SGD, strength=1.0, batch_size=5)
    bad = cl.tree.replace(BENCH.train[0].source, x=BENCH.train[0].source.x * float("nan"))
    with pytest.raises(FloatingPointError, match="loss is nan"):
        cl.check_finite(strategy.update)(strategy.init(cl.key(0)), cl.tree.replace(BENCH.train[0], source=bad))
    lost = regularizers.path.train_step(cl.losses.cross_entropy(MODEL), SGD, lambda grads, state, exp: grads, slot="si")
    with pytest.raises(TypeError, match="transforms: expected it to return two things"):
        lost(strategy.init(cl.key(0)), BENCH.train[0])
