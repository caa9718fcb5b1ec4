"""Hidden activations by layer: those of the net written by hand, for modules and functions, vmapped and compiled."""

from __future__ import annotations

import pytest
import registry
import torch
import torch.nn.functional as F
from torch import nn

import cl_func as cl
from cl_func import testing
from cl_func.models import activations, cnn, from_module, mlp

EXP = registry.BENCH.train[0]


def images(n=5, shape=(1, 8, 8)):
    return cl.experiences.experience(cl.Dataset(cl.random.normal(cl.key(1), (n, *shape)), torch.arange(n) % 4, n_classes=4))


@pytest.mark.parametrize("activation", ["relu", "crelu", "tanh", "gelu"])
@pytest.mark.parametrize("norm", [None, "layer"])
def test_those_of_an_mlp(activation, norm):
    model = mlp(6, (5, 3), 4, activation=activation, norm=norm, dropout=0.3 if norm else 0.0)
    net = model.init(cl.key(0))
    w, step = net.params, 4 if norm else 2
    act = {"relu": F.relu, "crelu": lambda z: torch.cat([F.relu(z), F.relu(-z)], 1), "tanh": torch.tanh, "gelu": F.gelu}[activation]
    h, want = EXP.x, {}
    for i, width in enumerate((5, 3)):
        z = F.linear(h, w[f"{step * i}.weight"], w[f"{step * i}.bias"])
        if norm:
            z = F.layer_norm(z, (width,), w[f"{step * i + 1}.weight"], w[f"{step * i + 1}.bias"])
        want[str(step * i)] = h = act(z)
    found = activations(model, net, EXP)
    assert list(found) == list(want)
    assert cl.tree.difference(found, want, rtol=1e-5, atol=1e-6) is None


def test_those_of_a_convolution_are_means_over_positions():
    model, exp = cnn((1, 8, 8), channels=(3,), hidden=5, n_classes=4), images()
    net = model.init(cl.key(0))
    first = F.relu(F.conv2d(exp.x, net.params["convs.0.weight"], net.params["convs.0.bias"], padding=1))
    found = activations(model, net, exp)
    assert {name: tuple(h.shape) for name, h in found.items()} == {"convs.0": (5, 3), "hidden": (5, 5)}
    torch.testing.assert_close(found["convs.0"], first.mean((2, 3)))


class Mixed(nn.Module):
    """Channels last after a convolution, tokens, an activation twice, in place, of a computed weight, and one that writes later."""

    def __init__(self):
        super().__init__()
        self.conv, self.tokens, self.act = nn.Conv2d(1, 3, 4, stride=4), nn.Linear(3, 7), nn.ReLU(inplace=True)
        self.base, self.last = nn.Parameter(torch.randn(7, 7)), nn.Linear(7, 4)

    def forward(self, x):
        h = self.act(self.conv(x))
        h = F.silu(self.tokens(h.permute(0, 2, 3, 1)))  # [n, 2, 2, 7]
        h = torch.sigmoid(h).mean((1, 2))
        h = h @ self.base
        h = F.linear(h, self.base + 1).tanh()
        h.mul_(0)
        return self.last(h)


def test_layers_are_named_by_their_weights_and_units_are_found_on_their_axis():
    model, exp = from_module(Mixed, n_classes=4), images()
    net = model.init(cl.key(0))
    w = net.params
    found = activations(model, net, exp)
    conv = F.relu(F.conv2d(exp.x, w["conv.weight"], w["conv.bias"], stride=4))
    tokens = F.silu(F.linear(conv.permute(0, 2, 3, 1), w["tokens.weight"], w["tokens.bias"]))
    gates = torch.sigmoid(tokens)
    tanh = torch.tanh(F.linear(gates.mean((1, 2)) @ w["base"], w["base"] + 1))
    want = {"conv": conv.mean((2, 3)), "tokens": tokens.mean((1, 2)), "tokens:2": gates.mean((1, 2)), "tanh": tanh}
    assert list(found) == list(want)
    assert cl.tree.difference(found, want, rtol=1e-5, atol=1e-6) is None


