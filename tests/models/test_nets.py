"""The ready-made nets give what torch's own layers give with the same weights: MLPs of every kind, ResNet-18, the transformer."""

from __future__ import annotations

import pickle

import pytest
import registry
import torch
import torch.nn.functional as F
from torch import nn

import cl_func as cl
from cl_func import testing
from cl_func.models import CosineLinear, mlp, resnet18, vit


def gaussian(*shape, seed=0):
    return cl.random.normal(cl.key(seed), shape)


class Concatenated(nn.Module):
    def forward(self, z):
        return torch.cat([F.relu(z), F.relu(-z)], 1)


LAYERS = {
    "relu": nn.ReLU,
    "crelu": Concatenated,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}
NORMS = {"layer": nn.LayerNorm, "batch": nn.BatchNorm1d}


def sequential(activation, norm, dropout, cosine=False):
    layers, inputs = [], 6
    for i, width in enumerate((5, 3)):
        bare = cosine and i == 1
        layers += [nn.Linear(inputs, width), *([NORMS[norm](width)] if norm else [])]
        layers += [nn.Identity() if bare else LAYERS[activation](), *([nn.Dropout(dropout)] if dropout else [])]
        inputs = width * (2 if activation == "crelu" and not bare else 1)
    return nn.Sequential(*layers, CosineLinear(inputs, 4) if cosine else nn.Linear(inputs, 4))


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize("norm", [None, "layer", "batch"])
@pytest.mark.parametrize("activation", LAYERS)
def test_an_mlp_is_nn_sequential(activation, norm, dropout, cosine):
    """Names, initial weights and outputs, in eval mode and (but for the draws of dropout) in train mode; and its features."""
    head = "cosine" if cosine else "linear"
    model = mlp(6, (5, 3), 4, activation=activation, norm=norm, dropout=dropout, head=head)
    net = model.init(cl.key(2))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(cl.key(2)))
        plain = sequential(activation, norm, dropout, cosine)
    assert cl.tree.equal(net.params, {name: p.detach() for name, p in plain.named_parameters()})
    assert {name for name in net.buffers if not name.endswith(".key")} == {name for name, _ in plain.named_buffers()}
    assert sum(name.endswith(".key") for name in net.buffers) == (2 if dropout else 0)
    x = gaussian(7, 2, 3)
    torch.testing.assert_close(model.apply(net.params, net.buffers, x)[0], plain.eval()(x.flatten(1)))
    torch.testing.assert_close(model.features(net.params, net.buffers, x), plain[:-1](x.flatten(1)))
    logits, moved = model.apply(net.params, net.buffers, x, train=True)
    if not dropout:
        torch.testing.assert_close(logits, plain.train()(x.flatten(1)), rtol=1e-5, atol=1e-5)
        norms = {name: value for name, value in moved.items() if not name.endswith(".key")}
        assert cl.tree.difference(norms, dict(plain.named_buffers()), rtol=1e-6, atol=1e-6) is None
    else:
        assert all(not torch.equal(moved[name], net.buffers[name]) for name in moved if name.endswith(".key"))
        assert not torch.equal(logits, model.apply(net.params, moved, x, train=True)[0])


def test_crelu_by_hand():
    model = mlp(1, (2,), 1, activation="crelu")
    params = {
        "0.weight": torch.tensor([[1.0], [-2.0]]),
        "0.bias": torch.tensor([0.0, 1.0]),
        "2.weight": torch.tensor([[1.0, 10.0, 100.0, 1000.0]]),
        "2.bias": torch.tensor([0.5]),
    }
    # z = (3, -5): relu(z) = (3, 0), relu(-z) = (0, 5)
    assert model.apply(params, {}, torch.tensor([[3.0]]))[0].item() == 3 + 5000 + 0.5


def test_dropout_of_an_mlp_has_its_rate_and_keeps_the_mean():
    model = mlp(1, (4000,), 1, activation="identity", dropout=0.25)
    net = model.init(cl.key(0))
    params = {**net.params, "0.weight": torch.zeros(4000, 1), "0.bias": torch.ones(4000), "3.weight": torch.ones(1, 4000) / 4000}
    params["3.bias"] = torch.zeros(1)
    logits, _ = model.apply(params, net.buffers, torch.ones(20, 1), train=True)
    assert abs(float(logits.mean()) - 1) < 0.01
    assert float(logits.std()) > 0


