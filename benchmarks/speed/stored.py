"""Training on a file larger than memory: rows per second beside reading alone and training alone, and the memory that it takes.

    python -m benchmarks.speed.stored --folder FOLDER [--gigabytes 20] [--steps 1000]

Makes a file of random images, uint8 [N, 3, 32, 32], and trains an MLP on minibatches of 256: in the order of the file, all of it,
and in a shuffled order, for so many steps. Each contender is a process of its own, on one thread and a reading one, and begins with
none of the file in the system's cache. The memory is the most that the process has held: all of it (VmHWM), and of it, as sampled,
what is its own (RssAnon) and what belongs to files, such as libraries (RssFile). The file is deleted at the end.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cl_func as cl
from benchmarks import machine, results
from benchmarks.process import ROOT, command_line, environment, last_line

SHAPE = (3, 32, 32)
ROW_BYTES = 3 * 32 * 32
BATCH = 256
CLASSES = 10
HIDDEN = (64,)
BLOCK = 1 << 26
ORDERS = ("file", "shuffled")
CONTENDERS = (("training alone", "shuffled"), *((what, order) for order in ORDERS for what in ("reading alone", "training")))


def make_file(path: Path, gigabytes: float) -> int:
    """A .npy file of random images; the number of its rows."""
    n = int(gigabytes * 1e9) // ROW_BYTES
    words = np.random.Generator(np.random.SFC64(0))
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": (n, *SHAPE)}
        np.lib.format.write_array_header_2_0(file, header)
        for start in range(0, n * ROW_BYTES, BLOCK):
            file.write(words.bytes(min(BLOCK, n * ROW_BYTES - start)))
        file.flush()
        os.fsync(file.fileno())
    return n


def forget(path: Path) -> None:
    """Drop the file from the system's cache."""
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def status() -> dict[str, float]:
    """The memory of this process, in MB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    pairs = (line.split(":") for line in lines)
    return {name: int(value.split()[0]) / 1024 for name, value in pairs if name in ("VmHWM", "RssAnon", "RssFile")}


class Peak:
    """The most memory of each kind, looked at twenty times a second."""

    def __init__(self) -> None:
        self.most = status()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.look()
            time.sleep(0.05)

    def look(self) -> dict[str, float]:
        """The most so far."""
        now = status()
        self.most = {name: max(value, now[name]) for name, value in self.most.items()}
        return self.most


def read_only(agent: cl.Agent, exp: cl.Experience) -> cl.Agent:
    """A step that reads its rows, and nothing else."""
    exp.source.gather_x(exp.rows)
    return agent


def contend(path: Path, what: str, order: str, steps: int) -> dict[str, Any]:
    """One contender, in this process: rows per second, and its memory."""
    torch.set_num_threads(1)
    peak = Peak()
    model = cl.models.mlp(ROW_BYTES, HIDDEN, CLASSES)
    optimizer = cl.optim.sgd(0.01)
    step: Callable[..., Any] = cl.train_step(cl.losses.cross_entropy(model), optimizer)
    weights, key = cl.random.split(cl.key(0))
    net = model.init(weights)
    start = cl.Agent(key=key, model=net, opt=optimizer.init(net.params))
    if what == "training alone":
        rows = 40 * BATCH
        x = torch.randint(0, 256, (rows, *SHAPE), dtype=torch.uint8)
        source: cl.sources.Source = cl.Dataset(x, torch.arange(rows) % CLASSES)
    else:
        n = np.load(path, mmap_mode="r").shape[0]
        source = cl.data.stored(path, torch.arange(n) % CLASSES)
    loop: Any = functools.partial(cl.minibatches, step if what != "reading alone" else read_only, batch_size=BATCH)
    exp = cl.experience(source)
    if order == "file":
        taken = -(-len(exp) // BATCH)
        update, warm = loop(shuffle=False), exp.take(exp.rows[: 2 * BATCH], exp.valid[: 2 * BATCH])
    else:
        taken, update, warm = steps, loop(iterations=steps), exp
    if what != "reading alone":
        update = cl.compile(update)
        cl.fold(update, start, [warm], donate=True)
    if what != "training alone":
        forget(path)
    began = time.perf_counter()
    cl.fold(update, start, [exp], donate=True)
    seconds = time.perf_counter() - began
    rate = taken * BATCH / seconds
    return {"what": what, "order": order, "steps": taken, "seconds": seconds, "rows per second": rate, **peak.look()}


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each contender."""
    lines = ["| order | what | steps | rows/s | MB/s | VmHWM, MB | RssAnon | RssFile |", "|" + " --- |" * 8]
    for r in rows:
        rate, memory = r["rows per second"], " | ".join(f"{r[name]:.0f}" for name in ("VmHWM", "RssAnon", "RssFile"))
        figures = f"{r['steps']} | {rate:,.0f} | {rate * ROW_BYTES / 1e6:.0f} | {memory}"
        lines.append(f"| {r['order']} | {r['what']} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.stored", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="where the file is made")
    parser.add_argument("--gigabytes", type=float, default=20, help="the size of the file")
    parser.add_argument("--steps", type=int, default=1000, help="minibatches in a shuffled order")
    parser.add_argument("--out", type=Path, default=Path("out/stored"), help="folder for stored.json and stored.md")
    parser.add_argument("--contender", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    path: Path = args.folder / "stored.npy"
    if args.contender:
        what, order = args.contender
        print(json.dumps(contend(path, what, order, args.steps)))
        return
    facts = {**machine.describe(), "torch": torch.__version__, "gigabytes": f"{args.gigabytes:g}"}
    rows = []
    try:
        began = time.perf_counter()
        n = make_file(path, args.gigabytes)
        facts["rows"] = str(n)
        print(f"{n} rows written in {time.perf_counter() - began:.0f} s", flush=True)
        for what, order in CONTENDERS:
            forget(path)
            words = [sys.executable, "-m", "benchmarks.speed.stored", "--folder", str(args.folder), "--steps", str(args.steps)]
            done = subprocess.run(
                [*words, "--contender", what, order], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise RuntimeError(f"{what}, {order}: {last_line(done.stderr)}")
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    finally:
        path.unlink(missing_ok=True)
    command = command_line("benchmarks.speed.stored", sys.argv[1:], ("--out", "--folder"))
    args.out.mkdir(parents=True, exist_ok=True)
    results.write(args.out / "stored.json", {"command": command, "machine": facts, "rows": rows})
    page = ["# Data on a disk", f"`{command}`", "\n".join(f"- {n}: {v}" for n, v in facts.items()), table(rows)]
    (args.out / "stored.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")
    print(f"\n{table(rows)}\n\nwritten: {args.out}/stored.json, stored.md")


if __name__ == "__main__":
    main()
