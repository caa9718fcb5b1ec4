"""The functions of streams, one after the other: every row keeps its values, its label and its task label, and stays held out.

The inputs of a row are its number and its label, so that what a composition gives can be compared with what it was given.
"""

import itertools
import pickle
import random
import re
from collections import Counter

import pytest
import torch

import cl_func as cl

S = cl.streams
N = 24
IDS = torch.arange(N)
Y = IDS * 7 % 4
TRAIN, TEST = (cl.Dataset(torch.stack([ids.float(), Y.float()], 1), Y, n_classes=4) for ids in (IDS, IDS + 500))


def moved(x, by):
    """The number of a row stays its remainder by 1000."""
    return x + 1000 * by[None] * torch.tensor([1.0, 0.0])


def drawn(key, params):
    y = cl.random.randint(key, (), 0, 4)
    return torch.stack([cl.random.uniform(key, ()) * 100 + 1000 * params, y.float()]), y


def part(rows, **task):
    return cl.Dataset(TRAIN.x[rows], TRAIN.y[rows], n_classes=4, **task)


def of_user(experiences):
    test = S.from_datasets([(TEST, TEST)] * len(experiences)).test
    return cl.Benchmark(cl.Stream(experiences.__getitem__, len(experiences)), test)


def of_rows(*rows):
    return of_user([cl.experience(TRAIN, torch.tensor(own), index=i, task=i) for i, own in enumerate(rows)])


SLICES = [slice(0, 14), slice(7, 21), slice(16, 24)]
BASES = {
    "split_by_class": lambda: S.split_by_class(TRAIN, TEST, 2),
    "task_incremental": lambda: S.task_incremental(TRAIN, TEST, 2),
    "class_repetition": lambda: S.class_repetition(TRAIN, TEST, 3, probability=0.5, introductions=2, key=cl.key(1)),
    "from_datasets": lambda: S.from_datasets([(part(rows), TEST) for rows in (slice(0, 9), slice(9, 24))]),
    "split_by_task": lambda: S.split_by_task(part(slice(None), task=IDS % 3), TEST),
    "one dataset, moved": lambda: S.mapped(S.from_datasets([(TRAIN, TEST)] * 3), moved, torch.arange(3.0)),
    "generated": lambda: S.generated(drawn, 3, train_size=6, test_size=3, key=cl.key(0), params=torch.arange(3.0), n_classes=4),
    "experiences that overlap": lambda: of_rows(range(10), [4, 5, 9, 1, 2, 11, 12, 13], range(18, 24)),
    "rows that occur twice": lambda: of_rows([*range(10), 3, 3, 4], [*range(10, 16), 14, *range(4)]),
    "slices that overlap": lambda: of_user([cl.experience(part(rows), index=i) for i, rows in enumerate(SLICES)]),
    "labels of their own": lambda: of_user(
        [cl.experience(part(rows, task=torch.full((rows.stop - rows.start,), 5)), index=i) for i, rows in enumerate(SLICES)]
    ),
}
STEPS = {
    "in_memory": S.in_memory,
    "mapped": lambda bench: S.mapped(bench, torch.Tensor.clone),
    "slice": lambda bench: cl.Benchmark(bench.train[:], bench.test, bench.valid and bench.valid[:]),
    "split_online": lambda bench: S.split_online(bench, 5),
    "blurred": lambda bench: S.blurred(bench, 0.5, key=cl.key(3)),
    "cumulative": S.cumulative,
    "with_validation": lambda bench: S.with_validation(bench, 0.2, key=cl.key(5)),
}
REFUSED = re.compile(
    "are not rows of one dataset|pieces of an online stream|in experiences of different task labels|has a valid stream already"
    "|leaves none to train on|are trained on in earlier ones"
)


def rows_of(exp):
    """The rows that count: number, label and task label."""
    assert exp.classes[exp.y[exp.valid]].all()
    assert torch.equal(exp.x[:, 1].long(), exp.y)
    x, y, tasks = (values[exp.valid].tolist() for values in (exp.x[:, 0], exp.y, exp.tasks))
    return list(zip(x, y, tasks, strict=True))


def read(bench):
    return [rows_of(exp) for exp in bench.train], [rows_of(exp) for exp in bench.valid or []]


def check(step, before, after, drawn_rows):
    """What a step makes of the experiences before it."""
    (given, valid_before), (train, valid) = before, after
    if step in ("in_memory", "mapped", "slice"):
        assert train == given
    if step == "cumulative":
        assert train == [list(itertools.chain(*given[: i + 1])) for i in range(len(given))]
    if step in ("split_online", "blurred"):
        assert Counter(itertools.chain(*train)) == Counter(itertools.chain(*given))
    if step != "with_validation":
        assert valid == valid_before
        return
    number = (lambda row: row[0]) if drawn_rows else (lambda row: row[0] % 1000)
    trained, held = ({number(row) for rows in part for row in rows} for part in (train, valid))
    assert not trained & held
    for whole, own, out in zip(given, train, valid, strict=True):
        assert Counter(own + out) == Counter(whole)
    if len({number(row) for rows in given for row in rows}) == sum(map(len, given)):
        assert [len(out) for out in valid] == [max(1, round(0.2 * len(whole))) for whole in given]


