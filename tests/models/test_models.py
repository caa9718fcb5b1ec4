import concurrent.futures
import functools
import pickle
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from cl_func import core, evaluate, random, transforms, tree
from cl_func.core import Agent
from cl_func.experiences import Dataset, experience, pad, stream
from cl_func.losses import cross_entropy
from cl_func.models import (
    BatchNorm,
    Dropout,
    Model,
    ModelState,
    class_masks,
    cnn,
    forward,
    from_module,
    mlp,
    multi_head,
    resnet18,
    slim_resnet18,
    vit,
)
from cl_func.optim import sgd


def gaussian(*shape, seed=0):
    return random.normal(random.key(seed), shape)


def norm_net():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 4))


def conv_norm_net():
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, momentum=0.3, eps=1e-3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4))


SMALL = {
    "mlp": (lambda: mlp(6, hidden=(5,), n_classes=4), (6,)),
    "cnn": (lambda: cnn((1, 8, 8), channels=(3, 4), hidden=5, n_classes=4), (1, 8, 8)),
    "slim_resnet18": (lambda: slim_resnet18((2, 8, 8), n_classes=4, width=2), (2, 8, 8)),
    "resnet18": (lambda: resnet18(4, width=2, input_shape=(2, 8, 8)), (2, 8, 8)),
    "resnet18 large": (lambda: resnet18(4, stem="imagenet", width=2, input_shape=(2, 32, 32)), (2, 32, 32)),
    "vit": (lambda: vit(8, 4, n_classes=4, channels=2, width=8, depth=2, heads=2, dropout=0.2), (2, 8, 8)),
    "mlp crelu": (lambda: mlp(6, hidden=(5, 3), n_classes=4, activation="crelu"), (6,)),
    "mlp layer": (lambda: mlp(6, hidden=(5, 3), n_classes=4, norm="layer", dropout=0.3, activation="gelu"), (6,)),
    "mlp batch": (lambda: mlp(6, hidden=(5, 3), n_classes=4, norm="batch", head="cosine", activation="crelu"), (6,)),
    "from_module": (lambda: from_module(norm_net, n_classes=4, input_shape=(6,)), (6,)),
}
each_model = pytest.mark.parametrize("name", SMALL)


def load(module, state):
    """Put a model state's tensors into an ordinary module."""
    module.load_state_dict({k: v for k, v in (state.params | state.buffers).items() if k in module.state_dict()})
    return module


# --- init


@each_model
def test_init_is_reproducible_and_leaves_the_generator_alone(name):
    model = SMALL[name][0]()
    before = torch.get_rng_state()
    first = model.init(random.key(3))
    other = model.init(random.key(4))
    torch.rand(7)
    assert tree.equal(first, model.init(random.key(3)))
    torch.set_rng_state(before)
    again = SMALL[name][0]().init(random.key(3))  # another model, another past
    assert tree.equal(first, again)
    assert not tree.equal(first.params, other.params)
    logits, _ = model.apply(first.params, first.buffers, gaussian(5, *SMALL[name][1]), train=True)
    assert logits.shape == (5, model.n_classes)
    assert model.input_shape == SMALL[name][1]
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(leaf.requires_grad for leaf in tree.leaves(first))


def test_init_ignores_the_default_device():
    model = mlp(6, hidden=(5,), n_classes=4)
    key = random.key(3)
    wanted = model.init(key)
    with torch.device("meta"):
        assert tree.equal(model.init(key), wanted)


def test_init_gives_its_own_copies():
    shared = nn.Linear(3, 2)
    states = [from_module(lambda: nn.Linear(3, 2), n_classes=2).init(random.key(0)) for _ in range(2)]
    states[0].params["weight"].zero_()
    assert not torch.equal(states[0].params["weight"], states[1].params["weight"])
    with pytest.raises(ValueError, match=r"factory: expected a new module at each call.*copy.deepcopy"):
        from_module(lambda: shared, n_classes=2)
    with pytest.raises(ValueError, match="shared tensors"):
        from_module(lambda: nn.Sequential(nn.Flatten(), shared), n_classes=2)
    assert shared.weight.device.type == "cpu"


def test_mlp_equals_nn_sequential():
    key = random.key(5)
    model = mlp(12, hidden=(7, 5), n_classes=3)
    state = model.init(key)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(key))
        net = nn.Sequential(nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3))
    assert tree.equal(state.params, {k: v.detach() for k, v in net.named_parameters()})
    assert state.buffers == {}
    x = gaussian(4, 3, 4)
    logits, buffers = model.apply(state.params, state.buffers, x, train=True)
    assert buffers is state.buffers
    torch.testing.assert_close(logits, net(x.flatten(1)))
    module = from_module(
        lambda: nn.Sequential(nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3)), n_classes=3
    )
    assert tree.equal(module.init(key), state)


def test_mlp_without_hidden_layers_is_linear():
    model = mlp(3, hidden=(), n_classes=2)
    assert {k: tuple(v.shape) for k, v in model.init(random.key(0)).params.items()} == {"0.weight": (2, 3), "0.bias": (2,)}


