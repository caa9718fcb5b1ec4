"""ER-ACE, DER and DER++ against their formulas written out; what they do at the edges; the four baselines and their relation."""

from __future__ import annotations

import pytest
import registry
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import cl_func as cl
from cl_func import losses, memory, strategies, testing
from cl_func.strategies.er_ace import _current_classes
from cl_func.strategies.from_scratch import _restart

MODEL, SGD, BENCH = registry.MODEL, registry.SGD, registry.BENCH
STORE = {"capacity": 6, "replay_size": 4}
METHODS = {
    "er_ace": lambda **loop: strategies.er_ace(MODEL, SGD, **STORE, **loop),
    "der": lambda **loop: strategies.der(MODEL, SGD, **STORE, **loop),
    "der_pp": lambda **loop: strategies.der_pp(MODEL, SGD, **STORE, **loop),
}
each_method = pytest.mark.parametrize("method", METHODS)


def net(params, x):
    return F.linear(torch.relu(F.linear(x, params["0.weight"], params["0.bias"])), params["2.weight"], params["2.bias"])


def gradient_step(agent, loss):
    """Plain SGD on a loss of the parameters, by autograd."""
    params = {name: p.clone().requires_grad_() for name, p in agent.model.params.items()}
    grads = torch.autograd.grad(loss(params), list(params.values()))
    return {name: p.detach() - 0.1 * g for (name, p), g in zip(params.items(), grads, strict=True)}


def after(strategy, n=1, key=0):
    """The agent after n experiences."""
    return cl.fold(strategy.update, strategy.init(cl.key(key)), BENCH.train[:n])


# ------------------------------------------------------------------ ER-ACE


def test_current_classes_are_those_of_the_valid_rows_of_the_minibatch():
    data = cl.Dataset(torch.zeros(5, 2), torch.tensor([3, 1, 1, 0, 2]))
    exp = cl.experience(data).take(torch.tensor([1, 2, 4]), torch.tensor([True, True, False]))
    assert exp.classes.all()
    assert _current_classes(exp).tolist() == [False, True, False, False]


def test_er_ace_masks_by_hand():
    """Each row's cross-entropy over the columns that may compete, in a loop; one minibatch of a stream after two experiences."""
    strategy = METHODS["er_ace"]()
    agent = after(strategy)
    exp = BENCH.train[1].take(torch.tensor([14, 21, 15, 22, 0]), torch.tensor([True, True, True, True, False]))
    _, draw_key = cl.random.split(agent.key)
    rows, drawn = memory.reservoir.draw(agent.replay, draw_key, 4)
    assert set(rows["y"].tolist()) <= {0, 1}
    assert drawn.all()

    def loss(params):
        incoming = [F.cross_entropy(net(params, exp.x[i])[[2, 3]], exp.y[i] - 2) for i in range(4)]
        replayed = [F.cross_entropy(net(params, rows["x"][i]), rows["y"][i]) for i in range(4)]
        return sum(incoming) / 4 + sum(replayed) / 4

    torch.testing.assert_close(strategy.update(agent, exp).model.params, gradient_step(agent, loss))


def test_er_ace_replays_among_the_seen_classes_only():
    strategy = METHODS["er_ace"]()
    agent = after(strategy)
    step = strategy.update(agent, BENCH.train[0])  # classes 0 and 1 again; 2 and 3 have not been seen
    assert agent.seen.tolist() == [True, True, False, False]
    for name in ("2.weight", "2.bias"):
        assert torch.equal(step.model.params[name][2:], agent.model.params[name][2:])
        assert not torch.equal(step.model.params[name][:2], agent.model.params[name][:2])


def test_er_ace_with_one_class_in_the_minibatch_learns_from_the_memory_alone():
    strategy = METHODS["er_ace"]()
    agent = after(strategy)
    exp = BENCH.train[1]
    alone = exp.take(exp.rows, exp.y == 2)
    other = exp.take(exp.rows, exp.y == 3)
    one, two = strategy.update(agent, alone), strategy.update(agent, other)
    testing.assert_equal(one.model, two.model, "the incoming rows teach nothing", 1e-5, 1e-6)
    empty = strategy.init(cl.key(0))
    assert cl.tree.equal(strategy.update(empty, alone).model, empty.model)


# ------------------------------------------------------------------ DER, DER++


