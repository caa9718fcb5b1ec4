"""What a module draws is drawn from a key: known layers are replaced, the user's own by `replace`, and anything else is refused."""

from __future__ import annotations

import math
import pickle
import random as python_random
import sys

import numpy as np
import pytest
import registry
import torch
import torch.nn.functional as F
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import cl_func as cl
from cl_func import testing
from cl_func.models import AlphaDropout, Dropout, DropPath, KeyedLayer, RReLU, from_module

EXP = registry.BENCH.train[0]


class StochasticDepth(nn.Module):
    """As torchvision's, which is not installed."""

    def __init__(self, p, mode):
        super().__init__()
        self.p, self.mode = p, mode

    def forward(self, x):
        if not self.training or self.p == 0:
            return x
        keep = torch.empty([x.shape[0] if self.mode == "row" else 1, *[1] * (x.ndim - 1)]).bernoulli_(1 - self.p)
        return x * keep / (1 - self.p)


class TimmDropPath(nn.Module):
    """As timm's, which is not installed."""

    def __init__(self, drop_prob=0.0, scale_by_keep=True):
        super().__init__()
        self.drop_prob, self.scale_by_keep = drop_prob, scale_by_keep

    def forward(self, x):
        if not self.training or not self.drop_prob:
            return x
        keep = x.new_empty((x.shape[0], *[1] * (x.ndim - 1))).bernoulli_(1 - self.drop_prob)
        return x * (keep.div_(1 - self.drop_prob) if self.scale_by_keep else keep)


class TimmBatchNormAct(nn.BatchNorm2d):
    """As timm's, which is not installed."""

    def __init__(self, features):
        super().__init__(features)
        self.drop, self.act = nn.Dropout(0.2), nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


TimmBatchNormAct.__module__, TimmBatchNormAct.__qualname__ = "timm.layers.norm_act", "BatchNormAct2d"
StochasticDepth.__module__ = "torchvision.ops.stochastic_depth"
TimmDropPath.__module__, TimmDropPath.__qualname__ = "timm.layers.drop", "DropPath"


class Drawing(nn.Module):
    """A layer that draws on its own."""

    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def forward(self, x):
        return self.draw(self, x)


def attention(p):
    def draw(layer, x):
        q = x[:, None, None]
        return F.scaled_dot_product_attention(q, q, q, dropout_p=p)[:, 0, 0]

    return draw


TRAINING, EVALUATION = "training", "evaluation"
TORCH, OWN, NUMPY, PYTHON = "torch's generator", "a torch.Generator", "numpy's generator", "Python's generator"
HIDDEN = {
    "F.dropout": (lambda s, x: F.dropout(x, 0.5, s.training), TORCH, TRAINING),
    "F.dropout that forgets the mode": (lambda s, x: x if s.training else F.dropout(x, 0.5), TORCH, EVALUATION),
    "F.alpha_dropout": (lambda s, x: F.alpha_dropout(x, 0.5, s.training), TORCH, TRAINING),
    "F.rrelu": (lambda s, x: F.rrelu(x, training=s.training), TORCH, TRAINING),
    "attention dropout": (lambda s, x: attention(0.5 if s.training else 0.0)(s, x), TORCH, TRAINING),
    "noise": (lambda s, x: x + torch.randn_like(x) if s.training else x, TORCH, TRAINING),
    "in place": (lambda s, x: x * torch.empty(len(x), 1).bernoulli_(0.9) if s.training else x, TORCH, TRAINING),
    "layer drop": (lambda s, x: x * 0 if s.training and torch.rand(()).item() < 0.1 else x, TORCH, TRAINING),
    "an order": (lambda s, x: x[:, torch.randperm(6)] if s.training else x, TORCH, TRAINING),
    "gumbel": (lambda s, x: F.gumbel_softmax(x), TORCH, TRAINING),
    "distributions": (lambda s, x: torch.distributions.Normal(x, 1.0).rsample(), TORCH, TRAINING),
    "a generator of its own": (lambda s, x: x + torch.rand((), generator=GENERATOR), OWN, TRAINING),
    "numpy": (lambda s, x: x * np.random.rand(), NUMPY, TRAINING),
    "numpy's second normal": (lambda s, x: x * np.random.randn(), NUMPY, TRAINING),
    "Python": (lambda s, x: x * 0 if s.training and python_random.random() < 0.1 else x, PYTHON, TRAINING),
}
GENERATOR = torch.Generator()
each_hidden = pytest.mark.parametrize("name", HIDDEN)


