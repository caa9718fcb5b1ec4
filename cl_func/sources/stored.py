"""A source larger than memory: its inputs are read from a disk, minibatch by minibatch; its targets are in memory."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from cl_func import checks
from cl_func.sources import reading
from cl_func.sources.dataset import Dataset, digest
from cl_func.sources.source import Source, Target, target_of
from cl_func.sources.view import all_rows
from cl_func.tree import describe, state, static


@state
class Stored(Source):
    """Inputs [N, ...] on a disk, with targets and task labels in memory; made by `cl.data.stored`, which describes it.

    Its gather_x reads, also within a compiled step, and is pure as long as nobody writes to the file, which raises ValueError. So
    does a gather of more than `largest` bytes at once, whose message says what to do instead.
    """

    file: reading.Reader = static()
    y: Tensor  # [N] int64, [N, C] bool, or [N] or [N, K] floating
    task: Tensor | None = None  # [N] int64
    n_classes: int = static(default=0)
    largest: int = static(default=1 << 28)  # bytes of one gather

    def __post_init__(self) -> None:
        checks.instance("file", self.file, reading.Reader, "what cl.data.stored(x, y) makes of x")
        checks.positive_int("largest", self.largest)
        if isinstance(self.y, Tensor) and self.y.ndim and len(self.y) != len(self.file):
            raise ValueError(f"x, y: lengths differ: {len(self.file)} rows of x, {len(self.y)} of y.")
        y = self.y
        # All that a dataset asks of targets, of one without inputs: a single number for all rows.
        x = torch.zeros(1, 1, device=y.device).expand(len(y), 1) if isinstance(y, Tensor) and y.ndim else torch.zeros(1, 1)
        object.__setattr__(self, "n_classes", Dataset(x, y, self.task, self.n_classes).n_classes)

    def __len__(self) -> int:
        return self.y.shape[0]

    @property
    def target(self) -> Target:
        """What kind of problem it is: "class", "multilabel" or "regression"."""
        return target_of(self.y)

    @property
    def on_disk(self) -> bool:
        """True."""
        return True

    def gather_x(self, rows: Tensor) -> Tensor:
        """The inputs of the rows, read from the disk."""
        size = rows.numel() * self.file.row_bytes
        if size > self.largest:
            raise ValueError(
                f"x: {rows.numel()} rows of {self.file!r} at once are {size:,} bytes, more than largest={self.largest:,}. "
                "Take fewer at a time, by a batch_size or by smaller experiences, such as those of streams.split_online; "
                "or allow it, by cl.data.stored(..., largest=...)."
            )
        return reading.read(self.file, rows)

    def gather_y(self, rows: Tensor) -> Tensor:
        """The targets of the rows."""
        return self.y[rows]

    def gather_task(self, rows: Tensor) -> Tensor | None:
        """The task labels of the rows, if they have their own."""
        return None if self.task is None else self.task[rows]

    def read_ahead(self, rows: Tensor) -> None:
        """Begin to read rows [...], on another thread."""
        reading.ahead(self.file, rows)

    @property
    def x(self) -> Tensor:
        """All inputs [N, ...], read at each access, if they are not too large."""
        return self.gather_x(all_rows(self))

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """What identifies its values, by name, wherever the file lies.

        Of x: dtype, shape, a digest of a sample (the first row, the last and up to a thousand between, of at most 32 MB) and
        when the file was last written to; of y and task: dtype, shape and a digest of all values.
        """
        found = {"x": f"{self.file.dtype}{list(self.file.shape)} #{self.file.digest}"}
        if self.file.modified is not None:
            found["x.modified"] = self.file.modified
        for name, leaf in (("y", self.y), ("task", self.task)):
            if leaf is not None:
                found[name] = f"{describe(leaf)} #{digest(leaf)}"
        return found
