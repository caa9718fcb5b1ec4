"""Models that start from weights that there are, and parts that stand still."""

import pickle

import pytest
import registry
import torch
from torch import nn

import cl_func as cl
from cl_func import tree

SGD, BENCH = registry.SGD, registry.BENCH


def drawing():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4))


def trained(model, key=3):
    """A network that differs from every initial one."""
    net = model.init(cl.key(key))
    return tree.replace(net, params={name: p + 1 for name, p in net.params.items()})


@pytest.mark.parametrize("name", sorted(registry.ARGUMENTS))
def test_nothing_of_a_method_is_of_another_start(name):
    """Two models that differ in their initial weights alone are one, once they start from a network."""
    net = trained(registry.MODEL)
    other = cl.models.pretrained(registry.MODEL, registry.MODEL.init(cl.key(8)))
    ends = []
    for model in (registry.MODEL, other):
        made = getattr(cl.strategies, name)(cl.models.pretrained(model, net), SGD, batch_size=5, **registry.ARGUMENTS[name])
        start = made.init(cl.key(0))
        if name != "scr":  # its network has a projection beside
            assert tree.equal(start.model, net)
        ends.append(cl.fold(made.update, start, BENCH.train))
    assert tree.equal(*ends)
    pickle.loads(pickle.dumps(made))


def test_importances_are_of_the_path_from_these_weights():
    """That of a state with the network put in would be of the way from the weights before."""
    net = trained(registry.MODEL)
    made = cl.strategies.si(cl.models.pretrained(registry.MODEL, net), SGD, strength=1.0, batch_size=5)
    put_in = cl.strategies.si(registry.MODEL, SGD, strength=1.0, batch_size=5)
    start = made.init(cl.key(0))
    assert tree.equal(start.si, cl.regularizers.si.init(net.params, strength=1.0))
    assert not tree.equal(tree.replace(put_in.init(cl.key(0)), model=net).si, start.si)


def test_layers_that_draw_have_the_key_of_the_seed():
    model = cl.models.from_module(drawing, n_classes=4, input_shape=(6,))
    net = trained(model)
    started = cl.models.pretrained(model, net)
    one, other = started.init(cl.key(0)), started.init(cl.key(1))
    assert one.buffers["3.key"] != other.buffers["3.key"]
    assert torch.equal(one.buffers["3.key"], model.init(cl.key(0)).buffers["3.key"])
    assert tree.equal(one.params, net.params)
    assert torch.equal(one.buffers["1.running_var"], net.buffers["1.running_var"])
    heads = cl.models.multi_head(started, torch.ones(1, 4, dtype=torch.bool))
    assert tree.equal(heads.init(cl.key(0)), one)


def test_a_network_of_another_model_is_refused():
    net = registry.MODEL.init(cl.key(0))
    with pytest.raises(ValueError, match=r"net: the model has params '0.weight' float32\[9, 6\], the network float32\[8, 6\]"):
        cl.models.pretrained(cl.models.mlp(6, hidden=(9,), n_classes=4), net)
    model = cl.models.from_module(drawing, n_classes=4, input_shape=(6,))
    with pytest.raises(ValueError, match=r"net: the model has buffers '1.running_mean' float32\[8\], the network None"):
        cl.models.pretrained(model, tree.replace(model.init(cl.key(0)), buffers={}))


class Still(nn.Module):
    """Its batch norm is in eval mode, whatever the module is in, as docs/models.md has it."""

    def __init__(self):
        super().__init__()
        self.norm, self.last = nn.BatchNorm1d(6), nn.Linear(6, 4)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x):
        return self.last(self.norm(x))


def untracked():
    norm = nn.BatchNorm1d(6)
    norm.track_running_stats = False
    return nn.Sequential(norm, nn.Linear(6, 4))


@pytest.mark.parametrize("factory", [Still, untracked])
def test_statistics_stand_still_where_those_of_torch_do(factory):
    model = cl.models.from_module(factory, n_classes=4, input_shape=(6,))
    net, module, x = model.init(cl.key(0)), factory(), torch.randn(7, 6) * 3 + 1
    module.load_state_dict({**net.params, **net.buffers})
    logits, buffers = model.apply(net.params, net.buffers, x, train=True)
    torch.testing.assert_close(logits, module.train()(x))
    assert tree.equal(buffers, net.buffers)
    torch.testing.assert_close(model.apply(net.params, buffers, x, train=False)[0], module.eval()(x))
