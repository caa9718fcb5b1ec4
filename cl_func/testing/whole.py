"""The laws of a whole run, and of what is saved."""

from __future__ import annotations

import pickle
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, core, random, transforms, tree
from cl_func.core.loop import fold, scan
from cl_func.core.nodes import Combinator
from cl_func.evaluation import evaluate
from cl_func.experiences import Benchmark
from cl_func.sources.dataset import as_bytes
from cl_func.storage.checkpoint import load, save
from cl_func.sweeps.runs import Runs
from cl_func.testing import laws
from cl_func.testing.components import check_update
from cl_func.testing.key_uses import record_key_uses
from cl_func.testing.laws import ATOL, RTOL, assert_equal


def check_strategy(strategy: core.Strategy, benchmark: Benchmark, *, seed: int = 0, compiled: bool = False) -> None:
    """Take a Strategy through all laws over the train stream of a small benchmark (2 experiences or more)."""
    checks.instance("strategy", strategy, core.Strategy, "a cl.Strategy(init, update)")
    checks.instance("benchmark", benchmark, Benchmark, "a Benchmark such as cl.testing.small_benchmark()")
    checks.flag("compiled", compiled)
    init, update, train = strategy.init, strategy.update, benchmark.train
    with laws.generator_untouched():
        start = init(random.key(seed))
    assert_equal(init(random.key(seed)), start, "pure (init)")
    experiences = list(train)
    states = [start]
    for exp in experiences:  # the first run of all: a change in place that is made twice is seen at the first time only
        given = tree.map(torch.clone, (states[-1], exp))
        states.append(update(states[-1], exp))
        assert_equal((states[-2], exp), given, "pure (inputs)")
        laws.check_closed(states[-1], start)
    assert_equal(fold(_with_padding(update), start, train), states[-1], "padding (minibatches)", RTOL, ATOL)
    key = random.key(seed)
    with record_key_uses(key) as uses:
        fold(update, init(key), train)
    laws.check_key_uses(uses)
    for before, exp in [(states[0], experiences[0]), (states[-2], experiences[-1])]:
        check_update(update, before, exp)

    lanes_end = fold(transforms.vmap(update), tree.stack([start, init(random.key(seed + 1))]), train)
    for i, lane in enumerate(tree.unstack(lanes_end)):
        assert_equal(lane, fold(update, init(random.key(seed + i)), train), "lanes (stream)", RTOL, ATOL)

    for cut in range(1, len(experiences)):
        stored = pickle.loads(_pickled(states[cut]))
        assert_equal(fold(update, stored, experiences[cut:]), states[-1], f"resumed (at experience {cut})")

    probe = (lambda state, exp: state.key) if strategy.model is None else evaluate(strategy.model, benchmark.test)
    assert_equal(scan(update, start, train, probe)[0], states[-1], "silent")
    if strategy.model is not None:
        losses = [evaluate(strategy.model, benchmark.test, batch_size=n)(states[-1], None)["loss"] for n in (512, 3)]
        assert_equal(losses[1], losses[0], "rows", RTOL, ATOL)
    if compiled:
        program = transforms.compile(update)
        assert_equal(fold(program, start, train), states[-1], "compiled (stream)", RTOL, ATOL)
        assert_equal(fold(program, start, train, donate=True), states[-1], "compiled (stream, donated)", RTOL, ATOL)


def _with_padding(update: Any, repeat: bool = False) -> Any:
    """The update with padding in each minibatch: of an experience that is padded, minibatches have as many rows as without.

    repeat: the minibatch's own rows are repeated, which may be numbers of something else than the source, such as a memory's slots.
    """
    if isinstance(update, Combinator):
        repeat = repeat or getattr(update, "view", None) is not None
        return update.rebuild(tuple(_with_padding(child, repeat) for child in update.children))
    return partial(_padded_leaf, update, repeat)


def _padded_leaf(leaf: Any, repeat: bool, state: Any, exp: Any) -> Any:
    return leaf(state, laws.padded(exp, repeat))


def _pickled(state: Any) -> bytes:
    try:
        return pickle.dumps(state)
    except Exception as error:
        raise AssertionError(
            f"law 'resumed' broken: the state cannot be pickled ({type(error).__name__}: {error}). A class or function "
            "that is in it must stand at the top of a file, not within a function."
        ) from error


def check_round_trip(value: Any) -> None:
    """Save a state, a history, any tree of tensors, or Runs, and load it: what comes back must be the same to the bit.

    A tree is loaded both into one of zeros and as a dict by path. Runs must keep the order and the types of their axes, labels and
    histories. Raises AssertionError, and the errors of `cl.save` for what cannot be saved.
    """
    is_runs = isinstance(value, Runs)
    if not is_runs and any(leaf.is_meta for leaf in tree.leaves(checks.tensors("value", value))):
        raise ValueError("value: it is on the device meta, which holds no values.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "value"
        save(path, value)
        by_path = load(path)
        loaded = by_path if is_runs else load(path, like=tree.map(torch.zeros_like, value))

    (structure, leaves), (expected_structure, expected) = _structure_and_leaves(loaded), _structure_and_leaves(value)
    if structure != expected_structure:
        raise AssertionError(f"law 'round trip' broken: {structure} against {expected_structure}")
    for found in (leaves, leaves if is_runs else by_path):
        if found.keys() != expected.keys():
            raise AssertionError(f"law 'round trip' broken: the names are {sorted(found)} against {sorted(expected)}")
        for name, leaf in expected.items():
            same = tree.describe(found[name]) == tree.describe(leaf) and torch.equal(as_bytes(found[name]), as_bytes(leaf))
            if not same:
                raise AssertionError(f"law 'round trip' broken at {name}: {found[name]} against {leaf}")


def _structure_and_leaves(value: Any) -> tuple[Any, dict[str, Tensor]]:
    if isinstance(value, Runs):  # by repr, which distinguishes the types of labels and in which NaN equals NaN
        names = repr((value.axes, list(value.history), value.seconds, value.attributes))
        return names, {"finished of the runs": value.finished, **value.history}
    return tree.flatten(value)[1], dict(tree.items(value))