@pytest.mark.parametrize(("n_classes", "count"), [(10, 1_094_750), (100, 1_109_240)])
def test_slim_resnet18_has_the_papers_parameter_count(n_classes, count):
    params = slim_resnet18(n_classes=n_classes).init(random.key(0)).params
    assert sum(p.numel() for p in params.values()) == count


def test_images_may_be_flattened_and_of_any_size_for_the_resnet():
    small = cnn((1, 8, 8), channels=(3,), hidden=5, n_classes=4)
    resnet = slim_resnet18((1, 8, 8), n_classes=4, width=2)
    x = gaussian(3, 1, 8, 8)
    for model in (small, resnet):
        state = model.init(random.key(0))
        want, _ = model.apply(state.params, state.buffers, x)
        assert torch.equal(model.apply(state.params, state.buffers, x.flatten(1))[0], want)
    state = resnet.init(random.key(0))
    assert resnet.apply(state.params, state.buffers, gaussian(3, 1, 12, 9))[0].shape == (3, 4)


# --- apply: parity with the module itself


@pytest.mark.parametrize(
    ("factory", "shape"),
    [
        (conv_norm_net, (2, 4, 4)),
        (lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, momentum=None), nn.Linear(8, 4)), (6,)),
        (lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, affine=False), nn.Linear(8, 4)), (6,)),
        (lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 4)), (6,)),
        (lambda: nn.Sequential(nn.BatchNorm1d(5), nn.Flatten(), nn.Linear(15, 4)), (5, 3)),
        (lambda: nn.Sequential(nn.BatchNorm3d(2), nn.Flatten(), nn.Linear(24, 4)), (2, 2, 2, 3)),
    ],
)
def test_parity_with_the_module_over_several_steps(factory, shape):
    model = from_module(factory, n_classes=4)
    state = model.init(random.key(1))
    net = load(factory(), state)
    buffers = state.buffers
    for step in range(4):
        x = 2 + 3 * gaussian(5, *shape, seed=step)
        net.train()
        before = tree.map(torch.clone, buffers)
        logits, moved = model.apply(state.params, buffers, x, train=True, valid=torch.ones(5, dtype=torch.bool))
        assert tree.equal(before, buffers)
        torch.testing.assert_close(logits, net(x), rtol=1e-6, atol=2e-6)
        buffers = moved
        assert tree.difference(buffers, dict(net.named_buffers()), rtol=1e-6, atol=1e-6) is None
        net.eval()
        logits, same = model.apply(state.params, buffers, x)
        assert same is buffers
        torch.testing.assert_close(logits, net(x), rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("name", ["cnn", "slim_resnet18", "resnet18", "resnet18 large"])
def test_gradients_equal_those_of_the_module(name):
    make, shape = SMALL[name]
    model = make()
    state = tree.map(lambda t: t.double() if t.is_floating_point() else t, model.init(random.key(1)))
    x, y = random.normal(random.key(0), (5, *shape), torch.float64), torch.tensor([0, 1, 2, 3, 0])

    def loss(params):
        return nn.functional.cross_entropy(model.apply(params, state.buffers, x, train=True)[0], y)

    grads = torch.func.grad(loss)(state.params)
    net = load(model.apply.args[0].factory().double(), state)  # an ordinary module with torch's own layers
    assert not any(isinstance(layer, (BatchNorm, Dropout)) for layer in net.modules())
    nn.functional.cross_entropy(net.train()(x), y).backward()
    assert tree.difference(grads, {k: p.grad for k, p in net.named_parameters()}, rtol=1e-9, atol=1e-9) is None
    assert all(g.abs().max() > 0 for g in grads.values())


class Counting(nn.Module):
    """Writes into its buffers in place, in train and in eval mode; ties two weights; freezes one; one buffer is not persistent."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.weight = self.a.weight
        self.frozen = nn.Parameter(torch.randn(3, 3), requires_grad=False)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("shift", torch.rand(3), persistent=False)
        self.register_buffer("same_shift", self.shift)

    def forward(self, x):
        self.calls.add_(1)
        return self.b(torch.relu(self.a(x @ self.frozen + self.shift))) + self.same_shift


def test_modules_that_write_in_place_tie_and_freeze():
    model = from_module(Counting, n_classes=3)
    state = model.init(random.key(0))
    assert set(state.params) == {"a.weight", "a.bias", "b.bias"}
    assert set(state.buffers) == {"frozen", "calls", "shift"}
    net = Counting()
    net.load_state_dict(state.params | state.buffers, strict=False)
    net.b.weight, net.shift, net.same_shift = net.a.weight, state.buffers["shift"], state.buffers["shift"]
    x = gaussian(4, 3)
    logits, buffers = model.apply(state.params, state.buffers, x, train=True)
    torch.testing.assert_close(logits, net(x))
    assert (int(state.buffers["calls"]), int(buffers["calls"])) == (0, 1)
    assert buffers["frozen"] is state.buffers["frozen"]
    _, same = model.apply(state.params, buffers, x)
    assert same is buffers
    assert int(buffers["calls"]) == 1
    grads = torch.func.grad(lambda p: model.apply(p, state.buffers, x)[0].square().sum())(state.params)
    net(x).square().sum().backward()
    torch.testing.assert_close(grads["a.weight"], net.a.weight.grad)


def test_a_layer_used_under_two_names_is_replaced_once():
    def factory():
        norm = nn.BatchNorm1d(3)
        return nn.Sequential(norm, nn.Linear(3, 3), norm)

    model = from_module(factory, n_classes=3)
    state = model.init(random.key(0))
    net = factory()
    net.load_state_dict(state.params | state.buffers, strict=False)
    x = gaussian(5, 3)
    logits, buffers = model.apply(state.params, state.buffers, x, train=True)
    torch.testing.assert_close(logits, net(x), rtol=1e-6, atol=1e-6)
    assert int(buffers["0.num_batches_tracked"]) == 2


def test_recurrent_and_attention_modules_run():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(4, 4, batch_first=True)
            self.attend = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
            self.out = nn.Linear(4, 3)

        def forward(self, x):
            return self.out(self.attend(self.rnn(x)[0])[:, -1])

    model = from_module(Net, n_classes=3)
    state = model.init(random.key(0))
    net, x = load(Net(), state), gaussian(2, 5, 4)
    for train in (True, False):
        torch.testing.assert_close(model.apply(state.params, state.buffers, x, train=train)[0], net.train(train)(x))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.rnn = kind(3, 4, batch_first=True, bidirectional=True)
        self.norm, self.out = nn.BatchNorm1d(8), nn.Linear(8, 4)

    def forward(self, x):
        return self.out(self.norm(self.rnn(x)[0][:, -1]))


# Torch's own: it runs its fast LSTM lane by lane.
@pytest.mark.filterwarnings("ignore:There is a performance drop.*mkldnn_rnn_layer")
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_recurrent_modules_are_vmapped_in_training_and_in_evaluation(kind):
    model = from_module(functools.partial(Recurrent, kind), n_classes=4, input_shape=(5, 3), last_layer="out")
    data = Dataset(gaussian(8, 5, 3), torch.arange(8) % 4)
    step, probe = core.train_step(cross_entropy(model), sgd(0.1)), evaluate(model, stream([experience(data)]))
    agents = []
    for seed in (0, 1):
        net = model.init(random.key(seed))
        agents.append(Agent(key=random.key(0), model=net, opt=sgd(0.1).init(net.params)))
    lanes = transforms.vmap(step)(tree.stack(agents), experience(data))
    singles = [step(agent, experience(data)) for agent in agents]
    assert tree.difference(tree.unstack(lanes), singles, rtol=1e-4, atol=1e-5) is None
    found = transforms.vmap(probe)(tree.stack(singles))
    assert tree.difference(tree.unstack(found), [probe(agent) for agent in singles], rtol=1e-4, atol=1e-5) is None
    h = torch.func.vmap(lambda net: model.features(net.params, net.buffers, data.x))(tree.stack([s.model for s in singles]))
    assert torch.allclose(h[1], model.features(singles[1].model.params, singles[1].model.buffers, data.x), atol=1e-6)


def test_a_model_can_be_pickled():
    for model in (from_module(norm_net, n_classes=4), mlp(6, (5,), 4), cnn((1, 8, 8), (2,), 3, 4), slim_resnet18((1, 8, 8), 4, 1)):
        back = pickle.loads(pickle.dumps(model))
        assert isinstance(back, Model)
        assert tree.equal(back.init(random.key(0)), model.init(random.key(0)))
    masked = multi_head(mlp(6, (5,), 4), torch.ones(1, 4, dtype=torch.bool))
    assert torch.equal(pickle.loads(pickle.dumps(masked)).apply.masks, masked.apply.masks)


def test_threads_take_turns():
    model = from_module(norm_net, n_classes=4)
    states, x = [model.init(random.key(i)) for i in range(16)], gaussian(9, 6)

    def run(state):
        for _ in range(10):
            logits, buffers = model.apply(state.params, state.buffers, x, train=True)
            state = state.replace(buffers=buffers)
        return logits, state

    want = [run(state) for state in states]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert tree.equal(list(pool.map(run, states)), want)


def test_threads_initialise_one_after_the_other():
    """They share torch's one generator: side by side, each would get weights of no key at all."""
    model, before = mlp(6, (32, 32), 4), torch.random.get_rng_state()
    want = [model.init(random.key(i)) for i in range(200)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: model.init(random.key(i)), range(200)))
    assert tree.equal(found, want)
    assert torch.equal(torch.random.get_rng_state(), before)


