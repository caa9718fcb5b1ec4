import itertools
import pickle
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from cl_func import core, optim, random, transforms, tree
from cl_func.experiences import Dataset, experience

close = torch.testing.assert_close
TIGHT = {torch.float32: {"rtol": 1e-6, "atol": 1e-6}, torch.float64: {"rtol": 1e-12, "atol": 1e-12}}


@tree.state
class Model:
    params: Any
    buffers: Any


@tree.state
class Tuned(core.Agent):
    tuning: Any = None


def problem(dtype=torch.float32):
    """Twenty rows with real-valued targets in place of labels: the loss reads them from the inputs' last column."""
    x = random.normal(random.key(0), (20, 6), torch.float64).to(dtype)
    return experience(Dataset(x, torch.zeros(20, dtype=torch.int64)))


def start(dtype=torch.float32, seed=1):
    keys = random.split(random.key(seed))
    return {
        "0.weight": random.normal(keys[0], (5, 1), torch.float64).to(dtype),
        "0.bias": random.normal(keys[1], (), torch.float64).to(dtype),
    }


def squared(params, state, exp):
    error = (exp.x[:, :5] @ params["0.weight"]).squeeze(-1) + params["0.bias"] - exp.x[:, 5]
    return (error**2).mean(), state


def agent(opt, dtype=torch.float32, seed=1, **tuning):
    params = start(dtype, seed)
    tuning = {name: torch.tensor(value, dtype=dtype) for name, value in tuning.items()}
    return Tuned(key=random.key(seed), model=Model(params=params, buffers={}), opt=opt.init(params), tuning=tuning)


def train(opt, steps=20, dtype=torch.float32, *transforms):
    """The params after every step, by `opt`."""
    step, state, seen = core.train_step(squared, opt, *transforms), agent(opt, dtype), []
    for _ in range(steps):
        state = step(state, problem(dtype))
        seen.append(state.model.params)
    assert state.opt.count == steps
    return seen


def train_torch(make, steps=20, dtype=torch.float32, before_step=lambda params: None):
    """The params after every step, by an optimiser of torch."""
    params = {name: torch.nn.Parameter(value.clone()) for name, value in start(dtype).items()}
    opt, seen = make(params.values()), []
    for _ in range(steps):
        opt.zero_grad()
        squared(params, None, problem(dtype))[0].backward()
        before_step(params.values())
        opt.step()
        seen.append({name: value.detach().clone() for name, value in params.items()})
    return seen


# Optimisers


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.5, False), (0.9, False), (0.9, True)])
def test_sgd_equals_torch(momentum, nesterov, weight_decay, dtype):
    options = {"lr": 0.05, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
    close(train(optim.sgd(**options), 20, dtype), train_torch(lambda p: torch.optim.SGD(p, **options), 20, dtype), **TIGHT[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("eps", [1e-8, 1e-2])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.99), (0.5, 0.9)])
