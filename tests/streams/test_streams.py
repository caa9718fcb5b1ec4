"""Streams by their properties: what goes in comes out exactly once, nothing is transformed early or twice, all of it pickles."""

import gc
import math
import pickle
import weakref

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cl_func as cl
from cl_func import random, sources, streams, tree
from cl_func.experiences import Benchmark, Dataset, Stream, experience, stream
from cl_func.streams import domains
from cl_func.streams.lazy import Last

KEY = random.key(0)


def make(n_classes=6, per_class=5, shape=(4,), dtype=torch.float32, seed=0):
    """A dataset whose rows can all be told apart, its labels in no order."""
    n = n_classes * per_class
    y = random.permutation(random.key(seed), n) % n_classes
    x = torch.arange(n * torch.Size(shape).numel()).reshape(n, *shape)
    return Dataset((x % 256 if dtype == torch.uint8 else x).to(dtype), y, n_classes=n_classes)


def pair(**kwargs):
    return make(**kwargs), make(**{**kwargs, "per_class": 2, "seed": 1})


IMAGES = pair(shape=(1, 4, 4))
SPLITS = {
    "split_by_class": lambda train, test: streams.split_by_class(train, test, n_experiences=3),
    "task_incremental": lambda train, test: streams.task_incremental(train, test, n_experiences=3, key=KEY),
    "domain_incremental": lambda train, test: streams.domain_incremental(
        train, test, n_experiences=3, class_order=[5, 0, 4, 1, 3, 2]
    ),
}
DOMAINS = {
    "permuted": lambda train, test: streams.permuted(train, test, n_experiences=3, key=KEY),
    "rotated": lambda train, test: streams.rotated(train, test, n_experiences=3),
    "noisy": lambda train, test: streams.noisy(train, test, n_experiences=3, key=KEY),
}
BASES = {**SPLITS, **DOMAINS}
DERIVED = {
    "as it is": lambda bench: bench,
    "online": lambda bench: streams.split_online(bench, experience_size=4, key=KEY),
    "validation": lambda bench: streams.with_validation(bench, 0.3, key=KEY),
    "cumulative": streams.cumulative,
    "all": lambda bench: streams.split_online(streams.cumulative(streams.with_validation(bench, 0.3, key=KEY)), 4),
}


def rows(exp):
    return exp.rows[exp.valid].tolist()


def all_rows(the_stream):
    return [row for exp in the_stream for row in rows(exp)]


# ------------------------------------------------------------------ laws of every stream


@pytest.mark.parametrize("derive", DERIVED)
@pytest.mark.parametrize("base", BASES)
def test_every_benchmark_is_deterministic_indexed_and_pickles(base, derive):
    bench = DERIVED[derive](BASES[base](*IMAGES))
    again = DERIVED[derive](BASES[base](*IMAGES))
    copy = pickle.loads(pickle.dumps(bench))
    for name in ("train", "test", "valid"):
        one, two, three = (getattr(b, name) for b in (bench, again, copy))
        if one is None:
            assert two is three is None
            continue
        for i, exp in enumerate(one):
            assert int(exp.index) == i
            assert tree.difference(exp, two[i]) is None
            assert tree.difference(exp, three[i]) is None
            assert tree.difference(exp, one[i - len(one)]) is None
            assert exp.classes[exp.y].all()
            assert exp.valid.any()
            assert exp.classes.shape == (bench.n_classes,)
        # Experiences of one stream have one structure, so they can share compiled programs.
        assert len({tree.flatten(exp)[1] for exp in one}) == 1


@pytest.mark.parametrize("derive", ["as it is", "online", "validation"])
@pytest.mark.parametrize("base", SPLITS)
def test_every_train_row_is_seen_once(base, derive):
    train, test = IMAGES
    bench = DERIVED[derive](SPLITS[base](train, test))
    seen = all_rows(bench.train) + (all_rows(bench.valid) if bench.valid else [])
    assert sorted(seen) == list(range(len(train)))
    assert sorted(all_rows(bench.test)) == list(range(len(test)))


def test_a_benchmark_does_not_touch_the_global_generator():
    before = torch.get_rng_state()
    for base in BASES.values():
        for derive in DERIVED.values():
            list(derive(base(*IMAGES)).train)
    assert torch.equal(before, torch.get_rng_state())


# ------------------------------------------------------------------ split by class


@st.composite
def splits(draw):
    n_classes = draw(st.integers(1, 8))
    n_experiences = draw(st.sampled_from([n for n in range(1, n_classes + 1) if n_classes % n == 0]))
    return n_classes, n_experiences, draw(st.permutations(range(n_classes)))


