"""RanPAC, FeCAM and ACIL against the papers' own formulas, written out in numpy on all rows at once."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import registry
import torch

import cl_func as cl
from cl_func import testing
from cl_func.classifiers import acil, fecam, ranpac

BENCH = registry.BENCH
LINEAR = cl.models.mlp(6, hidden=(), n_classes=4)  # its features are its inputs
RIDGES = 10.0 ** np.arange(-8, 9)
CUTS = [[200], [1, 7, 2, 30, 160], [1] * 200]  # 30 and 160 are more rows than the 24 random features of ACIL's test


def labelled(n=200, width=8, n_classes=5, seed=0):
    """Rows of n_classes - 1 classes, and which of them are valid."""
    y = cl.random.randint(cl.key(seed), n, 0, n_classes - 1)
    centres = 2 * cl.random.normal(cl.key(seed + 1), (n_classes, width))
    x = (centres[y] + cl.random.normal(cl.key(seed + 2), (n, width))) * torch.linspace(0.2, 3, width)
    return x, y, cl.random.bernoulli(cl.key(seed + 3), 0.8, (n,))


def in_parts(add, slot, rows, sizes, backwards=False):
    """The slot after all rows (tensors of one length), in parts of these sizes."""
    cuts = np.cumsum([0, *sizes])
    parts = [slice(a, b) for a, b in itertools.pairwise(cuts)]
    for part in reversed(parts) if backwards else parts:
        slot = add(slot, *(one[part] for one in rows))
    return slot


def expanded(projection, x):
    return np.maximum(x.double().numpy() @ projection.double().numpy(), 0)


def ridge_regression(h, y, ridge, n_classes):
    """The joint solution on all rows, by another route: least squares with sqrt(ridge) I appended."""
    size = h.shape[1]
    rows = np.concatenate([h, np.sqrt(ridge) * np.eye(size)])
    targets = np.concatenate([np.eye(n_classes)[y], np.zeros((size, n_classes))])
    return np.linalg.lstsq(rows, targets, rcond=None)[0]


# ACIL


@pytest.mark.parametrize("sizes", CUTS)
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("ridge", [1e-3, 0.1, 10.0])
def test_acil_in_any_parts_is_joint_ridge_regression(sizes, backwards, ridge):
    x, y, valid = labelled()
    x = x.double()
    slot = in_parts(acil.add, acil.init(5, x[0], cl.key(9), 24, ridge), (x, y, valid), sizes, backwards)
    h = expanded(slot.projection, x)
    weights = ridge_regression(h[valid], y[valid].numpy(), ridge, 5)
    np.testing.assert_allclose(slot.weights, weights, rtol=1e-5, atol=1e-7)
    inverse = np.linalg.inv(h[valid].T @ h[valid] + slot.ridge.double().numpy() * np.eye(24))
    np.testing.assert_allclose(slot.inverse, inverse, rtol=1e-5, atol=1e-7 / ridge)
    assert torch.equal(slot.inverse, slot.inverse.T)
    logits = acil.logits(slot, x)
    np.testing.assert_allclose(logits[:, :4], (h @ weights)[:, :4], rtol=1e-5, atol=1e-5)
    assert (logits[:, 4] < -1e8).all()


def test_acil_with_more_random_features_than_rows():
    x, y, valid = labelled(40)
    slot = in_parts(acil.add, acil.init(5, x[0], cl.key(9), 300, 0.1), (x, y, valid), [3, 17, 20])
    h = np.maximum((x @ slot.projection).numpy(), 0).astype(np.float64)
    weights = ridge_regression(h[valid], y[valid].numpy(), 0.1, 5)
    np.testing.assert_allclose(slot.weights, weights, rtol=1e-5, atol=1e-6)


def test_acils_rounding_errors_do_not_grow():
    """3,000 single rows under a ridge far below the sums, against all at once."""
    x, y, _ = labelled(3000)
    every = torch.ones(3000, dtype=torch.bool)
    start = acil.init(5, x[0], cl.key(9), 12, 1e-4)
    one_by_one, at_once = (in_parts(acil.add, start, (x, y, every), sizes) for sizes in ([1] * 3000, [3000]))
    torch.testing.assert_close(one_by_one.weights, at_once.weights, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(one_by_one.inverse, at_once.inverse, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["acil", "fecam", "ranpac"])
def test_the_order_of_experiences_does_not_matter(name):
    own = {"choose_on": "all", "ridge": None} if name == "ranpac" else {}
    strategy = getattr(cl.strategies, name)(LINEAR, **{**registry.ARGUMENTS[name], **own}, batch_size=5)
    start = strategy.init(cl.key(0))
    whole = cl.experience(BENCH.train[0].source)
    ends = [cl.fold(strategy.update, start, stream) for stream in (BENCH.train, BENCH.train[::-1], [whole])]
    outputs = [strategy.model(end, whole) for end in ends]
    for other in outputs[1:]:
        torch.testing.assert_close(other, outputs[0], rtol=1e-5, atol=1e-5)


def test_a_ridge_set_before_the_start_counts():
    strategy = cl.strategies.acil(LINEAR, projection_size=16)
    start = strategy.init(cl.key(0))
    for ridge in (0.01, 100.0):
        end = cl.fold(strategy.update, cl.tree.set(start, {"acil.ridge": ridge}), BENCH.train)
        x, y = BENCH.train[0].source.x, BENCH.train[0].source.y
        weights = ridge_regression(expanded(end.acil.projection, x), y.numpy(), ridge, 4)
        np.testing.assert_allclose(end.acil.weights, weights, rtol=1e-4, atol=1e-5)


# RanPAC


def papers_ranpac(parts, projection, ridge=None, choose_on="experience"):
    """Algorithm 1 on parts (h, y, held): the squared error of each ridge from the held-out rows themselves."""
    past = []
    for part in parts:
        past.append(part)
        h, y, held = (np.concatenate(arrays) for arrays in zip(*(past if choose_on == "all" else [part]), strict=True))
        targets = np.eye(5)[y]
        if ridge is None:
            fits = [ridge_regression(h[~held], y[~held], r, 5) for r in RIDGES]
            chosen = RIDGES[np.argmin([((h[held] @ w - targets[held]) ** 2).mean() for w in fits])]
    h, y, _ = (np.concatenate(arrays) for arrays in zip(*past, strict=True))
    return chosen, ridge_regression(h, y, chosen, 5)


@pytest.mark.parametrize("choose_on", ["experience", "all"])
@pytest.mark.parametrize("seed", range(4))
def test_ranpac_follows_the_papers_algorithm(choose_on, seed):
    x, y, valid = labelled(240, seed=10 * seed)
    x = x.double()
    held = cl.random.bernoulli(cl.key(seed), 0.2, (240,))
    slot, parts = ranpac.init(5, x[0], cl.key(9), 24, choose_on=choose_on), []
    for start, end in ((0, 90), (90, 150), (150, 240)):
        slot = ranpac.close(slot)
        part = slice(start, end)
        slot = in_parts(ranpac.add, slot, (x[part], y[part], valid[part], held[part]), [20] * ((end - start) // 20 + 1))
        keep = valid[part].numpy()
        parts.append((expanded(slot.projection, x[part])[keep], y[part].numpy()[keep], held[part].numpy()[keep]))
    ridge, weights = papers_ranpac(parts, slot.projection, choose_on=choose_on)
    np.testing.assert_allclose(ranpac.choose_ridge(slot), ridge, rtol=1e-6)
    assert 1e-8 < ridge < 1e8
    np.testing.assert_allclose(ranpac.solve(slot).weights, weights, rtol=1e-5, atol=1e-7)
    logits = ranpac.logits(slot, x)
    np.testing.assert_allclose(logits[:, :4], expanded(slot.projection, x) @ weights[:, :4], rtol=1e-5, atol=1e-6)
    assert (logits[:, 4] < -1e8).all()


def test_a_given_ridge_is_that_of_acil():
    """Two algorithms, one regression: ACIL's projection is smaller by sqrt(F), so its ridge by F."""
    x, y, valid = labelled()
    x = x.double()
    analytic = acil.init(5, x[0], cl.key(3), 30, 0.5)
    given = ranpac.init(5, x[0], cl.key(4), 30, ridge=4.0).replace(projection=analytic.projection * 8**0.5)
    none = torch.zeros_like(valid)
    logits = ranpac.logits(ranpac.add(given, x, y, valid, none), x)
    torch.testing.assert_close(logits, acil.logits(acil.add(analytic, x, y, valid), x), rtol=1e-9, atol=1e-9)


