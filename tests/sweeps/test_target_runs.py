"""Sweeps of methods for regression and for several labels a row: metrics, choices, tables and pictures."""

from __future__ import annotations

import dataclasses
import math

import pytest
import registry
import torch

import cl_func as cl
from cl_func import metrics

MODEL = registry.MODEL


@pytest.fixture(scope="module", params=["regression", "multilabel"])
def runs(request):
    loss = registry.TARGET_LOSSES[request.param](MODEL)
    strategy = cl.strategies.naive(MODEL, cl.optim.sgd(0.1, momentum=0.1), epochs=3, loss=loss)
    grid = cl.grid({"opt.lr": [0.01, 0.3], "opt.momentum": [0.0, 0.5]})
    return request.param, cl.sweep(strategy, registry.BENCHES[request.param], seeds=3, hparams=grid, compile=False, progress=False)


def test_the_metrics_of_a_run_have_the_name_of_the_measure(runs):
    target, found = runs
    name = {"regression": "mse", "multilabel": "mean_average_precision"}[target]
    better = {"regression": False, "multilabel": None}[target]
    R = found[name]
    assert torch.equal(found.metric(), found.metric(f"average_{name}"))
    torch.testing.assert_close(found.metric(), R[..., -1, :].mean(-1))
    torch.testing.assert_close(found.metric(f"learning_{name}"), R.diagonal(dim1=-2, dim2=-1).mean(-1))
    torch.testing.assert_close(
        found.metric("forgetting"), metrics.forgetting(R.flatten(0, 2), higher_is_better=better).reshape(R.shape[:3])
    )
    with pytest.raises(ValueError, match=f"metric: expected one of average_{name}, .*, got 'average_accuracy'"):
        found.metric("average_accuracy")
    mean, _ = found.mean_ci()
    best = found.best()
    at = tuple(found.axes[axis].index(label) for axis, label in best.items())
    assert mean[at] == (mean.min() if target == "regression" else mean.max())
    assert found.best("forgetting", largest=False)
    header, _, *rows = found.table().splitlines()
    assert f"average_{name} (3 seeds)" in header
    assert len(rows) == 4
    frame = found.to_pandas()
    assert len(frame) == 4 * 3 * 2 * 2
    assert {name, "loss"} <= set(frame.columns)


def test_pictures_have_the_scale_and_the_name_of_the_measure(runs):
    target, found = runs
    words = {"regression": "mse", "multilabel": "mean average precision"}[target]
    ax = found.plot_timeline()
    assert ax.get_ylabel() == f"average {words}"
    lines = [y for line in ax.lines for y in line.get_ydata()]
    assert len(lines) == 4 * 2
    assert ax.get_ylim() == (0, 1) or target == "regression"
    assert all(ax.get_ylim()[0] <= y <= ax.get_ylim()[1] for y in lines)
    for ax in (found.plot_grid(), found.plot_grid("forgetting"), found.plot_matrix()):
        assert ax.figure.axes[-1].get_ylabel()
    mean = found.mean_ci()[0]
    (image,) = found.plot_grid().images
    limits = image.get_clim()
    assert limits == ((float(mean.min()), float(mean.max())) if target == "regression" else (0, 1))
    assert image.cmap.name == ("viridis_r" if target == "regression" else "viridis")


def test_runs_whose_error_is_not_finite_have_diverged(runs):
    target, found = runs
    if target != "regression":
        return
    assert not found.diverged.any()
    for value in (math.nan, math.inf):
        history = {name: leaf.clone() for name, leaf in found.history.items()}
        for name in ("mse", "loss", "r2"):
            history[name][0, 0, 0, -1] = value
            history[name][1, 1, :, -1] = value
        broken = dataclasses.replace(found, history=history)
        assert broken.diverged.nonzero().tolist() == [[0, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 2]]
        assert "1 of 3 diverged" in broken.table()
        sound = {"opt.lr": 0.01, "opt.momentum": 0.5}, {"opt.lr": 0.3, "opt.momentum": 0.0}
        assert broken.best() in sound  # neither the point without a run, nor that with a broken one
        broken.plot_timeline()
        broken.plot_grid()


def test_errors_count_the_other_way():
    R = torch.tensor([[1.0, 9.0], [3.0, 2.0]])
    errors = {"higher_is_better": False}
    assert metrics.forgetting(R, **errors) == 2.0  # from 1 to 3
    assert metrics.backward_transfer(R, **errors) == -2.0
    assert metrics.forward_transfer(R, torch.tensor([0.0, 10.0]), **errors) == 1.0  # 10 without training, 9 with
    assert metrics.average_accuracy(R, **errors).tolist() == [1.0, 2.5]
    assert metrics.average_anytime_accuracy(R, **errors) == 1.75
    assert metrics.learning_accuracy(R, **errors) == 1.5
    assert metrics.forgetting_matrix(R, **errors).tolist() == [[0, 0], [2, 0]]
    assert metrics.forgetting_per_experience(R, **errors).tolist() == [2]
    scores = torch.tensor([[0.5, -3.0], [-1.5, 0.25]])  # such as r2
    assert metrics.forgetting(scores, higher_is_better=True) == 2.0
    with pytest.raises(ValueError, match=r"R: accuracies lie in .*higher_is_better=False for errors"):
        metrics.forgetting(R)
    with pytest.raises(ValueError, match="R: some values are infinite"):
        metrics.forgetting(torch.full((2, 2), math.inf), **errors)
    with pytest.raises(ValueError, match="higher_is_better: expected True, False or None"):
        metrics.forgetting(R, higher_is_better=1)