@pytest.mark.parametrize("kind", ["der", "der_pp"])
def test_der_equals_its_formula(kind):
    strategy = METHODS[kind](batch_size=None)
    agent = cl.tree.set(after(strategy), {"alpha": 0.7} | ({"beta": 0.3} if kind == "der_pp" else {}))
    exp = BENCH.train[1]
    draw_keys = cl.random.split(agent.key, 2 if kind == "der" else 3)[1:]
    draws = [memory.reservoir.draw(agent.replay, draw_key, 4)[0] for draw_key in draw_keys]

    def loss(params):
        value = F.cross_entropy(net(params, exp.x), exp.y)
        for i in range(4):
            for c in range(4):
                gap = draws[0]["logits"][i, c] - net(params, draws[0]["x"][i])[c]
                value = value + 0.7 * gap**2 / (4 * 4)
        if kind == "der_pp":
            value = value + 0.3 * sum(F.cross_entropy(net(params, draws[1]["x"][j]), draws[1]["y"][j]) for j in range(4)) / 4
        return value

    torch.testing.assert_close(strategy.update(agent, exp).model.params, gradient_step(agent, loss))


def test_the_two_draws_of_der_pp_are_independent():
    agent = after(METHODS["der_pp"](batch_size=None))
    one, two = (memory.reservoir.draw(agent.replay, key, 4)[0]["x"] for key in cl.random.split(agent.key, 3)[1:])
    assert not torch.equal(one, two)


@pytest.mark.parametrize("kind", ["der", "der_pp"])
def test_logits_are_stored_as_they_were_in_the_training_forward(kind):
    """Under the weights before the step, in train mode; minibatches in order, so that the rows of each are known."""
    strategy = getattr(strategies, kind)(MODEL, SGD, capacity=14, replay_size=3)
    agent = strategy.init(cl.key(0))
    exp = BENCH.train[0]
    stored = {}
    for i in range(0, len(exp), 4):
        part = exp.take(exp.rows[i : i + 4], exp.valid[i : i + 4])
        for row, z in zip(part.x, net(agent.model.params, part.x), strict=True):
            stored[tuple(row.tolist())] = z
        agent = strategy.update(agent, part)
    assert agent.replay.filled == len(stored) == 14
    for row, z in zip(agent.replay.data["x"], agent.replay.data["logits"], strict=True):
        torch.testing.assert_close(z, stored[tuple(row.tolist())])


def test_logits_are_those_of_train_mode():
    strategy = strategies.der(registry.NORMED, SGD, capacity=14, replay_size=3)
    agent = strategy.init(cl.key(0))
    exp = BENCH.train[0]
    rows, drawn = memory.reservoir.draw(agent.replay, cl.random.split(agent.key)[1], 3)
    joined = memory.join(exp, rows, drawn)
    train, _ = registry.NORMED.apply(agent.model.params, agent.model.buffers, joined.x, train=True, valid=joined.valid)
    torch.testing.assert_close(strategy.update(agent, exp).replay.data["logits"], train[3:])


@pytest.mark.parametrize("kind", ["der", "der_pp"])
def test_weights_of_zero_are_naive(kind):
    strategy, naive = METHODS[kind](), strategies.naive(MODEL, SGD)
    off = {"alpha": 0.0} | ({"beta": 0.0} if kind == "der_pp" else {})
    for weights, same in ((off, True), ({}, False)):
        start = cl.tree.set(strategy.init(cl.key(0)), weights)
        ours = cl.fold(strategy.update, start, BENCH.train)
        plain = cl.fold(naive.update, naive.init(cl.key(0)), BENCH.train)
        assert cl.tree.equal(ours.model, plain.model, 1e-5, 1e-6) == same


def test_der_pp_without_beta_is_der_on_the_same_draw():
    """Their gradients agree where DER draws with the key that DER++ splits off first."""
    one, two = after(METHODS["der"]()), after(METHODS["der_pp"]())
    two = cl.tree.set(two.replace(key=one.key, model=one.model, opt=one.opt, replay=one.replay), {"beta": 0.0})
    testing.assert_equal(
        METHODS["der_pp"]().update(two, BENCH.train[1]).model, METHODS["der"]().update(one, BENCH.train[1]).model, "DER", 1e-5, 1e-6
    )