@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_equals_torch(name, betas, eps, weight_decay, dtype):
    options = {"lr": 0.01, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    theirs = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    close(train(getattr(optim, name)(**options), 20, dtype), train_torch(lambda p: theirs(p, **options), 20, dtype), **TIGHT[dtype])


def test_defaults_are_those_of_torch():
    close(train(optim.adam()), train_torch(torch.optim.Adam), **TIGHT[torch.float32])
    close(train(optim.adamw()), train_torch(torch.optim.AdamW), **TIGHT[torch.float32])


def test_adam_without_memory_equals_torch():
    options, dtype = {"lr": 0.01, "betas": (0.0, 0.0)}, torch.float64
    close(train(optim.adam(**options), 20, dtype), train_torch(lambda p: torch.optim.Adam(p, **options), 20, dtype), **TIGHT[dtype])


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_that_counts_each_weight(name):
    """The same as with one count; a weight whose moments and count are set to 0 moves as in its first step."""
    one, each = (getattr(optim, name)(0.1, weight_decay=0.1, count_each=count_each) for count_each in (False, True))
    close(train(one), train(each), rtol=1e-6, atol=1e-7)
    params, first = {"w": torch.ones(2)}, {"w": torch.tensor([2.0, -3.0])}
    start, state = each.init(params), each.init(params)
    for _ in range(5):
        _, state = each.update(first, state, params)
    assert state.counts["w"].tolist() == [5, 5]
    moments = ("first_moment.w", "second_moment.w")
    anew = {moment: torch.tensor([0.0, 1.0]) * tree.get(state, moment) for moment in moments}
    state = tree.set(state, {**anew, "counts.w": torch.tensor([0, 5], dtype=torch.int32)})
    updates, state = each.update(first, state, params)
    close(updates["w"][0], each.update(first, start, params)[0]["w"][0])
    assert (state.counts["w"].tolist(), state.count.item()) == ([1, 6], 6)
    for made, given in ((one, each), (each, one)):
        with pytest.raises(ValueError, match=f"count_each: this optimiser was made with count_each={made is each}"):
            made.update(first, given.init(params), params)


@pytest.mark.parametrize("opt", [optim.sgd(0.1), optim.sgd(0.1, momentum=0.9, nesterov=True), optim.adam(), optim.adamw()])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_step_is_closed_and_pure_in_every_dtype(opt, dtype):
    params = {"w": torch.ones(3, dtype=dtype), "scalar": torch.ones((), dtype=dtype), "other": torch.ones(2)}
    state = opt.init(params)
    given = tree.map(torch.clone, (params, state))
    updates, after = opt.update(tree.map(torch.ones_like, params), state, params)
    assert tree.difference((params, state), given) is None
    assert [(p, x.dtype, x.shape) for p, x in tree.items(updates)] == [(p, x.dtype, x.shape) for p, x in tree.items(params)]
    assert [(p, x.dtype, x.shape) for p, x in tree.items(after)] == [(p, x.dtype, x.shape) for p, x in tree.items(state)]
    assert state.lr.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    memory = [x.data_ptr() for x in tree.leaves((params, updates, after))]
    assert len(memory) == len(set(memory))  # a donated leaf must not be another's memory


def test_bfloat16_keeps_its_second_moment_in_float32():
    opt = optim.adam(lr=0.125)
    params = {"w": torch.ones(1, dtype=torch.bfloat16)}
    state = opt.init(params)
    for _ in range(300):
        updates, state = opt.update({"w": torch.ones(1, dtype=torch.bfloat16)}, state, params)
    close(updates["w"].float(), torch.tensor([-0.125]))


def test_a_state_has_the_documented_leaves():
    counters = ["scale", "ticks", "count"]
    assert [p for p, _ in tree.items(optim.sgd(0.1).init(torch.ones(2)))] == ["lr", "weight_decay", *counters]
    assert [p for p, _ in tree.items(optim.sgd(0.1, 0.9).init(torch.ones(2)))] == [
        "lr", "weight_decay", "momentum", "velocity", *counters,
    ]  # fmt: skip
    assert [p for p, _ in tree.items(optim.adam().init(torch.ones(2)))] == [
        "lr", "beta1", "beta2", "eps", "weight_decay", "first_moment", "second_moment", *counters,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value", "set_by_factory"),
    [
        ("opt.lr", 0.02, optim.sgd(0.02, 0.9)),
        ("opt.momentum", 0.3, optim.sgd(0.1, 0.3)),
        ("opt.momentum", 0.0, optim.sgd(0.1)),
        ("opt.weight_decay", 0.2, optim.sgd(0.1, 0.9, weight_decay=0.2)),
        ("opt.beta1", 0.3, optim.adamw(betas=(0.3, 0.999))),
        ("opt.beta2", 0.3, optim.adamw(betas=(0.9, 0.3))),
        ("opt.eps", 0.1, optim.adamw(eps=0.1)),
        ("opt.weight_decay", 0.5, optim.adamw(weight_decay=0.5)),
    ],
)
def test_a_hyperparameter_is_set_by_its_path(path, value, set_by_factory):
    opt = optim.sgd(0.1, momentum=0.9) if isinstance(set_by_factory, type(optim.sgd(0.1))) else optim.adamw()
    step, state = core.train_step(squared, opt), tree.set(agent(opt), {path: value})
    for _ in range(20):
        state = step(state, problem())
    close(state.model.params, train(set_by_factory)[-1])
    assert not torch.allclose(state.model.params["0.weight"], train(opt)[-1]["0.weight"])


def test_a_momentum_put_where_none_is_stored_is_an_error():
    opt = optim.sgd(0.1)
    state = tree.replace(opt.init(start()), momentum=torch.tensor(0.9))
    with pytest.raises(ValueError, match=r"momentum: .*stores no velocity.*sgd\(lr, momentum=0.9\)"):
        opt.update(start(), state, start())
    with pytest.raises(ValueError, match="momentum"):
        opt.update(start(), tree.set(opt.init(start()), {"momentum": 0.9}), start())
    with pytest.raises(ValueError, match=r"momentum=0.9, its state with momentum=0.0.*init\(params\)"):
        optim.sgd(0.1, momentum=0.9).update(start(), opt.init(start()), start())


def test_the_wrong_state_is_an_error():
    with pytest.raises(TypeError, match=r"sgd: expected a SGDState made by its init\(params\), got AdamState"):
        optim.sgd(0.1).update(start(), optim.adam().init(start()), start())
    with pytest.raises(TypeError, match=r"adamw: its state is None.*maybe_init"):
        optim.adamw().update(start(), None, start())


@pytest.mark.parametrize("opt", [optim.sgd(0.1), optim.adam()])
def test_init_checks_the_params(opt):
    with pytest.raises(ValueError, match=r"params: the tree holds no tensor; give .*state.model.params"):
        opt.init({})
    with pytest.raises(TypeError, match=r"params: expected floating tensors, 'seen' is int64\[\].*buffers"):
        opt.init({"seen": torch.tensor(0)})


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: optim.sgd(-0.1), ValueError, r"lr: expected a finite number of at least 0, got -0.1; give for instance 0.1"),
        (lambda: optim.sgd(float("nan")), ValueError, "lr: .*got nan"),
        (lambda: optim.sgd(float("inf")), ValueError, "lr: .*got inf"),
        (lambda: optim.sgd(True), TypeError, "lr: .*got True"),
        (lambda: optim.sgd("0.1"), TypeError, "lr: .*got '0.1'"),
        (lambda: optim.sgd(torch.tensor(0.1)), TypeError, r"lr: .*got float32\[\]"),
        (lambda: optim.sgd(0.1, momentum=1.0), ValueError, "momentum: expected a number of at least 0 and below 1, got 1.0"),
        (lambda: optim.sgd(0.1, momentum=-0.1), ValueError, "momentum: .*got -0.1"),
        (lambda: optim.sgd(0.1, weight_decay=-1), ValueError, "weight_decay: .*got -1"),
        (lambda: optim.sgd(0.1, nesterov=True), ValueError, "nesterov: it needs a momentum, got momentum=0.0"),
        (lambda: optim.sgd(0.1, nesterov=1), TypeError, "nesterov: expected True or False, got 1"),
        (lambda: optim.adam(betas=0.9), TypeError, "betas: expected two numbers"),
        (lambda: optim.adam(betas=(0.9,)), TypeError, "betas: expected two numbers"),
        (lambda: optim.adam(betas=(1.0, 0.9)), ValueError, r"betas\[0\]: .*got 1.0"),
        (lambda: optim.adamw(betas=(0.9, -0.1)), ValueError, r"betas\[1\]: .*got -0.1"),
        (lambda: optim.adamw(eps=0), ValueError, "eps: expected a finite number above 0, got 0.0; give for instance 1e-08"),
        (lambda: optim.adamw(weight_decay=None), TypeError, "weight_decay: .*got None"),
        (lambda: optim.clip_by_global_norm(0.0), ValueError, "max_norm: .*got 0.0"),
        (lambda: optim.clip_by_global_norm(None), TypeError, "max_norm: .*got None"),
        (lambda: optim.clip_by_value(-1.0), ValueError, "limit: .*got -1.0"),
        (lambda: optim.clip_by_value(""), ValueError, "limit: .*empty string"),
        (lambda: optim.chain(optim.clip_by_value(1.0), 3), TypeError, "transforms: expected a GradientTransform.*got 3"),
        (lambda: optim.schedule(0.9), TypeError, "fn: expected a function of ticks, got 0.9"),
        (lambda: optim.schedule(lambda t: t, slot=3), ValueError, "slot: expected a path .*got 3"),
        (lambda: optim.schedule(lambda t, a: t, a=None), TypeError, "a: expected a number or the path .*got None"),
        (lambda: optim.restart(slot=""), ValueError, "slot: expected a path .*got ''"),
        (lambda: optim.exponential_decay(0.0), ValueError, "gamma: .*got 0.0"),
        (lambda: optim.exponential_decay(False), TypeError, "gamma: .*got False"),
        (lambda: optim.step_decay(0, 0.1), ValueError, "every: .*got 0"),
        (lambda: optim.step_decay(2.0, 0.1), TypeError, "every: .*got 2.0"),
        (lambda: optim.cosine_decay(0), ValueError, "total: .*got 0"),
        (lambda: optim.cosine_decay(10, final=-0.1), ValueError, "final: .*got -0.1"),
    ],
)
def test_factories_check_their_arguments(make, error, match):
    with pytest.raises(error, match=match):
        make()


