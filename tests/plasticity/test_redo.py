"""ReDo, the resets of the head, and shrink and perturb: known answers."""

import pytest
import torch
from torch import nn

import cl_func as cl
from cl_func.extending import with_slots

X = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
EXP = cl.experience(cl.Dataset(X, torch.tensor([0, 1])))
MODEL = cl.models.mlp(2, hidden=(3,), n_classes=2)


ADAM = cl.optim.adam(0.1)


def agent(part=None, model=MODEL, **params):
    net = model.init(cl.key(1))
    net = net.replace(params={**net.params, **params})
    opt = ADAM.init(net.params)
    ones = cl.tree.map(torch.ones_like, net.params)
    opt = opt.replace(first_moment=ones, second_moment=ones)
    made = cl.Agent(key=cl.key(0), model=net, opt=opt)
    return made if part is None else with_slots(made, **{part.slot: part.init(net)})


def test_dormant_units_are_replaced_every_so_many_steps():
    """The units give 2, 0 and 0.1 on average, of a mean of 0.7: scores of 2.857, 0 and 0.143."""
    weight = torch.tensor([[1.0, 0.0], [-1.0, -1.0], [0.05, 0.0]])
    params = {"0.weight": weight, "0.bias": torch.zeros(3)}
    redo = cl.plasticity.redo(MODEL, threshold=0.1, every=2)
    start = agent(redo, **params)
    once = redo(start, EXP)
    assert cl.tree.equal(once.model, start.model)
    twice = redo(once, EXP)
    new, old = twice.model.params, start.model.params
    assert [bool(row) for row in (new["0.weight"] != old["0.weight"]).any(1)] == [False, True, False]
    assert new["2.weight"].eq(0).any(0).tolist() == [False, True, False]
    assert torch.equal(new["2.bias"], old["2.bias"])
    assert twice.opt.second_moment["0.weight"].tolist() == [[1, 1], [0, 0], [1, 1]]
    assert twice.opt.first_moment["2.weight"].tolist() == [[1, 0, 1], [1, 0, 1]]
    assert (twice.redo.count.item(), twice.redo.replaced["0"].item()) == (2, 1)
    wider = redo(cl.tree.set(once, {"redo.threshold": 0.15}), EXP)
    assert wider.redo.replaced["0"].item() == 2
    assert redo(cl.tree.set(once, {"redo.every": 3}), EXP).redo.replaced["0"].item() == 0


def test_a_channel_is_a_unit_wherever_it_is():
    """Of a convolution that is flattened, a dormant channel loses all its columns."""
    model = cl.models.cnn((1, 4, 4), channels=(3,), hidden=5, n_classes=2)
    bias, weight = torch.tensor([1.0, -9.0, 1.0]), torch.zeros(3, 1, 3, 3)
    redo = cl.plasticity.redo(model, threshold=0.0, every=1, layers=("convs.0",))
    start = agent(redo, model, **{"convs.0.weight": weight, "convs.0.bias": bias})
    exp = cl.experience(cl.Dataset(torch.rand(2, 1, 4, 4), torch.tensor([0, 1])))
    new = redo(start, exp).model.params
    assert new["hidden.weight"].eq(0).all(0).tolist() == [False] * 4 + [True] * 4 + [False] * 4
    assert torch.equal(new["out.weight"], start.model.params["out.weight"])
    assert new["convs.0.weight"].ne(0).flatten(1).all(1).tolist() == [False, True, False]
    logits = [model.apply(p, {}, exp.x)[0] for p in (start.model.params, new)]
    torch.testing.assert_close(*logits)  # the channel gave nothing, and gives nothing


