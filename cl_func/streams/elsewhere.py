"""Streams of other libraries: a benchmark of Avalanche, the scenarios of Continuum.

All rows are read once, through the transformations for evaluation where the library tells them apart: augmentation belongs to the
model here (`cl.models.augmented`), where each epoch draws its own. Neither library is imported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.data.items import from_torch
from cl_func.experiences import Benchmark, Experience, Stream, experience, present
from cl_func.sources import Dataset
from cl_func.streams.lazy import Lazy, check_pair

Part = tuple[Dataset, int]  # the rows of an experience and its task label


def from_avalanche(benchmark: Any) -> Benchmark:
    """The train and test streams of an Avalanche benchmark, experience by experience, with its labels and its task labels.

    benchmark: with `train_stream` and `test_stream` of experiences that have a `dataset` and, where there are any, `task_labels`,
        as those of `avalanche.benchmarks.classic`, `nc_benchmark` and `benchmark_from_datasets` have. Rows are read as
        `dataset.eval()` gives them; a PIL image, where it has no transformation, becomes uint8 [C, H, W].

    `classes` are those that occur in the experience, of train or of test where the streams are equally long; they may differ in
    length. All rows are held in memory; `n_classes` is the largest label plus one, or the benchmark's own if that is larger.
    Raises TypeError for what has no such streams, ValueError for an experience of several task labels, for experiences that differ
    in sample shape, dtype or kind of target, and as `cl.data.from_torch` does, naming the experience.
    """
    streams = [getattr(benchmark, f"{side}_stream", None) for side in ("train", "test")]
    if any(stream is None for stream in streams):
        raise checks.type_error("benchmark", "a benchmark of Avalanche with train_stream and test_stream", benchmark)
    n_classes = getattr(benchmark, "n_classes", 0)
    sides = [
        [_avalanche_part(exp, f"benchmark: {side}_stream[{i}]") for i, exp in enumerate(_items("benchmark", stream))]
        for side, stream in zip(("train", "test"), streams, strict=True)
    ]
    return _benchmark("benchmark", sides, n_classes if isinstance(n_classes, int) else 0)


def from_continuum(train: Any, test: Any, *, task_labels: bool = False) -> Benchmark:
    """The tasks of two scenarios of Continuum, such as `ClassIncremental(dataset, increment=2)`, one made with `train=False`.

    A task set gives (x, y, t), its transformations applied, by default `ToTensor`, which makes of an image float32 [C, H, W] in
    [0, 1]. They are applied once: make the train scenario with those of the test scenario.

    task_labels: the task label of an experience is the t of its rows. By default it is 0 everywhere, as in class-incremental
        learning, in which the model may not know the task; Continuum numbers the tasks in any case.

    Labels are those of the scenario, which numbers the classes in the order in which they come. `classes`, `n_classes` and the
    lengths of the streams are as in `from_avalanche`. Raises TypeError for what is no such scenario; ValueError for one without
    tasks, for rows of several t in a task where task_labels is True, and as `cl.data.from_torch` does, naming the task.
    """
    checks.flag("task_labels", task_labels)
    sides = [
        [_continuum_part(tasks, f"{side}: task {i}", task_labels) for i, tasks in enumerate(_items(side, scenario))]
        for side, scenario in (("train", train), ("test", test))
    ]
    return _benchmark("train, test", sides, 0)


def _items(name: str, stream: Any) -> list[Any]:
    expected = "a benchmark of Avalanche" if name == "benchmark" else "a scenario of Continuum, which gives task sets"
    if not isinstance(stream, Iterable) or isinstance(stream, (str, bytes, Mapping, Tensor)):
        raise checks.type_error(name, expected, stream)
    found = list(stream)
    if not found:
        raise ValueError(f"{name}: a stream of it is empty; give at least one experience.")
    return found


class _Pairs:
    """The (x, y) of a dataset whose items may have more after them."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        item = self.dataset[index]
        return tuple(item[:2]) if isinstance(item, (tuple, list)) else item


def _read(dataset: Any, name: str, pairs: bool = True) -> Dataset:
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__") or isinstance(dataset, (str, Mapping, Tensor)):
        raise checks.type_error(name, "rows with len() and [i]", dataset)
    try:
        return from_torch(_Pairs(dataset) if pairs else dataset)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error


def _avalanche_part(exp: Any, name: str) -> Part:
    dataset = getattr(exp, "dataset", None)
    if dataset is None:
        raise checks.type_error(name, "an experience of Avalanche with a dataset", exp)
    labels = sorted({int(label) for label in getattr(exp, "task_labels", ())})
    if len(labels) > 1:
        raise ValueError(f"{name}: holds rows of the task labels {labels}; an experience has one.")
    evaluated = dataset.eval() if callable(getattr(dataset, "eval", None)) else dataset
    return _read(evaluated, name), labels[0] if labels else 0


def _continuum_part(tasks: Any, name: str, task_labels: bool) -> Part:
    if not task_labels:
        return _read(tasks, name), 0
    data = _read(tasks, name, pairs=False)
    if data.task is None:
        raise ValueError(f"task_labels: {name} gives no t beside (x, y).")
    labels = data.task.unique().tolist()
    if len(labels) > 1:
        raise ValueError(f"task_labels: {name} holds rows of the task labels {labels}; an experience has one.")
    return tree.replace(data, task=None), labels[0]


def _benchmark(name: str, sides: list[list[Part]], n_classes: int) -> Benchmark:
    """A benchmark of the experiences of train and of test, brought to one number of classes."""
    every = [data for side in sides for data, _ in side]
    if every[0].target == "class":
        n_classes = max(n_classes, *(data.n_classes for data in every))
        sides = [[(tree.replace(data, n_classes=n_classes), task) for data, task in side] for side in sides]
    for side in sides:
        for data, _ in side:
            try:
                check_pair(sides[0][0][0], data)
            except ValueError as error:
                raise ValueError(f"{name}: two experiences: {str(error).removeprefix('train, test: ')}") from error
    occur = [
        [present(data.y, torch.ones(len(data), dtype=torch.bool, device=data.y.device), data.n_classes) for data, _ in side]
        for side in sides
    ]
    if len(occur[0]) == len(occur[1]):
        both = [one | other for one, other in zip(*occur, strict=True)]
        occur = [both, both]
    return Benchmark(
        *(
            Stream(_Given(tuple(data for data, _ in side), tuple(classes), tuple(task for _, task in side)), len(side))
            for side, classes in zip(sides, occur, strict=True)
        )
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Given(Lazy):
    """Experience i holds a whole dataset, with classes and a task label that were given."""

    data: tuple[Dataset, ...]
    classes: tuple[Tensor, ...]  # one per experience: [C] bool
    tasks: tuple[int, ...]

    def view(self, index: int) -> Experience:
        return experience(self.data[index], task=self.tasks[index], index=index, classes=self.classes[index])

    def source(self, index: int) -> Dataset:
        return self.data[index]
