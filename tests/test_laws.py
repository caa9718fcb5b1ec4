"""Every component of the registry through every law."""

from __future__ import annotations

import os
import types

import pytest
import registry
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import cl_func as cl
from cl_func import memory, testing

EXP = registry.BENCH.train[0]
quick = settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))


def named(cases):
    return [pytest.param(case, id=f"{case.name}-{i}-{case.target}") for i, case in enumerate(cases)]


@pytest.mark.parametrize("case", named(registry.UPDATES))
def test_updates(case):
    testing.check_update(case.make(), case.state(), case.bench.train[0])


@pytest.mark.parametrize("case", named(registry.LOSSES))
def test_losses(case):
    testing.check_loss(case.make(), case.state(), case.bench.train[0])


@pytest.mark.parametrize("case", named(registry.TRANSFORMS))
def test_gradient_transforms(case):
    testing.check_gradient_transform(case.make(), case.state(), case.bench.train[0])


@pytest.mark.parametrize("case", named(registry.PROBES))
def test_probes(case):
    testing.check_probe(case.make(), case.state(), case.bench.train[0])


@pytest.mark.parametrize("case", named([*registry.LOSSES, *registry.UPDATES, *registry.TRANSFORMS]))
def test_what_stands_in_empty_slots_changes_nothing(case):
    """Of a memory that holds two rows of five; the memories of most states above are full."""
    state = case.state()
    if isinstance(getattr(state, "replay", None), memory.Reservoir):
        rows = cl.tree.map(lambda leaf: leaf[:2], state.replay.data)
        empty = memory.reservoir.init(5, cl.tree.map(lambda leaf: leaf[0], rows))
        held = memory.reservoir.add(empty, cl.key(1), rows, torch.ones(2, dtype=torch.bool))
        assert held.occupied.sum() == 2
        state = state.replace(replay=held)
    function, exp = one_shot(case), case.bench.train[0]
    testing.laws.check_occupied(function, state, exp, function(state, exp))


@pytest.mark.parametrize("case", named(registry.STRATEGIES))
def test_what_is_saved_comes_back(case):
    """The round trip of a state that has been trained, and of a history."""
    strategy = case.make()
    probe = (lambda state, exp: state.key) if strategy.model is None else cl.evaluate(strategy.model, case.bench.test)
    for part in cl.scan(strategy.update, strategy.init(cl.key(0)), case.bench.train, probe):
        testing.check_round_trip(part)


SAMPLE = memory.sample(registry.MODEL)
STORES = {
    "reservoir": (memory.reservoir.init(5, SAMPLE), memory.reservoir),
    "ring": (memory.ring.init(3, SAMPLE, 4), memory.ring),
    "balanced": (memory.balanced.init(5, SAMPLE), memory.balanced),
    "gdumb": (memory.gdumb.init(7, SAMPLE, 4), memory.gdumb),
    "gss": (memory.gss.init(9, SAMPLE), memory.gss),
    "herding": (memory.herding.init(7, SAMPLE, 4), memory.herding),
}


@pytest.mark.parametrize("draw", ["own", "uniform", "distinct", "class_balanced"])
@pytest.mark.parametrize("name", STORES)
def test_draws(name, draw):
    """From an empty memory, from one that a few rows were offered to, and after a whole experience."""
    store, module = STORES[name]
    chosen = module.draw if draw == "own" else getattr(memory.draws, draw)
    needs = {"gss": (registry.MODEL, 3), "herding": (registry.MODEL,)}
    insert = module.insert(*needs.get(name, ()))
    agent = registry.init(cl.key(0)).replace(replay=store)
    testing.check_draw(chosen, agent.replay, 3)
    agent = insert(agent, EXP.take(EXP.rows[6:8], EXP.valid[6:8]))
    testing.check_draw(chosen, agent.replay, 3)
    testing.check_draw(chosen, insert(agent, EXP).replay, 3)


@pytest.mark.parametrize("case", named(registry.STRATEGIES))
def test_strategies(case):
    testing.check_strategy(case.make(), case.bench)


@pytest.fixture
def _without_the_device(monkeypatch):
    """Leaves out the law 'device', which is two thirds of all: it knows no values, and the tests above have checked it."""
    monkeypatch.setattr(testing.laws, "check_device_law", lambda *_: None)