@settings(max_examples=30, deadline=None)
@given(splits())
def test_classes_are_disjoint_complete_and_in_order(case):
    n_classes, n_experiences, order = case
    train, test = pair(n_classes=n_classes)
    bench = streams.split_by_class(train, test, n_experiences, class_order=order)
    k = n_classes // n_experiences
    for split in (bench.train, bench.test):
        assert len(split) == n_experiences
        assert torch.equal(torch.stack([exp.classes for exp in split]).sum(0), torch.ones(n_classes, dtype=torch.int64))
        for j, exp in enumerate(split):
            assert exp.classes.nonzero().flatten().tolist() == sorted(order[j * k : (j + 1) * k])
            assert exp.y.unique().tolist() == sorted(order[j * k : (j + 1) * k])
            assert int(exp.task) == 0
    assert bench.train[0].source is train
    assert sorted(all_rows(bench.train)) == list(range(len(train)))


@settings(max_examples=30, deadline=None)
@given(splits())
def test_domain_labels_are_places_within_the_group(case):
    n_classes, n_experiences, order = case
    train, test = pair(n_classes=n_classes)
    bench = streams.domain_incremental(train, test, n_experiences, class_order=order)
    k = n_classes // n_experiences
    assert bench.n_classes == k
    for data, split in ((train, bench.train), (test, bench.test)):
        for j, exp in enumerate(split):
            assert exp.classes.all()
            assert exp.source.x is data.x
            assert exp.source.n_classes == k
            assert [order[j * k + y] for y in exp.y.tolist()] == data.y[exp.rows].tolist()
            assert not exp.tasks.any()


def test_task_incremental_tells_the_task():
    train, test = pair()
    bench = streams.task_incremental(train, test, 3)
    plain = streams.split_by_class(train, test, 3)
    for split, reference in ((bench.train, plain.train), (bench.test, plain.test)):
        for j, exp in enumerate(split):
            assert exp.tasks.tolist() == [j] * len(exp)
            assert tree.equal(tree.replace(exp, task=torch.tensor(0)), reference[j])


def test_a_key_draws_the_order():
    train, test = pair(n_classes=8)
    orders = []
    for seed in range(4):
        bench = streams.split_by_class(train, test, 8, key=random.key(seed))
        orders.append([int(exp.y[0]) for exp in bench.train])
        assert orders[-1] == random.permutation(random.key(seed), 8).tolist()
    assert len({tuple(order) for order in orders}) == 4


@pytest.mark.parametrize("order", [torch.tensor([1, 0, 2]), range(2, -1, -1), (2, 0, 1)])
def test_class_orders_of_any_kind(order):
    bench = streams.split_by_class(*pair(n_classes=3), 3, class_order=order)
    assert [int(exp.y[0]) for exp in bench.train] == [int(c) for c in order]


