"""Evaluation: hand-worked accuracies, any chunking gives the same, masks."""

from __future__ import annotations

import pytest
import registry
import torch
import torch.nn.functional as F

import cl_func as cl
from cl_func import testing
from cl_func.experiences import stack


def fixed(logits):
    """A model that answers row i of its input, a one-hot index, with row i of the logits."""
    table = torch.tensor(logits)
    return cl.models.Model(
        init=lambda key: cl.models.ModelState(params={"table": table.clone()}, buffers={}),
        apply=lambda params, buffers, x, *, train=False, valid=None, task=None: (x @ params["table"], buffers),
        n_classes=table.shape[1],
        input_shape=(table.shape[0],),
    )


def test_hand_worked():
    model = fixed([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0], [5.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    data = cl.Dataset(torch.eye(4), torch.tensor([0, 1, 2, 2]))  # right, right, wrong, wrong
    stream = [cl.experience(data, torch.tensor(rows)) for rows in ([0, 1, 2], [3])]
    agent = cl.Agent(key=cl.key(0), model=model.init(cl.key(0)))
    out = cl.evaluate(model, stream, batch_size=2)(agent)
    torch.testing.assert_close(out["accuracy"], torch.tensor([2 / 3, 0.0]))
    torch.testing.assert_close(out["class_accuracy"], torch.tensor([1.0, 1.0, 0.0]))
    losses = F.cross_entropy(agent.model.params["table"], data.y, reduction="none")
    torch.testing.assert_close(out["loss"], torch.stack([losses[:3].mean(), losses[3]]))
    masked = cl.evaluate(model, stream, mask="experience")(agent)
    torch.testing.assert_close(masked["accuracy"], torch.tensor([2 / 3, 1.0]))  # class 2 alone competes in the second


class Own:
    """A model by its functions, of no class of the library's."""

    init, apply = staticmethod(registry.MODEL.init), staticmethod(registry.MODEL.apply)
    n_classes = registry.MODEL.n_classes


def test_a_model_of_ones_own_class():
    state = registry.init(cl.key(0))
    expected = cl.evaluate(registry.MODEL, registry.BENCH.test)(state)
    testing.assert_equal(cl.evaluate(Own(), registry.BENCH.test)(state), expected, "own")


@pytest.mark.parametrize("batch_size", [1, 3, 14, 512])
def test_any_chunking_gives_the_same(batch_size):
    state = registry.init(cl.key(0), registry.NORMED)
    whole = cl.evaluate(registry.NORMED, registry.BENCH.test)(state)
    testing.assert_equal(cl.evaluate(registry.NORMED, registry.BENCH.test, batch_size)(state), whole, "chunks", 1e-5, 1e-6)


@pytest.mark.parametrize("batch_size", [1, 5, 512])
def test_lanes_with_their_own_rows(batch_size):
    states = [registry.init(cl.key(i)) for i in range(3)]
    parts = [list(registry.BENCH.test), list(registry.BENCH.test)[::-1], list(registry.BENCH.test)]
    lanes = [stack(exps) for exps in zip(*parts, strict=True)]
    out = cl.vmap(cl.evaluate(registry.MODEL, lanes, batch_size))(cl.tree.stack(states))
    for i, (state, part) in enumerate(zip(states, parts, strict=True)):
        single = cl.evaluate(registry.MODEL, part)(state)
        testing.assert_equal(cl.tree.map(lambda leaf, i=i: leaf[i], out), single, "lanes", 1e-5, 1e-6)


def test_a_class_without_rows_is_nan():
    data = cl.Dataset(torch.eye(2), torch.tensor([0, 1]), n_classes=3)
    model = fixed([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    out = cl.evaluate(model, [cl.experience(data)])(cl.Agent(key=cl.key(0), model=model.init(cl.key(0))))
    assert out["class_accuracy"].isnan().tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: cl.evaluate(registry.MODEL, []), ValueError, "stream: it holds no experience"),
        (lambda: cl.evaluate(registry.MODEL, iter([1])), TypeError, "stream: expected a sequence"),
        (lambda: cl.evaluate(registry.MODEL, registry.BENCH.test, batch_size=0), ValueError, "batch_size"),
        (lambda: cl.evaluate(registry.MODEL, registry.BENCH.test, mask="seen"), ValueError, "mask: .* got 'seen'"),
    ],
)
def test_errors(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_a_multi_head_model_needs_a_head_for_every_row():
    plain = cl.Benchmark(train=registry.BENCH.train, test=registry.BENCH.test)  # task label 0 everywhere
    tasks = [cl.tree.replace(exp, task=torch.tensor(i)) for i, exp in enumerate(registry.BENCH.test)]
    heads = cl.models.multi_head(registry.MODEL, cl.models.class_masks(tasks))
    cl.evaluate(heads, tasks)
    with pytest.raises(ValueError, match=r"stream\[1\]: .* class 2 with the task label 0, whose head has the classes \[0, 1\]"):
        cl.evaluate(heads, plain.test)
    one = cl.models.multi_head(registry.MODEL, torch.tensor([[True, True, False, False]]))
    with pytest.raises(ValueError, match=r"stream\[1\]: its task labels are \[1\], the model has the heads 0..0"):
        cl.evaluate(one, tasks)
