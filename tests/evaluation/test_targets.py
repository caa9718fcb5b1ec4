"""Targets for regression and several labels a row: data, losses, memories and evaluation against hand-worked answers and loops."""

from __future__ import annotations

import math

import pytest
import torch

import cl_func as cl
from cl_func import random
from cl_func.evaluation import measures

KEY = cl.key(0)
N, D, K = 20, 6, 3
X = cl.random.normal(KEY, N * D).reshape(N, D)
VALUES = cl.random.normal(cl.random.fold_in(KEY, 1), N * K).reshape(N, K)
LABELS = cl.random.uniform(cl.random.fold_in(KEY, 2), N * K).reshape(N, K) < 0.4
MODEL = cl.models.mlp(D, hidden=(8,), n_classes=K)
SGD = cl.optim.sgd(0.1)
DATA = {"regression": cl.Dataset(X, VALUES), "multilabel": cl.Dataset(X, LABELS)}
LOSSES = {"regression": cl.losses.mean_squared_error(MODEL), "multilabel": cl.losses.binary_cross_entropy(MODEL)}


def part(data, start, stop, index=0):
    return cl.experience(data, torch.arange(start, stop), index=index)


def test_what_y_is_says_what_kind_of_problem_it_is():
    one = cl.Dataset(X, VALUES[:, 0])
    assert [d.target for d in (one, DATA["regression"], DATA["multilabel"])] == ["regression", "regression", "multilabel"]
    assert [d.n_classes for d in (one, DATA["regression"], DATA["multilabel"])] == [0, 0, K]
    assert [len(d) for d in (one, *DATA.values())] == [N] * 3
    exp = part(DATA["multilabel"], 0, 4)
    assert torch.equal(exp.classes, LABELS[:4].any(0))
    assert part(one, 0, 4).classes.shape == (0,)


@pytest.mark.parametrize(
    ("y", "more", "error", "match"),
    [
        (VALUES.to(torch.int32)[:, 0], {}, TypeError, "y: expected int64 labels, bool labels"),
        (VALUES[:, :, None], {}, ValueError, r"\[N\] or \[N, K\]"),
        (LABELS[:, 0], {}, ValueError, r"\[N, C\]"),
        (LABELS[:, :1].long(), {}, ValueError, r"and \[20, 1\]; for class labels give y\[:, 0\]\.$"),
        (LABELS.long(), {}, ValueError, r"one-hot, give y\.argmax\(1\); if it has any number of labels, y > 0\.$"),
        (VALUES[:-1], {}, ValueError, "lengths differ: 20 rows of x, 19 of y"),
        (VALUES.masked_fill(LABELS, math.nan), {}, ValueError, "y: .* rows of targets are not finite"),
        (VALUES, {"n_classes": 3}, ValueError, "have no classes, got 3"),
        (LABELS, {"n_classes": 4}, ValueError, "a column for each of 3 labels, got 4"),
    ],
)
def test_targets_that_cannot_be_are_refused(y, more, error, match):
    with pytest.raises(error, match=match):
        cl.Dataset(X, y, **more)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_inputs_that_are_not_finite_are_refused_and_the_first_row_named(bad, dtype):
    x = torch.full((N, 4), torch.finfo(dtype).max, dtype=dtype)  # their sum overflows
    assert len(cl.Dataset(x, LABELS)) == N
    x[3, 2] = x[5, 0] = bad
    with pytest.raises(ValueError, match=f"x: 2 of {N} rows of inputs are not finite, the first is row 3; leave them out"):
        cl.Dataset(x, LABELS)


def value(loss, exp):
    state = cl.strategies.naive(MODEL, SGD).init(KEY)
    return loss(state.model.params, state, exp)[0]


def outputs(exp):
    state = cl.strategies.naive(MODEL, SGD).init(KEY)
    return cl.models.forward(MODEL, state.model.params, state, exp, train=False)[0]