@pytest.mark.usefixtures("_without_the_device")
@pytest.mark.parametrize("case", named([*registry.UPDATES, *registry.LOSSES]))
@quick
@given(data=st.data(), key=testing.keys())
def test_any_experience_and_key(case, data, key):
    exp = data.draw(testing.experiences(min_rows=2, target=case.target))  # batch norm refuses a single row, as torch's does
    state = case.state(key)
    (testing.check_loss if case in registry.LOSSES else testing.check_update)(case.make(), state, exp)


@pytest.mark.filterwarnings("ignore:batch_size. .* makes one step of:UserWarning")  # of a method that does nothing there
@pytest.mark.parametrize("case", named([c for c in registry.STRATEGIES if c.name != "strategies.joint"]))
@quick
@given(data=st.data(), key=testing.keys())
def test_strategies_on_any_stream(case, data, key):
    strategy, train = case.make(), data.draw(testing.streams(target=case.target))
    assume(strategy.model is not registry.NORMED or all(len(exp) > 1 for exp in train))  # batch norm refuses a single row
    start = strategy.init(key)
    end = cl.fold(strategy.update, start, train)
    testing.laws.check_closed(end, start)
    assert all(bool(leaf.isfinite().all()) for leaf in cl.tree.leaves(end))


def one_shot(case):
    """A component as a function of (state, exp) that can be traced whole: losses with their gradients."""
    component = case.make()
    if case in registry.LOSSES:
        return lambda state, exp: testing.components.value_and_grad(component, state, exp)
    if case in registry.TRANSFORMS:
        return lambda state, exp: component(state.model.params, state, exp)
    return component


# The laws of all but probes run them on fake tensors. The values on an accelerator are another matter, where there is one.
ACCELERATOR = torch.accelerator.is_available()
VALUES = [*registry.LOSSES, *registry.UPDATES, *registry.TRANSFORMS] if ACCELERATOR else []


@pytest.mark.parametrize("case", named([*VALUES, *registry.PROBES]))
def test_device(case):
    component, state = one_shot(case), case.state()
    if case in registry.PROBES:  # the leaves of an evaluation, on rows of the same device; its own test stream is on the processor
        *before, component = cl.tree.leaves(component)
        for prepare in before:
            testing.check_device(prepare, state, case.bench.train[0])
            state = prepare(state, None)
    testing.check_device(component, state, case.bench.train[0])


@pytest.mark.parametrize("case", named(registry.STRATEGIES if ACCELERATOR else []))
def test_device_of_strategies(case):
    strategy = case.make()
    start = strategy.init(cl.key(0))
    first, second = case.bench.train
    testing.check_device(strategy.update, start, first)
    later = strategy.update(start, first)
    testing.check_device(strategy.update, later, second)


def groups(size=6):
    """Cases that share a kind of state, a few at a time. Loops are left out: they stay outside what is compiled."""
    kinds, names = {}, set()
    for case in [*registry.UPDATES, *registry.LOSSES, *registry.TRANSFORMS, *registry.PROBES]:
        # Compiling is slow: one case of each component, and all of them when asked for.
        if case.name not in ("minibatches", "repeat") and (
            (case.name, case.target) not in names or "CL_FUNC_FULL_GRID" in os.environ
        ):
            names.add((case.name, case.target))
            kinds.setdefault((case.model, case.optimizer, case.start, case.target), []).append(case)
    return [cases[i : i + size] for cases in kinds.values() for i in range(0, len(cases), size)]


@pytest.mark.parametrize(
    "cases", groups(), ids=lambda cases: "+".join(sorted({case.name.split(".")[-1] for case in cases} | {cases[0].target}))
)
def test_compiled_equals_eager(cases):
    """Components of one kind of state share one program: compiling each by itself would take minutes."""
    functions = [one_shot(case) for case in cases]

    def everything(state, exp):
        return {str(i): function(state, exp) for i, function in enumerate(functions)}

    state, exp = cases[0].state(), cases[0].bench.train[0]
    exp = exp.take(exp.rows[:6], exp.valid[:6])  # few rows: some components loop over them
    testing.assert_equal(
        cl.compile(everything)(state, exp), everything(state, exp), "compiled", testing.laws.RTOL, testing.laws.ATOL
    )


@pytest.mark.parametrize("room", sorted(registry.NOT_COMPONENTS))
def test_registry_is_complete(room):
    """A public function that is in no case and not named as something else has escaped the laws."""
    covered = {case.name for case in registry.ALL}
    values = {name: getattr(getattr(cl, room), name) for name in getattr(cl, room).__all__}
    functions = {name for name, value in values.items() if not isinstance(value, (type, types.ModuleType))}
    public = functions - registry.NOT_COMPONENTS[room]
    assert {name for name in public if f"{room}.{name}" not in covered} == set()