# --- ResNet-18


def plain_resnet(net, x, stem):
    """Written from the paper with torch's functions alone, in train mode; the tensors by torchvision's names."""
    w = net.params

    def norm(name, h):
        return F.batch_norm(h, None, None, w[f"{name}.weight"], w[f"{name}.bias"], training=True)

    h = F.conv2d(x, w["conv1.weight"], stride=2 if stem == "imagenet" else 1, padding=3 if stem == "imagenet" else 1)
    h = F.relu(norm("bn1", h))
    if stem == "imagenet":
        h = F.max_pool2d(h, 3, 2, 1)
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            inner = F.relu(norm(f"{name}.bn1", F.conv2d(h, w[f"{name}.conv1.weight"], stride=stride, padding=1)))
            inner = norm(f"{name}.bn2", F.conv2d(inner, w[f"{name}.conv2.weight"], padding=1))
            if stride == 2:
                h = norm(f"{name}.downsample.1", F.conv2d(h, w[f"{name}.downsample.0.weight"], stride=2))
            h = F.relu(inner + h)
    return F.linear(F.adaptive_avg_pool2d(h, 1).flatten(1), w["fc.weight"], w["fc.bias"])


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_resnet18_is_the_papers(stem):
    model = resnet18(5, stem=stem, width=4, input_shape=(3, 40, 40))
    net = cl.tree.map(lambda t: t.double() if t.is_floating_point() else t, model.init(cl.key(0)))
    x = cl.random.normal(cl.key(1), (6, 3, 40, 40), torch.float64)
    logits, _ = model.apply(net.params, net.buffers, x, train=True)
    torch.testing.assert_close(logits, plain_resnet(net, x, stem))
    h = model.features(net.params, net.buffers, x)
    assert h.shape == (6, 32)
    want = model.apply(net.params, net.buffers, x)[0]
    torch.testing.assert_close(F.linear(h, net.params["fc.weight"], net.params["fc.bias"]), want)
    torch.testing.assert_close(model.apply(net.params, net.buffers, x.flatten(1))[0], want)


@pytest.mark.parametrize(("stem", "n_classes", "count"), [("imagenet", 1000, 11_689_512), ("cifar", 10, 11_173_962)])
def test_resnet18_has_the_known_number_of_parameters(stem, n_classes, count):
    """Those of torchvision's, and of the CIFAR variant in common use."""
    params = resnet18(n_classes, stem=stem, input_shape=(3, 32, 32)).init(cl.key(0)).params
    assert sum(p.numel() for p in params.values()) == count


# --- the transformer


@pytest.mark.parametrize("depth", [1, 3])
def test_the_transformer_is_torchs(depth):
    model = vit(8, 4, n_classes=5, channels=2, width=12, depth=depth, heads=3, mlp_width=20)
    net = model.init(cl.key(0))
    net = net.replace(params=cl.tree.map(lambda p: p + 0.1 * gaussian(*p.shape, seed=3), net.params))  # biases are 0 at first
    layer = nn.TransformerEncoderLayer(
        12, 3, 20, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, layer_norm_eps=1e-6
    )
    encoder = nn.TransformerEncoder(layer, depth, norm=nn.LayerNorm(12, eps=1e-6), enable_nested_tensor=False)
    names = {"self_attn.in_proj_": "qkv.", "self_attn.out_proj.": "out."}
    weights = {}
    for name in encoder.state_dict():
        ours = name.replace("layers.", "blocks.")
        for theirs, mine in names.items():
            ours = ours.replace(theirs, mine)
        weights[name] = net.params[ours]
    encoder.load_state_dict(weights)
    x = gaussian(3, 2, 8, 8)
    # The patches by a convolution of stride 4, as in the paper's own code.
    kernel = net.params["patches.weight"].reshape(12, 2, 4, 4)
    patches = F.conv2d(x, kernel, net.params["patches.bias"], stride=4).flatten(2).transpose(1, 2)
    z = torch.cat([net.params["token"].expand(3, 1, 12), patches], 1) + net.params["positions"]
    token = encoder.train()(z)[:, 0]
    want = F.linear(token, net.params["head.weight"], net.params["head.bias"])
    for train in (True, False):
        torch.testing.assert_close(model.apply(net.params, net.buffers, x, train=train)[0], want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.features(net.params, net.buffers, x), token, rtol=1e-4, atol=1e-5)
    assert all(name.endswith(".key") for name in net.buffers)


