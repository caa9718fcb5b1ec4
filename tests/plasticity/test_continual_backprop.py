"""Continual backprop: a replacement worked by hand, and the loop of the paper's code, written naively, over 1,000 steps."""

import functools

import pytest
import torch

import cl_func as cl

X = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
EXP = cl.experience(cl.Dataset(X, torch.tensor([0, 1])))
W0, W1 = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [[1.0, 1.0, -0.2], [1.0, -1.0, 0.1]]
SGD = cl.optim.sgd(0.1, momentum=0.9)


def by_hand(utility, rate=1 / 3, keep_mean=False, optimizer=SGD):
    """An agent whose hidden units give [1, 2, 3] and [3, 0, 3] on the two rows, and its Update, with no units protected."""
    model = cl.models.mlp(2, hidden=(3,), n_classes=2)
    cbp = cl.plasticity.continual_backprop(model, rate, 0, utility=utility, decay=0.9, keep_mean=keep_mean)
    strategy = cl.extend(cl.strategies.naive(model, optimizer), after_step=cbp)
    values = {"0.weight": W0, "0.bias": [0.0] * 3, "2.weight": W1, "2.bias": [0.0, 0.0]}
    params = {name: torch.tensor(value) for name, value in values.items()}
    return cl.tree.set(strategy.init(cl.key(0)), {"model.params": params}), cbp, model


UTILITIES = {
    # mean |h| is [2, 1, 3], the sum of outgoing weights [2, 2, 0.3] and of incoming ones [1, 1, 2]
    "contribution": [4.0, 2.0, 0.9],
    # the mean of h is [2, 1, 3] too, so that |h - mean| is [1, 1, 0] on average
    "zero_contribution": [2.0, 2.0, 0.0],
    "adaptable_contribution": [2.0, 2.0, 0.0],
    "feature_by_input": [1.0, 1.0, 0.0],
    "weight": [2.0, 2.0, 0.3],
    "adaptation": [1.0, 1.0, 0.5],
}


@pytest.mark.parametrize("utility", UTILITIES)
def test_utilities_worked_by_hand(utility):
    state, cbp, _ = by_hand(utility, rate=0.0)
    after = cbp(state, EXP)
    torch.testing.assert_close(after.cbp.utility["0"], 0.1 * torch.tensor(UTILITIES[utility]))  # 1 - decay = 0.1
    torch.testing.assert_close(after.cbp.mean["0"], torch.tensor([[0.2], [0.1], [0.3]]))
    assert after.cbp.age["0"].tolist() == [1, 1, 1]
    assert cl.tree.equal(after.model, state.model)
    twice = cbp(after, EXP).cbp.utility["0"] / (1 - 0.9**2)  # on the same rows, the corrected mean stays
    torch.testing.assert_close(twice, torch.tensor(UTILITIES[utility]))


@pytest.mark.parametrize("keep_mean", [False, True])
def test_a_replacement_worked_by_hand(keep_mean):
    """A third of three units is one unit: the last, whose contribution is lowest."""
    state, cbp, _ = by_hand("contribution", keep_mean=keep_mean)
    ones = {name: torch.ones_like(p) for name, p in state.model.params.items()}
    state = cl.tree.set(state, {"opt.velocity": ones})
    after = cbp(state, EXP)
    new, old = after.model.params, state.model.params
    assert torch.equal(new["0.weight"][:2], old["0.weight"][:2])
    assert torch.equal(new["0.bias"][:2], old["0.bias"][:2])
    bound = 2**-0.5  # that of nn.Linear(2, 3)
    drawn = torch.cat([new["0.weight"][2], new["0.bias"][2:]])
    assert bool((drawn.abs() < bound).all() and (drawn != 0).all())
    torch.testing.assert_close(new["2.weight"], torch.tensor([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0]]))
    # What the unit gave on average, 3, times its weights, -0.2 and 0.1.
    torch.testing.assert_close(new["2.bias"], torch.tensor([-0.6, 0.3]) if keep_mean else torch.zeros(2))
    velocity = after.opt.velocity
    assert velocity["0.weight"].tolist() == [[1, 1], [1, 1], [0, 0]]
    assert velocity["0.bias"].tolist() == [1, 1, 0]
    assert velocity["2.weight"].tolist() == [[1, 1, 0], [1, 1, 0]]
    assert velocity["2.bias"].tolist() == [1, 1]
    assert after.cbp.age["0"].tolist() == [1, 1, 0]
    torch.testing.assert_close(after.cbp.utility["0"], torch.tensor([0.4, 0.2, 0.0]))
    assert (after.cbp.due["0"].item(), after.cbp.replaced["0"].item()) == (0.0, 1)
    # The replaced unit is young, and so the next to go is the second one, whose contribution is lower than that of the first.
    again = cbp(cl.tree.set(after, {"cbp.maturity": 1, "cbp.rate": 0.5}), EXP)
    assert again.cbp.age["0"].tolist() == [2, 0, 1]
    assert cl.tree.equal(cl.tree.get(again, "model.params.0.weight")[0], old["0.weight"][0])


