"""`cl.extend`: a strategy with further functions in it is the program that one would write by hand."""

import dataclasses
import functools
import pickle

import pytest
import registry
import torch

import cl_func as cl
from cl_func import testing
from cl_func.strategies.extending import with_slots

MODEL, SGD, BENCH = registry.MODEL, registry.SGD, registry.BENCH
CE = cl.losses.cross_entropy(MODEL)
HELD = cl.plasticity.l2_init(0.3)
CBP = cl.plasticity.continual_backprop(MODEL, 0.5, 1)


def run(strategy, key=0):
    return cl.fold(strategy.update, strategy.init(cl.key(key)), BENCH.train)


def test_it_is_the_program_written_by_hand():
    strategy = cl.extend(
        cl.strategies.naive(MODEL, SGD, batch_size=5, epochs=2),
        loss=HELD,
        transform=cl.optim.clip_by_global_norm(0.5),
        after_step=CBP,
        before=cl.optim.restart(),
        after=(cl.optim.exponential_decay(0.9), cl.optim.step_decay(1, 0.5)),
    )
    step = cl.train_step(cl.losses.total(CE, HELD), SGD, cl.optim.clip_by_global_norm(0.5))
    by_hand = cl.compose(
        cl.optim.restart(),
        cl.minibatches(cl.compose(step, CBP), batch_size=5, epochs=2),
        cl.optim.exponential_decay(0.9),
        cl.optim.step_decay(1, 0.5),
    )
    state = strategy.init(cl.key(0))
    assert [f.name for f in dataclasses.fields(state)] == ["key", "model", "opt", "l2_init", "cbp"]
    assert cl.tree.equal(cl.fold(by_hand, state, BENCH.train), run(strategy))
    assert run(strategy).cbp.replaced["0"] > 0


# The network of SCR is a larger one, to which a projection belongs.
LARGER = {"scr": cl.models.projected(MODEL, 5)}


@pytest.mark.parametrize("name", sorted(registry.ARGUMENTS))
def test_any_strategy_takes_them(name):
    make = getattr(cl.strategies, name)
    base = make(MODEL, SGD, batch_size=5, **registry.ARGUMENTS[name])
    cbp = cl.plasticity.continual_backprop(LARGER.get(name, MODEL), 0.5, 1, layers=("0",))
    strategy = cl.extend(base, loss=HELD, after_step=cbp)
    start, end = strategy.init(cl.key(0)), run(strategy)
    assert isinstance(start, type(base.init(cl.key(0))))
    assert type(end) is type(start)
    assert end.cbp.age["0"].max() > 0
    assert not cl.tree.equal(end.model.params, run(base).model.params)
    off = cl.extend(base, loss=cl.plasticity.l2_init(0.0), transform=cl.optim.clip_by_value(1e9))
    assert cl.tree.equal(run(off).model, run(base).model, rtol=1e-5, atol=1e-7)


def test_what_is_around_a_step_takes_it():
    """By the activations of before the step, then what comes after it; and a strategy may be extended twice."""
    naive = cl.strategies.naive(MODEL, SGD, batch_size=5)
    strategy = cl.extend(naive, around_step=CBP, after_step=cl.plasticity.shrink_and_perturb(MODEL, 0.9, 0.0))
    twice = cl.extend(cl.extend(naive, around_step=CBP), after_step=cl.plasticity.shrink_and_perturb(MODEL, 0.9, 0.0), loss=HELD)
    step = functools.partial(CBP.around, cl.train_step(CE, SGD))
    by_hand = cl.minibatches(cl.compose(step, cl.plasticity.shrink_and_perturb(MODEL, 0.9, 0.0)), batch_size=5)
    start = strategy.init(cl.key(0))
    assert cl.tree.equal(run(strategy), cl.fold(by_hand, start, BENCH.train))
    end = cl.fold(twice.update, cl.tree.set(twice.init(cl.key(0)), {"l2_init.strength": 0.0}), BENCH.train)
    assert cl.tree.equal(end.model, run(strategy).model, rtol=1e-6)
    assert not cl.tree.equal(run(cl.extend(naive, after_step=CBP)).cbp, run(cl.extend(naive, around_step=CBP)).cbp)
    pickle.loads(pickle.dumps(strategy))
    with pytest.raises(TypeError, match=r"around_step: expected a method with a function around\(step, state, exp\)"):
        cl.extend(naive, around_step=cl.optim.restart())


def test_an_update_that_is_not_taken_is_not_followed():
    step = cl.when(lambda state, exp: exp.index == 0, cl.train_step(CE, SGD))
    base = cl.strategies.naive(MODEL, SGD)
    strategy = cl.extend(dataclasses.replace(base, update=cl.minibatches(step, batch_size=5)), after_step=CBP)
    start = strategy.init(cl.key(0))
    first, second = BENCH.train
    once = strategy.update(start, first)
    assert once.cbp.age["0"].max() > 0
    assert cl.tree.equal(strategy.update(once, second).replace(key=once.key), once)


