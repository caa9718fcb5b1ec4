"""Metrics of an accuracy matrix R [..., time, T] and of `seen`, which `cl_func.metrics` explains."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cl_func.metrics.checking import check_accuracies, counts_seen, learned_at, n_older, oriented
from cl_func.tree import describe


def average_accuracy(R: Tensor, seen: Tensor | Sequence[int] | None = None, *, higher_is_better: bool | None = None) -> Tensor:
    """The mean accuracy over the experiences seen so far, [..., time]; the last entry is "the" average accuracy of a run.

    A[i] = mean_{j < seen[i]} R[i, j]    (Chaudhry et al., "Riemannian walk", ECCV 2018; its last entry is ACC, eq. 2 of
    Lopez-Paz & Ranzato, "Gradient episodic memory", NeurIPS 2017)

    >>> average_accuracy(torch.tensor([[0.8, 0.0], [0.4, 0.6]]))
    tensor([0.8000, 0.5000])
    """
    counts = torch.tensor(counts_seen(R, seen, 1, higher_is_better), device=R.device)
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
    counts = torch.tensor(counts_seen(R, seen, 2, higher_is_better), device=R.device)
    R = oriented(R, higher_is_better)
    best = R.cummax(-2).values[..., :-1, :]
    is_older = torch.arange(R.shape[-1], device=R.device) < counts[1:, None] - 1
    forgotten = torch.where(is_older, best - R[..., 1:, :], 0)
    return torch.cat([torch.zeros_like(R[..., :1, :]), forgotten], dim=-2)


def forgetting_per_experience(
    R: Tensor, seen: Tensor | Sequence[int] | None = None, *, higher_is_better: bool | None = None
) -> Tensor:
    """The forgetting at the end of each experience but the newest, [..., T-1] (if all T were seen): last row of the matrix."""
    older = n_older("forgetting", counts_seen(R, seen, 2, higher_is_better))
    return forgetting_matrix(R, seen, higher_is_better=higher_is_better)[..., -1, :older]


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
    counts = counts_seen(R, seen, 2, higher_is_better)
    R, older = oriented(R, higher_is_better), n_older("backward transfer", counts)
    return (R[..., -1, :older] - _when_learned(R, counts)[..., :older]).mean(-1)


def forward_transfer(
    R: Tensor, baseline: Tensor, seen: Tensor | Sequence[int] | None = None, *, higher_is_better: bool | None = None
) -> Tensor:
    """What training on earlier experiences did for later ones, before they were trained on themselves, [...], in [-1, 1].

    FWT = mean_{0 < j < T} (R[j-1, j] - baseline[j])    (eq. 4 of Lopez-Paz & Ranzato, NeurIPS 2017)

    baseline: the accuracies [T] (or [..., T], one row per run) of the untrained model: `probe(init(key), None)["accuracy"]`.
    With `seen`, j-1 is the last time before experience j; experiences seen at the first time already are left out.
    """
    counts = counts_seen(R, seen, 2, higher_is_better)
    check_accuracies("baseline", baseline, 1, higher_is_better)
    if baseline.shape != R.shape[-1:] and baseline.shape != R.shape[:-2] + R.shape[-1:]:
        raise ValueError(
            f"baseline: expected one accuracy per experience, [{R.shape[-1]}], got {describe(baseline)} for R {describe(R)}."
        )
    later = torch.arange(counts[0], counts[-1], device=R.device)
    if len(later) == 0:
        raise ValueError(f"seen: forward transfer needs an experience that begins after the first time, got {counts}.")
    before = torch.tensor([next(i for i, c in enumerate(counts) if c > j) - 1 for j in later.tolist()], device=R.device)
    return oriented(R[..., before, later] - baseline[..., later], higher_is_better).mean(-1)


def learning_accuracy(R: Tensor, seen: Tensor | Sequence[int] | None = None, *, higher_is_better: bool | None = None) -> Tensor:
    """The mean accuracy on each experience just after it was learned, [...]: plasticity, regardless of later forgetting.

    LA = mean_j R[j, j]    (Riemer et al., "Learning to learn without forgetting by maximizing transfer", ICLR 2019)
    """
    return _when_learned(R, counts_seen(R, seen, 1, higher_is_better)).mean(-1)


def worst_case_accuracy(R: Tensor, seen: Tensor | Sequence[int] | None = None, *, higher_is_better: bool | None = None) -> Tensor:
    """The mean over the experiences seen of the worst accuracy since each was learned, [...]; of the newest it is the last one.

    WC = 1/T R[T-1, T-1] + 1/T sum_{j < T-1} min_{i > l(j)} R[i, j]    with l(j) the time at which j has been learned (WC-ACC of De
    Lange, van de Ven & Tuytelaars, "Continual evaluation for lifelong learning: identifying the stability gap", ICLR 2023, eq. 2
    and 3). The more times there are, the more of the drops at the beginning of an experience it sees.

    >>> worst_case_accuracy(torch.tensor([[0.8, 0.0], [0.3, 0.2], [0.4, 0.6]]), seen=[1, 2, 2])
    tensor(0.4500)
    """
    counts = counts_seen(R, seen, 1, higher_is_better)
    values = oriented(R[..., : counts[-1]], higher_is_better)
    times = torch.arange(R.shape[-2], device=R.device)
    learned = learned_at(counts).to(R.device)
    # What was learned at the last time has no later one: its accuracy then is what counts.
    counted = (times[:, None] > learned) | (times == len(times) - 1)[:, None]
    worst = torch.where(counted, values, torch.inf).amin(-2)
    return oriented(worst.mean(-1), higher_is_better)


def _when_learned(R: Tensor, counts: list[int]) -> Tensor:
    """The accuracy on each experience seen, at the time at which it has been learned, [..., counts[-1]]."""
    return R[..., learned_at(counts).to(R.device), torch.arange(counts[-1], device=R.device)]