def hiding(name, **more):
    def factory():
        return nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.Identity(), Drawing(HIDDEN[name][0])), nn.Linear(6, 4))

    return from_module(factory, n_classes=4, **more)


def message(name):
    _, generator, mode = HIDDEN[name]
    return rf"factory: layer '1.1' \(Drawing\) draws from {generator} in {mode}.*KeyedLayer.*replace=\{{Drawing: "


@pytest.fixture(autouse=True)
def generators_stay():
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)


# Anything else is refused


@each_hidden
def test_a_hidden_draw_is_refused_when_the_model_is_made(name):
    with pytest.raises(ValueError, match=message(name)):
        hiding(name, input_shape=(6,))


@each_hidden
@pytest.mark.parametrize("how", ["eager", "evaluated", "vmapped", "traced", "compiled"])
def test_a_hidden_draw_is_refused_at_the_first_pass(name, how):
    """Where the shape of the input was not known before."""
    model = hiding(name)
    net = model.init(cl.key(0))
    agent = cl.Agent(key=cl.key(0), model=net, opt=registry.SGD.init(net.params))
    step = cl.train_step(cl.losses.cross_entropy(model), registry.SGD)
    calls = {
        "eager": lambda: step(agent, EXP),
        "evaluated": lambda: cl.evaluate(model, registry.BENCH.test)(agent),
        "vmapped": lambda: cl.vmap(step)(cl.tree.stack([agent, agent]), EXP),
        "traced": lambda: make_fx(lambda x: model.apply(net.params, net.buffers, x, train=True)[0])(EXP.x),
        "compiled": lambda: cl.compile(step)(agent, EXP),
    }
    with pytest.raises(ValueError, match=message(name)):
        calls[how]()


def test_the_innermost_layer_is_named_and_the_module_itself():
    with pytest.raises(ValueError, match=r"layer 'the module itself' \(Drawing\) draws from torch's generator"):
        from_module(lambda: Drawing(HIDDEN["noise"][0]), n_classes=4, input_shape=(4,))


@pytest.mark.parametrize("draw", [lambda s, x: F.dropout(x, 0.0), attention(0.0), lambda s, x: F.dropout(x, 0.5, False)])
def test_what_could_draw_and_does_not_is_fine(draw):
    from_module(lambda: nn.Sequential(Drawing(draw), nn.Linear(6, 4)), n_classes=4, input_shape=(6,))


class Groups(nn.Module):
    """Takes a multiple of 8 rows alone."""

    def __init__(self, hidden):
        super().__init__()
        self.hidden, self.last = hidden, nn.Linear(6, 4)

    def forward(self, x):
        h = x.reshape(-1, 8, 6)
        return self.last(F.dropout(h - h.mean(1, keepdim=True), 0.5, self.training and self.hidden).reshape(-1, 6))


@pytest.mark.parametrize("traced", [False, True])
def test_a_module_that_needs_more_rows_is_tried_on_its_first(traced):
    x = cl.random.normal(cl.key(0), (16, 6))

    def trained(hidden):
        model = from_module(lambda: Groups(hidden), n_classes=4, input_shape=(6,))
        net = model.init(cl.key(0))
        function = lambda x: model.apply(net.params, net.buffers, x, train=True)[0]  # noqa: E731
        return (make_fx(function)(x) if traced else function)(x)

    with pytest.raises(ValueError, match=r"'the module itself' \(Groups\) draws from torch's generator in training"):
        trained(True)
    assert trained(False).shape == (16, 4)


def test_a_module_that_takes_whole_numbers_is_tried():
    def factory(p):
        return nn.Sequential(Drawing(lambda s, x: x.long()), nn.Embedding(5, 3), nn.Flatten(), Drawing(p), nn.Linear(18, 4))

    with pytest.raises(ValueError, match=r"layer '3' \(Drawing\) draws from torch's generator"):
        from_module(lambda: factory(HIDDEN["noise"][0]), n_classes=4, input_shape=(6,))
    from_module(lambda: factory(lambda s, x: x), n_classes=4, input_shape=(6,))