# --- forward


def agent_and_experience(model, n=5, shape=(6,)):
    exp = experience(Dataset(gaussian(n, *shape), torch.arange(n) % 4, n_classes=4), task=1)
    return Agent(key=random.key(0), model=model.init(random.key(1))), exp


def test_forward_moves_buffers_only_in_training():
    model = from_module(norm_net, n_classes=4)
    agent, exp = agent_and_experience(model)
    logits, moved = forward(model, agent.model.params, agent, exp)
    want, buffers = model.apply(agent.model.params, agent.model.buffers, exp.x, train=True, valid=exp.valid)
    assert torch.equal(logits, want)
    assert tree.equal(moved.model.buffers, buffers)
    assert moved.model.params is agent.model.params
    assert not tree.equal(moved.model.buffers, agent.model.buffers)
    assert forward(model, agent.model.params, agent, exp, train=False)[1] is agent
    plain = mlp(6, (5,), 4)
    agent, exp = agent_and_experience(plain)
    assert forward(plain, agent.model.params, agent, exp)[1] is agent


def test_forward_passes_valid_and_task():
    masks = torch.tensor([[True, True, False, False], [False, False, True, True]])
    model = multi_head(from_module(norm_net, n_classes=4), masks)
    agent, exp = agent_and_experience(model)
    logits, moved = forward(model, agent.model.params, agent, exp)
    assert set(logits.argmax(1).tolist()) <= {2, 3}
    padded, moved_padded = forward(model, agent.model.params, agent, pad(exp, 9))
    torch.testing.assert_close(padded[:5], logits, rtol=1e-5, atol=1e-5)
    assert tree.difference(moved_padded, moved, rtol=1e-5, atol=1e-6) is None


