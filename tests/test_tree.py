"""State trees: the dataclasses, both pytree registries, paths, lanes, and comparison."""

import collections
import copy
import dataclasses
import pickle
from typing import NamedTuple

import hypothesis
import hypothesis.strategies as st
import optree
import pytest
import registry
import torch
import torch.utils._pytree as torch_pytree
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import cl_func as cl
from cl_func import tree


@tree.state
class Opt:
    lr: Tensor
    momentum: Tensor | None = None
    nesterov: bool = tree.static(default=False)


@tree.state
class Base:
    key: Tensor
    opt: Opt | None = None


@tree.state
class Method(Base):
    params: dict
    extra: tuple = ()
    name: str = tree.static(default="er")


@tree.state(kw_only=False)
class Pair:
    first: Tensor
    second: Tensor


@tree.state
class Strict:
    x: Tensor

    def __post_init__(self):
        if not isinstance(self.x, Tensor):
            raise TypeError("x: expected a tensor")


class Named(NamedTuple):
    mean: Tensor
    count: Tensor


def method(seed=0):
    g = torch.Generator().manual_seed(seed)
    return Method(
        key=torch.tensor(seed),
        opt=Opt(lr=torch.tensor(0.1), nesterov=True),
        params={"0.weight": torch.randn(2, 3, generator=g), "0.bias": torch.zeros(2)},
        extra=(torch.arange(3), [torch.tensor(True)]),
    )


def frozen(value):
    """The bytes of every tensor, to tell whether anything was mutated."""
    return [(path, leaf.dtype, leaf.clone()) for path, leaf in tree.items(value)]


def unchanged(value, before):
    return all(a == b and torch.equal(x, y) for (a, _, x), (b, _, y) in zip(frozen(value), before, strict=True))


# ---------------------------------------------------------------- the class


