"""Hyperparameters by Optuna: python examples/optuna_search.py

Optuna is asked for several trials at a time, which are the lanes of one sweep, and told what these come to on held-out data. The
test data are for the point that is best at the end, with other seeds. Needs Optuna: pip install "cl_func[optuna]"
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cl_func as cl

try:
    import optuna
except ImportError:
    sys.exit('Optuna is missing: pip install "cl_func[optuna]"')

Point = dict[str, Any]  # path -> value
SEEDS = [100, 101, 102]  # of the search


def search(
    study: optuna.Study,
    ranges: Mapping[str, optuna.distributions.BaseDistribution],
    score: Callable[[Sequence[Point]], Sequence[float]],
    n_trials: int,
    batch: int,
) -> None:
    """Ask a study for batches of trials and tell it their scores; NaN is a trial that failed."""
    for start in range(0, n_trials, batch):
        trials = [study.ask(dict(ranges)) for _ in range(min(batch, n_trials - start))]
        for trial, value in zip(trials, score([trial.params for trial in trials]), strict=True):
            failed = optuna.trial.TrialState.FAIL if value != value else None
            study.tell(trial, None if failed else value, state=failed)


def score(points: Sequence[Point], sweep: Callable[..., cl.Runs]) -> list[float]:
    """The mean over the seeds of the average accuracy of each point, all from one sweep; NaN if all runs of a point diverged."""
    distinct = list({str(point): point for point in points}.values())  # a search may ask for a point again
    runs = sweep(hparams=cl.zipped({path: [point[path] for point in distinct] for path in distinct[0]}))
    found = dict(zip(map(str, distinct), runs.mean_ci()[0].tolist(), strict=True))
    return [found[str(point)] for point in points]


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    bench = cl.streams.split_by_class(*cl.data.digits(), n_experiences=5)
    held_out = cl.streams.with_validation(bench, 0.2, key=cl.key(0))
    model = cl.models.mlp(64, hidden=(32,), n_classes=10)
    strategy = cl.strategies.der_pp(model, cl.optim.sgd(lr=0.1), capacity=200, replay_size=20, batch_size=20)
    sweep = functools.partial(cl.sweep, strategy, compile=False, progress=False)

    ranges: dict[str, optuna.distributions.BaseDistribution] = {
        "opt.lr": optuna.distributions.FloatDistribution(1e-3, 1.0, log=True),
        "alpha": optuna.distributions.FloatDistribution(0.03, 3.0, log=True),
        "beta": optuna.distributions.FloatDistribution(0.03, 3.0, log=True),
    }
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    on_held_out = cl.Benchmark(train=held_out.train, test=held_out.valid)
    search(study, ranges, functools.partial(score, sweep=functools.partial(sweep, on_held_out, seeds=SEEDS)), 24, batch=8)
    print(f"best of {len(study.trials)} trials on held-out data: {study.best_value:.3f} at {study.best_params}\n")

    how = f"chosen by Optuna on a held-out 20% of each experience, with the seeds {', '.join(map(str, SEEDS))}"
    print(sweep(bench, seeds=5, hparams=cl.select.Chosen(study.best_params, how)).table(["average_accuracy", "forgetting"]))


if __name__ == "__main__":
    main()