# --- batch normalisation


@settings(deadline=None, max_examples=40)
@given(
    valid=st.lists(st.booleans(), min_size=2, max_size=9).filter(lambda rows: sum(rows) > 1),
    places=st.sampled_from([(), (3,), (2, 2)]),
    seed=st.integers(0, 1000),
    momentum=st.sampled_from([0.1, 1.0, None]),
)
def test_padding_is_inert_in_batch_norm(valid, places, seed, momentum):
    valid = torch.tensor(valid)
    x = 5 + 2 * gaussian(len(valid), 3, *places, seed=seed)
    x[~valid] = 1e4
    alone, padded = BatchNorm(3, momentum=momentum), BatchNorm(3, momentum=momentum)
    padded.valid = valid
    for _ in range(2):
        torch.testing.assert_close(padded(x)[valid], alone(x[valid]), rtol=1e-5, atol=1e-5)
    padded.valid = None
    assert tree.difference(dict(padded.named_buffers()), dict(alone.named_buffers()), rtol=1e-5, atol=1e-5) is None

    def loss(layer, x, rows):
        return torch.func.grad(lambda x: (layer(x).sin() * gaussian(*x.shape[1:], seed=9))[rows].sum())(x)

    padded.valid = valid
    grads = loss(padded, x, valid)
    torch.testing.assert_close(grads[valid], loss(alone, x[valid], slice(None)), rtol=1e-4, atol=1e-4)
    assert not grads[~valid].any()


@pytest.mark.parametrize("factory", [norm_net, conv_norm_net])
def test_padding_is_inert_in_a_model(factory):
    model = from_module(factory, n_classes=4)
    state = model.init(random.key(0))
    shape = (2, 4, 4) if factory is conv_norm_net else (6,)
    x = gaussian(7, *shape)
    valid = torch.arange(7) < 5
    logits, buffers = model.apply(state.params, state.buffers, x, train=True, valid=valid)
    want, want_buffers = model.apply(state.params, state.buffers, x[:5], train=True)
    torch.testing.assert_close(logits[:5], want, rtol=1e-5, atol=1e-5)
    assert tree.difference(buffers, want_buffers, rtol=1e-6, atol=1e-6) is None


def test_batch_norm_without_valid_rows_moves_nothing():
    for momentum in (0.1, None):
        layer = BatchNorm(3, momentum=momentum)
        before = {k: v.clone() for k, v in layer.named_buffers()}
        layer.valid = torch.zeros(4, dtype=torch.bool)
        grad, out = torch.func.grad_and_value(lambda x, layer=layer: layer(x).sum())(gaussian(4, 3))
        assert out.isfinite()
        assert grad.isfinite().all()
        layer.valid = None
        assert tree.equal(before, dict(layer.named_buffers()))


def test_one_valid_value_per_channel_leaves_the_running_variance():
    layer = BatchNorm(3)
    layer.valid = torch.tensor([True, False])
    x = gaussian(2, 3)
    assert layer(x).isfinite().all()
    torch.testing.assert_close(layer.running_mean, 0.1 * x[0])
    assert torch.equal(layer.running_var, torch.ones(3))
    layer.valid = None
    with pytest.raises(ValueError, match=r"x: BatchNorm needs more than one value per channel.*float32\[1, 3\].*GroupNorm"):
        layer(x[:1])
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.BatchNorm1d(3)(x[:1])


def test_batch_norm_keeps_the_dtype():
    layer = BatchNorm(3).double()
    layer(gaussian(5, 3).double())
    assert {k: v.dtype for k, v in layer.named_buffers()} == {
        "running_mean": torch.float64,
        "running_var": torch.float64,
        "num_batches_tracked": torch.int64,
    }
    half = BatchNorm(3).bfloat16()
    x = 100 + gaussian(64, 3)
    assert half(x.bfloat16()).dtype == torch.bfloat16
    assert half.running_mean.dtype == torch.bfloat16


# --- dropout