def test_the_module_is_tried_once():
    built = []

    def factory():
        built.append(1)
        return nn.Linear(6, 4)

    model = from_module(factory, n_classes=4, input_shape=(6,))
    known = from_module(lambda: factory(), n_classes=4)
    net = model.init(cl.key(0))
    count = len(built)
    model.apply(net.params, net.buffers, EXP.x, train=True)
    assert len(built) == count
    for _ in range(3):
        known.apply(net.params, net.buffers, EXP.x, train=True)
    assert len(built) == count + 1


def test_other_generators_stay():
    """And a wrong first input is no trial: the next one is."""
    numpy, python = np.random.get_state()[1].copy(), python_random.getstate()
    model = hiding("noise")
    net = model.init(cl.key(0))
    with pytest.raises(ValueError, match="x: the module cannot take"):
        model.apply(net.params, net.buffers, EXP.x[:, :5], train=True)
    with pytest.raises(ValueError, match=message("noise")):
        model.apply(net.params, net.buffers, EXP.x, train=True)
    assert (np.random.get_state()[1] == numpy).all()
    assert python_random.getstate() == python


@pytest.mark.parametrize("draw", [lambda: torch.from_numpy(np.random.rand(4)).float(), lambda: torch.rand(4, generator=GENERATOR)])
def test_weights_that_are_not_from_the_key_are_refused(draw):
    def factory():
        layer = nn.Linear(6, 4)
        layer.bias = nn.Parameter(draw())
        return layer

    with pytest.raises(ValueError, match=r"factory: two calls from one seed gave two values of 'bias'"):
        from_module(factory, n_classes=4)


# Known kinds are replaced


def keyed(layer, shape=(6,)):
    """The model of one layer on rows of a shape, and its outputs in that shape."""
    size = math.prod(shape)
    model = from_module(lambda: nn.Sequential(nn.Unflatten(1, shape), layer(), nn.Flatten()), n_classes=size)
    net = model.init(cl.key(3))

    def apply(x, train=True):
        return model.apply(net.params, net.buffers, x.reshape(len(x), -1), train=train)[0].reshape(x.shape)

    return model, apply


KNOWN = {
    "StochasticDepth row": (lambda: StochasticDepth(0.3, "row"), DropPath),
    "StochasticDepth batch": (lambda: StochasticDepth(0.3, "batch"), DropPath),
    "timm": (lambda: TimmDropPath(0.3), DropPath),
    "timm unscaled": (lambda: TimmDropPath(0.3, scale_by_keep=False), DropPath),
    "nn.Dropout": (lambda: nn.Dropout(0.3), Dropout),
    "nn.Dropout2d": (lambda: nn.Dropout2d(0.3), Dropout),
    "nn.AlphaDropout": (lambda: nn.AlphaDropout(0.3), AlphaDropout),
    "nn.FeatureAlphaDropout": (lambda: nn.FeatureAlphaDropout(0.3), AlphaDropout),
    "nn.RReLU": (lambda: nn.RReLU(0.1, 0.4), RReLU),
}
each_known = pytest.mark.parametrize("name", KNOWN)


@each_known
def test_a_replaced_layer_has_the_distribution_of_the_original(name):
    """On equal rows: the same values as often, together at the same positions, the same moments; the identity in evaluation."""
    layer, kind = KNOWN[name]
    x = torch.tensor([1.5, -0.5, -2.0]).reshape(1, 3, 1, 1).expand(4000, 3, 2, 2).contiguous()
    if "batch" in name:
        x = x[:8]
    model, apply = keyed(layer, (3, 2, 2))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = torch.cat([layer()(x) for _ in range(1000 if len(x) == 8 else 1)])
    if len(x) == 8:
        keys = cl.random.split(cl.key(1), 1000)
        ours = torch.cat([model.apply({}, {"1.key": k}, x.flatten(1), train=True)[0].reshape(x.shape) for k in keys])
    else:
        ours = apply(x)
    assert torch.equal(apply(x, train=False), layer().eval()(x))
    for channel in range(3):
        a, b = ours[:, channel], theirs[:, channel]
        assert abs(float(a.mean() - b.mean())) < 0.06
        assert abs(float(a.std() - b.std())) < 0.06
        if kind is not RReLU:
            torch.testing.assert_close(a.unique(), b.unique())
        else:
            assert float(a.min()) == pytest.approx(float(b.min()), abs=2e-2)
            assert float(a.max()) == pytest.approx(float(b.max()), abs=2e-2)

    def alike(values):  # how often a position has the value of its neighbour in the row, and of the row after it
        near, next_row = values[:, :, 0, 0] == values[:, :, 1, 1], values[:-1] == values[1:]
        return torch.stack([near.float().mean(), next_row.float().mean(), (values[:, 0] == values[:, 1] * -3).float().mean()])

    assert (alike(ours) - alike(theirs)).abs().max() < 0.04


