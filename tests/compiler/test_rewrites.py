"""Rewritten graphs compute the same values: updates of weights as accumulating products, gathers of all rows, running counts."""

from __future__ import annotations

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import cl_func as cl
from cl_func import testing, tree
from cl_func.compiler import program, rewrites, threads, weight_steps

aten = torch.ops.aten
ADD_PRODUCT = torch.ops.cl_func.add_product.default


def rewritten(function, *leaves):
    """The rewritten graph of a function, and the targets of its operations."""
    graph = make_fx(function)(*(leaf.clone() for leaf in leaves))
    rewrites.rewrite(graph.graph)
    graph.recompile()
    return graph, [node.target for node in graph.graph.nodes]


def check(function, *leaves, fused):
    """Compares a function that overwrites its leaves with its rewritten form; whether its update became an accumulating product."""
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


def adds_halves(weight, a, b):
    weight.copy_(weight + (weight + torch.mm(a, b)) * 0.5)
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
        (adds_halves, True),
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


def low_rank(u, v, g):
    u_grad, v_grad = torch.mm(g, v.t()), torch.mm(u.t(), g)
    u_new, v_new = u - 0.1 * u_grad, v + u_grad.sum() * 0 + v_grad * -0.1
    u.copy_(u_new)
    v.copy_(v_new)
    return ()


def two_layers(u, v, g):
    u_new, v_new = u - 0.1 * torch.mm(g, v.t()), v + torch.mm(u.t(), g) * -0.1
    u.copy_(u_new)
    v.copy_(v_new)
    return ()


def rate_written_first(rate, weight, a, b):
    new_rate, new = rate * 0.5, weight + rate * torch.mm(a, b)
    rate.copy_(new_rate)
    weight.copy_(new)
    return ()


def gate_written_first(gate, weight, a, b):
    new, closed = torch.where(gate, weight + torch.mm(a, b), weight), gate & False
    gate.copy_(closed)
    weight.copy_(new)
    return ()


def operand_written_between(weight, a, b):
    x = a * 1
    grad = torch.mm(x, b)
    x.zero_()
    weight.copy_(weight + grad)
    return ()


def of_itself(weight, m):
    weight.copy_(weight + torch.mm(m, weight))
    return ()


def one_product_for_two(u, v, a, b):
    product = torch.mm(a, b)
    u_new, v_new = u + product, v + product
    u.copy_(u_new)
    v.copy_(v_new)
    return ()


def broadcast(weight, a, b):
    weight.copy_(weight + torch.matmul(a, b))
    return ()


OPEN = torch.ones(1, 1, dtype=torch.bool)


@pytest.mark.parametrize(
    ("function", "leaves", "fused"),
    [
        (two_layers, (numbers(6, 3), numbers(3, 5), numbers(6, 5)), True),
        (low_rank, (numbers(6, 3), numbers(3, 5), numbers(6, 5)), False),
        (rate_written_first, (numbers(1, 1), numbers(6, 4), numbers(6, 5), numbers(5, 4)), True),
        (gate_written_first, (OPEN, numbers(6, 4), numbers(6, 5), numbers(5, 4)), True),
        (gate_written_first, (~OPEN, numbers(6, 4), numbers(6, 5), numbers(5, 4)), True),
        (operand_written_between, (numbers(6, 4), numbers(6, 5), numbers(5, 4)), False),
        (of_itself, (numbers(6, 6), numbers(6, 6) + 1), True),
        (of_itself, (numbers(300, 300), numbers(300, 300) * 0.01), True),
        (one_product_for_two, (numbers(6, 4), numbers(6, 4) + 1, numbers(6, 5), numbers(5, 4)), False),
        (broadcast, (numbers(3, 6, 4), numbers(6, 5), numbers(5, 4)), False),
        (broadcast, (numbers(3, 6, 4), numbers(1, 6, 5), numbers(1, 5, 4)), False),
        (broadcast, (numbers(6, 4), numbers(1, 5), numbers(5, 4)), False),
    ],
)
def test_operands_are_read_before_anything_is_written(function, leaves, fused):
    check(function, *leaves, fused=fused)