@given(p=st.floats(0, 1), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_dropout_drops_with_probability_p_and_keeps_the_mean(p, seed):
    layer = Dropout(p)
    layer.key = random.key(seed)
    out = layer(torch.ones(100, 200))
    kept = out != 0
    assert abs(kept.float().mean().item() - (1 - p)) < 0.02
    if p < 1:
        torch.testing.assert_close(out[kept], torch.full_like(out[kept], 1 / (1 - p)))


def test_dropout_moves_its_key_and_lets_eval_through():
    layer, x = Dropout(0.5), torch.ones(8, 8)
    key = layer.key
    first = layer(x)
    assert not torch.equal(layer.key, key)
    assert not torch.equal(layer(x), first)
    layer.key = key
    assert torch.equal(layer(x), first)
    layer.eval()
    assert layer(x) is x
    assert layer.state_dict() == {}


@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.Dropout1d, (50, 8, 3)), (nn.Dropout2d, (50, 8, 2, 3)), (nn.Dropout3d, (50, 8, 2, 2, 2))]
)
def test_channel_dropout_drops_whole_channels(layer, shape):
    size = torch.Size(shape[1:]).numel()
    model = from_module(lambda: nn.Sequential(layer(0.25), nn.Flatten()), n_classes=size)
    state = model.init(random.key(0))
    out, _ = model.apply(state.params, state.buffers, torch.ones(shape), train=True)
    out = out.reshape(50, 8, -1)
    assert torch.equal(out.amin(2), out.amax(2))
    assert abs((out[..., 0] != 0).float().mean().item() - 0.75) < 0.1


def test_dropout_keys_come_from_the_key_and_the_layer():
    model = from_module(lambda: nn.Sequential(nn.Dropout(0.5), Dropout(0.5), nn.Linear(64, 64), nn.Dropout(0.5)), n_classes=64)
    keys = [model.init(random.key(seed)).buffers for seed in (0, 1)]
    assert list(keys[0]) == ["0.key", "1.key", "3.key"]
    assert torch.equal(keys[0]["3.key"], random.fold_in(random.key(0), 2))
    assert len({int(k) for run in keys for k in run.values()}) == 6


def test_a_dropout_rows_mask_does_not_depend_on_padding():
    layer = Dropout(0.5)
    alone = layer(torch.ones(3, 7))
    layer.key = torch.tensor(0)
    assert torch.equal(layer(torch.ones(5, 7))[:3], alone)


# --- transformations


@each_model
@pytest.mark.parametrize("train", [True, False])
def test_vmapped_lanes_equal_single_runs(name, train):
    make, shape = SMALL[name]
    model = make()
    # In float64: batch norm over few values amplifies the rounding of float32.
    states = [tree.map(lambda t: t.double() if t.is_floating_point() else t, model.init(random.key(i))) for i in range(3)]
    x, y, valid = gaussian(6, *shape).double(), torch.arange(6) % 4, torch.arange(6) != 2

    def step(state):
        def loss(params):
            logits, buffers = model.apply(params, state.buffers, x, train=train, valid=valid)
            return nn.functional.cross_entropy(logits, y), (logits, buffers)

        return torch.func.grad(loss, has_aux=True)(state.params)

    lanes = torch.func.vmap(step)(tree.stack(states))
    for lane, state in zip(tree.unstack(lanes), states, strict=True):
        assert tree.difference(lane, step(state), rtol=1e-9, atol=1e-9) is None


def test_a_vmapped_lane_draws_the_dropout_mask_of_the_single_run():
    model = from_module(lambda: nn.Sequential(nn.Dropout(0.5)), n_classes=40)
    states = [model.init(random.key(i)) for i in range(3)]
    lanes = tree.stack(states)
    out, buffers = torch.func.vmap(lambda s: model.apply(s.params, s.buffers, torch.ones(2, 40), train=True))(lanes)
    for i, state in enumerate(states):
        single = model.apply(state.params, state.buffers, torch.ones(2, 40), train=True)
        assert tree.equal((out[i], tree.map(lambda b, i=i: b[i], buffers)), single)
    assert not torch.equal(out[0], out[1])


def test_compiled_equals_eager():
    masks = torch.tensor([[True, True, False, False], [False, False, True, True]])
    model = multi_head(from_module(norm_net, n_classes=4), masks)
    agent, exp = agent_and_experience(model, n=17)
    agents = tree.stack([agent.replace(model=model.init(random.key(i))) for i in range(3)])

    def step(state, exp):
        def loss(params):
            logits, new = forward(model, params, state, exp)
            return nn.functional.cross_entropy(logits, exp.y % 2 + 2), new

        grads, state = torch.func.grad(loss, has_aux=True)(state.model.params)
        params = tree.map(lambda p, g: p - 0.1 * g, state.model.params, grads)
        return state.replace(model=state.model.replace(params=params))

    eager, compiled = transforms.vmap(step), transforms.compile(transforms.vmap(step))
    for _ in range(2):
        want = eager(agents, exp)
        assert tree.difference(compiled(agents, exp), want, rtol=1e-4, atol=1e-5) is None
        agents = want


