"""Online evaluation beside a loop written by hand, and what it must not be: the loss of a step that replays."""

from __future__ import annotations

import pytest
import registry
import torch
from torch import nn

import cl_func as cl
from cl_func.experiences import pad

KEY = cl.key(5)
MODEL = cl.models.mlp(6, hidden=(7,), n_classes=4)


def naive(model, loss, lr, n, target="class"):
    base = cl.strategies.naive(model, cl.optim.sgd(lr), loss=loss, batch_size=n)
    shuffled = cl.extend(base, before_step=cl.trace.online.measure(model, target=target))
    # In the order of the rows, as the loops here take them.
    return cl.Strategy(shuffled.init, cl.minibatches(tree_step(shuffled.update), batch_size=n, shuffle=False), model)


def tree_step(update):
    """The step of an Update on minibatches, without what skips empty ones, which is put around it again."""
    return cl.tree.map(lambda leaf: leaf.inner, update.step)


def agent(model, target="class"):
    return naive(model, LOSSES[target](model), 0.1, 4, target).init(KEY)


LOSSES = {
    "class": cl.losses.cross_entropy,
    "regression": cl.losses.mean_squared_error,
    "multilabel": cl.losses.binary_cross_entropy,
}


def test_beside_a_loop_of_labels():
    """Minibatches of 4 of 14 rows: the last one has two, and they count as two."""
    bench = cl.testing.small_benchmark()
    net = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 4))
    strategy = naive(MODEL, cl.losses.cross_entropy(MODEL), 0.3, 4)
    net.load_state_dict(strategy.init(KEY).model.params)
    expected = []
    for exp in bench.train:
        right, losses = [], []
        for x, y in zip(exp.x.split(4), exp.y.split(4), strict=True):
            loss = nn.functional.cross_entropy(net(x), y)
            right += (net(x).argmax(1) == y).tolist()
            losses += nn.functional.cross_entropy(net(x), y, reduction="none").tolist()
            net.zero_grad()
            loss.backward()
            with torch.no_grad():
                for p in net.parameters():
                    p -= 0.3 * p.grad
        expected.append((sum(right) / len(right), sum(losses) / len(losses)))
    _, history = cl.scan(strategy.update, strategy.init(KEY), bench.train, cl.trace.online.probe())
    assert history["online_rows"].tolist() == [14, 28]
    accuracy, loss = torch.tensor(expected, dtype=torch.float64).T
    assert torch.allclose(cl.metrics.online_accuracy(history), accuracy)
    assert torch.allclose(history["online_loss"], torch.stack([loss[0], loss.mean()]))
    assert torch.allclose(cl.metrics.online_accuracy(history, bin=2), accuracy.mean()[None])


def test_errors_of_a_regression_in_lanes():
    model = cl.models.mlp(20, hidden=(5,), n_classes=1)
    benches = [cl.streams.slowly_changing_regression(cl.key(i), n_experiences=4, experience_size=30) for i in range(2)]
    loss = cl.losses.mean_squared_error(model)
    strategy = naive(model, loss, 0.01, 1, "regression")
    first = strategy.init(KEY)
    singles = [cl.scan(strategy.update, first, bench.train, cl.trace.online.probe())[1] for bench in benches]
    runs = cl.sweep(
        strategy,
        lambda key: cl.streams.slowly_changing_regression(key, n_experiences=4, experience_size=30),
        seeds=2,
        probe=cl.trace.online.probe(),
        compile=False,
        progress=False,
    )
    assert cl.metrics.online_error(runs.history).shape == (2, 4)
    for bench, history in zip(benches, singles, strict=True):
        errors, state, rows = [], first, 0
        step = cl.train_step(loss, cl.optim.sgd(0.01))
        for exp in bench.train:
            total = 0.0
            for i in range(len(exp)):
                row = exp.take(exp.rows[i : i + 1], exp.valid[i : i + 1])
                value, _ = loss(state.model.params, state, row)
                total, rows, state = total + value.item(), rows + 1, step(state, row)
            errors.append(total / len(exp))
        assert torch.allclose(cl.metrics.online_error(history), torch.tensor(errors, dtype=torch.float64), rtol=1e-5)
        binned = cl.metrics.online_error(history, bin=2)
        assert torch.allclose(binned, torch.tensor([errors[:2], errors[2:]], dtype=torch.float64).mean(1), rtol=1e-5)
        assert rows == history["online_rows"][-1]


