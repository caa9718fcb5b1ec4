"""Any change of a value changes its fingerprint, of one leaf at any depth or of an order; equal values have one fingerprint."""

from __future__ import annotations

import collections
import dataclasses
import functools
import types

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from cl_func.storage import fingerprint, resuming


def changes(before, now):
    return resuming.changes(fingerprint.of(x=before), fingerprint.of(x=now))


# Kinds of values


@dataclasses.dataclass
class Fields:
    a: object
    b: object


@dataclasses.dataclass(frozen=True)
class Weighted:
    k: dataclasses.InitVar[float]

    def __post_init__(self, k):
        object.__setattr__(self, "weight", float(k))

    @functools.cached_property
    def double(self):
        return 2 * self.weight


class Base:
    __slots__ = ("hidden",)


@dataclasses.dataclass
class OfSlots(Base):
    a: int = 0


class Own:
    def __init__(self, a=0, b=0):
        self.a, self.b = a, b

    def __call__(self, *args, **options):
        return self.a

    def method(self):
        return self.a


class Number(float):
    pass


class Table(dict):
    pass


class Names(list):
    pass


class Chosen(frozenset):
    pass


class Grid(np.ndarray):
    pass


def one(*args, **options):
    return 1


def other(*args, **options):
    return 2


def closing_over(value):
    return lambda *args, **options: value


def with_attributes(value, **attributes):
    for name, part in attributes.items():
        setattr(value, name, part)
    return value


LEAVES = {
    "int": int,
    "str": str,
    "tensor": lambda n: torch.tensor([0, n]),
    "array": lambda n: np.array([n, 1.0]),
    "dates": lambda n: np.array([n], dtype="datetime64[D]"),
    "masked": lambda n: np.ma.array(np.ones(20), mask=[n >> i & 1 for i in range(20)]),
    "own array": lambda n: with_attributes(np.ones(2).view(Grid), unit=n),
    "set": lambda n: {n, "a"},
    "own set": lambda n: with_attributes(Chosen("ab"), extra=n),
    "own number": lambda n: with_attributes(Number(1.0), extra=n),
    "function": lambda n: closing_over(n),
    "attribute of a function": lambda n: with_attributes(closing_over(1), rate=n),
    "method": lambda n: Own(n).method,
    "bound by hand": lambda n: types.MethodType(closing_over(n), 1),
    "bound, of a callable": lambda n: types.MethodType(functools.partial(one, n), Own()),
    "init variable": lambda n: Weighted(n),
    "slot of a base": lambda n: with_attributes(OfSlots(), hidden=n),
    "attribute of a dataclass": lambda n: with_attributes(Fields(1, 2), c=n),
    "attribute of a partial": lambda n: with_attributes(functools.partial(one), rate=n),
}
KEYS = st.sampled_from(["a", "b", "a.b", "b.a", "", "''", "0", 0, 1.0, None, (0, 1), "default_factory", "lin", "arguments"])
INNER = {
    "list": list,
    "tuple": tuple,
    "own list": lambda parts: with_attributes(Names(parts[1:]), a=parts[0]) if parts else Names(),
    "dataclass": lambda parts: Fields(parts[:1], parts[1:]),
    "object": lambda parts: Own(parts[:1], parts[1:]),
    "partial of a function": lambda parts: functools.partial(one, *parts),
    "partial of an object": lambda parts: functools.partial(Own(parts[:1]), *parts[1:]),
    "partial of a closure": lambda parts: functools.partial(closing_over(parts[:1]), *parts[1:]),
    "functions": lambda parts: [one, *map(closing_over, parts)],
}
KEYED = {
    "dict": dict,
    "ordered": lambda items: collections.OrderedDict({**items, "last": one}),  # without a function it is as good as a dict
    "own dict": lambda items: with_attributes(Table(items), a=len(items)),
    "defaultdict": lambda items: collections.defaultdict(one, items),
}
GIVEN = {  # by names, whose order does not matter
    "partial, by name": lambda named: functools.partial(Own(7, 8), 1, **named),
    "attributes": lambda named: with_attributes(types.SimpleNamespace(), **named),
}


@dataclasses.dataclass(frozen=True)
class Value:
    """How a value is made: a leaf of a number, or an inner one of parts, of dicts with their keys."""

    kind: str
    number: int = 0
    keys: tuple = ()
    parts: tuple = ()

    def make(self, last_name_first=False):
        parts = [part.make(last_name_first) for part in self.parts]
        if self.kind in LEAVES:
            return LEAVES[self.kind](self.number)
        if self.kind in INNER:
            return INNER[self.kind](parts)
        items = list(zip(self.keys, parts, strict=True))
        if self.kind in KEYED:
            return KEYED[self.kind](dict(items))
        return GIVEN[self.kind](dict(items[::-1] if last_name_first else items))

    def changed(self):
        """All that differ from it in one leaf, or in the order of two neighbours."""
        if self.kind in LEAVES:
            yield dataclasses.replace(self, number=self.number + 1)
        for i, part in enumerate(self.parts):
            for changed in part.changed():
                yield dataclasses.replace(self, parts=(*self.parts[:i], changed, *self.parts[i + 1 :]))
        for i in range(len(self.parts) - 1 if self.kind not in GIVEN else 0):
            order = [*range(i), i + 1, i, *range(i + 2, len(self.parts))]
            parts, keys = tuple(self.parts[j] for j in order), tuple(self.keys[j] for j in order if self.keys)
            if (parts, keys) != (self.parts, self.keys):
                yield dataclasses.replace(self, parts=parts, keys=keys)


