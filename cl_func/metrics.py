"""Numbers that summarise a run, from its accuracy matrix R: R[i, j] is the accuracy on test experience j at time i.

R is floating [..., time, T]; axes before the last two, such as seeds, are kept. (The history of a vmapped `scan` is
[time, S, T]: pass `R.movedim(0, -2)`.) All indices below count from 0.

Usually there is one time per training experience. If there are more or fewer (an online stream, `scan(..., every=10)`), pass `seen`
[time]: how many of the T experiences had been trained on, fully or in part, at each time. It determines what the definitions need:
    the newest experience at time i           seen[i] - 1
    the time at which j has been learned      the last one before the next experience begins
By default `seen` is 1..T, so that the newest experience at time i is i, and j has been learned at time j.

R may hold another measure than accuracies: say which way is better, `higher_is_better=False` for errors such as "mse", True for
"r2". Its values may be any finite numbers, while accuracies, and precisions, lie in [0, 1]. Forgetting is above 0 where it has
become worse, and a transfer where it has become better, whichever way that is; a mean has the sign of the values.

These functions check values, so they run on results, not inside a traced or vmapped function.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cl_func import checks
from cl_func.tree import describe

_SLACK = 1e-6  # rounding by which a mean of accuracies may leave [0, 1]


def _check_accuracies(name: str, value: Any, ndim: int, higher_is_better: bool | None = None) -> Tensor:
    """Check that a value is a floating tensor of accuracies with at least `ndim` dimensions; ValueError naming it otherwise.

    higher_is_better: not None for another measure, whose values need only be finite.
    """
    if checks.choice("higher_is_better", higher_is_better, True, False, None) is not None:
        checks.tensor(name, value)
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise ValueError(f"{name}: expected a floating tensor of accuracies, got {describe(value)}; convert it with .float().")
    if value.ndim < ndim or 0 in value.shape:
        raise ValueError(
            f"{name}: expected at least {ndim} dimensions, none empty, got {describe(value)}; an accuracy matrix is [..., time, T]."
        )
    if value.is_meta:
        raise ValueError(f"{name}: it is on the device meta, which holds no values; give the accuracies themselves.")
    if bool(value.isnan().any()):
        raise ValueError(f"{name}: some accuracies are NaN; leave out the diverged runs or the empty test experiences.")
    low, high = value.min().item(), value.max().item()
    if higher_is_better is not None:
        if not math.isfinite(high - low):
            raise ValueError(f"{name}: some values are infinite; leave out the diverged runs.")
        return value
    if low < -_SLACK or high > 1 + _SLACK:
        raise ValueError(
            f"{name}: accuracies lie in [0, 1], got values from {low:.6g} to {high:.6g}; divide percentages by 100, "
            "or say which way another measure is better: higher_is_better=False for errors."
        )
    return value


def _oriented(R: Tensor, higher_is_better: bool | None) -> Tensor:
    """The values with their sign changed if lower is better, so that the largest is the best."""
    return -R if higher_is_better is False else R


def _seen(R: Tensor, seen: Tensor | Sequence[int] | None, least: int = 1, higher_is_better: bool | None = None) -> list[int]:
    """Check R, which needs `least` times and experiences, and `seen`: the number of experiences seen at each time, as a list."""
    time, n = _check_accuracies("R", R, 2, higher_is_better).shape[-2:]
    if n < least or time < least:
        raise ValueError(
            f"R: expected at least {least} times and {least} experiences, got {describe(R)}; there is nothing to compare."
        )
    if seen is None:
        if time != n:
            raise ValueError(
                f"seen: R has {time} times but {n} experiences; pass seen=, the number of experiences seen at each time."
            )
        return list(range(1, n + 1))
    if not isinstance(seen, (Tensor, list, tuple, range)) or (isinstance(seen, Tensor) and (seen.is_meta or seen.ndim != 1)):
        raise checks.type_error("seen", f"{time} integers, one for each time of R", seen)
    counts = seen.tolist() if isinstance(seen, Tensor) else list(seen)
    if len(counts) != time or any(isinstance(c, bool) or not isinstance(c, int) for c in counts):
        raise ValueError(f"seen: expected {time} integers, one for each time of R, got {seen!r}.")
    if any(not 1 <= c <= n for c in counts) or counts != sorted(counts):
        raise ValueError(f"seen: expected counts from 1 to the {n} experiences of R that never decrease, got {counts}.")
    return counts


def _learned_at(counts: list[int]) -> Tensor:
    """The time at which each experience seen has been learned, just before the next one begins: [counts[-1]] int64."""
    starts = [next(i for i, c in enumerate(counts) if c > j) for j in range(counts[-1])]
    ends = [*starts[1:], len(counts)]
    return torch.tensor([max(start, end - 1) for start, end in zip(starts, ends, strict=True)])


def _n_older(name: str, counts: list[int]) -> int:
    """The number of experiences seen before the newest one at the last time; ValueError if there is none."""
    if counts[-1] < 2:
        raise ValueError(f"seen: {name} needs a run that saw at least 2 experiences, but seen ends with {counts[-1]}.")
    return counts[-1] - 1


def average_accuracy(R: Tensor, seen: Tensor | Sequence[int] | None = None, *, higher_is_better: bool | None = None) -> Tensor:
    """The mean accuracy over the experiences seen so far, [..., time]; the last entry is "the" average accuracy of a run.

    A[i] = mean_{j < seen[i]} R[i, j]    (Chaudhry et al., "Riemannian walk", ECCV 2018; its last entry is ACC, eq. 2 of
    Lopez-Paz & Ranzato, "Gradient episodic memory", NeurIPS 2017)

    >>> average_accuracy(torch.tensor([[0.8, 0.0], [0.4, 0.6]]))
    tensor([0.8000, 0.5000])
    """
    counts = torch.tensor(_seen(R, seen, 1, higher_is_better), device=R.device)
    is_seen = torch.arange(R.shape[-1], device=R.device) < counts[:, None]
    return torch.where(is_seen, R, 0).sum(-1) / counts


def average_anytime_accuracy(
    R: Tensor, seen: Tensor | Sequence[int] | None = None, *, higher_is_better: bool | None = None
) -> Tensor:
    """The mean over time of the average accuracy, [...]: how good the model was throughout the run, not only at its end.

    AAA = mean_i A[i]    (Caccia et al., "New insights on reducing abrupt representation change in online continual learning",
    ICLR 2022; the area under the accuracy curve of Koh et al., ICLR 2022, when the times are equally spaced)
    """
    return average_accuracy(R, seen, higher_is_better=higher_is_better).mean(-1)


def forgetting_matrix(R: Tensor, seen: Tensor | Sequence[int] | None = None, *, higher_is_better: bool | None = None) -> Tensor:
    """How far each experience seen before the newest is below its best earlier accuracy, [..., time, T]; 0 for all others.

    F[i, j] = max_{l < i} R[l, j] - R[i, j]  for j < seen[i] - 1    (f_j^k of Chaudhry et al., ECCV 2018)

    Negative values are improvements.
    """
    counts = torch.tensor(_seen(R, seen, 2, higher_is_better), device=R.device)
    R = _oriented(R, higher_is_better)
    best = R.cummax(-2).values[..., :-1, :]
    is_older = torch.arange(R.shape[-1], device=R.device) < counts[1:, None] - 1
    forgotten = torch.where(is_older, best - R[..., 1:, :], 0)
    return torch.cat([torch.zeros_like(R[..., :1, :]), forgotten], dim=-2)


def forgetting_per_experience(
    R: Tensor, seen: Tensor | Sequence[int] | None = None, *, higher_is_better: bool | None = None
) -> Tensor:
    """The forgetting at the end of each experience but the newest, [..., T-1] (if all T were seen): last row of the matrix."""
    n_older = _n_older("forgetting", _seen(R, seen, 2, higher_is_better))
    return forgetting_matrix(R, seen, higher_is_better=higher_is_better)[..., -1, :n_older]


def forgetting(R: Tensor, seen: Tensor | Sequence[int] | None = None, *, higher_is_better: bool | None = None) -> Tensor:
    """The mean forgetting at the end of a run over all experiences but the newest, [...], in [-1, 1].

    F = mean_{j < T-1} (max_{l < T-1} R[l, j] - R[T-1, j])    (F_k of Chaudhry et al., ECCV 2018)

    >>> forgetting(torch.tensor([[0.8, 0.0], [0.4, 0.6]]))
    tensor(0.4000)
    """
    return forgetting_per_experience(R, seen, higher_is_better=higher_is_better).mean(-1)


def backward_transfer(R: Tensor, seen: Tensor | Sequence[int] | None = None, *, higher_is_better: bool | None = None) -> Tensor:
    """What training on later experiences did to earlier ones, [...], in [-1, 1]; negative where they were forgotten.

    BWT = mean_{j < T-1} (R[T-1, j] - R[j, j])    (eq. 3 of Lopez-Paz & Ranzato, NeurIPS 2017)
    """
    counts = _seen(R, seen, 2, higher_is_better)
    R, n_older = _oriented(R, higher_is_better), _n_older("backward transfer", counts)
    return (R[..., -1, :n_older] - _when_learned(R, counts)[..., :n_older]).mean(-1)


def forward_transfer(
    R: Tensor, baseline: Tensor, seen: Tensor | Sequence[int] | None = None, *, higher_is_better: bool | None = None
) -> Tensor:
    """What training on earlier experiences did for later ones, before they were trained on themselves, [...], in [-1, 1].

    FWT = mean_{0 < j < T} (R[j-1, j] - baseline[j])    (eq. 4 of Lopez-Paz & Ranzato, NeurIPS 2017)

    baseline: the accuracies [T] (or [..., T], one row per run) of the untrained model: `probe(init(key), None)["accuracy"]`.
    With `seen`, j-1 is the last time before experience j; experiences seen at the first time already are left out.
    """
    counts = _seen(R, seen, 2, higher_is_better)
    _check_accuracies("baseline", baseline, 1, higher_is_better)
    if baseline.shape != R.shape[-1:] and baseline.shape != R.shape[:-2] + R.shape[-1:]:
        raise ValueError(
            f"baseline: expected one accuracy per experience, [{R.shape[-1]}], got {describe(baseline)} for R {describe(R)}."
        )
    later = torch.arange(counts[0], counts[-1], device=R.device)
    if len(later) == 0:
        raise ValueError(f"seen: forward transfer needs an experience that begins after the first time, got {counts}.")
    before = torch.tensor([next(i for i, c in enumerate(counts) if c > j) - 1 for j in later.tolist()], device=R.device)
    return _oriented(R[..., before, later] - baseline[..., later], higher_is_better).mean(-1)


def learning_accuracy(R: Tensor, seen: Tensor | Sequence[int] | None = None, *, higher_is_better: bool | None = None) -> Tensor:
    """The mean accuracy on each experience just after it was learned, [...]: plasticity, regardless of later forgetting.

    LA = mean_j R[j, j]    (Riemer et al., "Learning to learn without forgetting by maximizing transfer", ICLR 2019)
    """
    return _when_learned(R, _seen(R, seen, 1, higher_is_better)).mean(-1)


def worst_case_accuracy(R: Tensor, seen: Tensor | Sequence[int] | None = None, *, higher_is_better: bool | None = None) -> Tensor:
    """The mean over the experiences seen of the worst accuracy since each was learned, [...]; of the newest it is the last one.

    WC = 1/T R[T-1, T-1] + 1/T sum_{j < T-1} min_{i > l(j)} R[i, j]    with l(j) the time at which j has been learned (WC-ACC of De
    Lange, van de Ven & Tuytelaars, "Continual evaluation for lifelong learning: identifying the stability gap", ICLR 2023, eq. 2
    and 3). The more times there are, the more of the drops at the beginning of an experience it sees.

    >>> worst_case_accuracy(torch.tensor([[0.8, 0.0], [0.3, 0.2], [0.4, 0.6]]), seen=[1, 2, 2])
    tensor(0.4500)
    """
    counts = _seen(R, seen, 1, higher_is_better)
    oriented = _oriented(R[..., : counts[-1]], higher_is_better)
    times = torch.arange(R.shape[-2], device=R.device)
    learned = _learned_at(counts).to(R.device)
    # What was learned at the last time has no later one: its accuracy then is what counts.
    counted = (times[:, None] > learned) | (times == len(times) - 1)[:, None]
    worst = torch.where(counted, oriented, torch.inf).amin(-2)
    return _oriented(worst.mean(-1), higher_is_better)


def _when_learned(R: Tensor, counts: list[int]) -> Tensor:
    """The accuracy on each experience seen, at the time at which it has been learned, [..., counts[-1]]."""
    return R[..., _learned_at(counts).to(R.device), torch.arange(counts[-1], device=R.device)]


def _between(history: Any, name: str, bin: int) -> Tensor:
    """The mean of a measure over the rows of each bin, from its means over all rows so far, and their numbers, [..., time]."""
    parts = []
    for part in (name, "online_rows"):
        if not isinstance(history, Mapping) or part not in history:
            raise checks.type_error("history", f"a dict with {part!r}, as cl.trace.online.probe() has measured it", history)
        parts.append(history[part])
    mean, rows = parts
    checks.tensor(f"history[{name!r}]", mean)
    checks.tensor("history['online_rows']", rows, mean.shape, torch.int64)
    checks.positive_int("bin", bin)
    if mean.ndim == 0 or mean.is_meta:
        raise ValueError(f"history[{name!r}]: expected a whole history, [..., time], got {describe(mean)}.")
    if mean.shape[-1] < bin:
        raise ValueError(f"bin: expected at most the {mean.shape[-1]} entries of the history, got {bin}.")
    counts, sums = rows[..., bin - 1 :: bin], (torch.where(rows > 0, mean.double(), 0) * rows)[..., bin - 1 :: bin]
    counts, sums = (torch.diff(of, dim=-1, prepend=torch.zeros_like(of[..., :1])) for of in (counts, sums))
    if bool((torch.diff(rows, dim=-1) < 0).any()):
        raise ValueError(
            "history: the rows that it counts decrease along its last axis, which must be time; move it there, .movedim(0, -1)."
        )
    return sums / counts


def online_accuracy(history: Mapping[str, Tensor], bin: int = 1) -> Tensor:
    """The accuracy on rows before they were trained on, between two entries of a history, [..., time], float64 in [0, 1].

    history: with "online_accuracy" and "online_rows" [..., time], as `cl.trace.online.probe()` measures them: of `cl.scan`, or the
        `history` of Runs. (That of a vmapped `scan` has time first: move each with .movedim(0, -1).)
    bin: how many entries are put together, for [..., time // bin]; those left over at the end are left out.

    With an entry after each task it is the online task accuracy, whose mean over the tasks is that of Kumar, Marklund & Van Roy,
    "Maintaining plasticity in continual learning via regenerative regularization" (2023). NaN where no row came between entries.
    `history["online_accuracy"]` itself is the accuracy on all rows so far.

    >>> history = {"online_accuracy": torch.tensor([0.5, 0.6]), "online_rows": torch.tensor([10, 20])}
    >>> online_accuracy(history)
    tensor([0.5000, 0.7000], dtype=torch.float64)
    """
    return _between(history, "online_accuracy", bin)


def online_error(history: Mapping[str, Tensor], bin: int = 1) -> Tensor:
    """The mean squared error on rows before they were trained on, between two entries of a history, [..., time], float64.

    As `online_accuracy`, from "online_mse". (The error of Dohare et al., "Loss of plasticity in deep continual learning", Nature
    2024, in bins of 20,000 rows.)
    """
    return _between(history, "online_mse", bin)


def mean_ci(values: Tensor, confidence: float = 0.95, dim: int = 0) -> tuple[Tensor, Tensor]:
    """Mean and half-width of its Student t confidence interval over one axis, the seeds: report `mean ± half_width`.

    half_width = t_{n-1, (1 + confidence) / 2} * s / sqrt(n), with s the standard deviation over n - 1 (Student, Biometrika 1908).
    It is NaN for n = 1, as one run says nothing about the spread. Raises ValueError for values that are not floating, for no
    values, and for a confidence outside (0, 1).

    >>> mean_ci(torch.tensor([0.70, 0.72, 0.74]))
    (tensor(0.7200), tensor(0.0497))
    """
    if not isinstance(values, Tensor) or not values.is_floating_point():
        raise ValueError(f"values: expected a floating tensor, got {describe(values)}; convert it with .float().")
    if values.is_meta:
        raise ValueError("values: they are on the device meta, which holds no values; give the results themselves.")
    if isinstance(dim, bool) or not isinstance(dim, int):
        raise checks.type_error("dim", "an integer, the axis of the seeds", dim)
    confidence = checks.number("confidence", confidence, 0, 1)
    if not -values.ndim <= dim < values.ndim:
        raise ValueError(f"dim: {dim} is no axis of values, {describe(values)}; give the axis of the seeds.")
    n = values.shape[dim]
    if n == 0:
        raise ValueError(f"values: axis {dim} of {describe(values)} is empty; give at least one run.")
    mean, t = values.mean(dim), _student_t(max(n - 1, 1), confidence)
    return mean, values.std(dim) * (t / math.sqrt(n)) if n > 1 else torch.full_like(mean, math.nan)


@functools.cache
def _student_t(df: int, confidence: float) -> float:
    """The t > 0 for which a Student t variable with integer df lies in [-t, t] with this probability.

    With t = sqrt(df) tan(angle) the probability is a finite sum (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4); bisection over the
    angle gives it to machine precision.
    """

    def inside(angle: float) -> float:
        sine, cosine = math.sin(angle), math.cos(angle)
        odd = df % 2
        term = cosine if odd else 1.0
        total = term if df > 1 else 0.0
        for k in range(2 + odd, df - 1, 2):  # the next term has cos^k; its factor is (k-1)/k
            term *= (k - 1) / k * cosine * cosine
            total += term
        return 2 / math.pi * (angle + sine * total) if odd else sine * total

    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < confidence else (low, middle)
    return math.sqrt(df) * math.tan((low + high) / 2)
