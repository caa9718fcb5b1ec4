"""The time of the first step of B1, including compilation, in a process of its own: one JSON line {"seconds": ...}.

Whether the cache is cold depends on the folder TORCHINDUCTOR_CACHE_DIR, which the caller sets.
"""

from __future__ import annotations

import argparse
import json
import time

import cl_func as cl
from benchmarks.speed.workers.ours import experiences, strategy
from benchmarks.works import WORKS


def main() -> None:
    """Take one step and print the seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lanes", type=int, default=4)
    args = parser.parse_args()
    method, stream = strategy(WORKS["B1"]), experiences(WORKS["B1"])
    update = cl.compile(cl.vmap(method.update))
    states = cl.tree.stack([method.init(cl.key(seed)) for seed in range(args.lanes)])
    start = time.perf_counter()
    cl.fold(update, states, stream[:1], donate=True)
    print(json.dumps({"seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
