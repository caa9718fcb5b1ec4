"""The laws that every component obeys, as functions for tests of your own, and Hypothesis strategies for their inputs.

    cl.testing.check_update(my_update, state, exp)            an Update `(state, exp) -> state`
    cl.testing.check_loss(my_loss, state, exp)                a Loss
    cl.testing.check_gradient_transform(mine, state, exp)     a GradientTransform
    cl.testing.check_probe(my_probe, state, exp)              a Probe
    cl.testing.check_draw(my_draw, memory)                    how rows are drawn from a memory
    cl.testing.check_strategy(my_strategy, benchmark)         a Strategy, over a whole stream
    cl.testing.check_device(my_update, state, exp)            any function of (state, exp), on another device
    cl.testing.check_round_trip(state)                        what can be saved: a state, a history, Runs

Each raises AssertionError that names the law and the first leaf where it fails:
    pure       the inputs stay bitwise the same, a second call gives the same, torch's global generator does not move
    closed     it returns what its kind does; the state comes back in the structure, shapes, dtypes and devices it went in
    occupied   (draws) only rows that the memory holds are drawn, and no more are valid than it holds
    depends    (losses) the value is computed from the parameters given
    fresh      no key is drawn from twice, in one call or in two in a row; a probe does not draw what the next update will
    lanes      lane i of the vmapped run equals the single run
    compiled   the compiled run equals the eager one, and the donated one the pure one (with compiled=True)
    padding    rows that are not valid change nothing
    device     nothing names a device or waits for one
    resumed    (strategies) stopping, storing and going on gives the same as not stopping
    silent     (strategies) evaluating on the way changes nothing
    round trip what is saved and loaded comes back the same to the bit, each name and label in its place and of its type
"""

from __future__ import annotations

import contextlib
import pickle
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, contracts, core, random, transforms, tree
from cl_func.checkpoint import load, save
from cl_func.evaluate import evaluate
from cl_func.experience import Benchmark, Dataset, Experience, experience, pad, stream
from cl_func.fake_device import device_fault
from cl_func.key_uses import KeyUses, recorded
from cl_func.runs import Runs
from cl_func.scan import fold, scan
from cl_func.tree import PyTree

RTOL, ATOL = 1e-4, 1e-5  # float32 sums in another order: a batched matrix product, a compiled kernel


