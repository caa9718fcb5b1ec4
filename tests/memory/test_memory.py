"""The reservoir: equal to offering rows one by one, uniform, never an unfilled row."""

from __future__ import annotations

import pytest
import registry
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cl_func as cl
from cl_func.memory import reservoir

SAMPLE = {"x": torch.zeros(2), "y": torch.tensor(0)}


def rows(start, n):
    y = torch.arange(start, start + n)
    return {"x": y[:, None].float().expand(n, 2), "y": y}


def offer(memory, key, start, n, valid=None):
    return reservoir.add(memory, key, rows(start, n), torch.ones(n, dtype=torch.bool) if valid is None else valid)


def by_hand(capacity, key, valid, start=1, stored=None, seen=0):
    """Algorithm R in plain Python, with the indices that the vectorised insertion draws."""
    stored, n = dict(stored or {}), len(valid)
    t = seen + torch.cumsum(valid, 0)
    drawn = cl.random.randint(key, n, 0, t)
    for i in range(n):
        if not valid[i]:
            continue
        seen += 1
        index = seen - 1 if seen <= capacity else int(drawn[i])
        if index < capacity:
            stored[index] = start + i
    return stored, seen


@settings(deadline=None, max_examples=200)
@given(
    capacity=st.integers(1, 12),
    sizes=st.lists(st.integers(1, 90), min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_insertion_equals_one_by_one(capacity, sizes, seed, data):
    memory, stored, seen, start = reservoir.init(capacity, SAMPLE), {}, 0, 1
    for i, n in enumerate(sizes):
        key = cl.random.fold_in(cl.key(seed), i)
        valid = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
        memory = offer(memory, key, start, n, valid)
        stored, seen = by_hand(capacity, key, valid, start, stored, seen)
        start += n
    expected = [stored.get(i, 0) for i in range(capacity)]
    assert memory.data["y"].tolist() == expected
    assert memory.data["x"][:, 1].tolist() == expected
    assert memory.seen == seen
    assert memory.filled == min(seen, capacity)


@pytest.mark.parametrize("size", [1, 10, 100])
def test_inclusion_is_uniform(size):
    runs, total, capacity = 600, 100, 10
    keys = cl.random.split(cl.key(5), runs)

    def run(key):
        memory = reservoir.init(capacity, {"y": torch.tensor(0)})
        for i in range(total // size):
            y = torch.arange(i * size, (i + 1) * size)
            memory = reservoir.add(memory, cl.random.fold_in(key, i), {"y": y}, torch.ones(size, dtype=torch.bool))
        return memory.data["y"]

    kept = torch.bincount(torch.func.vmap(run)(keys).flatten(), minlength=total).double()
    expected = runs * capacity / total
    # Each row is kept with probability 0.1: a binomial count; the sum of squares is chi-square-like with 99 degrees of freedom.
    assert ((kept - expected) ** 2 / (expected * (1 - capacity / total))).sum() < 150
    assert kept.sum() == runs * capacity


@settings(deadline=None)
@given(n_filled=st.integers(0, 12), n=st.integers(1, 20), key=cl.testing.keys())
def test_draw_gives_filled_rows_only(n_filled, n, key):
    memory = reservoir.init(8, SAMPLE)
    if n_filled:
        memory = offer(memory, cl.key(1), 1, n_filled)
    drawn, valid = reservoir.draw(memory, key, n)
    assert valid.sum() == min(n, n_filled, 8)
    assert (drawn["y"][valid] > 0).all()  # 0 is what an unfilled row holds
    assert drawn["x"].shape == (n, 2)


def test_draw_is_uniform():
    memory = offer(reservoir.init(5, SAMPLE), cl.key(0), 1, 5)
    drawn, _ = reservoir.draw(memory, cl.key(3), 5000)
    counts = torch.bincount(drawn["y"], minlength=6)[1:]
    assert ((counts - 1000.0) ** 2 / 1000).sum() < 18.5  # chi-square, 4 degrees of freedom, p = 0.001


def test_join():
    data = cl.Dataset(torch.arange(8.0).view(4, 2), torch.tensor([0, 1, 2, 3]))
    exp = cl.experience(data, torch.tensor([1, 0]), task=5)
    more = {"x": torch.full((3, 2), 9.0), "y": torch.tensor([3, 2, 2]), "task": torch.tensor([7, 8, 8])}
    joined = cl.memory.join(exp, more, torch.tensor([True, False, False]))
    assert joined.x.tolist() == [[9.0, 9.0], [9.0, 9.0], [9.0, 9.0], [2.0, 3.0], [0.0, 1.0]]
    assert joined.y.tolist() == [3, 2, 2, 1, 0]
    assert joined.tasks.tolist() == [7, 8, 8, 5, 5]
    assert joined.valid.tolist() == [True, False, False, True, True]
    assert joined.classes.tolist() == [True, True, False, True]


def test_images_are_stored_flat_or_in_shape():
    data = cl.Dataset(torch.randint(0, 256, (6, 1, 4, 4), dtype=torch.uint8), torch.arange(6) % 3)
    exp = cl.experience(data)
    flat = {"x": torch.zeros(16), "y": torch.tensor(0), "task": torch.tensor(0)}
    agent = cl.tree.state(type("A", (cl.Agent,), {"__annotations__": {"replay": object}}))(
        key=cl.key(0), replay=reservoir.init(9, flat)
    )
    out = reservoir.insert()(agent, exp)
    assert torch.equal(out.replay.data["x"][:6], exp.x.flatten(1))


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: reservoir.init(0, SAMPLE), ValueError, "capacity: .* at least 1, got 0"),
        (lambda: reservoir.init(1.5, SAMPLE), TypeError, "capacity"),
        (lambda: reservoir.init(3, {}), ValueError, "sample: expected a tree of tensors"),
        (lambda: reservoir.init(3, {"x": 1}), ValueError, "sample"),
        (lambda: offer(reservoir.init(3, {"y": torch.tensor(0)}), cl.key(0), 0, 2), ValueError, "give the same fields"),
        (lambda: offer(reservoir.init(3, {**SAMPLE, "x": torch.zeros(3)}), cl.key(0), 0, 2), ValueError, r"float32\[3, 3\]"),
        (lambda: offer(reservoir.init(3, {**SAMPLE, "y": torch.tensor(0.0)}), cl.key(0), 0, 2), ValueError, "dtype"),
        (lambda: cl.memory.sample(cl.models.from_module(torch.nn.Flatten, n_classes=2)), ValueError, "input_shape"),
    ],
)
def test_errors(call, error, match):
    with pytest.raises(error, match=match):
        call()