def test_the_residual_blocks_of_a_resnet():
    model = cl.models.resnet18(4, width=2, input_shape=(1, 8, 8))
    found = activations(model, model.init(cl.key(0)), images())
    assert list(found)[:5] == ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1", "layer1.1.conv2"]
    assert len(found) == 17
    assert {tuple(h.shape) for name, h in found.items() if name.startswith("layer4")} == {(5, 16)}
    # Between the last activation and the head there is the mean over positions, and nothing else.
    net = model.init(cl.key(0))
    torch.testing.assert_close(found["layer4.1.conv2"], model.features(net.params, net.buffers, images().x))


@pytest.mark.parametrize(
    "model", [registry.STACK, registry.VIT, registry.HEADS, registry.ODD], ids=["stack", "vit", "heads", "odd"]
)
def test_lanes_compiled_and_nothing_changes(model):
    nets = [model.init(cl.key(seed)) for seed in (0, 1)]
    before = cl.tree.map(torch.clone, nets[0])
    want = [activations(model, net, EXP) for net in nets]
    assert cl.tree.equal(nets[0], before)
    assert all(len(h) == len(EXP) and h.ndim == 2 for h in want[0].values())
    lanes = torch.func.vmap(lambda net: activations(model, net, EXP))(cl.tree.stack(nets))
    assert cl.tree.difference(cl.tree.unstack(lanes), want, rtol=testing.laws.RTOL, atol=testing.laws.ATOL) is None
    if model is registry.STACK:
        compiled = cl.compile(lambda net, exp: activations(model, net, exp))(nets[0], EXP)
        testing.assert_equal(compiled, want[0], "compiled", testing.laws.RTOL, testing.laws.ATOL)


def test_a_transformer_of_torch_is_looked_into():
    """In eval mode torch would run its layers in one piece."""

    def factory():
        layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)
        return nn.Sequential(nn.Unflatten(1, (1, 6)), layer, nn.Flatten(), nn.Linear(6, 4))

    model = from_module(factory, n_classes=4)
    found = activations(model, model.init(cl.key(0)), EXP)
    assert {name: tuple(h.shape) for name, h in found.items()} == {"1.linear1": (len(EXP), 8)}


def test_errors():
    linear = mlp(6, (5,), 4, activation="identity")
    with pytest.raises(ValueError, match=r"model: it runs no activation function that is known, such as torch\.relu"):
        activations(linear, linear.init(cl.key(0)), EXP)
    merging = from_module(lambda: nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Flatten(0, 1), nn.ReLU(), nn.Linear(3, 4)), n_classes=4)
    net = merging.init(cl.key(0))
    with pytest.raises(ValueError, match=r"model: the activations after layer 'relu' are float32\[28, 3\] for 14 rows; keep rows"):
        activations(merging, net, EXP)


class Ending(nn.Module):
    """A convolution at several positions, and outputs that end in an activation, by a layer or by a product."""

    def __init__(self, product):
        super().__init__()
        self.a, self.b, self.product = nn.Conv1d(2, 3, 2), nn.Linear(3, 2, bias=False), product

    def forward(self, x):
        h = torch.tanh(self.a(x)).mean(2)
        return torch.tanh(h @ self.b.weight.T if self.product else self.b(h))


@pytest.mark.parametrize("product", [False, True])
def test_activity_is_averaged_by_size_and_outputs_are_not_hidden(product):
    model = from_module(lambda: Ending(product), n_classes=2, input_shape=(2, 6))
    x = cl.random.normal(cl.key(2), (9, 2, 6))
    exp = cl.experience(cl.Dataset(x, torch.arange(9) % 2))
    net = model.init(cl.key(0))
    h = torch.tanh(F.conv1d(x, net.params["a.weight"], net.params["a.bias"]))
    assert list(activations(model, net, exp)) == ["a"]
    torch.testing.assert_close(activations(model, net, exp)["a"], h.mean(2))
    size = h.abs().mean((0, 2))
    for tau in (0.5, 0.8, 0.95, 1.05):
        found = cl.probes.dormant_units(model, exp, threshold=tau)(cl.Agent(key=cl.key(0), model=net))
        torch.testing.assert_close(found["dormant_units"], (size <= tau * size.mean()).float().mean())
    rank = cl.probes.effective_rank(model, exp)(cl.Agent(key=cl.key(0), model=net))
    assert rank["effective_rank_by_layer"].shape == (1,)