@pytest.mark.parametrize("p", [0, 1])
@pytest.mark.parametrize(
    "make",
    [
        lambda p: StochasticDepth(p, "row"),
        lambda p: StochasticDepth(p, "batch"),
        TimmDropPath,
        nn.Dropout,
        nn.Dropout2d,
        nn.AlphaDropout,
        nn.FeatureAlphaDropout,
    ],
)
def test_nothing_or_all_is_dropped(make, p):
    x = cl.random.normal(cl.key(0), (5, 3, 2, 2))
    assert torch.equal(keyed(lambda: make(p), (3, 2, 2))[1](x), x if p == 0 else torch.zeros_like(x))


def known_net():
    return nn.Sequential(
        nn.Linear(6, 8),
        TimmDropPath(0.2),
        nn.RReLU(),
        StochasticDepth(0.2, "row"),
        nn.AlphaDropout(0.2),
        nn.Unflatten(1, (4, 2)),
        nn.FeatureAlphaDropout(0.2),
        nn.Flatten(),
        StochasticDepth(0.2, "batch"),
        nn.Linear(8, 4),
    )


def test_the_laws_hold_with_all_known_kinds():
    """Lanes, padding, resumed, and torch's generator untouched."""
    model = from_module(known_net, n_classes=4, input_shape=(6,), last_layer="9")
    assert sum(name.endswith("key") for name in model.init(cl.key(0)).buffers) == 6
    testing.check_strategy(cl.strategies.er(model, registry.SGD, capacity=6, replay_size=4, batch_size=5), registry.BENCH)


def test_compiled_equals_eager_with_all_known_kinds():
    model = from_module(known_net, n_classes=4, input_shape=(6,))
    few, net = EXP.take(EXP.rows[:3], EXP.valid[:3]), model.init(cl.key(0))

    def forward(net, exp):
        return model.apply(net.params, net.buffers, exp.x, train=True)

    testing.assert_equal(cl.compile(forward)(net, few), forward(net, few), "compiled", testing.laws.RTOL, testing.laws.ATOL)


def timm_norm_net():
    return nn.Sequential(nn.Unflatten(1, (2, 3, 1)), TimmBatchNormAct(2), nn.Flatten(), nn.Linear(6, 4))


def test_timms_batch_norm_with_an_activation_is_replaced():
    model = from_module(timm_norm_net, n_classes=4, input_shape=(6,))
    net = model.init(cl.key(0))
    with torch.random.fork_rng(devices=[]):
        plain = timm_norm_net()
    assert set(plain.state_dict()) | {"1.drop.key"} == set(net.params) | set(net.buffers)
    plain.load_state_dict({name: value for name, value in (net.params | net.buffers).items() if name != "1.drop.key"})
    plain[1].drop.p = 0.0
    plain.train()(EXP.x)
    _, moved = model.apply(net.params, net.buffers, EXP.x, train=True)
    assert not torch.equal(moved["1.drop.key"], net.buffers["1.drop.key"])
    statistics = {name: value for name, value in moved.items() if name != "1.drop.key"}
    assert cl.tree.difference(statistics, dict(plain.named_buffers()), rtol=1e-6, atol=1e-6) is None
    torch.testing.assert_close(model.apply(net.params, moved, EXP.x)[0], plain.eval()(EXP.x))
    testing.check_strategy(cl.strategies.naive(model, registry.SGD, batch_size=5), registry.BENCH)


# The user's own kinds


class Noisy(nn.Module):
    def __init__(self, std):
        super().__init__()
        self.std = std

    def forward(self, x):
        return x + self.std * torch.randn_like(x) if self.training else x


class KeyedNoise(KeyedLayer):
    def __init__(self, std):
        super().__init__()
        self.std = std

    def forward(self, x):
        return x + self.std * cl.random.normal(self.draw_key(), tuple(x.shape)) if self.training else x


def of_noise(layer):
    return KeyedNoise(layer.std)


def noisy_net():
    return nn.Sequential(nn.Linear(6, 8), Noisy(0.5), nn.ReLU(), nn.ModuleDict({"a": Noisy(2.0)})["a"], nn.Linear(8, 4))