def test_where_there_is_nothing_to_choose_on_the_ridge_is_1():
    x, y, valid = labelled()
    start = ranpac.init(5, x[0], cl.key(9), 24)
    for held in (torch.zeros_like(valid), torch.ones_like(valid)):
        assert ranpac.choose_ridge(ranpac.add(start, x, y, valid, held)) == 1
    assert ranpac.choose_ridge(start) == 1
    assert ranpac.logits(start, x).lt(-1e8).all()


def test_a_ridge_too_small_for_float64_is_raised():
    """Two equal features and sums of 10^12: the smallest ridge cannot be told from none."""
    x, y, valid = labelled()
    start = ranpac.init(5, x[0], cl.key(9), 24, ridge=1e-8)
    twice = start.replace(projection=start.projection[:, :12].repeat(1, 2) * 1e5)
    logits = ranpac.logits(ranpac.add(twice, x, y, valid, ~valid), x)
    assert logits.isfinite().all()
    assert (logits.argmax(1) == y)[valid].float().mean() > 0.9


def test_rows_are_held_out_by_their_numbers():
    """A fifth of them, the same ones whenever they come, in whatever batches."""
    data = cl.Dataset(cl.random.normal(cl.key(0), (2000, 6)), torch.arange(2000) % 4)
    strategy = cl.strategies.ranpac(LINEAR, projection_size=3, choose_on="all")
    start = strategy.init(cl.key(5))
    once = strategy.update(start, cl.experience(data)).ranpac
    assert 330 < once.held.rows < 470
    assert once.held.rows + once.fitted.rows == 2000
    order = cl.random.permutation(cl.key(1), 2000)
    again = cl.fold(strategy.update, start, [cl.experience(data, part) for part in order.split(300)]).ranpac
    testing.assert_equal(again, once, "held out", 1e-9, 1e-9)


