"""Mixup and cutmix: soft targets, boxes as in the authors' program, pairs, replayed rows, heads and views."""

from __future__ import annotations

import pytest
import registry
import scipy.stats
import torch
import torch.nn.functional as F

import cl_func as cl
from cl_func import losses, models, random
from cl_func.losses import mixing

MODEL = registry.MODEL
EXP = registry.BENCH.train[0]
BOTH = EXP.take(torch.arange(12), torch.arange(12) % 4 != 2)  # two classes, some rows are padding


def drawn(state, exp, alpha):
    """The partner and the weight of each row, and the key for what else is drawn, as the losses draw them."""
    _, _, pairs, shares, place = random.split(state.key, 5)
    rows = torch.arange(len(exp))[exp.valid]
    order = (random.bits(pairs, len(exp)) >> 1)[exp.valid].argsort()
    partner = torch.zeros(len(exp), dtype=torch.int64)
    partner[rows] = rows[order]
    return partner, random.beta(shares, alpha, alpha, len(exp)), place


def soft(exp, partner, share):
    """The soft targets, [n, C]."""
    own, others = (F.one_hot(labels, 4).float() for labels in (exp.y, exp.y[partner]))
    return share[:, None] * own + (1 - share[:, None]) * others


@pytest.mark.parametrize("exp", [EXP, BOTH])
def test_mixup_is_the_cross_entropy_to_soft_targets(exp):
    state = registry.init(cl.key(3))
    value, after = losses.mixup(MODEL, 0.4)(state.model.params, state, exp)
    partner, share, _ = drawn(state, exp, 0.4)
    mixed = share[:, None] * exp.x + (1 - share[:, None]) * exp.x[partner]
    logits, _ = MODEL.apply(state.model.params, {}, mixed)
    torch.testing.assert_close(value, F.cross_entropy(logits[exp.valid], soft(exp, partner, share)[exp.valid]))
    assert torch.equal(after.key, random.split(state.key, 5)[0])
    seen = state.replace(seen=torch.tensor([True, True, True, False]), lwf=state.lwf.replace(strength=torch.tensor(0.4)))
    masked, _ = losses.mixup(MODEL, "lwf.strength", mask="seen")(state.model.params, seen, exp)
    expected = F.cross_entropy(logits[exp.valid, :3], soft(exp, partner, share)[exp.valid, :3])
    torch.testing.assert_close(masked, expected)


