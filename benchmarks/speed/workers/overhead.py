"""A run of B1 through `cl.scan` or `cl.sweep`, plain or with checkpoints, taps and a progress bar."""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path

import torch

import cl_func as cl
from benchmarks.protocol import arguments, serve
from benchmarks.speed.workers import ours
from benchmarks.works import WORKS
from cl_func.experiences import stream as stream_of


def main() -> None:
    """Serve one mode."""
    parser = arguments(__doc__, ("B1",))
    parser.add_argument("--mode", choices=("scan", "scan+", "sweep", "sweep+"), default="scan")
    args = parser.parse_args()
    method, stream = ours.strategy(WORKS[args.work]), ours.experiences(WORKS[args.work])
    update, start = cl.compile(method.update), method.init(cl.key(0))
    strategy = cl.Strategy(method.init, update)
    safe = args.mode.endswith("+")
    torch.set_num_threads(1)  # two threads that wait for each other vary by more than the overhead

    def run(n: int) -> int:
        steps = stream_of([stream[i % len(stream)] for i in range(n)])
        every = max(1, n // 10)
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            checkpoint = cl.Checkpoint(Path(folder) / "checkpoint") if safe else None
            if args.mode.startswith("scan"):
                tap = cl.taps.csv(Path(folder) / "history.csv") if safe else None
                cl.scan(update, start, steps, probe, every=every, donate=True, checkpoint=checkpoint, tap=tap)
            else:
                bench = cl.Benchmark(train=steps, test=steps)
                cl.sweep(
                    strategy,
                    bench,
                    seeds=1,
                    probe=probe,
                    every=every,
                    compile=True,
                    lanes=1,
                    progress=safe,
                    checkpoint=checkpoint,
                )
        return n

    def probe(state: cl.Agent, exp: cl.Experience) -> dict[str, torch.Tensor]:
        return {"rate": state.opt.lr, "seen": state.opt.count}

    serve(run, seconds=args.seconds, steps=args.steps, versions={"torch": torch.__version__, "cl_func": cl.__version__})


if __name__ == "__main__":
    main()
