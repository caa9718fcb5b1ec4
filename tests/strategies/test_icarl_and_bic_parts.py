"""The functions that iCaRL and BiC are made of, each called alone on states made by hand."""

from __future__ import annotations

import math

import pytest
import torch

import cl_func as cl
from cl_func.classifiers import BiasCorrection, NearestMean
from cl_func.models import ModelState
from cl_func.strategies import BiCAgent, ICaRLAgent, _train_state, bic, icarl
from cl_func.strategies.bic import _begin as bic_begin
from cl_func.strategies.bic import _fit, _split, _store
from cl_func.strategies.bic import _logits as bic_logits
from cl_func.strategies.bic import _loss as bic_loss
from cl_func.strategies.icarl import _begin as icarl_begin
from cl_func.strategies.icarl import _exemplar_means
from cl_func.strategies.icarl import _logits as icarl_logits
from cl_func.strategies.icarl import _loss as icarl_loss

LINEAR = cl.models.mlp(2, hidden=(), n_classes=4)  # logits = W x + b, and its features are its inputs
W = [[1.0, 0.5], [-0.5, 0.25], [0.0, 1.0], [2.0, -1.0]]
W_TEACHER = [[0.5, -1.0], [1.0, 1.0], [-1.0, 0.5], [0.25, 0.75]]
KEY = cl.key(5)


def net(weight):
    return ModelState(params={"0.weight": torch.tensor(weight), "0.bias": torch.tensor([0.1, 0.2, 0.3, 0.4])}, buffers={})


def logits_of(weight, x):
    return [row[0] * x[0] + row[1] * x[1] + bias for row, bias in zip(weight, [0.1, 0.2, 0.3, 0.4], strict=True)]


def mask(*classes):
    return torch.tensor([c in classes for c in range(4)])


def exemplars(x, y, capacity=4):
    """A memory whose first rows are these; what the others hold must not matter."""
    spare = capacity - len(y)
    rows = {"x": torch.tensor([*x, *[[9.0, -9.0]] * spare]), "y": torch.tensor([*y, *[3] * spare])}
    return cl.memory.Herding(
        data={**rows, "task": torch.zeros(capacity, dtype=torch.int64)},
        label=rows["y"],
        rank=torch.zeros(capacity, dtype=torch.int64),
        filled=torch.tensor(len(y)),
        seen=mask(*y),
    )


def experience(x, y, classes, valid=None):
    exp = cl.experience(cl.Dataset(torch.tensor(x), torch.tensor(y), n_classes=4), classes=mask(*classes))
    return exp if valid is None else exp.take(exp.rows, torch.tensor(valid))


def icarl_agent(**fields):
    begun = {
        "key": KEY,
        "model": net(W),
        "replay": exemplars([[0.5, 1.0]], [0]),
        "teacher": net(W_TEACHER),
        "old": mask(0, 1),
        "seen": mask(0, 1, 2),
        "share": torch.tensor(0.25),
        "ncm": NearestMean(means=torch.zeros(4, 2), counts=torch.zeros(4, dtype=torch.int64)),
    }
    return ICaRLAgent(**{**begun, **fields})


def bic_agent(**fields):
    begun = {
        "key": KEY,
        "model": net(W),
        "replay": exemplars([[0.5, 1.0]], [0]),
        "validation": exemplars([[0.5, 1.0]], [0]),
        "holdout_key": cl.key(8),
        "teacher": (net(W_TEACHER), correction(2.0, 1.0, 1)),
        "old": mask(0, 1),
        "share": torch.tensor(0.25),
        "temperature": torch.tensor(2.0),
        "bic": correction(1.0, 0.0, 2),
    }
    return BiCAgent(**{**begun, **fields})


def correction(alpha, beta, *new):
    return BiasCorrection(alpha=torch.tensor(alpha), beta=torch.tensor(beta), new=mask(*new), decay=torch.tensor(1e-6))


def held_out(agent, row, validation):
    """Whether a row is for validation, by the definition: the 24 lowest bits of its own key, as a fraction."""
    return (int(cl.random.fold_in(agent.holdout_key, row)) & 0xFFFFFF) / 2**24 < validation


# ------------------------------------------------------------------ the first state