def test_losses_are_torchs():
    exp = part(DATA["regression"], 0, 8)
    out = outputs(exp)
    torch.testing.assert_close(value(LOSSES["regression"], exp), torch.nn.functional.mse_loss(out, VALUES[:8]))
    for delta in (0.3, 1.0):
        expected = torch.nn.functional.huber_loss(out, VALUES[:8], delta=delta)
        torch.testing.assert_close(value(cl.losses.huber(MODEL, delta), exp), expected)
    exp = part(DATA["multilabel"], 0, 8)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(out, LABELS[:8].float())
    torch.testing.assert_close(value(LOSSES["multilabel"], exp), expected)


@pytest.mark.parametrize("target", DATA)
def test_losses_refuse_targets_of_another_kind_in_one_line(target):
    exp = part(DATA[target], 0, 4)
    words = {"regression": "targets for regression", "multilabel": "multi-label targets"}[target]
    (other,) = [loss for kind, loss in LOSSES.items() if kind != target]
    for loss in (other, cl.losses.cross_entropy(MODEL)):
        with pytest.raises(ValueError, match=f"y: .* is for .*; this data has {words}"):
            value(loss, exp)
    wide = cl.models.mlp(D, hidden=(8,), n_classes=K + 1)
    state = cl.strategies.naive(wide, SGD).init(KEY)
    loss = (cl.losses.mean_squared_error if target == "regression" else cl.losses.binary_cross_entropy)(wide)
    with pytest.raises(ValueError, match=f"n_classes: the model has {K + 1} outputs"):
        loss(state.model.params, state, exp)


def test_targets_of_another_dtype_are_not_cast():
    with pytest.raises(ValueError, match=r"targets are float64\[4, 3\]; convert them to one dtype: y\.to\(torch\.float32\), or in"):
        value(LOSSES["regression"], part(cl.Dataset(X, VALUES.double()), 0, 4))


@pytest.mark.parametrize("y", [VALUES, VALUES[:, 0], LABELS], ids=["K targets", "one target", "labels"])
def test_a_memory_keeps_targets_as_they_are(y):
    """What was stored joins the minibatch with the targets that it had."""
    data = cl.Dataset(X, y)
    model = cl.models.mlp(D, hidden=(8,), n_classes=1 if y.ndim == 1 else K)
    store = cl.memory.reservoir.init(N, cl.memory.sample(model, data.target))
    exp = part(data, 0, N)
    store = cl.memory.reservoir.add(store, KEY, cl.memory.fields(None, exp), exp.valid)
    rows, valid = cl.memory.reservoir.draw(store, KEY, 5)
    for joined in (cl.memory.join(part(data, 3, 6), rows, valid), cl.memory.recalled(part(data, 3, 6), rows, valid)):
        assert joined.y.dtype == y.dtype
        for i in range(len(joined)):
            (source,) = (joined.x[i] == X).all(1).nonzero().flatten().tolist()
            assert torch.equal(joined.y[i], y[source])
    other = {"regression": "multilabel", "multilabel": "regression"}[data.target]
    wrong = cl.memory.reservoir.init(N, cl.memory.sample(model, other))
    with pytest.raises(ValueError, match="the memory stores"):
        cl.memory.reservoir.add(wrong, KEY, cl.memory.fields(None, exp), exp.valid)


def test_what_differs_from_the_targets_of_a_memory_is_named():
    model = cl.models.mlp(D, hidden=(8,), n_classes=K)
    store = cl.memory.reservoir.init(N, cl.memory.sample(model, "regression"))
    rows, valid = cl.memory.reservoir.draw(store, KEY, 5)
    convert, build = (
        r"convert those of the data, y\.to\(torch\.float32\), or in numpy y\.astype\(numpy\.float32\)",
        "build the model with n_classes",
    )
    for y, mend in (
        (VALUES.double(), rf"float64\[6, 3\]; {convert}\.$"),
        (VALUES[:, 0], rf"float32\[6\]; {build}=1, an output for each target\.$"),
        (VALUES[:, :2].half(), rf"float16\[6, 2\]; {convert}; {build}=2, an output for each target\.$"),
        (LABELS, r"bool\[6, 3\]; make the memory for those of the data"),
    ):
        with pytest.raises(ValueError, match=rf"y: the memory stores targets float32\[5, 3\], the data has {mend}"):
            cl.memory.join(part(cl.Dataset(X, y), 3, 9), rows, valid)