class Signs(NamedTuple):
    """A foreign optimiser, of another shape than ours: its state is one tensor."""

    size: float

    def init(self, params):
        return torch.zeros(())

    def update(self, grads, state, params):
        return tree.map(lambda g: -self.size * torch.sign(g), grads), state + 1


def test_a_foreign_optimiser_trains():
    opt = Signs(0.25)
    before = agent(opt)
    after = core.train_step(squared, opt)(before, problem())
    moved = tree.map(lambda a, b: (a - b).abs(), after.model.params, before.model.params)
    close(moved, tree.map(lambda p: torch.full_like(p, 0.25), moved))
    assert after.opt == 1
    with pytest.raises(ValueError, match=r"slot 'opt': .*opt.ticks and opt.scale"):
        optim.restart()(after, None)


# Lanes and compilation


def everything(opt):
    """One leaf with all that this package has in it."""
    step = core.train_step(
        squared, opt, optim.chain(optim.clip_by_value("tuning.limit"), optim.clip_by_global_norm("tuning.max_norm"))
    )
    decay, cosine = optim.exponential_decay("tuning.gamma"), optim.cosine_decay(7, "tuning.final")

    def update(state, exp):
        state = decay(step(state, exp), exp)
        return step(cosine(step(optim.restart()(state, exp), exp), exp), exp)

    return update