def test_the_parts_of_der_pp_as_losses():
    state = registry.with_logits(cl.key(0))
    exp = BENCH.train[0]
    key, draw_key = cl.random.split(state.key)
    rows, _ = memory.reservoir.draw(state.replay, draw_key, 3)
    params = state.model.params
    dark, now = losses.dark_experience(MODEL, 3)(params, state, exp)
    torch.testing.assert_close(dark, F.mse_loss(net(params, rows["x"]), rows["logits"]))
    assert torch.equal(now.key, key)
    again, _ = losses.replayed(losses.cross_entropy(MODEL), 3)(params, state, exp)
    torch.testing.assert_close(again, F.cross_entropy(net(params, rows["x"]), rows["y"]))
    within, _ = losses.replayed(losses.cross_entropy(MODEL, mask="experience"), 3)(params, state, exp)
    present = sorted(set(rows["y"].tolist()))
    expected = F.cross_entropy(net(params, rows["x"])[:, present], torch.tensor([present.index(y) for y in rows["y"].tolist()]))
    torch.testing.assert_close(within, expected)
    empty = state.replace(replay=memory.reservoir.init(12, memory.dark.sample(MODEL)))
    for loss in (losses.dark_experience(MODEL, 3), losses.replayed(losses.cross_entropy(MODEL), 3)):
        assert loss(params, empty, exp)[0] == 0


def test_fields_are_in_eval_mode():
    state = registry.with_logits(cl.key(0), registry.NORMED)
    exp = BENCH.train[0]
    stored = memory.dark.fields(registry.NORMED)(state, exp)["logits"]
    assert torch.equal(stored, memory.dark.fields(registry.NORMED)(state, exp)["logits"])
    part = exp.take(exp.rows[:3], exp.valid[:3])
    torch.testing.assert_close(stored[:3], memory.dark.fields(registry.NORMED)(state, part)["logits"])


# ------------------------------------------------------------------ all of them


@each_method
@settings(deadline=None, max_examples=15)
@given(gap=st.sampled_from([1.0, 1e3, -1e3]), seed=st.integers(0, 99))
def test_finite_at_large_logit_gaps(method, gap, seed):
    strategy = METHODS[method]()
    agent = after(strategy, key=seed)
    bias = gap * torch.tensor([1.0, -1.0, 1.0, -1.0])
    params = {**agent.model.params, "2.bias": bias}
    agent = strategy.update(agent.replace(model=agent.model.replace(params=params)), BENCH.train[1])
    assert all(leaf.isfinite().all() for leaf in cl.tree.leaves(agent))


@each_method
def test_no_unfilled_row_is_replayed(method):
    """What the empty rows hold makes no difference."""
    strategy = METHODS[method]()
    agent = strategy.init(cl.key(0))
    part = BENCH.train[0].take(BENCH.train[0].rows[:3], BENCH.train[0].valid[:3])
    agent = strategy.update(agent, part)
    assert agent.replay.filled == 3

    def spoil(slot):
        occupied = agent.replay.occupied.reshape(-1, *[1] * (slot.ndim - 1))
        return torch.where(occupied, slot, torch.full_like(slot, 3))

    spoilt = agent.replace(replay=agent.replay.replace(data=cl.tree.map(spoil, agent.replay.data)))
    ours, theirs = (strategy.update(a, BENCH.train[1]) for a in (agent, spoilt))
    assert cl.tree.equal(ours.model, theirs.model)


@each_method
def test_differs_from_er(method):
    er = strategies.er(MODEL, SGD, **STORE, batch_size=5, epochs=2)
    ours = METHODS[method](batch_size=5, epochs=2)
    assert not cl.tree.equal(after(er, 2).model, after(ours, 2).model, 1e-3, 1e-3)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: strategies.er_ace(MODEL, SGD, capacity=0, replay_size=1), ValueError, "capacity: .* at least 1, got 0"),
        (lambda: strategies.er_ace(MODEL, SGD, capacity=5, replay_size=0), ValueError, "replay_size: .* at least 1, got 0"),
        (lambda: strategies.der(MODEL, SGD, capacity=5, replay_size=1.0), TypeError, "replay_size: expected an integer"),
        (lambda: strategies.der(MODEL, SGD, capacity=5, replay_size=1, alpha=-1), ValueError, "alpha: .* at least 0, got -1"),
        (lambda: strategies.der_pp(MODEL, SGD, capacity=5, replay_size=1, beta=True), TypeError, "beta: expected a finite number"),
        (lambda: strategies.der_pp(MODEL, SGD, capacity=5, replay_size=1, beta=float("nan")), ValueError, "beta: .* got nan"),
        (lambda: losses.replayed(losses.cross_entropy(MODEL), 0), ValueError, "n: .* at least 1, got 0"),
        (lambda: losses.replayed(None, 2), TypeError, "loss: expected a Loss"),
        (lambda: losses.dark_experience(MODEL, 0), ValueError, "n: .* at least 1, got 0"),
        (
            lambda: losses.dark_experience(MODEL, 2)(
                registry.init(cl.key(0)).model.params, registry.init(cl.key(0)), BENCH.train[0]
            ),
            ValueError,
            r"the memory stores no logits; allocate it with reservoir.init\(capacity, cl.memory.dark.sample\(model\)\)",
        ),
    ],
)
def test_errors(call, error, match):
    with pytest.raises(error, match=match):
        call()


