"""The search with Optuna in batches of lanes, against random search on an objective made by hand; skipped without Optuna."""

from __future__ import annotations

import functools
import importlib
import math
from pathlib import Path

import pytest
import registry
import torch
from torch import Tensor

import cl_func as cl

optuna = pytest.importorskip("optuna", reason='Optuna is missing: pip install "cl_func[optuna]"')
RANGES = {"lr": (1e-4, 10.0), "strength": (1e-3, 1e3), "decay": (1e-3, 1.0)}
BEST = {"lr": 0.03, "strength": 30.0, "decay": 0.2}
TRIALS, BATCH, SEARCHES = 48, 8, 12


@cl.state
class Made:
    """Three hyperparameters, and nothing that learns."""

    key: Tensor
    lr: Tensor
    strength: Tensor
    decay: Tensor


def init(key):
    return Made(key=key, lr=torch.tensor(1.0), strength=torch.tensor(1.0), decay=torch.tensor(1.0))


def update(state, exp):
    return state


def probe(state, exp=None):
    """An accuracy that is 1 at one point and falls with the squared distance in decades, above 1 at nothing."""
    distance = sum((getattr(state, name).log10() - math.log10(best)).square() for name, best in BEST.items())
    return {"accuracy": torch.exp(-distance / 4)[None]}


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples")
    return importlib.import_module("optuna_search")


def swept(hparams):
    strategy = cl.Strategy(init, update)
    arguments = {"seeds": 1, "probe": probe, "lanes": BATCH, "compile": False, "progress": False}
    return cl.sweep(strategy, registry.BENCH, hparams=hparams, **arguments)


def searched(example, seed):
    """The best score that a search finds."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    ranges = {name: optuna.distributions.FloatDistribution(*ends, log=True) for name, ends in RANGES.items()}
    calls = []
    score = functools.partial(example.score, sweep=lambda hparams: calls.append(len(hparams.points())) or swept(hparams))
    example.search(study, ranges, score, TRIALS, BATCH)
    assert calls == [BATCH] * (TRIALS // BATCH)  # one sweep a batch
    assert len(study.trials) == TRIALS
    return study.best_value


def test_on_the_same_budget_it_is_no_worse_than_random_search(example):
    found = torch.tensor([searched(example, seed) for seed in range(SEARCHES)])
    grids = [cl.random_grid(TRIALS, {name: cl.log(*ends) for name, ends in RANGES.items()}, key=cl.key(s)) for s in range(SEARCHES)]
    drawn = torch.tensor([float(swept(grid).metric().max()) for grid in grids])
    print(f"mean best of {TRIALS}: Optuna {found.mean():.3f}, random search {drawn.mean():.3f}")
    assert found.mean() >= drawn.mean()
    assert (found > drawn).sum() >= SEARCHES / 2


def test_trials_that_fail_are_told_so(example):
    study = optuna.create_study(direction="maximize")
    ranges = {"lr": optuna.distributions.IntDistribution(1, 2)}
    example.search(study, ranges, lambda points: [math.nan if point["lr"] == 1 else 0.5 for point in points], 10, 4)
    assert len(study.trials) == 10  # the last batch is smaller
    for trial in study.trials:
        state = optuna.trial.TrialState.FAIL if trial.params["lr"] == 1 else optuna.trial.TrialState.COMPLETE
        assert trial.state == state


def test_a_point_that_is_asked_for_twice_is_run_once(example):
    points = [{"lr": 1.0, "decay": 0.1}, {"lr": 2.0, "decay": 0.1}, {"lr": 1.0, "decay": 0.1}]
    found = example.score(points, lambda hparams: swept(hparams))
    assert found[0] == found[2] != found[1]
