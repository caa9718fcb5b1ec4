"""How long a small sweep of B1's model, 5 seeds times 4 learning rates, takes to its first step: the median of several, as JSON.

With PYTHONPATH set to another version of the library it measures that one.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

import cl_func as cl

REPEATS = 9


class FirstStepReached(BaseException):
    """Raised by the update when it is first called; no error, so that nothing on the way takes it for one."""


def first_step(state: Any, exp: Any) -> Any:
    raise FirstStepReached


def seconds(lanes: int) -> float:
    """The time from the call of `cl.sweep` to the first call of the update."""
    model = cl.models.mlp(64, hidden=(256, 256), n_classes=10)
    bench = cl.streams.split_by_class(*cl.data.digits(), n_experiences=5)
    er = cl.strategies.er(model, cl.optim.sgd(0.1), capacity=200, replay_size=10, batch_size=10)
    strategy = cl.Strategy(er.init, first_step, model)
    start = time.perf_counter()
    try:
        cl.sweep(
            strategy,
            bench,
            seeds=5,
            hparams=cl.grid({"opt.lr": [0.1, 0.05, 0.01, 0.001]}),
            lanes=lanes,
            compile=False,
            progress=False,
        )
    except FirstStepReached:
        return time.perf_counter() - start
    raise RuntimeError("the sweep ended without a step")


def main() -> None:
    lanes = int(sys.argv[1])
    seconds(lanes)  # imports what is imported late
    print(json.dumps({"seconds": statistics.median(seconds(lanes) for _ in range(REPEATS))}))


if __name__ == "__main__":
    main()