def test_replace_puts_layers_in_the_place_of_the_users():
    with pytest.raises(ValueError, match=r"layer '1' \(Noisy\) draws.*replace=\{Noisy: "):
        from_module(noisy_net, n_classes=4, input_shape=(6,))
    model = from_module(noisy_net, n_classes=4, input_shape=(6,), replace={Noisy: of_noise})
    testing.check_strategy(cl.strategies.naive(model, registry.SGD, batch_size=5, epochs=2), registry.BENCH)
    again = pickle.loads(pickle.dumps(model))
    net = model.init(cl.key(0))
    assert sorted(net.buffers) == ["1.key", "3.key"]
    for train in (True, False):
        assert cl.tree.equal(*(m.apply(net.params, net.buffers, EXP.x, train=train) for m in (model, again)))


@pytest.mark.parametrize("name", ["known", "replaced"])
def test_two_equal_sweeps_are_equal(name):
    runs = []
    for _ in range(2):
        model = (
            from_module(known_net, n_classes=4, input_shape=(6,))
            if name == "known"
            else from_module(noisy_net, n_classes=4, input_shape=(6,), replace={Noisy: of_noise})
        )
        strategy = cl.strategies.naive(model, registry.SGD, batch_size=5, epochs=2)
        runs.append(cl.sweep(strategy, registry.BENCH, seeds=3, lanes=3, compile=False, progress=False))
    assert bool(runs[0].history["loss"].isfinite().all())
    for name, values in runs[0].history.items():
        assert torch.equal(values.nan_to_num(), runs[1].history[name].nan_to_num()), name


def test_replace_comes_first_and_what_it_gives_is_taken_as_it_is():
    """So a kind that would be refused can be replaced, and a layer can be wrapped; but what draws is still found."""
    without = {nn.Dropout: lambda layer: nn.Identity()}
    plain = from_module(lambda: nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5)), n_classes=4, replace=without)
    assert plain.init(cl.key(0)).buffers == {}
    wrapped = {Noisy: lambda layer: nn.Sequential(nn.Identity(), layer)}
    with pytest.raises(ValueError, match=r"layer '1.1' \(Noisy\) draws"):
        from_module(noisy_net, n_classes=4, input_shape=(6,), replace=wrapped)


@pytest.mark.parametrize(
    ("replace", "error", "match"),
    [
        ([Noisy], TypeError, r"replace: expected a dict from types of modules to functions"),
        ({"Noisy": of_noise}, TypeError, r"replace: expected a dict from types"),
        ({Noisy: KeyedNoise(1.0)}, TypeError, r"replace: expected a dict from types"),
        ({Noisy: lambda layer: layer.std}, TypeError, r"replace: expected the function of Noisy to give a module, got 0.5"),
    ],
)
def test_replace_is_checked(replace, error, match):
    with pytest.raises(error, match=match):
        from_module(noisy_net, n_classes=4, replace=replace)


def test_the_libraries_are_not_needed():
    assert not {"torchvision", "timm"} & {name.partition(".")[0] for name in sys.modules}


class Clamps(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        self.layer.weight.data.clamp_(-0.1, 0.1)
        return self.layer(x)


def test_a_module_that_writes_into_its_parameters_is_refused():
    """They belong to the caller: evaluation would change them, and lanes differ from single runs."""
    with pytest.raises(ValueError, match=r"writes into its parameter 'layer\.weight' in its forward pass"):
        cl.models.from_module(Clamps, n_classes=3, input_shape=(4,))
    model = cl.models.from_module(Clamps, n_classes=3)
    net = model.init(cl.key(0))
    with pytest.raises(ValueError, match=r"writes into its parameter 'layer\.weight'"):
        model.apply(net.params, net.buffers, torch.ones(2, 4))


@pytest.mark.parametrize("layer", [nn.Embedding, nn.EmbeddingBag])
def test_an_embedding_that_scales_its_weights_is_refused(layer):
    def build():
        return nn.Sequential(layer(9, 6, max_norm=0.5), nn.Flatten(), nn.Linear(6, 3))

    with pytest.raises(
        ValueError, match=r"layer '0' \(Embedding.*\) scales its own weights in place at each pass; set max_norm=None"
    ):
        cl.models.from_module(build, n_classes=3, input_shape=(1,), input_dtype=torch.int64)