def test_dynamo_captures_apply_in_one_graph():
    model = from_module(norm_net, n_classes=4)
    state, x = model.init(random.key(0)), gaussian(5, 6)

    def apply(params, buffers):
        return model.apply(params, buffers, x, train=True)

    captured = torch.compile(apply, backend="eager", fullgraph=True)
    assert tree.equal(captured(state.params, state.buffers), apply(state.params, state.buffers))


# --- heads


def test_multi_head_masks_by_row():
    base = mlp(6, (5,), 4)
    masks = torch.tensor([[True, True, False, False], [False, False, True, False]])
    model = multi_head(base, masks)
    assert (model.n_classes, model.input_shape) == (4, (6,))
    state = model.init(random.key(0))
    assert tree.equal(state, base.init(random.key(0)))
    x, task = gaussian(5, 6), torch.tensor([0, 1, 1, 0, 1])
    logits, _ = model.apply(state.params, state.buffers, x, task=task)
    plain, _ = base.apply(state.params, state.buffers, x)
    assert torch.equal(logits[masks[task]], plain[masks[task]])
    assert (logits[~masks[task]] == -1e9).all()
    assert not logits.softmax(1)[~masks[task]].any()
    loss = functools.partial(nn.functional.cross_entropy, target=torch.tensor([3, 3, 3, 3, 3]))  # even a masked target
    grads = torch.func.grad(lambda p: loss(model.apply(p, {}, x, task=task)[0]))(state.params)
    assert all(g.isfinite().all() for g in grads.values())
    lanes = torch.func.vmap(lambda t: model.apply(state.params, {}, x, task=t)[0])(torch.stack([task, 1 - task]))
    torch.testing.assert_close(lanes[0], logits)


def test_class_masks_of_a_stream():
    y = torch.tensor([0, 1, 2, 3, 4, 5])
    data = Dataset(gaussian(6, 2), y)
    halves = [experience(data, torch.tensor(rows), task=task) for rows, task in (([2, 3], 1), ([0], 0), ([1], 0), ([4, 5], 2))]
    assert class_masks(stream(halves)).int().tolist() == [[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]]
    by_row = Dataset(gaussian(6, 2), y, task=torch.tensor([0, 0, 1, 1, 1, 0]))
    mixed = [experience(by_row, torch.tensor([0, 1, 2])), experience(by_row, torch.tensor([3, 5]))]
    assert class_masks(mixed).int().tolist() == [[1, 1, 0, 0, 0, 1], [0, 0, 1, 1, 0, 0]]
    with pytest.raises(ValueError, match=r"stream: task labels must be 0..T-1 without gaps, got \[1, 2\]; relabel"):
        class_masks([halves[0], halves[3]])
    with pytest.raises(ValueError, match=r"without gaps, got \[-1\]"):
        class_masks([tree.replace(experience(data), task=torch.tensor(-1))])
    with pytest.raises(ValueError, match="stream: it holds no experience"):
        class_masks([])


# --- errors name the argument, the value and the mend


ERRORS = [
    (lambda: mlp(0), ValueError, "n_features: expected an integer of at least 1, got 0"),
    (lambda: mlp(4, hidden=8), TypeError, "hidden: expected the widths .*got 8"),
    (lambda: mlp(4, hidden=(8, -1)), ValueError, "hidden: .* got -1"),
    (lambda: mlp(4, n_classes=2.0), TypeError, "n_classes: .* got 2.0"),
    (lambda: cnn((28, 28)), ValueError, r"input_shape: expected \(channels, height, width\), got \(28, 28\)"),
    (lambda: cnn(28), TypeError, "input_shape: expected sizes such as .* got 28"),
    (lambda: cnn(channels=()), TypeError, r"channels: expected the channels of each block .* got \(\)"),
    (lambda: cnn((1, 4, 4), channels=(2, 2, 2)), ValueError, "channels: 3 blocks halve the 4x4 input to nothing; give fewer"),
    (lambda: slim_resnet18(width=0), ValueError, "width: .* got 0"),
    (lambda: from_module(nn.Linear(2, 2), n_classes=2), TypeError, "factory: expected a function .*Linear.*give lambda"),
    (lambda: from_module(3, n_classes=2), TypeError, "factory: expected a function .*got 3"),
    (lambda: from_module(lambda: 3, n_classes=2), TypeError, "factory: expected it to return a torch.nn.Module, got 3"),
    (
        lambda: from_module(lambda: nn.LazyLinear(2), n_classes=2),
        ValueError,
        "'weight' belongs to a lazy layer.*give the layer its",
    ),
    (lambda: from_module(norm_net, n_classes=0), ValueError, "n_classes: .* got 0"),
    (lambda: from_module(norm_net, n_classes=4, input_shape=(0,)), ValueError, "input_shape: .* got 0"),
    (lambda: Dropout(1.5), ValueError, r"p: expected a finite number in \[0, 1\], got 1.5"),
    (lambda: Dropout(0.5, channels=True)(torch.ones(2, 3)), ValueError, r"dropout of channels.*\[2, 3\]; use nn.Dropout"),
    (
        lambda: BatchNorm(3)(torch.ones(2, 4)),
        ValueError,
        r"x: BatchNorm expects a floating tensor \[n, 3, ...\], got float32\[2, 4\]",
    ),
]


