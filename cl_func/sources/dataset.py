"""The plain source: tensors that hold all rows."""

from __future__ import annotations

import functools
import hashlib

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.sources.source import Source, Target, target_of
from cl_func.tree import describe, state, static

_TARGET_SHAPES = {"class": ((1,), "[N]"), "multilabel": ((2,), "[N, C]"), "regression": ((1, 2), "[N] or [N, K]")}


@state(kw_only=False)
class Dataset(Source):
    """Inputs and targets that experiences share: `Dataset(x, y)`. What y is says what kind of problem it is (`target`):

        "class"        y [N] int64, labels 0..n_classes-1; `n_classes` is the largest label plus one where it is not given
        "multilabel"   y [N, C] bool, each row any number of C labels; `n_classes` is C
        "regression"   y [N] or [N, K] floating and finite; `n_classes` is 0

    uint8 inputs stay uint8 in memory and are scaled to [0, 1] float32 when they are gathered. int64 inputs are tokens, for a model
    of `input_dtype=torch.int64`, and stay as they are. Raises TypeError or ValueError for wrong types, dtypes, lengths and labels,
    and for inputs and targets that are not finite.
    """

    x: Tensor  # [N, ...] floating, uint8 (images) or int64 (tokens)
    y: Tensor  # [N] int64, [N, C] bool, or [N] or [N, K] floating
    task: Tensor | None = None  # [N] int64, for rows of different tasks; None: all rows have the experience's label
    n_classes: int = static(default=0)

    def __post_init__(self) -> None:
        for name, value in (("x", self.x), ("y", self.y)):
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"{name}: expected a tensor, got {type(value).__name__}; for numpy arrays use cl.data.from_arrays(x, y)."
                )
        if not (self.x.dtype.is_floating_point or self.x.dtype in (torch.uint8, torch.int64)):
            raise TypeError(
                f"x: expected a floating or uint8 tensor, or tokens as int64, got {describe(self.x)}; convert it with x.float(), "
                "or tokens with x.long()."
            )
        target = target_of(self.y)
        ranks, shapes = _TARGET_SHAPES[target]
        if self.x.ndim < 2 or self.y.ndim not in ranks:
            mend = ""
            if self.x.ndim > 1 and target == "class" and self.y.ndim == 2:
                mend = "; if each row of y is one class, one-hot, give y.argmax(1); if it has any number of labels, y > 0"
                if self.y.shape[1] == 1:
                    mend = "; for class labels give y[:, 0]"
            raise ValueError(
                f"x, y: expected shapes [N, ...] and {shapes}, got {list(self.x.shape)} and {list(self.y.shape)}{mend}."
            )
        if len(self.x) != len(self.y):
            raise ValueError(f"x, y: lengths differ: {len(self.x)} rows of x, {len(self.y)} of y.")
        if len(self.y) == 0:
            raise ValueError("x, y: the dataset is empty; give at least one row.")
        checks.positive_int("n_classes", self.n_classes, least=0)
        if self.x.device != self.y.device:
            raise ValueError(f"x, y: on different devices: {self.x.device} and {self.y.device}; move one with .to(device).")
        if self.x.is_meta:
            raise ValueError("x, y: they are on the device meta, which holds no values; move them with .to(device).")
        self._check_finite("x", "inputs", self.x)
        if self.task is not None:
            checks.tensor("task", self.task, self.y.shape[:1], torch.int64, like=self.x)
            if int(self.task.min()) < 0:
                raise ValueError(f"task: task labels are at least 0, got {int(self.task.min())}; number the tasks from 0.")
        object.__setattr__(self, "n_classes", self._count_classes(target))

    @staticmethod
    def _check_finite(name: str, what: str, values: Tensor) -> None:
        """ValueError naming the first row with a value that is NaN or infinite."""
        # A finite sum has finite terms, and needs no memory, where a mask needs a copy; the sum of finite ones may overflow.
        if not values.is_floating_point() or bool(values.sum().isfinite()):
            return
        rows = (~values.isfinite()).reshape(len(values), -1).any(1).nonzero().flatten()
        if len(rows):
            raise ValueError(
                f"{name}: {len(rows)} of {len(values)} rows of {what} are not finite, the first is row {int(rows[0])}; "
                "leave them out, or fill them in."
            )

    def _count_classes(self, target: Target) -> int:
        """How many classes there are, after a check of the targets."""
        if target == "regression":
            if self.n_classes:
                raise ValueError(f"n_classes: y {describe(self.y)}, targets for regression, have no classes, got {self.n_classes}.")
            self._check_finite("y", "targets", self.y)
            return 0
        if target == "multilabel":
            if self.y.shape[1] == 0 or self.n_classes not in (0, self.y.shape[1]):
                raise ValueError(
                    f"n_classes: y {describe(self.y)} has a column for each of {self.y.shape[1]} labels, got {self.n_classes}."
                )
            return self.y.shape[1]
        low, high = int(self.y.min()), int(self.y.max())
        if low < 0:
            raise ValueError(f"y: labels are at least 0, got labels from {low} to {high}; number the classes from 0.")
        n_classes = self.n_classes or high + 1
        if high >= n_classes:
            mend = "subtract 1 (y - 1)" if low > 0 and high == n_classes else f"give n_classes={high + 1}, or other labels"
            raise ValueError(f"y: labels must lie in 0..n_classes-1 = 0..{n_classes - 1}, got labels from {low} to {high}; {mend}.")
        return n_classes

    def __len__(self) -> int:
        return self.y.shape[0]

    @property
    def target(self) -> Target:
        """What kind of problem it is: "class", "multilabel" or "regression"."""
        return target_of(self.y)

    @property
    def on_disk(self) -> bool:
        """False."""
        return False

    def gather_x(self, rows: Tensor) -> Tensor:
        """The inputs of the rows."""
        return self.x[rows]

    def gather_y(self, rows: Tensor) -> Tensor:
        """The targets of the rows."""
        return self.y[rows]

    def gather_task(self, rows: Tensor) -> Tensor | None:
        """The task labels of the rows, if they have their own."""
        return None if self.task is None else self.task[rows]

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """Dtype, shape and a digest of the values of x, y and task, by name; takes about 1 s for 1.5 GB.

        Computed once and cached: tensors changed in place later, which nothing in the library does, keep the old digest.
        """
        return {name: f"{describe(leaf)} #{digest(leaf)}" for name, leaf in tree.items(self)}


def unchecked(x: Tensor, y: Tensor, task: Tensor | None, n_classes: int) -> Dataset:
    """A dataset of rows that were gathered from a source or a memory: not checked again, and they may be traced."""
    made = object.__new__(Dataset)
    for name, value in {"x": x, "y": y, "task": task, "n_classes": n_classes}.items():
        object.__setattr__(made, name, value)
    return made


def digest(values: Tensor) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a tensor's values, in their order; a contiguous tensor is not copied."""
    return hashlib.sha256(as_bytes(values).numpy().data).hexdigest()[:16]


def as_bytes(values: Tensor) -> Tensor:
    """The bytes of a tensor's values, in their order, [n] uint8; they tell NaN of different bits, and 0 and -0, apart."""
    flat = values.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    if flat.stride(0) != 1:  # of one value or none, which is contiguous with any stride
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8)