def test_cutmix_pastes_the_box_of_the_authors_program():
    height, width = 6, 9
    x = random.normal(cl.key(5), (64, 2, height, width))
    share = random.uniform(cl.key(6), 64)
    mixed, left = mixing._cut(cl.key(7), x, x.flip(0), share)
    row, column = random.split(cl.key(7))
    rows, columns = random.randint(row, 64, 0, height).tolist(), random.randint(column, 64, 0, width).tolist()
    for i in range(64):
        cut = float(1 - share[i]) ** 0.5
        h, w = int(height * cut), int(width * cut)
        top, bottom = (min(max(rows[i] + d, 0), height) for d in (-(h // 2), h // 2))
        first, last = (min(max(columns[i] + d, 0), width) for d in (-(w // 2), w // 2))
        expected = x[i].clone()
        expected[:, top:bottom, first:last] = x[63 - i, :, top:bottom, first:last]
        assert torch.equal(mixed[i], expected)
        assert float(left[i]) == pytest.approx(1 - (bottom - top) * (last - first) / (height * width), abs=1e-6)


def test_cutmix_is_the_cross_entropy_to_soft_targets():
    plain = models.from_module(flat_net, n_classes=4, input_shape=(1, 2, 3))
    state = registry.init(cl.key(3), plain)
    value, _ = losses.cutmix(plain)(state.model.params, state, BOTH)
    partner, share, place = drawn(state, BOTH, 1.0)
    x = BOTH.x.reshape(-1, 1, 2, 3)
    mixed, left = mixing._cut(place, x, x[partner], share)
    logits, _ = plain.apply(state.model.params, {}, mixed)
    torch.testing.assert_close(value, F.cross_entropy(logits[BOTH.valid], soft(BOTH, partner, left)[BOTH.valid]))


def flat_net():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 4))


def test_partners_are_a_uniform_permutation_of_the_valid_rows():
    valid = torch.tensor([True, False, True, True, False])
    keys = random.split(cl.key(0), 6000)
    found = torch.func.vmap(mixing._partners, in_dims=(0, None))(keys, valid)[:, [0, 2, 3]]
    assert (found.sort(1).values == torch.tensor([0, 2, 3])).all()
    orders, counts = found.unique(dim=0, return_counts=True)
    assert len(orders) == 6
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    longer = torch.func.vmap(mixing._partners, in_dims=(0, None))(keys, torch.cat([valid, torch.zeros(4) > 0]))
    assert torch.equal(longer[:, [0, 2, 3]], found)
    assert mixing._partners(cl.key(0), torch.zeros(3) > 0).shape == (3,)


def test_new_and_replayed_rows_are_mixed_with_each_other():
    """A model that shows its inputs, new rows of 1 and stored rows of -1: what is between them is of such a pair."""
    seen = []

    def look(params, buffers, x, **options):
        seen.append(x[:, 0].detach())
        return MODEL.apply(params, buffers, x, **options)

    shown = models.Model(MODEL.init, look, 4, (6,))
    data = cl.Dataset(torch.ones(8, 6), torch.arange(8) % 4)
    state = registry.init(cl.key(0))
    state = state.replace(replay=state.replay.replace(data={**state.replay.data, "x": -torch.ones_like(state.replay.data["x"])}))
    for loss in (
        losses.with_replay(losses.mixup(shown), 6),
        losses.total(losses.mixup(shown), losses.replayed(losses.mixup(shown), 6)),
    ):
        loss(state.model.params, state, cl.experience(data))
    joined, new, old = seen
    assert ((joined > -0.999) & (joined < 0.999)).any()
    torch.testing.assert_close(new, torch.ones(8))
    torch.testing.assert_close(old, -torch.ones(6))


def test_each_term_has_the_head_of_its_own_row():
    """The other row's class is in no other head: under the wrong one its logit would be -1e9."""
    data = EXP.source
    bench = cl.streams.task_incremental(data, data, n_experiences=2)
    model = models.multi_head(MODEL, models.class_masks(bench.train))
    state = registry.init(cl.key(0), model)
    state = state.replace(replay=cl.memory.reservoir.init(9, cl.memory.sample(model)))
    stored = cl.memory.reservoir.insert()(state, bench.train[0])
    value, _ = losses.with_replay(losses.mixup(model), 8)(state.model.params, stored, bench.train[1])
    assert value < 10
    exp = bench.train[1]
    value, _ = losses.mixup(model)(state.model.params, state, exp)
    masked, _ = losses.mixup(MODEL, mask="experience")(state.model.params, state, exp)
    torch.testing.assert_close(value, masked)


def test_views_are_made_before_they_are_mixed():
    plain = models.from_module(flat_net, n_classes=4, input_shape=(1, 2, 3))
    model = models.augmented(plain, registry.VIEWS)
    state = registry.init(cl.key(3), model)
    value, after = losses.mixup(model)(state.model.params, state, EXP)
    partner, share, _ = drawn(state, EXP, 1.0)
    views = registry.VIEWS(random.split(state.key, 5)[1], EXP.x.reshape(-1, 1, 2, 3)).flatten(1)
    mixed = share[:, None] * views + (1 - share[:, None]) * views[partner]
    logits, _ = plain.apply(state.model.params, {}, mixed)
    torch.testing.assert_close(value, F.cross_entropy(logits, soft(EXP, partner, share)))
    assert after.model is state.model  # its own key was not needed


def test_what_has_no_images_is_refused():
    with pytest.raises(ValueError, match=r"model: for cutmix it must take images, input_shape = \(C, H, W\), .* \(6,\)"):
        losses.cutmix(MODEL)


def test_tokens_are_not_mixed():
    net = torch.nn.Sequential
    tokens = cl.Dataset(torch.arange(12).reshape(4, 3), torch.arange(4))

    def embedding():
        return net(torch.nn.Embedding(12, 2), torch.nn.Flatten(), torch.nn.Linear(6, 4))

    takes_tokens = models.from_module(embedding, n_classes=4, input_shape=(3,), input_dtype=torch.int64)
    with pytest.raises(ValueError, match="model: it takes tokens, of which there is no mean"):
        losses.mixup(takes_tokens)
    undeclared = models.from_module(embedding, n_classes=4)
    state = cl.Agent(key=cl.key(1), model=takes_tokens.init(cl.key(0)))
    with pytest.raises(TypeError, match=r"x: expected floating inputs, or uint8 images, .* got int64\[4, 3\]"):
        losses.mixup(undeclared)(state.model.params, state, cl.experience(tokens))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mix", [losses.mixup, losses.cutmix])
def test_shares_of_short_floats_are_those_of_long_ones(mix, dtype):
    """Of an image of 300 x 300 pixels the count of those in a box is more than float16 holds."""
    x = random.uniform(cl.key(2), (4, 1, 300, 300))

    def pooled():
        return torch.nn.Sequential(torch.nn.AvgPool2d(60), torch.nn.Flatten(), torch.nn.Linear(25, 4))

    model = models.from_module(pooled, n_classes=4, input_shape=(1, 300, 300))
    state = cl.Agent(key=cl.key(1), model=model.init(cl.key(0)))
    values = [
        mix(model)(
            cl.tree.map(lambda p, kind=kind: p.to(kind), state.model.params),
            state,
            cl.experience(cl.Dataset(x.to(kind), torch.arange(4))),
        )[0]
        for kind in (torch.float32, dtype)
    ]
    assert values[1].dtype == torch.float32
    assert torch.allclose(values[0], values[1], rtol=0.02)