def test_the_train_state_is_what_its_key_gives():
    optimizer = cl.optim.adam(0.1)
    key, weights, opt = _train_state.init_train_state(KEY, LINEAR, optimizer)
    assert torch.equal(key, cl.random.split(KEY)[0])
    assert cl.tree.equal(weights, LINEAR.init(cl.random.split(KEY)[1]))
    assert cl.tree.equal(opt, optimizer.init(weights.params))
    again, kept, none = _train_state.init_train_state(KEY, LINEAR, None, net(W))
    assert torch.equal(again, key)
    assert cl.tree.equal(kept, net(W))
    assert none is None


# ------------------------------------------------------------------ iCaRL


def test_icarl_takes_a_teacher_where_a_new_class_comes():
    agent = icarl_agent(seen=mask(0, 1), old=mask(0), share=torch.tensor(0.0), replay=exemplars([[1.0, 1.0]] * 2, [0, 1]))
    exp = experience([[1.0, 0.0]] * 4, [2, 2, 1, 0], classes=(0, 1, 2), valid=[True, True, True, False])
    begun = icarl_begin(agent, exp, n_classes=4)
    assert cl.tree.equal(begun.teacher, agent.model)
    assert begun.old.tolist() == [True, True, False, False]
    assert begun.seen.tolist() == [True, True, True, False]
    assert begun.share == pytest.approx(2 / (2 + 3))
    assert cl.tree.equal((begun.key, begun.model, begun.replay), (agent.key, agent.model, agent.replay))


def test_icarl_keeps_the_teacher_where_no_new_class_comes():
    agent = icarl_agent()
    begun = icarl_begin(agent, experience([[1.0, 0.0]] * 3, [0, 2, 2], classes=(0, 2)), n_classes=4)
    assert cl.tree.equal(begun, agent.replace(share=torch.tensor(1 / (1 + 3))))


def test_icarl_refuses_data_with_more_classes():
    with pytest.raises(ValueError, match="n_classes: the memory was made for 3 classes, the data has 4"):
        icarl_begin(icarl_agent(), experience([[1.0, 0.0]], [3], classes=(3,)), n_classes=3)


def test_icarl_loss_by_a_plain_loop():
    """Class 0 is old: distilled. Class 1 is old but comes again, class 2 is new: labels. Class 3 was never seen: no part in it."""
    agent = icarl_agent()
    x, y = [[1.0, -0.5], [0.25, 2.0], [7.0, 7.0]], [2, 1, 2]
    exp = experience(x, y, classes=(1, 2), valid=[True, True, False])
    value, after = icarl_loss(agent.model.params, agent, exp, model=LINEAR, replay_size=3)

    def sigmoid(z):
        return 1 / (1 + math.exp(-z))

    expected = 0.0
    rows = [([0.5, 1.0], 0, 0.25), (x[0], y[0], 0.75 / 2), (x[1], y[1], 0.75 / 2)]  # one exemplar stands for a quarter of all rows
    for row, label, weight in rows:
        for c in range(3):
            target = sigmoid(logits_of(W_TEACHER, row)[c]) if c == 0 else float(label == c)
            output = sigmoid(logits_of(W, row)[c])
            expected -= weight * (target * math.log(output) + (1 - target) * math.log(1 - output))
    assert value == pytest.approx(expected, rel=1e-5)
    assert cl.tree.equal(after, agent.replace(key=cl.random.split(KEY)[0]))


def test_icarl_loss_with_no_exemplar_is_the_mean_over_the_new_rows():
    agent = icarl_agent(replay=exemplars([], []), share=torch.tensor(0.0), old=mask(), seen=mask(0, 1))
    exp = experience([[1.0, -0.5], [0.25, 2.0]], [0, 1], classes=(0, 1))
    value, _ = icarl_loss(agent.model.params, agent, exp, model=LINEAR, replay_size=2)
    expected = 0.0
    for x, label in (([1.0, -0.5], 0), ([0.25, 2.0], 1)):
        for c in range(2):
            expected += math.log1p(math.exp((-1 if label == c else 1) * logits_of(W, x)[c])) / 2
    assert value == pytest.approx(expected, rel=1e-5)


