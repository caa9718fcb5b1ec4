"""The functions of streams, one after the other: every row keeps its values, its label and its task label, and stays held out.

The inputs of a row are its number and its label, so that what a composition gives can be compared with what it was given.
"""

import itertools
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