TUNING = {"limit": 0.5, "max_norm": 0.6, "gamma": 0.5, "final": 0.25}
OPTIMISERS = [optim.sgd(0.1), optim.sgd(0.1, 0.9, nesterov=True, weight_decay=0.1), optim.adam(weight_decay=0.1), optim.adamw()]


@pytest.mark.parametrize("opt", OPTIMISERS)
def test_a_lane_equals_the_single_run(opt):
    singles = [
        tree.set(agent(opt, **TUNING), {"opt.lr": lr, "tuning.gamma": 5 * lr, "tuning.limit": lr}) for lr in (0.01, 0.05, 0.1)
    ]
    lanes, update = tree.stack(singles), everything(opt)
    for _ in range(3):
        lanes = transforms.vmap(update)(lanes, problem())
        singles = [update(single, problem()) for single in singles]
    for lane, single in zip(tree.unstack(lanes), singles, strict=True):
        assert tree.difference(lane, single, rtol=1e-6, atol=1e-6) is None
    assert len({float(single.model.params["0.bias"]) for single in singles}) == 3


@pytest.mark.parametrize("opt", OPTIMISERS)
def test_a_step_can_be_traced(opt):
    update, exp, state = everything(opt), problem(), agent(opt, **TUNING)
    leaves, structure = tree.flatten(tree.stack([state, tree.set(state, {"opt.lr": 0.3})]))

    def flat(leaves):
        return tree.leaves(transforms.vmap(update)(tree.unflatten(structure, leaves), exp))

    graph, others = make_fx(flat)(leaves), [x * 0.99 if x.is_floating_point() else x for x in leaves]
    close(graph(others), flat(others), rtol=1e-6, atol=1e-6)


def test_compiled_equals_eager():
    opt = optim.adamw(lr=0.05)
    update, state = everything(opt), agent(opt, **TUNING)
    compiled, eager = transforms.compile(update), state
    for _ in range(3):
        state, eager = compiled(state, problem()), update(eager, problem())
    assert tree.difference(state, eager, rtol=1e-5, atol=1e-6) is None


def test_what_the_factories_make_can_be_pickled():
    made = [optim.sgd(0.1), optim.adam(), optim.chain(optim.clip_by_value(1.0)), optim.step_decay(3, 0.1), optim.cosine_decay(5)]
    assert repr(pickle.loads(pickle.dumps(made[:3]))) == repr(made[:3])
    state = agent(made[0])
    for update in pickle.loads(pickle.dumps(made[3:])):
        assert update(state, None).opt.ticks == 1


