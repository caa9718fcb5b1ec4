"""Compiled equals eager for every strategy, with and without lanes and donation; programs are counted."""

from __future__ import annotations

import gc
import pickle

import pytest
import registry
import torch

import cl_func as cl
from cl_func import testing, transforms, tree

BENCH = registry.BENCH
LOOP = {"batch_size": 5, "epochs": 2}
MEMORY = {"capacity": 6, "replay_size": 4}
STRATEGIES = {
    "naive": cl.strategies.naive(registry.NORMED, registry.OPTIMIZERS["sgd_momentum"], **LOOP),
    "joint": cl.strategies.joint(registry.MODEL, registry.OPTIMIZERS["adamw"], **LOOP),
    "lwf": cl.strategies.lwf(registry.MODEL, registry.SGD, **LOOP),
    "er": cl.strategies.er(registry.MODEL, registry.SGD, **MEMORY, **LOOP),
    "er_lwf": cl.strategies.er_lwf(registry.MODEL, registry.SGD, **MEMORY, **LOOP),
}


def programs(update):
    """Every compiled program of an update."""
    return [program for leaf in tree.leaves(update) for same in leaf.programs.values() for program in same.values()]


@pytest.mark.parametrize("name", STRATEGIES)
def test_compiled_and_donated_lanes_equal_single_runs(name):
    """One compiled, donated, vmapped run against eager single runs: the three transformations at once, over a whole stream."""
    strategy = STRATEGIES[name]
    states = [strategy.init(cl.key(seed)) for seed in range(2)]
    lanes = tree.stack(states)
    before = tree.map(torch.clone, lanes)
    update = cl.compile(cl.vmap(strategy.update))
    donated = cl.fold(update, lanes, BENCH.train, donate=True)
    testing.assert_equal(lanes, before, "donated runs leave the caller's state alone")
    for state, lane in zip(states, tree.unstack(donated), strict=True):
        testing.assert_equal(lane, cl.fold(strategy.update, state, BENCH.train), "compiled lanes", 1e-3, 1e-4)
    n_programs = len(programs(update))
    cl.fold(update, before, [*BENCH.train, *BENCH.train], donate=True)
    assert len(programs(update)) == n_programs


def test_single_compiled_run_and_probe():
    strategy = STRATEGIES["er"]
    start = strategy.init(cl.key(0))
    probe = cl.evaluate(registry.MODEL, BENCH.test, batch_size=5)
    expected = cl.scan(strategy.update, start, BENCH.train, probe)
    update = cl.compile(strategy.update)
    testing.assert_equal(cl.scan(update, start, BENCH.train, cl.compile(probe)), expected, "compiled", 1e-4, 1e-5)
    testing.assert_equal(cl.scan(update, start, BENCH.train, probe, donate=True), expected, "donated", 1e-4, 1e-5)


def test_unequal_experiences_share_the_step():
    """Experiences of other lengths give new programs for the order of rows only: the step sees one shape."""
    strategy = cl.strategies.naive(registry.MODEL, registry.SGD, batch_size=4)
    update = cl.compile(strategy.update)
    exps = [cl.experience(BENCH.train[0].source, torch.arange(n)) for n in (6, 9, 14)]
    out = cl.fold(update, strategy.init(cl.key(0)), exps)
    testing.assert_equal(out, cl.fold(strategy.update, strategy.init(cl.key(0)), exps), "compiled", 1e-4, 1e-5)
    assert len(programs(update.step)) == 1
    assert len(programs(update.order)) == 3


def test_a_leaf_that_takes_another_leafs_old_value_is_read_first():
    """In place, `a, b = b, a` must swap; a teacher set to the parameters must not follow them."""

    def swap(state, exp):
        return state.replace(model={"a": state.model["b"], "b": state.model["a"], "c": state.model["c"].flip(0)})

    start = cl.Agent(key=cl.key(0), model={name: torch.arange(3.0) + 10 * i for i, name in enumerate("abc")})
    out = cl.fold(cl.compile(swap), start, [BENCH.train[0]], donate=True)
    testing.assert_equal(out, swap(start, None), "donated")


def test_leaves_stay_apart_under_donation():
    """A teacher set to the parameters, a view of another leaf, one new value in two leaves: the next step moves only its own."""

    def snapshot(state, exp):
        new = state.model["w"] * 2
        return state.replace(opt={"teacher": state.model["w"], "view": state.model["w"].view(4, 1), "a": new, "b": new})

    def step(state, exp):
        return state.replace(model={"w": state.model["w"] + 1}, opt={**state.opt, "a": state.opt["a"] + 10})

    w = torch.arange(4.0)
    start = cl.Agent(key=cl.key(0), model={"w": w}, opt={"teacher": w, "view": w.view(4, 1).clone(), "a": w, "b": w})
    both = cl.compose(snapshot, step)
    stream = [BENCH.train[0]] * 3
    testing.assert_equal(cl.fold(cl.compile(both), start, stream, donate=True), cl.fold(both, start, stream), "donated")


