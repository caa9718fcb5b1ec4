"""Gradient constraints: A-GEM by algebra, GEM against scipy, OWM against a loop, OGD by its right angles."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import registry
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

import cl_func as cl
from cl_func import losses, memory
from cl_func.models import linear_inputs
from cl_func.projections import agem, gem, ogd, owm, qp
from cl_func.projections.directions import Outer
from cl_func.projections.vector import from_vector, to_vector

BENCH, MODEL, SGD = registry.BENCH, registry.MODEL, registry.SGD
FIRST, SECOND = BENCH.train
LOSS = losses.cross_entropy(MODEL)


def gradients(state, scale=1.0, seed=7):
    keys = cl.random.split(cl.key(seed), len(state.model.params))
    return {
        name: scale * cl.random.normal(k, tuple(p.shape)) for k, (name, p) in zip(keys, state.model.params.items(), strict=True)
    }


def double_linear():
    return torch.nn.Linear(6, 4).double()


# Vectors


def test_vector_and_back():
    grads = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(7.0), "c": torch.ones(1, dtype=torch.float64)}
    vector = to_vector(grads)
    assert vector.tolist() == [0, 1, 2, 3, 4, 5, 7, 1]
    assert vector.dtype == torch.float64
    assert cl.tree.equal(from_vector(vector, grads), grads)


# A-GEM


@pytest.mark.parametrize("seed", range(8))
def test_agem_projects_by_its_equation(seed):
    """With a sample that is the whole of the memory, the reference gradient is known."""
    strategy = cl.strategies.agem(MODEL, SGD, capacity=1, sample_size=1)
    state = strategy.init(cl.key(seed))
    state = state.replace(replay=memory.reservoir.add(state.replay, cl.key(1), memory.fields(None, FIRST), FIRST.valid))
    rows = state.replay.data
    only = cl.tree.replace(FIRST, source=cl.Dataset(rows["x"], rows["y"], n_classes=4), rows=torch.tensor([0]))
    r = to_vector(cl.core.gradient(LOSS, state, only.take(torch.tensor([0]), torch.tensor([True])))[0])
    grads = gradients(state, seed=seed)
    g = to_vector(grads)
    new, after = agem.project(LOSS, 1)(grads, state, SECOND)
    new = to_vector(new)
    expected = g - (g @ r) / (r @ r) * r if g @ r < 0 else g
    torch.testing.assert_close(new, expected, rtol=1e-5, atol=1e-6)
    assert new @ r >= -1e-5 * new.norm() * r.norm()
    assert after.key != state.key


def test_agem_opposite_and_aligned():
    state = registry.constrained(cl.key(0))
    state = state.replace(replay=memory.reservoir.init(3, memory.sample(MODEL)))
    state = state.replace(replay=memory.reservoir.add(state.replay, cl.key(1), memory.fields(None, FIRST), FIRST.valid))
    same = cl.tree.map(lambda rows: rows[:1].expand_as(rows), state.replay.data)  # whichever rows are drawn, one sample
    state = state.replace(replay=state.replay.replace(data=same))
    r, _ = cl.core.gradient(LOSS, state, memory.recalled(FIRST, same, torch.ones(3, dtype=torch.bool)))
    opposite, _ = agem.project(LOSS, 2)(cl.tree.map(torch.neg, r), state, SECOND)
    assert to_vector(opposite).norm() < 1e-6
    aligned, _ = agem.project(LOSS, 2)(r, state, SECOND)
    assert cl.tree.equal(aligned, r)


def test_agem_with_an_empty_memory_changes_nothing():
    state = cl.strategies.agem(MODEL, SGD, capacity=3, sample_size=2).init(cl.key(0))
    grads = gradients(state)
    new, _ = agem.project(LOSS, 2)(grads, state, FIRST)
    assert cl.tree.equal(new, grads)


# GEM


def reference_projection(g, G, margin=0.0):
    """The dual by scipy: with u = v - margin it is min |G'u + g + G' margin| over u >= 0."""
    rest = g + margin * G.sum(0)
    norms = np.linalg.norm(G, axis=1, keepdims=True)
    rows = G / np.where(norms > 0, norms, 1)
    return rest + rows.T @ nnls(rows.T, -rest)[0]


def problem(kind, seed):
    generator = np.random.default_rng(seed)
    T, P = int(generator.integers(1, 21)), 25
    if kind == "single":
        T = 1
    G, g = generator.normal(size=(T, P)), generator.normal(size=P)
    if kind == "duplicates":
        G = G[generator.integers(0, max(1, T // 2), T)]
    elif kind == "unfilled":
        G[generator.integers(0, 2, T) == 0] = 0
    elif kind == "dependent":
        G = G[:, :4] @ generator.normal(size=(4, P))
    elif kind == "nearly equal":
        G = G[:1] + 1e-3 * G
    elif kind == "nearly opposite":
        G[-1] = -G[0] + 0.1 * G[-1]
    elif kind == "scaled":
        G = G * 10 ** generator.uniform(-3, 3, (T, 1))
    elif kind == "feasible":
        G = g + 0.1 * G
    return g, G


KINDS = ["random", "single", "duplicates", "unfilled", "dependent", "nearly equal", "nearly opposite", "scaled", "feasible"]


@pytest.mark.parametrize("kind", KINDS)
def test_gem_equals_scipy(kind):
    for seed in range(40):
        g, G = problem(kind, seed)
        ours = gem.closest(torch.tensor(g), torch.tensor(G), torch.ones(len(G), dtype=torch.bool), torch.tensor(0.0)).numpy()
        np.testing.assert_allclose(ours, reference_projection(g, G), rtol=0, atol=1e-6)
        norms = np.linalg.norm(G, axis=1)
        assert (G @ ours >= -1e-7 * norms).all()


@pytest.mark.parametrize("kind", ["random", "single", "duplicates", "unfilled"])
def test_gem_equals_scipy_with_margin(kind):
    for seed in range(25):
        g, G = problem(kind, seed)
        ours = gem.closest(torch.tensor(g), torch.tensor(G), torch.ones(len(G), dtype=torch.bool), torch.tensor(0.5)).numpy()
        expected = reference_projection(g, G, 0.5) if (G @ g < 0).any() else g
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)


def test_gem_batched_over_lanes():
    """Lanes of very different problems at once, one of them with nothing to solve."""
    pairs = [problem(kind, seed) for seed in range(30) for kind in ("random", "scaled")]
    pairs = [(g, np.resize(G, (6, 25))) for g, G in pairs]
    pairs.append((pairs[0][0], np.zeros((6, 25))))
    g, G = (torch.tensor(np.stack(part)) for part in zip(*pairs, strict=True))
    some = torch.ones(6, dtype=torch.bool)
    lanes = torch.func.vmap(gem.closest, in_dims=(0, 0, None, None))(g, G, some, torch.tensor(0.0))
    for lane, (one, rows) in zip(lanes, pairs, strict=True):
        np.testing.assert_allclose(lane.numpy(), reference_projection(one, rows), rtol=0, atol=1e-6)


@settings(deadline=None, max_examples=25)
@given(T=st.integers(1, 10), P=st.integers(1, 40), key=cl.testing.keys(), margin=st.floats(0, 2))
def test_gem_satisfies_its_constraints_in_float32(T, P, key, margin):
    rows, single = cl.random.split(key)
    G, g = cl.random.normal(rows, (T, P)), cl.random.normal(single, P)
    active = cl.random.bernoulli(cl.random.fold_in(key, 5), 0.7, T)
    new = gem.closest(g, G, active, torch.tensor(margin))
    assert new.isfinite().all()
    size = max(float(new.norm()), float(g.norm())) * max(1.0, T * margin)
    if T <= P // 2:  # well conditioned
        assert ((G @ new)[active] >= -1e-3 * size).all()
    if not (G @ g < 0)[active].any():
        assert torch.equal(new, g)


def test_margin_bounds_the_multipliers():
    A = torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double()
    # Without bounds the optimum is A^-1 (1, -1) = (0.857, -1.43): the second is at its bound, the first is (1 - 0.5 * bound) / 2.
    for bound in torch.tensor([0.0, 0.25, 0.375]).double():
        v = qp.solve(A, torch.tensor([-1.0, 1.0]).double(), bound)
        assert v.tolist() == pytest.approx([(1 - 0.5 * float(bound)) / 2, float(bound)], abs=1e-9)


def test_gem_memories_are_apart():
    strategy = cl.strategies.gem(MODEL, SGD, memory_per_experience=3, n_experiences=3, batch_size=5)
    state = cl.fold(strategy.update, strategy.init(cl.key(0)), BENCH.train)
    assert state.gem.seen.tolist() == [14, 14, 0]
    assert state.gem.occupied.tolist() == [[True] * 3, [True] * 3, [False] * 3]
    assert (state.gem.data["y"][0] < 2).all()
    assert (state.gem.data["y"][1] >= 2).all()
    assert not state.gem.data["x"][2].any()


def test_gem_leaves_out_unfilled_memories_and_its_own():
    state = registry.constrained(cl.key(0))  # the memory of experience 1 is filled
    grads = gradients(state)
    own, _ = gem.project(LOSS)(grads, state, SECOND)
    assert cl.tree.equal(own, grads)
    # Against the gradient on the one filled memory, the projection is A-GEM's.
    rows = cl.tree.map(lambda leaf: leaf[1], state.gem.data)
    r = to_vector(cl.core.gradient(LOSS, state, memory.recalled(FIRST, rows, state.gem.occupied[1]))[0])
    grads = from_vector(to_vector(grads) - 2 * r, grads)
    state = cl.tree.set(state, {"gem.margin": 0.0})
    g = to_vector(grads)
    assert g @ r < 0
    new, _ = gem.project(LOSS)(grads, state, FIRST)
    torch.testing.assert_close(to_vector(new), g - (g @ r) / (r @ r) * r, rtol=1e-4, atol=1e-5)


def test_gem_names_an_experience_too_many():
    strategy = cl.strategies.gem(MODEL, SGD, memory_per_experience=3, n_experiences=1)
    state = strategy.update(strategy.init(cl.key(0)), FIRST)
    with pytest.raises(ValueError, match=r"n_experiences: .* 0\.\.0, this one is number 1"):
        strategy.update(state, SECOND)


def test_lanes_that_gem_has_no_memory_for_diverge():
    """A vmapped program cannot read the number of the experience, so it cannot raise; what it gives must not pass for a result."""
    bench = cl.testing.small_benchmark(n_experiences=4)
    fits, short = (
        cl.strategies.gem(MODEL, SGD, memory_per_experience=3, n_experiences=n, batch_size=5) for n in (len(bench.train), 2)
    )
    for compiled in (False, True):
        how = {"seeds": 2, "lanes": 2, "compile": compiled, "progress": False}
        assert not cl.sweep(fits, bench, **how).diverged.any()
        assert cl.sweep(short, bench, **how).diverged.all()


def test_gem_memories_by_another_rule():
    strategy = cl.strategies.gem(MODEL, SGD, memory_per_experience=3, n_experiences=2, which=lambda state, exp: exp.index // 7)
    pieces = cl.streams.split_online(BENCH, experience_size=2)
    state = cl.fold(strategy.update, strategy.init(cl.key(0)), pieces.train)
    assert state.gem.seen.tolist() == [14, 14]
    assert (state.gem.data["y"][0] < 2).all()
    assert (state.gem.data["y"][1] >= 2).all()


# OWM


def test_linear_inputs_are_what_the_layers_see():
    net = MODEL.init(cl.key(3))
    found = linear_inputs(MODEL, net, FIRST)
    assert list(found) == [("0.weight", "0.bias"), ("2.weight", "2.bias")]
    hidden = torch.relu(FIRST.x @ net.params["0.weight"].T + net.params["0.bias"])
    torch.testing.assert_close(found["0.weight", "0.bias"], FIRST.x)
    torch.testing.assert_close(found["2.weight", "2.bias"], hidden)
    normed = registry.NORMED.init(cl.key(3))
    assert list(linear_inputs(registry.NORMED, normed, FIRST)) == [("0.weight", "0.bias"), ("4.weight", "4.bias")]


def test_a_layer_at_several_places_gives_the_mean():
    def factory():
        return torch.nn.Sequential(torch.nn.Unflatten(1, (3, 2)), torch.nn.Linear(2, 5, bias=False), torch.nn.Flatten())

    model = cl.models.from_module(factory, n_classes=15, input_shape=(6,))
    found = linear_inputs(model, model.init(cl.key(0)), FIRST)
    torch.testing.assert_close(found["1.weight", None], FIRST.x.reshape(-1, 3, 2).mean(1))


def test_a_layer_that_runs_twice_is_refused():
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(6, 6)

        def forward(self, x):
            return self.layer(self.layer(x))

    model = cl.models.from_module(Twice, n_classes=6, input_shape=(6,))
    with pytest.raises(ValueError, match=r"'layer.weight' runs twice"):
        owm.init(model, model.init(cl.key(0)))


def test_owm_equals_a_loop():
    """Recursive least squares in numpy, row by row over minibatches of both layers, bias as a constant input."""
    state = registry.constrained(cl.key(0))
    state = state.replace(owm=owm.init(MODEL, state.model, alpha=0.1))
    batches = [FIRST.take(FIRST.rows[i : i + 4], FIRST.valid[i : i + 4]) for i in range(0, 14, 4)]
    end = cl.fold(owm.absorb(MODEL), state, batches)
    params = {name: value.double().numpy() for name, value in state.model.params.items()}
    P0, P1 = np.eye(7), np.eye(9)
    for batch in batches:
        x = batch.x.double().numpy()
        hidden = np.maximum(x @ params["0.weight"].T + params["0.bias"], 0)
        for P, h in ((P0, x), (P1, hidden)):
            h = np.append(h.mean(0), 1)
            k = P @ h / (0.1 + h @ P @ h)
            P -= np.outer(k, h @ P)
    np.testing.assert_allclose(end.owm.projectors["0.weight"].numpy(), P0, atol=1e-5)
    np.testing.assert_allclose(end.owm.projectors["2.weight"].numpy(), P1, atol=1e-5)


@pytest.mark.parametrize(("alpha", "most"), [(1e-2, 1e-2), (1e-4, 1e-4), (1e-6, 1e-6)])
def test_owm_keeps_answers_to_old_inputs_as_alpha_vanishes(alpha, most):
    model = cl.models.from_module(double_linear, n_classes=4, input_shape=(6,))
    state = registry.constrained(cl.key(0))
    net = model.init(cl.key(0))
    state = state.replace(model=net, owm=owm.init(model, net, alpha))
    data = cl.Dataset(FIRST.x[:3].double(), FIRST.y[:3], n_classes=4)
    rows = [cl.experience(data, torch.tensor([i])) for i in range(3)]
    state = cl.fold(owm.absorb(model), state, rows)
    P = state.owm.projectors["weight"]
    inputs = torch.cat([data.x, torch.ones(3, 1, dtype=torch.float64)], 1)
    assert (P @ inputs.T).abs().max() < most
    assert torch.linalg.matrix_rank(P, rtol=0.1) == 7 - 3
    # So a step along a projected gradient leaves the old answers as they are.
    grads, _ = owm.project()({"weight": torch.ones(4, 6).double(), "bias": torch.arange(4.0).double()}, state, None)
    assert (data.x @ grads["weight"].T + grads["bias"]).abs().max() < 20 * most
    assert grads["weight"].abs().max() > 1e-2


def test_owm_before_the_first_experience_is_naive():
    naive = cl.strategies.naive(MODEL, SGD, batch_size=5, epochs=2)
    ours = cl.strategies.owm(MODEL, SGD, batch_size=5, epochs=2)
    a, b = naive.update(naive.init(cl.key(0)), FIRST), ours.update(ours.init(cl.key(0)), FIRST)
    assert cl.tree.equal(a.model, b.model, atol=1e-6)
    weak = cl.tree.set(ours.init(cl.key(0)), {"owm.alpha": 1e9})
    assert cl.tree.equal(cl.fold(ours.update, weak, BENCH.train[:1]).model, a.model, atol=1e-6)


# OGD


def whole(slot):
    """The orthonormal rows [capacity, P] float64 of a slot of OGD."""
    slot = cl.tree.map(lambda leaf: leaf.double() if leaf.is_floating_point() else leaf, slot)
    rows = {
        name: part.left[:, :, None] * part.right[:, None, :] if isinstance(part, Outer) else part
        for name, part in slot.rows.items()
    }
    return slot.combine @ torch.stack(
        [to_vector({name: value[i] for name, value in rows.items()}) for i in range(len(slot.combine))]
    )


@settings(deadline=None, max_examples=25)
@given(
    capacity=st.integers(1, 12),
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    factors=st.booleans(),
    key=cl.testing.keys(),
    data=st.data(),
)
def test_directions_span_what_was_added(capacity, sizes, factors, key, data):
    """Whole or by factors; dependent ones, zeros and those beyond the room are left out."""
    parts = (
        {"w": Outer(left=torch.zeros(capacity, 3), right=torch.zeros(capacity, 5))} if factors else {"w": torch.zeros(capacity, 15)}
    )
    slot, offered = ogd.OGD(rows=parts, combine=torch.zeros(capacity, capacity).double(), count=torch.tensor(0)), []
    for i, n in enumerate(sizes):
        rows = cl.random.normal(cl.random.fold_in(key, i), (n, 15))
        rows = rows * torch.tensor(data.draw(st.lists(st.sampled_from([0.0, 1.0, 100.0]), min_size=n, max_size=n)))[:, None]
        left, right = cl.random.normal(cl.random.fold_in(key, 10 + i), (n, 3)), rows[:, :5]
        if n > 2 and data.draw(st.booleans()):
            rows[1] = 2 * rows[0] - rows[2]
            left[1:3], right[1] = left[:1], 2 * right[0] - right[2]
        if factors:
            rows = (left[:, :, None] * right[:, None]).flatten(1)
        slot = ogd._add(slot, {"w": Outer(left=left, right=right) if factors else rows})
        offered.append(rows)
    offered = torch.cat(offered).double()
    rank = int(torch.linalg.matrix_rank(offered, rtol=1e-5))
    count = int(slot.count)
    assert count == min(rank, capacity)
    filled = whole(slot)[:count]
    torch.testing.assert_close(filled @ filled.T, torch.eye(count).double(), rtol=0, atol=1e-9)
    assert not slot.combine[count:].any()
    assert not any(leaf[count:].any() for leaf in cl.tree.leaves(slot.rows))
    if rank <= capacity:
        left = offered - offered @ filled.T @ filled
        assert (left.norm(dim=1) <= 1e-4 * offered.norm(dim=1) + 1e-6).all()


@pytest.mark.parametrize("factors", [True, False])
def test_directions_are_true_logit_gradients(factors):
    """Of a linear classifier: the logit of class y has the gradient x in row y of the weight, and 1 in place y of the bias."""
    model = cl.models.mlp(6, hidden=(), n_classes=4)
    if not factors:
        model = dataclasses.replace(model, input_shape=None)
    state = registry.constrained(cl.key(0))
    state = state.replace(model=model.init(cl.key(0)))
    state = state.replace(ogd=ogd.init(model, state.model, 20))
    state = ogd.store(model, 3)(state, FIRST)
    assert isinstance(state.ogd.rows["0.weight"], Outer) == factors
    assert state.ogd.count == 3
    expected = []
    for x, y in zip(FIRST.x, FIRST.y, strict=True):
        weight, bias = torch.zeros(4, 6), torch.zeros(4)
        weight[y], bias[y] = x, 1
        expected.append(to_vector({"0.weight": weight, "0.bias": bias}))
    expected = torch.stack(expected)
    inside = (expected.double() @ whole(state.ogd).T).norm(dim=1) / expected.norm(dim=1)
    assert (inside > 1 - 1e-5).sum() == 3  # the three samples that were drawn, and no other


@pytest.mark.parametrize("factors", [True, False])
def test_ogd_updates_are_orthogonal_to_all_stored_directions(factors):
    model = MODEL if factors else dataclasses.replace(MODEL, input_shape=None)
    strategy = cl.strategies.ogd(model, SGD, capacity=10, per_experience=6, batch_size=5, epochs=3)
    middle = strategy.update(strategy.init(cl.key(0)), FIRST)
    count = int(middle.ogd.count)
    assert 2 <= count <= 6
    end = strategy.update(middle, SECOND)
    moved = to_vector(end.model.params) - to_vector(middle.model.params)
    assert moved.norm() > 0.01
    assert (whole(middle.ogd) @ moved.double()).abs().max() < 1e-5 * max(1.0, float(moved.norm()))
    assert count < int(end.ogd.count) <= 10
    assert torch.equal(whole(end.ogd)[:count], whole(middle.ogd)[:count])


def test_ogd_projects_the_same_by_factors_as_by_whole_gradients():
    both = []
    for model in (MODEL, dataclasses.replace(MODEL, input_shape=None)):
        strategy = cl.strategies.ogd(model, SGD, capacity=8, per_experience=6, batch_size=5, epochs=3)
        both.append(cl.fold(strategy.update, strategy.init(cl.key(0)), BENCH.train[:3]))
    assert int(both[0].ogd.count) == int(both[1].ogd.count) == 8
    cl.testing.assert_equal(both[0].model, both[1].model, "models", 1e-4, 1e-5)


ODD = {"odd": registry.ODD, "cosine": cl.models.mlp(6, (5,), 4, head="cosine")}


@pytest.mark.parametrize("name", ODD)
def test_ogd_of_parameters_of_any_shape_is_that_of_one_vector(name):
    """The equation by hand, on the vectors of all parameters: g - S' (S S')^-1 S g."""
    model = ODD[name]
    state = cl.strategies.ogd(model, SGD, capacity=20, per_experience=14).init(cl.key(0))
    assert any(p.ndim == 0 for p in state.model.params.values())
    state = ogd.store(model, 14)(state, FIRST)
    vectors = []
    for x, y in zip(FIRST.x, FIRST.y, strict=True):
        params = {name: w.clone().requires_grad_() for name, w in state.model.params.items()}
        logit = model.apply(params, state.model.buffers, x[None])[0][0, y]
        vectors.append(to_vector(dict(zip(params, torch.autograd.grad(logit, list(params.values())), strict=True))).double())
    S, grads = torch.stack(vectors), gradients(state)
    g = to_vector(grads).double()
    expected = g - S.T @ torch.linalg.lstsq(S.T, g, driver="gelsd").solution
    projected, _ = ogd.project()(grads, state, SECOND)
    assert {name: p.shape for name, p in projected.items()} == {name: p.shape for name, p in grads.items()}
    assert float(to_vector(projected).double().sub(expected).abs().max()) < 1e-3 * float(g.norm())


# All


STRATEGIES = {
    "agem": lambda: cl.strategies.agem(MODEL, SGD, capacity=8, sample_size=8, batch_size=5, epochs=4),
    "gem": lambda: cl.strategies.gem(MODEL, SGD, memory_per_experience=8, n_experiences=2, batch_size=5, epochs=4),
    "owm": lambda: cl.strategies.owm(MODEL, SGD, batch_size=5, epochs=4),
    "ogd": lambda: cl.strategies.ogd(MODEL, SGD, capacity=10, per_experience=10, batch_size=5, epochs=4),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_forgets_less_than_naive(name):
    naive, strategy = cl.strategies.naive(MODEL, SGD, batch_size=5, epochs=4), STRATEGIES[name]()
    probe, old = cl.evaluate(MODEL, BENCH.test), {}
    for label, method in (("naive", naive), (name, strategy)):
        ends = [cl.fold(method.update, method.init(cl.key(seed)), BENCH.train) for seed in range(2)]
        old[label] = torch.stack([probe(end, None)["loss"][0] for end in ends]).mean()
    assert old[name] < old["naive"]


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: agem.project(LOSS, 0), ValueError, "n: expected an integer of at least 1"),
        (lambda: cl.strategies.agem(MODEL, SGD, capacity=2, sample_size=0), ValueError, "sample_size"),
        (lambda: agem.project(3, 1), TypeError, "loss: expected a Loss"),
        (lambda: gem.project(None), TypeError, "loss: expected a Loss"),
        (lambda: cl.strategies.gem(MODEL, SGD, memory_per_experience=0, n_experiences=2), ValueError, "memory_per_experience"),
        (lambda: cl.strategies.gem(MODEL, SGD, memory_per_experience=1, n_experiences=2.0), TypeError, "n_experiences"),
        (lambda: cl.strategies.gem(MODEL, SGD, memory_per_experience=1, n_experiences=2, margin=-1), ValueError, "margin"),
        (lambda: cl.strategies.owm(MODEL, SGD, alpha=0.0), ValueError, "alpha: expected a finite number above 0"),
        (lambda: cl.strategies.owm(registry.NORMED, SGD).init(cl.key(0)), ValueError, r"'1.weight' belongs to no linear layer"),
        (lambda: cl.strategies.owm(registry.ODD, SGD).init(cl.key(0)), ValueError, r"'first.weight' runs twice"),
        (lambda: cl.strategies.ogd(MODEL, SGD, capacity=True, per_experience=2), TypeError, "capacity"),
        (lambda: cl.strategies.ogd(MODEL, SGD, capacity=3, per_experience=0), ValueError, "per_experience"),
        (
            lambda: cl.strategies.owm(cl.models.from_module(double_linear, n_classes=4), SGD).init(cl.key(0)),
            ValueError,
            r"model: OWM must know the shape",
        ),
    ],
)
def test_errors(make, error, match):
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize("alpha", [1e-3, 1e-6])
def test_owm_stays_a_projector_over_hundreds_of_minibatches(alpha):
    """In float32 rounding makes it indefinite, and soon infinite."""
    model = cl.models.mlp(30, (20,), 4)
    net = model.init(cl.key(0))
    state = registry.constrained(cl.key(0)).replace(model=net, owm=owm.init(model, net, alpha))
    data = cl.Dataset(100 * cl.random.uniform(cl.key(1), (4000, 30)), torch.arange(4000) % 4)
    state = cl.minibatches(owm.absorb(model), batch_size=10, shuffle=False)(state, cl.experience(data))
    for P in state.owm.projectors.values():
        values = torch.linalg.eigvalsh(P)
        assert values.min() > -1e-9
        assert values.max() < 1 + 1e-9
