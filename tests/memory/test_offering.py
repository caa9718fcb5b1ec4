"""Memories read from a disk only the rows that stay, and hold then what they would of data in memory, to the bit."""

from __future__ import annotations

import pytest
import registry

import cl_func as cl
from cl_func import random, testing, tree
from cl_func.experiences import experience

DATA = registry.BENCH.train[0].source


class Column:
    """A table that counts the rows that it gives."""

    def __init__(self, values):
        self.values, self.reads = values, []

    def __len__(self):
        return len(self.values)

    def __getitem__(self, rows):
        self.reads.append(len(rows))
        return self.values[rows]


@cl.state
class _Holder(cl.Agent):
    replay: object = None


@pytest.mark.parametrize("memory", ["reservoir", "balanced", "gdumb", "ring"])
def test_memories_read_only_rows_that_stay(memory):
    column = Column(DATA.x.numpy())
    data = cl.data.stored(column, DATA.y, n_classes=DATA.n_classes)
    room = getattr(cl.memory, memory)
    sample, n_classes = cl.memory.sample(registry.MODEL), DATA.n_classes
    made = {
        "reservoir": lambda: room.init(6, sample),
        "balanced": lambda: room.init(6, sample),
        "gdumb": lambda: room.init(6, sample, n_classes),
        "ring": lambda: room.init(6, sample, n_classes),
    }[memory]()
    insert = room.insert()
    agents = [_Holder(key=cl.key(3), replay=made)] * 2
    for i in range(3):
        rows = random.permutation(cl.key(i), len(DATA))[: len(DATA) - i]
        column.reads.clear()
        agents = [insert(a, experience(s, rows, index=i)) for a, s in zip(agents, (DATA, data), strict=True)]
        testing.assert_equal(*agents, memory)
        assert sum(column.reads) <= made.capacity
    lanes = [tree.stack([a, a]) for a in agents]
    compiled = cl.compile(cl.vmap(insert))
    testing.assert_equal(*[compiled(a, experience(s)) for a, s in zip(lanes, (DATA, data), strict=True)], "lanes, compiled")