def follow(base, steps):
    """Each step checked against the one before it, up to one that is refused."""
    bench = BASES[base]()
    before = read(bench)
    for step in steps:
        try:
            bench = STEPS[step](bench)
        except ValueError as error:
            if not REFUSED.search(str(error)):
                raise
            return
        after = read(bench)
        check(step, before, after, base == "generated")
        before = after


@pytest.mark.parametrize("base", BASES)
def test_two_functions_of_streams_one_after_the_other(base):
    for steps in itertools.product(STEPS, repeat=2):
        follow(base, steps)


@pytest.mark.parametrize("base", BASES)
def test_three_functions_of_streams_one_after_the_other(base):
    for steps in random.Random(base).sample(list(itertools.product(STEPS, repeat=3)), 12):
        follow(base, steps)


def held_and_trained(bench):
    """What is held out and what is trained on, as sets of inputs, and how many rows each experience of `valid` has."""
    split = S.with_validation(bench, 0.1, key=cl.key(0))
    held, trained = ({tuple(row) for exp in stream for row in exp.x.flatten(1).tolist()} for stream in (split.valid, split.train))
    return held, trained, [len(exp) for exp in split.valid]


def numbered(n=200):
    return torch.arange(float(n))[:, None], torch.arange(n) % 4


def read_anew(index):
    x, y = numbered()
    rows = slice(50 * index, 50 * index + 50)
    return cl.experience(cl.Dataset(x[rows].clone(), y[rows].clone(), n_classes=4), index=index)


def test_rows_that_are_read_anew_each_time_are_not_known_again():
    """An experience that is read when it is asked for has its own rows; joined with others these cannot be told apart."""
    stream = cl.Stream(read_anew, 4)
    bench = cl.Benchmark(stream, stream)
    for single in (bench, S.in_memory(bench)):
        held, trained, counts = held_and_trained(single)
        assert (counts, held & trained) == ([5, 5, 5, 5], set())
    for joined in (S.cumulative(bench), S.cumulative(S.in_memory(bench)), S.split_online(S.cumulative(bench), 10)):
        with pytest.raises(ValueError, match=r"hold rows out before they are put together: cumulative\(with_validation"):
            S.with_validation(joined, 0.1, key=cl.key(0))


@pytest.mark.parametrize("columns", [2, 3, 10, 30])
def test_targets_in_column_major_order_are_counted_by_row(columns):
    x, _ = numbered()
    data = cl.Dataset(x, torch.rand(columns, len(x)).T)
    assert held_and_trained(S.from_datasets([(data, data)]))[2] == [20]


def test_slices_are_the_same_rows_where_inputs_and_labels_are():
    x, y = numbered()
    overlapping = S.from_datasets([(cl.Dataset(x[i : i + 80], y[i : i + 80], n_classes=4),) * 2 for i in (0, 40, 80, 120)])
    for bench in (overlapping, S.cumulative(overlapping)):
        held, trained, _ = held_and_trained(bench)
        assert not held & trained
    few = S.from_datasets([(cl.Dataset(torch.rand(k, 2), y[:k], n_classes=4),) * 2 for k in (200, 100, 50)])
    assert held_and_trained(few)[2] == [20, 10, 5]


@cl.tree.state(kw_only=False)
class Scaled(cl.sources.Source):
    """A source of the user's that makes its rows, and has no targets of that name."""

    images: torch.Tensor
    labels: torch.Tensor
    by: torch.Tensor = cl.sources.per_lane(0)
    n_classes: int = cl.tree.static(default=4)

    def __len__(self):
        return len(self.labels)

    @property
    def target(self):
        return "class"

    def gather_x(self, rows):
        return self.images[rows] * self.by

    def gather_y(self, rows):
        return self.labels[rows]


def test_rows_of_ones_own_source_are_known_by_what_its_lanes_share():
    x, y = numbered()
    experiences = [cl.experience(Scaled(x + 1, y, torch.tensor(by)), index=i) for i, by in enumerate((1.0, -1.0))]
    shared = [cl.experience(exp.source.replace(images=experiences[0].source.images), index=exp.index.item()) for exp in experiences]
    stream = cl.Stream(shared.__getitem__, 2)
    for bench in (cl.Benchmark(stream, stream), S.cumulative(cl.Benchmark(stream, stream))):
        held, trained, _ = held_and_trained(bench)
        assert not {abs(v) for (v,) in held} & {abs(v) for (v,) in trained}


def test_where_rows_come_from_is_not_pickled_with_them():
    x = torch.rand(10_000, 64)
    held = cl.sources.in_memory(cl.Dataset(x, torch.arange(10_000) % 4), torch.arange(10))
    assert len(pickle.dumps(held)) < 10_000
