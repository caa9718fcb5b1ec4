"""The laws themselves, each a check of one function; `components.py` says which of them each kind of component obeys."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from cl_func import checks, contracts, core, random, signatures, transforms, tree
from cl_func.experiences import Experience
from cl_func.storage import fingerprint, resuming
from cl_func.testing.fake_device import device_fault
from cl_func.testing.key_uses import KeyUses, record_key_uses
from cl_func.torch_private import pytree
from cl_func.tree import PyTree

Function = Callable[[Any, Any], PyTree]
S = TypeVar("S")
RTOL, ATOL = 1e-4, 1e-5  # for float32 sums in another order: a batched matrix product, a compiled kernel


def assert_equal(actual: PyTree, expected: PyTree, law: str, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Raise AssertionError naming the law and the first leaf that differs."""
    difference = tree.difference(actual, expected, rtol, atol)
    if difference is not None:
        raise AssertionError(f"law '{law}' broken at {difference}")


def vary(state: S) -> S:
    """Another state of the same structure: floating leaves changed by a few percent, the key replaced."""
    checks.tensors("state", state)
    varied: S = tree.map(lambda leaf: leaf * 1.03 if leaf.dtype.is_floating_point else leaf.clone(), state)
    return tree.replace(varied, key=random.fold_in(state.key, 99)) if isinstance(state, core.Agent) else varied


def padded(exp: Experience, repeat: bool = False) -> Experience:
    """The experience with three rows more, which are not valid: others of its source, with other classes and larger values.

    What takes a maximum over all rows, or looks which classes there are, does not change if a row is only repeated.
    """
    if repeat:
        return exp.take(torch.cat([exp.rows, exp.rows[:1].expand(3)]), torch.cat([exp.valid, exp.valid.new_zeros(3)]))
    spread = torch.linspace(0, len(exp.source) - 1, len(exp) + 64, dtype=torch.float64).long().unique().to(exp.rows.device)
    other = spread[~torch.isin(spread, exp.rows)]
    other = other if len(other) else exp.rows.flip(0)
    largest = exp.source.gather_x(other).flatten(1).double().abs().amax(1).argmax()
    rows = torch.stack([other[0], other[largest], other[-1]])
    return exp.take(torch.cat([exp.rows, rows]), torch.cat([exp.valid, exp.valid.new_zeros(3)]))


def check_moved(function: Function, state: Any, exp: Any, *, rows: bool = True) -> None:
    """What stands in empty slots, and padding, change nothing where the network is another than its teachers, averages and anchors.

    At the start of a run they are one, and what is wrong with their difference is then multiplied by 0.
    """
    params = getattr(getattr(state, "model", None), "params", None)
    if not isinstance(params, Mapping):
        return
    moved = tree.set(state, {"model.params": tree.map(lambda p: p * 1.5 + 0.1 if p.is_floating_point() else p, params)})
    out = function(moved, exp)
    check_occupied(function, moved, exp, out)
    if rows:
        assert_equal(function(moved, padded(exp)), out, "padding", RTOL, ATOL)


def check_function(function: Function, state: Any, exp: Any, *, compiled: bool, rows: bool = True) -> None:
    """The laws of any pure function of (state, exp); rows: whether it uses the rows, which may be padded."""
    out = check_pure(function, state, exp)
    check_lanes(function, state, exp)
    check_occupied(function, state, exp, out)
    if rows:
        assert_equal(function(state, padded(exp)), out, "padding", RTOL, ATOL)
        check_device_law(function, state, exp, out)
    if compiled:
        assert_equal(transforms.compile(function)(state, exp), out, "compiled", RTOL, ATOL)


def check_occupied(function: Function, state: Any, exp: Any, out: PyTree) -> None:
    """What stands in the empty slots of a memory must change nothing but these slots; out: the result for the state as it is."""
    other = _with_empty_slots(state, _refilled)
    if not tree.equal(other, state):
        found, expected = (_with_empty_slots(result, _cleared) for result in (function(other, exp), out))
        assert_equal(found, expected, "occupied", RTOL, ATOL)


def _with_empty_slots(value: PyTree, change: Callable[[Tensor, Tensor], Tensor]) -> PyTree:
    """A tree in whose memories the leaves [capacity, ...] are what `change` makes of them and of the mask of occupied slots."""

    def changed(node: Any) -> Any:
        if not checks.is_memory(node):
            return node
        occupied = node.occupied
        return tree.replace(node, data=tree.map(lambda leaf: change(leaf, occupied), node.data))

    return pytree.tree_map(changed, value, is_leaf=checks.is_memory)


def _refilled(leaf: Tensor, occupied: Tensor) -> Tensor:
    """Other rows in the empty slots: numbers greater by 3, and of labels and the like that of an occupied slot."""
    other = leaf + 3 if leaf.is_floating_point() else leaf[occupied.long().argmax()].expand_as(leaf)
    return torch.where(_rowwise(occupied, leaf), leaf, other)


def _cleared(leaf: Tensor, occupied: Tensor) -> Tensor:
    return torch.where(_rowwise(occupied, leaf), leaf, torch.zeros_like(leaf))


def _rowwise(occupied: Tensor, leaf: Tensor) -> Tensor:
    return occupied.reshape(*occupied.shape, *[1] * (leaf.ndim - occupied.ndim))


def check_device_law(function: Function, state: Any, exp: Any, out: PyTree) -> None:
    """A function must run on any device, without waiting for it; out: its result on this one."""
    fault = device_fault(function, state, exp, out=out)
    if fault is not None:
        raise AssertionError(f"law 'device' broken: {fault}")


