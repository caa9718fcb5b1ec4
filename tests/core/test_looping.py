"""Loops that offer their steps to a leaf: what stands between two steps happens between two pieces."""

from __future__ import annotations

import dataclasses

import pytest
import registry
import torch

import cl_func as cl
from cl_func.core.looping import Ahead, Slices
from cl_func.experiences import Stream

EXP = registry.BENCH.train[0]


class Counter:
    """An Update on [count] that takes up to `most` steps by itself, and remembers what it was offered."""

    def __init__(self, most):
        self.most, self.offered = most, []

    def __call__(self, state, exp):
        return state.replace(model=state.model + exp.rows.sum())

    def advance(self, state, batches, seconds):
        self.offered.append(batches)
        exps, done = getattr(batches, "experiences", None), 0
        if exps is None:
            exps = [batches.first] * batches.count
        for exp in exps[: self.most]:
            state.model.add_(exp.rows.sum())
            done += 1
        return done


def start():
    return cl.Agent(key=cl.key(0), model=torch.zeros((), dtype=torch.int64), opt=None)


def stream(n):
    return cl.experiences.stream([EXP.take(EXP.rows[i : i + 1], EXP.valid[:1]) for i in range(n)])


@pytest.mark.parametrize("every", [1, 3, 100])
@pytest.mark.parametrize("most", [0, 1, 2, 100])
def test_a_stream_is_seen_once_and_measured_when_due(most, every):
    counter, entries = Counter(most), []
    _, history = cl.scan(
        counter, start(), stream(10), lambda s, e: {"sum": s.model.clone(), "index": e.rows[0]}, every=every,
        tap=lambda time, entry: entries.append(entry),
    )  # fmt: skip
    total = torch.cat([exp.rows for exp in stream(10)]).cumsum(0)
    due = [i for i in range(10) if (i + 1) % every == 0 or i == 9]
    assert history["sum"].tolist() == total[due].tolist()
    assert history["index"].tolist() == [stream(10)[i].rows.item() for i in due]
    assert len(entries) == len(due)


def test_experiences_are_made_ahead_only_once_some_were_taken_and_only_those_of_a_sequence():
    made = []

    def make(i):
        made.append(i)
        return stream(10)[i]

    for most, sequence, ahead in [(0, True, 1), (100, True, 4), (100, False, 1)]:
        made.clear()
        counter = Counter(most)
        experiences = Stream(make, 10)
        end = cl.fold(counter, start(), experiences if sequence else iter(experiences))
        assert made == [*range(10)]
        assert max(len(batches.experiences) for batches in counter.offered) == ahead
        assert int(end.model) == sum(int(exp.rows) for exp in stream(10))


def test_an_update_that_takes_none_gets_one_experience_after_the_other():
    ahead = Ahead(lambda s, e: s, iter(range(3)), True)
    assert ahead.advance(None, 5) == (0, None)
    assert [ahead.pop() for _ in range(3)] == [0, 1, 2]
    with pytest.raises(StopIteration):
        ahead.pop()


@pytest.mark.parametrize("iterations", [None, 7])
def test_minibatches_offer_the_rest_of_a_pass(iterations):
    counter = Counter(2)
    step = cl.minibatches(lambda s, e: s, batch_size=4, epochs=1 if iterations else 2, iterations=iterations)
    loop = dataclasses.replace(step, step=counter)
    loop(start(), EXP)
    per_epoch = -(-len(EXP) // 4)
    total = iterations or 2 * per_epoch
    expected, i = [], 0
    while i < total:
        count = min(per_epoch - i % per_epoch, total - i)
        if count > 1:
            expected.append((i % per_epoch * 4, count))
        i += min(count, 2) if count > 1 else 1
    assert [(s.start, s.count) for s in counter.offered] == expected


def test_the_addresses_of_slices():
    slices = Slices(EXP, EXP.rows, EXP.valid, 2, 3, 3)
    leaves = cl.tree.leaves(slices.first)
    copied = [*range(2, len(leaves))]
    table = slices.addresses(leaves, copied)
    for i in range(3):
        rows, valid = EXP.rows[2 + 3 * i : 5 + 3 * i], EXP.valid[2 + 3 * i : 5 + 3 * i]
        expected = [x.data_ptr() for x in cl.tree.leaves(EXP.take(rows, valid))]
        assert table[i].tolist() == [expected[j] for j in copied]
    assert [slices.up_to(n).count for n in (2, 9)] == [2, 3]