@pytest.mark.parametrize(("make", "error", "message"), ERRORS)
def test_factory_errors(make, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        make()


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: type("Drop", (nn.Dropout,), {})(0.1), "Drop.*draws from torch's generator.*use nn.Dropout, .*replace="),
        (lambda: nn.LSTM(3, 3, num_layers=2, dropout=0.5), "LSTM.*has dropout=0.5.*set its dropout to 0"),
        (lambda: nn.GRU(3, 3, num_layers=2, dropout=0.5), "GRU.*has dropout=0.5.*set its dropout to 0"),
        (lambda: nn.RNN(3, 3, num_layers=2, dropout=0.5), "RNN.*has dropout=0.5.*set its dropout to 0"),
        (lambda: nn.MultiheadAttention(4, 2, dropout=0.1), "MultiheadAttention.*has dropout=0.1.*set its dropout to 0"),
        (lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1), "self_attn.*has dropout=0.1"),
        (lambda: nn.SyncBatchNorm(4), "SyncBatchNorm.*padding would count; use nn.BatchNorm1d/2d/3d itself"),
        (lambda: nn.InstanceNorm1d(4, track_running_stats=True), "InstanceNorm1d.*set track_running_stats=False"),
    ],
)
def test_layers_that_cannot_be_pure_are_refused(layer, message):
    with pytest.raises(ValueError, match=f"factory: layer '1.*{message}"):
        from_module(lambda: nn.Sequential(nn.Identity(), layer()), n_classes=4)
    with pytest.raises(ValueError, match="factory: layer 'the module itself' \\(SyncBatchNorm\\)"):
        from_module(lambda: nn.SyncBatchNorm(4), n_classes=4)


@pytest.mark.parametrize("model", [mlp(4, (3,), 2), from_module(norm_net, n_classes=4)])
def test_batched_and_traced_keys_are_refused(model):
    keys = random.split(random.key(0), 3)
    mend = re.escape("initialise in a loop: cl.tree.stack([model.init(key) for key in keys])")
    with pytest.raises(ValueError, match=rf"key: .*int64\[3\].*{mend}"):
        model.init(keys)
    with pytest.raises(ValueError, match=mend):
        torch.func.vmap(model.init)(keys)
    with pytest.raises(ValueError, match=mend):
        make_fx(lambda key: model.init(key).params)(keys[0])
    with pytest.raises(TypeError, match=r"key: expected an int64 tensor of shape .* got 3"):
        model.init(3)
    stacked = tree.stack([model.init(key) for key in keys])
    assert isinstance(stacked, ModelState)
    assert all(len(leaf) == 3 for leaf in tree.leaves(stacked))


def test_apply_errors():
    model = from_module(norm_net, n_classes=4)
    state, x = model.init(random.key(0)), gaussian(5, 6)
    fewer = {k: v for k, v in state.params.items() if k != "0.bias"}
    with pytest.raises(ValueError, match=r"params, buffers: '0.bias' is missing; pass the params and buffers of a state"):
        model.apply(fewer, state.buffers, x)
    with pytest.raises(ValueError, match="'extra' is not a tensor of this model"):
        model.apply(state.params | {"extra": x}, state.buffers, x)
    for valid in (torch.ones(4, dtype=torch.bool), torch.ones(5)):
        with pytest.raises((TypeError, ValueError), match=r"valid: expected a bool tensor of shape \[5\], got"):
            model.apply(state.params, state.buffers, x, valid=valid)
    wrong = from_module(norm_net, n_classes=5)
    with pytest.raises(ValueError, match=r"must return logits \[n, n_classes\] = \[5, 5\], got float32\[5, 4\]; give n_classes"):
        wrong.apply(state.params, state.buffers, x)
    pair = from_module(lambda: nn.GRU(3, 3), n_classes=3)
    made = pair.init(random.key(0))
    with pytest.raises(ValueError, match=r"must return logits .* got \(float32\[2, 3\], float32\[1, 3\]\)"):
        pair.apply(made.params, made.buffers, gaussian(2, 3))
    merging = from_module(lambda: nn.Sequential(nn.Flatten(0, 1), nn.BatchNorm1d(4)), n_classes=4)
    made = merging.init(random.key(0))
    with pytest.raises(ValueError, match=r"valid: bool\[3\] does not fit x, float32\[6, 4\].*Keep rows on the first axis"):
        merging.apply(made.params, made.buffers, gaussian(3, 2, 4), train=True, valid=torch.ones(3, dtype=torch.bool))

    dense = mlp(6, (5,), 4)
    made = dense.init(random.key(0))
    with pytest.raises(ValueError, match=r"x: expected \[n, ...\] with n_features = 6 values per row, got float32\[5, 7\]"):
        dense.apply(made.params, {}, gaussian(5, 7))
    with pytest.raises(ValueError, match=r"n_features = 6 .* got float32\[6\]"):
        dense.apply(made.params, {}, gaussian(6))
    with pytest.raises(TypeError, match=r"x: expected a floating tensor, got int64\[5, 6\]; convert it with x.float\(\)"):
        dense.apply(made.params, {}, torch.ones(5, 6, dtype=torch.int64))
    images = cnn((1, 8, 8), channels=(2,), hidden=3, n_classes=4)
    made = images.init(random.key(0))
    for shape in ((5, 1, 9, 8), (5, 2, 8, 8), (5, 63)):
        with pytest.raises(ValueError, match=r"x: expected images \[n, 1, 8, 8\] or \[n, 64\], got float32"):
            images.apply(made.params, made.buffers, gaussian(*shape))


