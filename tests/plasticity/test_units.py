"""Which parameters come into a hidden unit and which lead out of it, found by trial, for nets of all kinds."""

import functools
import re

import pytest
import registry
import torch
from torch import nn

import cl_func as cl
from cl_func.plasticity.layers import Features, Feed, Norm
from cl_func.plasticity.units import hidden_layers, last_layers


def feeds(model, layers=None):
    """The features of each layer's units in the layers that they lead to."""
    return {layer.name: {feed.weight: feed.features for feed in layer.feeds} for layer in hidden_layers(model, layers)}


def test_an_mlp_has_a_feature_for_each_unit():
    layer, last = hidden_layers(cl.models.mlp(6, hidden=(8, 5), n_classes=4))
    assert (layer.name, layer.weight, layer.bias, layer.units) == ("0", "0.weight", "0.bias", 8)
    assert layer.feeds == (Feed("2.weight", "2.bias", Features(0, 1, 8, 1)),)
    assert (last.name, last.units, last.norms) == ("2", 5, ())


def test_norms_belong_to_the_units_and_crelu_gives_two_features():
    first, second = hidden_layers(registry.STACK)
    assert first.feeds == (Feed("4.weight", "4.bias", Features(0, 2, 8, 1)),)
    statistics = (("1.running_mean", 0.0), ("1.running_var", 1.0))
    assert first.norms == (Norm(("1.weight", "1.bias"), statistics, Features(0, 1, 8, 1)),)
    assert second.feeds[0].features == Features(0, 2, 5, 1)
    layered = hidden_layers(cl.models.mlp(6, hidden=(8,), n_classes=4, norm="layer"))[0]
    assert layered.norms == (Norm(("1.weight", "1.bias"), (), Features(0, 1, 8, 1)),)


def test_channels_that_are_flattened_have_a_feature_at_each_position():
    found = feeds(cl.models.cnn((1, 12, 12), channels=(4, 6), hidden=8))
    assert found == {
        "convs.0": {"convs.1.weight": Features(0, 1, 4, 1)},
        "convs.1": {"hidden.weight": Features(0, 1, 6, 9)},
        "hidden": {"out.weight": Features(0, 1, 8, 1)},
    }