def test_state_is_frozen_and_keyword_only():
    opt = Opt(lr=torch.tensor(0.1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        opt.lr = torch.tensor(0.2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        del opt.lr
    with pytest.raises(
        dataclasses.FrozenInstanceError,
        match=r"^cannot assign to field 'lr': Opt never .* state.replace\(lr=...\), .* cl.tree.set\(state, {'opt.lr': ...}\)",
    ):
        opt.lr = torch.tensor(0.2)
    with pytest.raises(dataclasses.FrozenInstanceError, match="'key': Method never changes"):  # of a class derived from a state
        method().key = torch.tensor(0)
    with pytest.raises(TypeError, match="positional"):
        Opt(torch.tensor(0.1))
    with pytest.raises(TypeError, match="lr"):
        Opt()
    assert torch.equal(Pair(torch.zeros(1), torch.ones(1)).second, torch.ones(1))


def test_equality_is_identity_so_states_can_be_compared_and_hashed():
    a, b = method(), method()
    assert a == a
    assert a != b
    assert len({a, b, a}) == 2


def test_repr_shows_shapes_and_no_values():
    shown = repr(method())
    assert "params={0.weight: float32[2, 3], 0.bias: float32[2]}" in shown
    assert "opt=Opt(lr=float32[], momentum=None, nesterov=True)" in shown
    assert "extra=(int64[3], [bool[]])" in shown
    assert "name='er'" in shown
    assert "tensor" not in shown
    assert repr(Opt(lr=torch.tensor(0.1))) == "Opt(lr=float32[], momentum=None, nesterov=False)"


def test_repr_of_a_large_state_has_a_line_per_field():
    lines = repr(method()).splitlines()
    assert lines[0] == "Method("
    assert lines[-1] == ")"
    assert len(lines) == 2 + 5


def test_an_own_repr_is_kept():
    @tree.state
    class Short:
        x: Tensor

        def __repr__(self):
            return "short"

    assert repr(Short(x=torch.zeros(1))) == "short"


def test_replace_copies_and_shares_what_it_does_not_change():
    a = method()
    before = frozen(a)
    b = a.replace(key=torch.tensor(7), name="der")
    assert (int(b.key), b.name, a.name) == (7, "der", "er")
    assert b.params is a.params
    assert type(b) is Method
    assert unchanged(a, before)


def test_replace_skips_validation_so_that_it_works_on_traced_values():
    assert Strict(x=torch.zeros(1)).replace(x="anything").x == "anything"


def test_replace_names_the_fields_and_the_mend():
    with pytest.raises(
        ValueError,
        match=r"Method has no field 'replay'; its fields are key, opt, params, extra, name.*class Mine\(Method\): replay",
    ):
        method().replace(replay=1)
    with pytest.raises(
        ValueError, match=r"replace: 'opt.lr' is a path, .* key, opt, params, extra, name; .* cl.tree.set\(state, {'opt.lr': ...}\)"
    ):
        method().replace(**{"opt.lr": torch.tensor(0.1)})


def test_subclass_has_the_fields_of_its_base_first():
    assert [f.name for f in dataclasses.fields(Method)] == ["key", "opt", "params", "extra", "name"]
    assert isinstance(method(), Base)


@pytest.mark.parametrize("duplicate", [lambda x: pickle.loads(pickle.dumps(x)), copy.copy, copy.deepcopy])
def test_pickling_and_copying(duplicate):
    a = method()
    b = duplicate(a)
    assert b is not a
    assert type(b) is Method
    assert tree.equal(a, b)
    assert (b.name, b.opt.nesterov, b.opt.momentum) == ("er", True, None)


def test_a_class_can_be_defined_again():
    # As when a notebook cell is run twice; warnings are errors here.
    for _ in range(2):

        @tree.state
        class Again:
            x: Tensor

        assert len(tree.leaves(Again(x=torch.zeros(1)))) == 1
        assert len(torch_pytree.tree_leaves(Again(x=torch.zeros(1)))) == 1


# ---------------------------------------------------------------- both registries


def optree_round_trip(value):
    leaves, structure = optree.tree_flatten(value, namespace=tree.NAMESPACE)
    return leaves, structure, optree.tree_unflatten(structure, leaves)


def torch_round_trip(value):
    leaves, structure = torch_pytree.tree_flatten(value)
    return leaves, structure, torch_pytree.tree_unflatten(leaves, structure)


@pytest.mark.parametrize("round_trip", [optree_round_trip, torch_round_trip])
def test_round_trip_keeps_fields_statics_and_nones(round_trip):
    a = method()
    leaves, _, b = round_trip(a)
    assert len(leaves) == 6
    assert all(isinstance(leaf, Tensor) for leaf in leaves)
    assert type(b) is Method
    assert type(b.opt) is Opt
    assert (b.opt.momentum, b.opt.nesterov, b.name) == (None, True, "er")
    assert tree.equal(a, b)


@pytest.mark.parametrize("round_trip", [optree_round_trip, torch_round_trip])
def test_structures_differ_where_statics_nones_or_classes_do(round_trip):
    lr = torch.tensor(0.1)
    _, base, _ = round_trip(Opt(lr=lr))
    assert base == round_trip(Opt(lr=torch.tensor(9.0)))[1]
    assert base != round_trip(Opt(lr=lr, nesterov=True))[1]
    assert base != round_trip(Opt(lr=lr, momentum=lr))[1]
    assert round_trip(Base(key=lr))[1] != round_trip(Opt(lr=lr))[1]


@pytest.mark.parametrize("round_trip", [optree_round_trip, torch_round_trip])
def test_unflatten_takes_anything_as_a_leaf(round_trip):
    _, structure, _ = round_trip(Strict(x=torch.zeros(1)))
    unflatten = optree.tree_unflatten if round_trip is optree_round_trip else lambda s, x: torch_pytree.tree_unflatten(x, s)
    assert unflatten(structure, [object]).x is object


def test_structures_are_hashable():
    assert hash(tree.flatten(method())[1]) == hash(tree.flatten(method(1))[1])
    assert len({tree.flatten(method())[1], tree.flatten(method().replace(name="der"))[1]}) == 2


def test_torch_paths_are_attributes():
    paths = [torch_pytree.keystr(path) for path, _ in torch_pytree.tree_flatten_with_path(method())[0]]
    assert paths[:2] == [".key", ".opt.lr"]


def test_other_namespaces_do_not_see_states():
    assert len(optree.tree_leaves(method())) == 1


def test_map_leaves_flatten_items():
    a = method()
    doubled = tree.map(lambda x: x + x, a)
    assert torch.equal(doubled.params["0.weight"], 2 * a.params["0.weight"])
    assert tree.equal(tree.map(torch.add, a, a), doubled)
    leaves, structure = tree.flatten(a)
    assert tree.equal(tree.unflatten(structure, leaves), a)
    assert [path for path, _ in tree.items(a)] == ["key", "opt.lr", "params.0.bias", "params.0.weight", "extra.0", "extra.1.0"]
    assert all(x is y for (_, x), y in zip(tree.items(a), tree.leaves(a), strict=True))


# ---------------------------------------------------------------- paths


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("opt.lr", lambda m: m.opt.lr),
        ("opt", lambda m: m.opt),
        ("params.0.weight", lambda m: m.params["0.weight"]),
        ("extra.1.0", lambda m: m.extra[1][0]),
        ("opt.momentum", lambda m: None),
        ("name", lambda m: "er"),
        ("", lambda m: m),
    ],
)
def test_get(path, expected):
    m = method()
    assert tree.get(m, path) is expected(m)


def test_every_item_is_found_at_its_path_and_can_be_set_there():
    value = {"state": method(), "stats": Named(mean=torch.zeros(2), count=torch.tensor(3)), "many": [torch.zeros(1)] * 12}
    for path, leaf in tree.items(value):
        assert tree.get(value, path) is leaf
        other = tree.set(value, {path: torch.zeros_like(leaf)})
        assert [p for p, x in tree.items(other) if x is not tree.get(value, p)] == [path]


def test_named_tuples_are_entered_by_field_name_too():
    stats = Named(mean=torch.zeros(2), count=torch.tensor(3))
    assert tree.get({"s": stats}, "s.count") is stats.count
    changed = tree.set({"s": stats}, {"s.count": 5})["s"]
    assert type(changed) is Named
    assert int(changed.count) == 5
    with pytest.raises(ValueError, match="there is mean, count"):
        tree.get({"s": stats}, "s.2")


def test_the_longest_dotted_key_is_the_one_meant():
    both = {"0": {"bias": torch.tensor(1)}, "0.weight": torch.tensor(2), "0.weight.scale": torch.tensor(3)}
    assert int(tree.get(both, "0.bias")) == 1
    assert int(tree.get(both, "0.weight")) == 2
    assert int(tree.get(both, "0.weight.scale")) == 3
    assert int(tree.set(both, {"0.weight": 9})["0.weight"]) == 9
    assert tree.get({"a": {"0.weight": 1}}, "a.0.weight") == 1
    assert tree.get({3: {4: "x"}}, "3.4") == "x"


def test_set_several_paths_and_nothing_is_mutated():
    m = method()
    before = frozen(m)
    n = tree.set(m, {"opt.lr": 0.5, "params.0.bias": torch.ones(2), "extra.1.0": False, "key": 3, "name": "x"})
    assert torch.equal(n.opt.lr, torch.tensor(0.5))
    assert torch.equal(n.params["0.bias"], torch.ones(2))
    assert not n.extra[1][0]
    assert (int(n.key), n.name, type(n.extra), type(n.extra[1])) == (3, "x", tuple, list)
    assert n.params["0.weight"] is m.params["0.weight"]
    assert unchanged(m, before)
    assert m.name == "er"


def test_set_replaces_subtrees_and_fills_fields_that_are_none():
    m = tree.set(method(), {"opt.momentum": torch.zeros(3), "params": {}})
    assert m.params == {}
    assert m.opt.momentum.shape == (3,)


def test_set_keeps_the_kind_of_mapping():
    ordered = tree.set(collections.OrderedDict(b=torch.tensor(1), a=torch.tensor(2)), {"a": 7})
    assert type(ordered) is collections.OrderedDict
    assert list(ordered) == ["b", "a"]


@pytest.mark.parametrize(
    ("old", "new", "dtype"),
    [
        (torch.tensor(1.0, dtype=torch.float64), 2, torch.float64),
        (torch.tensor(1), 2, torch.int64),
        (torch.tensor(True), False, torch.bool),
    ],
)
def test_a_number_takes_the_dtype_of_the_leaf(old, new, dtype):
    made = tree.set({"x": old}, {"x": new})["x"]
    assert made.dtype == dtype
    assert made.item() == new


@pytest.mark.parametrize(
    ("value", "path", "error", "match"),
    [
        (1.0, "opt.rate", ValueError, r"path 'opt.rate': no 'rate' in Opt; there is lr, momentum, nesterov"),
        (1.0, "params.1.weight", ValueError, r"no '1.weight' in dict; there is 0.weight, 0.bias"),
        (1.0, "extra.2", ValueError, r"no '2' in tuple; there is 0, 1"),
        (1.0, "extra.-1", ValueError, "no '-1' in tuple"),
        (1.0, "opt.lr.x", ValueError, r"there is nothing: it ends at float32\[\]"),
        (1.0, "", ValueError, "a path is a non-empty string"),
        (1.0, 3, ValueError, "a path is a non-empty string"),
        (
            torch.tensor(1.0, dtype=torch.float64),
            "opt.lr",
            TypeError,
            r"the leaf is float32\[\], got float64\[\]; convert it with .to",
        ),
        (torch.ones(1), "opt.lr", ValueError, r"the leaf is float32\[\], got float32\[1\]"),
        (0.0, "params.0.bias", ValueError, r"the leaf is float32\[2\], got float32\[\]"),
        (1.5, "key", TypeError, "give an integer, got 1.5"),
        (True, "key", TypeError, "give a tensor like it, got True"),
        (1, "extra.1.0", TypeError, "give a tensor like it, got 1"),
        ("0.1", "opt.lr", TypeError, "got '0.1'"),
        (None, "opt.lr", TypeError, "got None"),
        (
            0.9,
            "opt.momentum",
            ValueError,
            r"the field is None; make it with a value of momentum, as cl.optim.sgd\(lr, momentum=0.9\) does",
        ),
    ],
)
def test_set_errors(value, path, error, match):
    with pytest.raises(error, match=match):
        tree.set(method(), {path: value})


def test_a_path_that_lacks_its_beginning_is_completed():
    state = registry.init(cl.key(0))
    with pytest.raises(ValueError, match=r"path 'lr': no 'lr' in Everything; there is .*. Did you mean opt.lr\?"):
        tree.set(state, {"lr": 0.1})
    with pytest.raises(ValueError, match=r"path 'model.0.weight': .* Did you mean model.params.0.weight\?"):
        tree.get(state, "model.0.weight")
    with pytest.raises(ValueError, match=r"there is [^?]*\.$"):
        tree.get({"a": {"lr": 1}, "b": {"lr": 2}}, "lr")  # which of the two is not known


def test_get_errors():
    with pytest.raises(ValueError, match=r"path 'opt.rate': no 'rate' in Opt; there is lr, momentum, nesterov"):
        tree.get(method(), "opt.rate")
    with pytest.raises(TypeError, match="expected a string"):
        tree.get(method(), 3)


# ---------------------------------------------------------------- lanes

TENSORS = st.builds(
    lambda shape, dtype, seed: (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 100).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bool]),
    st.integers(0, 1000),
)
TREES = st.recursive(
    TENSORS,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from(["a", "b.c", "0.weight", "d"]), inner, min_size=1, max_size=3),
        st.lists(inner, min_size=1, max_size=3).map(tuple),
        st.builds(lambda lr, momentum, flag: Opt(lr=lr, momentum=momentum, nesterov=flag), inner, st.none() | inner, st.booleans()),
        st.builds(lambda a, b: Pair(a, b), inner, inner),
    ),
    max_leaves=8,
)
QUICK = hypothesis.settings(max_examples=50, deadline=None, derandomize=True)