def test_multi_head_errors():
    base = mlp(6, (5,), 4)
    ok = torch.ones(2, 4, dtype=torch.bool)
    with pytest.raises(TypeError, match=r"masks: expected a bool tensor \[T, C\], got float32\[2, 4\]; make it with class_masks"):
        multi_head(base, ok.float())
    for masks in (ok[0], ok[:, :3], ok[:0]):
        with pytest.raises(ValueError, match=r"masks: expected bool\[T, 4\], one row per task, got bool"):
            multi_head(base, masks)
    with pytest.raises(ValueError, match=r"masks: the tasks \[1\] have no class; mark at least one"):
        multi_head(base, torch.stack([ok[0], ~ok[0]]))
    with pytest.warns(UserWarning, match=r"masks: several tasks have the classes \[0, 1, 2, 3\].*Number the classes of each task"):
        model = multi_head(base, ok)
    with pytest.warns(UserWarning, match=r"masks: several tasks have the classes \[1\]"):
        multi_head(base, torch.tensor([[True, True, False, False], [False, True, True, False]]))
    state = model.init(random.key(0))
    with pytest.raises(ValueError, match=r"task: a multi-head model needs the task label of each row; pass task=exp.tasks"):
        model.apply(state.params, state.buffers, gaussian(5, 6))
    for task in (torch.tensor(0), torch.zeros(5)):
        with pytest.raises(ValueError, match=r"task: expected int64\[5\], one label per row of x, got"):
            model.apply(state.params, state.buffers, gaussian(5, 6), task=task)


class WithTask(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(6, 4)

    def forward(self, x, task):
        return self.last(x)


class Dictionary(WithTask):
    def forward(self, x):
        return {"logits": self.last(x)}


class Indexed(nn.Linear):
    def forward(self, x):
        return self.weight[x].mean(1)


@pytest.mark.parametrize(
    ("factory", "given", "match"),
    [
        (
            lambda: nn.Linear(6, 4),
            {"input_shape": (5,)},
            r"input_shape: .* rows of the shape \[5\], torch.float32: RuntimeError: mat",
        ),
        (
            lambda: nn.Linear(6, 4),
            {"input_shape": (1, 3, 2)},
            r"the module does not take rows of the shape \[1, 3, 2\]",
        ),
        (lambda: nn.Linear(6, 4), {"n_classes": 5}, r"= \[4, 5\], got float32\[4, 4\]; give n_classes"),
        (WithTask, {}, r"TypeError: .* missing 1 required positional argument: 'task'.*forward=lambda module, x"),
        (Dictionary, {}, r"must return logits \[n, n_classes\], got .*float32.*forward=lambda module, x: module\(x\).logits"),
        (
            lambda: nn.Embedding(5, 4),
            {},
            r"^input_dtype: .*float32: RuntimeError: Expected tensor for argument #1 'indices'.* Give input_dtype=torch.int64\.",
        ),
        (
            lambda: Indexed(4, 9),
            {},
            r"^input_dtype: .*torch.float32: IndexError: tensors used as indices.* Give input_dtype=torch.int64\.",
        ),
    ],
)
@pytest.mark.parametrize("gpu", [False, True])
def test_a_module_that_does_not_fit_its_input_shape_is_refused_at_once(factory, given, match, gpu, monkeypatch):
    """Not in the first step of a run; only a warning if the module does not run here, and there is a GPU which it may need."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: gpu)
    fits = "must return" in match or "give n_classes" in match
    context = pytest.warns(UserWarning, match=match) if gpu and not fits else pytest.raises(ValueError, match=match)
    with context:
        from_module(factory, **{"n_classes": 4, "input_shape": (6,), **given})
    from_module(factory, **{"n_classes": 4, **given, "input_shape": None})  # what it takes is not known


def test_a_model_is_shown_by_what_made_it():
    tokens = from_module(
        lambda: nn.Sequential(nn.Embedding(5, 3), nn.Flatten()), n_classes=18, input_shape=(6,), input_dtype=torch.int64
    )
    assert repr(tokens) == "Model(module, input_shape=(6,), n_classes=18, input_dtype=torch.int64)"
    net = mlp(6, hidden=(5,), n_classes=4)
    assert repr(net) == tree.describe(net) == "Model(mlp, input_shape=(6,), n_classes=4)"

    def own(params, buffers, x, *, train=False, valid=None, task=None):
        return x, buffers

    assert repr(Model(net.init, own, 4)).endswith("<locals>.own, n_classes=4)")