@pytest.mark.parametrize("split", [streams.split_by_class, streams.task_incremental, streams.domain_incremental])
def test_splits_refuse(split):
    train, test = pair()
    with pytest.raises(ValueError, match="n_experiences: 4 does not divide the 6 classes; choose one of 1, 2, 3, 6"):
        split(train, test, n_experiences=4)
    with pytest.raises(ValueError, match="n_experiences: expected an integer of at least 1, got 0"):
        split(train, test, n_experiences=0)
    with pytest.raises(TypeError, match=r"n_experiences: expected an integer of at least 1, got 2\.0"):
        split(train, test, n_experiences=2.0)
    with pytest.raises(ValueError, match="class_order, key: give one of them"):
        split(train, test, n_experiences=2, class_order=range(6), key=KEY)
    for order in ([0, 1, 2], [0, 1, 2, 3, 4, 4], [1, 2, 3, 4, 5, 6]):
        with pytest.raises(ValueError, match=r"class_order: expected a permutation of the classes 0\.\.5, got \["):
            split(train, test, n_experiences=2, class_order=order)
    with pytest.raises(TypeError):
        split(train, test, n_experiences=2, class_order=[0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    with pytest.raises(TypeError, match="key: expected an int64 tensor"):
        split(train, test, n_experiences=2, key=0)
    gap = Dataset(train.x, train.y.clamp(max=4), n_classes=6)
    with pytest.raises(ValueError, match=r"train: no row of the classes \[5\], out of 6"):
        split(gap, test, n_experiences=2)
    with pytest.raises(ValueError, match=r"test: experience 2 is empty: no row of the classes \[4, 5\]"):
        split(train, Dataset(test.x, test.y.clamp(max=3), n_classes=6), n_experiences=3)


@pytest.mark.parametrize("split", [streams.split_by_class, streams.task_incremental, streams.domain_incremental])
def test_labels_from_1_are_named(split):
    train, test = (Dataset(data.x, data.y + 1) for data in pair())
    mend = r"no row has the label 0, labels seem to go from 1 to 6: number them from 0, subtract 1 \(y - 1\)\.$"
    with pytest.raises(ValueError, match=rf"n_experiences: 3 does not divide the 7 classes 0\.\.6; {mend}"):
        split(train, test, n_experiences=3)
    with pytest.raises(ValueError, match=f"train: {mend}"):
        split(train, test, n_experiences=7)
    with pytest.raises(ValueError, match="n_experiences: 4 does not divide the 7 classes; choose one of 1, 7"):
        split(train, test, n_experiences=4)  # nor would it the 6
    given = [Dataset(data.x, data.y, n_classes=8) for data in (train, test)]
    with pytest.raises(ValueError, match="n_experiences: 3 does not divide the 8 classes; choose one of 1, 2, 4, 8"):
        split(*given, n_experiences=3)


@pytest.mark.parametrize("base", BASES)
def test_train_and_test_must_match(base):
    train, test = pair(shape=(4, 4))
    build = BASES[base]
    with pytest.raises(TypeError, match=r"test: expected a cl\.data\.Dataset, got float32\[3\]"):
        build(train, torch.zeros(3))
    with pytest.raises(ValueError, match=r"n_classes differ: 6 and 7; .*Dataset\(x, y, n_classes=\.\.\.\)"):
        build(train, Dataset(test.x, test.y, n_classes=7))
    with pytest.raises(ValueError, match=r"sample shapes differ: \[4, 4\] and \[16\]"):
        build(train, Dataset(test.x.flatten(1), test.y, n_classes=6))
    with pytest.raises(ValueError, match=r"dtypes of x differ: torch\.float32 and torch\.float64"):
        build(train, Dataset(test.x.double(), test.y, n_classes=6))
    with pytest.raises(ValueError, match="train: has task labels of its own"):
        build(Dataset(train.x, train.y, torch.zeros_like(train.y), n_classes=6), test)


# ------------------------------------------------------------------ permuted, rotated


@pytest.fixture
def spy(monkeypatch):
    """Counts the views that are made, by experience, and the rows that are gathered from the data."""
    calls, gathered = [], []
    for cls in (domains._Permutation, domains._Rotation, domains._Noise):

        def counted(self, source, index, original=cls.__call__):
            calls.append(index)
            return original(self, source, index)

        monkeypatch.setattr(cls, "__call__", counted)
    monkeypatch.setattr(Dataset, "gather_x", lambda self, rows: gathered.append(rows.numel()) or self.x[rows])
    return calls, gathered


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_permuted_is_one_invertible_permutation_for_train_and_test(dtype):
    train, test = pair(shape=(2, 3, 4), dtype=dtype)
    bench = streams.permuted(train, test, 4, key=KEY)
    orders = set()
    for i in range(4):
        order = random.permutation(random.fold_in(KEY, i), 24) if i else torch.arange(24)
        orders.add(tuple(order.tolist()))
        for data, exp in ((train, bench.train[i]), (test, bench.test[i])):
            assert exp.source.x.dtype == dtype
            assert exp.source.x.shape == data.x.shape
            assert exp.source.y is data.y
            assert exp.source.source is data
            assert exp.classes.all()
            assert rows(exp) == list(range(len(data)))
            back = exp.source.x.flatten(1)[:, torch.argsort(order)].reshape(data.x.shape)
            assert torch.equal(back, data.x)
            # The copy that such a stream was made of before, and the scaling of what is taken from it.
            copy = data.x.flatten(1)[:, order].reshape(data.x.shape)
            assert torch.equal(exp.source.x, copy)
            assert torch.equal(exp.x, copy.float() / 255 if dtype == torch.uint8 else copy)
            some = torch.tensor([7, 3, 7, 0])
            assert torch.equal(exp.take(some, some >= 0).x, exp.x[some])
    assert len(orders) == 4


@pytest.mark.parametrize("base", DOMAINS)
def test_views_are_made_when_asked_for_and_gather_only_the_rows_asked_for(base, spy):
    calls, gathered = spy
    bench = DOMAINS[base](*IMAGES)
    assert calls == []
    first = weakref.ref(bench.train[1].source)
    gc.collect()
    assert first() is None
    assert calls == [1]
    experiences = list(bench.test)
    assert calls == [1, 0, 1, 2]
    assert set(gathered) == {1}  # for the shape of a row
    assert all(exp.source.source is IMAGES[1] for exp in experiences)
    gathered.clear()
    exp = experiences[2].take(torch.arange(5), torch.ones(5) > 0)
    assert len(exp.x) == len(exp.y) == 5
    assert gathered == [5]


@pytest.mark.parametrize("size", [5, 6, 1, 28])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8, torch.float16])
def test_a_quarter_turn_is_rot90(size, dtype):
    # Values like pixels: 1e-5 is absolute, for images in [0, 1].
    x = torch.rand(5, 2, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = (x * 255).to(dtype) if dtype == torch.uint8 else x.to(dtype)
    data = Dataset(x, torch.arange(5))
    bench = streams.rotated(data, data, 4, max_angle=270.0)
    assert torch.equal(bench.train[0].source.x, x)
    for i in range(4):
        turned = bench.train[i].source.x
        expected = torch.rot90(x, i, (-2, -1))
        assert turned.dtype == dtype
        tolerance = {torch.uint8: 0, torch.float16: 1e-3}.get(dtype, 1e-5)
        torch.testing.assert_close(turned, expected, rtol=0, atol=tolerance)
    clockwise = streams.rotated(data, data, 2, max_angle=-90.0).train[1].source.x
    torch.testing.assert_close(
        clockwise, torch.rot90(x, -1, (-2, -1)), rtol=0, atol={torch.uint8: 0, torch.float16: 1e-3}.get(dtype, 1e-5)
    )


@settings(max_examples=20, deadline=None)
@given(angle=st.floats(-360, 360), height=st.integers(1, 9), width=st.integers(1, 9))
def test_any_turn_agrees_with_the_formula(angle, height, width):
    """Against bilinear interpolation written out, on images that are not square."""
    x = torch.rand(2, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    turned = sources.rotate(Dataset(x, torch.tensor([0, 1])), angle).x
    expected = torch.zeros_like(x)
    a = torch.deg2rad(torch.tensor(angle, dtype=torch.float64))
    for r in range(height):
        for c in range(width):
            right, down = c - (width - 1) / 2, r - (height - 1) / 2
            from_c = float(right * a.cos() - down * a.sin()) + (width - 1) / 2
            from_r = float(right * a.sin() + down * a.cos()) + (height - 1) / 2
            for i in range(height):
                for j in range(width):
                    weight = max(0.0, 1 - abs(i - from_r)) * max(0.0, 1 - abs(j - from_c))
                    expected[:, r, c] += weight * x[:, i, j]
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-9)


def test_rotated_vectors_are_square_images():
    images, test = pair(shape=(5, 5))
    vectors = [Dataset(data.x.flatten(1), data.y, n_classes=6) for data in (images, test)]
    expected = streams.rotated(images, test, 3, max_angle=60).train[1].source.x
    turned = streams.rotated(*vectors, 3, max_angle=60).train[1].source.x
    assert turned.shape == (30, 25)
    assert torch.equal(turned, expected.flatten(1))


def test_angles_are_evenly_spaced_and_full_turns_are_identities():
    bench = streams.rotated(*IMAGES, 3, max_angle=360.0)
    assert bench.train.make.view_of.angles == (0.0, 180.0, 360.0)
    assert torch.equal(bench.train[2].source.x, IMAGES[0].x)
    assert streams.rotated(*IMAGES, 1).train.make.view_of.angles == (0.0,)


def frozen_rotation(x, angle):
    """What a rotated stream made of x in one go when it still held copies."""
    if angle % 360 == 0:
        return x
    height, width = x.shape[-2:]
    working = torch.float64 if x.dtype == torch.float64 else torch.float32
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    theta = torch.tensor([[[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]]], dtype=torch.float64)
    grid = torch.nn.functional.affine_grid(theta, [1, 1, height, width], align_corners=False).to(working)
    images = x.reshape(1, -1, height, width).to(working)
    turned = torch.nn.functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]
    return (turned.round() if x.dtype == torch.uint8 else turned).to(x.dtype).reshape(x.shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8, torch.float16])