# -- evaluation


def evaluated(target, batch_size):
    data = DATA[target]
    stream = [part(data, 0, 7), part(data, 7, N, index=1)]
    state = cl.strategies.naive(MODEL, SGD).init(KEY)
    return state, stream, cl.evaluate(MODEL, stream, batch_size=batch_size)(state)


@pytest.mark.parametrize("batch_size", [2, 5, 512])
def test_errors_by_hand(batch_size):
    _, stream, found = evaluated("regression", batch_size)
    for t, exp in enumerate(stream):
        error = (outputs(exp) - exp.y).square()
        torch.testing.assert_close(found["mse"][t], error.mean())
        r2 = 1 - error.sum(0) / (exp.y - exp.y.mean(0)).square().sum(0)
        torch.testing.assert_close(found["r2"][t], r2.mean())
    assert torch.equal(found["loss"], found["mse"])


@pytest.mark.parametrize("batch_size", [2, 5, 512])
@pytest.mark.parametrize("around", [0.0, 0.1, 1000.1, -1e9])
def test_r2_of_targets_far_from_zero_and_of_constant_ones(around, batch_size):
    y = around + random.normal(KEY, (23, 1)).double()
    y = torch.cat([y, torch.full_like(y, around)], dim=1)
    exp = cl.experience(cl.Dataset(y + 0.1, y))
    probes = [cl.evaluate(lambda s, e, k=k: e.x[:, k : k + 1] if k == 0 else e.x, [part_of(exp, k)], batch_size) for k in (0, 1)]
    one, both = (probe(torch.zeros(())) for probe in probes)
    expected = 1 - (exp.x[:, 0] - y[:, 0]).square().sum() / (y[:, 0] - y[:, 0].mean()).square().sum()
    torch.testing.assert_close(one["r2"], expected[None])
    assert both["r2"].isnan()  # the second target is constant
    torch.testing.assert_close(both["mse"], (exp.x - y).square().mean()[None])


def part_of(exp, k):
    """An experience of the first target, or of both."""
    return cl.experience(cl.Dataset(exp.x, exp.y[:, :1])) if k == 0 else exp


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_of_half_precision_are_summed_in_single(dtype):
    """Sums of thousands of rows in float16 are infinite, and in bfloat16 they stop to grow."""
    x = random.normal(KEY, (40_000, 10)).to(dtype)
    y = torch.arange(40_000) % 10
    found = cl.evaluate(lambda s, e: e.x, [cl.experience(cl.Dataset(x, y))], 40_000)(torch.zeros(()))
    torch.testing.assert_close(found["loss"], torch.nn.functional.cross_entropy(x.double(), y).float()[None])
    labels = torch.nn.functional.one_hot(y, 10).bool()
    found = cl.evaluate(lambda s, e: e.x, [cl.experience(cl.Dataset(x, labels))], 40_000)(torch.zeros(()))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(x.double(), labels.double())
    torch.testing.assert_close(found["loss"], expected.float()[None])


def precision_by_loop(scores, labels):
    """The average precision of one label, from its definition: thresholds one after the other."""
    area, recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        passed = [label for score, label in zip(scores, labels, strict=True) if score >= threshold]
        new = sum(passed) / sum(labels)
        area, recall = area + (new - recall) * sum(passed) / len(passed), new
    return area


@pytest.mark.parametrize("batch_size", [2, 5, 512])
def test_precision_by_a_loop(batch_size):
    _, stream, found = evaluated("multilabel", batch_size)
    for t, exp in enumerate(stream):
        scores = outputs(exp)
        each = [precision_by_loop(scores[:, c].tolist(), exp.y[:, c].tolist()) for c in range(K) if exp.y[:, c].any()]
        assert float(found["mean_average_precision"][t]) == pytest.approx(sum(each) / len(each), rel=1e-5)
        predicted = scores > 0
        f1 = 2 * (predicted & exp.y).sum() / (predicted.sum() + exp.y.sum())
        torch.testing.assert_close(found["f1"][t], f1)
        torch.testing.assert_close(found["loss"][t], torch.nn.functional.binary_cross_entropy_with_logits(scores, exp.y.float()))


