"""Methods for regression and for several labels a row: known answers, and what methods for classes say."""

from __future__ import annotations

import pytest
import registry
import torch
import torch.nn.functional as F

import cl_func as cl
from cl_func import losses, memory, projections, regularizers, strategies

KEY = cl.key(3)
MODEL, SGD = registry.MODEL, registry.SGD
TARGETS = {"regression": losses.mean_squared_error(MODEL), "multilabel": losses.binary_cross_entropy(MODEL)}
each_target = pytest.mark.parametrize("target", TARGETS)


def first(target):
    return registry.BENCHES[target].train[0]


def outputs(model, params, buffers, exp):
    return model.apply(params, buffers, exp.x, train=False, valid=exp.valid, task=exp.tasks)[0]


def jacobian(model, net, exp):
    """The derivatives of each output of each row by each parameter, by torch: name -> [n, K, ...]."""
    return torch.func.jacrev(lambda params: outputs(model, params, net.buffers, exp))(net.params)


# -- the Fisher information


@each_target
@pytest.mark.parametrize("model", [MODEL, registry.NORMED], ids=["factors", "whole gradients"])
def test_the_fisher_information_of_other_targets(target, model):
    """Against the whole Jacobian: its squares, weighted by the variance of each target."""
    exp, agent = first(target), strategies.naive(model, SGD).init(KEY)
    jac, out = jacobian(model, agent.model, exp), outputs(model, agent.model.params, agent.model.buffers, exp)
    variance = torch.ones_like(out) if target == "regression" else out.sigmoid() * (1 - out.sigmoid())
    found = regularizers.importance.fisher(model, target=target).total(agent, exp)
    mean = out if target == "regression" else out.sigmoid()
    for name, leaf in jac.items():
        weight = variance.reshape(*variance.shape, *[1] * (leaf.ndim - 2))
        torch.testing.assert_close(found[name], (weight * leaf.square()).sum((0, 1)), rtol=1e-4, atol=1e-6)
    true = regularizers.importance.fisher(model, "true", target).total(agent, exp)
    for name, leaf in jac.items():
        residual = (exp.y.float() - mean).reshape(*mean.shape, *[1] * (leaf.ndim - 2))
        torch.testing.assert_close(true[name], (residual * leaf).sum(1).square().sum(0), rtol=1e-4, atol=1e-6)


@each_target
def test_the_drawn_fisher_information_is_unbiased(target):
    exp, agent = first(target), strategies.naive(MODEL, SGD).init(KEY)
    expected = regularizers.importance.fisher(MODEL, target=target).total(agent, exp)
    drawn = regularizers.importance.fisher(MODEL, "model", target)
    keys = cl.random.split(KEY, 3000)
    found = torch.func.vmap(lambda key: drawn.total(agent.replace(key=key), exp))(keys)
    for name, values in found.items():
        error = (values.mean(0) - expected[name]).abs()
        assert bool((error <= 5 * values.std(0) / len(keys) ** 0.5 + 1e-6).all())


def test_the_fisher_information_of_a_linear_model_for_regression_is_the_mean_square_of_its_inputs():
    model = cl.models.from_module(lambda: torch.nn.Linear(6, 4), n_classes=4, input_shape=(6,))
    agent = strategies.ewc(model, SGD, strength=1.0, loss=losses.mean_squared_error(model)).init(KEY)
    exp = first("regression")
    held = regularizers.ewc.consolidate(model, target="regression")(agent, exp).ewc
    torch.testing.assert_close(held.importance["weight"], exp.x.square().mean(0).expand(4, 6))
    torch.testing.assert_close(held.importance["bias"], torch.ones(4))


# -- methods against their own equations