def test_units_that_are_alike_go_in_order_and_fractions_add_up():
    state, cbp, _ = by_hand("weight", rate=0.25)
    state = cl.tree.set(state, {"model.params.2.weight": torch.ones(2, 3)})
    ages = []
    for _ in range(3):  # 0.75, then 1.5, then 0.5 + 0.75
        state = cbp(state, EXP)
        ages.append((state.cbp.age["0"].tolist(), state.cbp.due["0"].item()))
    assert ages == [([1, 1, 1], 0.75), ([0, 2, 2], 0.5), ([0, 3, 3], 0.25)]


def test_new_units_do_not_change_the_answers_and_padding_does_not_count():
    state, cbp, model = by_hand("contribution", keep_mean=True)
    state = cl.tree.set(state, {"model.params.0.weight": torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])})
    state = cl.tree.set(state, {"model.params.0.bias": torch.tensor([0.0, 0.0, 0.3])})  # the last unit is constant
    padded = EXP.take(torch.tensor([0, 1, 1]), torch.tensor([True, True, False]))
    after = cbp(state, padded)
    assert cl.tree.equal(after, cbp(state, EXP), rtol=1e-6)
    assert after.cbp.age["0"].tolist() == [1, 1, 0]
    outputs = [model.apply(net.params, net.buffers, X)[0] for net in (state.model, after.model)]
    torch.testing.assert_close(*outputs)