def test_every_method_meets_parameters_of_every_kind():
    """ODD has parameters of shape () and [8], frozen and tied ones, a convolution and batch norms; OWM refuses it."""
    odd = {case.name for case in registry.ALL if case.model is registry.ODD}
    methods = {f"strategies.{name}" for name in cl.strategies.__all__ if not isinstance(getattr(cl.strategies, name), type)}
    assert methods - odd == {"strategies.owm"}
    with pytest.raises(ValueError, match=r"model: the linear layer of 'first.weight' runs twice"):
        cl.strategies.owm(registry.ODD, registry.SGD).init(cl.key(0))
    assert {case.name for case in registry.ALL if case.model is registry.NORMED} - odd == set()


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (lambda s, e: s.replace(key=s.key.add_(1)), "pure \\(inputs\\)"),
        (lambda s, e: s.replace(seen=(cl.random.key(0).bernoulli_() > 2) | s.seen), "global generator"),
        (lambda s, e: s.replace(key=s.key[None]), "closed"),
        (lambda s, e: s.replace(seen=None), "closed"),
        (lambda s, e: s.replace(seen=3), "closed' broken at seen"),
        (lambda s, e: None, "closed' broken: it gave None, expected Everything"),
        (lambda s, e: s.replace(seen=s.seen if s.opt.lr > 0 else ~s.seen), "lanes' broken: it cannot be vmapped.*cl.when"),
        (lambda s, e: cl.tree.set(s, {"opt.lr": e.x.mean() * 1.0}), "padding"),
    ],
)
def test_the_laws_can_be_broken(broken, law):
    """A check that cannot fail is a defect: each law catches a component made to break it."""
    with pytest.raises(AssertionError, match=law):
        testing.check_update(broken, registry.init(cl.key(0)), EXP)


def test_the_law_of_empty_slots_can_be_broken():
    """A loss and an update that take rows from a memory without asking which slots are occupied."""
    state = registry.init(cl.key(0))
    state = state.replace(replay=memory.reservoir.init(5, memory.sample(registry.MODEL)))

    def loss(params, state, exp):
        logits, _ = registry.MODEL.apply(params, state.model.buffers, state.replay.data["x"])
        return logits.square().sum(), state

    def update(state, exp):
        return cl.tree.set(state, {"opt.lr": state.replay.data["x"].sum()})

    for check, broken in ((testing.check_loss, loss), (testing.check_update, update)):
        with pytest.raises(AssertionError, match="law 'occupied' broken"):
            check(broken, state, EXP)


def test_what_is_wrong_with_a_teacher_is_found_where_it_is_still_the_network():
    """At the start the difference is 0, on rows that are none as on any others."""

    @cl.state
    class Averaged(cl.Agent):
        replay: memory.Reservoir
        average: cl.models.ModelState

    net = registry.MODEL.init(cl.key(0))
    empty = memory.reservoir.init(5, memory.sample(registry.MODEL))
    state = Averaged(key=cl.key(0), model=net, opt=registry.SGD.init(net.params), replay=empty, average=net)

    def difference(params, state, x):
        student, teacher = (registry.MODEL.apply(p, state.model.buffers, x)[0] for p in (params, state.average.params))
        return (student - teacher.detach()).square()

    def replayed(params, state, exp):
        return difference(params, state, state.replay.data["x"]).mean(), state

    def padded(params, state, exp):
        return difference(params, state, exp.x).mean(), state

    def averaged(state, exp):
        share = 1 / len(exp)
        new = cl.tree.map(lambda a, p: (1 - share) * a + share * p, state.average.params, state.model.params)
        return cl.tree.set(state, {"average.params": new})

    for check, broken, law in (
        (testing.check_loss, replayed, "occupied"),
        (testing.check_loss, padded, "padding"),
        (testing.check_update, averaged, "padding"),
    ):
        with pytest.raises(AssertionError, match=f"law '{law}' broken"):
            check(broken, state, EXP)


def test_a_state_that_cannot_be_stored_breaks_a_law():
    """As of a class within a function, which pickle cannot find again."""

    @cl.state
    class Mine(cl.Agent):
        pass

    def init(key):
        net = registry.MODEL.init(key)
        return Mine(key=key, model=net, opt=registry.SGD.init(net.params))

    step = cl.minibatches(cl.train_step(cl.losses.cross_entropy(registry.MODEL), registry.SGD), batch_size=5)
    with pytest.raises(AssertionError, match=r"law 'resumed' broken: the state cannot be pickled .*at the top of a file"):
        testing.check_strategy(cl.Strategy(init, step, registry.MODEL), registry.BENCH)