def test_ranpac_keeps_the_newest_experience_apart():
    strategy = cl.strategies.ranpac(LINEAR, projection_size=3, batch_size=4)
    end = cl.fold(strategy.update, strategy.init(cl.key(5)), BENCH.train).ranpac
    assert end.past.rows == BENCH.train[0].valid.sum()
    assert end.fitted.rows + end.held.rows == BENCH.train[1].valid.sum()
    nothing = BENCH.train[0].take(BENCH.train[0].rows, torch.zeros_like(BENCH.train[0].valid))
    padding = strategy.update(cl.fold(strategy.update, strategy.init(cl.key(5)), BENCH.train), nothing)
    testing.assert_equal(padding.ranpac, end, "padding")


# FeCAM


def papers_fecam(x, y, asked, gamma1, gamma2, tukey):
    """Equations of the paper, class by class, with an inverse."""

    def transformed(rows):
        return np.sign(rows) * np.abs(rows) ** tukey

    def unit(rows):
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)

    size, logits = x.shape[1], []
    for c in range(4):
        mine = transformed(x[y == c])
        covariance = np.cov(mine.T)
        v1 = np.diagonal(covariance).mean()
        v2 = covariance[~np.eye(size, dtype=bool)].mean()
        covariance = covariance + gamma1 * v1 * np.eye(size) + gamma2 * v2 * (1 - np.eye(size))
        deviation = np.sqrt(np.diagonal(covariance))
        gap = unit(transformed(asked)) - unit(mine.mean(0))
        logits.append(-np.einsum("nf,fg,ng->n", gap, np.linalg.inv(covariance / np.outer(deviation, deviation)), gap))
    return np.stack(logits, 1)


@pytest.mark.parametrize("sizes", CUTS)
@pytest.mark.parametrize(("gamma1", "gamma2", "tukey"), [(1.0, 1.0, 0.5), (10.0, 2.0, 0.7), (1e-3, 0.0, 1.0)])
def test_fecam_in_any_parts_is_the_papers_formula(sizes, gamma1, gamma2, tukey):
    x, y, valid = labelled()
    x = x.double()
    slot = in_parts(fecam.add, fecam.init(5, x[0], gamma1, gamma2, tukey), (x, y, valid), sizes)
    expected = papers_fecam(x[valid].numpy(), y[valid].numpy(), x.numpy(), gamma1, gamma2, slot.tukey.double().numpy())
    logits = fecam.logits(slot, x)
    np.testing.assert_allclose(logits[:, :4], expected, rtol=1e-5, atol=1e-8)
    assert (logits[:, 4] < -1e8).all()
    narrow = fecam.logits(slot, x.float())
    assert narrow.dtype == torch.float32
    np.testing.assert_allclose(narrow[:, :4], expected, rtol=1e-3, atol=1e-4)


def test_fecam_of_classes_without_spread_is_by_angle():
    """By hand: one row of a class, or equal ones, have no covariance, so N = I and the logits are 2 cos - 2."""
    rows = torch.tensor([[3.0, 4.0], [0.0, 2.0], [0.0, 2.0]])
    slot = fecam.add(fecam.init(3, rows[0], tukey=1.0), rows, torch.tensor([0, 1, 1]), torch.ones(3) > 0)
    logits = fecam.logits(slot, torch.tensor([[5.0, 0.0], [0.0, 0.1]]))
    torch.testing.assert_close(logits[:, :2], torch.tensor([[2 * 0.6 - 2, -2.0], [2 * 0.8 - 2, 0.0]]), rtol=1e-5, atol=1e-6)