@each_target
def test_lwf_is_the_loss_and_the_distance_to_the_teacher(target):
    strategy = strategies.lwf(MODEL, SGD, strength=0.7, temperature=3.0, loss=TARGETS[target], epochs=2)
    state, (one, two) = strategy.init(KEY), registry.BENCHES[target].train
    begin, step = regularizers.lwf.snapshot(), cl.tree.leaves(strategy.update)[-1]
    state = begin(state, one)
    assert not state.lwf.old.any()
    plain = cl.train_step(TARGETS[target], SGD)(state, one)
    torch.testing.assert_close(step(state, one).model.params, plain.model.params)  # no teacher yet
    state = begin(strategy.update(state, one), two)
    state = plain.replace(lwf=state.lwf, key=state.key)  # a student that differs from its teacher
    assert state.lwf.old.all()

    def expected(params):
        out, held = (outputs(MODEL, p, {}, two) for p in (params, state.lwf.teacher.params))
        if target == "regression":
            return F.mse_loss(out, two.y) + 0.7 * F.mse_loss(out, held)
        soft = (held / 3).sigmoid()
        cross = F.binary_cross_entropy_with_logits(out / 3, soft)
        entropy = F.binary_cross_entropy_with_logits(held / 3, soft)
        return F.binary_cross_entropy_with_logits(out, two.y.float()) + 0.7 * 9 * (cross - entropy)

    grads = torch.func.grad(expected)(state.model.params)
    found = step(state, two).model.params
    for name, grad in grads.items():
        torch.testing.assert_close(found[name], state.model.params[name] - 0.1 * grad)


def test_lwf_by_binary_cross_entropy_holds_only_the_labels_seen():
    exp, student = first("multilabel"), torch.zeros(14, 4)
    agent = strategies.lwf(MODEL, SGD, epochs=2, loss=TARGETS["multilabel"]).init(KEY)
    for c in range(4):
        held = agent.lwf.replace(old=torch.arange(4) == c)
        grad = torch.func.grad(lambda z, held=held: regularizers.lwf.penalty(MODEL, z, held, exp))(student)
        assert (grad != 0).any(0).tolist() == (torch.arange(4) == c).tolist()


def test_new_classes_of_regression_are_refused():
    agent = strategies.lwf(MODEL, SGD, epochs=2, loss=TARGETS["regression"]).init(KEY)
    with pytest.raises(
        ValueError, match="y: new_classes is for class labels or multi-label targets; this data has targets for reg"
    ):
        regularizers.lwf.new_classes()(agent, first("regression"))


@each_target
def test_der_holds_the_outputs_and_replays_the_targets(target):
    """One step of DER++ by hand, with the rows that its key draws."""
    strategy = strategies.der_pp(MODEL, SGD, capacity=9, replay_size=4, alpha=0.3, beta=0.6, loss=TARGETS[target])
    one, two = registry.BENCHES[target].train
    state = strategy.update(strategy.init(KEY), one)
    row_loss = losses.row_losses(TARGETS[target])
    _, dark_key, label_key = cl.random.split(state.key, 3)
    dark, _ = memory.reservoir.draw(state.replay, dark_key, 4)
    past, _ = memory.reservoir.draw(state.replay, label_key, 4)
    assert past["y"].dtype == two.y.dtype

    def expected(params):
        def out(x):
            return MODEL.apply(params, {}, x, train=True)[0]

        value = row_loss(out(two.x), two.y).mean() + 0.6 * row_loss(out(past["x"]), past["y"]).mean()
        return value + 0.3 * (out(dark["x"]) - dark["logits"]).square().mean()

    grads = torch.func.grad(expected)(state.model.params)
    found = strategy.update(state, two).model.params
    for name, grad in grads.items():
        torch.testing.assert_close(found[name], state.model.params[name] - 0.1 * grad)


@each_target
def test_mir_replays_the_rows_whose_loss_rises_most(target):
    strategy = strategies.mir(MODEL, SGD, capacity=9, replay_size=2, candidates=9, virtual_lr=0.5, loss=TARGETS[target])
    one, two = registry.BENCHES[target].train
    state = strategy.update(strategy.init(KEY), one)
    params, stored = state.model.params, state.replay.data
    grads = torch.func.grad(lambda p: TARGETS[target](p, state, two)[0])(params)
    virtual = {name: p - 0.5 * grads[name] for name, p in params.items()}
    row_loss = losses.row_losses(TARGETS[target])
    before, after = (row_loss(MODEL.apply(p, {}, stored["x"], train=False)[0], stored["y"]) for p in (params, virtual))
    worst = (after - before).topk(2).indices

    def expected(p):
        x, y = torch.cat([stored["x"][worst], two.x]), torch.cat([stored["y"][worst], two.y])
        return row_loss(MODEL.apply(p, {}, x, train=True)[0], y).mean()

    found = strategy.update(state, two).model.params
    for name, grad in torch.func.grad(expected)(params).items():
        torch.testing.assert_close(found[name], params[name] - 0.1 * grad)