@cl.state
class Slotted:
    """A memory of one's own whose filled rows do not come first."""

    data: dict
    occupied: torch.Tensor

    @property
    def filled(self):
        return self.occupied.sum()


def test_the_default_draw_takes_occupied_rows_wherever_they_are():
    data = {"x": torch.arange(6.0)[:, None] * torch.ones(6), "y": torch.tensor([0, 1, 0, 2, 0, 3]), "task": torch.zeros(6).long()}
    memory = Slotted(data=data, occupied=torch.tensor([False, True, False, True, False, True]))
    agent = registry.init(cl.key(0)).replace(replay=memory)
    seen = []

    def loss(params, state, exp):
        seen.append(exp.x[exp.valid][:, 0])
        return cl.losses.cross_entropy(registry.MODEL)(params, state, exp)

    for key in range(5):
        cl.losses.replayed(loss, 3)(agent.model.params, agent.replace(key=cl.key(key)), registry.BENCH.train[0])
    assert set(torch.cat(seen).tolist()) == {1.0, 3.0, 5.0}
    with pytest.raises(TypeError, match=r"memory: expected a Reservoir .*draws\.uniform"):
        reservoir.draw(memory, cl.key(0), 3)


@pytest.mark.parametrize("name", ["er", "er_ace", "er_lwf", "der", "der_pp", "icarl", "mir", "gss"])
def test_more_rows_than_the_capacity_are_not_replayed(name):
    more = {"subset_size": 2} if name == "gss" else {}
    with pytest.raises(ValueError, match="replay_size: expected at most the capacity, 5, got 6"):
        getattr(cl.strategies, name)(registry.MODEL, registry.SGD, capacity=5, replay_size=6, batch_size=4, **more)


def test_candidates_default_to_what_fits():
    for capacity, replay_size, n in ((400, 10, 50), (40, 10, 40), (400, 60, 60)):
        given, default = (
            cl.strategies.mir(registry.MODEL, registry.SGD, capacity=capacity, replay_size=replay_size, **more)
            for more in ({"candidates": n}, {})
        )
        a, b = (cl.fold(s.update, s.init(cl.key(0)), registry.BENCH.train) for s in (given, default))
        assert cl.tree.equal(a, b)


@pytest.mark.parametrize(
    ("stored", "given", "fits"),
    [
        ((3, 8, 6), (144,), True),
        ((144,), (3, 8, 6), True),
        ((1, 8, 6), (8, 6), True),
        ((3, 8, 6), (3, 6, 8), False),
        ((3, 8, 6), (8, 6, 3), False),
        ((3, 8, 6), (24, 6), False),
    ],
)
def test_rows_are_flattened_but_never_sheared(stored, given, fits):
    """Rows of another shape with as many values are other rows, unless one of the shapes is flat."""
    exp = cl.experience(cl.Dataset(torch.rand(4, *given), torch.arange(4)))
    held = cl.memory.reservoir.init(6, {"x": torch.zeros(stored), "y": torch.tensor(0), "task": torch.tensor(0)})
    rows = cl.memory.fields(None, exp)
    kept = {**rows, "x": torch.zeros(2, *stored), "y": torch.zeros(2).long(), "task": torch.zeros(2).long()}
    valid = torch.ones(2, dtype=torch.bool)
    if fits:
        added = cl.memory.reservoir.add(held, cl.key(0), rows, exp.valid)
        assert torch.equal(added.data["x"][:4].flatten(1), exp.x.flatten(1))
        assert torch.equal(cl.memory.join(exp, kept, valid).x[2:].flatten(1), exp.x.flatten(1))
        return
    with pytest.raises(ValueError, match=r"the memory stores float32\[6, 3, 8, 6\], rows come as"):
        cl.memory.reservoir.add(held, cl.key(0), rows, exp.valid)
    with pytest.raises(ValueError, match=r"of shape \[3, 8, 6\], the experience has"):
        cl.memory.join(exp, kept, valid)
