"""The works in this library: a strategy as shipped, eager or compiled, its runs as lanes of one program or in a loop."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools

import torch

import cl_func as cl
from benchmarks.peers import nets
from benchmarks.protocol import arguments, serve, synchronize
from benchmarks.works import CLASSES, WORKS, Work


def strategy(work: Work) -> cl.Strategy:
    """The method of a work from cl.strategies."""
    model = cl.models.mlp(work.widths[0], work.widths[1:-1], work.widths[-1]) if work.widths else cl.models.slim_resnet18()
    optimizer = cl.optim.adam(work.lr) if work.optimizer == "adam" else cl.optim.sgd(work.lr)
    batch_size = None if work.online else work.batch
    if work.method == "er":
        return cl.strategies.er(model, optimizer, capacity=work.capacity, replay_size=work.replayed, batch_size=batch_size)
    if work.method == "lwf":
        return cl.strategies.lwf(model, optimizer, batch_size=batch_size)
    return cl.strategies.naive(model, optimizer, batch_size=batch_size)


def experiences(work: Work, device: str = "cpu") -> list[cl.Experience]:
    """The train stream as a list: for no contender is making the experiences timed."""
    x, y = (part.to(device) for part in nets.data(work))
    data = cl.Dataset(x, y, n_classes=CLASSES)
    bench = cl.streams.split_by_class(data, data, n_experiences=work.experiences)
    return list(cl.streams.split_online(bench, work.batch).train if work.online else bench.train)


def dying(state: cl.Agent, fraction: float) -> cl.Agent:
    """The state with the first units of each hidden layer dead, and of their weights the averages that Adam is left with."""
    changes: dict[str, torch.Tensor] = {}
    for name, bias in list(state.model.params.items())[1:-1:2]:
        n, weight = round(fraction * len(bias)), name.replace("bias", "weight")
        changes[f"model.params.{name}"] = torch.cat([torch.full((n,), -1e3), bias[n:]])
        for path, leaf in cl.tree.items(state.opt):
            if path.endswith(weight):
                changes[f"opt.{path}"] = torch.cat([torch.full_like(leaf[:n], 1e-40), leaf[n:]])
    return cl.tree.set(state, changes)


def main() -> None:
    """Serve one work in one mode at one number of lanes."""
    parser = arguments(__doc__)
    parser.add_argument("--mode", choices=("eager", "compiled"), default="compiled")
    parser.add_argument("--lanes", type=int, default=1, help="runs at once; one is run without a lane axis")
    parser.add_argument("--loop", action="store_true", help="one run after the other instead of lanes of one program")
    parser.add_argument("--capacity", type=int, help="capacity of the memory (default: the work's); the memory starts full")
    parser.add_argument(
        "--dead", type=float, default=0.0, help="fraction of the hidden units that are dead, as a long run leaves them"
    )
    parser.add_argument("--threads", type=int, help="threads within an operation (default: torch's)")
    parser.add_argument("--chunks", type=int, default=1, help="chunks of lanes side by side, a thread each, as in cl.sweep")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    work = WORKS[args.work]
    method = strategy(dataclasses.replace(work, capacity=args.capacity or work.capacity))
    update, states = method.update, [method.init(cl.key(seed, args.device)) for seed in range(args.lanes)]
    if args.capacity:
        states = [cl.tree.set(state, {"replay.seen": torch.tensor(args.capacity, device=args.device)}) for state in states]
    if args.dead:
        states = [dying(state, args.dead) for state in states]
    if args.lanes > 1 and not args.loop:
        update, states = cl.vmap(update), [cl.tree.stack(states)]
    states = states * args.chunks
    if args.mode == "compiled":
        # What cl.fold(..., donate=True) does, which copies the state once per call. A repetition is only a part of an experiment,
        # so the copy is made once, below.
        update = cl.compile(update, donate=True)
    states = [cl.tree.map(torch.clone, state) for state in states]
    stream = experiences(work, args.device)
    per_experience = 1 if work.online else -(-len(stream[0]) // work.batch)
    position = itertools.count()
    pool = concurrent.futures.ThreadPoolExecutor(args.chunks, initializer=torch.set_num_threads, initargs=(1,))

    def run(n: int) -> int:
        count = -(-n // per_experience)
        part = [stream[next(position) % len(stream)] for _ in range(count)]
        if args.chunks == 1:
            states[:] = [cl.fold(update, state, part) for state in states]
        else:
            states[:] = pool.map(lambda state: cl.fold(update, state, part), states)
        synchronize(args.device)
        return count * per_experience

    state_mb = sum(leaf.nbytes for state in states for leaf in cl.tree.leaves(state)) / 1e6
    serve(
        run,
        seconds=args.seconds,
        steps=args.steps,
        lanes=args.lanes * args.chunks,
        state_mb_per_lane=state_mb / (args.lanes * args.chunks),
        versions={"torch": torch.__version__, "cl_func": cl.__version__},
        threads=torch.get_num_threads(),
    )


if __name__ == "__main__":
    main()