def keyed(kinds, keys, inner):
    items = st.lists(st.tuples(keys, inner), max_size=3, unique_by=lambda item: (type(item[0]), item[0]))
    return st.builds(
        lambda kind, items: Value(kind, keys=tuple(k for k, _ in items), parts=tuple(p for _, p in items)),
        st.sampled_from([*kinds]),
        items,
    )


VALUES = st.recursive(
    st.builds(Value, st.sampled_from([*LEAVES]), st.integers(0, 1000)),
    lambda inner: (
        st.builds(lambda kind, parts: Value(kind, parts=tuple(parts)), st.sampled_from([*INNER]), st.lists(inner, max_size=3))
        | keyed(KEYED, KEYS, inner)
        | keyed(GIVEN, st.sampled_from(["a", "b", "args"]), inner)
    ),
    max_leaves=6,
)


@examples(max_examples=200, deadline=None, database=None)
@given(VALUES)
def test_every_change_counts_and_nothing_else(value):
    found = fingerprint.of(x=value.make())
    assert fingerprint.of(x=value.make()) == found
    assert fingerprint.of(x=value.make(last_name_first=True)) == found
    for changed in value.changed():
        assert resuming.changes(found, fingerprint.of(x=changed.make())) != [], changed


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (functools.partial(Own(1.0), a=2.0), functools.partial(Own(5.0), a=2.0)),
        (functools.partial(one, 1, args=2), functools.partial(one, 3, args=2)),
        (functools.partial(Own(1.0), c=2.0), with_attributes(Own(1.0), c=2.0)),
        ({"a.b": closing_over(1), "a": {"b": closing_over(3)}}, {"a.b": closing_over(2), "a": {"b": closing_over(3)}}),
        ({"": one}, one),
        ({1: one}, {"1": one}),
        ({1: 2}, {"1": 2}),
        (with_attributes(Table(a=1), a=2), with_attributes(Table(a=3), a=2)),
        ([with_attributes(Number(1.0), k=1)], [with_attributes(Number(1.0), k=2)]),
    ],
)
def test_no_part_takes_the_place_of_another(a, b):
    assert changes(a, b) != []


# Orders


def test_another_order_is_named():
    before, now = {"lin": one, "norm": other}, {"norm": other, "lin": one}
    assert changes(before, now) == ["x: other keys, or in another order"]
    layers = {"lin": torch.nn.Linear(3, 3), "norm": torch.nn.LayerNorm(3)}
    found = [torch.nn.Sequential(collections.OrderedDict((name, layers[name]) for name in order)) for order in (before, now)]
    assert changes(*found) == ["x._modules: other keys, or in another order"]


def test_the_order_of_arguments_and_attributes_does_not_count():
    assert changes(functools.partial(one, a=one, b=other), functools.partial(one, b=other, a=one)) == []
    both = types.SimpleNamespace(a=one, b=other), types.SimpleNamespace(b=other, a=one)
    assert changes(*both) == []
    assert changes({functools.partial(one, a=1, b=2)}, {functools.partial(one, b=2, a=1)}) == []


def test_a_record_without_orders_is_still_compared():
    """Those of earlier versions have no digest of the keys of a mapping."""
    before = {"x": "dict of 2", "x.a": "mine.f", "x.b": "3", "version.python": "3.11"}
    now = {**before, "x": "dict of 2 #0123456789abcdef"}
    assert resuming.changes(before, now) == []
    assert resuming.changes(before, {**now, "x.b": "4"}) == ["x.b: 3 -> 4"]


def test_a_cached_property_does_not_count():
    used = Weighted(3.0)
    assert used.double == 6
    assert changes(used, Weighted(3.0)) == []


# Settings


def test_settings_of_torch_count_where_they_are_not_the_usual():
    plain = fingerprint.of(x=1)
    assert not any(path.startswith("torch.") for path in plain)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert resuming.changes(plain, fingerprint.of(x=1)) == ["torch.autocast.cpu: not there before"]
        with torch.autocast("cpu", enabled=False):
            assert fingerprint.of(x=1) == plain
    torch.set_default_dtype(torch.float64)
    try:
        assert resuming.changes(plain, fingerprint.of(x=1)) == ["torch.default_dtype: not there before"]
    finally:
        torch.set_default_dtype(torch.float32)


class Lazily:
    """What a class of the user's computes when it is first asked for."""

    @functools.cached_property
    def weights(self):
        return torch.ones(4)


COUNT, MEMO = 0, None


def counting(x):
    global COUNT, MEMO
    COUNT += 1
    MEMO = x if MEMO is None else MEMO
    return x


def test_what_a_function_or_an_object_keeps_for_itself_does_not_count():
    """Or the second call of the same process would be another sweep, and a worker other than this process."""
    value = Lazily()
    before = fingerprint.of(value=value, function=counting)
    assert value.weights.sum() == 4
    assert counting(3) == 3
    assert (COUNT, MEMO) == (1, 3)
    assert fingerprint.of(value=value, function=counting) == before


def test_a_masked_value_is_one():
    assert fingerprint.of(v=np.ma.masked)["v"] == "masked"
