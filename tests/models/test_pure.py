"""Modules as pure functions: of any method, inputs and outputs (`pure`), and with adapted inputs and outputs (`from_module`)."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import pytest
import registry
import torch
import torch.nn.functional as F
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import cl_func as cl
from cl_func import memory, testing
from cl_func.models import KeyedLayer, PureModule, from_module, pure


class Noise(KeyedLayer):
    def forward(self, x):
        return cl.random.normal(self.draw_key(), tuple(x.shape)) if self.training else torch.zeros_like(x)


class VAE(nn.Module):
    """Kingma & Welling 2014, with batch norm and dropout in its encoder."""

    def __init__(self, features=6, latent=2):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(features, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.25))
        self.mean, self.log_var = nn.Linear(8, latent), nn.Linear(8, latent)
        self.decoder = nn.Sequential(nn.Linear(latent, 8), nn.Tanh(), nn.Linear(8, features))
        self.noise = Noise()

    def encode(self, x):
        h = self.trunk(x)
        return self.mean(h), self.log_var(h)

    def decode(self, z, *, scale=1.0):
        return scale * self.decoder(z)

    def forward(self, x):
        mean, log_var = self.encode(x)
        z = mean + (0.5 * log_var).exp() * self.noise(mean)
        return {"x": self.decode(z), "mean": mean, "log_var": log_var}


def gaussian(*shape, seed=0):
    return cl.random.normal(cl.key(seed), shape)


X = gaussian(7, 6)


def test_the_methods_are_those_of_the_module():
    vae = pure(VAE)
    net = vae.init(cl.key(1))
    plain = VAE()
    plain.load_state_dict({k: v for k, v in (net.params | net.buffers).items() if k in plain.state_dict()})
    plain.eval()
    (mean, log_var), same = vae.apply(net.params, net.buffers, X, method="encode")
    assert same is net.buffers
    torch.testing.assert_close((mean, log_var), plain.encode(X))
    decoded, _ = vae.apply(net.params, net.buffers, mean, scale=2.0, method="decode")
    torch.testing.assert_close(decoded, plain.decode(mean, scale=2.0))
    torch.testing.assert_close(vae.apply(net.params, net.buffers, X)[0], plain(X))
    again = pickle.loads(pickle.dumps(vae))
    assert isinstance(again, PureModule)
    assert cl.tree.equal(again.init(cl.key(1)), net)
    assert cl.tree.equal(again.apply(net.params, net.buffers, X), vae.apply(net.params, net.buffers, X))


def test_in_training_batch_norm_and_keys_come_back():
    vae = pure(VAE)
    net = vae.init(cl.key(1))
    before = cl.tree.map(torch.clone, net)
    generator = torch.get_rng_state()
    (mean, _), moved = vae.apply(net.params, net.buffers, X, method="encode", train=True)
    assert cl.tree.equal(net, before)
    assert torch.equal(torch.get_rng_state(), generator)
    changed = {name for name in moved if not torch.equal(moved[name], net.buffers[name])}
    norm = {f"trunk.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert changed == norm | {"trunk.3.key"}
    again, _ = vae.apply(net.params, net.buffers, X, method="encode", train=True)
    other, _ = vae.apply(net.params, moved, X, method="encode", train=True)
    assert torch.equal(again[0], mean)
    assert not torch.equal(other[0], mean)
    _, after = vae.apply(net.params, net.buffers, X, train=True)
    assert not torch.equal(after["noise.key"], net.buffers["noise.key"])
    valid = torch.arange(7) < 5
    (padded, _), norms = vae.apply(net.params, net.buffers, X, method="encode", train=True, valid=valid)
    (alone, _), want = vae.apply(net.params, net.buffers, X[:5], method="encode", train=True)
    torch.testing.assert_close(padded[:5], alone, rtol=1e-5, atol=1e-5)
    assert cl.tree.difference(norms, want, rtol=1e-6, atol=1e-6) is None


CODER = pure(VAE)


def elbo(params, state, exp):
    """The negative evidence lower bound with unit variance, of valid rows."""
    out, buffers = CODER.apply(params, state.model.buffers, exp.x, train=True, valid=exp.valid)
    error = 0.5 * (out["x"] - exp.x).square().sum(1)
    divergence = 0.5 * (out["mean"].square() + out["log_var"].exp() - 1 - out["log_var"]).sum(1)
    return cl.losses.weighted_mean(error + divergence, exp.valid), state.replace(model=state.model.replace(buffers=buffers))


def test_a_vae_is_trained_by_a_loss_that_obeys_the_laws():
    net = CODER.init(cl.key(1))
    state = cl.Agent(key=cl.key(0), model=net, opt=registry.SGD.init(net.params))
    exp = registry.BENCH.train[0]
    testing.check_loss(elbo, state, exp)
    step = cl.train_step(elbo, registry.SGD)
    testing.assert_equal(cl.compile(step)(state, exp), step(state, exp), "compiled", testing.laws.RTOL, testing.laws.ATOL)


class Drawing(nn.Module):
    def sample(self, n):
        return torch.randn(n)

    def encode(self, x):
        return x + torch.randn_like(x) if self.training else x

    def forward(self, x):
        return x


@pytest.mark.parametrize("how", ["eager", "vmapped", "traced"])
def test_a_hidden_draw_of_a_method_is_refused(how):
    module = pure(Drawing)
    assert torch.equal(module.apply({}, {}, X)[0], X)

    def encode(x):
        return module.apply({}, {}, x, method="encode")[0]

    def sample(x):
        return module.apply({}, {}, 3, method="sample")[0] + x

    for function in (encode, sample):
        calls = {"eager": function, "vmapped": torch.func.vmap(function), "traced": make_fx(function)}
        with pytest.raises(ValueError, match=r"layer 'the module itself' \(Drawing\) draws from torch's generator in training"):
            calls[how](X if function is encode else X[:, :3])


def test_pure_errors():
    vae = pure(VAE)
    net = vae.init(cl.key(0))
    with pytest.raises(ValueError, match="method: VAE has no method 'code'"):
        vae.apply(net.params, net.buffers, X, method="code")
    with pytest.raises(ValueError, match=r"params, buffers: 'decoder.0.bias' is missing"):
        vae.apply({k: v for k, v in net.params.items() if k != "decoder.0.bias"}, net.buffers, X)
    with pytest.raises(ValueError, match=r"args: the module cannot take \(float32\[7, 5\]\) with these params: mat1 and mat2"):
        vae.apply(net.params, net.buffers, X[:, :5], method="encode")
    with pytest.raises(TypeError, match="unexpected keyword argument 'size'"):
        vae.apply(net.params, net.buffers, X, method="decode", size=3)


# --- from_module with another signature


class Wrapped(nn.Module):
    """Takes tokens by keyword and returns a record, as models of Hugging Face do."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6, padding_idx=0)
        self.norm, self.drop = nn.BatchNorm1d(6), nn.Dropout(0.2)
        self.classifier = nn.Linear(6, 4)

    def forward(self, *, input_ids, attention_mask):
        assert input_ids.dtype == torch.int64
        weight = attention_mask[..., None] / attention_mask.sum(1)[:, None, None].clamp(min=1)
        return SimpleNamespace(logits=self.classifier(self.drop(self.norm((self.embed(input_ids) * weight).sum(1)))))