def test_the_state_is_pickled_saved_and_has_one_class(tmp_path):
    strategy = cl.extend(cl.strategies.er(MODEL, SGD, capacity=5, replay_size=2), after_step=CBP)
    state = run(strategy)
    assert type(state) is type(run(pickle.loads(pickle.dumps(strategy))))
    back = pickle.loads(pickle.dumps(state))
    assert type(back) is type(state)
    assert cl.tree.equal(back, state)
    assert isinstance(state, cl.strategies.ERAgent)
    cl.save(tmp_path / "state", state)
    assert cl.tree.equal(cl.load(tmp_path / "state", like=state), state)
    testing.check_round_trip(state)


def test_its_numbers_are_swept_by_their_paths():
    strategy = cl.extend(cl.strategies.naive(MODEL, SGD, batch_size=5), loss=HELD, after_step=CBP)
    grid = cl.grid({"cbp.rate": [0.0, 0.5], "l2_init.strength": [0.0, 1.0]})
    runs = cl.sweep(strategy, BENCH, seeds=1, hparams=grid, progress=False, compile=False)
    state = cl.tree.set(strategy.init(cl.key(0)), {"cbp.rate": 0.5, "l2_init.strength": 1.0})
    _, history = cl.scan(strategy.update, state, BENCH.train, cl.evaluate(MODEL, BENCH.test))
    torch.testing.assert_close(torch.as_tensor(runs.history["accuracy"][1, 1, 0]), history["accuracy"])
    with pytest.raises(ValueError, match="rate"):
        cl.tree.set(state, {"cbp.rate": 1.5})


def losses_of(size, slot="losses"):
    return {"around_loss": functools.partial(cl.trace.loss, slot=slot), "slots": {slot: cl.trace.init(size)}}


@pytest.mark.parametrize("name", sorted(registry.ARGUMENTS))
def test_the_loss_of_any_strategy_is_recorded(name):
    """A value of each step, and the run is the one without."""
    make = getattr(cl.strategies, name)
    base = make(MODEL, SGD, batch_size=5, **registry.ARGUMENTS[name])
    strategy = cl.extend(base, **losses_of(200))
    end = run(strategy)
    assert cl.tree.equal(end.model, run(base).model)
    recorded = cl.trace.read(end.losses)
    assert len(recorded) >= 2
    assert recorded.isfinite().all()
    assert (recorded > 0).any()


def test_what_is_around_the_loss_gets_the_sum_and_the_slots_are_fields():
    base = cl.strategies.naive(MODEL, SGD, batch_size=5)
    norms = {"transform": cl.trace.grad_norm("norms"), "slots": {"norms": cl.trace.init(9), "first": lambda net: net.params}}
    strategy = cl.extend(cl.extend(base, loss=HELD, **losses_of(9)), **norms)
    start, end = strategy.init(cl.key(0)), run(strategy)
    assert [f.name for f in dataclasses.fields(start)] == ["key", "model", "opt", "l2_init", "losses", "norms", "first"]
    assert cl.tree.equal(end.first, start.model.params)
    step = cl.train_step(cl.trace.loss(cl.losses.total(CE, HELD), "losses"), SGD, cl.trace.grad_norm("norms"))
    assert cl.tree.equal(cl.fold(cl.minibatches(step, batch_size=5), start, BENCH.train), end)
    runs = cl.sweep(strategy, BENCH, seeds=2, probe=cl.trace.probe("losses"), progress=False, compile=False)
    torch.testing.assert_close(torch.as_tensor(runs.curve("losses")[0]), cl.trace.read(end.losses))
    doubled = cl.extend(base, around_loss=(lambda loss: lambda *args: (lambda v, s: (2 * v, s))(*loss(*args)),) * 2)
    by_hand = cl.minibatches(cl.train_step(CE, cl.optim.sgd(0.4)), batch_size=5)
    lr = float(strategy.init(cl.key(0)).opt.lr)
    expected = cl.fold(by_hand, cl.tree.set(base.init(cl.key(0)), {"opt.lr": 4 * lr}), BENCH.train)
    assert cl.tree.equal(run(doubled).model, expected.model, rtol=1e-5, atol=1e-7)