@pytest.mark.parametrize("shape", [(28, 28), (2, 5, 7)])
def test_rotations_are_those_of_the_copies_before(shape, dtype):
    """To 1e-6, or to the last bit of half precision; an exact half, that uint8 values are rounded from, may go the other way."""
    x = random.uniform(KEY, (40, *shape), torch.float64)
    x = (x * 256).to(dtype) if dtype == torch.uint8 else x.to(dtype)
    data = Dataset(x, torch.arange(40))
    for angle in (0.0, 10.0, 45.0, -77.0, 123.456, 180.0, 270.0, 360.0):
        turned, copy = sources.rotate(data, angle).x, frozen_rotation(x, angle)
        assert turned.dtype == dtype
        apart = (turned.double() - copy.double()).abs()
        if dtype == torch.uint8:
            assert apart.max() <= 1
            assert (apart > 0).double().mean() < 1e-4
        else:
            assert apart.max() <= (1e-3 if dtype == torch.float16 else 1e-6)
        if angle % 360 == 0:
            assert torch.equal(turned, x)


def test_angles_drawn_from_a_key():
    one, two = (streams.rotated(*IMAGES, 4, max_angle=90.0, key=random.key(seed)) for seed in (0, 1))
    angles, others = one.train.make.view_of.angles, two.train.make.view_of.angles
    assert angles[0] == others[0] == 0.0
    assert len({*angles, *others}) == 7
    assert all(0 <= angle < 90 for angle in angles)
    assert angles[2] == 90 * float(random.uniform(random.fold_in(random.key(0), 2), (), torch.float64))
    assert torch.equal(one.test[3].x, sources.rotate(IMAGES[1], angles[3]).x)


def test_domains_refuse():
    with pytest.raises(
        ValueError, match=r"train: x holds vectors of 6 features, which are no square images; give images \[N, H, W\]"
    ):
        streams.rotated(*pair(shape=(6,)), 2)
    with pytest.raises(ValueError, match="max_angle: expected a finite number, got inf"):
        streams.rotated(*IMAGES, 2, max_angle=float("inf"))
    with pytest.raises(TypeError, match="max_angle: expected a finite number, got '90'"):
        streams.rotated(*IMAGES, 2, max_angle="90")
    with pytest.raises(TypeError, match="key: expected an int64 tensor"):
        streams.permuted(*IMAGES, 2, key=0)
    for build in (streams.rotated, lambda *args: streams.permuted(*args, key=KEY)):
        with pytest.raises(ValueError, match="n_experiences: expected an integer of at least 1, got 0"):
            build(*IMAGES, 0)


