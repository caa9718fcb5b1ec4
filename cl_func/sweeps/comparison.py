"""Points of an axis of Runs against each other, such as methods: paired over the seeds, with p corrected for their number."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from cl_func import checks, metrics
from cl_func.sweeps import named_axes, significance, tables
from cl_func.sweeps.named_axes import Axes, Label
from cl_func.sweeps.over_seeds import Numbers
from cl_func.sweeps.selection import position
from cl_func.sweeps.significance import Test


@dataclasses.dataclass(frozen=True)
class Pair:
    """One comparison: the values of `a` less those of `b`, with the same seeds.

    a, b: labels of the axis. at: the labels of all other axes, such as the setting.
    difference: the mean over the seeds. low, high: its Student t confidence interval; NaN for a single seed.
    p: of the test alone. p_holm: corrected for all comparisons that were made with it.
    seeds: those that the comparison is made of. left_out: why others are not, such as "seed 3: b diverged".
    """

    a: Label
    b: Label
    at: dict[str, Label]
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    seeds: tuple[int, ...]
    left_out: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """How many seeds it is made of."""
        return len(self.seeds)


@dataclasses.dataclass(frozen=True, repr=False)
class Comparison:
    """Comparisons of the points of an axis, each a Pair: iterate over them, or take one, `comparison[0].p_holm`.

    axis: what is compared. metric: by which metric, and form: how its numbers are written. test, confidence: as in `Runs.compare`.
    larger_is_better: which way the metric is better; None if that is not known.
    """

    pairs: tuple[Pair, ...]
    axis: str
    metric: str
    form: str
    test: Test
    confidence: float
    larger_is_better: bool | None

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        return self.pairs[index]

    @property
    def too_few(self) -> str:
        """In words, why there are too few seeds for any of the comparisons to be significant; empty if there are enough.

        The level is 1 - confidence, for the smallest p after Holm's correction.
        """
        level, n = 1 - self.confidence, max(pair.n for pair in self.pairs)
        m = sum(not math.isnan(pair.p) for pair in self.pairs) or 1
        if significance.needed(self.test, level, m) <= n:
            return ""
        least = f"{n} {_seeds(n)}: p is at least {significance.least(n, self.test):.3g}"
        if self.test == "t":
            return f"{n} {_seeds(n)}: a t test needs at least 2."
        times = f", {m} times that after Holm's correction for {m} comparisons" if m > 1 else ""
        return (
            f"{least} in Wilcoxon's test{times}, so that nothing can be significant at {level:.3g}: "
            f"at least {significance.needed(self.test, level, m)} seeds are needed."
        )

    def table(self, format: tables.Format = "markdown") -> str:
        """A table with a row for each comparison; format: "markdown", "latex" or "html", as in `Runs.table`."""
        checks.choice("format", format, *tables.FORMATS)
        others = list(self.pairs[0].at)
        header = [self.axis, "against", *others, f"difference of {self.metric}", f"{100 * self.confidence:g}% interval"]
        header += [f"p ({'Wilcoxon' if self.test == 'wilcoxon' else 't test'})", "p (Holm)", "seeds", "left out"]
        drop = -1 if not any(pair.left_out for pair in self.pairs) else None
        rows: list[list[str | tables.Cell]] = []
        for pair in self.pairs:
            cells = [_text(pair.a), _text(pair.b), *(_text(label) for label in pair.at.values())]
            interval = f"[{self._number(pair.low)}, {self._number(pair.high)}]" if pair.n > 1 else ""
            cells += [self._number(pair.difference), interval, _p(pair.p), _p(pair.p_holm), str(pair.n), "; ".join(pair.left_out)]
            rows.append([*cells[:drop]])
        return tables.FORMATS[format](header[:drop], rows, 2 + len(others))

    def _number(self, value: float) -> str:
        return "" if math.isnan(value) else format(value, f"+{self.form}")

    def __repr__(self) -> str:
        return "\n".join([self.table(), *([self.too_few] if self.too_few else [])])

    def _repr_html_(self) -> str:
        return self.table("html") + (f"<p>{self.too_few}</p>" if self.too_few else "")


def _seeds(n: int) -> str:
    return "seed" if n == 1 else "seeds"


def _text(label: Label) -> str:
    return named_axes.texts("", [label])[0]


def _p(p: float) -> str:
    if math.isnan(p):
        return ""
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"


def compare(numbers: Numbers, axes: Axes, a: Any, b: Any, axis: str, test: Test, confidence: float) -> Comparison:
    """Compare the points of an axis by a metric of all runs, `numbers`; the other arguments are those of `Runs.compare`."""
    checks.text("axis", axis)
    if axis not in axes or axis == "seed":
        raise ValueError(f"axis: expected one of {list(axes)[:-1]}, got {axis!r}; methods are put on one by cl.Runs.join.")
    checks.choice("test", test, *significance.TESTS)
    confidence = checks.number("confidence", confidence, 0, 1)
    labels = axes[axis]
    if len(labels) < 2:
        raise ValueError(f"axis: {axis!r} has one label, {labels[0]!r}; there is nothing to compare it with.")
    couples = _couples(labels, a, b)
    others = {name: values for name, values in axes.items() if name not in (axis, "seed")}
    where = list(axes).index(axis)
    pairs = list[Pair]()
    for point in itertools.product(*(range(len(values)) for values in others.values())):
        at = {name: values[i] for (name, values), i in zip(others.items(), point, strict=True)}
        for i, j in couples:
            first, second = ((*point[:where], one, *point[where:]) for one in (i, j))
            pairs.append(_pair(numbers, axes["seed"], (labels[i], labels[j]), at, (first, second), test, confidence))
    corrected = significance.holm([pair.p for pair in pairs])
    pairs = [dataclasses.replace(pair, p_holm=p) for pair, p in zip(pairs, corrected, strict=True)]
    summary = numbers.summary
    return Comparison(tuple(pairs), axis, summary.title, summary.form, test, confidence, summary.larger_is_better)


def _couples(labels: Sequence[Label], a: Any, b: Any) -> list[tuple[int, int]]:
    """The places of what is compared: two labels, one with all others, or all pairs."""
    if a is None and b is not None:
        raise ValueError(f"a: expected one of {labels}, since b is {b!r}.")
    if a is None:
        return list(itertools.combinations(range(len(labels)), 2))
    i = position("a", labels, a)
    if b is None:
        return [(i, j) for j in range(len(labels)) if j != i]
    j = position("b", labels, b)
    if i == j:
        raise ValueError(f"b: expected another label than a, got {b!r} twice.")
    return [(i, j)]


def _pair(
    numbers: Numbers,
    seeds: Sequence[Label],
    names: tuple[Label, Label],
    at: dict[str, Label],
    points: tuple[tuple[int, ...], tuple[int, ...]],
    test: Test,
    confidence: float,
) -> Pair:
    """Compare the runs of two points."""
    usable = numbers.usable[points[0]] & numbers.usable[points[1]]
    left_out = list[str]()
    kinds = {"not finished": ~numbers.finished, "diverged": numbers.diverged, "NaN": numbers.undefined}
    for s, seed in enumerate(seeds):
        both = zip(names, points, strict=True)
        why = [f"{_text(name)} {kind}" for name, point in both for kind, which in kinds.items() if which[point][s]]
        if why:
            left_out.append(f"seed {seed}: {', '.join(why)}")
    first, second = (numbers.values[point][usable] for point in points)
    assert numbers.rounding is not None
    off, other_off = (numbers.rounding[point][usable] for point in points)
    found = significance.differences(first, second, off + other_off)
    mean, half = metrics.mean_ci(found, confidence) if len(found) else (torch.tensor(math.nan),) * 2
    return Pair(
        *names,
        at,
        difference=mean.item(),
        low=(mean - half).item(),
        high=(mean + half).item(),
        p=significance.p_value(found, test),
        p_holm=math.nan,
        seeds=tuple(seed for s, seed in enumerate(seeds) if usable[s]),
        left_out=tuple(left_out),
    )