@pytest.mark.parametrize("n_values", [1, 2, 3, 50])
def test_ties_do_not_depend_on_their_order(n_values):
    """Scores of few values: every order of the rows gives the loop's answer; padding gives none."""
    n = 17
    for seed in range(20):
        key = cl.key(seed)
        scores = cl.random.randint(key, n, 0, n_values).float()
        labels = cl.random.uniform(cl.random.fold_in(key, 1), n) < 0.4
        valid = cl.random.uniform(cl.random.fold_in(key, 2), n) < 0.8
        labels = labels & valid
        found = measures.average_precision(scores[:, None], labels[:, None], valid[:, None])
        if not labels.any():
            assert found.isnan().all()
            continue
        expected = precision_by_loop(scores[valid].tolist(), labels[valid].tolist())
        assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("target", DATA)
def test_lanes_of_an_evaluation_are_single_ones(target):
    _, stream, _ = evaluated(target, 5)
    probe = cl.evaluate(MODEL, stream, batch_size=5)
    states = [cl.strategies.naive(MODEL, SGD).init(cl.key(seed)) for seed in range(3)]
    together = cl.vmap(probe)(cl.tree.stack(states))
    for i, state in enumerate(states):
        for name, expected in probe(state).items():
            torch.testing.assert_close(together[name][i], expected)


def test_a_measure_of_ones_own():
    state, stream, _ = evaluated("regression", 5)
    probe = cl.evaluate(MODEL, stream, batch_size=4, measure=lambda out, exp: {"within": ((out - exp.y).abs() < 1).all(-1)})
    found = probe(state)
    assert found.keys() == {"within"}
    for t, exp in enumerate(stream):
        torch.testing.assert_close(found["within"][t], ((outputs(exp) - exp.y).abs() < 1).all(-1).float().mean())
    with pytest.raises(TypeError, match=r"measure: 'sum'.*a value for each row"):
        cl.evaluate(MODEL, stream, measure=lambda out, exp: {"sum": out.sum()})(state)
    with pytest.raises(TypeError, match="measure: expected it to return a dict"):
        cl.evaluate(MODEL, stream, measure=lambda out, exp: out.sum(-1))(state)


def test_streams_of_two_kinds_are_refused():
    with pytest.raises(ValueError, match=r"stream\[1\] is for targets for regression; this data has multi-label"):
        cl.evaluate(MODEL, [part(DATA["regression"], 0, 4), part(DATA["multilabel"], 0, 4)])
    with pytest.raises(ValueError, match="mask is for class labels"):
        cl.evaluate(MODEL, [part(DATA["regression"], 0, 4)], mask="experience")


def test_a_linear_model_finds_the_closed_form():
    """Gradient descent on the mean squared error ends at the least-squares solution."""
    true = torch.tensor([[1.0, -2.0], [0.5, 0.0], [3.0, 1.0]])
    x = cl.random.normal(KEY, 120).reshape(40, 3)
    y = x @ true + 0.1 * cl.random.normal(cl.key(5), 80).reshape(40, 2)
    model = cl.models.from_module(lambda: torch.nn.Linear(3, 2), n_classes=2, input_shape=(3,))
    exp = cl.experience(cl.Dataset(x, y))
    step = cl.train_step(cl.losses.mean_squared_error(model), cl.optim.sgd(0.3))
    strategy = cl.strategies.naive(model, cl.optim.sgd(0.3))
    state = cl.repeat(step, 400)(strategy.init(KEY), exp)
    design = torch.cat([x, torch.ones(40, 1)], 1)
    expected = torch.linalg.lstsq(design, y).solution
    torch.testing.assert_close(state.model.params["weight"].T, expected[:3], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(state.model.params["bias"], expected[3], rtol=1e-4, atol=1e-4)