def noisy(state, n=4):
    """A state that tells what was drawn from its key."""
    return state.replace(seen=state.seen ^ (cl.random.uniform(state.key, n) < 0.5))


def moved_on(state):
    return state.replace(key=cl.random.split(state.key)[0])


def in_lanes(state):
    """Keys that are drawn from within torch's vmap."""
    key, draw = cl.random.split(state.key)
    once, again = (torch.func.vmap(cl.random.normal)(cl.random.split(draw, 4)) for _ in range(2))
    return state.replace(key=key, seen=once > again)


def both(params, state):
    """Two draws from one child."""
    key, draw = cl.random.split(state.key)
    value = sum(p.square().sum() for p in params.values()) * cl.random.uniform(draw) + cl.random.normal(draw)
    return value, state.replace(key=key)


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        (
            lambda s, e: noisy(s),
            r"drawn from twice, in test_laws.py:\d+ \(noisy\) and in test_laws.py:\d+ \(noisy\).*Use a key once",
        ),
        (lambda s, e: moved_on(noisy(s)), r"drawn from, in .*\(noisy\), and derived from, in .*\(moved_on\)"),
        (lambda s, e: noisy(moved_on(s)), r"drawn from, in .*\(noisy\), and derived from, in .*\(moved_on\)"),
        (lambda s, e: in_lanes(s), r"drawn from twice, in .*\(<genexpr>\)"),
        (lambda s, e: s.replace(seen=noisy(s.replace(key=cl.random.split(s.key)[1])).seen), r"drawn from twice"),
        (lambda s, e: s.replace(seen=noisy(s.replace(key=cl.random.fold_in(s.key, 5))).seen), r"drawn from twice"),
        (cl.train_step(lambda p, s, e: both(p, s), registry.SGD), r"drawn from twice, in .*\(both\) and in .*\(both\)"),
        (
            cl.compose(lambda s, e: s.replace(seen=noisy(moved_on(s)).seen), lambda s, e: moved_on(s)),
            "drawn from, .* and derived from",
        ),
    ],
)
def test_the_law_of_keys_can_be_broken(broken, fault):
    optimizer = registry.SGD if isinstance(broken, cl.core.TrainStep) else registry.OPTIMIZERS["sgd_momentum"]
    with pytest.raises(AssertionError, match=f"law 'fresh' broken: one key is {fault}"):
        testing.check_update(broken, registry.init(cl.key(0), optimizer=optimizer), EXP)


def test_the_law_of_keys_for_losses_transforms_and_probes():
    state = registry.init(cl.key(0))

    def loss(params, state, exp):
        return sum((p * cl.random.normal(state.key)).sum() for p in params.values()), state

    def transform(grads, state, exp):
        return cl.tree.map(lambda g: g * cl.random.uniform(state.key, tuple(g.shape)), grads), state

    for check, function in [
        (testing.check_loss, loss),
        (testing.check_gradient_transform, transform),
        (testing.check_probe, lambda s, e: cl.random.uniform(s.key)),
        (testing.check_probe, lambda s, e: cl.random.uniform(cl.random.split(s.key)[1])),
    ]:
        with pytest.raises(AssertionError, match="law 'fresh' broken: one key is drawn from"):
            check(function, state, EXP)
    testing.check_probe(lambda s, e: cl.random.uniform(cl.random.fold_in(s.key, 99)), state)
    with pytest.raises(AssertionError, match=r"another key gives another result, at seen.*cl.random was not asked"):
        testing.check_update(lambda s, e: s.replace(seen=((s.key >> e.rows[:4]) & 1) > 0), state, EXP)
    by_index = lambda s, e: s.replace(seen=noisy(s.replace(key=cl.random.fold_in(s.key, e.index))).seen)  # noqa: E731
    testing.check_update(by_index, state, EXP)


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        (lambda s, e: s.replace(seen=torch.zeros(4) > 0), "seen is on cpu, though.*device=exp.rows.device"),
        (lambda s, e: s.replace(seen=s.seen & (torch.arange(4) > 0)), "a tensor on the CPU meets.*test_laws.py:.*arange"),
        (lambda s, e: s.replace(seen=s.seen if e.valid.any() else ~s.seen), "the value of a tensor is asked for.*waits.*cl.when"),
        (lambda s, e: s.replace(seen=s.seen.cpu().to(s.seen.device)), "a tensor is moved from its device"),
        (lambda s, e: s.replace(seen=s.seen | (e.y[e.valid].max() > 9)), "the shape of a result depends on the values"),
        (lambda s, e: s.replace(seen=s.seen[:2] if e.y.device.type != "cpu" else s.seen), r"seen is bool\[2\] there"),
    ],
)
def test_the_law_of_devices_can_be_broken(broken, fault):
    with pytest.raises(AssertionError, match=f"law 'device' broken: {fault}"):
        testing.check_device(broken, registry.init(cl.key(0)), EXP)