@each_target
@pytest.mark.parametrize("model", [MODEL, registry.NORMED], ids=["factors", "whole gradients"])
def test_gss_compares_the_gradients_of_the_loss_given(target, model):
    row_loss = losses.row_losses(registry.TARGET_LOSSES[target](model))
    net, exp = model.init(KEY), first(target)
    rows = memory.fields(None, exp)
    jac = torch.func.jacrev(lambda p: row_loss(outputs(model, p, net.buffers, exp), exp.y))(net.params)
    g = F.normalize(torch.cat([leaf.flatten(1) for leaf in jac.values()], 1), dim=1)
    valid = torch.arange(14) < 5
    expected = (g @ g[:5].T).amax(1) + 1
    torch.testing.assert_close(memory.gss.scores(model, net, rows, rows, valid, row_loss), expected, rtol=1e-4, atol=1e-5)


@each_target
@pytest.mark.parametrize("model", [MODEL, registry.NORMED], ids=["factors", "whole gradients"])
def test_ogd_keeps_every_output_of_stored_rows_to_first_order(target, model):
    """The projected gradient is orthogonal to the gradients of all outputs on the rows that were stored."""
    exp = first(target)
    three = exp.take(exp.rows[:3], exp.valid[:3])
    agent = strategies.ogd(model, SGD, capacity=20, per_experience=3, loss=registry.TARGET_LOSSES[target](model)).init(KEY)
    agent = projections.ogd.store(model, 3, target=target)(agent, three)
    assert int(agent.ogd.count) == 12
    grads = cl.tree.map(torch.ones_like, agent.model.params)
    projected, _ = projections.ogd.project()(grads, agent, exp)
    for name, leaf in jacobian(model, agent.model, three).items():
        assert leaf.shape[:2] == (3, 4), name
    along = sum((leaf * projected[name]).flatten(2).sum(2) for name, leaf in jacobian(model, agent.model, three).items())
    before = sum((leaf * grads[name]).flatten(2).sum(2) for name, leaf in jacobian(model, agent.model, three).items())
    assert along.abs().max() < 1e-3 * before.abs().max()


# -- every method


FOR_CLASSES = ("acil", "bic", "er_ace", "fecam", "gdumb", "icarl", "ncm", "ranpac", "rar", "scr", "slda")
METHODS = [name for name in registry.ARGUMENTS if name not in FOR_CLASSES]


@pytest.mark.parametrize("name", METHODS)
def test_the_default_is_the_cross_entropy_bit_for_bit(name):
    make, more = getattr(strategies, name), registry.ARGUMENTS[name]
    plain = make(MODEL, SGD, **more, batch_size=5)
    given = make(MODEL, SGD, **more, batch_size=5, loss=losses.cross_entropy(MODEL))
    ends = [cl.fold(one.update, one.init(KEY), registry.BENCH.train) for one in (plain, given)]
    assert all(torch.equal(a, b) for a, b in zip(*map(cl.tree.leaves, ends), strict=True))


@each_target
@pytest.mark.parametrize("name", METHODS)
def test_a_loss_and_data_that_do_not_fit_are_refused(name, target):
    make, more = getattr(strategies, name), registry.ARGUMENTS[name]
    words = {"regression": "targets for regression", "multilabel": "multi-label targets"}
    for loss, data in ((None, target), (TARGETS[target], "class")):
        strategy = make(MODEL, SGD, **more, batch_size=5, loss=loss)
        with pytest.raises(ValueError, match=f"y: .*({words.get(data, 'class labels')}|the data has)") as error:
            cl.fold(strategy.update, strategy.init(KEY), registry.BENCHES[data].train)
        assert "\n" not in str(error.value)