def adapted(module, x):
    return module(input_ids=x, attention_mask=(x != 0).float()).logits


TEXT = from_module(Wrapped, n_classes=4, input_shape=(5,), last_layer="classifier", forward=adapted, input_dtype=torch.int64)


def tokens(n, seed=0):
    words = cl.random.randint(cl.key(seed), (n, 5), 1, 11)
    return torch.where(torch.arange(5) < 2 + words[:, :1] % 4, words, 0)


def text_bench():
    data = [cl.Dataset(tokens(24, seed), torch.arange(24) % 4) for seed in (0, 1)]
    return cl.streams.split_by_class(*data, n_experiences=2)


def test_forward_adapts_inputs_and_outputs():
    net = TEXT.init(cl.key(0))
    plain = Wrapped()
    plain.load_state_dict({k: v for k, v in (net.params | net.buffers).items() if k in plain.state_dict()})
    x = tokens(6)
    logits, same = TEXT.apply(net.params, net.buffers, x)
    assert same is net.buffers
    torch.testing.assert_close(logits, adapted(plain.eval(), x))
    h = TEXT.features(net.params, net.buffers, x)
    torch.testing.assert_close(F.linear(h, net.params["classifier.weight"], net.params["classifier.bias"]), logits)
    _, moved = TEXT.apply(net.params, net.buffers, x, train=True)
    assert {name for name in moved if not torch.equal(moved[name], net.buffers[name])} == {
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
        "drop.key",
    }


