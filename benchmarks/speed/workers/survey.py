"""ER of the online survey in this library, on random images; a step is one minibatch, stepped on three times."""

from __future__ import annotations

import argparse
import itertools

import torch

import cl_func as cl
from benchmarks.accuracy.online_methods import METHODS
from benchmarks.protocol import serve

ROWS, CLASSES, EXPERIENCES, BATCH, MEMORY = 10_000, 100, 20, 10, 2_000


def main() -> None:
    """Serve the run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1, help="threads within an operation")
    parser.add_argument("--lanes", type=int, default=1, help="runs at once")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one repetition")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    x = torch.randint(0, 256, (ROWS, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = cl.Dataset(x, torch.arange(ROWS) % CLASSES, n_classes=CLASSES)
    bench = cl.streams.split_by_class(data, data, n_experiences=EXPERIENCES)
    stream = list(cl.streams.split_online(bench, BATCH).train)
    strategy = METHODS["ER"].strategy(MEMORY, 20)
    states = [strategy.init(cl.key(seed)) for seed in range(args.lanes)]
    many = args.lanes > 1
    update = cl.compile(cl.vmap(strategy.update) if many else strategy.update, donate=True)
    state = cl.tree.map(torch.clone, cl.tree.stack(states) if many else states[0])
    position = itertools.count()

    def run(n: int) -> int:
        nonlocal state
        state = cl.fold(update, state, [stream[next(position) % len(stream)] for _ in range(n)])
        return n

    serve(run, seconds=args.seconds, steps=None, lanes=args.lanes, versions={"torch": torch.__version__})


if __name__ == "__main__":
    main()
