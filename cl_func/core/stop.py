"""Rules that end a run early: `cl.scan(..., stop=rule)` asks `rule(history)` after each entry of the history.

    cl.stop.patience(3)                                              the average accuracy has not risen for 3 entries
    cl.stop.diverged()                                               the loss is NaN or infinite
    lambda history: history["accuracy"][-1].mean() < 0.2             a rule of your own

A rule is a function of the history so far, its tensors stacked over time, that returns a bool. It looks at nothing else, so a
run that is resumed stops where it would have stopped. The answers are a part of the history, "stopped": [time] bool, of which only
the last can be True. Lanes of a vmapped run end together: what a rule sees of them is for it to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.checks import positive_int
from cl_func.metrics.measures import KNOWN, measured

__all__ = ["diverged", "patience"]

StopRule = Callable[[Any], Any]  # (history) -> bool, or a bool tensor of shape ()
STOPPED = "stopped"  # the name of the answers in the history


def patience(n: int, name: str = "accuracy", *, least: float = 0.0, higher_is_better: bool | None = None) -> StopRule:
    """Stop when a mean has not got better than its best before, by more than `least`, for n entries in a row.

    The mean is over all values of the history `name` at a time, test experiences and lanes alike, but for NaN. An entry without any
    other value counts as worst.

    name: what the probe measures, such as "accuracy", "loss" or "valid.mse".
    higher_is_better: which way it is better; None, the default, for what `cl.evaluate` measures, of which it is known.
    Raises TypeError or ValueError for other arguments, and, when asked, for a name that the history does not have.

    >>> history = {"accuracy": torch.tensor([0.2, 0.5, 0.4, 0.5])}
    >>> patience(2)(history), patience(3)(history)
    (True, False)
    """
    positive_int("n", n)
    checks.path("name", name, "accuracy")
    checks.number("least", least, 0.0, ends="[)")
    checks.choice("higher_is_better", higher_is_better, True, False, None)
    if higher_is_better is None:
        if measured(name) not in KNOWN:
            raise ValueError(f"higher_is_better: it is not known which way {name!r} is better; give True or False.")
        higher_is_better = KNOWN[measured(name)] is not False
    return partial(_patience, n=n, name=name, least=float(least), sign=1.0 if higher_is_better else -1.0)


def _patience(history: Mapping[str, Any], *, n: int, name: str, least: float, sign: float) -> bool:
    values = _values(history, name)
    mean = sign * values.double().reshape(len(values), -1).nanmean(1)
    mean = torch.where(mean.isnan(), -torch.inf, mean)
    return len(mean) > n and not bool(mean[-n:].max() > mean[:-n].max() + least)


def diverged(name: str = "loss") -> StopRule:
    """Stop when all values of the last entry of the history `name` are NaN or infinite: of all test experiences, and of all lanes.

    Raises as `patience` does.
    """
    return partial(_diverged, name=checks.path("name", name, "loss"))


def _diverged(history: Mapping[str, Any], *, name: str) -> bool:
    return not bool(_values(history, name)[-1].isfinite().any())


def _values(history: Mapping[str, Any], name: str) -> Tensor:
    """What is under a name, or under a path such as "valid.mse", where a Probe returns a dict of dicts."""
    if not isinstance(history, Mapping):
        raise ValueError(f"name: there is no {name!r} in the history, but {tree.describe(history)}.")
    found = {path: value for path, value in tree.items(dict(history)) if isinstance(value, Tensor)}
    if name not in found:
        raise ValueError(f"name: there is no {name!r} in the history, but {', '.join(found)}.")
    return found[name]


class StopCheck:
    """Asks a rule about the history as it grows; `history` holds the leaves of the entries that there are already."""

    def __init__(self, rule: StopRule, history: list[list[Tensor]]) -> None:
        self.rule = rule
        self.columns = [torch.stack(column) for column in zip(*history, strict=True)]

    def judge(self, entry: Any) -> dict[str, Any]:
        """The entry with the answer of the rule about the history up to it."""
        leaves, structure = tree.flatten(with_answer(entry, False))
        new = [leaf[None] for leaf in leaves]
        if self.columns:
            new = [torch.cat([old.to(one.device), one]) for old, one in zip(self.columns, new, strict=True)]
        self.columns = new
        history = tree.unflatten(structure, new)
        answer = self.rule({name: value for name, value in history.items() if name != STOPPED})
        if isinstance(answer, Tensor) and answer.dtype == torch.bool and not answer.ndim:
            answer = bool(answer)
        if not isinstance(answer, bool):
            raise checks.type_error("stop", "it to return True or False", answer)
        return with_answer(entry, answer)


def with_answer(entry: Any, answer: bool) -> dict[str, Any]:
    """An entry with the answer of a rule in it. Raises TypeError or ValueError for one that has no room for it."""
    if not isinstance(entry, dict):
        raise checks.type_error("stop", f"the probe to return a dict, in which {STOPPED!r} can stand", entry)
    if STOPPED in entry:
        raise ValueError(f"stop: the probe measures something that is called {STOPPED!r}, as the answers are; name it otherwise.")
    return {**entry, STOPPED: torch.tensor(answer)}