def test_it_is_not_the_loss_of_a_step_that_replays():
    """ER's loss is that of old rows as well; what is measured is the new rows alone."""
    bench = cl.testing.small_benchmark()
    er = cl.strategies.er(MODEL, cl.optim.sgd(0.1), capacity=10, replay_size=5)
    online = cl.streams.split_online(bench, experience_size=2)

    strategy = cl.extend(er, before_step=cl.trace.online.measure(MODEL))
    state, right, n = strategy.init(KEY), 0, 0
    for exp in online.train:
        logits = MODEL.apply(state.model.params, {}, exp.x)[0]
        right, n = right + int((logits.argmax(1) == exp.y).sum()), n + len(exp)
        state = strategy.update(state, exp)
    found = cl.trace.online.probe()(state)
    assert (found["online_rows"].item(), round(found["online_accuracy"].item() * n)) == (28, right)


@pytest.mark.parametrize("target", ["class", "regression", "multilabel"])
def test_padding_counts_nothing(target):
    exp = registry.BENCHES[target].train[0]
    state = agent(MODEL, target)
    measure = cl.trace.online.measure(MODEL, target=target)
    cl.testing.assert_equal(measure(state, pad(exp, 20)), measure(state, exp), "padding", 1e-6, 1e-6)
    assert measure(state, exp).online.rows.item() == len(exp)


def test_a_million_rows_keep_their_digits():
    """Of sums in float32 the last bin would be off in the third digit."""
    state = agent(MODEL, "regression")
    state = state.replace(
        online=state.online.replace(sums={"mse": torch.tensor(1e7, dtype=torch.float64)}, rows=torch.tensor(10**7))
    )
    exp = registry.BENCHES["regression"].train[0]
    value, _ = cl.losses.mean_squared_error(MODEL)(state.model.params, state, exp)
    probe = cl.trace.online.probe()
    entries = [probe(state), probe(cl.trace.online.measure(MODEL, target="regression")(state, exp))]
    history = {name: torch.stack([entry[name] for entry in entries]) for name in entries[0]}
    assert torch.allclose(cl.metrics.online_error(history)[-1], value.double(), rtol=1e-6)


def test_what_is_refused():
    state = agent(MODEL)
    with pytest.raises(ValueError, match=r"y: cl.trace.online.measure\(target='class'\) is for class labels"):
        cl.trace.online.measure(MODEL)(state, registry.BENCHES["regression"].train[0])
    with pytest.raises(TypeError, match=r"slot 'opt': expected sums made by cl.trace.online.measure\(...\).init\(net\)"):
        cl.trace.online.measure(MODEL, slot="opt")(state, registry.BENCH.train[0])
    history = {"online_accuracy": torch.rand(3, 2), "online_rows": torch.tensor([[2, 2], [4, 4], [6, 6]])}
    assert cl.metrics.online_accuracy({name: values.T for name, values in history.items()}).shape == (2, 3)
    history["online_rows"] = torch.tensor([[2, 1], [4, 3], [6, 5]])
    with pytest.raises(ValueError, match=r"history: the rows that it counts decrease along its last axis, which must be time"):
        cl.metrics.online_accuracy(history)
    with pytest.raises(TypeError, match=r"history: expected a dict with 'online_mse'"):
        cl.metrics.online_error(history)
    with pytest.raises(ValueError, match=r"bin: expected at most the 2 entries of the history, got 3"):
        cl.metrics.online_accuracy({"online_accuracy": torch.rand(2), "online_rows": torch.tensor([2, 4])}, bin=3)