def assert_equal(actual: PyTree, expected: PyTree, law: str, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Raise AssertionError naming the law and the first leaf that differs."""
    difference = tree.difference(actual, expected, rtol, atol)
    if difference is not None:
        raise AssertionError(f"law '{law}' broken at {difference}")


def check_update(update: Any, state: Any, exp: Experience, *, compiled: bool = False, padding: bool = True) -> None:
    """Take an Update through the laws: pure, closed, lanes, padding and, with `compiled`, compiled and donated.

    `padding=False` is for updates on experiences that have no rows to pad.
    """
    _check_arguments("update", update, state, exp, compiled=compiled, padding=padding)
    with _obeyed():
        out = contracts.update_output(_check_pure(update, state, exp), state, leaves=True)
    _check_closed(out, state)
    _check_fresh(update, state, exp)
    _check_lanes(update, state, exp)
    if padding:
        assert_equal(update(state, pad(exp, len(exp) + 3)), out, "padding", RTOL, ATOL)
    _check_places(update, state, exp, out)
    if compiled:
        program = transforms.compile(update)
        assert_equal(program(state, exp), out, "compiled", RTOL, ATOL)
        assert_equal(fold(program, state, [exp], donate=True), out, "compiled (donated)", RTOL, ATOL)
        lanes = tree.stack([state, vary(state)])
        program = transforms.compile(transforms.vmap(update))
        assert_equal(program(lanes, exp), transforms.vmap(update)(lanes, exp), "compiled (lanes)", RTOL, ATOL)


def check_loss(loss: Callable[..., Any], state: Any, exp: Experience, *, compiled: bool = False) -> None:
    """Take a Loss through the laws, value and gradient alike; the value must be a finite scalar."""
    _check_arguments("loss", loss, state, exp, compiled=compiled)
    with _obeyed():
        value, after = contracts.loss_output(loss(_params(state), state, exp), state)
        contracts.update_output(after, state, leaves=True, name="loss")
    if not bool(torch.isfinite(value)):
        raise AssertionError(f"law 'finite' broken: the loss is {value.item()}")
    if not _depends(loss, state, exp):
        raise AssertionError(f"law 'depends' broken: {contracts.independent()}")

    def as_update(state: Any, exp: Any) -> Any:
        (value, after), grads = _value_and_grad(loss, state, exp)
        _check_closed(after, state)
        return {"value": value, "grads": grads, "state": after}

    _check_function(as_update, state, exp, compiled=compiled)
    _check_fresh(lambda state, exp: loss(state.model.params, state, exp)[1], state, exp)


def _depends(loss: Callable[..., Any], state: Any, exp: Any) -> bool:
    """Whether a loss is a function of the parameters that it is given, be its gradient 0."""
    params = tree.map(lambda p: p.detach().requires_grad_(p.is_floating_point()), _params(state))
    with torch.enable_grad():
        return bool(loss(params, state, exp)[0].requires_grad)


def _value_and_grad(loss: Callable[..., Any], state: Any, exp: Any) -> tuple[tuple[Tensor, Any], Any]:
    def with_value(params: Any) -> tuple[Tensor, tuple[Tensor, Any]]:
        value, after = loss(params, state, exp)
        return value, (value, after)

    grads, (value, after) = torch.func.grad(with_value, has_aux=True)(state.model.params)
    return (value, after), grads


def check_gradient_transform(transform: Callable[..., Any], state: Any, exp: Experience, *, compiled: bool = False) -> None:
    """Take a GradientTransform through the laws on gradients drawn at random, and on zero gradients."""
    _check_arguments("transform", transform, state, exp, compiled=compiled)
    _params(state)
    for scale in (1.0, 0.0):

        def as_update(state: Any, exp: Any, scale: float = scale) -> Any:
            params = state.model.params
            keys = random.split(random.key(7, tree.leaves(params)[0].device), len(params))
            grads = {
                name: scale * random.normal(k, tuple(p.shape), p.dtype) for k, (name, p) in zip(keys, params.items(), strict=True)
            }
            with _obeyed():
                new, after = contracts.transform_output(transform(grads, state, exp), grads, state, name="transform")
            _check_closed(new, params, "closed (gradients)")
            _check_closed(after, state)
            return {"grads": new, "state": after}

        def step(state: Any, exp: Any, as_update: Callable[..., Any] = as_update) -> Any:
            return as_update(state, exp)["state"]

        _check_function(as_update, state, exp, compiled=compiled)
        _check_fresh(step, state, exp)


def check_probe(probe: Callable[..., Any], state: Any, exp: Experience | None = None, *, compiled: bool = False) -> None:
    """Take a Probe through the laws: it draws nothing, changes nothing, and gives each lane what it gives the single run."""
    _check_arguments("probe", probe, state, exp, compiled=compiled)
    with _obeyed():
        contracts.probe_output(probe(state, exp))
    _check_function(probe, state, exp, compiled=compiled, rows=False)
    keys = _keys(state)
    with recorded(*keys) as uses:
        probe(state, exp)
        for child in [child for key in keys for child in random.split(key, 3)]:
            random.bits(child)
    if uses.faults:
        raise AssertionError(
            f"law 'fresh' broken: {uses.faults[0]}. A probe does not move the state's key on, so the next update draws the same; "
            "draw from random.fold_in(state.key, n) with a number of your own"
        )


def check_draw(draw: Callable[..., Any], memory: Any, n: int = 8, *, compiled: bool = False) -> None:
    """Take a `draw(memory, key, n) -> (rows [n, ...], valid [n])` through the laws: occupied, pure, lanes, compiled.

    memory: with `data`, a tree of [capacity, ...], and `occupied`, [capacity] bool; give it empty, filled in part and full.
    """
    checks.function("draw", draw, "a function draw(memory, key, n)")
    checks.positive("n", n)
    checks.flag("compiled", compiled)
    occupied = checks.occupied("memory", memory)

    def drawn(key: Any, exp: Any) -> Any:
        rows, valid = draw(memory, key, n)
        return {"rows": rows, "valid": checks.tensor("valid", valid, (n,), torch.bool)}

    keys = random.split(random.key(2024), 5)
    singles = [_check_pure(drawn, key, None) for key in keys]
    lanes = transforms.vmap(drawn)(keys, None)
    for i, single in enumerate(singles):
        assert_equal(tree.map(lambda leaf, i=i: leaf[i], lanes), single, f"lanes (lane {i})")
        valid, count = single["valid"], int(single["valid"].sum())
        if count > occupied.sum():
            raise AssertionError(f"law 'occupied' broken: {count} rows are valid, the memory holds {int(occupied.sum())}")
        for (path, held), rows in zip(tree.items(memory.data), tree.leaves(single["rows"]), strict=True):
            known, given = (part[:, None].flatten(1) for part in (held[occupied], rows[valid]))
            if not bool((known == given[:, None]).all(2).any(1).all()):
                raise AssertionError(f"law 'occupied' broken at {path}: a row was drawn that the memory does not hold")
    if compiled:
        assert_equal(transforms.compile(drawn)(keys[0], None), singles[0], "compiled")


def _check_function(function: Any, state: Any, exp: Any, *, compiled: bool, rows: bool = True) -> None:
    out = _check_pure(function, state, exp)
    _check_lanes(function, state, exp)
    if rows:
        assert_equal(function(state, pad(exp, len(exp) + 3)), out, "padding", RTOL, ATOL)
        _check_places(function, state, exp, out)
    if compiled:
        assert_equal(transforms.compile(function)(state, exp), out, "compiled", RTOL, ATOL)


def check_strategy(strategy: core.Strategy, benchmark: Benchmark, *, seed: int = 0, compiled: bool = False) -> None:
    """Take a Strategy through all laws over the train stream of a small benchmark (2 experiences or more)."""
    checks.instance("strategy", strategy, core.Strategy, "a cl.Strategy(init, update)")
    checks.instance("benchmark", benchmark, Benchmark, "a Benchmark such as cl.testing.small_benchmark()")
    checks.flag("compiled", compiled)
    init, update, train = strategy.init, strategy.update, benchmark.train
    start = init(random.key(seed))
    assert_equal(init(random.key(seed)), start, "pure (init)")
    key = random.key(seed)
    with recorded(key) as uses:
        fold(update, init(key), train)
    _refuse_reuse(uses)
    experiences = list(train)
    states = [start]
    for exp in experiences:
        states.append(update(states[-1], exp))
        _check_closed(states[-1], start)
    for before, exp in [(states[0], experiences[0]), (states[-2], experiences[-1])]:
        check_update(update, before, exp)

    _, lanes_end = None, fold(transforms.vmap(update), tree.stack([start, init(random.key(seed + 1))]), train)
    for i, lane in enumerate(tree.unstack(lanes_end)):
        assert_equal(lane, fold(update, init(random.key(seed + i)), train), "lanes (stream)", RTOL, ATOL)

    for cut in range(1, len(experiences)):
        stored = pickle.loads(pickle.dumps(states[cut]))
        assert_equal(fold(update, stored, experiences[cut:]), states[-1], f"resumed (at experience {cut})")

    probe = (lambda state, exp: state.key) if strategy.model is None else evaluate(strategy.model, benchmark.test)
    assert_equal(scan(update, start, train, probe)[0], states[-1], "silent")
    if compiled:
        program = transforms.compile(update)
        assert_equal(fold(program, start, train), states[-1], "compiled (stream)", RTOL, ATOL)
        assert_equal(fold(program, start, train, donate=True), states[-1], "compiled (stream, donated)", RTOL, ATOL)


def check_device(
    function: Callable[[Any, Any], Any], state: Any, exp: Experience | None = None, device: torch.device | str | None = None
) -> None:
    """Run a function of (state, exp), such as an Update, on another device: it must name none, and wait for none.

    It is run on fake tensors, which takes no accelerator; `check_update`, `check_loss` and `check_gradient_transform` do that too.
    On an accelerator, where there is one or `device` names one, it must also give the values of the processor.

    A probe that looks at data of its own, such as `cl.evaluate(model, stream)`, has them on one device: check its leaf,
    `cl.tree.leaves(probe)[0]`, which is a function of the rows that it is given.
    """
    _check_arguments("function", function, state, exp)
    checks.device("device", device)
    out = contracts.tensors(function(state, exp), name="function")
    _check_places(function, state, exp, out)
    if device is None and torch.accelerator.is_available():
        device = torch.accelerator.current_accelerator()
    if device is not None:
        there = function(tree.to(state, device), None if exp is None else tree.to(exp, device))
        for path, leaf in tree.items(there):
            if leaf.device.type != torch.device(device).type:
                raise AssertionError(f"law 'device' broken at {path}: it is on {leaf.device}, all that was given on {device}")
        assert_equal(tree.to(there, "cpu"), tree.to(out, "cpu"), f"device ({device})", 1e-3, 1e-4)


def _check_places(function: Any, state: Any, exp: Any, out: Any) -> None:
    fault = device_fault(function, state, exp, out=out)
    if fault is not None:
        raise AssertionError(f"law 'device' broken: {fault}")


def check_round_trip(value: Any) -> None:
    """Save a state, a history, any tree of tensors, or Runs, and load it: what comes back must be the same, to the bit.

    A tree is loaded into one of zeros, and as a dict by path. Runs must have their axes, labels and histories in the same order and
    of the same types. Raises AssertionError, and the errors of `cl.save` for what cannot be saved.
    """
    runs = isinstance(value, Runs)
    if not runs and any(leaf.is_meta for leaf in tree.leaves(checks.tensors("value", value))):
        raise ValueError("value: it is on the device meta, which holds no values.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "value"
        save(path, value)
        by_path = load(path)
        again = by_path if runs else load(path, like=tree.map(torch.zeros_like, value))

    def whole(part: Any) -> tuple[Any, dict[str, Tensor]]:
        if runs:  # a repr tells labels of several types apart, and NaN is NaN
            return repr((part.axes, list(part.history), part.seconds)), {"finished of the runs": part.finished, **part.history}
        return tree.flatten(part)[1], dict(tree.items(part))

    (structure, leaves), (expected, wanted) = whole(again), whole(value)
    if structure != expected:
        raise AssertionError(f"law 'round trip' broken: {structure} against {expected}")
    for found in (leaves, leaves if runs else by_path):
        if found.keys() != wanted.keys():
            raise AssertionError(f"law 'round trip' broken: the names are {sorted(found)} against {sorted(wanted)}")
        for name, leaf in wanted.items():
            same = tree.describe(found[name]) == tree.describe(leaf) and torch.equal(_bits(found[name]), _bits(leaf))
            if not same:
                raise AssertionError(f"law 'round trip' broken at {name}: {found[name]} against {leaf}")


def _bits(leaf: Tensor) -> Tensor:
    """The bytes of a tensor; equal where even NaN and the sign of 0 are."""
    return leaf.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)


def _check_arguments(name: str, function: Any, state: Any, exp: Any, **flags: Any) -> None:
    checks.function(name, function)
    if any(leaf.is_meta for leaf in tree.leaves(checks.tensors("state", state))):
        raise ValueError("state: it is on the device meta, which holds no values.")
    if exp is not None or name not in ("probe", "function"):
        checks.instance("exp", exp, Experience, "an Experience")
    for flag, value in flags.items():
        checks.flag(flag, value)


@contextlib.contextmanager
def _obeyed() -> Iterator[None]:
    """Within it, a function that returns something else than its kind does breaks the law 'closed'."""
    try:
        yield
    except contracts.ContractError as error:
        raise AssertionError(
            f"law 'closed' broken{' at ' if error.path else ''}{error.path}: it gave {error.gave}, expected {error.expected}; "
            f"{error.mend} (in `{error.name}`)"
        ) from error


def _params(state: Any) -> Any:
    try:
        return state.model.params
    except AttributeError:
        raise checks.no_agent("state", state, "model") from None


def _check_pure(function: Any, state: Any, exp: Any) -> Any:
    before, generator = tree.map(torch.clone, (state, exp)), torch.random.get_rng_state()
    first = tree.map(_cloned, function(state, exp))
    assert_equal((state, exp), before, "pure (inputs)")
    if not torch.equal(torch.random.get_rng_state(), generator):
        raise AssertionError("law 'pure' broken: torch's global generator was advanced; draw with cl.random from state.key")
    assert_equal(function(state, exp), first, "pure (second call)")
    return first


def _cloned(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _keys(state: Any) -> list[Tensor]:
    """All that may be a key in a state; counters are among it, and nothing is drawn from those."""
    return list({int(leaf): leaf for leaf in tree.leaves(state) if leaf.dtype == torch.int64 and not leaf.ndim}.values())


def _check_fresh(step: Callable[[Any, Any], Any], state: Any, exp: Experience) -> None:
    """Of two steps in a row, no two draws may be from one key."""

    def taken(following: Experience) -> KeyUses:
        with recorded(*_keys(state)) as uses:
            step(step(state, exp), following)
        return uses

    # A key that stays is right for what is drawn once an experience, from its child for the experience: fold_in(key, exp.index).
    uses = taken(exp)
    if uses.faults:
        _refuse_reuse(taken(tree.replace(exp, index=exp.index + 1)))
    if uses.drawn or uses.derived or not isinstance(state, core.Agent):
        return
    out, other = step(state, exp), step(tree.replace(state, key=random.fold_in(state.key, 99)), exp)
    difference = tree.difference(out.replace(key=other.key), other)
    if difference is not None and torch.equal(out.key, state.key):
        raise AssertionError(
            f"law 'fresh' broken: another key gives another result, at {difference}, but cl.random was not asked, and the key that "
            "comes back is the one that was given; draw with cl.random from a child: `key, draw = random.split(state.key)`"
        )


def _refuse_reuse(uses: KeyUses) -> None:
    if uses.faults:
        raise AssertionError(
            f"law 'fresh' broken: {uses.faults[0]}. Use a key once: `key, draw = random.split(state.key)`, draw from `draw`, and "
            "return the state with `key`"
        )


def _check_closed(out: Any, state: Any, law: str = "closed") -> None:
    if type(out) is not type(state):
        raise AssertionError(f"law '{law}' broken: it gave {tree.describe(out)}, expected {tree.describe(state)}, the state")

    def spec(node: Any) -> Any:
        return tree.map(lambda leaf: tree.describe(leaf) + f" on {leaf.device}" if isinstance(leaf, Tensor) else repr(leaf), node)

    assert_equal(spec(out), spec(state), law)


def vary(state: Any) -> Any:
    """Another state of the same structure: floating leaves moved by a few percent, the key replaced."""
    checks.tensors("state", state)
    moved = tree.map(lambda leaf: leaf * 1.03 if leaf.dtype.is_floating_point else leaf.clone(), state)
    return moved.replace(key=random.fold_in(state.key, 99)) if isinstance(state, core.Agent) else moved


def _check_lanes(function: Any, state: Any, exp: Any) -> None:
    singles = [state, vary(state)]
    try:
        lanes = transforms.vmap(function)(tree.stack(singles), exp)
    except RuntimeError as error:
        raise AssertionError(
            f"law 'lanes' broken: it cannot be vmapped, since {str(error).strip().splitlines()[0]} "
            "(In place of .item() and an if on a tensor take torch.where or cl.when, in place of a boolean mask weights.)"
        ) from error
    for i, single in enumerate(singles):
        lane = tree.map(lambda leaf, i=i: leaf[i], lanes)
        assert_equal(lane, function(single, exp), f"lanes (lane {i})", RTOL, ATOL)


def small_benchmark(n_features: int = 6, n_classes: int = 4, rows_per_class: int = 7, n_experiences: int = 2) -> Benchmark:
    """A small class-incremental benchmark of separable Gaussian blobs, for tests; x is float32 [N, n_features]."""
    for name, size in {"n_features": n_features, "n_classes": n_classes, "rows_per_class": rows_per_class}.items():
        checks.positive(name, size)
    if n_classes % checks.positive("n_experiences", n_experiences):
        raise ValueError(f"n_experiences: {n_experiences} does not divide the {n_classes} classes.")
    n = n_classes * rows_per_class
    centre, noise = random.split(random.key(2024))
    y = torch.arange(n_classes).repeat_interleave(rows_per_class)
    x = 2 * random.normal(centre, (n_classes, n_features))[y] + random.normal(noise, (n, n_features))
    data = Dataset(x, y)
    group = y // (n_classes // n_experiences)
    parts = [experience(data, (group == i).nonzero().flatten(), index=i) for i in range(n_experiences)]
    return Benchmark(train=stream(parts), test=stream(parts))


def keys() -> Any:
    """Hypothesis strategy: random keys, () int64."""
    st = checks.optional("hypothesis.strategies", "cl.testing.keys", "testing")

    return st.integers(0, 2**64 - 1).map(random.key)


def experiences(n_features: int = 6, n_classes: int = 4, max_rows: int = 12, min_rows: int = 1) -> Any:
    """Hypothesis strategy: experiences of min_rows to max_rows rows, some of them padding, at least one valid."""
    st = checks.optional("hypothesis.strategies", "cl.testing.experiences", "testing")

    for name, size in {"n_features": n_features, "n_classes": n_classes, "min_rows": min_rows}.items():
        checks.positive(name, size)
    if checks.positive("max_rows", max_rows) < min_rows:
        raise ValueError(f"min_rows: expected at most max_rows = {max_rows}, got {min_rows}.")

    @st.composite
    def make(draw: Any) -> Experience:
        n = draw(st.integers(min_rows, max_rows))
        valid = torch.tensor(draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(any)))
        y = torch.tensor(draw(st.lists(st.integers(0, n_classes - 1), min_size=n, max_size=n)))
        x = random.normal(draw(keys()), (n, n_features))
        index = draw(st.integers(0, 3))
        return tree.replace(experience(Dataset(x, y, n_classes=n_classes), index=index), valid=valid)

    return make()


def streams(n_features: int = 6, n_classes: int = 4, max_length: int = 3) -> Any:
    """Hypothesis strategy: streams of 1 to max_length experiences."""
    st = checks.optional("hypothesis.strategies", "cl.testing.streams", "testing")

    checks.positive("max_length", max_length)
    return st.lists(experiences(n_features, n_classes), min_size=1, max_size=max_length).map(stream)


def agents(init: Callable[[Tensor], Any]) -> Any:
    """Hypothesis strategy: fresh states `init(key)` over keys."""
    checks.function("init", init, "a function from a key to a state")
    return keys().map(init)