@QUICK
@hypothesis.given(TREES, st.integers(1, 4))
def test_unstack_is_the_inverse_of_stack(value, lanes):
    trees = [tree.map(lambda x, i=i: x.roll(i) if x.ndim else x, value) for i in range(lanes)]
    stacked = tree.stack(trees)
    assert all(leaf.shape[0] == lanes for leaf in tree.leaves(stacked))
    back = tree.unstack(stacked)
    assert len(back) == lanes
    assert all(tree.equal(a, b) for a, b in zip(trees, back, strict=True))


@QUICK
@hypothesis.given(TREES)
def test_round_trips_and_paths_on_any_tree(value):
    assert tree.equal(value, optree_round_trip(value)[2])
    assert tree.equal(value, torch_round_trip(value)[2])
    assert sorted(map(id, optree_round_trip(value)[0])) == sorted(map(id, torch_round_trip(value)[0]))
    for path, leaf in tree.items(value):
        assert tree.get(value, path) is leaf


def test_stack_and_unstack_errors():
    with pytest.raises(ValueError, match="trees: got none"):
        tree.stack([])
    with pytest.raises(ValueError):
        tree.stack([Opt(lr=torch.zeros(1)), Opt(lr=torch.zeros(1), nesterov=True)])
    for bad in ({"a": torch.zeros(2), "b": torch.zeros(3)}, {"a": torch.zeros(2), "b": torch.tensor(0.0)}, {}):
        with pytest.raises(ValueError, match="one common leading axis"):
            tree.unstack(bad)