# Clipping


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [0.0, 1e-9, 1e-3, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("bound", [0.5, 3.0])
def test_clipping_equals_torch(factor, bound, dtype):
    grads = tree.map(lambda g: g * factor, start(dtype))
    for ours, theirs in (
        (optim.clip_by_global_norm(bound), torch.nn.utils.clip_grad_norm_),
        (optim.clip_by_value(bound), torch.nn.utils.clip_grad_value_),
    ):
        params = tree.map(lambda g: torch.nn.Parameter(torch.zeros_like(g)), grads)
        for name, parameter in params.items():
            parameter.grad = grads[name].clone()
        theirs(params.values(), bound)
        clipped, state = ours(grads, "state", None)
        assert state == "state"
        close(clipped, {name: parameter.grad for name, parameter in params.items()}, rtol=TIGHT[dtype]["rtol"], atol=0.0)


def test_gradients_below_the_threshold_pass_bit_for_bit():
    grads = start()
    norm = float(torch.cat([g.flatten() for g in grads.values()]).norm())
    assert tree.equal(optim.clip_by_global_norm(norm * 1.001)(grads, None, None)[0], grads)
    clipped, _ = optim.clip_by_global_norm(norm / 2)(grads, None, None)
    close(torch.cat([g.flatten() for g in clipped.values()]).norm(), torch.tensor(norm / 2))


def test_half_precision_norms_do_not_overflow():
    grads = {"w": torch.full((4,), 6e4, dtype=torch.float16), "other": torch.zeros(2)}
    clipped, _ = optim.clip_by_global_norm(1.0)(grads, None, None)
    close(clipped, {"w": torch.full((4,), 0.5, dtype=torch.float16), "other": torch.zeros(2)})


def test_training_with_clipping_equals_torch():
    ours = train(optim.sgd(0.1, 0.9), 20, torch.float32, optim.clip_by_value(1.0), optim.clip_by_global_norm(0.7))

    def clip(params):
        params = list(params)
        torch.nn.utils.clip_grad_value_(params, 1.0)
        torch.nn.utils.clip_grad_norm_(params, 0.7)

    close(ours, train_torch(lambda p: torch.optim.SGD(p, 0.1, 0.9), before_step=clip), rtol=1e-6, atol=1e-6)


def test_chain_applies_from_left_to_right_and_threads_the_state():
    def double(grads, state, exp):
        return grads * 2, [*state, "double"]

    def add(grads, state, exp):
        return grads + exp, [*state, "add"]

    grads, state = optim.chain(double, add, double)(torch.ones(()), [], 3)
    assert grads == 10
    assert state == ["double", "add", "double"]
    assert optim.chain()(1, 2, 3) == (1, 2)


def test_a_path_names_the_bound():
    state = agent(optim.sgd(0.1), max_norm=0.5, limit=0.25)
    by_path, _ = optim.clip_by_global_norm("tuning.max_norm")(start(), state, None)
    assert tree.equal(by_path, optim.clip_by_global_norm(0.5)(start(), state, None)[0])
    by_path, _ = optim.clip_by_value("tuning.limit")(start(), state, None)
    assert tree.equal(by_path, optim.clip_by_value(0.25)(start(), state, None)[0])
    with pytest.raises(ValueError, match=r"path 'tuning.nowhere': no 'nowhere' in dict; there is max_norm, limit"):
        optim.clip_by_value("tuning.nowhere")(start(), state, None)
    with pytest.raises(TypeError, match=r"max_norm: the path 'tuning' leads to .*name a leaf"):
        optim.clip_by_global_norm("tuning")(start(), state, None)
    with pytest.raises(ValueError, match="grads: the tree holds no tensor"):
        optim.clip_by_global_norm(1.0)({}, state, None)


# Schedules

SCHEDULES = {
    "exponential": (
        lambda **slot: optim.exponential_decay(0.9, **slot),
        lambda opt: torch.optim.lr_scheduler.ExponentialLR(opt, 0.9),
    ),
    "step": (lambda **slot: optim.step_decay(4, 0.5, **slot), lambda opt: torch.optim.lr_scheduler.StepLR(opt, 4, 0.5)),
    "cosine": (lambda **slot: optim.cosine_decay(30, **slot), lambda opt: torch.optim.lr_scheduler.CosineAnnealingLR(opt, 30)),
    "cosine_final": (
        lambda **slot: optim.cosine_decay(30, final=0.25, **slot),
        lambda opt: torch.optim.lr_scheduler.CosineAnnealingLR(opt, 30, eta_min=0.2 * 0.25),
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_equal_torch(name, dtype):
    make, make_torch = SCHEDULES[name]
    update, state = make(), agent(optim.sgd(0.2), dtype)
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2)
    scheduler = make_torch(theirs)
    for tick in range(1, 31):
        theirs.step()
        scheduler.step()
        state = update(state, None)
        assert state.opt.ticks == tick
        close(state.opt.lr * state.opt.scale, torch.tensor(theirs.param_groups[0]["lr"], dtype=dtype), **TIGHT[dtype])
    close(state.opt.lr, torch.tensor(0.2, dtype=dtype))  # a sweep's value stays as it was set


@pytest.mark.parametrize("make", [optim.sgd, optim.adam, optim.adamw])
def test_training_on_a_schedule_equals_torch(make):
    theirs = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[make.__name__]
    params = {name: torch.nn.Parameter(value.clone()) for name, value in start().items()}
    opt_torch = theirs(params.values(), lr=0.05, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(opt_torch, 0.9)
    opt = make(lr=0.05, weight_decay=0.1)
    step, state = core.compose(core.train_step(squared, opt), optim.exponential_decay(0.9)), agent(opt)
    for _ in range(30):
        opt_torch.zero_grad()
        squared(params, None, problem())[0].backward()
        opt_torch.step()
        scheduler.step()
        state = step(state, problem())
    close(state.model.params, tree.map(torch.Tensor.detach, params), rtol=1e-6, atol=1e-6)


def test_cosine_holds_at_the_end_and_restarts():
    update, state = optim.cosine_decay(5, final=0.1), agent(optim.adam())
    for _ in range(12):
        state = update(state, None)
    close(state.opt.scale, torch.tensor(0.1))
    again = optim.restart()(state, None)
    assert (int(again.opt.ticks), float(again.opt.scale)) == (0, 1.0)
    assert tree.equal(again.replace(opt=again.opt.replace(ticks=state.opt.ticks, scale=state.opt.scale)), state)
    close(update(again, None).opt.scale, update(agent(optim.adam()), None).opt.scale)


def test_ticks_count_where_the_schedule_stands():
    opt = optim.sgd(0.1)
    step, decay, exp = core.train_step(squared, opt), optim.exponential_decay(0.9), problem()
    once = core.compose(core.minibatches(step, batch_size=8, epochs=2), decay)(agent(opt), exp)
    assert (int(once.opt.count), int(once.opt.ticks)) == (6, 1)
    often = core.minibatches(core.compose(step, decay), batch_size=8, epochs=2)(agent(opt), exp)
    assert (int(often.opt.count), int(often.opt.ticks)) == (6, 6)
    close(often.opt.scale, torch.tensor(0.9**6))


def test_another_slot_and_a_path_for_the_rate():
    opt = optim.sgd(0.1)
    state = {"two": {"opt": opt.init(start())}, "gamma": torch.tensor(0.25)}
    state = optim.step_decay(2, "gamma", slot="two.opt")(optim.step_decay(2, "gamma", slot="two.opt")(state, None), None)
    close(state["two"]["opt"].scale, torch.tensor(0.25))
    assert optim.restart(slot="two.opt")(state, None)["two"]["opt"].ticks == 0


def test_a_schedule_of_ones_own():
    def warm_up(ticks: Tensor, steps: Tensor, floor: Tensor) -> Tensor:
        assert ticks.dtype == torch.int64
        assert steps.dtype == floor.dtype == torch.float64
        return torch.maximum(ticks / steps, floor)

    state = agent(optim.sgd(0.1), torch.float64, floor=0.125)
    update = optim.schedule(warm_up, steps=10, floor="tuning.floor")
    scales = [float(s.opt.scale) for s in itertools.accumulate([state] * 4, lambda s, _: update(s, None))]
    assert scales == [1.0, 0.125, 0.2, 0.3]


def test_schedules_name_the_slot_and_the_mend():
    state = agent(optim.sgd(0.1))
    decay = optim.exponential_decay(0.9, slot="optimizer")
    with pytest.raises(ValueError, match=r"slot 'optimizer': .*no 'optimizer.*there is key, model, opt.*Give the slot of a state"):
        decay(state, None)
    with pytest.raises(ValueError, match=r"slot 'model': .*no 'ticks' in Model.*these two leaves"):
        optim.restart(slot="model")(state, None)
    with pytest.raises(ValueError, match=r"slot 'opt': .*after its init"):
        optim.exponential_decay(0.9)(state.replace(opt=None), None)
    with pytest.raises(TypeError, match=r"fn: expected a tensor of shape \(\) made from ticks, got 0.5"):
        optim.schedule(lambda ticks: 0.5)(state, None)
    with pytest.raises(TypeError, match=r"gamma: the path 'model.params' leads to"):
        optim.exponential_decay("model.params")(state, None)
