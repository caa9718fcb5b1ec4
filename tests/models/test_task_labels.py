"""Task labels that change nothing give a warning: a model with one head on a task-incremental stream."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
import registry
import torch

import cl_func as cl
from cl_func import testing
from cl_func.experiences import stack

MODEL, SGD = registry.MODEL, registry.SGD
DATA = registry.BENCH.train[0].source
PAIR = (DATA, DATA)
TASKS = cl.streams.task_incremental(*PAIR, n_experiences=2)
HEADS = cl.models.multi_head(MODEL, cl.models.class_masks(TASKS.train))
ONE_HEAD = r"stream: its 2 tasks have classes of their own, but the model has one head.*cl.models.multi_head\(model, "
S = cl.strategies
STRATEGIES = {
    "naive": lambda model: S.naive(model, SGD),
    "lwf": lambda model: S.lwf(model, SGD, batch_size=5),
    "er_lwf": lambda model: S.er_lwf(model, SGD, capacity=6, replay_size=4, batch_size=5),
    "icarl": lambda model: S.icarl(model, SGD, capacity=7, replay_size=4),
    "ncm": lambda model: S.ncm(model, SGD),
    "slda": lambda model: S.slda(model, SGD, shrinkage=0.1),
    "ranpac": lambda model: S.ranpac(model, SGD, projection_size=16),
    "fecam": lambda model: S.fecam(model, SGD),
    "acil": lambda model: S.acil(model, SGD, projection_size=16),
    "bic": lambda model: S.bic(model, SGD, capacity=14, replay_size=4, validation=0.4),
}
JOINED = cl.Dataset(DATA.x, DATA.y, task=DATA.y // 2)
STREAMS = {
    "tasks": TASKS.test,
    "cumulative": cl.streams.cumulative(TASKS).test,
    "blurred": cl.streams.blurred(TASKS, key=cl.key(0)).train,
    "joined": [cl.experience(JOINED)],
    "lanes": [stack([exp, exp]) for exp in TASKS.test],
    "lanes, joined": [stack([cl.experience(JOINED), cl.experience(JOINED, torch.arange(20))])],
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_one_head_on_tasks_gives_a_warning(name):
    strategy = STRATEGIES[name](MODEL)
    with pytest.warns(UserWarning, match=ONE_HEAD) as found:
        cl.evaluate(strategy.model, TASKS.test)
    assert len(found) == 1
    assert found[0].filename == __file__


@pytest.mark.parametrize("name", STREAMS)
def test_on_every_stream_with_tasks(name):
    with pytest.warns(UserWarning, match=ONE_HEAD):
        cl.evaluate(MODEL, STREAMS[name])


@pytest.mark.parametrize("given", ["benchmark", "function"])
def test_a_sweep_warns_once(given):
    bench = TASKS if given == "benchmark" else lambda key: cl.streams.task_incremental(*PAIR, n_experiences=2, key=key)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")
        cl.sweep(S.lwf(MODEL, SGD, batch_size=5), bench, seeds=4, lanes=2, compile=False, progress=False)
    assert len([warning for warning in found if "multi_head" in str(warning.message)]) == 1


class HeedsTask:
    """A user's own way with task labels."""

    def __call__(self, params, buffers, x, *, train=False, valid=None, task=None):
        logits, buffers = MODEL.apply(params, buffers, x)
        return logits + task[:, None] * params["2.weight"][:, 0], buffers


QUIET = {
    "class-incremental": (MODEL, cl.streams.split_by_class(*PAIR, n_experiences=2).test, {}),
    "domain-incremental": (cl.models.mlp(6, (8,), 2), cl.streams.domain_incremental(*PAIR, n_experiences=2).test, {}),
    "permuted": (MODEL, cl.streams.permuted(*PAIR, n_experiences=2, key=cl.key(0)).test, {}),
    "permuted with task labels": (MODEL, [cl.experience(DATA, task=i, index=i) for i in range(3)], {}),
    "one task": (MODEL, [cl.experience(DATA, exp.rows, task=7) for exp in TASKS.test], {}),
    "heads": (HEADS, TASKS.test, {}),
    "heads of a classifier": (S.ncm(HEADS, SGD).model, TASKS.test, {}),
    "experience mask": (MODEL, TASKS.test, {"mask": "experience"}),
    "another way": (dataclasses.replace(MODEL, apply=HeedsTask()), TASKS.test, {}),
    "a function": (lambda state, exp: MODEL.apply(state.model.params, {}, exp.x)[0], TASKS.test, {}),
}


@pytest.mark.parametrize("name", QUIET)
def test_nothing_is_told_where_task_labels_matter_or_tell_nothing(name):
    """Warnings are errors here."""
    model, stream, more = QUIET[name]
    cl.evaluate(model, stream, **more)


@pytest.mark.parametrize("name", ["lwf", "er_lwf"])
def test_with_heads_the_methods_that_read_task_labels_use_them(name):
    """What the warning says: with one head a task-incremental run is the class-incremental one, with heads it is another."""
    data = testing.small_benchmark(n_classes=6, n_experiences=3).train[0].source  # old heads are apart from the third task on
    tasks, classes = (split(data, data, n_experiences=3) for split in (cl.streams.task_incremental, cl.streams.split_by_class))
    one = cl.models.mlp(6, (8,), 6)
    heads = cl.models.multi_head(one, cl.models.class_masks(tasks.train))

    def end(model, bench):
        strategy = STRATEGIES[name](model)
        return cl.fold(strategy.update, strategy.init(cl.key(0)), bench.train).model

    testing.assert_equal(end(one, tasks), end(one, classes), "one head")
    assert not cl.tree.equal(end(heads, tasks), end(one, tasks))


def test_a_classifier_with_heads_needs_one_for_every_task():
    """As a model does."""
    for name in ("ncm", "icarl", "slda", "ranpac", "fecam", "acil"):
        strategy = STRATEGIES[name](HEADS)
        with pytest.raises(ValueError, match=r"stream\[0\]: its task labels are \[5\], the model has the heads 0..1"):
            cl.evaluate(strategy.model, [cl.experience(DATA, torch.arange(3), task=5)])
