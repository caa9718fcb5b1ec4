"""The ledger of a sweep: which runs are finished, with their histories, in memory and, if asked, in a folder."""

from __future__ import annotations

import json
import math
import shutil
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cl_func import files


class Ledger:
    """Histories by run. With a folder, each chunk is written to a file when it is finished, and read again at the start."""

    def __init__(self, axes: dict[str, list[Any]], shape: list[int], folder: str | Path | None, fingerprint: str) -> None:
        self.shape, self.folder = shape, None if folder is None else Path(folder)
        self.histories: dict[int, dict[str, Any]] = {}
        if self.folder is None:
            return
        plan, text = self.folder / "sweep.json", json.dumps({"axes": axes, "fingerprint": fingerprint}, default=str)
        if plan.exists() and plan.read_text() != text:
            raise ValueError(
                f"resume: {self.folder} holds another sweep, of {plan.read_text()}; give this one, of {text}, its own folder."
            )
        files.write_bytes(plan, text.encode())
        for path in sorted(self.folder.glob("chunk-*.safetensors")):
            try:
                tensors, _ = files.read(path, "chunk")
            except files.DamagedFile as error:
                warnings.warn(f"resume: passed over a damaged file; its runs are run again. {error}", stacklevel=4)
                continue
            for name, value in tensors.items():
                place, _, path_in_history = name.partition(".")
                self.histories.setdefault(int(place), {})[path_in_history] = value.numpy()

    def has(self, place: int) -> bool:
        """Whether a run is finished."""
        return place in self.histories

    def count(self) -> int:
        """How many runs are finished."""
        return len(self.histories)

    def add(self, runs: Sequence[Any], histories: Sequence[dict[str, Any]]) -> None:
        """Enter finished runs; the file appears whole or not at all."""
        self.histories.update({run.place: history for run, history in zip(runs, histories, strict=True)})
        if self.folder is None:
            return
        named = {f"{r.place}.{k}": torch.from_numpy(v) for r, h in zip(runs, histories, strict=True) for k, v in h.items()}
        files.write(self.folder / f"chunk-{runs[0].place:06d}-{uuid.uuid4().hex[:8]}.safetensors", named, {"kind": "chunk"})
        for partial in self.folder.glob("partial-*/runs.json"):
            if all(self.has(place) for place in json.loads(partial.read_text())):
                shutil.rmtree(partial.parent, ignore_errors=True)

    def collect(self) -> tuple[dict[str, Tensor], Tensor]:
        """(history: name -> [*shape, time, ...], finished [*shape]); floating histories of missing runs are NaN, others 0."""
        n = math.prod(self.shape)
        finished = torch.tensor([i in self.histories for i in range(n)])
        if not self.histories:
            return {}, finished.reshape(self.shape)
        like = next(iter(self.histories.values()))
        missing = {k: np.full_like(v, math.nan if np.issubdtype(v.dtype, np.floating) else 0) for k, v in like.items()}
        rows = [self.histories.get(i, missing) for i in range(n)]
        history = {k: torch.from_numpy(np.stack([row[k] for row in rows])) for k in like}
        return {k: v.reshape(*self.shape, *v.shape[1:]) for k, v in history.items()}, finished.reshape(self.shape)
