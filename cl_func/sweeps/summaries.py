"""One number for each run, from one of its histories: a metric by its name, or a function.

Which way is better is known of what `cl.evaluate` measures, and asked for where it is needed of anything else. A history that
comes of several probes has a path, such as "0.accuracy": the last part of it is what it measures.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, metrics, signatures
from cl_func.metrics.checking import check_accuracies
from cl_func.metrics.measures import BY_LAYER, KNOWN, MEASURES, measured
from cl_func.tree import describe

# Of another measure than the accuracy they have its name in that place, such as "average_mse".
METRICS = (
    "average_accuracy",
    "average_anytime_accuracy",
    "forgetting",
    "backward_transfer",
    "learning_accuracy",
    "worst_case_accuracy",
)
SIGNED = {"forgetting": False, "backward_transfer": True}  # which way these are better, whatever is measured

Metric = str | Callable[[Tensor], Any] | tuple[str | Callable[[Tensor], Any], str]


@dataclasses.dataclass(frozen=True)
class Summary:
    """How one number comes of a history, a tensor [time, ...] for each run.

    name: of the metric, or None for a function of one's own. function: of `cl.metrics`, or one's own.
    higher_is_better: of the values of the history, as in `cl.metrics`. known: whether that is known, or was given.
    usual: whether it is the history that metrics are made of unless another is named.
    """

    name: str | None
    function: Callable[..., Any]
    history: str
    higher_is_better: bool | None
    known: bool
    usual: bool

    @property
    def title(self) -> str:
        """What it is called at the head of a column, such as "forgetting of loss"."""
        own = self.function.func if isinstance(self.function, functools.partial) else self.function
        title = self.name or str(getattr(own, "__name__", "metric")).strip("<>")
        named = self.name is not None and self.name not in SIGNED and measured(self.history) == self.history
        return title if self.usual or named else f"{title} of {self.history}"

    @property
    def larger_is_better(self) -> bool | None:
        """Whether larger numbers are better; None if that is not known, as of a function of one's own.

        It is known of those of `cl.metrics` with some arguments bound by `functools.partial`.
        """
        name, bound = self.name, dict[str, Any]()
        if isinstance(self.function, functools.partial):  # such as partial(cl.metrics.forgetting, seen=counts)
            of_cl = _names(measured(self.history)).items()
            name, bound = next((n for n, known in of_cl if known is self.function.func), None), self.function.keywords
        if name in SIGNED:
            return SIGNED[name]
        higher = bound.get("higher_is_better", self.higher_is_better)
        return higher is not False if name is not None and (self.known or "higher_is_better" in bound) else None

    @property
    def bounded(self) -> bool:
        """Whether the numbers have the scale of accuracies."""
        return self.known and self.higher_is_better is None and self.name is not None

    @property
    def form(self) -> str:
        """How the numbers are written."""
        return "z.3f" if self.bounded else ".3g"


def candidates(histories: Mapping[str, Tensor]) -> list[str]:
    """The histories that metrics may be made of where none is named: those of the first of MEASURES, or else all."""
    for kind in MEASURES:
        if found := [name for name in histories if measured(name) == kind]:
            return [kind] if kind in found else found
    return list(histories)


def default_history(histories: Mapping[str, Tensor]) -> str:
    """The history that metrics are made of unless another is named; ValueError where it could be one or another."""
    found = candidates(histories)
    if not found:
        raise ValueError("metric: there is no history, since no run is finished.")
    if len(found) > 1:
        kind = measured(found[0])
        name = f"average_{kind}" if kind in MEASURES else f"final_{kind}"
        raise ValueError(
            f"metric: it could be made of {', '.join(found[:-1])} or {found[-1]}; say which, by history={found[0]!r} or "
            f"metric=({name!r}, {found[0]!r})."
        )
    return found[0]


def shown(histories: Mapping[str, Tensor], n_axes: int) -> list[Metric | None]:
    """What tables show where no metric is named: one of each history that it could be made of."""
    found = candidates(histories)
    if len(found) < 2:
        return [None]
    return [(resolve(None, name, None, histories, n_axes).name or "", name) for name in found]


def resolve(
    metric: Metric | None,
    history: str | None,
    higher_is_better: bool | None,
    histories: Mapping[str, Tensor],
    n_axes: int,
) -> Summary:
    """The summary that a metric, or a pair of a metric and a history, means for some histories [*axes, time, ...].

    Raises TypeError or ValueError for what is no metric, for a history that is not there, and for a metric whose values depend on
    which way is better where that is not known.
    """
    checks.choice("higher_is_better", higher_is_better, True, False, None)
    if isinstance(metric, tuple):
        if len(metric) != 2 or history is not None:
            raise checks.type_error("metric", "a name, a function, or a pair of one of these and the name of a history", metric)
        metric, history = metric
    if history is not None:
        checks.text("history", history)
    named = history is not None
    if history is None:
        history = _history_of(metric, histories) if isinstance(metric, str) else default_history(histories)
    if history not in histories:
        known = f"there is {', '.join(histories)}" if histories else "there is none, since no run is finished"
        raise ValueError(f"{'history: ' if named else ''}{history!r}: no such history; {known}.")
    kind, value = measured(history), histories[history]
    is_known = higher_is_better is not None or kind in KNOWN
    if higher_is_better is None:
        higher_is_better = KNOWN.get(kind, True)  # of what is not known, the values may be any numbers
    names = _names(kind)
    if metric is None:
        metric = f"average_{kind}" if value.ndim == n_axes + 2 and not kind.endswith(BY_LAYER) else f"final_{kind}"
    name: str | None
    if isinstance(metric, str):
        if metric not in names:
            raise ValueError(f"metric: expected one of {', '.join(names)}, got {metric!r}{_mend(metric, histories)}.")
        name, function = metric, names[metric]
    else:
        if not callable(metric) or isinstance(metric, (type, torch.nn.Module)):
            raise checks.type_error("metric", f"one of {', '.join(names)}, or a function of a history [time, ...]", metric)
        signatures.function("metric", metric, 1, f"one of {', '.join(names)}, or a function of a history [time, ...]")
        name, function = next(((n, f) for n, f in names.items() if f is metric), (None, metric))
    if name is not None and function is not final and value.ndim != n_axes + 2:
        raise ValueError(
            f"metric: {name} needs a history [*axes, time, T], but {history!r} is {describe(value)}; "
            f"give final_{kind}, or a function."
        )
    if name in SIGNED and not is_known:
        raise ValueError(f"higher_is_better: {name} needs it to be said which way {history!r} is better, True or False.")
    return Summary(name, function, history, higher_is_better, is_known, [history] == candidates(histories))


def direction(summary: Summary, largest: bool | None) -> bool:
    """Whether larger numbers are better, as `largest` says or as is known; ValueError if neither."""
    if largest is not None:
        return checks.flag("largest", largest)
    known = summary.larger_is_better
    if known is None:
        what = f"{summary.title}, made of {summary.history!r}"
        raise ValueError(f"largest: it is not known whether larger is better for {what}; give True or False.")
    return known


def _names(kind: str) -> dict[str, Callable[..., Any]]:
    """The metrics of what a history measures, by name."""
    found: dict[str, Callable[..., Any]] = {name.replace("accuracy", kind): getattr(metrics, name) for name in METRICS}
    return {**found, f"final_{kind}": final}


def _history_of(metric: str, histories: Mapping[str, Tensor]) -> str:
    """The history that the name of a metric is about: the usual one, or else the one in whose metrics it is."""
    usual = candidates(histories)
    about = [name for name in usual if metric in _names(measured(name))] or [
        name for name in histories if metric in _names(measured(name))
    ]
    return default_history({name: histories[name] for name in about or usual})


def _mend(metric: str, histories: Mapping[str, Tensor]) -> str:
    """What to give in place of a name that is, or ends with, that of a history, such as "average_valid.accuracy"."""
    about = next((name for name in sorted(histories, key=len, reverse=True) if metric.endswith(name)), None)
    if about is None or metric == f"{metric.removesuffix(about).rstrip('_.')}_{measured(about)}":
        return ""
    word = metric.removesuffix(about).rstrip("_.") or "final"
    return f"; of the history {about!r} there is ({word + '_' + measured(about)!r}, {about!r})"


def final(history: Tensor) -> Tensor:
    """The mean over all else of the last entry of a history [time, ...]."""
    return history[-1].double().mean() if history.numel() else torch.tensor(math.nan)


def values(summary: Summary, history: Tensor, usable: Tensor, aligned: bool) -> Tensor:
    """The number of each run, of a history [*axes, time, ...] of which `usable` [*axes] says which to take; NaN for the others.

    aligned: whether the entries of a history with as many times as test experiences are those after each of them.

    Raises ValueError for a history that has not the shape for the metric, TypeError for a function that gives no number.
    """
    flat, done = history.flatten(0, usable.ndim - 1), usable.flatten()
    if summary.name is None or summary.function is final:
        own = summary.name is None
        found = [_number(summary.function(run), summary.title) if own else final(run) for run in flat[done]]
        numbers = torch.stack(found) if found else torch.empty(0)
    else:
        numbers = _of_matrices(summary, flat, done, aligned)
    out = torch.full((len(flat),), math.nan, dtype=numbers.dtype)
    out[done] = numbers
    return out.reshape(usable.shape)


def precise(summary: Summary, history: Tensor, usable: Tensor, aligned: bool) -> tuple[Tensor, Tensor]:
    """The same in float64, and how far each number may be off since those of its history are rounded, both [*axes].

    That is the sum of what each rounded entry can change, to first order. A function of one's own may do anything, and gets the
    history as it is: its numbers are taken for rounded to the dtype of the history.
    """
    eps = 4 * torch.finfo(history.dtype if history.is_floating_point() else torch.float64).eps
    if summary.name is None:
        found = values(summary, history, usable, aligned).double()
        return found, eps * found.abs()
    with torch.enable_grad():
        entries = history.detach().double().requires_grad_()
        found = values(summary, entries, usable, aligned)
        (slopes,) = torch.autograd.grad(found[usable].sum(), entries) if bool(usable.any()) else (torch.zeros_like(entries),)
    changes = torch.where(slopes == 0, 0.0, slopes * entries.detach()).abs()
    return found.detach(), eps * changes.reshape(*usable.shape, -1).sum(-1)


def _number(value: Any, title: str) -> Tensor:
    """What a function gave for a run, as a floating tensor ()."""
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex() and not value.is_meta:
        value = value.detach().cpu().reshape(())
        return value if value.is_floating_point() else value.double()
    if isinstance(value, (Tensor, str)) or not hasattr(value, "__float__"):
        raise checks.type_error("metric", f"{title} to give a number for the history [time, ...] of a run", value)
    return torch.tensor(float(value), dtype=torch.float64)


def _of_matrices(summary: Summary, flat: Tensor, done: Tensor, aligned: bool) -> Tensor:
    """The numbers of a metric of `cl.metrics`, of histories [n, time, T] of which those `done` are taken."""
    name, higher = summary.name, summary.higher_is_better
    square = aligned and flat.shape[-1] == flat.shape[-2]
    if not square and summary.function is not metrics.average_accuracy:
        raise ValueError(
            f"metric: {name} needs one time per experience, but there are {flat.shape[-2]} times for {flat.shape[-1]}"
            f"{'' if aligned else ', at other moments than their ends'}; call cl.metrics yourself with seen=."
        )
    if not bool(done.any()):
        return torch.empty(0, dtype=flat.dtype if flat.is_floating_point() else torch.float32)
    if not square:
        return check_accuracies(summary.history, flat[done], 3, higher)[:, -1].mean(-1)
    value = summary.function(flat[done], higher_is_better=higher)
    return value[..., -1] if value.ndim == 2 else value