def test_a_closed_gate_keeps_what_is_not_a_number_out():
    """0 times NaN is NaN: a gated lane must not move, whatever its gradient is."""

    def step(weight, a, b, gate):
        weight.copy_(torch.where(gate, weight + torch.matmul(a, b), weight))
        return ()

    def reset(weight, a, b, gate):
        weight.copy_(torch.where(gate, torch.matmul(a, b), weight))
        return ()

    a = numbers(3, 6, 5)
    a[1, 0, 0] = torch.nan
    for gate in (OPEN, ~OPEN, torch.tensor([True, False, True]).view(3, 1, 1)):
        check(step, numbers(3, 6, 4), a, numbers(3, 5, 4), gate, fused=True)
    weight = numbers(3, 6, 4)
    weight[0, 0, 0] = torch.nan
    check(reset, weight, numbers(3, 6, 5), numbers(3, 5, 4), OPEN, fused=False)


def test_a_small_decay_is_not_rounded_away():
    def step(weight, a, b, rate, decay):
        weight.copy_(weight + rate * torch.addcmul(torch.mm(a, b), weight, decay))
        return ()

    weight, a, b = numbers(8, 8).float(), torch.zeros(8, 3), torch.zeros(3, 8)
    graph, _ = rewritten(step, weight, a, b, torch.full((1, 1), -1.0), torch.full((1, 1), 1e-7))
    before, after = weight.clone(), weight.clone()
    for _ in range(300):
        step(before, a, b, torch.full((1, 1), -1.0), torch.full((1, 1), 1e-7))
        graph(after, a, b, torch.full((1, 1), -1.0), torch.full((1, 1), 1e-7))
    assert torch.equal(before, after)
    assert not torch.equal(after, weight)


def test_small_weights_and_integers_are_left_alone(monkeypatch):
    monkeypatch.setattr(weight_steps, "SMALLEST", 100)
    check(plain, numbers(6, 4), numbers(6, 5), numbers(5, 4), fused=False)
    monkeypatch.setattr(weight_steps, "SMALLEST", 1)
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

    def written_later(x, y):
        both = torch.cat([x, y])
        kept = both[torch.arange(5)]
        both.add_(1)
        return kept

    x, y = numbers(3, 2), numbers(2, 2)
    for function, gathers in ((joined, False), (of_an_input, True), (fewer, True), (written_later, True)):
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
    """The steps of real strategies, with a learning rate and a decay for each lane: plain SGD is rewritten, others are not."""
    found = []

    def spy(graph):
        rewrites.rewrite(graph)
        found.extend(node.target for node in graph.nodes)

    monkeypatch.setattr(program, "rewrite", spy)
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


def test_a_bias_is_added_after_the_product():
    """And inductor does not turn that back into an operation that copies the bias to all rows first."""
    linear, x = torch.nn.Linear(3, 5), torch.randn(4, 3)
    graph = make_fx(lambda x, w, b: torch.nn.functional.linear(x, w, b).relu(), tracing_mode="fake")(x, linear.weight, linear.bias)
    rewrites.rewrite(graph.graph)
    targets = {node.target for node in graph.graph.nodes}
    assert torch.ops.aten.mm.default in targets
    assert torch.ops.aten.addmm.default not in targets
    graph.recompile()
    torch.testing.assert_close(graph(x, linear.weight, linear.bias), linear(x).relu())


def test_the_threads_of_small_products():
    def product(n):
        return make_fx(lambda a, b: a @ b, tracing_mode="fake")(torch.empty(n, 128), torch.empty(128, 64)).graph

    assert threads.small(product(128))
    assert not threads.small(product(129))
    with threads.OneThread(True):
        assert (torch.ones(3, 3) @ torch.ones(3)).tolist() == [3.0] * 3
    with threads.OneThread(False):
        pass
