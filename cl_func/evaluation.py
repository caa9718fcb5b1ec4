"""Evaluation: a Probe that measures a model on every experience of a stream. It draws nothing and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_func import checks, tree
from cl_func.checks import positive_int
from cl_func.experiences import Experience, one_hot, pad
from cl_func.losses.classification import check_classes
from cl_func.models import Model, forward, mask_logits
from cl_func.models.heads import Classifier, add_tasks, check_heads, warn_one_head
from cl_func.tree import state, static


@state
class Evaluate:
    """The Probe made by `evaluate`."""

    measure: Callable[[Any, Experience], dict[str, Tensor]]  # the leaf: sums over the valid rows of one batch
    stream: Sequence[Experience] = static()
    batch_size: int = static()

    def __call__(self, state: Any, exp: Any = None) -> dict[str, Tensor]:
        """The accuracies and losses of a state, as `evaluate` describes them."""
        sums = [_add([self.measure(state, batch) for batch in self._batches(test)]) for test in self.stream]
        # Counted from the right, so that a lane axis stays in front: [T] or [S, T], [C] or [S, C].
        correct, count = (torch.stack([s[name] for s in sums], dim=-2) for name in ("correct", "count"))
        loss = torch.stack([s["loss"] for s in sums], dim=-1)
        return {
            "accuracy": correct.sum(-1) / count.sum(-1),
            "loss": loss / count.sum(-1),
            "class_accuracy": correct.sum(-2) / count.sum(-2),
        }

    def _batches(self, exp: Experience) -> list[Experience]:
        whole = pad(exp, -(-len(exp) // self.batch_size) * self.batch_size)
        starts = range(0, len(whole), self.batch_size)
        return [whole.take(whole.rows[..., i : i + self.batch_size], whole.valid[..., i : i + self.batch_size]) for i in starts]


def _add(sums: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return tree.map(lambda *parts: sum(parts), *sums)


def _is_model(value: Any) -> TypeGuard[Model]:
    """Whether a value is a model, which `checks.model` takes for its functions, not for its class."""
    return all(callable(getattr(value, part, None)) for part in ("init", "apply"))


def _classifier(model: Any) -> Callable[[Any, Experience], Tensor]:
    """The function `(state, exp) -> logits [n, C]` of what `evaluate` takes, which a function is already."""
    return partial(_logits, model=model) if _is_model(model) else model


def _logits(state: Any, exp: Experience, *, model: Model) -> Tensor:
    return forward(model, checks.params(state), state, exp, train=False)[0]


def _measure(
    state: Any, exp: Experience, *, classify: Callable[[Any, Experience], Tensor], mask: Literal["experience"] | None
) -> dict[str, Tensor]:
    """Over the valid rows of a batch: those classified correctly and all, of each class [C], and the sum of their losses ()."""
    logits = classify(state, exp)
    check_classes(logits, exp)
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


def evaluate(
    model: Model | Callable[[Any, Experience], Tensor],
    stream: Sequence[Experience],
    batch_size: int = 512,
    mask: Literal["experience"] | None = None,
) -> Evaluate:
    """The Probe that evaluates an agent's classifier on each of the T experiences of a stream.

    model: a Model, for the logits of `state.model` in eval mode; or, for a method with a classifier of its own, such as the nearest
        class mean, a function `(state, exp) -> logits [n, C]` of its rows, pure and without draws. For a strategy it is
        `strategy.model`.

    Returns a function `(state, exp=None) -> {"accuracy": [T], "loss": [T], "class_accuracy": [C]}`, float32: the fraction of rows
    classified correctly and the mean cross-entropy in nats on each experience, and the accuracy on each class over the whole
    stream (NaN for a class without rows). `exp`, the experience just trained on, is ignored.

    batch_size: how many rows the model is given at a time; a smaller experience is one batch.
    mask: "experience" lets only the classes of the test experience compete, as in task-incremental evaluation with one head.

    Raises ValueError for an empty stream, and for a multi-head model without a head for the task and the class of a row. Warns if
    tasks have different classes but the model ignores the task labels: it has one head, in which all classes compete.
    """
    positive_int("batch_size", batch_size)
    checks.model_or_function("model", model)
    checks.choice("mask", mask, None, "experience")
    if isinstance(stream, (str, bytes)) or not isinstance(stream, Sequence):
        raise checks.type_error("stream", "a sequence of experiences such as benchmark.test", stream)
    if not stream:
        raise ValueError("stream: it holds no experience to evaluate on.")
    exp = checks.instance("stream", stream[0], Experience, "a sequence of experiences such as benchmark.test")
    longest = 0
    tasks: dict[int, Tensor] = {}
    net = model.model if isinstance(model, Classifier) else model
    for i, exp in enumerate(stream):
        longest = max(longest, len(exp))
        if _is_model(net):
            check_heads(net, exp, f"stream[{i}]")
            add_tasks(tasks, exp)
    if _is_model(net) and mask is None:
        warn_one_head(net, tasks, exp, stacklevel=2)
    measure = partial(_measure, classify=_classifier(model), mask=mask)
    return Evaluate(measure=measure, stream=stream, batch_size=min(batch_size, longest))
