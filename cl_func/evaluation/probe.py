"""The Probe that measures a model on every experience of a stream. It draws nothing and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeGuard

from torch import Tensor

from cl_func import checks, signatures
from cl_func.checks import positive_int
from cl_func.core.reading import read_ahead
from cl_func.evaluation.measures import Measure, RowMeasure, Sums, check_rows, measure_for
from cl_func.experiences import Experience, pad, require_target
from cl_func.models import Model, forward
from cl_func.models.heads import Classifier, add_tasks, check_heads, warn_one_head
from cl_func.tree import state, static


@state
class Evaluate:
    """The Probe made by `evaluate`."""

    prepare: Callable[[Any, Any], Any] | None  # a leaf: of a state, what the other needs of it; None where that is the state
    measure: Callable[[Any, Experience], Sums]  # the leaf: sums over the valid rows of one batch
    stream: Sequence[Experience] = static()
    batch_size: int = static()
    how: Measure = static()

    def __call__(self, state: Any, exp: Any = None) -> dict[str, Tensor]:
        """The measurements of a state, as `evaluate` describes them."""
        if self.prepare is not None:
            state = self.prepare(state, None)
        totals = [self.how.total([self.measure(state, b) for b in read_ahead(self._batches(test))]) for test in self.stream]
        return self.how.finish(totals)

    def _batches(self, exp: Experience) -> list[Experience]:
        whole = pad(exp, -(-len(exp) // self.batch_size) * self.batch_size)
        starts = range(0, len(whole), self.batch_size)
        return [whole.take(whole.rows[..., i : i + self.batch_size], whole.valid[..., i : i + self.batch_size]) for i in starts]


def _is_model(value: Any) -> TypeGuard[Model]:
    """Whether a value is a model, which `checks.model` takes for its functions, not for its class."""
    return checks.has_methods(value, "init", "apply")


def _classifier(model: Any) -> Callable[[Any, Experience], Tensor]:
    """The function `(state, exp) -> logits [n, C]` of what `evaluate` takes, which a function is already.

    Of a `Classifier` with `prepare` it is the one of what that returns.
    """
    if isinstance(model, Classifier) and model.prepare is not None:
        return model.logits
    return partial(_logits, model=model) if _is_model(model) else model


def _logits(state: Any, exp: Experience, *, model: Model) -> Tensor:
    return forward(model, checks.params(state), state, exp, train=False)[0]


def _prepare(state: Any, exp: Any, *, prepare: Callable[[Any], Any]) -> Any:
    return prepare(state)


def _measure(
    state: Any, exp: Experience, *, classify: Callable[[Any, Experience], Tensor], batch: Callable[[Tensor, Experience], Sums]
) -> Sums:
    return batch(classify(state, exp), exp)


def evaluate(
    model: Model | Callable[[Any, Experience], Tensor],
    stream: Sequence[Experience],
    batch_size: int = 512,
    mask: Literal["experience"] | None = None,
    measure: RowMeasure | None = None,
) -> Evaluate:
    """The Probe that evaluates an agent's model on each of the T experiences of a stream.

    model: a Model, for the logits of `state.model` in eval mode; or, for a method with a classifier of its own, such as the nearest
        class mean, a function `(state, exp) -> logits [n, C]` of its rows, pure and without draws. For a strategy it is
        `strategy.model`.

    Returns a function `(state, exp=None) -> {name: [T]}`, float32, where losses of a float64 model are float64, of what the targets
    of the stream ask for:

        class labels   "accuracy", the fraction of rows classified correctly, "loss", the mean cross-entropy in nats, and
                       "class_accuracy" [C], over the whole stream (NaN for a class without rows)
        regression     "mse", "loss", which is the same, and "r2" (NaN where a target is constant), means over the targets
        multi-label    "mean_average_precision" (over the labels that some row has), "f1" over all labels together, "loss"

    `exp`, the experience just trained on, is ignored.

    batch_size: how many rows the model is given at a time; a smaller experience is one batch.
    mask: "experience" lets only the classes of the test experience compete, as in task-incremental evaluation with one head.
    measure: your own in their place, `measure(outputs [n, K], exp) -> {name: [n]}`, averaged over the valid rows of an experience.

    Raises ValueError for an empty stream, and for a multi-head model without a head for the task and the class of a row. Warns if
    tasks have different classes but the model ignores the task labels: it has one head, in which all classes compete.
    """
    positive_int("batch_size", batch_size)
    signatures.model_or_function("model", model)
    checks.choice("mask", mask, None, "experience")
    if isinstance(stream, (str, bytes)) or not isinstance(stream, Sequence):
        raise checks.type_error("stream", "a sequence of experiences such as benchmark.test", stream)
    if not stream:
        raise ValueError("stream: it holds no experience to evaluate on.")
    exp = checks.instance("stream", stream[0], Experience, "a sequence of experiences such as benchmark.test")
    target = exp.source.target
    how = measure_for(target, mask, check_rows(measure))
    if mask is not None:
        require_target(exp, "mask", "class")
    longest = 0
    tasks: dict[int, Tensor] = {}
    net = model.model if isinstance(model, Classifier) else model
    for i, exp in enumerate(stream):
        longest = max(longest, len(exp))
        require_target(exp, f"with the targets of stream[0], stream[{i}]", target)
        if _is_model(net):
            check_heads(net, exp, f"stream[{i}]")
            add_tasks(tasks, exp)
    if _is_model(net) and mask is None:
        warn_one_head(net, tasks, exp)
    leaf = partial(_measure, classify=_classifier(model), batch=how.batch)
    prepare = model.prepare if isinstance(model, Classifier) else None
    once = None if prepare is None else partial(_prepare, prepare=prepare)
    return Evaluate(prepare=once, measure=leaf, stream=stream, batch_size=min(batch_size, longest), how=how)