def test_where_chooses_one_tree():
    a, b = method(0), method(1)
    assert tree.equal(tree.where(torch.tensor(True), a, b), a)
    assert tree.equal(tree.where(torch.tensor(False), a, b), b)


def test_where_passes_shared_leaves_on_untouched():
    a = method()
    b = a.replace(key=torch.tensor(5))
    chosen = tree.where(torch.tensor(True), b, a)
    assert chosen.params["0.weight"] is a.params["0.weight"]
    assert int(chosen.key) == 5


def test_where_chooses_lane_by_lane():
    a, b = tree.stack([method(0), method(1), method(2)]), tree.stack([method(3), method(4), method(5)])
    chosen = tree.unstack(tree.where(torch.tensor([True, False, True]), a, b))
    assert tree.equal(chosen[0], method(0))
    assert tree.equal(chosen[1], method(4))
    assert tree.equal(chosen[2], method(2))


# ---------------------------------------------------------------- comparison


def test_difference_names_the_first_leaf_that_differs():
    a = method()
    assert tree.difference(a, method()) is None
    assert tree.difference(a, tree.set(a, {"opt.lr": 0.6})) == "opt.lr: values differ by up to 0.5"
    assert "the structures differ" in tree.difference(a, a.replace(name="x"))
    assert tree.difference({"x": torch.zeros(2)}, {"x": torch.zeros(3)}) == "x: float32[2] on cpu against float32[3] on cpu"
    assert "float64" in tree.difference({"x": torch.zeros(2)}, {"x": torch.zeros(2, dtype=torch.float64)})
    assert tree.difference({"x": 1}, {"x": 2}) == "x: 1 against 2"


