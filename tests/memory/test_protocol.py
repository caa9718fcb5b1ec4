"""The one form of all memories: what they have, how rows get in and out, and that a memory of one's own is as good as theirs."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import registry
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cl_func as cl
from cl_func import losses, memory, testing
from cl_func.memory import balanced, gdumb, gss, herding, reservoir, ring

MODEL, BENCH = registry.MODEL, registry.BENCH
SAMPLE = memory.sample(MODEL)
DRAWS = {"uniform": memory.draws.uniform, "distinct": memory.draws.distinct, "class_balanced": memory.draws.class_balanced}


@dataclasses.dataclass(frozen=True)
class Kind:
    """A memory of the library: its module, an empty one, and what its `add` takes after the four arguments of all."""

    module: Any
    empty: Any
    more: Callable[[dict[str, torch.Tensor]], dict[str, Any]] = lambda rows: {}


def label(rows):
    return {"label": rows["y"]}


KINDS = {
    "balanced": Kind(balanced, balanced.init(5, SAMPLE), lambda rows: {"group": rows["y"]}),
    "gdumb": Kind(gdumb, gdumb.init(5, SAMPLE, 4), label),
    "gss": Kind(gss, gss.init(5, SAMPLE), lambda rows: {"score": rows["x"][:, 0].abs().clamp(max=2)}),
    "herding": Kind(herding, herding.init(5, SAMPLE, 4), lambda rows: {**label(rows), "embed": lambda rows: rows["x"]}),
    "reservoir": Kind(reservoir, reservoir.init(5, SAMPLE)),
    "ring": Kind(ring, ring.init(2, SAMPLE, 4), label),
}
every_kind = pytest.mark.parametrize("kind", [pytest.param(kind, id=name) for name, kind in KINDS.items()])


def test_no_memory_of_the_library_is_left_out():
    classes = {value for value in vars(memory).values() if isinstance(value, type) and value is not memory.Memory}
    assert {type(kind.empty) for kind in KINDS.values()} == classes
    modules = {value for value in vars(memory).values() if inspect.ismodule(value) and hasattr(value, "add")}
    assert {kind.module for kind in KINDS.values()} == modules


@every_kind
def test_it_is_a_memory(kind):
    held = kind.empty
    assert isinstance(held, memory.Memory)
    assert isinstance(held.capacity, int)
    assert (held.occupied.shape, held.occupied.dtype) == ((held.capacity,), torch.bool)
    assert all(leaf.shape[0] == held.capacity for leaf in cl.tree.leaves(held.data))
    assert not isinstance(registry.init(cl.key(0)), memory.Memory)


@every_kind
def test_add_and_draw_take_the_same_arguments_in_one_order(kind):
    names = list(inspect.signature(kind.module.add).parameters)
    assert names[:4] == ["memory", "key", "rows", "valid"]
    assert names[4:] == list(kind.more(memory.fields(None, BENCH.train[0])))
    assert list(inspect.signature(kind.module.draw).parameters) == ["memory", "key", "n"]
    for draw in DRAWS.values():
        assert list(inspect.signature(draw).parameters) == ["memory", "key", "n"]


@every_kind
@settings(deadline=None, max_examples=15)
@given(data=st.data(), key=testing.keys())
def test_what_holds_of_every_memory(kind, data, key):
    held = kind.empty
    for i, n in enumerate(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))):
        data_key, add_key, draw_key = cl.random.split(cl.random.fold_in(key, i), 3)
        rows = {
            "x": cl.random.normal(data_key, (n, 6)),
            "y": cl.random.randint(data_key, n, 0, 4),
            "task": torch.zeros(n, dtype=torch.int64),
        }
        add = lambda valid: kind.module.add(held, add_key, rows, valid, **kind.more(rows))  # noqa: B023, E731
        unchanged = add(torch.zeros(n, dtype=torch.bool))
        testing.assert_equal(unchanged.data, held.data, "data after rows of which none is valid")
        assert torch.equal(unchanged.occupied, held.occupied)
        held = add(torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n))))
        assert type(held) is type(kind.empty)
        assert held.capacity == kind.empty.capacity
        assert held.occupied.sum() <= held.capacity
        for draw in (kind.module.draw, *DRAWS.values()):
            testing.check_draw(draw, held, int(draw_key) % held.capacity + 1)


@every_kind
def test_insert_is_add_on_the_slot(kind):
    """The very rows of an experience go in, and the key moves on only where it was drawn from."""
    agent = registry.init(cl.key(0)).replace(replay=kind.empty)
    needs = {gss: (MODEL, 3), herding: (MODEL,)}.get(kind.module, ())
    after = kind.module.insert(*needs)(agent, BENCH.train[0])
    assert after.replay.occupied.any()
    stored = after.replay.data["x"][after.replay.occupied]
    assert (stored[:, None] == BENCH.train[0].x).all(2).any(1).all()
    assert torch.equal(after.key, agent.key) == (kind.module in (ring, herding))


@cl.state
class EveryOther:
    """A memory of a user's own: it stores rows at its odd indices, from the last one down, and then starts again."""

    data: dict[str, torch.Tensor]
    count: torch.Tensor

    @property
    def capacity(self) -> int:
        return self.data["y"].shape[0]

    @property
    def occupied(self) -> torch.Tensor:
        index = torch.arange(self.capacity, device=self.count.device)
        return (index % 2 == 1) & ((self.capacity - 1 - index) // 2 < self.count)


def add_every_other(memory: EveryOther, key: torch.Tensor, rows: Any, valid: torch.Tensor) -> EveryOther:
    for i in valid.nonzero().flatten().tolist():
        index = memory.capacity - 1 - 2 * int(memory.count) % memory.capacity
        data = {name: stored.index_copy(0, torch.tensor([index]), rows[name][i : i + 1]) for name, stored in memory.data.items()}
        memory = memory.replace(data=data, count=memory.count + 1)
    return memory


def of_ones_own(n):
    """That memory with the first n rows of an experience in it, and 77 wherever it holds none."""
    data = {name: torch.zeros(8, *row.shape, dtype=row.dtype) for name, row in SAMPLE.items()}
    data["x"] = data["x"] + 77
    exp = BENCH.train[0]
    rows = {name: row[:n] for name, row in memory.fields(None, exp).items()}
    return add_every_other(EveryOther(data=data, count=torch.tensor(0)), cl.key(0), rows, exp.valid[:n])


@pytest.mark.parametrize("n", [0, 1, 3, 4])
@pytest.mark.parametrize("draw", DRAWS)
def test_draws_work_with_a_memory_of_ones_own(draw, n):
    held = of_ones_own(n)
    assert isinstance(held, memory.Memory)
    assert held.occupied.sum() == n
    testing.check_draw(DRAWS[draw], held, 3)


@pytest.mark.parametrize("draw", DRAWS)
def test_losses_replay_a_memory_of_ones_own(draw):
    agent, exp = registry.init(cl.key(0)).replace(replay=of_ones_own(3)), BENCH.train[1]
    loss = losses.with_replay(losses.cross_entropy(MODEL), 3, draw=DRAWS[draw])
    rows, valid = DRAWS[draw](agent.replay, cl.random.split(agent.key)[1], 3)
    value, after = loss(agent.model.params, agent, exp)
    expected, _ = losses.cross_entropy(MODEL)(agent.model.params, agent, memory.join(exp, rows, valid))
    assert torch.equal(value, expected)
    assert value.isfinite()
    assert after.key != agent.key
    testing.check_loss(loss, agent, exp)


@pytest.mark.parametrize("batch_size", [None, 4])
def test_a_memory_of_ones_own_is_rehearsed(batch_size):
    """The step sees the three rows that it holds and no other."""
    agent, exp = registry.init(cl.key(0)).replace(replay=of_ones_own(3)), BENCH.train[1]
    seen: list[torch.Tensor] = []

    def step(state, exp):
        seen.append(exp.x[exp.valid])
        return state

    memory.rehearse(step, batch_size=batch_size)(agent, exp)
    first = BENCH.train[0].x[:3]
    assert sorted(torch.cat(seen).tolist()) == sorted(first.tolist())
    testing.check_update(
        memory.rehearse(cl.train_step(losses.cross_entropy(MODEL), registry.OPTIMIZERS["sgd_momentum"]), batch_size=batch_size),
        agent,
        exp,
    )