def test_lane_law_can_be_broken():
    def mixes_lanes_up(state, exp):
        # What a component does that reads torch's memory instead of its own lane: the batch size leaks in.
        return state.replace(lwf=state.lwf.replace(strength=state.lwf.strength + mixes_lanes_up.calls))

    mixes_lanes_up.calls = 0

    def counts(state, exp):
        mixes_lanes_up.calls += 1
        return mixes_lanes_up(state, exp)

    with pytest.raises(AssertionError, match=r"pure|lanes"):
        testing.check_update(counts, registry.init(cl.key(0)), EXP)


@pytest.mark.parametrize(
    "loss",
    [
        lambda p, s, e: (cl.tree.leaves(s.model.params)[0].square().sum(), s),
        lambda p, s, e: (cl.tree.leaves(p)[0].detach().square().sum(), s),
    ],
)
def test_a_loss_without_a_gradient_breaks_a_law(loss):
    with pytest.raises(AssertionError, match="law 'depends' broken"):
        testing.check_loss(loss, registry.init(cl.key(0)), EXP)


def test_the_law_of_draws_can_be_broken():
    store, module = STORES["ring"]
    agent = module.insert()(registry.init(cl.key(0)).replace(replay=store), EXP.take(EXP.rows[6:8], EXP.valid[6:8]))

    def first(held, key, n):
        place = cl.random.randint(key, n, 0, held.occupied.sum())
        return cl.tree.map(lambda leaf: leaf[place], held.data), torch.arange(n) < held.occupied.sum()

    with pytest.raises(AssertionError, match=r"law 'occupied' broken at .*: a row was drawn"):
        testing.check_draw(first, agent.replay, 3)

    def all_valid(held, key, n):
        rows, _ = memory.draws.uniform(held, key, n)
        return rows, torch.ones(n, dtype=torch.bool)

    with pytest.raises(AssertionError, match="law 'occupied' broken: 3 rows are valid, the memory holds 2"):
        testing.check_draw(all_valid, agent.replay, 3)


def present_classes(params, state, exp):
    """As ER-ACE's, but of all rows, valid or not."""
    logits, state = cl.models.forward(registry.MODEL, params, state, exp)
    here = (exp.y[:, None] == torch.arange(logits.shape[1])).any(0)
    losses = torch.nn.functional.cross_entropy(torch.where(here, logits, -1e9), exp.y, reduction="none")
    return cl.losses.weighted_mean(losses, exp.valid), state


def by_the_largest(params, state, exp):
    logits, state = cl.models.forward(registry.MODEL, params, state, exp)
    losses = torch.nn.functional.cross_entropy(logits / exp.x.abs().amax(), exp.y, reduction="none")
    return cl.losses.weighted_mean(losses, exp.valid), state


_largest = registry.BENCH.train[1].x.abs().amax(1)
WITHOUT_THE_LARGEST = registry.BENCH.train[1].take(
    registry.BENCH.train[1].rows[_largest < _largest.max()], registry.BENCH.train[1].valid[_largest < _largest.max()]
)


@pytest.mark.parametrize("loss", [present_classes, by_the_largest])
def test_padding_that_is_no_copy_of_a_row_is_found_to_count(loss):
    with pytest.raises(AssertionError, match="law 'padding' broken"):
        testing.check_loss(loss, registry.init(cl.key(0)), WITHOUT_THE_LARGEST)


@cl.state
class Counting(cl.Agent):
    count: torch.Tensor
    average: torch.Tensor


def counting(update, model=registry.MODEL):
    """A Strategy of an Update on a state with two numbers more, and an Update of one's own after it."""

    def init(key):
        net = model.init(key)
        return Counting(key=key, model=net, opt=registry.SGD.init(net.params), count=torch.tensor(0), average=torch.zeros(6))

    return cl.Strategy(init, update, model)


