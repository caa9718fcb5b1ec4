"""Augmented and normalised models: what each pass sees, who draws what, and how only some rows are augmented."""

from __future__ import annotations

import pytest
import registry
import torch

import cl_func as cl
from cl_func import augment, losses, memory, models, random

PLAIN, VIEWS = registry.PICTURES, registry.VIEWS
MODEL = models.augmented(PLAIN, VIEWS)
X = random.normal(cl.key(1), (5, 1, 2, 3))
MASKS = torch.tensor([[True, False, True, False], [False, True, False, True]])
TASK = torch.tensor([0, 1, 1, 0, 1])


class Shown(torch.nn.Module):
    """Its logits are its inputs, so that one sees what the training pass was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x.flatten(1)


SHOWN = models.from_module(Shown, n_classes=6, input_shape=(1, 2, 3))


def moved(key, x):
    """Adds one number to each row."""
    return x + random.uniform(key, (x.shape[0], 1, 1, 1))


def test_weights_are_those_of_the_model_and_the_key_is_a_buffer():
    net, plain = MODEL.init(cl.key(4)), PLAIN.init(cl.key(4))
    assert net.params.keys() == plain.params.keys()
    assert all(torch.equal(net.params[name], plain.params[name]) for name in plain.params)
    assert net.buffers.keys() - plain.buffers.keys() == {"augment.key"}
    assert len({int(value) for name, value in net.buffers.items() if name.endswith("key")}) == 2  # dropout has its own


def test_the_training_pass_sees_views_and_advances_the_key():
    net = MODEL.init(cl.key(4))
    logits, buffers = MODEL.apply(net.params, net.buffers, X, train=True)
    key, draw = random.split(net.buffers["augment.key"])
    inner = {name: value for name, value in net.buffers.items() if name != "augment.key"}
    expected, after = PLAIN.apply(net.params, inner, VIEWS(draw, X), train=True)
    assert torch.equal(logits, expected)
    assert [*buffers] == [*net.buffers]
    cl.testing.assert_equal(buffers, {**after, "augment.key": key}, "buffers")
    again, _ = MODEL.apply(net.params, buffers, X, train=True)
    assert not torch.equal(again, logits)
    flat, _ = MODEL.apply(net.params, net.buffers, X.flatten(1), train=True)  # given their shape back
    assert torch.equal(flat, logits)


def test_evaluation_and_features_are_untouched():
    net = MODEL.init(cl.key(4))
    inner = {name: value for name, value in net.buffers.items() if name != "augment.key"}
    logits, buffers = MODEL.apply(net.params, net.buffers, X, train=False)
    assert buffers is net.buffers
    assert torch.equal(logits, PLAIN.apply(net.params, inner, X, train=False)[0])
    assert torch.equal(models.features(MODEL, net, X), PLAIN.features(net.params, inner, X))
    assert models.augmented(SHOWN, VIEWS).features is None


def test_heads_and_augmentation_in_either_order():
    one, other = models.multi_head(MODEL, MASKS), models.augmented(models.multi_head(PLAIN, MASKS), VIEWS)
    net = one.init(cl.key(4))
    for train in (True, False):
        results = [m.apply(net.params, net.buffers, X, train=train, task=TASK) for m in (one, other)]
        cl.testing.assert_equal(*results, "orders")
    for model in (one, other):
        assert models.split_heads(model)[1] is MASKS
        plain, views = models.split_augment(model)
        assert views is VIEWS
        assert models.split_heads(plain)[1] is MASKS
        logits, buffers = plain.apply(net.params, net.buffers, X, task=TASK)
        assert torch.equal(logits, one.apply(net.params, net.buffers, X, task=TASK)[0])
        trained = plain.apply(net.params, net.buffers, X, train=True, task=TASK)
        inner = {name: value for name, value in net.buffers.items() if name != "augment.key"}
        assert torch.equal(trained[0], models.multi_head(PLAIN, MASKS).apply(net.params, inner, X, train=True, task=TASK)[0])
        assert torch.equal(trained[1]["augment.key"], buffers["augment.key"])
    assert models.split_augment(PLAIN) == (PLAIN, None)


def stored(model, n=4):
    """An agent of a model whose memory holds n copies of one picture, and an experience of more of them."""
    data = cl.Dataset(torch.full((12, 1, 2, 3), 0.5), torch.arange(12) % 4, n_classes=6)
    exp = cl.experience(data)
    store = memory.reservoir.init(n, memory.sample(model))
    agent = registry.init(cl.key(0), model).replace(replay=store)
    return memory.reservoir.insert()(agent, exp), exp.take(exp.rows[:5], exp.valid[:5])


def inputs(loss, agent, exp):
    """The rows that the training pass saw, and the state after it."""
    seen = []

    def look(params, state, exp, model):
        logits, state = models.forward(model, params, state, exp)
        seen.append(logits[:, 0])
        return logits.sum(), state

    agent = loss(look)(agent.model.params, agent, exp)[1]
    return torch.cat(seen), agent


def test_each_row_of_a_joined_minibatch_draws_its_own():
    model = models.augmented(SHOWN, moved)
    agent, exp = stored(model)
    seen, after = inputs(lambda look: losses.with_replay(lambda p, s, e: look(p, s, e, model), 4), agent, exp)
    assert len(seen.unique()) == 4 + 5
    assert (agent.replay.data["x"] == 0.5).all()  # a memory holds what came
    again, _ = inputs(lambda look: losses.with_replay(lambda p, s, e: look(p, s, e, model), 4), after, exp)
    assert len(torch.cat([seen, again]).unique()) == 2 * (4 + 5)


def test_only_replayed_or_only_new_rows():
    model = models.augmented(SHOWN, moved)
    plain, _ = models.split_augment(model)
    agent, exp = stored(model)
    for new, old in ((plain, model), (model, plain)):
        seen, _ = inputs(
            lambda look, new=new, old=old: losses.total(
                lambda p, s, e: look(p, s, e, new), losses.replayed(lambda p, s, e: look(p, s, e, old), 4)
            ),
            agent,
            exp,
        )
        still, views = (seen[:5], seen[5:]) if new is plain else (seen[5:], seen[:5])
        assert (still == 0.5).all()
        assert len(views.unique()) == len(views)

    def drawn(held, key, n):  # one pass of a joined minibatch: the draw makes the views
        place, own = random.split(key)
        rows, valid = memory.draws.uniform(held, place, n)
        return {**rows, "x": moved(own, rows["x"])}, valid

    seen, _ = inputs(lambda look: losses.with_replay(lambda p, s, e: look(p, s, e, plain), 4, draw=drawn), agent, exp)
    assert len(seen[:4].unique()) == 4
    assert (seen[4:] == 0.5).all()


def test_normalised_in_every_pass():
    data = (X - 0.1) / 2.0
    model = models.normalized(PLAIN, 0.1, 2.0)
    net = PLAIN.init(cl.key(4))
    for train in (True, False):
        out = model.apply(net.params, net.buffers, X, train=train)
        cl.testing.assert_equal(out, PLAIN.apply(net.params, net.buffers, data, train=train), "normalised")
    assert torch.equal(model.features(net.params, net.buffers, X.flatten(1)), PLAIN.features(net.params, net.buffers, data))
    heads = models.normalized(models.multi_head(PLAIN, MASKS), [0.1], 2.0)
    expected = models.multi_head(model, MASKS).apply(net.params, net.buffers, X, task=TASK)
    cl.testing.assert_equal(heads.apply(net.params, net.buffers, X, task=TASK), expected, "heads")
    seen = models.augmented(models.normalized(SHOWN, 0.5, 0.25), augment.cutout(9, fill=1.0))  # views first
    net = seen.init(cl.key(0))
    assert (seen.apply(net.params, net.buffers, X, train=True)[0] == 2.0).all()
    assert models.normalized(SHOWN, 0.5, 0.25).features is None


def test_what_cannot_be_augmented_is_refused():
    flat = r"model: to be augmented it must take images, input_shape = \(C, H, W\), its input_shape is \(6,\)"
    with pytest.raises(ValueError, match=flat):
        models.augmented(registry.MODEL, VIEWS)
    anything = models.from_module(registry.picture_net, n_classes=4)
    with pytest.raises(ValueError, match="its input_shape is None"):
        models.augmented(anything, VIEWS)
    with pytest.raises(ValueError, match="to be normalized it must take images"):
        models.normalized(registry.MODEL, 0.0, 1.0)
    for twice in (MODEL, models.multi_head(MODEL, MASKS)):
        with pytest.raises(ValueError, match="model: it is augmented already"):
            models.augmented(twice, VIEWS)
        with pytest.raises(ValueError, match="model: it is augmented, and would augment what is normalised"):
            models.normalized(twice, 0.0, 1.0)
    views = augment.compose(VIEWS, augment.compose(augment.normalize(0.5, 0.5)))
    with pytest.raises(ValueError, match=r"augment: cl\.augment\.normalize would hold in training and not in evaluation"):
        models.augmented(PLAIN, views)
    with pytest.raises(ValueError, match="std: given for 2 channels, the model takes 1"):
        models.normalized(PLAIN, 0.0, (1.0, 2.0))
    net = PLAIN.init(cl.key(0))
    for function in (MODEL.apply, MODEL.features):
        with pytest.raises(ValueError, match=r"buffers: 'augment.key' is missing"):
            function(net.params, net.buffers, X)


@pytest.mark.parametrize("wrong", [lambda key, x: x[..., :2], lambda key, x: x.double(), lambda key, x: None])
def test_an_augmentation_that_returns_something_else_is_refused(wrong):
    model = models.augmented(PLAIN, wrong)
    net = model.init(cl.key(0))
    with pytest.raises(ValueError, match=r"augment: expected it to return float32\[5, 1, 2, 3\], as it was given"):
        model.apply(net.params, net.buffers, X, train=True)
    with pytest.raises(ValueError, match=r"x: expected images \[n, 1, 2, 3\] or \[n, 6\]"):
        MODEL.apply(net.params, net.buffers, X[:, :, 0], train=True)


def test_compiled_equals_eager_in_lanes_and_donated():
    step = cl.train_step(losses.with_replay(losses.cross_entropy(registry.AUGMENTED), 3), registry.OPTIMIZERS["sgd_momentum"])
    cl.testing.check_update(step, registry.init(cl.key(0), registry.AUGMENTED), registry.BENCH.train[0], compiled=True)


def test_a_sweep_over_seeds_has_views_of_its_own_in_each_lane():
    strategy = cl.strategies.naive(MODEL, registry.SGD, batch_size=5)
    runs = cl.sweep(strategy, registry.BENCH, seeds=3, lanes=3, compile=False, progress=False)
    single = cl.sweep(strategy, registry.BENCH, seeds=3, lanes=1, compile=False, progress=False)
    torch.testing.assert_close(runs["loss"], single["loss"])