@each_target
@pytest.mark.parametrize("name", FOR_CLASSES)
def test_methods_for_classes_say_so(name, target):
    strategy = getattr(strategies, name)(MODEL, SGD, **registry.ARGUMENTS[name], batch_size=5)
    with pytest.raises(
        ValueError, match=r"^y: .* is for class labels; this data has (targets for regression|multi-label)"
    ) as error:
        strategy.update(strategy.init(KEY), first(target))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["lwf", "mir", "gss", "der", "der_pp", "er_lwf"])
def test_methods_that_need_the_loss_of_each_row_say_so(name):
    own = lambda params, state, exp: TARGETS["regression"](params, state, exp)  # noqa: E731
    make, more = getattr(strategies, name), {**registry.ARGUMENTS[name], "batch_size": 5}
    with pytest.raises(ValueError, match=r"loss: this method needs the loss of each row, .*for_target"):
        make(MODEL, SGD, **more, loss=own)
    with pytest.raises(ValueError, match="loss: this method needs the loss of each row"):
        make(MODEL, SGD, **more, loss=losses.for_target(own, "regression"))
    squares = lambda out, y: (out - y).square().mean(-1)  # noqa: E731
    mine = make(MODEL, SGD, **more, loss=losses.for_target(own, "regression", squares))
    theirs = make(MODEL, SGD, **more, loss=TARGETS["regression"])
    ends = [cl.fold(one.update, one.init(KEY), registry.BENCHES["regression"].train) for one in (mine, theirs)]
    assert all(torch.equal(a, b) for a, b in zip(*map(cl.tree.leaves, ends), strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_a_multi_head_model_is_for_class_labels(name):
    more = {**registry.ARGUMENTS[name], "batch_size": 5}
    with pytest.raises(ValueError, match=r"model: in a multi-head model .* is for class labels; give a single head"):
        getattr(strategies, name)(registry.HEADS, SGD, **more, loss=losses.mean_squared_error(registry.HEADS))


@pytest.mark.parametrize("name", ["er", "der_pp", "mir", "gss", "agem", "gem", "ogd", "lwf", "ewc"])
def test_one_target_a_row_need_not_be_a_column(name):
    """y [N] trains as y [N, 1] does."""
    model = cl.models.mlp(6, hidden=(8,), n_classes=1)
    strategy = getattr(strategies, name)(
        model, SGD, **registry.ARGUMENTS[name], batch_size=5, loss=losses.mean_squared_error(model)
    )
    ends = []
    for column in (False, True):
        parts = []
        for exp in registry.BENCHES["regression"].train:
            y = exp.source.y[:, :1] if column else exp.source.y[:, 0]
            parts.append(cl.experience(cl.Dataset(exp.source.x, y), exp.rows, index=int(exp.index)))
        ends.append(cl.fold(strategy.update, strategy.init(KEY), parts))
    assert all(torch.equal(a, b) for a, b in zip(*map(cl.tree.leaves, ends), strict=True))


def test_a_loss_of_the_model_within_is_said():
    """Training would go past what is around it: unnormalised, say, where evaluation is normalised."""
    inner = cl.models.slim_resnet18((3, 8, 8), 4, width=2)
    outer = cl.models.normalized(inner, [0.5] * 3, [2.0] * 3)
    twice = cl.models.augmented(outer, cl.augment.horizontal_flip())
    for loss in (cl.losses.cross_entropy, cl.losses.mean_squared_error):
        for model, of in ((outer, inner), (twice, inner), (twice, outer)):
            with pytest.warns(UserWarning, match="loss: it is of a model that `model` is made from") as caught:
                cl.strategies.naive(model, cl.optim.sgd(0.1), loss=loss(of))
            assert [warning.filename for warning in caught] == [__file__]
        cl.strategies.naive(outer, cl.optim.sgd(0.1), loss=loss(outer))
        cl.strategies.naive(inner, cl.optim.sgd(0.1), loss=loss(outer))  # such as views in training alone
        cl.strategies.naive(inner, cl.optim.sgd(0.1), loss=loss(cl.models.slim_resnet18((3, 8, 8), 4, width=2)))