@pytest.mark.parametrize("model", [registry.STACK, registry.VIT], ids=["mlp", "vit"])
def test_a_step_vmapped_and_compiled_is_the_single_one(model):
    """The lanes of a compiled step are the steps of single runs in eager mode; the same for a model that was pickled."""
    again = pickle.loads(pickle.dumps(model))
    step = cl.train_step(cl.losses.cross_entropy(model), registry.SGD)
    nets = [again.init(cl.key(seed)) for seed in (0, 1)]
    states = [cl.Agent(key=cl.key(0), model=net, opt=registry.SGD.init(net.params)) for net in nets]
    lanes = cl.compile(cl.vmap(step))(cl.tree.stack(states), registry.BENCH.train[0])
    for lane, state in zip(cl.tree.unstack(lanes), states, strict=True):
        single = cl.train_step(cl.losses.cross_entropy(again), registry.SGD)(state, registry.BENCH.train[0])
        assert cl.tree.difference(lane, single, rtol=testing.laws.RTOL, atol=testing.laws.ATOL) is None


@pytest.mark.parametrize(
    "model", [resnet18(4, width=2, input_shape=(1, 2, 3)), mlp(6, (5,), 4, norm="batch")], ids=["resnet", "mlp"]
)
def test_they_are_trained_by_a_strategy(model):
    strategy = cl.strategies.er(model, registry.SGD, capacity=6, replay_size=4, batch_size=5)
    back = pickle.loads(pickle.dumps(strategy))
    ends = [cl.fold(some.update, some.init(cl.key(0)), registry.BENCH.train) for some in (strategy, back)]
    assert cl.tree.equal(*ends)
    assert all(bool(leaf.isfinite().all()) for leaf in cl.tree.leaves(ends[0]))


ERRORS = [
    (lambda: mlp(6, activation="swish"), ValueError, "activation: expected 'relu', 'crelu', .* or 'identity', got 'swish'"),
    (lambda: mlp(6, norm="group"), ValueError, "norm: expected 'layer', 'batch' or None, got 'group'"),
    (lambda: mlp(6, dropout=1.0), ValueError, r"dropout: expected a finite number in \[0, 1\), got 1"),
    (lambda: resnet18(stem="small"), ValueError, "stem: expected 'cifar' or 'imagenet', got 'small'"),
    (lambda: resnet18(0), ValueError, "n_classes: .* got 0"),
    (lambda: resnet18(width=0), ValueError, "width: .* got 0"),
    (lambda: resnet18(input_shape=(32, 32)), ValueError, r"input_shape: expected \(channels, height, width\)"),
    (lambda: vit(32, 5), ValueError, "patch: it must divide image_size = 32, got 5"),
    (lambda: vit(width=64, heads=3), ValueError, "heads: it must divide width = 64, got 3"),
    (lambda: vit(dropout=1), ValueError, "dropout: "),
]


@pytest.mark.parametrize(("make", "error", "message"), ERRORS)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_inputs_of_another_size_are_refused():
    model = mlp(6, (5,), 4, norm="layer")
    net = model.init(cl.key(0))
    with pytest.raises(ValueError, match=r"x: expected \[n, ...\] with n_features = 6 values per row, got float32\[3, 5\]"):
        model.apply(net.params, net.buffers, gaussian(3, 5))
    model = vit(8, 4, n_classes=4, width=8, depth=1, heads=2)
    net = model.init(cl.key(0))
    with pytest.raises(ValueError, match=r"x: expected images \[n, 3, 8, 8\] or \[n, 192\], got float32\[2, 3, 12, 12\]"):
        model.apply(net.params, net.buffers, gaussian(2, 3, 12, 12))