# ------------------------------------------------------------------ baselines


def run(name, stream, **loop):
    strategy = getattr(strategies, name)(MODEL, SGD, batch_size=5, **loop)
    return cl.fold(strategy.update, strategy.init(cl.key(0)), stream)


def test_two_updates_on_two_streams_are_four_baselines():
    everything = cl.streams.cumulative(BENCH).train
    models = {
        "naive": run("naive", BENCH.train).model,
        "from_scratch": run("from_scratch", BENCH.train).model,
        "cumulative": run("cumulative", everything).model,
        "joint": run("joint", everything).model,
    }
    names = list(models)
    for i, one in enumerate(names):
        for other in names[:i]:
            assert not cl.tree.equal(models[one], models[other], 1e-3, 1e-3), (one, other)
    testing.assert_equal(run("naive", everything).model, models["cumulative"], "cumulative")
    testing.assert_equal(run("from_scratch", everything).model, models["joint"], "joint")


def test_from_scratch_knows_nothing_of_what_came_before():
    """After any experiences it is where it would be had it started with the last, with that key."""
    strategy = strategies.from_scratch(MODEL, cl.optim.adam(1e-2), batch_size=5, epochs=2)
    start = strategy.init(cl.key(0))
    first = strategy.update(start, BENCH.train[0])
    both = strategy.update(first, BENCH.train[1])
    testing.assert_equal(both, strategy.update(start.replace(key=first.key), BENCH.train[1]), "restart")
    tuned = cl.fold(strategy.update, cl.tree.set(start, {"opt.lr": 0.5}), BENCH.train)
    assert tuned.opt.lr == 0.5


def test_a_restart_undoes_schedules_and_moments_of_parameters_without_dimensions():
    model = cl.models.mlp(6, (8,), 4, head="cosine")  # its scale is a parameter of shape ()
    strategy = strategies.from_scratch(model, cl.optim.adam(1e-2), batch_size=5)
    start = strategy.init(cl.key(0))
    decayed = cl.compose(strategy.update, cl.optim.exponential_decay(0.5))(start, BENCH.train[0])
    assert decayed.opt.scale == 0.5
    again = _restart(decayed, BENCH.train[1])
    assert cl.tree.equal((again.model, again.opt), (start.model, start.opt))


def test_from_scratch_and_naive_agree_on_the_first_experience():
    for name in ("from_scratch", "joint", "cumulative"):
        testing.assert_equal(run(name, BENCH.train[:1]).model, run("naive", BENCH.train[:1]).model, name)


@pytest.mark.parametrize("name", ["er_ace", "gss"])
def test_a_minibatch_is_offered_to_the_memory_before_the_next_one(name):
    strategy = (
        METHODS["er_ace"](batch_size=7) if name == "er_ace" else strategies.gss(MODEL, SGD, **STORE, subset_size=3, batch_size=7)
    )
    loop = strategy.update.updates[-1] if name == "er_ace" else strategy.update
    exp = BENCH.train[0]
    agent = loop.step(strategy.init(cl.key(0)), exp.take(exp.rows[:7], exp.valid[:7]))
    assert int(agent.replay.filled) == min(7, STORE["capacity"])


def test_er_lwf_follows_its_loss():
    """The second step of an experience, off the teacher, on minibatch and replayed rows, all classes and the old ones."""
    strategy = strategies.er_lwf(MODEL, SGD, **STORE, strength=3.0, temperature=2.0, epochs=2)
    snapshot, loop, _ = strategy.update.updates
    exp = BENCH.train[1]
    agent = loop.step(snapshot(after(strategy), exp), exp)
    rows, drawn = memory.reservoir.draw(agent.replay, cl.random.split(agent.key)[1], STORE["replay_size"])
    assert drawn.all()
    x, y = torch.cat([rows["x"], exp.x]), torch.cat([rows["y"], exp.y])

    def loss(params):
        z, t = net(params, x), net(agent.lwf.teacher.params, x)
        p, q = torch.softmax(t[:, :2] / 2, 1), torch.log_softmax(z[:, :2] / 2, 1)
        return F.cross_entropy(z, y) + 3 * 4 * (p * (p.log() - q)).sum(1).mean()

    testing.assert_equal(loop.step(agent, exp).model.params, gradient_step(agent, loss), "by hand", 1e-5, 1e-6)
