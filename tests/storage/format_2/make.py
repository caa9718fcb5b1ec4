"""What wrote the files beside it, run once with the last version that wrote format 2: `python make.py FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import cl_func as cl

BENCH = cl.testing.small_benchmark()
MODEL = cl.models.mlp(6, hidden=(8,), n_classes=4)
SWEEP = {"seeds": 4, "lanes": 2, "compile": False, "progress": False}


def strategies() -> dict[str, cl.Strategy]:
    """A strategy whose state has another name now, and one whose state has other fields, too."""
    opt = cl.optim.sgd(0.1, momentum=0.9)
    return {
        "er": cl.strategies.er(MODEL, opt, capacity=9, replay_size=4, batch_size=5),
        "bic": cl.strategies.bic(MODEL, opt, capacity=20, replay_size=4, batch_size=5, validation=0.4),
    }


class KilledError(Exception):
    """The end of a run that is interrupted."""


def interrupted(run, calls: int) -> None:
    """Run until so many functions of updates have been called."""
    from cl_func.keeper import Keeper  # type: ignore[import-not-found]  # as it was called

    plain, count = Keeper.called, [0]

    def called(self, state):
        plain(self, state)
        count[0] += 1
        if count[0] == calls:
            raise KilledError

    Keeper.called = called
    try:
        run()
    except KilledError:
        pass
    finally:
        Keeper.called = plain


def main(folder: Path) -> None:
    for name, strategy in strategies().items():
        start = strategy.init(cl.key(0))
        cl.save(folder / f"{name}.safetensors", strategy.update(start, BENCH.train[0]))
        keep = cl.Checkpoint(folder / name, steps=1, keep=1)
        probe = cl.evaluate(strategy.model, BENCH.test)
        interrupted(lambda s=strategy, k=keep, p=probe: cl.scan(s.update, s.init(cl.key(0)), BENCH.train, p, checkpoint=k), 8)
    keep = cl.Checkpoint(folder / "sweep", steps=1, keep=1)
    interrupted(lambda: cl.sweep(strategies()["er"], BENCH, checkpoint=keep, **SWEEP), 18)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
