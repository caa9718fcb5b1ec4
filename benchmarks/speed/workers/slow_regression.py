"""SGD on one example at a time, 20-5-1, by lanes: the slowly changing regression of `examples/plasticity.py`, on random rows."""

from __future__ import annotations

import argparse

import torch
from torch import nn

import cl_func as cl
from benchmarks.protocol import serve
from cl_func.experiences import stack
from cl_func.sources.held import in_memory

EXAMPLES, FEATURES, HIDDEN, LR = 10_000, 20, 5, 0.01


def network() -> nn.Module:
    """20-5-1 with ReLU."""
    return nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))


def main() -> None:
    """Serve a number of lanes; a step is one example of each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lanes", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of one repetition")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = cl.models.from_module(network, n_classes=1, input_shape=(FEATURES,))
    loss = cl.losses.mean_squared_error(model)
    plain = cl.strategies.naive(model, cl.optim.sgd(LR), loss=loss, batch_size=1)
    strategy = cl.extend(plain, before_step=cl.trace.online.measure(model, target="regression"))

    def rows(lane: int) -> cl.Dataset:
        x = cl.random.normal(cl.key(lane), (EXAMPLES, FEATURES))
        return cl.Dataset(x, x.abs().sum(1) / 10)

    def experience(lane: int) -> cl.Experience:
        held = in_memory(rows(lane), torch.arange(EXAMPLES))
        return cl.tree.replace(cl.experience(rows(lane)), source=held)

    exp = stack([experience(lane) for lane in range(args.lanes)])
    update = cl.compile(cl.vmap(strategy.update), donate=True)
    state = cl.tree.map(torch.clone, cl.tree.stack([strategy.init(cl.key(lane)) for lane in range(args.lanes)]))

    def run(n: int) -> int:
        nonlocal state
        count = -(-n // EXAMPLES)
        state = cl.fold(update, state, [exp] * count)
        return count * EXAMPLES

    serve(run, seconds=args.seconds, steps=None, lanes=args.lanes, versions={"torch": torch.__version__})


if __name__ == "__main__":
    main()
