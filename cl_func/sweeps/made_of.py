"""What the runs of a sweep are made of: saved ones are taken for those of a sweep only where that is the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from torch import Tensor

from cl_func import random, tree
from cl_func.experiences import Benchmark
from cl_func.storage import fingerprint
from cl_func.storage.entries import Entries
from cl_func.sweeps.run_config import FirstRun, check_benchmark, stream_key
from cl_func.trace import TraceProbe


def made_of(first: FirstRun, bench: Benchmark | Callable[[Tensor], Benchmark]) -> Entries:
    """The fingerprint that a sweep must share with its folder and its workers, on any device.

    Of initial states, and of the streams that a function of a key makes, it has those of seed 0: such a function may read its data
    from a file, whose content is not in its code.
    """
    config = first.config
    strategy = config.strategy
    parts: dict[str, Any] = {"train": bench.train, "test": bench.test} if isinstance(bench, Benchmark) else {"benchmark": bench}
    probe = strategy.model if config.probe is None else config.probe  # the model is evaluated on the test stream
    if isinstance(config.probe, TraceProbe) and config.probe.beside is None and config.evaluates:
        probe = tree.replace(config.probe, beside=strategy.model)
    if not isinstance(bench, Benchmark):
        made = first.benchmark if first.run.seed == 0 and config.device is None else check_benchmark(bench(stream_key(0)))
        parts |= {"made.train": made.train, "made.test": made.test}
    if not config.evaluates:
        parts = {name: part for name, part in parts.items() if name not in ("test", "made.test")}
    state = first.initial if first.run.seed == 0 else strategy.init(random.key(0))
    return fingerprint.of(update=strategy.update, init=strategy.init, state=state, probe=probe, every=config.every, **parts)


def digest(entries: Entries) -> str:
    """A text that is the same for the same entries, behind the versions by which entries of the same things may differ."""
    own = {path: text for path, text in entries.items() if not path.startswith("version.")}
    versions = [entries[f"version.{name}"] for name in ("python", "cl_func")]
    return " ".join([*versions, hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:32]])


def differ(a: str | None, b: str | None) -> bool:
    """Whether two digests are of other entries, as far as can be told."""
    return a is not None and b is not None and a.rpartition(" ")[0] == b.rpartition(" ")[0] and a != b
