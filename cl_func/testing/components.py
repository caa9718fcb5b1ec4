"""The laws of each kind of component: Update, Loss, GradientTransform, Probe, a draw from a memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, contracts, random, signatures, transforms, tree
from cl_func.core.kinds import GradientTransform, Loss, Probe, Update
from cl_func.core.loop import fold
from cl_func.experiences import Experience
from cl_func.testing import laws
from cl_func.testing.key_uses import record_key_uses
from cl_func.testing.laws import ATOL, RTOL, assert_equal, vary
from cl_func.tree import PyTree


def check_update(update: Update, state: Any, exp: Experience, *, compiled: bool = False, padding: bool = True) -> None:
    """Take an Update through the laws: pure, closed, lanes, occupied, padding and, with `compiled`, compiled and donated.

    `padding=False` is for updates of experiences that have no rows to pad.
    """
    laws.check_arguments("update", update, state, exp, compiled=compiled, padding=padding)
    with laws.contract_is_law():
        out = contracts.update_output(laws.check_pure(update, state, exp), state, leaves=True)
    laws.check_closed(out, state)
    laws.check_fresh(update, state, exp)
    laws.check_lanes(update, state, exp)
    laws.check_occupied(update, state, exp, out)
    if padding:
        assert_equal(update(state, laws.padded(exp)), out, "padding", RTOL, ATOL)
    laws.check_moved(update, state, exp, rows=padding)
    laws.check_device_law(update, state, exp, out)
    if compiled:
        program = transforms.compile(update)
        assert_equal(program(state, exp), out, "compiled", RTOL, ATOL)
        assert_equal(fold(program, state, [exp], donate=True), out, "compiled (donated)", RTOL, ATOL)
        lanes = tree.stack([state, vary(state)])
        program = transforms.compile(transforms.vmap(update))
        assert_equal(program(lanes, exp), transforms.vmap(update)(lanes, exp), "compiled (lanes)", RTOL, ATOL)


def check_loss(loss: Loss, state: Any, exp: Experience, *, compiled: bool = False) -> None:
    """Take a Loss through the laws, value and gradient alike; the value must be a finite scalar."""
    laws.check_arguments("loss", loss, state, exp, compiled=compiled)
    with laws.contract_is_law():
        value, after = contracts.loss_output(loss(checks.params(state), state, exp), state)
        contracts.update_output(after, state, leaves=True, name="loss")
    if not bool(torch.isfinite(value)):
        raise AssertionError(f"law 'finite' broken: the loss is {value.item()}")
    if not _depends(loss, state, exp):
        raise AssertionError(f"law 'depends' broken: {contracts.independent()}")

    def as_update(state: Any, exp: Experience) -> dict[str, Any]:
        (value, after), grads = value_and_grad(loss, state, exp)
        laws.check_closed(after, state)
        return {"value": value, "grads": grads, "state": after}

    laws.check_function(as_update, state, exp, compiled=compiled)
    laws.check_moved(as_update, state, exp)
    laws.check_fresh(lambda state, exp: loss(state.model.params, state, exp)[1], state, exp)


def _depends(loss: Loss, state: Any, exp: Experience) -> bool:
    """Whether a loss is computed from the parameters that it is given, even if its gradient is 0."""
    params = tree.map(lambda p: p.detach().requires_grad_(p.is_floating_point()), checks.params(state))
    with torch.enable_grad():
        return bool(loss(params, state, exp)[0].requires_grad)


def value_and_grad(loss: Loss, state: Any, exp: Experience) -> tuple[tuple[Tensor, Any], PyTree]:
    """((value, state that it returns), gradients) of a Loss at the parameters of the state."""

    def with_value(params: Any) -> tuple[Tensor, tuple[Tensor, Any]]:
        value, after = loss(params, state, exp)
        return value, (value, after)

    grads, (value, after) = torch.func.grad(with_value, has_aux=True)(state.model.params)
    return (value, after), grads


def check_gradient_transform(transform: GradientTransform, state: Any, exp: Experience, *, compiled: bool = False) -> None:
    """Take a GradientTransform through the laws, with random gradients and with zeros."""
    laws.check_arguments("transform", transform, state, exp, compiled=compiled)
    checks.params(state)
    for scale in (1.0, 0.0):

        def as_update(state: Any, exp: Experience, scale: float = scale) -> dict[str, Any]:
            params = state.model.params
            keys = random.split(random.key(7, tree.leaves(params)[0].device), len(params))
            grads = {
                name: scale * random.normal(k, tuple(p.shape), p.dtype) for k, (name, p) in zip(keys, params.items(), strict=True)
            }
            with laws.contract_is_law():
                new, after = contracts.transform_output(transform(grads, state, exp), grads, state, name="transform")
            laws.check_closed(new, params, "closed (gradients)")
            laws.check_closed(after, state)
            return {"grads": new, "state": after}

        def step(state: Any, exp: Experience, as_update: Callable[..., dict[str, Any]] = as_update) -> Any:
            return as_update(state, exp)["state"]

        laws.check_function(as_update, state, exp, compiled=compiled)
        laws.check_fresh(step, state, exp)


def check_probe(probe: Probe, state: Any, exp: Experience | None = None, *, compiled: bool = False) -> None:
    """Take a Probe through the laws: pure, closed, fresh, lanes and, with `compiled`, compiled."""
    laws.check_arguments("probe", probe, state, exp, compiled=compiled)
    with laws.contract_is_law():
        contracts.probe_output(probe(state, exp))
    laws.check_function(probe, state, exp, compiled=compiled, rows=False)
    keys = laws.keys_in(state)
    with record_key_uses(*keys) as uses:
        probe(state, exp)
        for child in [child for key in keys for child in random.split(key, 3)]:
            random.bits(child)
    if uses.faults:
        raise AssertionError(
            f"law 'fresh' broken: {uses.faults[0]}. A probe does not advance the state's key, so the next update draws the same; "
            "draw from random.fold_in(state.key, n) with a number n of your own"
        )


def check_draw(
    draw: Callable[[Any, Tensor, int], tuple[PyTree, Tensor]], memory: Any, n: int = 8, *, compiled: bool = False
) -> None:
    """Take a `draw(memory, key, n) -> (rows [n, ...], valid [n])` through the laws: occupied, pure, fresh, lanes, compiled.

    memory: has `data`, a tree of tensors [capacity, ...], and `occupied`, [capacity] bool. Try an empty, a partly filled and a full
    one.
    """
    signatures.function("draw", draw, 3, "a function draw(memory, key, n)")
    checks.positive_int("n", n)
    checks.flag("compiled", compiled)
    occupied = checks.occupied("memory", memory)

    def drawn(key: Tensor, exp: None) -> dict[str, Any]:
        rows, valid = draw(memory, key, n)
        return {"rows": rows, "valid": checks.tensor("valid", valid, (n,), torch.bool)}

    keys = random.split(random.key(2024), 5)
    singles = [laws.check_pure(drawn, key, None) for key in keys]
    with record_key_uses(keys[0]) as uses:
        draw(memory, keys[0], n)
    laws.check_key_uses(uses)
    lanes = transforms.vmap(drawn)(keys, None)
    for i, single in enumerate(singles):
        assert_equal(tree.map(lambda leaf, i=i: leaf[i], lanes), single, f"lanes (lane {i})")
        valid, count = single["valid"], int(single["valid"].sum())
        if count > occupied.sum():
            raise AssertionError(f"law 'occupied' broken: {count} rows are valid, the memory holds {int(occupied.sum())}")
        for (path, held), rows in zip(tree.items(memory.data), tree.leaves(single["rows"]), strict=True):
            stored, given = (part[:, None].flatten(1) for part in (held[occupied], rows[valid]))
            if not bool((stored == given[:, None]).all(2).any(1).all()):
                raise AssertionError(f"law 'occupied' broken at {path}: a row was drawn that the memory does not hold")
    if compiled:
        assert_equal(transforms.compile(drawn)(keys[0], None), singles[0], "compiled")


def check_device(
    function: Callable[[Any, Any], Any], state: Any, exp: Experience | None = None, device: torch.device | str | None = None
) -> None:
    """Run a function of (state, exp), such as an Update, on another device: it must not name one, nor wait for one.

    It is run on fake tensors, for which no accelerator is needed; `check_update`, `check_loss` and `check_gradient_transform` do so
    too. On an accelerator, if the machine has one or `device` names one, it must also give the same values as on the CPU.

    A probe with data of its own, such as `cl.evaluate(model, stream)`, holds them on one device: check its leaf,
    `cl.tree.leaves(probe)[0]`, which is a function of the rows that it is given.
    """
    laws.check_arguments("function", function, state, exp)
    checks.device("device", device)
    out = contracts.tensors(function(state, exp), name="function")
    laws.check_device_law(function, state, exp, out)
    if device is None and torch.accelerator.is_available():
        device = torch.accelerator.current_accelerator()
    if device is not None:
        on_device = function(tree.to(state, device), None if exp is None else tree.to(exp, device))
        for path, leaf in tree.items(on_device):
            if leaf.device.type != torch.device(device).type:
                raise AssertionError(f"law 'device' broken at {path}: it is on {leaf.device}, though all inputs are on {device}")
        assert_equal(tree.to(on_device, "cpu"), tree.to(out, "cpu"), f"device ({device})", 1e-3, 1e-4)
