"""Every source by its laws (rows alone and together, in lanes, compiled, pickled, on another device) and by known answers."""

from __future__ import annotations

import pickle

import pytest
import torch

import cl_func as cl
from cl_func import random, sources, testing, tree
from cl_func.experiences import experience, first_lane, lane_axes
from cl_func.experiences import stack as stack_lanes
from cl_func.sources import Dataset
from cl_func.sources.source import same
from cl_func.sources.source import stack as stack_sources

N, FEATURES, CLASSES = 12, 16, 4
DATA = Dataset(random.normal(random.key(1), (N, FEATURES)), torch.arange(N) % CLASSES)
WITH_TASKS = tree.replace(DATA, task=torch.arange(N) // 5)
IMAGES = Dataset((random.uniform(random.key(2), (N, 2, 3, 4)) * 256).to(torch.uint8), DATA.y)


def permuted(key, data=DATA):
    return sources.Permuted(data, random.permutation(key, data.x[0].numel()))


def rotated(key, data=DATA):
    return sources.rotate(data, 360 * float(random.uniform(key)))


def relabelled(key):
    return sources.Relabelled(DATA, random.randint(key, CLASSES, 0, 3), n_classes=3)


def task_labelled(key):
    return sources.TaskLabelled(DATA, random.randint(key, N, 0, 3))


def nested(key):
    """Every view, one on the other."""
    one, two, three, four = random.split(key, 4)
    tasks = sources.TaskLabelled(rotated(one, IMAGES), random.randint(two, N, 0, 3))
    labels = sources.Relabelled(tasks, random.randint(three, CLASSES, 0, 3), n_classes=3)
    return sources.Permuted(labels, random.permutation(four, 24))


def joined(key):
    return sources.join([nested(child) for child in random.split(key, 3)])


SOURCES = {
    "Dataset": lambda key: DATA,
    "Dataset with tasks": lambda key: WITH_TASKS,
    "Permuted": permuted,
    "Rotated": rotated,
    "Relabelled": relabelled,
    "TaskLabelled": task_labelled,
    "nested": nested,
    "Joined": joined,
}
each_source = pytest.mark.parametrize("name", SOURCES)
ROWS = torch.tensor([5, 0, 11, 5, 3])


def whole(source):
    """All rows of a source, gathered one by one."""
    parts = [source.gather(torch.tensor([row])) for row in range(len(source))]
    return {field: torch.cat([part[field] for part in parts]) for field in parts[0]}


def shown(state, exp):
    """What an experience shows to a step."""
    return {"x": exp.x + 0 * state, "y": exp.y, "task": exp.tasks}


# ------------------------------------------------------------------ laws


@each_source
def test_rows_do_not_depend_on_their_company(name):
    source = SOURCES[name](cl.key(0))
    all_at_once, one_by_one = source.gather(torch.arange(len(source))), whole(source)
    testing.assert_equal(all_at_once, one_by_one, "one by one")
    testing.assert_equal(source.gather(ROWS), tree.map(lambda leaf: leaf[ROWS], one_by_one), "any rows, twice")
    assert source.gather_x(ROWS[:0]).shape == (0, *all_at_once["x"].shape[1:])
    assert source.target == sources.target_of(all_at_once["y"])
    assert source.n_classes > int(all_at_once["y"].max())
    assert source.device == all_at_once["x"].device


@each_source
def test_gathering_is_pure_and_pickles(name):
    source = SOURCES[name](cl.key(0))
    before, generator = tree.map(torch.clone, source), torch.get_rng_state()
    first = source.gather(ROWS)
    testing.assert_equal(source, before, "pure")
    testing.assert_equal(source.gather(ROWS), first, "pure (second call)")
    assert torch.equal(torch.get_rng_state(), generator)
    back = pickle.loads(pickle.dumps(source))
    assert tree.flatten(back)[1] == tree.flatten(source)[1]
    testing.assert_equal(back.gather(ROWS), first, "pickled")
    assert len(back) == len(source)


def lanes_of(name, n=3):
    exps = [experience(SOURCES[name](cl.key(seed)), ROWS, index=1) for seed in range(n)]
    return exps, stack_lanes(exps)


@each_source
def test_lanes_with_parameters_of_their_own(name):
    exps, lanes = lanes_of(name)
    found = cl.vmap(shown)(torch.zeros(3), lanes)
    for i, exp in enumerate(exps):
        testing.assert_equal(tree.map(lambda leaf, i=i: leaf[i], found), shown(torch.tensor(0.0), exp), f"lane {i}")
    testing.assert_equal(first_lane(lanes), exps[0], "first lane")
    shared = {path for (path, _), axis in zip(tree.items(lanes), lane_axes(lanes), strict=True) if axis is None}
    assert {path.rpartition(".")[2] for path in shared} <= {"x", "y", "task"}
    kept = dict(tree.items(lanes))
    assert all(kept[path] is leaf for path, leaf in tree.items(exps[0]) if path in shared)  # no copy


@each_source
def test_on_another_device(name):
    """On fake tensors: nothing names a device."""
    testing.check_device(shown, torch.tensor(0.0), experience(SOURCES[name](cl.key(0)), ROWS))


def test_compiled_equals_eager():
    """All of them in lanes, those that hold every other one, in one program; to the bit."""
    exps = {name: lanes_of(name)[1] for name in ("nested", "Joined")}

    def all_shown(state, exps):
        return {name: cl.vmap(shown)(state, exp) for name, exp in exps.items()}

    testing.assert_equal(cl.compile(all_shown)(torch.zeros(3), exps), all_shown(torch.zeros(3), exps), "compiled")


# ------------------------------------------------------------------ known answers


def test_permuted_by_hand():
    data = Dataset(torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]]), torch.tensor([1, 0]))
    view = sources.Permuted(data, torch.tensor([3, 0, 1, 2]))
    assert view.gather_x(torch.tensor([1, 0])).tolist() == [[[8.0, 5.0], [6.0, 7.0]], [[4.0, 1.0], [2.0, 3.0]]]
    assert view.gather_y(torch.tensor([1, 0])).tolist() == [0, 1]
    assert view.y is data.y
    inverse = sources.Permuted(view, torch.argsort(view.order))
    assert torch.equal(inverse.x, data.x)