# ------------------------------------------------------------------ online


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 25), seed=st.none() | st.integers(0, 99), shuffle=st.booleans())
def test_pieces_are_their_parents_in_order(size, seed, shuffle):
    key = None if seed is None or not shuffle else random.key(seed)
    bench = streams.task_incremental(*pair(per_class=7), n_experiences=2, class_order=[4, 1, 0, 2, 3, 5])
    online = streams.split_online(bench, size, shuffle=shuffle, key=key)
    assert online.test is bench.test
    pieces = list(online.train)
    assert {len(piece) for piece in pieces} == {size}
    for j, parent in enumerate(bench.train):
        own = [piece for piece in pieces if int(piece.task) == j]
        joined = [row for piece in own for row in rows(piece)]
        order = random.permutation(random.fold_in(random.key(0) if key is None else key, j), len(parent))
        assert joined == (parent.rows[order] if shuffle else parent.rows).tolist()
        assert all(piece.valid.all() for piece in own[:-1])
        assert all(torch.equal(piece.classes, parent.classes) for piece in own)
        assert len(own) == -(-len(parent) // size)
    assert [int(piece.index) for piece in pieces] == list(range(len(pieces)))


@pytest.mark.parametrize("base", DOMAINS)
def test_a_view_is_made_once_for_all_pieces_and_only_the_last_is_kept(base, spy):
    calls, _ = spy
    online = streams.split_online(DOMAINS[base](*IMAGES), 4, key=KEY)
    assert calls == []  # neither to count the pieces
    per_parent = len(online.train) // 3
    views = [piece.source for piece in online.train]
    assert calls == [0, 1, 2]
    assert len({id(view) for view in views}) == 3
    del views
    calls.clear()
    for i in (per_parent, 2 * per_parent - 1, per_parent + 1):
        online.train[i]
    assert calls == [1]
    list(online.train[per_parent:])  # a resumed run: a slice goes by index
    assert calls == [1, 2]
    kept = weakref.ref(online.train[-1].source)
    online.train[0]
    gc.collect()
    assert kept() is None


def test_one_sample_at_a_time():
    train, test = pair()
    online = streams.split_online(streams.split_by_class(train, test, 3), experience_size=1)
    assert len(online.train) == len(train)
    assert all(len(exp) == 1 and exp.valid.all() for exp in online.train)


def test_cutting_twice_drops_the_padding_in_between():
    bench = streams.split_by_class(*pair(), n_experiences=3)
    twice = streams.split_online(streams.split_online(bench, 4, shuffle=False), 3, shuffle=False)
    assert all_rows(twice.train) == all_rows(bench.train)
    assert [int(exp.valid.sum()) for exp in twice.train] == [3, 1, 3, 1, 2] * 3


def test_any_stream_can_be_cut_and_is_built_once_per_experience():
    data = make()
    built = []

    def build(i):
        built.append(i)
        return experience(data, torch.arange(i, i + 5), index=i)

    online = streams.split_online(Benchmark(Stream(build, 3), Stream(build, 3)), 2, shuffle=False)
    built.clear()
    assert all_rows(online.train) == [0, 1, 2, 3, 4, 1, 2, 3, 4, 5, 2, 3, 4, 5, 6]
    assert built[-2:] == [1, 2]
    assert len(built) <= 3
    listed = Benchmark(stream([experience(data)]), stream([experience(data)]))
    assert all_rows(pickle.loads(pickle.dumps(streams.split_online(listed, 7, shuffle=False))).train) == list(range(30))


def test_split_online_refuses():
    bench = streams.split_by_class(*pair(), n_experiences=3)
    with pytest.raises(ValueError, match="experience_size: expected an integer of at least 1, got 0"):
        streams.split_online(bench, 0)
    with pytest.raises(TypeError, match="key: expected an int64 tensor"):
        streams.split_online(bench, 2, key=3)


def test_last_keeps_one_result_and_none_when_pickled():
    last = Last(str)
    assert last(1) is last(1)
    assert last(2) == "2"
    assert pickle.loads(pickle.dumps(last))._cached is None


# ------------------------------------------------------------------ validation


@settings(max_examples=30, deadline=None)
@given(fraction=st.floats(0.01, 0.9), seed=st.integers(0, 99))
def test_validation_is_disjoint_and_complete(fraction, seed):
    bench = streams.task_incremental(*pair(), n_experiences=3)
    held = streams.with_validation(bench, fraction, key=random.key(seed))
    assert held.test is bench.test
    for parent, train, valid in zip(bench.train, held.train, held.valid, strict=True):
        assert len(valid) == max(1, round(fraction * len(parent)))
        assert sorted(rows(train) + rows(valid)) == rows(parent)
        for part in (train, valid):
            assert rows(part) == sorted(rows(part))
            assert part.source is parent.source
            assert torch.equal(part.classes, parent.classes)
            assert int(part.task) == int(parent.task)


def test_validation_depends_on_key_and_experience():
    bench = streams.from_datasets([pair(per_class=20) for _ in range(3)])
    one, two = (streams.with_validation(bench, 0.5, key=random.key(seed)) for seed in (1, 2))
    drawn = [rows(exp) for held in (one, two) for exp in held.valid]
    assert len({tuple(chosen) for chosen in drawn}) == 6


SHARING = {
    **DOMAINS,
    "cumulative": lambda train, test: streams.cumulative(streams.split_by_class(train, test, n_experiences=3)),
    "mapped": lambda train, test: streams.mapped(streams.permuted(train, test, n_experiences=3, key=KEY), torch.neg),
    "repetition": lambda train, test: streams.class_repetition(train, test, n_experiences=3, probability=0.5, key=KEY),
    "one dataset several times": lambda train, test: streams.from_datasets([(train, test)] * 3),
    "a dataset of a user's own": lambda train, test: made_anew(train, test),
}


def made_anew(train, test):
    """Experiences that are made anew whenever they are asked for, over tensors that they share."""
    own = Stream(lambda i: experience(Dataset(train.x, train.y), torch.arange(3 * i, 3 * i + 9)), 3)
    return Benchmark(own, own)


@settings(max_examples=20, deadline=None)
@given(fraction=st.floats(0.1, 0.7), seed=st.integers(0, 99), name=st.sampled_from(list(SHARING)))
def test_no_held_out_row_is_trained_on_in_another_experience(fraction, seed, name):
    bench = SHARING[name](*pair(per_class=20))
    held = streams.with_validation(bench, fraction, key=random.key(seed))
    assert not set(all_rows(held.train)) & set(all_rows(held.valid))
    for parent, train, valid in zip(bench.train, held.train, held.valid, strict=True):
        assert sorted(rows(train) + rows(valid)) == sorted(rows(parent))
        if name != "repetition":
            assert len(valid) == max(1, round(fraction * len(parent)))


@tree.state
class Halves(sources.Source):
    """A user's own source: the even rows of one, then its odd ones."""

    data: sources.Source
    n_classes: int = tree.static(default=6)

    def __len__(self):
        return len(self.data)

    @property
    def target(self):
        return self.data.target

    def place(self, rows):
        n = (len(self.data) + 1) // 2
        return torch.where(rows < n, 2 * rows, 2 * (rows - n) + 1)

    def gather_x(self, rows):
        return self.data.gather_x(self.place(rows))

    def gather_y(self, rows):
        return self.data.gather_y(self.place(rows))


@tree.state
class Told(Halves):
    def origin(self, rows):
        return self.data.origin(self.place(rows))


def test_rows_of_unknown_origin_are_not_held_out_where_others_may_be_the_same():
    data = make()

    def bench(*the_sources):
        own = stream([experience(source, torch.arange(i, i + 20), index=i) for i, source in enumerate(the_sources)])
        return Benchmark(own, own)

    copied = sources.in_memory(data, torch.arange(30))
    forgetful = tree.map(torch.clone, copied)
    refused = r"benchmark: rows of train experience 1, or one before it, do not tell .* cumulative\(with_validation\(\.\.\.\)\)"
    for pair_of in ([data, Halves(data=data)], [Halves(data=data), data], [forgetful, data], [copied, forgetful]):
        with pytest.raises(ValueError, match=refused):
            streams.with_validation(bench(*pair_of), 0.2, key=KEY)
    half, told = Halves(data=data), Told(data=data)
    for pair_of in (
        [half, half],
        [forgetful, forgetful],
        [data, copied],
        [told, data],
        [copied, sources.Relabelled(told, torch.arange(6))],
    ):
        held = streams.with_validation(bench(*pair_of), 0.2, key=KEY)
        trained, out = ({tuple(x) for exp in part for x in exp.x.tolist()} for part in (held.train, held.valid))
        assert out
        assert not trained & out


def test_what_is_left_to_hold_out_is_said():
    data = make(per_class=4)
    parts = [torch.arange(10), torch.arange(10)[:1], torch.arange(10)[1:2]]
    own = Stream([experience(data, rows, index=i) for i, rows in enumerate(parts)].__getitem__, 3)
    with pytest.raises(ValueError, match=r"fraction: (0.5 of the 1 rows|all of the 1 rows) of train experience [12]"):
        streams.with_validation(Benchmark(own, own), 0.5, key=KEY)


def test_validation_makes_no_view_ahead(spy):
    held = streams.with_validation(streams.permuted(*IMAGES, n_experiences=3, key=KEY), key=KEY)
    calls, gathered = spy
    assert calls == []
    exp = held.valid[1]
    assert calls == [1]
    assert set(gathered) == {1}
    assert not torch.equal(exp.x, IMAGES[0].x[exp.rows])


def test_validation_refuses():
    bench = streams.split_by_class(*pair(), n_experiences=3)
    for fraction in (0, 1, 1.5, -0.1, float("nan")):
        with pytest.raises(ValueError, match=f"fraction: expected a finite number in .0, 1., got {fraction}"):
            streams.with_validation(bench, fraction, key=KEY)
    with pytest.raises(TypeError, match=r"fraction: expected a finite number in .0, 1., got '0\.1'"):
        streams.with_validation(bench, "0.1", key=KEY)
    with pytest.raises(ValueError, match=r"fraction: 0\.99 of the 10 rows of train experience 0 leaves none to train on"):
        streams.with_validation(bench, 0.99, key=KEY)
    with pytest.raises(ValueError, match="of the 1 rows of train experience 0 leaves none"):
        streams.with_validation(streams.split_online(bench, 1), key=KEY)
    with pytest.raises(ValueError, match="benchmark: it has a valid stream already"):
        streams.with_validation(streams.with_validation(bench, key=KEY), key=KEY)
    with pytest.raises(TypeError, match="key: expected an int64 tensor"):
        streams.with_validation(bench, key=1)


# ------------------------------------------------------------------ cumulative


@pytest.mark.parametrize("base", SPLITS)
def test_cumulative_shares_the_inputs(base):
    train, test = IMAGES
    bench = SPLITS[base](train, test)
    joint = streams.cumulative(bench)
    assert joint.test is bench.test
    seen, classes = [], torch.zeros(bench.n_classes, dtype=torch.bool)
    for i, (own, exp) in enumerate(zip(bench.train, joint.train, strict=True)):
        seen, classes = seen + rows(own), classes | own.classes
        assert rows(exp) == seen
        assert torch.equal(exp.classes, classes)
        assert exp.source.x is train.x
        assert int(exp.task) == int(own.task)
        assert exp.tasks.tolist() == [int(e.task) for e in bench.train[: i + 1] for _ in rows(e)]


@pytest.mark.parametrize("base", DOMAINS)
def test_cumulative_joins_views(base):
    bench = DOMAINS[base](*IMAGES)
    joint = streams.cumulative(bench)
    for i, exp in enumerate(joint.train):
        parts = list(bench.train[: i + 1])
        assert torch.equal(exp.x, torch.cat([part.x for part in parts]))
        assert torch.equal(exp.y, torch.cat([part.y for part in parts]))
        assert exp.source.n_classes == bench.n_classes
        assert exp.source.views.source is IMAGES[0]


def test_cumulative_copies_where_datasets_differ():
    pairs = [pair(seed=seed) for seed in (3, 4)]
    pairs = [(Dataset(one.x + i, one.y, n_classes=6), other) for i, (one, other) in enumerate(pairs)]
    joint = streams.cumulative(streams.from_datasets(pairs))
    assert torch.equal(joint.train[1].x, torch.cat([train.x for train, _ in pairs]))
    assert torch.equal(joint.train[1].y, torch.cat([train.y for train, _ in pairs]))
    assert joint.train[1].tasks.tolist() == [0] * 30 + [1] * 30


def test_cumulative_gathers_targets_and_tasks_without_parameters(spy):
    """Those of 600 rows need no order of pixels for each row."""
    _, gathered = spy
    joint = streams.cumulative(streams.permuted(*IMAGES, n_experiences=4, key=KEY))
    exp = joint.train[3]
    assert set(gathered) == {1}
    assert torch.equal(exp.y, IMAGES[0].y.repeat(4))


def test_cumulative_leaves_out_padding():
    bench = streams.split_by_class(*pair(), n_experiences=3)
    joint = streams.cumulative(streams.split_online(bench, 4, shuffle=False))
    assert len(joint.train) == 9
    assert rows(joint.train[-1]) == all_rows(bench.train)
    assert joint.train[-1].valid.all()


def test_cumulative_copies_a_row_that_has_two_tasks():
    data = make()
    exps = [experience(data, torch.arange(3), task=0), experience(data, torch.arange(2, 5), task=1, index=1)]
    joint = streams.cumulative(Benchmark(stream(exps), stream(exps)))
    assert joint.train[0].source.x is data.x
    assert joint.train[1].tasks.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(joint.train[1].x, data.x[[0, 1, 2, 2, 3, 4]])


def test_cumulative_keeps_the_task_labels_of_rows():
    data = make()
    data = tree.replace(data, task=data.y % 2)
    exps = [experience(data, torch.arange(i, i + 5), index=i // 5) for i in (0, 5)]
    joint = streams.cumulative(Benchmark(stream(exps), stream(exps)))
    assert joint.train[1].source is data
    assert torch.equal(joint.train[1].tasks, data.y[:10] % 2)


def test_cumulative_refuses_inputs_that_do_not_join():
    exps = [experience(make()), experience(make(dtype=torch.uint8), index=1)]
    joint = streams.cumulative(Benchmark(stream(exps), stream(exps)))
    with pytest.raises(ValueError, match=r"inputs of experience 1 are uint8\[30, 4\], which do not join with torch\.float32"):
        joint.train[1]


def test_cumulative_keeps_valid():
    held = streams.with_validation(streams.split_by_class(*pair(), n_experiences=3), key=KEY)
    assert streams.cumulative(held).valid is held.valid
    assert streams.split_online(held, 3).valid is held.valid


def test_pieces_of_an_online_stream_are_not_blurred():
    """Their boundaries are not those of the tasks: blurring comes first."""
    bench = cl.testing.small_benchmark()
    with pytest.raises(
        ValueError, match=r"benchmark: .* pieces of an online stream.*split_online\(blurred\(benchmark, key=key\), size\)"
    ):
        cl.streams.blurred(cl.streams.split_online(bench, 3), key=cl.key(0))
    cl.streams.split_online(cl.streams.blurred(bench, key=cl.key(0)), 3)
    with pytest.raises(TypeError, match=r"train: expected a cl\.Stream.*of a list cl\.Stream\(exps\.__getitem__, len\(exps\)\)"):
        cl.Benchmark(list(bench.train), bench.test)


@pytest.mark.parametrize("make", [streams.split_by_class, streams.task_incremental])
def test_groups_of_given_sizes(make):
    train, test = pair(n_classes=6, per_class=4)
    order = [4, 0, 5, 1, 3, 2]
    bench = make(train, test, [3, 1, 2], class_order=order)
    assert [exp.classes.nonzero().flatten().tolist() for exp in bench.train] == [[0, 4, 5], [1], [2, 3]]
    for stream_of, data in ((bench.train, train), (bench.test, test)):
        for exp in stream_of:
            assert rows(exp) == exp.classes[data.y].nonzero().flatten().tolist()
    assert [int(exp.task) for exp in bench.test] == ([0, 1, 2] if make is streams.task_incremental else [0, 0, 0])
    same, equal = (make(train, test, n, class_order=order) for n in ((2, 2, 2), 3))
    assert all(rows(a) == rows(b) for a, b in zip(same.train, equal.train, strict=True))
    with pytest.raises(ValueError, match=r"n_experiences: groups of \[3, 2\] classes have 5 together, the data has 6; give sizes"):
        make(train, test, [3, 2])
    with pytest.raises(
        ValueError, match=r"n_experiences: 4 does not .* or give the number of classes of each, such as \[2, 2, 2\]"
    ):
        make(train, test, 4)
    with pytest.raises(ValueError, match="n_experiences: expected"):
        make(train, test, [6, 0])


def test_other_scenarios_have_groups_of_one_size():
    for call in (
        lambda n: streams.domain_incremental(*pair(), n),
        lambda n: streams.class_repetition(*pair(), n, probability=0.5, key=KEY),
    ):
        with pytest.raises(TypeError, match="n_experiences: expected"):
            call([3, 3])
        with pytest.raises(ValueError, match=r"choose one of 1, 2, 3, 6\.$"):
            call(4)


# ------------------------------------------------------------------ noisy


def test_noise_grows_and_stays_with_its_row():
    x = torch.linspace(-1, 1, 2000 * 5).reshape(2000, 5)
    data = Dataset(x, torch.arange(2000) % 3)
    bench = streams.noisy(data, data, 5, max_std=2.0, key=KEY)
    noise = [exp.x - x for exp in bench.train]
    assert not noise[0].any()
    assert [float(e.std()) for e in noise[1:]] == pytest.approx([0.5, 1.0, 1.5, 2.0], rel=0.03)
    assert all(abs(float(e.mean())) < 0.05 for e in noise)
    assert torch.equal(bench.train[3].take(torch.tensor([7, 7, 3]), torch.ones(3) > 0).x, (x + noise[3])[[7, 7, 3]])
    pairs = [(noise[1] / 0.5, noise[2]), (noise[4] / 2, (bench.test[4].x - x) / 2), (noise[2][1:], noise[2][:-1])]
    for one, other in pairs:  # of other experiences, of the test set, of other rows
        assert abs(float((one * other).mean())) < 0.05
    assert float(scipy.stats.kstest((noise[4] / 2).flatten(), "norm").pvalue) > 1e-3
    assert all(torch.equal(a.y, b.y) for a, b in zip(bench.train, bench.test, strict=True))


def test_noisy_images_stay_images():
    bright = Dataset(torch.full((500, 1, 4, 4), 200, dtype=torch.uint8), torch.zeros(500, dtype=torch.int64))
    x = streams.noisy(bright, bright, 2, max_std=0.1, key=KEY).train[1].source.x
    assert x.dtype == torch.uint8
    assert float(x.double().mean()) == pytest.approx(200, abs=1)
    assert float(x.double().std()) == pytest.approx(25.5, rel=0.05)
    assert int(streams.noisy(bright, bright, 2, max_std=5.0, key=KEY).train[1].source.x.max()) == 255