def test_the_means_of_exemplars_by_hand():
    """(3, 4) and (0, 2) at length 1 are (0.6, 0.8) and (0, 1); their mean (0.3, 0.9) has the direction (1, 3)."""
    stale = NearestMean(means=torch.full((4, 2), 7.0), counts=torch.full((4,), 7))
    agent = icarl_agent(replay=exemplars([[3.0, 4.0], [2.0, 0.0], [0.0, 2.0]], [1, 0, 1]), ncm=stale)
    after = _exemplar_means(agent, experience([[1.0, 1.0]], [2], classes=(2,)), model=LINEAR)
    third = [1 / math.sqrt(10), 3 / math.sqrt(10)]
    torch.testing.assert_close(after.ncm.means, torch.tensor([[1.0, 0.0], third, [0.0, 0.0], [0.0, 0.0]]))
    assert after.ncm.counts.tolist() == [1, 2, 0, 0]
    assert cl.tree.equal(after.replace(ncm=stale), agent)


def test_icarl_classifies_by_hand():
    """Rows are scaled to length 1: (5, 0) lies on the mean of class 0, at the squared distance 2 from that of class 1."""
    means = NearestMean(means=torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]), counts=torch.tensor([3, 1, 0, 0]))
    exp = experience([[5.0, 0.0], [0.0, 0.5]], [0, 1], classes=(0, 1))
    found = icarl_logits(LINEAR, icarl_agent(ncm=means), exp)
    torch.testing.assert_close(found[:, :2], torch.tensor([[0.0, -2.0], [-2.0, 0.0]]))
    assert (found[:, 2:] < -1e8).all()


# ------------------------------------------------------------------ BiC


@pytest.mark.parametrize("validation", [0.1, 0.5, 0.75])
def test_bic_splits_every_row_by_its_own_number(validation):
    agent, n = bic_agent(), 400
    exp = cl.experience(cl.Dataset(torch.zeros(n, 2), torch.zeros(n, dtype=torch.int64), n_classes=4))
    exp = exp.take(exp.rows, exp.rows % 7 != 0)  # some of them padding
    training, held = _split(agent, exp, validation)
    for row in range(n):
        kept = row % 7 != 0
        assert bool(held.valid[row]) == (kept and held_out(agent, row, validation))
        assert bool(training.valid[row]) == (kept and not held_out(agent, row, validation))
    assert held.valid.sum() / exp.valid.sum() == pytest.approx(validation, abs=0.07)

    picked = torch.tensor([31, 5, 200, 31])  # in a minibatch a row is on the side where it always is
    part, part_held = _split(agent, exp.take(picked, torch.ones(4) > 0), validation)
    assert part_held.valid.tolist() == [held_out(agent, row, validation) for row in picked.tolist()]
    assert torch.equal(part.valid, ~part_held.valid)
    assert torch.equal(part.rows, picked)


def test_bic_takes_a_teacher_where_a_new_class_comes():
    agent = bic_agent(old=mask(0), bic=correction(3.0, 0.5, 1), replay=exemplars([[1.0, 1.0]] * 2, [0, 1]))
    exp = experience([[1.0, 0.0]] * 10, [2] * 10, classes=(0, 2))
    begun = bic_begin(agent, exp, n_classes=4, validation=0.5)
    assert cl.tree.equal(begun.teacher, (agent.model, agent.bic))
    assert begun.old.tolist() == [True, True, False, False]
    assert cl.tree.equal(begun.bic, agent.bic.replace(new=mask(2)))
    n_training = sum(not held_out(agent, row, 0.5) for row in range(10))
    assert 0 < n_training < 10
    assert begun.share == pytest.approx(2 / (2 + n_training))
    assert cl.tree.equal((begun.key, begun.model, begun.replay), (agent.key, agent.model, agent.replay))


def test_bic_keeps_the_teacher_where_no_new_class_comes():
    agent = bic_agent()
    begun = bic_begin(agent, experience([[1.0, 0.0]] * 10, [2] * 10, classes=(0, 2)), n_classes=4, validation=0.5)
    assert cl.tree.equal(begun.replace(share=agent.share), agent)
    with pytest.raises(ValueError, match="n_classes: the memory was made for 3 classes"):
        bic_begin(agent, experience([[1.0, 0.0]], [3], classes=(3,)), n_classes=3, validation=0.5)


