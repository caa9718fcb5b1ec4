"""A run whose state changes its structure, or a leaf its shape, dtype or device, stops with a message that names the leaf."""

from __future__ import annotations

import re
from typing import Any

import pytest
import registry
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cl_func as cl
from cl_func import tree
from cl_func.core import closed

BENCH = registry.BENCH


@cl.state
class Counting(cl.Agent):
    count: Any = None
    extra: Any = None
    name: str = tree.static(default="a")


def start(**fields):
    return Counting(key=cl.key(0), **{"count": torch.tensor(0), "extra": {"a.b": torch.zeros(2)}, **fields})


def run(change, n=1, at=1, state=None):
    """Fold an update over n experiences; it counts, and from experience `at` on it changes the state."""

    def update(state, exp):
        update.seen += 1
        return change(state) if update.seen >= at else state.replace(count=state.count + 1)

    update.seen = 0
    return cl.fold(update, start() if state is None else state, [BENCH.train[0]] * n)


CHANGES = {
    "dtype": (lambda s: s.replace(count=s.count * 1.5), r"'count' was int64\[\], and is float32\[\] .*\.to\(torch.int64\)"),
    "shape": (lambda s: s.replace(count=s.count[None]), r"'count' was int64\[\], and is int64\[1\] .*as large as it will get"),
    "broadcast": (lambda s: s.replace(extra={"a.b": torch.zeros(3, 2)}), r"'extra\.a\.b' was float32\[2\], and is float32\[3, 2\]"),
    "device": (lambda s: s.replace(count=s.count.to("meta")), r"'count' was int64\[\], and is int64\[\] on meta .*zeros_like"),
    "gone": (lambda s: s.replace(count=None), r"'count' was int64\[\], and is None"),
    "lost": (lambda s: s.replace(extra={}), r"'extra' had a\.b in it, and lost 'a\.b'"),
    "grown": (lambda s: s.replace(extra={**s.extra, "c": s.count}), r"'extra' had a\.b in it, and got 'c' .*make room"),
    "static": (lambda s: s.replace(name="b"), r"'name', a static field, was 'a', and is 'b'"),
    "class": (lambda s: s.replace(extra=tuple(s.extra.values())), r"'extra' was a dict, and is \(float32\[2\]\)"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_named_and_how_to_mend_it(name):
    change, said = CHANGES[name]
    with pytest.raises(TypeError, match=f"^update: a state keeps .*{said}") as caught:
        run(change)
    assert "after experience 1;" in str(caught.value)
    with pytest.raises(TypeError, match="after experience 2;"):
        run(change, n=3, at=2)


@pytest.mark.parametrize(("n", "at"), [(1, 1), (3, 2), (3, 3)])
def test_a_leaf_that_is_no_longer_a_tensor_is_named(n, at):
    """With the message that a single step has for it (`contracts`)."""
    with pytest.raises(TypeError, match=r"update: .*'count'.* 3; .*tensor"):
        run(lambda s: s.replace(count=3), n=n, at=at)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 40), data=st.data())
def test_a_change_that_stays_is_found_whenever_it_comes(n, data):
    at = data.draw(st.integers(1, n))
    with pytest.raises(TypeError, match="'count' was int64") as caught:
        run(lambda s: s.replace(count=s.count.float()), n, at)
    first, *last = re.search(r"experiences? (\d+)(?: to (\d+))?", str(caught.value)).groups()
    assert int(first) <= at <= int(last[0] or first)


def test_few_of_many_states_are_compared(monkeypatch):
    compared = []
    monkeypatch.setattr(closed.ClosedCheck, "_compare", lambda self, state: compared.append(self.seen))
    run(None, n=100, at=101)
    assert compared == [1, 2, 4, 8, 16, 32, 64, 100]


@pytest.mark.parametrize("at", [1, 2, 5])
def test_a_field_that_is_none_may_be_filled(at):
    def fill(state):
        state = cl.maybe_init(state, extra=lambda s: {"x": {"y.z": torch.zeros(2)}})
        return state.replace(count=state.count + 1)

    assert run(fill, n=6, at=at, state=start(extra=None)).count == 6
    assert run(lambda s: s.replace(extra=()), n=6, at=at, state=start(extra=None)).extra == ()


def test_what_was_filled_stays_as_it_is():
    def fill(state):
        return state.replace(extra=torch.zeros(2) if state.extra is None else state.extra.double())

    with pytest.raises(TypeError, match=r"'extra' was float32\[2\], and is float64\[2\] after experience 2;"):
        run(fill, n=2, state=start(extra=None))


def test_lanes_and_donated_runs_are_checked_too():
    lanes = tree.stack([start(), start()])
    for donate in (False, True):
        with pytest.raises(TypeError, match=r"'count' was int64\[2\], and is float32\[2\]"):
            cl.fold(cl.vmap(lambda s, e: s.replace(count=s.count / 2)), lanes, BENCH.train, donate=donate)


def test_a_resumed_run_is_checked_from_where_it_resumes(tmp_path):
    keep = cl.Checkpoint(tmp_path / "kept", every=1)
    stop = tmp_path / "stop"

    def update(state, exp):
        if int(exp.index) == 1 and stop.exists():
            raise KeyboardInterrupt
        return state.replace(count=state.count + 1 if int(exp.index) == 0 else state.count * 0.5)

    stop.touch()
    with pytest.raises(KeyboardInterrupt):
        cl.fold(update, start(), BENCH.train, checkpoint=keep)
    stop.unlink()
    with pytest.raises(TypeError, match=r"'count' was .* after experience 2;"):
        cl.fold(update, start(), BENCH.train, checkpoint=keep)
