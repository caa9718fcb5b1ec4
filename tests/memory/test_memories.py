"""Memories beyond the reservoir: each equal to a list that takes rows one by one, never an unfilled row, never frozen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cl_func as cl
from cl_func.memory import balanced, draws, gdumb, gss, ring

SAMPLE = {"id": torch.tensor(0), "more": (torch.zeros(2),)}
N_CLASSES = 5


def rows(start, n):
    """Rows that can be told apart, none like an unfilled row."""
    ids = torch.arange(start, start + n)
    return {"id": ids, "more": (ids[:, None].float().expand(n, 2),)}


@st.composite
def batches(draw, max_rows=30):
    """Batches of (key, labels [n], valid [n])."""
    out = []
    for i in range(draw(st.integers(1, 5))):
        n = draw(st.integers(1, max_rows))
        few = st.integers(0, draw(st.integers(0, N_CLASSES - 1)))  # classes come little by little
        y = torch.tensor(draw(st.lists(few, min_size=n, max_size=n)))
        valid = torch.tensor(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
        out.append((cl.random.fold_in(cl.key(draw(st.integers(0, 2**32))), i), y, valid))
    return out


def contents(memory):
    """The ids in a memory, after a look at whether all leaves of a row belong together and no other row counts as filled."""
    ids = memory.data["id"][memory.occupied]
    assert torch.equal(memory.data["more"][0][memory.occupied], ids[:, None].float().expand(-1, 2))
    assert (ids > 0).all()
    assert (memory.data["id"][~memory.occupied] == 0).all()
    return sorted(ids.tolist())


def words(key, n):
    """What a balanced memory draws for the rows of a batch: the key of the groups' words, and the rows' priorities."""
    fresh, drawn = cl.random.split(key)
    return fresh, [(int(word) >> 32) & 0x7FFFFFFF for word in cl.random.bits(drawn, n)]


class ByHand:
    """The rule of the balanced memory in plain Python: a row comes in, and where that is one too many the last in order goes."""

    def __init__(self, capacity):
        self.capacity, self.rows, self.order = capacity, [], None

    def offer(self, row, group, priority, fresh):
        self.order = fresh if self.order is None else self.order
        self.rows.append((group, priority, row))
        if len(self.rows) > self.capacity:
            self.rows.remove(max(self.rows, key=self._turn))

    def _turn(self, row):
        rank = sum(other[0] == row[0] and other[1] < row[1] for other in self.rows)
        return rank, (int(cl.random.fold_in(self.order, row[0])) >> 32) & 0x7FFFFFFF


@settings(deadline=None, max_examples=30)
@given(capacity=st.integers(1, 12), batches=batches())
def test_balanced_equals_one_by_one(capacity, batches):
    memory, expected, start = balanced.init(capacity, SAMPLE), ByHand(capacity), 1
    for key, y, valid in batches:
        memory = balanced.add(memory, key, rows(start, len(y)), valid, y)
        fresh, priorities = words(key, len(y))
        for i in range(len(y)):
            if valid[i]:
                expected.offer(start + i, int(y[i]), priorities[i], fresh)
        start += len(y)
        assert contents(memory) == sorted(row for _, _, row in expected.rows)


@settings(deadline=None, max_examples=30)
@given(capacity=st.integers(1, 12), batches=batches())
def test_gdumb_equals_one_by_one(capacity, batches):
    """Algorithm 1 with the share rounded down."""
    memory, expected, start = gdumb.init(capacity, SAMPLE, N_CLASSES), ByHand(capacity), 1
    seen = []
    for key, y, valid in batches:
        memory = gdumb.add(memory, key, rows(start, len(y)), valid, y)
        fresh, priorities = words(key, len(y))
        for i, label in enumerate(y.tolist()):
            if not valid[i]:
                continue
            new = label not in seen
            seen += [label] * new
            count = sum(group == label for group, _, _ in expected.rows)
            if new or count < capacity // len(seen):
                sizes = [sum(group == c for group, _, _ in expected.rows) for c in range(N_CLASSES)]
                full, before = len(expected.rows) == capacity, list(expected.rows)
                expected.offer(start + i, label, priorities[i], fresh)
                if full and len(seen) <= capacity:  # what is replaced is a row of the largest class
                    (gone,) = [row for row in before if row not in expected.rows]
                    assert sizes[gone[0]] == max(sizes)
        start += len(y)
        assert contents(memory) == sorted(row for _, _, row in expected.rows)
        assert memory.filled == len(expected.rows)


@settings(deadline=None, max_examples=30)
@given(per_class=st.integers(1, 5), batches=batches())
def test_ring_keeps_the_last_of_each_class(per_class, batches):
    memory, offered, start = ring.init(per_class, SAMPLE, N_CLASSES), [[] for _ in range(N_CLASSES)], 1
    assert memory.capacity == per_class * N_CLASSES
    for key, y, valid in batches:
        memory = ring.add(memory, key, rows(start, len(y)), valid, y)
        for i in range(len(y)):
            offered[int(y[i])] += [start + i] * bool(valid[i])
        start += len(y)
        assert contents(memory) == sorted(i for ids in offered for i in ids[-per_class:])
    stored = memory.data["id"].view(N_CLASSES, per_class)
    for c in range(N_CLASSES):
        assert set(stored[c].tolist()) - {0} == set(offered[c][-per_class:])


@settings(deadline=None, max_examples=30)
@given(capacity=st.integers(1, 12), batches=batches(max_rows=12), data=st.data())
def test_gss_equals_one_by_one(capacity, batches, data):
    """Algorithm 2 in plain Python, given the scores."""
    memory, ids, kept, start = gss.init(capacity, SAMPLE), [], [], 1
    for key, y, valid in batches:
        n = len(y)
        scores = np.float32(data.draw(st.lists(st.floats(0, 2, width=32), min_size=n, max_size=n)))
        chances = cl.random.uniform(key, (n, 2), torch.float64).numpy()
        memory = gss.add(memory, key, rows(start, n), valid, torch.from_numpy(scores))
        for i in range(n):
            if not valid[i]:
                continue
            if len(ids) < capacity:
                ids.append(start + i)
                kept.append(scores[i])
            elif scores[i] < 1 and sum(kept) > 0:
                mass = np.cumsum(np.float64(kept))
                victim = int(np.searchsorted(mass, chances[i, 0] * mass[-1], side="right"))
                if chances[i, 1] * (kept[victim] + scores[i]) < kept[victim]:
                    ids[victim], kept[victim] = start + i, scores[i]
        start += n
        contents(memory)
        assert memory.data["id"][: len(ids)].tolist() == ids
        assert memory.score[: len(ids)].tolist() == [float(c) for c in kept]
        assert memory.filled == len(ids)


def offer(memory, label_of, total, size, key=7):
    for start in range(0, total, size):
        ids = torch.arange(start + 1, min(start + size, total) + 1)
        key_of_batch = cl.random.fold_in(cl.key(key), start)
        data = {"id": ids, "more": (ids[:, None].float().expand(-1, 2),)}
        memory = balanced.add(memory, key_of_batch, data, torch.ones_like(ids, dtype=torch.bool), label_of(ids))
    return memory


def counts(memory, n):
    return torch.bincount(memory.group[memory.occupied], minlength=n).tolist()


def test_shares_are_exact_as_classes_arrive():
    memory = balanced.init(10, SAMPLE)
    for c in range(4):
        ids = torch.arange(100 * c + 1, 100 * c + 101)
        data = {"id": ids, "more": (ids[:, None].float().expand(-1, 2),)}
        memory = balanced.add(memory, cl.key(c), data, torch.ones(100, dtype=torch.bool), torch.full((100,), c))
        shares = counts(memory, 4)
        assert sum(shares) == 10
        assert shares[c + 1 :] == [0] * (3 - c)
        assert set(shares[: c + 1]) <= {10 // (c + 1), 10 // (c + 1) + 1}


def test_what_a_small_class_leaves_is_used_by_the_others():
    memory = offer(balanced.init(10, SAMPLE), lambda ids: torch.where(ids % 50 == 0, 0, 1 + ids % 2), 100, 10)
    assert counts(memory, 3) == [2, 4, 4]


def test_a_memory_of_more_experiences_than_rows_does_not_freeze():
    def run(key):
        memory = balanced.init(4, {"id": torch.tensor(0)})
        for i in range(40):
            ten = torch.arange(10 * i, 10 * i + 10)
            memory = balanced.add(memory, cl.random.fold_in(key, i), {"id": ten}, ten >= 0, torch.full((10,), i))
        return memory.group

    groups = torch.func.vmap(run)(cl.random.split(cl.key(3), 100))
    assert all(len(set(run)) == 4 for run in groups.tolist())  # one row each of four experiences
    assert 160 < (groups >= 20).sum() < 240  # of 400 a half, give or take 4 standard deviations


@pytest.mark.parametrize("size", [1, 40])
def test_within_a_class_the_sample_is_uniform(size):
    """Rows of class 0 come first, those of class 1 last; each is kept as often as any other of its class."""
    runs, total, capacity = 400, 40, 8

    def run(key):
        memory = balanced.init(capacity, {"id": torch.tensor(0)})
        for i in range(total // size):
            ids = torch.arange(i * size, (i + 1) * size)
            label = (ids >= 30).long()
            memory = balanced.add(memory, cl.random.fold_in(key, i), {"id": ids}, torch.ones(size, dtype=torch.bool), label)
        return memory.data["id"]

    kept = torch.bincount(torch.func.vmap(run)(cl.random.split(cl.key(5), runs)).flatten(), minlength=total).double()
    for group, share in ((slice(0, 30), 4 / 30), (slice(30, 40), 4 / 10)):
        n = len(kept[group])
        assert kept[group].sum() == 4 * runs
        # Chi-square with n - 1 degrees of freedom; the bound is its mean plus 4 standard deviations.
        distance = ((kept[group] - runs * share) ** 2 / (runs * share * (1 - share))).sum() * (n - 1) / n
        assert distance < n - 1 + 4 * (2 * (n - 1)) ** 0.5


def labelled(occupied, label):
    """A memory with rows at some of its indices: y is given, x is the index."""
    index = torch.arange(len(label))
    data = {"x": index[:, None].float(), "y": torch.as_tensor(label)}
    return type("Memory", (), {"data": data, "occupied": torch.tensor(occupied), "capacity": len(label)})


@pytest.mark.parametrize("draw", [draws.uniform, draws.class_balanced, draws.distinct])
@settings(deadline=None, max_examples=40)
@given(occupied=st.lists(st.booleans(), min_size=1, max_size=12), key=cl.testing.keys(), data=st.data())
def test_draws_give_occupied_rows_only(draw, occupied, key, data):
    m = len(occupied)
    label = data.draw(st.lists(st.integers(0, 3), min_size=m, max_size=m))
    n = data.draw(st.integers(1, m))
    drawn, valid = draw(labelled(occupied, label), key, n)
    index = drawn["x"][valid, 0].long()
    assert drawn["x"].shape == (n, 1)
    assert valid.sum() == min(n, sum(occupied))
    assert all(occupied[i] for i in index)
    assert drawn["y"][valid].tolist() == [label[i] for i in index]
    if draw is draws.distinct:
        assert len(set(index.tolist())) == len(index)


def frequencies(draw, n, occupied, label, runs=3000):
    keys = cl.random.split(cl.key(3), runs)
    memory = labelled(occupied, label)
    indices = torch.func.vmap(lambda key: draw(memory, key, n)[0]["x"][:, 0])(keys).long()
    return torch.bincount(indices.flatten(), minlength=len(label)).double() / (runs * n)


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (draws.uniform, [0, 1 / 5, 1 / 5, 1 / 5, 1 / 5, 1 / 5, 0]),
        (draws.distinct, [0, 1 / 5, 1 / 5, 1 / 5, 1 / 5, 1 / 5, 0]),
        (draws.class_balanced, [0, 1 / 6, 1 / 3, 1 / 6, 1 / 6, 1 / 6, 0]),  # classes of 2, 1 and 2 rows
    ],
)
def test_draws_have_the_chances_they_promise(draw, expected):
    found = frequencies(draw, 2, [False, True, True, True, True, True, False], [0, 3, 1, 3, 2, 2, 1])
    assert (found - torch.tensor(expected)).abs().max() < 4 * (0.25 / 6000) ** 0.5


@pytest.mark.parametrize("draw", [draws.uniform, draws.class_balanced])
def test_a_full_memory_of_one_row_each(draw):
    assert (frequencies(draw, 3, [True] * 4, [3, 1, 0, 2]) - 0.25).abs().max() < 0.03


def test_gss_scores_are_cosines():
    """A linear softmax model: the gradient of one row is (p - onehot(y)) x^T beside (p - onehot(y))."""
    model = cl.models.mlp(3, hidden=(), n_classes=4)
    net = model.init(cl.key(1))
    x, y = cl.random.normal(cl.key(2), (9, 3)), torch.arange(9) % 4
    weight, bias = (net.params[name].numpy() for name in sorted(net.params, reverse=True))
    logits = x.numpy() @ weight.T + bias
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - np.eye(4)[y]
    grads = np.concatenate([(p[:, :, None] * x.numpy()[:, None]).reshape(9, -1), p], 1)
    grads /= np.linalg.norm(grads, axis=1, keepdims=True)

    data = {"x": x, "y": y, "task": torch.zeros(9, dtype=torch.int64)}
    first, last = (cl.tree.map(lambda leaf, part=part: leaf[part], data) for part in (slice(0, 5), slice(5, 9)))
    valid = torch.tensor([True, False, True, True])
    found = gss.scores(model, net, first, last, valid)
    np.testing.assert_allclose(found.numpy(), (grads[:5] @ grads[5:][valid.numpy()].T).max(1) + 1, atol=1e-6)
    assert gss.scores(model, net, first, last, ~(valid | True)).tolist() == [1.0] * 5


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: balanced.init(0, SAMPLE), ValueError, "capacity: .* at least 1, got 0"),
        (lambda: ring.init(0, SAMPLE, 3), ValueError, "per_class: .* at least 1, got 0"),
        (lambda: ring.init(2, SAMPLE, 1.5), TypeError, "n_classes"),
        (lambda: gdumb.init(2, {}, 3), ValueError, "sample: expected a tree of tensors"),
        (lambda: gdumb.init(2, SAMPLE, 0), ValueError, "n_classes"),
        (lambda: gss.insert(None, subset_size=0), ValueError, "subset_size"),
        (lambda: draws.distinct(labelled([True], [0]), cl.key(0), 2), ValueError, "n: 2 different rows .* of 1"),
        (
            lambda: balanced.add(balanced.init(2, SAMPLE), cl.key(0), {"id": torch.tensor([1])}, torch.tensor([True]), None),
            ValueError,
            "rows: the memory stores",
        ),
        (lambda: ring_of_two(ring.init(2, cl.memory.sample(MODEL), 2)), ValueError, "n_classes: .* for 2 classes, the data has 4"),
        (lambda: ring_of_two(gdumb.init(2, cl.memory.sample(MODEL), 2)), ValueError, "n_classes: .* n_classes=4"),
    ],
)
def test_errors_name_the_argument(call, error, match):
    with pytest.raises(error, match=match):
        call()


MODEL = cl.models.mlp(6, hidden=(8,), n_classes=4)
BENCH = cl.testing.small_benchmark()


def ring_of_two(memory):
    agent = cl.strategies.er(MODEL, cl.optim.sgd(0.1), capacity=2, replay_size=1).init(cl.key(0)).replace(replay=memory)
    return (ring if isinstance(memory, cl.memory.Ring) else gdumb).insert()(agent, BENCH.train[0])