def test_bic_loss_by_a_plain_loop():
    """Two old classes and a new one, the fourth never seen; the teacher's class 1 is corrected to 2 z + 1; temperature 2."""
    agent, n = bic_agent(), 8
    x = [[0.25 * i - 1.0, 0.5 - 0.125 * i] for i in range(n)]
    y = [i % 3 for i in range(n)]
    exp = experience(x, y, classes=(0, 1, 2), valid=[True] * (n - 1) + [False])
    value, after = bic_loss(agent.model.params, agent, exp, model=LINEAR, replay_size=3, validation=0.5)

    def softmax(values):
        return [math.exp(v) / sum(math.exp(w) for w in values) for v in values]

    training = [i for i in range(n - 1) if not held_out(agent, i, 0.5)]
    assert 0 < len(training) < n - 1
    rows = [([0.5, 1.0], 0, 0.25), *[(x[i], y[i], 0.75 / len(training)) for i in training]]
    expected = 0.0
    for row, label, weight in rows:
        z, t = logits_of(W, row), logits_of(W_TEACHER, row)
        p, q = softmax([t[0] / 2, (2 * t[1] + 1) / 2]), softmax([z[0] / 2, z[1] / 2])
        distilled = sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
        expected += weight * (2 / 3 * distilled - 1 / 3 * math.log(softmax(z[:3])[label]))
    assert value == pytest.approx(expected, rel=1e-5)
    assert cl.tree.equal(after, agent.replace(key=cl.random.split(KEY)[0]))


def test_bic_offers_each_memory_its_own_rows():
    offered = {}

    def into(name):
        def insert(agent, exp):
            offered[name] = exp.rows[exp.valid].tolist()
            return agent

        return insert

    agent = bic_agent()
    exp = experience([[1.0, 0.0]] * 12, [2] * 12, classes=(2,), valid=[True] * 11 + [False])
    assert _store(agent, exp, insert=into("training"), insert_held=into("held"), validation=0.5) is agent
    assert offered["held"] == [row for row in range(11) if held_out(agent, row, 0.5)]
    assert offered["training"] == [row for row in range(11) if not held_out(agent, row, 0.5)]


def test_bic_fits_a_memory_made_by_hand():
    """All rows have the logits 0 for the old class and 2 for the new one, and half of them are of the new one.

    So 2 alpha + beta must be 0. Of these points the decay takes the one nearest to the identity (1, 0), which is (0.2, -0.4).
    """
    model = cl.models.mlp(2, hidden=(), n_classes=4)
    weights = ModelState(
        params={"0.weight": torch.tensor([[0.0, 0.0], [2.0, 0.0], [5.0, 5.0], [5.0, 5.0]]), "0.bias": torch.zeros(4)}, buffers={}
    )
    held = exemplars([[1.0, 3.0], [1.0, -4.0]], [0, 1])
    agent = bic_agent(model=weights, validation=held, old=mask(0), bic=correction(7.0, 7.0, 1))
    after = _fit(agent, experience([[1.0, 1.0]], [1], classes=(1,)), model=model)
    assert after.bic.alpha == pytest.approx(0.2, abs=1e-4)
    assert after.bic.beta == pytest.approx(-0.4, abs=1e-4)
    assert cl.tree.equal(after.replace(bic=agent.bic), agent)

    empty = _fit(agent.replace(validation=exemplars([], [])), experience([[1.0, 1.0]], [1], classes=(1,)), model=model)
    assert (empty.bic.alpha, empty.bic.beta) == (1, 0)


def test_bic_classifies_by_corrected_logits_of_the_seen_classes():
    exp = experience([[1.0, -0.5], [0.25, 2.0]], [0, 2], classes=(0, 2))
    found = bic_logits(LINEAR, bic_agent(bic=correction(0.5, -2.0, 2)), exp)
    for row, x in zip(found, exp.x.tolist(), strict=True):
        z = logits_of(W, x)
        assert row[:3].tolist() == pytest.approx([z[0], z[1], 0.5 * z[2] - 2], rel=1e-5)
    assert (found[:, 3] < -1e8).all()


@pytest.mark.parametrize("made", [icarl, bic])
def test_the_parts_are_what_the_strategy_runs(made):
    """The Updates and the init of a strategy are these functions with their arguments, and nothing made within the factory."""
    sizes = {"capacity": 20, "replay_size": 3, **({"validation": 0.5} if made is bic else {})}
    strategy = made(LINEAR, cl.optim.sgd(0.1), **sizes)
    own = {"icarl": {icarl_begin, icarl_loss, _exemplar_means}, "bic": {bic_begin, bic_loss, _store, _fit}}[made.__name__]
    updates = strategy.update.updates
    loss = next(u for u in updates if hasattr(u, "step")).step.inner.loss
    assert own <= {getattr(part, "func", None) for part in (*updates, loss)}
    assert strategy.init.func.__qualname__ == "_init"
    assert strategy.model.logits.func in (icarl_logits, bic_logits)
