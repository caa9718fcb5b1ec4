"""Watch a run: the loss and the gradient norm of each step, a bar, a log on disk, and an end when nothing gets better.

    python examples/watch.py [--out out/watch]

A step is a pure function, so what it has to tell it records in the state: in traces, rings of numbers of one shape. The probe puts
them into the history, and `cl.trace.read` joins them to curves. With a tracker, `cl.taps.wandb(...)` stands in place of
`cl.taps.csv(...)`.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

import cl_func as cl

torch.set_num_threads(1)
bench = cl.streams.split_by_class(*cl.data.digits(), n_experiences=5)
model = cl.models.mlp(64, hidden=(64,), n_classes=10)
optimizer = cl.optim.sgd(lr=0.1)
er = cl.strategies.er(
    model, optimizer, capacity=200, replay_size=20, batch_size=20, loss=cl.trace.loss(cl.losses.cross_entropy(model), slot="losses")
)


@cl.state
class Watched(cl.strategies.ERAgent):
    losses: cl.trace.Trace


def init(key: Tensor) -> Watched:
    return Watched(**vars(er.init(key)), losses=cl.trace.init(20))  # no experience takes more steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/watch"), help="folder for the picture and the log")
    out = parser.parse_args().out
    (out / "log.csv").unlink(missing_ok=True)

    probe = cl.trace.probe("losses", beside=cl.evaluate(model, bench.test))
    tap = cl.taps.csv(out / "log.csv")
    _, history = cl.scan(er.update, init(cl.key(0)), bench.train, probe, tap=tap, stop=cl.stop.patience(2), progress=None)
    curve, steps = cl.trace.read(history["losses"]), history["losses"].count.tolist()
    print(f"{len(curve)} steps, {'stopped' if history['stopped'][-1] else 'never stopped'}; the log is {out / 'log.csv'}")
    for i, (first, last) in enumerate(zip([0, *steps], steps, strict=False)):
        print(f"experience {i}: loss {curve[first]:.2f} -> {curve[last - 1]:.2f}, accuracy {history['accuracy'][i].mean():.3f}")

    # The same for many runs: a curve for each seed and learning rate.
    strategy = cl.Strategy(init, er.update, model)
    runs = cl.sweep(
        strategy, bench, seeds=3, hparams=cl.grid({"opt.lr": [0.03, 0.3]}), probe=cl.trace.probe("losses"), progress=False
    )
    picture = runs.plot_curve("losses", ylabel="loss", ends=runs["losses.count"][0, 0], title="mean of 3 seeds")
    picture.savefig(out / "losses.png")


if __name__ == "__main__":
    main()
