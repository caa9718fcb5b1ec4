"""Repaired graphs: what is written into elements that lanes share stays in its lane."""

from __future__ import annotations

import pytest
import registry
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import cl_func as cl
from cl_func import random, testing, tree
from cl_func.compiler import repairs
from cl_func.memory import reservoir

aten = torch.ops.aten
N = 5
WRITES = {
    "index_put": lambda made, i, v: made.index_put((i,), v),
    "index_put, added": lambda made, i, v: made.index_put((i,), v, accumulate=True),
    "index_add": lambda made, i, v: made.index_add(0, i, v),
    "index_copy": lambda made, i, v: made.index_copy(0, i, v),
    "index_fill": lambda made, i, v: made.index_fill(0, i, 7),
    "scatter": lambda made, i, v: made.scatter(0, i, v),
    "scatter_add": lambda made, i, v: made.scatter_add(0, i, v),
    "scatter_reduce": lambda made, i, v: made.scatter_reduce(0, i, v, "sum"),
    "indexed": lambda made, i, v: made[i] * 10,
}


@cl.state
class Agent(cl.Agent):
    out: torch.Tensor  # [writes, N] int64


def start(shape):
    net = registry.MODEL.init(cl.key(0))
    states = [
        Agent(key=key, model=net, opt=cl.optim.sgd(0.1).init(net.params), out=torch.zeros(shape, dtype=torch.int64)) for key in KEYS
    ]
    return states, tree.stack(states)


KEYS = list(random.split(cl.key(3), 3))
EXP = registry.BENCH.train[0]


def write_all(agent, exp):
    """Every kind of write into a tensor that the step makes, the same for all lanes, where and what being drawn in each lane."""
    where = random.permutation(agent.key, N)[:2]
    what = random.randint(agent.key, 2, 10, 99)
    outs = []
    for write in WRITES.values():
        out = write(torch.arange(N), where, what)
        outs.append(out if len(out) == N else torch.cat([out, out, out])[:N])
    return agent.replace(out=torch.stack(outs))


def fill_new_memory(agent, exp):
    """A memory that is made within the step: its tensors are those of no lane before they are written."""
    memory = tree.replace(reservoir.init(N, torch.tensor(0)), data=-1 - torch.arange(N), seen=torch.tensor(3))
    memory = reservoir.add(memory, agent.key, torch.arange(len(exp)), exp.valid)
    return agent.replace(out=memory.data[None])


@pytest.mark.parametrize(("update", "shape"), [(write_all, (len(WRITES), N)), (fill_new_memory, (1, N))])
def test_what_is_written_stays_in_its_lane(update, shape):
    states, lanes = start(shape)
    singles = tree.stack([update(state, EXP) for state in states])
    assert len({tuple(out.flatten().tolist()) for out in singles.out}) == len(KEYS)
    testing.assert_equal(cl.vmap(update)(lanes, EXP), singles, "vmapped")
    for rewrite in (True, False):
        testing.assert_equal(cl.compile(cl.vmap(update), rewrite=rewrite)(lanes, EXP), singles, "compiled")


def test_only_shared_elements_are_copied():
    def step(i, v, own):
        return torch.arange(N).index_put((i,), v), own.index_put((i,), v)

    leaves = [torch.tensor([[0, 1], [2, 3]]), torch.tensor([[5, 6], [7, 8]]), torch.zeros(2, N, dtype=torch.int64)]
    graph = make_fx(torch.func.vmap(step))(*leaves)
    before = graph(*leaves)
    repairs.repair(graph.graph)
    graph.recompile()
    assert [node.target for node in graph.graph.nodes].count(aten.clone.default) == 1
    testing.assert_equal(graph(*leaves), before, "repaired")
