"""How long the first step of B1 takes, compilation included, in a process of its own: one JSON line {"seconds": ...}.

Cold or cached is decided by the folder in TORCHINDUCTOR_CACHE_DIR, which the caller gives.
"""

from __future__ import annotations

import argparse
import json
import time

import cl_func as cl
from benchmarks.speed.workers.ours import experiences, strategy
from benchmarks.works import WORKS


def main() -> None:
    """Take one step and tell the seconds."""
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