def naive_loop(model, net, key, data, *, rate, maturity, decay, utility, lr, adam):
    """Dohare's code (`gnt.py` with accumulate=True, `AdamGnT`), with the keyed draws of `model.fresh`.

    Features are those of before the step with Adam, as there, and those of after it with SGD. The sums over weights are means
    there, which orders units alike.
    """
    p = {name: value.clone() for name, value in net.params.items()}
    layers = [("0", "2"), ("2", "4")]
    util, age, mean = ({a: torch.zeros(len(p[f"{a}.bias"]), dtype=torch.float64) for a, _ in layers} for _ in range(3))
    first, second, step = ({name: torch.zeros_like(value) for name, value in p.items()} for _ in range(3))
    due, gone = {a: 0.0 for a, _ in layers}, 0
    for x, y in data:
        before, features, h = {}, {}, x
        for a, _ in layers:
            h = before[a] = torch.relu(h @ p[f"{a}.weight"].T + p[f"{a}.bias"])
        leaves = {name: value.detach().requires_grad_() for name, value in p.items()}
        logits, _ = model.apply(leaves, {}, x)
        grads = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, y), list(leaves.values()))
        for (name, value), g in zip(p.items(), grads, strict=True):
            if adam:
                first[name].mul_(0.9).add_(g, alpha=0.1)
                second[name].mul_(0.999).addcmul_(g, g, value=0.001)
                step[name] += 1
                g = first[name] / (1 - 0.9 ** step[name]) / ((second[name] / (1 - 0.999 ** step[name])).sqrt() + 1e-8)
            value.sub_(g, alpha=lr)
        h = x
        for a, _ in layers:
            h = features[a] = torch.relu(h @ p[f"{a}.weight"].T + p[f"{a}.bias"])
        features = before if adam else features
        key, draw_key, _ = cl.random.split(key, 3)
        replace = {}
        for a, b in layers:
            age[a] += 1
            util[a] *= decay
            correction = 1 - decay ** age[a]
            mean[a] = decay * mean[a] + (1 - decay) * features[a].mean(0)
            outgoing, incoming = p[f"{b}.weight"].abs().mean(0), p[f"{a}.weight"].abs().mean(1)
            if utility == "contribution":
                new = outgoing * features[a].abs().mean(0)
            else:
                new = outgoing * (features[a] - mean[a] / correction).abs().mean(0) / incoming
            util[a] += (1 - decay) * new
            eligible = torch.where(age[a] > maturity)[0]
            due[a] += rate * eligible.shape[0]
            n = int(due[a])
            due[a] -= n
            if n:
                replace[a] = eligible[torch.topk(-(util[a] / correction)[eligible], n)[1]]
                util[a][replace[a]] = 0
                mean[a][replace[a]] = 0
                gone += n
        fresh = model.fresh(draw_key, {f"{a}.{part}": p[f"{a}.{part}"] for a, _ in layers for part in ("weight", "bias")})
        for a, b in layers:
            if a in replace:
                rows = replace[a]
                for part in ("weight", "bias"):
                    p[f"{a}.{part}"][rows] = fresh[f"{a}.{part}"][rows]
                    first[f"{a}.{part}"][rows] = second[f"{a}.{part}"][rows] = step[f"{a}.{part}"][rows] = 0
                p[f"{b}.weight"][:, rows] = 0
                first[f"{b}.weight"][:, rows] = second[f"{b}.weight"][:, rows] = step[f"{b}.weight"][:, rows] = 0
                age[a][rows] = 0
    return p, util, age, gone


@pytest.mark.parametrize(("utility", "adam", "n"), [("contribution", False, 250), ("adaptable_contribution", True, 1000)])
def test_a_thousand_steps_of_the_papers_loop(utility, adam, n):
    """In float64, on a task that changes every 100 steps, so that units of both layers go, and of both in one step.

    With Adam the order is that of their code, activations of before the step and weights of after it.
    """
    model = cl.models.mlp(5, hidden=(12, 7), n_classes=3)
    numbers = {"rate": 0.013, "maturity": 15, "decay": 0.9, "utility": utility}
    cbp = cl.plasticity.continual_backprop(model, **numbers)
    lr = 0.01 if adam else 0.1
    optimizer = cl.optim.adam(lr, count_each=True) if adam else cl.optim.sgd(lr)
    net = cl.tree.map(torch.Tensor.double, model.init(cl.key(1)))
    x = cl.random.normal(cl.key(2), (n, 2, 5), torch.float64)
    y = ((x * (1 + torch.arange(n) // 100)[:, None, None]).sin().sum(2) + 2).long().clamp(0, 2)
    agent = cl.Agent(key=cl.key(3), model=net, opt=optimizer.init(net.params))
    agent = cl.extending.with_slots(agent, cbp=cbp.init(net))
    agent = cl.tree.set(agent, {"cbp.decay": torch.tensor(0.9)})
    step = cl.train_step(cl.losses.cross_entropy(model), optimizer)
    update = functools.partial(cbp.around, step) if adam else cl.compose(step, cbp)
    for i in range(n):
        agent = update(agent, cl.experience(cl.Dataset(x[i], y[i], n_classes=3)))
    decay = agent.cbp.decay.double().item()  # that of float32
    wanted, _, age, gone = naive_loop(
        model, net, cl.key(3), zip(x, y, strict=True), **{**numbers, "decay": decay}, lr=lr, adam=adam
    )
    assert gone == sum(int(n) for n in agent.cbp.replaced.values()) > 0.15 * n
    assert {name: values.tolist() for name, values in agent.cbp.age.items()} == {
        name: values.tolist() for name, values in age.items()
    }
    for name, value in wanted.items():
        torch.testing.assert_close(agent.model.params[name], value, rtol=1e-5, atol=1e-7)