def test_a_unit_takes_its_norm_along():
    model = cl.models.mlp(2, hidden=(3,), n_classes=2, norm="batch", activation="crelu")
    redo = cl.plasticity.redo(model, threshold=1e9, every=1)
    start = agent(redo, model)
    moved = {name: torch.full_like(value, 7.0) for name, value in start.model.params.items()}
    buffers = {n: torch.full_like(b, 7.0) if b.is_floating_point() else b for n, b in start.model.buffers.items()}
    start = cl.tree.set(start, {"model.params": moved, "model.buffers": buffers})
    after = redo(start, EXP).model
    assert after.params["1.weight"].tolist() == [1, 1, 1]
    assert after.params["1.bias"].tolist() == [0, 0, 0]
    assert after.params["3.weight"].tolist() == [[0] * 6] * 2
    assert after.params["3.bias"].tolist() == [7, 7]
    assert after.buffers["1.running_mean"].tolist() == [0, 0, 0]
    assert after.buffers["1.running_var"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("to", ["initial", "zero"])
def test_a_reset_of_the_head(to):
    start = agent()
    after = cl.plasticity.reset_head(MODEL, to)(start, EXP)
    new, old = after.model.params, start.model.params
    for name in ("2.weight", "2.bias"):
        assert bool((new[name] != old[name]).all())
        assert bool((new[name] == 0).all()) == (to == "zero")
        assert bool((new[name].abs() <= 3**-0.5).all())
        assert after.opt.second_moment[name].eq(0).all()
    for name in ("0.weight", "0.bias"):
        assert new[name] is old[name]
        assert after.opt.second_moment[name].eq(1).all()
    assert (after.key != start.key) == (to == "initial")


def test_the_heads_of_other_models():
    cosine = cl.models.mlp(2, hidden=(3,), n_classes=2, head="cosine")
    with pytest.raises(ValueError, match="model: its last layer is not known, since its weight is computed; name it"):
        cl.plasticity.reset_head(cosine)
    start = agent(model=cosine)
    after = cl.plasticity.reset_head(cosine, layers=("2",))(start, EXP).model.params
    assert after["2.scale"].item() == 10
    assert bool((after["2.weight"] != start.model.params["2.weight"]).all())
    resnet = cl.models.resnet18(4, width=2, input_shape=(1, 8, 8))
    assert cl.plasticity.reset_head(resnet).keywords["names"] == ("fc.weight", "fc.bias")
    with pytest.raises(ValueError, match="layers: this model has no layer 'head'; there are '0', '2'"):
        cl.plasticity.reset_head(MODEL, layers=("head",))


def test_shrink_and_perturb():
    """p <- shrink * p + perturb * q: with perturb = 0 only shrunk, with shrink = 0 a new initialisation."""
    for noise in ("initial", "normal"):
        snp = cl.plasticity.shrink_and_perturb(MODEL, 0.5, 0.25, noise=noise)
        start = agent(snp)
        old = start.model.params
        only = snp(cl.tree.set(start, {"snp.perturb": 0.0}), EXP).model.params
        drawn = snp(cl.tree.set(start, {"snp.shrink": 0.0, "snp.perturb": 1.0}), EXP).model.params
        both = snp(start, EXP).model.params
        for name, p in old.items():
            torch.testing.assert_close(only[name], p / 2)
            torch.testing.assert_close(both[name], p / 2 + drawn[name] / 4)
            assert bool((drawn[name] != p).all())
    model = cl.models.from_module(lambda: nn.Linear(100, 400), n_classes=400, input_shape=(100,))
    for noise, spread in (("initial", 0.1 / 3**0.5), ("normal", 1.0)):  # uniform within 0.1
        snp = cl.plasticity.shrink_and_perturb(model, 0.0, 1.0, noise=noise)
        drawn = snp(agent(snp, model), EXP).model.params["weight"]
        assert drawn.std().item() == pytest.approx(spread, rel=0.02)
        assert abs(drawn.mean().item()) < 0.02 * spread


def test_l2_init():
    """The gradient of strength / 2 * |p - p0|^2 is strength * (p - p0): SGD goes to the start by lr * strength at each step."""
    held = cl.plasticity.l2_init(0.5)
    start = agent(held)
    optimizer = cl.optim.sgd(0.2)
    away = {name: p + 1 for name, p in start.model.params.items()}
    start = start.replace(opt=optimizer.init(away))
    value, same = held(away, start, EXP)
    assert same is start
    assert value.item() == pytest.approx(0.25 * 17)  # of 6 + 3 + 6 + 2 parameters
    moved = cl.train_step(held, optimizer)(cl.tree.set(start, {"model.params": away}), EXP).model.params
    for name, p in start.model.params.items():
        torch.testing.assert_close(moved[name], p + 0.9)


@pytest.mark.parametrize("method", ["continual_backprop", "redo", "shrink_and_perturb", "none"])
def test_a_dead_network_learns_again(method):
    """All hidden units are silent on all rows, so that no gradient reaches them: the methods that draw anew revive them."""
    model = cl.models.mlp(64, hidden=(32,), n_classes=10)
    train, test = cl.data.digits()
    bench = cl.streams.split_by_class(train, test, n_experiences=1)
    parts = {
        "continual_backprop": {"after_step": cl.plasticity.continual_backprop(model, 0.02, 20)},
        "redo": {"after_step": cl.plasticity.redo(model, 0.0, 20)},
        "shrink_and_perturb": {"before": cl.plasticity.shrink_and_perturb(model, 0.0, 1.0)},
        "none": {},
    }
    strategy = cl.extend(cl.strategies.naive(model, cl.optim.sgd(0.1), batch_size=20, epochs=6), **parts[method])
    dead = cl.tree.set(strategy.init(cl.key(0)), {"model.params.0.bias": torch.full((32,), -30.0)})
    end = cl.fold(strategy.update, dead, bench.train)
    accuracy = cl.evaluate(model, bench.test)(end, None)["accuracy"].item()
    assert accuracy < 0.2 if method == "none" else accuracy > 0.85
