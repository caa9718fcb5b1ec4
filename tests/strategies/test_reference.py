"""Against an independent reference: a plain stateful PyTorch loop with nn.Module, torch.optim and a Python list as memory."""

from __future__ import annotations

import random as python_random

import pytest
import torch
import torch.nn.functional as F

import cl_func as cl

LR, SIZE, REPLAYED, CAPACITY = 0.05, 10, 10, 50


def network():
    return torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))


@pytest.fixture(scope="module")
def online():
    bench = cl.streams.split_by_class(*cl.data.digits(), n_experiences=5, key=cl.key(3))
    return cl.streams.split_online(bench, experience_size=SIZE, key=cl.key(4))


class Keyed:
    """The draws of one of our runs, taken from its keys in the order in which it uses them."""

    def __init__(self, key):
        self.key = key

    def next(self):
        self.key, draw = cl.random.split(self.key)
        return draw


def reference_er(net, optimizer, experiences, draws):
    """ER as one would write it by hand: the loss on the batch and the replayed rows together, then Algorithm R row by row."""
    memory, seen = [], 0
    for exp in experiences:
        x, y = exp.x[exp.valid], exp.y[exp.valid]
        inputs, labels = x, y
        picked = draws.replay(len(memory))
        if picked:
            inputs = torch.cat([x, torch.stack([memory[i][0] for i in picked])])
            labels = torch.cat([y, torch.stack([memory[i][1] for i in picked])])
        optimizer.zero_grad()
        F.cross_entropy(net(inputs), labels).backward()
        optimizer.step()
        positions = draws.positions(len(exp), seen)
        for row, label, position in zip(x, y, positions, strict=False):
            seen += 1
            if len(memory) < CAPACITY:
                memory.append((row, label))
            elif position < CAPACITY:
                memory[position] = (row, label)
    return memory


class SameDraws(Keyed):
    def replay(self, filled):
        drawn = cl.random.randint(self.next(), REPLAYED, 0, torch.tensor(filled)).tolist()
        return drawn[: min(filled, REPLAYED)]

    def positions(self, n, seen):
        return cl.random.randint(self.next(), n, 0, torch.arange(seen + 1, seen + n + 1)).tolist()


class OwnDraws:
    """Draws of the reference's own: without replacement from the memory, Python's generator."""

    def __init__(self, seed):
        self.generator = python_random.Random(seed)

    def replay(self, filled):
        return self.generator.sample(range(filled), min(REPLAYED, filled))

    def positions(self, n, seen):
        return [self.generator.randrange(seen + i + 1) for i in range(n)]


OPTIMIZERS = {
    "sgd": (cl.optim.sgd(LR), lambda p: torch.optim.SGD(p, LR)),
    "momentum": (
        cl.optim.sgd(LR, momentum=0.9, weight_decay=1e-3),
        lambda p: torch.optim.SGD(p, LR, momentum=0.9, weight_decay=1e-3),
    ),
    "adam": (cl.optim.adam(1e-3), lambda p: torch.optim.Adam(p, 1e-3)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_er_gives_the_same_parameters_after_200_steps(online, name):
    ours, theirs = OPTIMIZERS[name]
    model = cl.models.from_module(network, n_classes=10, input_shape=(64,))
    strategy = cl.strategies.er(model, ours, capacity=CAPACITY, replay_size=REPLAYED)
    start = strategy.init(cl.key(0))
    experiences = [*online.train, *online.train][:200]
    assert sum(int(e.valid.sum()) for e in experiences) > 1900

    net = network()
    net.load_state_dict(start.model.params)
    memory = reference_er(net, theirs(net.parameters()), experiences, SameDraws(start.key))
    end = cl.fold(strategy.update, start, experiences)

    for key, value in net.state_dict().items():
        torch.testing.assert_close(end.model.params[key], value, rtol=0, atol=1e-5)
    assert end.replay.data["y"].tolist() == [int(label) for _, label in memory]


def double_network():
    return network().double()


def test_naive_with_minibatches_gives_the_same_parameters():
    """In float64, where 200 steps with momentum do not yet amplify the rounding: equal to 1e-9."""
    train, test = (cl.Dataset(d.x.double(), d.y) for d in cl.data.digits())
    bench = cl.streams.split_by_class(train, test, n_experiences=5)
    model = cl.models.from_module(double_network, n_classes=10)
    strategy = cl.strategies.naive(model, cl.optim.sgd(LR, momentum=0.9), batch_size=32, epochs=4)
    start = strategy.init(cl.key(1))
    net = double_network()
    net.load_state_dict(start.model.params)
    optimizer, draws, steps = torch.optim.SGD(net.parameters(), LR, momentum=0.9), Keyed(start.key), 0
    for exp in bench.train:
        for _ in range(4):
            for part in torch.argsort(cl.random.bits(draws.next(), len(exp)) >> 1, stable=True).split(32):
                optimizer.zero_grad()
                F.cross_entropy(net(exp.x[part]), exp.y[part]).backward()
                optimizer.step()
                steps += 1
    assert steps >= 180
    end = cl.fold(strategy.update, start, bench.train)
    for key, value in net.state_dict().items():
        torch.testing.assert_close(end.model.params[key], value, rtol=0, atol=1e-9)


def test_er_has_the_same_accuracy_in_distribution(online):
    """20 seeds each, own initialisations and own draws: the 95% interval of the difference of the means holds 0."""
    seeds, model = 20, cl.models.from_module(network, n_classes=10, input_shape=(64,))
    strategy = cl.strategies.er(model, cl.optim.sgd(4 * LR), capacity=CAPACITY, replay_size=REPLAYED)
    lanes = cl.tree.stack([strategy.init(cl.key(seed)) for seed in range(seeds)])
    lanes = cl.fold(cl.vmap(strategy.update), lanes, online.train)
    ours = cl.vmap(cl.evaluate(model, online.test))(lanes)["accuracy"].mean(-1)

    theirs = []
    with torch.random.fork_rng(devices=[]):
        for seed in range(seeds):
            torch.manual_seed(1000 + seed)
            net = network()
            reference_er(net, torch.optim.SGD(net.parameters(), 4 * LR), list(online.train), OwnDraws(seed))
            with torch.no_grad():
                theirs.append(torch.stack([(net(e.x).argmax(-1) == e.y).float().mean() for e in online.test]).mean())
    theirs = torch.stack(theirs)
    assert ours.mean() > 0.5
    half_width = 2.02 * ((ours.var() + theirs.var()) / seeds).sqrt()  # t with 38 degrees of freedom
    assert (ours.mean() - theirs.mean()).abs() < half_width
