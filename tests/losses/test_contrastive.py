"""The supervised contrastive loss: by hand, beside a loop, and what does not count."""

from __future__ import annotations

import math

import pytest
import registry
import torch

import cl_func as cl
from cl_func import losses, random
from cl_func.models.cosine import cosine_logits

EXP = registry.BENCH.train[0]
MIXED = EXP.take(torch.arange(12), torch.arange(12) % 5 != 2)  # two classes, some rows are padding


def by_loops(z, y, temperature):
    """Equation 2 of the paper, term by term; anchors without a pair are left out."""
    z = z / z.norm(dim=1, keepdim=True)
    found = []
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        total = sum(torch.exp(z[i] @ z[a] / temperature) for a in others)
        terms = [-torch.log(torch.exp(z[i] @ z[p] / temperature) / total) for p in others if y[p] == y[i]]
        if terms:
            found.append(torch.stack(terms).mean())
    return torch.stack(found).mean()


def test_by_hand():
    """Three unit vectors, the first two of a class at 60 degrees, the third opposite to the first: cosines 1/2, -1 and -1/2."""
    z = torch.tensor([[1.0, 0.0], [0.5, math.sqrt(3) / 2], [-1.0, 0.0]]) * torch.tensor([[2.0], [1.0], [7.0]])
    first, second = math.log(1 + math.exp((-1 - 0.5) / 0.5)), math.log(1 + math.exp((-0.5 - 0.5) / 0.5))
    value = losses.contrast(z, torch.tensor([3, 3, 1]), torch.ones(3) > 0, 0.5)
    assert float(value) == pytest.approx((first + second) / 2, rel=1e-6)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_as_the_paper_writes_it(temperature):
    z, y = random.normal(cl.key(0), (14, 5), torch.float64), random.randint(cl.key(1), 14, 0, 4)
    everything = torch.ones(14) > 0
    torch.testing.assert_close(losses.contrast(z, y, everything, temperature), by_loops(z, y, temperature))
    kept = torch.arange(14) % 3 != 1
    torch.testing.assert_close(losses.contrast(z, y, kept, torch.tensor(temperature)), by_loops(z[kept], y[kept], temperature))


def test_finite_where_numbers_are_extreme():
    z = torch.tensor([[1e30, 0.0], [0.0, 0.0], [math.nan, math.inf], [-1e-30, 0.0]], requires_grad=True)
    valid, y = torch.tensor([True, True, False, True]), torch.tensor([0, 0, 0, 1])
    value = losses.contrast(z, y, valid, 1e-3)
    (grad,) = torch.autograd.grad(value, z)
    assert value.isfinite()
    assert grad.isfinite().all()
    assert torch.equal(grad[2], torch.zeros(2))


@pytest.mark.parametrize("valid", [[False] * 4, [True, False, False, False], [True, False, True, False]])
def test_without_a_pair_it_is_zero_with_zero_gradient(valid):
    z = random.normal(cl.key(2), (4, 3)).requires_grad_()
    value = losses.contrast(z, torch.tensor([0, 0, 1, 1]), torch.tensor(valid), 0.1)
    (grad,) = torch.autograd.grad(value, z)
    assert float(value.detach()) == 0
    assert torch.equal(grad, torch.zeros(4, 3))


def test_one_view_without_augmentation_two_with_it():
    state = registry.init(cl.key(3))
    value, after = losses.supervised_contrastive(registry.MODEL, 0.2)(state.model.params, state, MIXED)
    z = registry.MODEL.apply(state.model.params, {}, MIXED.x)[0]
    torch.testing.assert_close(value, losses.contrast(z, MIXED.y, MIXED.valid, 0.2))
    assert after is state

    model = cl.models.augmented(registry.PICTURES, registry.VIEWS)
    plain = cl.models.split_augment(model)[0]
    state = registry.init(cl.key(3), model)
    value, after = losses.supervised_contrastive(model, 0.2)(state.model.params, state, MIXED)
    key, view_key = random.split(state.key)
    x = MIXED.x.reshape(-1, 1, 2, 3)
    views = torch.stack([x, registry.VIEWS(view_key, x)], 1).flatten(0, 1)
    z, _ = plain.apply(state.model.params, state.model.buffers, views, train=True)
    doubled = torch.arange(24) // 2
    torch.testing.assert_close(value, losses.contrast(z, MIXED.y[doubled], MIXED.valid[doubled], 0.2))
    assert torch.equal(after.key, key)
    assert not torch.equal(views[0::2], views[1::2])


def test_other_targets_are_refused():
    exp = registry.BENCHES["regression"].train[0]
    state = registry.init(cl.key(0))
    with pytest.raises(ValueError, match="the supervised contrastive loss"):
        losses.supervised_contrastive(registry.MODEL)(state.model.params, state, exp)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_vectors_of_length_0_have_no_direction(dtype):
    """Padding, and the features of units that are off, are 0; in float16 torch's own normalisation makes NaN of them."""
    z = torch.tensor([[1.0, 2.0], [0.0, 0.0], [2.0, 1.0], [3.0, 3.0]], dtype=dtype).requires_grad_()
    valid = torch.tensor([True, True, True, False])
    value = losses.contrast(z, torch.tensor([0, 0, 0, 1]), valid, 0.5)
    (slope,) = torch.autograd.grad(value, z)
    assert value.isfinite()
    assert slope.isfinite().all()
    wanted = losses.contrast(z.detach().double(), torch.tensor([0, 0, 0, 1]), valid, 0.5)
    torch.testing.assert_close(value.double(), wanted, rtol=16 * torch.finfo(dtype).eps, atol=0)
    assert cl.memory.herding.unit(z.detach()).tolist()[1] == [0, 0]
    assert cosine_logits(z.detach(), z.detach(), torch.ones((), dtype=dtype))[1].tolist() == [0, 0, 0, 0]
