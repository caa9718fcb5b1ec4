"""Online evaluation: how good a model is on rows before it is trained on them, summed up in the state while a run trains.

    sum <- sum + sum_i measure(f_w(x_i), y_i),    rows <- rows + n          with w the parameters before the step on x_1..x_n

Every row is first a test and then a training example (the prequential error of Gama, Sebastiao & Rodrigues, "On evaluating stream
learning algorithms", Machine Learning 2013; the online accuracy of Dohare et al., "Loss of plasticity in deep continual learning",
Nature 2024).

It is an Update in front of the step, not the loss of the step, which with a replay memory is that of old rows too, and with a
penalty is no error. The sums are float64, since those of a part of the rows are the difference of two of them.

    online: cl.trace.online.Online                                           a slot of the agent, made by init()
    step = cl.compose(cl.trace.online.measure(model), cl.train_step(...))    measures before it trains
    cl.trace.online.probe()                                                  what puts the means into the history
    cl.metrics.online_accuracy(history)                                      the accuracy on the rows between two entries of it
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_func import checks, tree
from cl_func.core import Probe, Update
from cl_func.experiences import Experience, require_target
from cl_func.losses import multilabel, regression
from cl_func.losses.classification import check_classes
from cl_func.models import Model, forward
from cl_func.sources.source import Target
from cl_func.tree import state, static

_MEASURES: dict[Target, tuple[str, ...]] = {"class": ("accuracy", "loss"), "regression": ("mse",), "multilabel": ("loss",)}


@state
class Online:
    """What the rows seen so far come to; made by `init`."""

    sums: dict[str, Tensor]  # () float64 each: of accuracies and losses, or of squared errors
    rows: Tensor  # () int64, how many
    target: Target = static()


def init(target: Literal["class", "regression", "multilabel"] = "class") -> Online:
    """The sums before the first row, on the CPU: of "accuracy" and "loss" for class labels, of "mse" for regression, of "loss" for
    several labels. Raises ValueError for another kind of targets.
    """
    checks.choice("target", target, *_MEASURES)
    zeros = {name: torch.zeros((), dtype=torch.float64) for name in _MEASURES[target]}
    return Online(sums=zeros, rows=torch.zeros((), dtype=torch.int64), target=target)


def measure(model: Model, slot: str = "online") -> Update:
    """The Update that measures the model on the rows it is given, in eval mode, and adds that to the sums in `state.<slot>`.

    Where it stands says on what: before the step, `minibatches(compose(measure(model), step), batch_size=16)`, each row once; for a
    method on an online stream, whose experiences are minibatches, before its update, `compose(measure(model), strategy.update)`.
    With several epochs the rows of the later ones have been trained on.

    Raises TypeError or ValueError for other arguments; when applied, for a slot without such sums and for targets of another kind.
    """
    checks.model("model", model)
    return partial(_measure, model=model, slot=checks.path("slot", slot, "online"))


def _measure(state: Any, exp: Experience, *, model: Model, slot: str) -> Any:
    found: Online = checks.slot(state, slot, Online, "sums made by cl.trace.online.init")
    checks.instance("exp", exp, Experience, "an Experience")
    require_target(exp, f"the slot {slot!r}, made by cl.trace.online.init({found.target!r}),", found.target)
    outputs = forward(model, checks.params(state), state, exp, train=False)[0]
    values = _of_rows(outputs, exp, found.target)
    sums = {name: total + torch.where(exp.valid, values[name], 0).sum(dtype=total.dtype) for name, total in found.sums.items()}
    return tree.set(state, {slot: tree.replace(found, sums=sums, rows=found.rows + exp.valid.sum())})


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
    found: Online = checks.slot(state, slot, Online, "sums made by cl.trace.online.init")
    return {**{f"online_{name}": total / found.rows for name, total in found.sums.items()}, "online_rows": found.rows}