def test_a_feature_without_spread_takes_part():
    """Shrinkage gives it a variance."""
    x, y, valid = labelled()
    x[:, 3] = 1.0
    logits = fecam.logits(fecam.add(fecam.init(5, x[0]), x, y, valid), x)
    assert logits.isfinite().all()
    assert (logits.argmax(1) == y).float().mean() > 0.9


def test_more_shrinkage_of_the_covariances_than_of_the_variances_is_refused():
    for make in (lambda: cl.strategies.fecam(LINEAR, gamma1=0.5), lambda: fecam.init(3, torch.zeros(4), 1.0, 2.0)):
        with pytest.raises(ValueError, match=r"gamma2: expected at most gamma1, (0.5|1), got (1|2); shrink the diagonal"):
            make()


# All three


@pytest.mark.parametrize("name", ["acil", "fecam", "ranpac"])
def test_on_digits_they_know_all_classes(name):
    """On the pixels themselves, where nearest class means reach 0.89."""
    train, test = cl.data.digits()
    bench = cl.streams.split_by_class(train, test, n_experiences=5)
    own = {} if name == "fecam" else {"projection_size": 300}
    strategy = getattr(cl.strategies, name)(cl.models.mlp(64, (), 10), batch_size=100, **own)
    end = cl.fold(strategy.update, strategy.init(cl.key(0)), bench.train)
    assert cl.evaluate(strategy.model, bench.test)(end)["accuracy"].mean() > 0.94


@pytest.mark.parametrize("name", ["acil", "fecam", "ranpac"])
def test_an_evaluation_is_that_of_the_classifier(name):
    strategy = getattr(cl.strategies, name)(registry.MODEL, **registry.ARGUMENTS[name])
    agents = [cl.fold(strategy.update, strategy.init(cl.key(seed)), BENCH.train) for seed in (0, 1)]
    probes = [cl.evaluate(model, BENCH.test, batch_size=4) for model in (strategy.model, lambda s, e: strategy.model(s, e))]
    lanes = [cl.vmap(probe)(cl.tree.stack(agents)) for probe in probes]
    testing.assert_equal(lanes[0], lanes[1], "lanes", 1e-5, 1e-6)
    for i, agent in enumerate(agents):
        testing.assert_equal(cl.tree.map(lambda leaf, i=i: leaf[i], lanes[0]), probes[0](agent), "lane", 1e-5, 1e-6)


@pytest.mark.parametrize("name", ["fecam", "ranpac"])
def test_what_solves_once_is_compiled(name):
    own = {**registry.ARGUMENTS[name], **({"ridge": None} if name == "ranpac" else {})}
    strategy = getattr(cl.strategies, name)(registry.MODEL, **own)
    agents = [cl.fold(strategy.update, strategy.init(cl.key(seed)), BENCH.train) for seed in (0, 1)]
    probe = cl.vmap(cl.evaluate(strategy.model, BENCH.test))
    lanes = cl.tree.stack(agents)
    testing.assert_equal(cl.compile(probe)(lanes), probe(lanes), "compiled", 1e-4, 1e-5)


@pytest.mark.parametrize("name", ["ncm", "slda", "ranpac", "fecam", "acil"])
@pytest.mark.parametrize("given", [{"epochs": 0}, {"epochs": 2}, {"iterations": 3}, {"iterations": -1}], ids=str)
def test_passes_without_an_optimiser_are_refused(name, given):
    with pytest.raises(
        ValueError, match=r"optimizer: expected one beside (epochs|iterations)=-?\d, since without it nothing is trained"
    ):
        getattr(cl.strategies, name)(cl.models.mlp(4, hidden=()), **given)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 6e4])
def test_nearest_means_do_not_depend_on_the_scale_of_features(scale):
    """Squared distances above 1e9 were below the number of a masked class."""
    x = scale * (torch.arange(12.0)[:, None] % 4 + 0.1 * torch.arange(12.0)[:, None] / 12).expand(12, 30)
    data = cl.Dataset(x, torch.arange(12) % 4)
    bench = cl.streams.split_by_class(data, data, n_experiences=2)
    strategy = cl.strategies.ncm(cl.models.mlp(30, hidden=(), n_classes=4))
    _, history = cl.scan(strategy.update, strategy.init(cl.key(0)), bench.train, cl.evaluate(strategy.model, bench.test))
    assert history["accuracy"].tolist() == [[1.0, 0.0], [1.0, 1.0]]
    alone = cl.evaluate(strategy.model, bench.test, mask="experience")
    state = cl.fold(strategy.update, strategy.init(cl.key(0)), bench.train)
    assert alone(state)["accuracy"].tolist() == [1.0, 1.0]
