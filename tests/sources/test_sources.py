"""Every source by its laws (rows alone and together, in lanes, compiled, pickled, on another device) and by known answers."""

from __future__ import annotations

import functools
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

import cl_func as cl
from cl_func import random, sources, testing, tree
from cl_func.experiences import experience, lane_axes
from cl_func.experiences import lanes as apart
from cl_func.experiences import stack as stack_lanes
from cl_func.sources import Dataset
from cl_func.sources.dataset import digest
from cl_func.sources.source import same, target_of
from cl_func.sources.source import stack as stack_sources

N, FEATURES, CLASSES = 12, 16, 4
DATA = Dataset(random.normal(random.key(1), (N, FEATURES)), torch.arange(N) % CLASSES)
WITH_TASKS = tree.replace(DATA, task=torch.arange(N) // 5)
IMAGES = Dataset((random.uniform(random.key(2), (N, 2, 3, 4)) * 256).to(torch.uint8), DATA.y)


def permuted(key, data=DATA):
    return sources.Permuted(data, random.permutation(key, data.x[0].numel()))


def rotated(key, data=DATA):
    return sources.rotate(data, 360 * float(random.uniform(key)))


def noisy(key, data=DATA):
    one, two = random.split(key)
    return sources.Noisy(data, one, random.uniform(two))


def relabelled(key):
    return sources.Relabelled(DATA, random.randint(key, CLASSES, 0, 3), n_classes=3)


def task_labelled(key):
    return sources.TaskLabelled(DATA, random.randint(key, N, 0, 3))


def brightness(x, params):
    return params["slope"] * x + params["offset"]


def mapped(key):
    one, two = random.split(key)
    return sources.Mapped(DATA, brightness, {"slope": random.uniform(one), "offset": random.normal(two, FEATURES)})


def blob(key, centres):
    """A row of one of four classes."""
    which, noise = random.split(key)
    y = random.randint(which, (), 0, CLASSES)
    return centres[y] + random.normal(noise, 3), y


def generated(key):
    rows, centres = random.split(key)
    return sources.Generated(blob, rows, 20, random.normal(centres, (CLASSES, 3)), CLASSES)


def nested(key):
    """Every view, one on the other."""
    one, two, three, four = random.split(key, 4)
    tasks = sources.TaskLabelled(rotated(one, IMAGES), random.randint(two, N, 0, 3))
    labels = sources.Relabelled(tasks, random.randint(three, CLASSES, 0, 3), n_classes=3)
    shuffled = sources.Permuted(labels, random.permutation(four, 24))
    return sources.Mapped(shuffled, brightness, {"slope": random.uniform(four), "offset": random.uniform(four, 4)})


@functools.cache
def stored():
    """The same images, on a disk."""
    path = Path(tempfile.mkdtemp()) / "x.npy"
    np.save(path, IMAGES.x.numpy())
    return cl.data.stored(path, IMAGES.y, torch.arange(N) // 5)


def joined(key):
    return sources.join([nested(child) for child in random.split(key, 3)])


SOURCES = {
    "Dataset": lambda key: DATA,
    "Dataset with tasks": lambda key: WITH_TASKS,
    "Permuted": permuted,
    "Rotated": rotated,
    "Noisy": noisy,
    "Noisy images": lambda key: noisy(key, IMAGES),
    "Relabelled": relabelled,
    "TaskLabelled": task_labelled,
    "Mapped": mapped,
    "Generated": generated,
    "InMemory": lambda key: sources.in_memory(generated(key), torch.arange(19, 6, -1)),
    "InMemory with tasks": lambda key: sources.in_memory(nested(key), torch.arange(N)),
    "Stored": lambda key: stored(),
    "Stored and mapped": lambda key: sources.Mapped(rotated(key, stored()), brightness, {"slope": key % 7, "offset": key % 3}),
    "Stored and joined": lambda key: sources.join([permuted(child, stored()) for child in random.split(key)]),
    "nested": nested,
    "Joined": joined,
    "Joined generated": lambda key: sources.join([generated(child) for child in random.split(key)]),
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
    assert source.target == target_of(all_at_once["y"])
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
    for one, exp in zip(apart(lanes), exps, strict=True):
        testing.assert_equal(one, exp, "a lane")
    assert len(apart(exps[0])) == 1
    shared = {path for (path, _), axis in zip(tree.items(lanes), lane_axes(lanes), strict=True) if axis is None}
    assert {path.rpartition(".")[2] for path in shared} <= {"x", "y", "task"}
    kept = dict(tree.items(lanes))
    assert all(kept[path] is leaf for path, leaf in tree.items(exps[0]) if path in shared)  # no copy


@each_source
def test_on_another_device(name):
    """On fake tensors: nothing names a device."""
    testing.check_device(shown, torch.tensor(0.0), experience(SOURCES[name](cl.key(0)), ROWS))


def test_compiled_equals_eager():
    """All of them in lanes, by those that hold every other one, in one program; to the bit, but for what takes a logarithm."""
    exps = {name: lanes_of(name)[1] for name in ("nested", "Joined", "Generated", "Stored and mapped", "Stored and joined")}

    def all_shown(state, exps):
        return {name: cl.vmap(shown)(state, exp) for name, exp in exps.items()}

    found, expected = cl.compile(all_shown)(torch.zeros(3), exps), all_shown(torch.zeros(3), exps)
    testing.assert_equal(found.pop("Generated"), expected.pop("Generated"), "compiled", 1e-5, 1e-5)
    testing.assert_equal(found, expected, "compiled")


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


def scaled(x, by=1.0):
    return by * x


def test_mapped_by_hand():
    view = sources.Mapped(IMAGES, functools.partial(scaled, by=2.0))
    assert torch.equal(view.gather_x(ROWS), 2 * (IMAGES.x[ROWS].float() / 255))  # what a model sees, not the bytes
    assert view.y is IMAGES.y
    flat = sources.Mapped(IMAGES, functools.partial(torch.flatten, start_dim=1))
    assert experience(flat, ROWS).x.shape == (5, 24)
    tokens = Dataset(torch.arange(6).reshape(3, 2), torch.arange(3))
    assert sources.Mapped(tokens, scaled, torch.tensor(2)).x.tolist() == [[0, 2], [4, 6], [8, 10]]


def test_equal_functions_are_one_structure_and_so_one_program():
    """Partials are made anew by each function of a key."""
    view, again, other = (sources.Mapped(IMAGES, functools.partial(scaled, by=by)) for by in (2.0, 2.0, 3.0))
    assert tree.flatten(view)[1] == tree.flatten(again)[1] != tree.flatten(other)[1]
    assert hash(view.function) == hash(again.function)
    assert view.function != scaled
    assert view.function != sources.Mapped(IMAGES, functools.partial(scaled)).function
    assert pickle.loads(pickle.dumps(view)).function == view.function


def centred(x):
    return x - x.mean(0)


@pytest.mark.parametrize(
    ("function", "params", "message"),
    [
        (centred, None, "function: what it gives for a row depends on the other rows, as row 0 alone"),
        (torch.flatten, None, r"function: expected it to return inputs \[n, ...\].* for n = 2 rows, got float32\[32\]"),
        (torch.argmax, None, r"function: expected it to return inputs .* got int64\[\]"),
        (torch.isnan, None, r"function: expected it to return inputs .* got bool\[2, 16\]"),
        (3, None, "function: expected a function of inputs"),
        (scaled, {"by": 2.0}, "params: expected a tree of tensors at 'by', got 2.0"),
    ],
)
def test_mapped_refuses(function, params, message):
    with pytest.raises((TypeError, ValueError), match=message):
        sources.Mapped(DATA, function, params)


def wave(key, params):
    x = random.uniform(key, 2)
    return x, x.sum()


def test_generated_by_hand():
    source = generated(cl.key(0))
    for row in (0, 7, 19):
        x, y = blob(random.fold_in(source.key, row), source.params)
        found = source.gather(torch.tensor([row]))
        assert torch.equal(found["y"][0], y)
        testing.assert_equal(found["x"][0], x, "row", 1e-6, 1e-6)
    assert (source.target, source.n_classes, len(source)) == ("class", CLASSES, 20)
    endless = sources.Generated(wave, cl.key(0), 2**60)
    assert endless.gather_y(torch.tensor([2**60 - 1])).shape == (1,)
    assert (endless.target, endless.n_classes) == ("regression", 0)


@pytest.mark.parametrize(
    ("sample", "n_classes", "message"),
    [
        (lambda key, params: random.uniform(key, 2), 0, r"sample: expected it to return two tensors, \(x, y\), got float32\[2\]"),
        (lambda key, params: (random.uniform(key), torch.tensor(0)), 2, "sample: expected x of one row"),
        (lambda key, params: (random.uniform(key, 2), torch.tensor([0])), 2, "sample: expected y of one row"),
        (
            lambda key, params: (random.uniform(key, 2), torch.tensor(0)),
            0,
            "n_classes: expected the number of classes",
        ),
        (lambda key, params: (random.uniform(key, 2), torch.tensor(3)), 3, "got 3; a label is 3"),
        (wave, 2, r"n_classes: the targets float32\[\] of a sample have 0 classes, got 2"),
        (None, 0, "sample: expected a function"),
    ],
)
def test_generated_refuses(sample, n_classes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        sources.Generated(sample, cl.key(0), 5, None, n_classes)


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


@pytest.mark.parametrize(
    "place", [(slice(1), 3), (slice(0), 3), (2, 2), (slice(None), 3), (slice(3, 4), slice(1, 2)), (slice(0, 9, 2), 1)]
)
def test_a_digest_is_of_values_in_any_layout(place):
    """Of one value or none, which torch calls contiguous with any stride, it was an error."""
    for whole in (torch.arange(100.0).reshape(10, 10), torch.arange(100.0).reshape(10, 10).T, torch.full((10, 10), 1j).conj()):
        assert digest(whole[place]) == digest(whole[place].resolve_conj().clone(memory_format=torch.contiguous_format))