def test_equal_is_exact_by_default():
    x = torch.tensor([1.0, float("nan"), float("inf")])
    assert tree.equal(x, x.clone())
    assert not tree.equal(x, torch.nextafter(x, torch.zeros(3)))
    assert not tree.equal(torch.tensor([float("nan"), 1.0]), torch.tensor([1.0, float("nan")]))
    assert not tree.equal(torch.tensor(float("inf")), torch.tensor(-float("inf")))
    big = torch.tensor(2**62)
    assert not tree.equal(big, big + 1)
    assert not tree.equal(torch.tensor(True), torch.tensor(False))


def test_equal_with_tolerances():
    assert tree.equal(torch.tensor(1.0), torch.tensor(1.001), rtol=1e-2)
    assert tree.equal(torch.tensor(0.0), torch.tensor(1e-9), atol=1e-8)
    assert not tree.equal(torch.tensor(1.0), torch.tensor(1.1), rtol=1e-2)
    assert not tree.equal(torch.tensor(100), torch.tensor(101), rtol=0.5)  # tolerances are for floating leaves


# ---------------------------------------------------------------- transformations see through states


def step(state, x):
    lr = state.opt.lr * x.sum()
    return state.replace(key=state.key + 1, params=tree.map(lambda p: p - lr * p, state.params))