def test_tokens_reach_the_model_through_every_part_of_a_run():
    """The experience, the memory and its draws, the probe; and all laws of a strategy."""
    bench = text_bench()
    assert bench.train[0].x.dtype == torch.int64
    assert memory.sample(TEXT)["x"].dtype == torch.int64
    assert cl.models.sample_features(TEXT, TEXT.init(cl.key(0))).shape == (6,)
    strategy = cl.strategies.er(TEXT, registry.SGD, capacity=6, replay_size=4, batch_size=5)
    testing.check_strategy(strategy, bench)
    state, history = cl.scan(strategy.update, strategy.init(cl.key(0)), bench.train, cl.evaluate(TEXT, bench.test))
    assert state.replay.data["x"].dtype == torch.int64
    assert bool(history["loss"].isfinite().all())
    compiled = cl.fold(cl.compile(cl.vmap(strategy.update)), cl.tree.stack([strategy.init(cl.key(0))] * 2), bench.train)
    lane = cl.tree.unstack(compiled)[1]
    assert cl.tree.difference(lane, state, rtol=testing.laws.RTOL, atol=testing.laws.ATOL) is None


@pytest.mark.parametrize("name", ["icarl", "ewc", "gem", "lwf", "gss", "ogd", "ncm", "mas"])
def test_methods_take_tokens(name):
    strategy = getattr(cl.strategies, name)(TEXT, registry.SGD, batch_size=6, **registry.ARGUMENTS[name])
    end = cl.fold(strategy.update, strategy.init(cl.key(0)), text_bench().train)
    assert all(bool(leaf.isfinite().all()) for leaf in cl.tree.leaves(end))


def test_images_are_still_scaled_and_kinds_are_not_mixed_up():
    images = cl.experiences.experience(cl.Dataset(torch.full((3, 6), 255, dtype=torch.uint8), torch.arange(3)))
    assert torch.equal(images.x, torch.ones(3, 6))
    linear, net = registry.NORMED, registry.NORMED.init(cl.key(0))
    text = TEXT.init(cl.key(0))
    with pytest.raises(TypeError, match=r"x: expected a floating tensor.*for tokens make the model with from_module.*got int64"):
        linear.apply(net.params, net.buffers, torch.ones(3, 6, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"x: expected tokens, an int64 tensor.*got float32\[3, 6\]"):
        TEXT.apply(text.params, text.buffers, images.x)
    with pytest.raises(TypeError, match=r"train: expected images.*to rotate, got tokens"):
        cl.streams.rotated(*[cl.Dataset(tokens(4), torch.arange(4))] * 2, n_experiences=2)
    with pytest.raises(TypeError, match=r"tokens as int64, got int32.*tokens with x.long"):
        cl.Dataset(tokens(4).int(), torch.arange(4))


def test_outputs_that_are_no_logits_are_told_how_to_be():
    bare = from_module(Wrapped, n_classes=4, forward=lambda m, x: m(input_ids=x, attention_mask=x != 0), input_dtype=torch.int64)
    net = bare.init(cl.key(0))
    with pytest.raises(
        ValueError, match=r"must return logits.*got SimpleNamespace; .*forward=lambda module, x: module\(x\).logits"
    ):
        bare.apply(net.params, net.buffers, tokens(3))


def test_a_draw_in_the_adapting_function_is_found():
    with pytest.raises(ValueError, match=r"'the module itself' \(Linear\) draws from torch's generator"):
        from_module(lambda: nn.Linear(6, 4), n_classes=4, input_shape=(6,), forward=lambda m, x: m(x + torch.randn_like(x)))
