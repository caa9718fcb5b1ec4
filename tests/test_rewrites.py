"""Rewritten graphs compute what they did: updates of weights as products that add, gathers of all rows, running counts."""

from __future__ import annotations

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import cl_func as cl
from cl_func import rewrites, testing, transforms, tree

aten = torch.ops.aten
ADD_PRODUCT = torch.ops.cl_func.add_product.default


def rewritten(function, *leaves):
    """The graph of a function, rewritten; and the targets of its operations."""
    graph = make_fx(function)(*(leaf.clone() for leaf in leaves))
    rewrites.rewrite(graph.graph)
    graph.recompile()
    return graph, [node.target for node in graph.graph.nodes]


def check(function, *leaves, fused):
    """Runs the function, which writes over its leaves, before and after; whether the update became a product that adds."""
    graph, targets = rewritten(function, *leaves)
    assert (ADD_PRODUCT in targets) is fused
    before, after = [leaf.clone() for leaf in leaves], [leaf.clone() for leaf in leaves]
    out, out_after = function(*before), graph(*after)
    testing.assert_equal((after, out_after), (before, out), "rewritten", 1e-12, 1e-13)


def numbers(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("lanes", [(), (3,)])
@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("some", [True, False])
def test_a_gated_step_with_weight_decay(lanes, decay, some):
    """What `minibatches(train_step(loss, sgd))` makes of a weight: where(some, W + rate (A B + decay W), W)."""
    weight, a, b, rate = numbers(*lanes, 6, 4), numbers(*lanes, 6, 5), numbers(*lanes, 5, 4), numbers(*lanes, 1, 1)
    decays, gate = torch.full_like(rate, decay), torch.full((1, 1), some)

    def step(weight, a, b, rate, decays, gate):
        new = weight + rate * torch.addcmul(torch.matmul(a, b), weight, decays)
        weight.copy_(torch.where(gate, new, weight))
        return ()

    check(step, weight, a, b, rate, decays, gate, fused=True)


@pytest.mark.parametrize("threads", [1, 2])
def test_transposed_products_and_threads(threads):
    """A B seen through a transpose, rows that divide by the threads and rows that do not."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for rows in (6, 7):

            def step(weight, a, b):
                weight.copy_(weight + 0.5 * torch.mm(a, b).t())
                return ()

            check(step, numbers(rows, 4), numbers(4, 5), numbers(5, rows), fused=True)
    finally:
        torch.set_num_threads(before)


def plain(weight, a, b):
    weight.copy_(weight + torch.mm(a, b))
    return ()


def returns_the_new_weight(weight, a, b):
    new = weight + torch.mm(a, b)
    weight.copy_(new)
    return new * 2


def looks_at_the_gradient(weight, a, b):
    grad = torch.mm(a, b)
    weight.copy_(weight + grad)
    return grad.norm()


def scales_rows(weight, a, b):
    weight.copy_(weight + a[:, :1] * torch.mm(a, b))
    return ()


def two_products(weight, a, b):
    weight.copy_(weight + torch.mm(a, b) + torch.mm(a, b))
    return ()


def halves(weight, a, b):
    weight.copy_((weight + torch.mm(a, b)) * 0.5)
    return ()


def takes_another(weight, a, b):
    weight.copy_(torch.mm(a, b))
    return ()


def root(weight, a, b):
    weight.copy_(weight + torch.mm(a, b).abs().sqrt())
    return ()


@pytest.mark.parametrize(
    ("function", "fused"),
    [
        (plain, True),
        (halves, True),
        (takes_another, False),
        (returns_the_new_weight, False),
        (looks_at_the_gradient, False),
        (scales_rows, False),
        (two_products, False),
        (root, False),
    ],
)
def test_only_what_is_affine_and_used_for_nothing_else(function, fused):
    check(function, numbers(6, 4), numbers(6, 5), numbers(5, 4), fused=fused)


def test_small_weights_and_integers_are_left_alone(monkeypatch):
    monkeypatch.setattr(rewrites, "SMALLEST", 100)
    check(plain, numbers(6, 4), numbers(6, 5), numbers(5, 4), fused=False)
    monkeypatch.setattr(rewrites, "SMALLEST", 1)
    check(plain, *(numbers(*shape).long() for shape in ((6, 4), (6, 5), (5, 4))), fused=False)


def test_all_rows_in_order_are_no_gather():
    def joined(x, y):
        return torch.cat([x, y])[torch.arange(5)] * 2

    def of_an_input(x, y):
        kept = x[torch.arange(3)]
        x.copy_(x + y[:1])
        return kept

    def fewer(x, y):
        return torch.cat([x, y])[torch.arange(4)]

    x, y = numbers(3, 2), numbers(2, 2)
    for function, gathers in ((joined, False), (of_an_input, True), (fewer, True)):
        graph, targets = rewritten(function, x, y)
        assert (aten.index.Tensor in targets) is gathers
        testing.assert_equal(graph(x.clone(), y.clone()), function(x.clone(), y.clone()), "rewritten")


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.int32])
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 7)])
def test_a_running_count_is_a_sum_over_pairs(dtype, shape):
    x = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    graph, targets = rewritten(lambda x: torch.cumsum(x, -1), x)
    assert aten.cumsum.default not in targets
    assert torch.equal(graph(x), torch.cumsum(x, -1))
    for other in (torch.randn(7), torch.ones(rewrites.FEW + 1, dtype=torch.int64), torch.ones(3, 7, dtype=torch.int64).t()):
        assert aten.cumsum.default in rewritten(lambda x: torch.cumsum(x, 0), other)[1]


@pytest.mark.parametrize(
    ("optimizer", "fused"),
    [
        (cl.optim.sgd(0.1), True),
        (cl.optim.sgd(0.1, weight_decay=0.01), True),
        (cl.optim.sgd(0.1, momentum=0.9), False),
        (cl.optim.adam(0.1), False),
    ],
)
def test_strategies(optimizer, fused, monkeypatch):
    """The steps of real strategies, lanes with learning rates and decays of their own: plain SGD is rewritten, others are not."""
    found = []

    def spy(graph):
        rewrites.rewrite(graph)
        found.extend(node.target for node in graph.nodes)

    monkeypatch.setattr(transforms, "rewrite", spy)
    bench, model = testing.small_benchmark(), cl.models.mlp(6, (8,), 4)
    strategy = cl.strategies.er(model, optimizer, capacity=6, replay_size=4, batch_size=5)
    states = [
        tree.set(strategy.init(cl.key(i)), {"opt.lr": 0.05 * (i + 1), "opt.weight_decay": 0.1 * i * (optimizer.weight_decay > 0)})
        for i in range(3)
    ]
    out = cl.fold(cl.compile(cl.vmap(strategy.update)), tree.stack(states), bench.train, donate=True)
    assert (ADD_PRODUCT in found) is fused
    for state, lane in zip(states, tree.unstack(out), strict=True):
        testing.assert_equal(lane, cl.fold(strategy.update, state, bench.train), "compiled", 1e-3, 1e-4)