def test_torch_vmap_maps_over_states():
    states = [method(i) for i in range(3)]
    out = torch.func.vmap(step, in_dims=(0, None))(tree.stack(states), torch.ones(2))
    assert type(out) is Method
    assert out.opt.nesterov is True
    for lane, single in zip(tree.unstack(out), states, strict=True):
        assert tree.equal(lane, step(single, torch.ones(2)), rtol=1e-6)


def test_torch_grad_differentiates_with_respect_to_a_state():
    opt = Opt(lr=torch.tensor(3.0))
    grads = torch.func.grad(lambda o: o.lr**2)(opt)
    assert type(grads) is Opt
    assert grads.momentum is None
    assert torch.equal(grads.lr, torch.tensor(6.0))


def test_make_fx_traces_through_states():
    state = method()
    leaves, structure = tree.flatten(state)
    graph = make_fx(lambda given: tree.leaves(step(tree.unflatten(structure, given), torch.ones(2))))(leaves)
    assert tree.equal(graph(leaves), tree.leaves(step(state, torch.ones(2))))
    whole = make_fx(step)(state, torch.ones(2))
    assert tree.equal(whole(method(1), torch.ones(2)), step(method(1), torch.ones(2)))


def test_a_difference_is_told_for_every_kind_of_number():
    nan = float("nan")
    for a, b, told in (
        (torch.tensor([1 + 1j, complex(nan, 0)]), torch.tensor([1 + 4j, complex(nan, 0)]), "differ by up to 3"),
        (torch.tensor(2**60), torch.tensor(2**60 + 1), "differ by up to 1"),
        (torch.tensor([nan, 1.0]), torch.tensor([nan, 3.0]), "differ by up to 2"),
        (torch.tensor([nan, 1.0]), torch.tensor([0.0, 3.0]), "1 values are NaN on one side only"),
        (torch.tensor([True]), torch.tensor([False]), "differ by up to 1"),
        (torch.tensor([float("inf")]), torch.tensor([1.0]), "differ by up to inf"),
    ):
        assert told in cl.tree.difference({"x": a}, {"x": b})
        assert cl.tree.equal({"x": a}, {"x": a.clone()})


def test_what_is_set_in_a_defaultdict_keeps_its_factory():
    before = collections.defaultdict(list, {"a": torch.tensor(1.0), "b": torch.tensor(2)})
    changed = cl.tree.set(before, {"a": 3.0})
    assert changed.default_factory is list
    assert (changed["a"].item(), before["a"].item()) == (3.0, 1.0)


def test_a_number_too_large_for_its_leaf_is_refused():
    with pytest.raises(ValueError, match=r"tree\.set\('a'\): 1e\+39 is too large for the leaf, float32"):
        cl.tree.set({"a": torch.tensor(1.0)}, {"a": 1e39})
    assert cl.tree.set({"a": torch.tensor(1.0, dtype=torch.float64)}, {"a": 1e39})["a"] == 1e39
