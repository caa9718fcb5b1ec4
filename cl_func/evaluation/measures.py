"""What an evaluation measures, by the kind of targets: sums over the rows of batches, and what follows from them for a stream.

    "class"        accuracy, class_accuracy, and the cross-entropy in nats as loss
    "regression"   mse, the mean over targets and rows of the squared error, which is the loss too; and r2, the mean over targets of
                       1 - sum_i (f(x_i) - y_i)^2 / sum_i (y_i - mean y)^2
    "multilabel"   mean_average_precision, the mean over labels of the area under the steps of the precision-recall curve,
                       AP = sum_n (recall_n - recall_{n-1}) precision_n over the thresholds;
                   f1 = 2 TP / (2 TP + FP + FN), over all labels together, at logits above 0; and the binary cross-entropy as loss

What is summed over a batch is traced, vmapped and compiled. The sums may have lanes in front, so what follows counts axes from the
right.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_func import checks, signatures, tree
from cl_func.experiences import Experience, one_hot
from cl_func.losses import multilabel, regression
from cl_func.losses.classification import check_classes
from cl_func.models import mask_logits
from cl_func.sources.source import Target

Sums = dict[str, Tensor]
RowMeasure = Callable[[Tensor, Experience], dict[str, Tensor]]  # (outputs [n, K], exp) -> name -> [n], averaged over valid rows


@dataclasses.dataclass(frozen=True)
class Measure:
    """How a model is measured.

    batch: from the outputs [n, K] for a batch, sums over its valid rows. finish: the result, from the sums of T experiences.
    gathers: the batches of an experience are concatenated, along the rows, instead of added.
    """

    batch: Callable[[Tensor, Experience], Sums]
    finish: Callable[[list[Sums]], dict[str, Tensor]]
    gathers: bool = False

    def total(self, batches: list[Sums]) -> Sums:
        """What the batches of an experience come to."""
        if self.gathers:
            return {name: torch.cat([batch[name] for batch in batches], dim=-2) for name in batches[0]}
        return tree.map(lambda *parts: sum(parts), *batches)


def measure_for(target: Target, mask: Literal["experience"] | None, rows: RowMeasure | None) -> Measure:
    """The measure of a kind of targets, or that of a user's function of rows."""
    if rows is not None:
        return Measure(partial(_own_sums, rows=rows), _own_means)
    if target == "class":
        return Measure(partial(_class_sums, mask=mask), _accuracies)
    if target == "regression":
        return Measure(_moments, _errors, gathers=True)
    return Measure(_scores, _precisions, gathers=True)


def _class_sums(logits: Tensor, exp: Experience, *, mask: Literal["experience"] | None) -> Sums:
    """The valid rows that are classified correctly and all, of each class [C], and the sum of their losses ()."""
    check_classes(logits, exp)
    logits = _in_single_precision(logits)
    if mask is not None:
        logits = mask_logits(logits, exp.classes)
    label = one_hot(exp.y, exp.valid, exp.classes.shape[-1])
    hit = logits.argmax(-1) == exp.y
    loss = F.cross_entropy(logits, exp.y, reduction="none")
    return {
        "correct": (label & hit[:, None]).sum(0).to(torch.float32),
        "count": label.sum(0).to(torch.float32),
        "loss": torch.where(exp.valid, loss, 0).sum(),
    }


