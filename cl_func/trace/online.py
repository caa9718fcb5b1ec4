"""Online evaluation: how good a model is on rows before it is trained on them, summed up in the state while a run trains.

    sum <- sum + sum_i measure(f_w(x_i), y_i),    rows <- rows + n          with w the parameters before the step on x_1..x_n

Every row is first a test and then a training example (the prequential error of Gama, Sebastiao & Rodrigues, "On evaluating stream
learning algorithms", Machine Learning 2013; the online accuracy of Dohare et al., "Loss of plasticity in deep continual learning",
Nature 2024).

It is an Update in front of the step, not the loss of the step, which with a replay memory is that of old rows too, and with a
penalty is no error. The sums are float64, since those of a part of the rows are the difference of two of them.

    cl.extend(strategy, before_step=cl.trace.online.measure(model))    measures before it trains
    cl.trace.online.probe()                                            a Probe: the means over all rows so far go into the history
    cl.metrics.online_accuracy(history)                                the accuracy on the rows between two entries of it
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_func import checks, tree
from cl_func.core import Probe
from cl_func.experiences import Experience, require_target
from cl_func.losses import multilabel, regression
from cl_func.losses.classification import check_classes
from cl_func.models import Model, ModelState, forward
from cl_func.sources.source import Target
from cl_func.tree import state

_MEASURES: dict[Target, tuple[str, ...]] = {"class": ("accuracy", "loss"), "regression": ("mse",), "multilabel": ("loss",)}


@state
class Online:
    """What the rows seen so far come to."""

    sums: dict[str, Tensor]  # () float64 each: of accuracies and losses, or of squared errors
    rows: Tensor  # () int64, how many


@dataclasses.dataclass(frozen=True)
class Measure:
    """The Update made by `measure`."""

    model: Model
    target: Target
    slot: str

    def init(self, net: ModelState) -> Online:
        """The slot before the first row, where a network is."""
        checks.instance("net", net, ModelState, "the ModelState of model.init(key)")
        device = next(iter(net.params.values())).device
        zeros = {name: torch.zeros((), dtype=torch.float64, device=device) for name in _MEASURES[self.target]}
        return Online(sums=zeros, rows=torch.zeros((), dtype=torch.int64, device=device))

    def __call__(self, state: Any, exp: Experience) -> Any:
        """The state with the rows of an experience added to the sums."""
        found: Online = checks.slot(state, self.slot, Online, "sums made by cl.trace.online.measure(...).init(net)")
        checks.instance("exp", exp, Experience, "an Experience")
        require_target(exp, f"cl.trace.online.measure(target={self.target!r})", self.target)
        outputs = forward(self.model, checks.params(state), state, exp, train=False)[0]
        values = _of_rows(outputs, exp, self.target)
        sums = {name: total + torch.where(exp.valid, values[name], 0).sum(dtype=total.dtype) for name, total in found.sums.items()}
        return tree.set(state, {self.slot: tree.replace(found, sums=sums, rows=found.rows + exp.valid.sum())})


def measure(model: Model, *, target: Literal["class", "regression", "multilabel"] = "class", slot: str = "online") -> Measure:
    """The Update that measures the model, in eval mode, on the rows it is given; compose it before each step.

    Each row is measured once if it is trained on once: with several epochs, those of the later ones have been trained on before. Of
    a method that replays, what is measured is the minibatch of the experience.

    target: the kind of targets. Of class labels it measures "accuracy" and "loss", of regression "mse", of several labels "loss".
    slot: the slot of the sums, which `.init(net)` makes.

    Raises TypeError or ValueError for other arguments; when applied, for a slot without such sums and for targets of another kind.

    >>> import cl_func as cl
    >>> model, bench = cl.models.mlp(6, hidden=(8,), n_classes=4), cl.testing.small_benchmark()
    >>> naive = cl.strategies.naive(model, cl.optim.sgd(0.1), batch_size=5)
    >>> strategy = cl.extend(naive, before_step=measure(model))
    >>> _, history = cl.scan(strategy.update, strategy.init(cl.key(0)), bench.train, probe())
    >>> cl.metrics.online_accuracy(history).shape
    torch.Size([2])
    """
    checks.model("model", model)
    checks.choice("target", target, *_MEASURES)
    return Measure(model, target, checks.path("slot", slot, "online"))


def _of_rows(outputs: Tensor, exp: Experience, target: Target) -> dict[str, Tensor]:
    """What each row is measured by, name -> [n]."""
    if target == "regression":
        return {"mse": regression.squared_errors(outputs, exp.y)}
    if target == "multilabel":
        return {"loss": multilabel.row_losses(outputs, exp.y)}
    check_classes(outputs, exp)
    y = exp.y
    return {"accuracy": (outputs.argmax(-1) == y).float(), "loss": F.cross_entropy(outputs, y, reduction="none")}


def probe(slot: str = "online") -> Probe:
    """The Probe of the means over all rows so far, float64, and of their number: "online_accuracy" and "online_loss" (), or
    "online_mse" (), and "online_rows" (), int64. The means are NaN before the first row.

    From the history, `cl.metrics.online_accuracy(history)` has the accuracy on the rows between two entries. With other probes:
    `cl.probes.join(cl.trace.online.probe(), cl.probes.weight_norm())`.

    Raises ValueError for a slot that is no path; when applied, TypeError or ValueError for one without such sums.
    """
    return partial(_means, slot=checks.path("slot", slot, "online"))


def _means(state: Any, exp: Any = None, *, slot: str) -> dict[str, Tensor]:
    found: Online = checks.slot(state, slot, Online, "sums made by cl.trace.online.measure(...).init(net)")
    return {**{f"online_{name}": total / found.rows for name, total in found.sums.items()}, "online_rows": found.rows}