def test_slots_that_no_agent_can_have():
    naive = cl.strategies.naive(MODEL, SGD)
    with pytest.raises(TypeError, match=r"slots: expected a dict of names and values"):
        cl.extend(naive, slots=3)
    with pytest.raises(ValueError, match=r"slots: expected a name of its own .*\[3\]"):
        cl.extend(naive, slots={3: cl.trace.init(3)})
    with pytest.raises(ValueError, match=r"slots: expected a name of its own .*'l2_init', 'l2_init'"):
        cl.extend(naive, loss=HELD, slots={"l2_init": cl.trace.init(3)})
    with pytest.raises(ValueError, match="has a field 'opt' already"):
        cl.extend(naive, slots={"opt": cl.trace.init(3)}).init(cl.key(0))
    with pytest.raises(TypeError, match=r"slots: count: expected a tree of tensors, got 0; give torch.tensor\(0\)\.$"):
        cl.extend(naive, slots={"count": 0})
    state = naive.init(cl.key(0))
    with pytest.raises(
        TypeError,
        match=r"state: .* 'opt.lr', got 0.1; give torch.tensor\(0.1\), or in .* cl.tree.set\(state, {'opt.lr': 0.1}\)",
    ):
        naive.update(state.replace(opt=state.opt.replace(lr=0.1)), registry.BENCH.train[0])
    with pytest.raises(TypeError, match=r"slots: count: expected a tree of tensors, got 0"):
        cl.extend(naive, slots={"count": lambda net: 0}).init(cl.key(0))
    with pytest.raises(TypeError, match=r"around_loss: expected a function from a Loss to a Loss, .*got 3"):
        cl.extend(naive, around_loss=3)
    with pytest.raises(TypeError, match=r"around_loss: expected a function that gives a Loss, got 3"):
        cl.extend(naive, around_loss=lambda loss: 3)


def test_what_it_cannot_extend():
    naive = cl.strategies.naive(MODEL, SGD)
    with pytest.raises(ValueError, match=r"strategy: it takes no gradient step"):
        cl.extend(cl.Strategy(naive.init, cl.optim.restart()), loss=HELD)
    with pytest.raises(ValueError, match="strategy: it is vmapped or compiled already"):
        cl.extend(cl.Strategy(naive.init, cl.compile(naive.update)), loss=HELD)
    with pytest.raises(ValueError, match="slots: expected a name of its own"):
        cl.extend(naive, loss=(HELD, HELD))
    with pytest.raises(ValueError, match="slots: expected a name of its own"):
        cl.extend(naive, loss=cl.plasticity.l2_init(0.1, slot="model.held"))
    with pytest.raises(ValueError, match="has a field 'opt' already"):
        cl.extend(naive, loss=cl.plasticity.l2_init(0.1, slot="opt")).init(cl.key(0))
    with pytest.raises(TypeError, match="agent: expected the state of an agent"):
        with_slots({"key": 1}, seen=torch.zeros(2))


@pytest.mark.parametrize("name", ["si", "rwalk"])
def test_the_whole_loss_of_a_path_is_recorded_and_the_path_is_the_tasks(name):
    """The value is of the task, the penalty and what was added; the path of SI and RWalk is of the task's gradient alone."""
    base = getattr(cl.strategies, name)(MODEL, SGD, batch_size=5, strength=50.0)
    step = cl.regularizers.path.train_step(CE, SGD, slot=name)
    plain = cl.Strategy(base.init, step)
    added = cl.extend(plain, loss=HELD, **losses_of(3))
    exp, agent = BENCH.train[1], run(base)
    moved = cl.tree.map(lambda p: p + 0.1 * cl.random.normal(cl.key(p.numel()), p.shape), agent.model.params)
    agent = agent.replace(model=agent.model.replace(params=moved))
    start = with_slots(agent, l2_init=HELD.init(base.init(cl.key(1)).model), losses=cl.trace.init(3))
    end, alone = added.update(start, exp), step(agent, exp)
    task, _ = CE(moved, start, exp)
    penalty = cl.regularizers.quadratic.penalty(moved, getattr(agent, name))
    held, _ = HELD(moved, start, exp)
    assert min(penalty, held) > 0.01
    torch.testing.assert_close(cl.trace.read(end.losses), (task + penalty + held)[None])
    grads = torch.func.grad(lambda params: CE(params, start, exp)[0])(moved)
    others = torch.func.grad(lambda p: cl.regularizers.quadratic.penalty(p, getattr(agent, name)) + HELD(p, start, exp)[0])(moved)
    for field in moved:
        change = -SGD.init(moved).lr * (grads[field] + others[field])
        torch.testing.assert_close(end.model.params[field], moved[field] + change)
        before, after = (getattr(one, name).path[field] for one in (agent, end))
        torch.testing.assert_close(after, before - grads[field] * change)
        without = -SGD.init(moved).lr * (
            grads[field] + torch.func.grad(lambda p: cl.regularizers.quadratic.penalty(p, getattr(agent, name)))(moved)[field]
        )
        torch.testing.assert_close(getattr(alone, name).path[field], before - grads[field] * without)