def test_leaves_that_share_memory_in_one_call_only():
    """Traced with a = b, run with a != b; and an eager snapshot between donated steps."""

    def mix(state, exp):
        return state.replace(model={"a": state.model["a"] + 0.0, "b": state.model["a"] + 10 * state.model["b"]})

    x, other = torch.ones(3), torch.zeros(3)
    for donate in (False, True):
        update = cl.compile(mix)
        for model in ({"a": x, "b": x}, {"a": x, "b": other}):
            agent = cl.Agent(key=cl.key(0), model=model)
            testing.assert_equal(cl.fold(update, agent, [None], donate=donate), mix(agent, None), "aliases")

    strategy = STRATEGIES["lwf"]
    snapshot, train = strategy.update.updates
    mixed = cl.compose(snapshot, cl.compile(train))
    expected = cl.fold(strategy.update, strategy.init(cl.key(0)), [*BENCH.train, *BENCH.train])
    for update in (mixed, cl.compile(strategy.update)):
        for donate in (False, True):
            out = cl.fold(update, strategy.init(cl.key(0)), [*BENCH.train, *BENCH.train], donate=donate)
            testing.assert_equal(out, expected, "lwf", 1e-3, 1e-4)


def test_probes_that_return_leaves_are_kept_from_donation():
    def step(state, exp):
        return state.replace(model={"w": state.model["w"] + 1})

    start = cl.Agent(key=cl.key(0), model={"w": torch.zeros(2)})
    _, history = cl.scan(cl.compile(step), start, [BENCH.train[0]] * 3, lambda s, e: s.model["w"], donate=True)
    assert history[:, 0].tolist() == [1, 2, 3]


def test_ten_strategies_compile_in_one_process():
    """Dynamo silently gives up after 8 compilations of the same code, which all train steps share; we do not use it."""
    updates = [cl.compile(lambda s, e, i=i: s.replace(key=s.key + i)) for i in range(10)]
    agent = cl.Agent(key=cl.key(0))
    for i, update in enumerate(updates):
        assert update(agent, BENCH.train[0]).key == agent.key + i
        assert len(update.programs) == 1


def test_neighbours_are_compiled_as_one():
    online = cl.compile(cl.strategies.er(registry.MODEL, registry.SGD, **MEMORY).update)
    assert isinstance(online, transforms.Compiled)
    batched = cl.compile(cl.compose(STRATEGIES["er_lwf"].update, cl.at("opt.lr", lambda lr, e: lr), cl.optim.restart()))
    assert len(tree.leaves(batched)) == 4  # the snapshot, the order of rows, the step, and everything after the loop
    repeated = cl.compile(cl.repeat(cl.compose(cl.optim.restart(), cl.optim.restart()), 2))
    assert len(tree.leaves(repeated)) == 1


def test_vmap_of_a_compiled_update_compiles_the_lanes():
    def step(state, exp):
        return state.replace(model=state.model * 2 + exp.x.mean())

    states = [cl.Agent(key=cl.key(i), model=torch.tensor(float(i))) for i in range(3)]
    out = cl.vmap(cl.compile(step))(tree.stack(states), BENCH.train[0])
    for i, state in enumerate(states):
        testing.assert_equal(tree.unstack(out)[i], step(state, BENCH.train[0]), "lanes", 1e-5, 1e-6)
    again = pickle.loads(pickle.dumps(transforms.Compiled(tree.leaves)))
    assert again.programs == {}


def test_strategies_transform_as_a_whole():
    strategy = cl.vmap(STRATEGIES["er"])
    lanes = cl.fold(strategy.update, strategy.init(cl.random.split(cl.key(0), 3)), BENCH.train)
    assert lanes.replay.seen.tolist() == [28, 28, 28]
    assert isinstance(cl.compile(STRATEGIES["er"]), cl.Strategy)
    assert isinstance(cl.check_finite(STRATEGIES["er"]), cl.Strategy)


