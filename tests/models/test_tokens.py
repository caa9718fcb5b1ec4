"""Tokens outside of a vocabulary are errors, vmapped too, where torch would read the weights of the next lane."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import cl_func as cl

V, LENGTH = 10, 4


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.out = nn.Embedding(V, 3, padding_idx=0), nn.Linear(3, 2)

    def forward(self, tokens):
        return self.out(self.embedding(tokens).mean(1))


MODEL = cl.models.from_module(Net, n_classes=2, input_shape=(LENGTH,), input_dtype=torch.int64)


def logits(net, tokens):
    return MODEL.apply(net.params, net.buffers, tokens)[0]


@pytest.mark.parametrize("token", [-1, V, V + 7, 2 * V])
def test_a_token_outside_is_refused_in_every_lane(token):
    nets = [MODEL.init(cl.key(seed)) for seed in range(3)]
    tokens = torch.arange(2 * LENGTH).reshape(2, LENGTH)
    bad = tokens.clone()
    bad[1, 2] = token
    with pytest.raises(ValueError, match=rf"x: the token {token} is outside of the vocabulary 0..{V - 1} of the layer 'embedding'"):
        logits(nets[0], bad)
    stacked = cl.tree.stack(nets)
    own = torch.func.vmap(logits)(stacked, torch.stack([tokens] * 3))
    torch.testing.assert_close(own, torch.stack([logits(net, tokens) for net in nets]))
    for lane in range(3):
        each = torch.stack([bad if i == lane else tokens for i in range(3)])
        with pytest.raises(ValueError, match=r"x: int64\[2, 4\] holds a token outside of the vocabulary"):
            torch.func.vmap(logits)(stacked, each)


@pytest.mark.parametrize("lane", [0, 1])
def test_a_token_outside_is_refused_compiled(lane):
    x = torch.arange(9 * LENGTH).reshape(9, LENGTH) % V
    x[8, 0] = V
    data = cl.Dataset(x, torch.arange(9) % 2)
    rows = torch.arange(8).repeat(2, 1)
    exp = cl.experience(data, rows[0])
    lanes = cl.tree.replace(cl.tree.stack([exp, exp]), source=data)
    strategy = cl.strategies.naive(MODEL, cl.optim.sgd(0.1), batch_size=4)
    train = cl.compile(cl.vmap(strategy.update))
    states = cl.tree.stack([strategy.init(cl.key(seed)) for seed in range(2)])
    found = train(states, lanes)
    for seed, one in enumerate(cl.tree.unstack(found)):
        alone = strategy.update(strategy.init(cl.key(seed)), exp)
        torch.testing.assert_close(one.model.params, alone.model.params)
    rows[lane, 7] = 8
    with pytest.raises(IndexError, match=r"cl\.compile: a number is outside of what it indexes.*out of bounds"):
        train(states, cl.tree.replace(lanes, rows=rows))


@pytest.mark.parametrize("head_first", [True, False])
def test_a_head_tied_to_the_embedding_has_features(head_first):
    """The state has the tied tensor by its first name, the model without its last layer by another."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            for name in ("head", "embed") if head_first else ("embed", "head"):
                setattr(self, name, nn.Linear(8, 9, bias=False) if name == "head" else nn.Embedding(9, 8))
            self.embed.weight = self.head.weight

        def forward(self, x):
            return self.head(self.embed(x).mean(1))

    model = cl.models.from_module(Tied, n_classes=9, input_shape=(4,), input_dtype=torch.int64, last_layer="head")
    net = model.init(cl.key(0))
    (weight,) = net.params.values()
    x = torch.arange(20).reshape(5, 4) % 9
    torch.testing.assert_close(cl.models.features(model, net, x), weight[x].mean(1))