def of_minibatches(step):
    return counting(cl.minibatches(step, batch_size=5, shuffle=False))


def by_size(params, state, exp):
    logits, state = cl.models.forward(registry.MODEL, params, state, exp)
    return (torch.nn.functional.cross_entropy(logits, exp.y, reduction="none") * exp.valid).sum() / len(exp), state


def counts_rows(state, exp):
    return state.replace(count=state.count + len(exp))


def draws_by_size(state, exp):
    key, draw_key = cl.random.split(state.key)
    noise = cl.random.normal(draw_key, (6, len(exp)))
    return state.replace(key=key, average=(noise * exp.valid).sum(1))


@pytest.mark.parametrize(
    "step",
    [cl.train_step(by_size, registry.SGD), cl.train_step(present_classes, registry.SGD), counts_rows, draws_by_size],
    ids=["mean over all rows", "classes of all rows", "count of all rows", "draws by the number of rows"],
)
def test_padding_within_minibatches_is_found_to_count(step):
    """Of an experience that is padded, minibatches are as large as without: only the padding within them shows it."""
    with pytest.raises(AssertionError, match=r"law 'padding \(minibatches\)' broken"):
        testing.check_strategy(of_minibatches(step), registry.BENCH)


def clamps_in_place(state, exp):
    for value in state.model.params.values():
        value.clamp_(-0.1, 0.1)
    return state


def clamps_the_data(state, exp):
    exp.source.x.clamp_(-0.5, 0.5)
    return state


@pytest.mark.parametrize("update", [clamps_in_place, clamps_the_data])
def test_a_change_in_place_that_is_made_once_is_found(update):
    """The second call changes nothing more, so it was made before anything was compared."""
    bench = testing.small_benchmark()
    with pytest.raises(AssertionError, match=r"law 'pure \(inputs\)' broken"):
        testing.check_strategy(counting(update), bench)


HELD: dict[str, object] = {}


def test_what_is_kept_outside_of_the_state_is_found():
    """A second call finds the same there, but runs in other threads or lanes find each other's."""

    def keeps(state, exp):
        HELD["teacher"] = state.model.params
        return state

    cache: dict[str, torch.Tensor] = {}

    def caches(state, exp):
        mean = cache.setdefault("mean", exp.x.mean(0))
        return state.replace(average=mean.clone())

    for update, what in ((keeps, "HELD"), (caches, "cache")):
        HELD.clear()
        with pytest.raises(
            AssertionError, match=f"law 'pure' broken: it keeps something outside of the state .*{what}.*keep it in"
        ):
            testing.check_update(update, counting(update).init(cl.key(0)), EXP)
    seen = []

    def logs(state, exp):
        seen.append(len(exp))
        return state

    testing.check_update(logs, counting(logs).init(cl.key(0)), EXP)


def test_a_model_that_looks_at_other_rows_is_found():
    """Evaluation in training mode gives other answers with another batch size."""

    def in_training(state, exp):
        net = state.model
        return registry.NORMED.apply(net.params, net.buffers, exp.x, train=True, valid=exp.valid)[0]

    strategy = cl.strategies.naive(registry.NORMED, registry.SGD, batch_size=5)
    testing.check_strategy(strategy, registry.BENCH)
    with pytest.raises(AssertionError, match="law 'rows' broken"):
        testing.check_strategy(cl.Strategy(strategy.init, strategy.update, in_training), registry.BENCH)


def test_an_init_that_uses_torchs_generator_is_found():
    strategy = cl.strategies.naive(registry.MODEL, registry.SGD, batch_size=5)

    def init(key):
        torch.manual_seed(int(key))
        return strategy.init(key)

    with pytest.raises(AssertionError, match="law 'pure' broken: torch's global generator"), torch.random.fork_rng():
        testing.check_strategy(cl.Strategy(init, strategy.update), registry.BENCH)


def test_a_draw_that_uses_a_key_twice_is_found():
    """A class and one of its rows from one key: some rows are never drawn."""

    def draw(held, key, n):
        first, second = (cl.random.randint(key, n, 0, held.occupied.sum()) for _ in range(2))
        place = torch.maximum(first, second)
        return cl.tree.map(lambda leaf: leaf[place], held.data), torch.arange(n) < held.occupied.sum()

    store, module = STORES["reservoir"]
    agent = module.insert()(registry.init(cl.key(0)).replace(replay=store), EXP)
    with pytest.raises(AssertionError, match="law 'fresh' broken: one key is drawn from"):
        testing.check_draw(draw, agent.replay, 3)