class Joined(nn.Module):
    """Two branches whose features are side by side, one of them behind a CReLU and flattened."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.out = nn.Linear(6, 3), nn.Conv1d(1, 2, 2), nn.Linear(3 + 2 * 2 * 5, 4)

    def forward(self, x):
        right = self.right(x[:, None])
        right = torch.relu(torch.cat([right, -right], 1)).flatten(1)
        return self.out(torch.cat([torch.tanh(self.left(x)), right], 1))


def test_branches_that_are_joined_keep_their_features():
    model = cl.models.from_module(Joined, n_classes=4, input_shape=(6,))
    left, right = Features(0, 1, 3, 1), Features(3, 2, 2, 5)
    assert feeds(model) == {"left": {"out.weight": left}, "right": {"out.weight": right}}
    values = torch.arange(23.0)
    assert left.of(values).tolist() == [[0], [1], [2]]
    assert right.of(values).tolist() == [[*range(3, 8), *range(13, 18)], [*range(8, 13), *range(18, 23)]]
    assert right.spread(torch.tensor([1.0, 2.0]), 23).tolist() == [0] * 3 + ([1] * 5 + [2] * 5) * 2
    assert torch.equal(right.spread(right.of(values), 23)[3:], values[3:])


@pytest.mark.parametrize(
    ("model", "says", "others"),
    [
        (registry.RESNET, "'conv1' cannot be replaced, since they are added to those of another layer", "layer4.1.conv1"),
        (registry.VIT, "'patches' cannot be replaced, since they are added", "blocks.0.linear1"),
        (registry.ODD, "'conv' cannot be replaced, since they lead to 'frozen.weight', and it is frozen", ""),
        (cl.models.mlp(6, hidden=(8, 5), head="cosine"), "'2' .* they lead to .*, and its weight is computed", "'0'"),
        (cl.models.mlp(6, hidden=()), "it has no hidden units", ""),
        (cl.models.from_module(lambda: nn.Linear(6, 4), n_classes=4), "the shape of an input", ""),
    ],
)
def test_what_cannot_be_replaced_is_said(model, says, others):
    with pytest.raises(ValueError, match=f"model: .*{says}") as error:
        hidden_layers(model)
    assert others in str(error.value)


def test_a_layer_that_is_named_must_be_one_of_them():
    assert list(feeds(registry.VIT, ["blocks.0.linear1"])) == ["blocks.0.linear1"]
    with pytest.raises(ValueError, match="layers: the units of 'conv1' cannot be replaced, since they are added"):
        hidden_layers(registry.RESNET, ("conv1",))
    with pytest.raises(ValueError, match="layers: the units of '1' cannot be replaced, since it is no hidden layer"):
        hidden_layers(registry.MODEL, ("1",))


class Mixed(nn.Module):
    def __init__(self, groups, mix):
        super().__init__()
        self.first, self.second, self.mix = nn.Conv1d(1, 4, 1), nn.Conv1d(4, 4, 6, groups=groups), mix

    def forward(self, x):
        h = torch.relu(self.first(x[:, None]))
        return self.second(h.softmax(1) if self.mix else h).flatten(1)


@pytest.mark.parametrize(("groups", "mix", "says"), [(2, False, "a grouped convolution"), (1, True, "something else than a layer")])
def test_units_that_are_mixed_are_refused(groups, mix, says):
    model = cl.models.from_module(lambda: Mixed(groups, mix), n_classes=4, input_shape=(6,))
    with pytest.raises(ValueError, match=says):
        hidden_layers(model)


class Sharing(nn.Module):
    """Two layers that share a norm, or a bias."""

    def __init__(self, what):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.n = nn.LayerNorm(8) if what == "norm" else nn.Identity()
        if what == "bias":
            self.b.bias = self.a.bias

    def forward(self, x):
        return self.c(torch.relu(self.n(self.b(torch.relu(self.n(self.a(x)))))))


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("norm", "they go through a norm that is used twice, 'n.weight'"),
        ("bias", "their bias, 'a.bias', is that of another layer too"),
    ],
)
def test_what_two_layers_share_is_of_no_unit(what, reason):
    """Reset for the unit of one layer, it would change the answers of the other."""
    model = cl.models.from_module(functools.partial(Sharing, what), n_classes=4, input_shape=(6,))
    for make in (lambda: cl.plasticity.redo(model, layers=("a",)), lambda: cl.plasticity.continual_backprop(model)):
        with pytest.raises(ValueError, match=re.escape(reason)):
            make()


class Gated(nn.Module):
    """Residual branches behind a gain, as LayerScale and ReZero have them."""

    def __init__(self, gain):
        super().__init__()
        self.first, self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(5, 8), nn.Linear(8, 4)
        self.gain = nn.Parameter(torch.full((8,), gain))

    def forward(self, x):
        x = self.first(x)
        return self.head(x + self.gain * self.b(torch.relu(self.a(x))))


@pytest.mark.parametrize("gain", [1.0, 1e-6, 0.0])
def test_a_branch_counts_whatever_its_gain_begins_at(gain):
    """With a small gain its layers were taken for last ones, and `reset_head` reset them at each experience."""
    model = cl.models.from_module(functools.partial(Gated, gain), n_classes=4, input_shape=(6,), last_layer="head")
    assert last_layers(model) == ("head.weight", "head.bias")
    with pytest.raises(ValueError, match="'first' cannot be replaced, since they are added to those of another layer"):
        hidden_layers(model)
    assert [layer.name for layer in hidden_layers(model, ("a",))] == ["a"]


def test_a_layer_that_moves_nothing_is_no_last_layer():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 4)

        def forward(self, x):
            return self.b(torch.relu(self.a(x) - 10))

    model = cl.models.from_module(Cut, n_classes=4, input_shape=(6,))
    assert last_layers(model) == ("b.weight", "b.bias")
    with pytest.raises(ValueError, match="'a' cannot be replaced, since moving them changes nothing that comes after them"):
        hidden_layers(model)