def check_arguments(name: str, function: Any, state: Any, exp: Any, **flags: Any) -> None:
    """Check the arguments of a public check."""
    kinds = {"update": signatures.update, "loss": signatures.loss, "transform": signatures.transform, "probe": signatures.probe}
    if name in kinds:
        kinds[name](name, function)
    else:
        signatures.function(name, function, 2, "a function of (state, exp)")
    if any(leaf.is_meta for leaf in tree.leaves(checks.tensors("state", state))):
        raise ValueError("state: it is on the device meta, which holds no values.")
    if exp is not None or name not in ("probe", "function"):
        checks.instance("exp", exp, Experience, "an Experience")
    for flag, value in flags.items():
        checks.flag(flag, value)


@contextlib.contextmanager
def contract_is_law() -> Iterator[None]:
    """Within it, a function that returns anything but what its kind returns breaks the law 'closed'."""
    try:
        yield
    except contracts.ContractError as error:
        raise AssertionError(
            f"law 'closed' broken{' at ' if error.path else ''}{error.path}: it gave {error.gave}, expected {error.expected}; "
            f"{error.mend} (in `{error.name}`)"
        ) from error


def check_pure(function: Function, state: Any, exp: Any) -> PyTree:
    """The result of a function: a second call must give the same, and leave the inputs and torch's generator as they were.

    Nor may it keep anything outside of the state: other runs, in other threads or lanes, would find it there.
    """
    before, held = tree.map(torch.clone, (state, exp)), fingerprint.of(function=function)
    with generator_untouched():
        first = tree.map(_clone, function(state, exp))
    assert_equal((state, exp), before, "pure (inputs)")
    assert_equal(function(state, exp), first, "pure (second call)")
    changed = resuming.changes(held, fingerprint.of(function=function))
    if changed:
        raise AssertionError(
            f"law 'pure' broken: it keeps something outside of the state ({'; '.join(changed[:3])}), which other runs find there "
            "too; keep it in the state"
        )
    return first


@contextlib.contextmanager
def generator_untouched() -> Iterator[None]:
    """Within it, torch's global generator must stay as it is."""
    before = torch.random.get_rng_state()
    yield
    if not torch.equal(torch.random.get_rng_state(), before):
        raise AssertionError("law 'pure' broken: torch's global generator was advanced; draw with cl.random from state.key")


def _clone(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def keys_in(state: Any) -> list[Tensor]:
    """The leaves of a state that may be keys: counters are among them, but nothing is drawn from those."""
    return list({int(leaf): leaf for leaf in tree.leaves(state) if leaf.dtype == torch.int64 and not leaf.ndim}.values())


def check_fresh(step: Callable[[Any, Any], Any], state: Any, exp: Experience) -> None:
    """No two draws of two consecutive steps may be from one key."""

    def uses_of_two_steps(second: Experience) -> KeyUses:
        with record_key_uses(*keys_in(state)) as uses:
            step(step(state, exp), second)
        return uses

    # A key may stay as it is if each experience draws from a child of its own, fold_in(key, exp.index).
    uses = uses_of_two_steps(exp)
    if uses.faults:
        check_key_uses(uses_of_two_steps(tree.replace(exp, index=exp.index + 1)))
    if uses.drawn or uses.derived or not isinstance(state, core.Agent):
        return
    out, other = step(state, exp), step(tree.replace(state, key=random.fold_in(state.key, 99)), exp)
    difference = tree.difference(out.replace(key=other.key), other)
    if difference is not None and torch.equal(out.key, state.key):
        raise AssertionError(
            f"law 'fresh' broken: another key gives another result, at {difference}, but cl.random was not asked, and the key that "
            "comes back is the one that was given; draw with cl.random from a child: `key, draw_key = random.split(state.key)`"
        )


def check_key_uses(uses: KeyUses) -> None:
    """No key may have been used twice."""
    if uses.faults:
        raise AssertionError(
            f"law 'fresh' broken: {uses.faults[0]}. Use a key once: `key, draw_key = random.split(state.key)`, draw from "
            "`draw_key`, and return the state with `key`"
        )


def check_closed(out: Any, state: Any, law: str = "closed") -> None:
    """A result must have the structure, shapes, dtypes and devices of the state."""
    if type(out) is not type(state):
        raise AssertionError(f"law '{law}' broken: it gave {tree.describe(out)}, expected {tree.describe(state)}, the state")

    def spec(node: Any) -> Any:
        return tree.map(lambda leaf: tree.describe(leaf) + f" on {leaf.device}" if isinstance(leaf, Tensor) else repr(leaf), node)

    assert_equal(spec(out), spec(state), law)


def check_lanes(function: Function, state: Any, exp: Any) -> None:
    """Each lane of a vmapped call must equal the single call."""
    singles = [state, vary(state)]
    try:
        lanes = transforms.vmap(function)(tree.stack(singles), exp)
    except RuntimeError as error:
        raise AssertionError(
            f"law 'lanes' broken: it cannot be vmapped, since {str(error).strip().splitlines()[0]} "
            "(Instead of .item() and an if on a tensor use torch.where or cl.when, instead of a boolean mask weights.)"
        ) from error
    for i, single in enumerate(singles):
        lane = tree.map(lambda leaf, i=i: leaf[i], lanes)
        assert_equal(lane, function(single, exp), f"lanes (lane {i})", RTOL, ATOL)
