"""The measured floating-point peak of the machine: GFLOP/s of a large float32 matrix product, on all cores by default."""

from __future__ import annotations

import argparse
import json
import sys
import time

import torch

SIZE = 2048


def main() -> None:
    """Answer each "go" with the best of the products that fit in --seconds: a peak, so the fastest counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--threads", type=int, help="threads (default: torch's)")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    a, b, out = (torch.randn(SIZE, SIZE) for _ in range(3))
    torch.mm(a, b, out=out)
    print(json.dumps({"ready": True, "versions": {"torch": torch.__version__}, "threads": torch.get_num_threads()}), flush=True)
    for line in sys.stdin:
        if line.strip() == "go":
            best, end = float("inf"), time.perf_counter() + args.seconds
            while time.perf_counter() < end:
                start = time.perf_counter()
                torch.mm(a, b, out=out)
                best = min(best, time.perf_counter() - start)
            print(json.dumps({"gflops": 2 * SIZE**3 / best / 1e9}), flush=True)


if __name__ == "__main__":
    main()