def _in_single_precision(values: Tensor) -> Tensor:
    """Values in float32 at least: sums over many rows need more than the digits of float16 and bfloat16."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _accuracies(sums: list[Sums]) -> dict[str, Tensor]:
    correct, count = (torch.stack([s[name] for s in sums], dim=-2) for name in ("correct", "count"))  # [T, C]
    loss = torch.stack([s["loss"] for s in sums], dim=-1)
    return {
        "accuracy": correct.sum(-1) / count.sum(-1),
        "loss": loss / count.sum(-1),
        "class_accuracy": correct.sum(-2) / count.sum(-2),
    }


def _moments(outputs: Tensor, exp: Experience) -> Sums:
    """Of each target, [1, K] float64: the squared errors, the mean, the squared distances from it, the least and the largest value.

    The last two have the precision that the results are to have. And how many rows there are, [1, 1]. Sums of squares would not do:
    of targets far from 0 their differences are rounding errors.
    """
    given = _in_single_precision(regression.targets(outputs, exp.y))
    y = given.double()
    valid = exp.valid[:, None]
    count = exp.valid.sum().double()
    mean = torch.where(valid, y, 0).sum(0) / count.clamp(min=1)
    found = {
        "error": torch.where(valid, (outputs.double() - y).square(), 0).sum(0),
        "mean": mean,
        "spread": torch.where(valid, (y - mean).square(), 0).sum(0),
        "least": torch.where(valid, given, torch.inf).amin(0),
        "greatest": torch.where(valid, given, -torch.inf).amax(0),
    }
    return {**{name: value[None] for name, value in found.items()}, "count": count[None, None]}


def _errors(sums: list[Sums]) -> dict[str, Tensor]:
    found = [_errors_of(**s) for s in sums]
    return {name: torch.stack([one[name] for one in found], dim=-1).to(sums[0]["least"].dtype) for name in ("mse", "loss", "r2")}


def _errors_of(error: Tensor, mean: Tensor, spread: Tensor, least: Tensor, greatest: Tensor, count: Tensor) -> dict[str, Tensor]:
    """The errors for an experience, from those of its batches [..., B, K]."""
    n = count.sum(-2)  # [..., 1]
    overall = (count * mean).sum(-2, keepdim=True) / n[..., None]
    around = (spread + count * (mean - overall).square()).sum(-2)  # Chan, Golub & LeVeque 1983: variances of parts, put together
    constant = least.amin(-2) == greatest.amax(-2)
    mse = (error.sum(-2) / n).mean(-1)
    r2 = (1 - error.sum(-2) / torch.where(constant, torch.nan, around)).mean(-1)
    return {"mse": mse, "loss": mse, "r2": r2}


def _scores(logits: Tensor, exp: Experience) -> Sums:
    """Of each row and label: its score, whether the label is right, whether the row counts; and the loss of each row [n, 1]."""
    logits = _in_single_precision(logits)
    loss = multilabel.row_losses(logits, exp.y)
    valid = exp.valid[:, None]
    return {"score": logits, "label": exp.y & valid, "valid": valid.expand(logits.shape), "loss": loss[:, None]}


def _precisions(sums: list[Sums]) -> dict[str, Tensor]:
    found = [_of_experience(**s) for s in sums]
    return {name: torch.stack([one[name] for one in found], dim=-1) for name in found[0]}


def _of_experience(score: Tensor, label: Tensor, valid: Tensor, loss: Tensor) -> dict[str, Tensor]:
    counts = valid[..., :1]
    mean_loss = torch.where(counts, loss, 0).sum((-2, -1)) / counts.sum((-2, -1))
    predicted = (score > 0) & valid
    right = (predicted & label).sum((-2, -1))
    return {
        "mean_average_precision": average_precision(score, label, valid).nanmean(-1),
        "f1": 2 * right / (predicted.sum((-2, -1)) + label.sum((-2, -1))),
        "loss": mean_loss,
    }


def average_precision(score: Tensor, label: Tensor, valid: Tensor) -> Tensor:
    """The average precision of each label [..., C], from scores, labels and valid [..., n, C]; NaN for a label no row has.

    Rows of one score pass the threshold together, so that their order does not matter.
    """
    lowest_last = torch.where(valid, score, -torch.inf).argsort(dim=-2, descending=True, stable=True)
    score, label, valid = (values.gather(-2, lowest_last) for values in (score, label, valid))
    passed = valid.cumsum(-2)
    hits = label.cumsum(-2)
    # The last row of its score: there the threshold has let all of them pass.
    falling = torch.where(valid, -score, torch.inf).movedim(-2, -1).contiguous()
    end = (torch.searchsorted(falling, falling, right=True) - 1).movedim(-1, -2).clamp(min=0)
    end = torch.minimum(end, (valid.sum(-2, keepdim=True) - 1).clamp(min=0))
    precision = hits.gather(-2, end) / passed.gather(-2, end)
    return torch.where(label, precision, 0).sum(-2) / label.sum(-2)


def _own_sums(outputs: Tensor, exp: Experience, *, rows: RowMeasure) -> Sums:
    values = rows(outputs, exp)
    if not isinstance(values, dict) or not values:
        raise checks.type_error("measure", "it to return a dict from names to values of rows [n]", values)
    found = {}
    for name, value in values.items():
        if (
            not isinstance(value, Tensor)
            or value.shape != exp.valid.shape
            or not (value.is_floating_point() or value.dtype == torch.bool)
        ):
            raise checks.type_error(f"measure: {name!r}", f"a floating or bool tensor [{len(exp)}], a value for each row", value)
        found[str(name)] = torch.where(exp.valid, _in_single_precision(value), 0).sum()
    return {**found, "": exp.valid.sum().to(torch.float32)}


def _own_means(sums: list[Sums]) -> dict[str, Tensor]:
    count = torch.stack([s[""] for s in sums], dim=-1)
    return {name: torch.stack([s[name] for s in sums], dim=-1) / count for name in sums[0] if name}


def check_rows(measure: Any) -> RowMeasure | None:
    """Check the argument `measure` of `evaluate`: None or a function; TypeError otherwise."""
    if measure is None:
        return None
    return signatures.function("measure", measure, 2, "a function (outputs [n, K], exp) -> {name: [n]}")