def test_without_a_compiler_it_runs_eagerly_after_one_warning(monkeypatch):
    monkeypatch.setattr(transforms.shutil, "which", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    transforms._compiler_available.cache_clear()
    try:
        strategy = STRATEGIES["naive"]
        with pytest.warns(UserWarning, match="no C\\+\\+ compiler found") as caught:
            out = cl.fold(cl.compile(strategy.update), strategy.init(cl.key(0)), BENCH.train)
        assert len(caught) == 1
        testing.assert_equal(out, cl.fold(strategy.update, strategy.init(cl.key(0)), BENCH.train), "eager")
    finally:
        transforms._compiler_available.cache_clear()


@pytest.mark.parametrize("said", ["file too short", "cannot read file data: Error 21", "object file has no loadable segments"])
def test_half_a_library_left_by_a_killed_process_is_removed(said, monkeypatch, tmp_path):
    """Otherwise a run killed while compiling could never resume: torch's cache on disk does not check what it loads."""
    broken = tmp_path / "kernel.main.so"
    broken.touch()

    def load(graph, inputs, options):
        if broken.exists():
            raise ImportError(f"{broken}: {said}")
        return graph

    monkeypatch.setattr(torch._inductor, "compile", load)
    with pytest.warns(UserWarning, match=r"removed .*kernel.main.so, half written"):
        out = cl.compile(lambda state, exp: {"a": state["a"] + 1})({"a": torch.zeros(2)})
    assert torch.equal(out["a"], torch.ones(2))
    assert not broken.exists()


def test_ewc_compiles_on_one_thread():
    """Inductor fails to fuse the loops of the importances of three lanes: they are compiled without fusion."""
    data = cl.Dataset(cl.random.normal(cl.key(0), (40, 40)), torch.arange(40) // 10, n_classes=4)
    bench = cl.streams.split_by_class(data, data, 2)
    strategy = cl.strategies.ewc(cl.models.mlp(40, (30,), 4), registry.SGD, strength=1.0, batch_size=10)
    start = tree.stack([strategy.init(cl.key(seed)) for seed in range(3)])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        fast = cl.fold(cl.compile(cl.vmap(strategy.update)), start, bench.train)
    finally:
        torch.set_num_threads(threads)
    testing.assert_equal(fast, cl.fold(cl.vmap(strategy.update), start, bench.train), "compiled", 1e-4, 1e-5)


def test_expanded_lanes_compile():
    """Vmapped functions return expanded tensors for values that do not depend on the lane; these are in the next state."""
    update = cl.compile(lambda state, exp: {"a": state["a"] + 1})
    wide = {"a": torch.zeros(1).expand(5)}
    assert torch.equal(update(wide)["a"], torch.ones(5))
    assert torch.equal(cl.fold(update, wide, [None], donate=True)["a"], torch.ones(5))
    assert torch.equal(wide["a"], torch.zeros(5))


def test_states_of_any_kind_are_donated_again_and_again():
    """A state written in place is recognised at the next call by identity, unless it has an equality of its own."""

    @cl.state
    class Compared:
        a: torch.Tensor

        def __eq__(self, other):
            return bool((self.a == other.a).all())

        __hash__ = None

    double = cl.compile(lambda state, exp: tree.map(lambda leaf: leaf * 2 + 1, state))
    for start in (torch.zeros(3), torch.zeros(()), {"a": torch.zeros(2)}, Compared(a=torch.zeros(2)), cl.Agent(key=cl.key(0))):
        out = cl.fold(double, start, [None] * 3, donate=True)
        testing.assert_equal(out, cl.fold(lambda s, e: tree.map(lambda leaf: leaf * 2 + 1, s), start, [None] * 3), "donated")
    del out
    gc.collect()
    assert not tree.leaves(double)[0].owned


def test_donated_leaves_do_not_share_memory_with_the_experience():
    """An eager update that stores a tensor of the stream, or makes an experience of the state's own memory."""
    data = torch.arange(6.0)

    def keep(state, exp):
        return state.replace(model=exp)

    add = cl.compile(lambda state, exp: state.replace(model=state.model + exp))
    out = cl.fold(cl.compose(keep, add), cl.Agent(key=cl.key(0), model=data * 0), [data, data], donate=True)
    assert torch.equal(data, torch.arange(6.0))
    assert torch.equal(out.model, 2 * data)

    def shifted(state, exp):
        return add(state, state.model.flip(0).flip(0) if exp is None else state.model)

    add = cl.compile(lambda state, exp: state.replace(model=state.model + exp.flip(0)), donate=True)
    agent = cl.Agent(key=cl.key(0), model=torch.arange(6.0))
    for _ in range(3):
        expected = agent.model + agent.model.flip(0)
        agent = shifted(agent, 1)
        assert torch.equal(agent.model, expected)


def test_views_with_gaps_keep_their_program():
    """Leaves that an eager update cut from one tensor are copied before they are overwritten, and then have other strides."""
    wide = torch.arange(16.0).view(4, 4)

    def chunks(state, exp):
        return state.replace(model=dict(zip("ab", wide.clone().chunk(2, 1), strict=True)))

    step = cl.compile(lambda state, exp: state.replace(model={"a": state.model["a"] + 1, "b": state.model["b"] * 2}))
    start = chunks(cl.Agent(key=cl.key(0)), None)
    both = cl.compose(chunks, step)
    out = cl.fold(both, start, [None] * 2, donate=True)
    assert torch.equal(out.model["a"], wide[:, :2] + 1)
    assert torch.equal(out.model["b"], wide[:, 2:] * 2)


def test_a_state_of_one_compiled_function_is_not_taken_for_one_of_another_around_it():
    """The programs of a donated step are remembered with the state it wrote; vmapped, it is another function with its own."""
    step = cl.compile(lambda state, exp: tree.map(lambda leaf: leaf + leaf.sum(), state), donate=True)
    start = cl.Agent(key=torch.zeros(2, dtype=torch.int64), model={"w": torch.tensor([1.0, 2.0])})
    written = step(start, None)  # w = 1 + 3, 2 + 3
    lanes = cl.vmap(step)(written, None)
    assert lanes.model["w"].tolist() == [8.0, 10.0]  # each lane's own sum, not that of both