def test_relabelled_and_task_labelled_by_hand():
    view = sources.TaskLabelled(sources.Relabelled(DATA, torch.tensor([1, 0, 1, 0])), torch.arange(N) // 4)
    assert view.n_classes == 2
    assert view.y.tolist() == [1, 0] * 6
    assert view.x is DATA.x
    exp = experience(view, torch.tensor([0, 5, 11]))
    assert exp.tasks.tolist() == [0, 1, 2]
    assert exp.classes.tolist() == [True, True]


def test_joined_by_hand():
    views = [permuted(cl.key(seed)) for seed in range(3)]
    source = sources.join(views)
    rows = torch.tensor([2 * N + 1, 3, N + 11, 3])
    assert len(source) == 3 * N
    assert torch.equal(source.gather_x(rows), torch.stack([views[2].x[1], views[0].x[3], views[1].x[11], views[0].x[3]]))
    assert torch.equal(source.gather_y(rows), DATA.y[rows % N])
    assert source.gather_task(rows) is None
    assert source.views.source is DATA


def test_uint8_is_scaled_after_the_view():
    exp = experience(permuted(cl.key(0), IMAGES))
    assert exp.source.gather_x(ROWS).dtype == torch.uint8
    assert torch.equal(exp.x, exp.source.x.float() / 255)


# ------------------------------------------------------------------ one source for several lanes


def test_sources_of_lanes_that_cannot_be_one():
    copy = Dataset(DATA.x.clone(), DATA.y)
    with pytest.raises(ValueError, match=r"lanes must share one source, but their 'x' is not one tensor; .* the same datasets"):
        stack_sources([DATA, copy])
    with pytest.raises(ValueError, match=r"lanes must share one source, but their 'source\.x' is not one tensor"):
        stack_sources([permuted(cl.key(0)), permuted(cl.key(1), copy)])
    with pytest.raises(ValueError, match=r"but one source is a Dataset, another a Permuted; .* by the same function"):
        stack_sources([DATA, permuted(cl.key(0))])
    with pytest.raises(ValueError, match=r"but one source.source is a Dataset, another a Rotated"):
        stack_sources([permuted(cl.key(0)), permuted(cl.key(0), rotated(cl.key(0)))])
    with pytest.raises(ValueError, match=r"but source.n_classes is 3 and 4"):
        stack_sources([sources.Relabelled(DATA, torch.arange(4) % 3, n_classes=n) for n in (3, 4)])
    with pytest.raises(ValueError, match="but the Dataset of one has fields that another lacks"):
        stack_sources([DATA, tree.replace(DATA, task=DATA.y)])


def test_views_of_the_same_memory_are_one_source():
    """Arrays of numpy become new tensors at each call."""
    again = Dataset(DATA.x.view(N, FEATURES), DATA.y[:])
    assert same(DATA, again)
    assert stack_sources([permuted(cl.key(0)), permuted(cl.key(1), again)]).source is DATA
    assert not same(DATA, Dataset(DATA.x + 0, DATA.y))
    assert not same(permuted(cl.key(0)), permuted(cl.key(0)))  # values are not looked at
