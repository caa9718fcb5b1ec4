"""How a comparison chooses the hyperparameters of a method from its grid, and where it keeps its runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cl_func import checks
from cl_func.core import Strategy
from cl_func.storage.checkpoint import Checkpoint
from cl_func.sweeps.cells import Cell
from cl_func.sweeps.grids import Grid, zipped
from cl_func.sweeps.runs import Runs
from cl_func.sweeps.sweep import sweep


class Selection(Protocol):
    """How a point of a grid is chosen."""

    def choose(
        self, strategy: Strategy, benchmark: Any, hparams: Grid, *, seeds: Sequence[int], sweep: Callable[..., Runs]
    ) -> Mapping[str, Any]:
        """The values of a point, path -> value, chosen by calls of `sweep`, which is `cl.sweep` with the options of the whole.

        seeds: those of the result, of which a selection uses none. If what it returns has an attribute `how`, this says in words
        how the point was chosen, "chosen on ..."; else it is "chosen by" the selection as a string.
        """
        ...


def check(hparams: Any, select: Any) -> None:
    """Check that there are grids if there is a selection, and the other way round; TypeError or ValueError otherwise."""
    if select is None and hparams:
        raise ValueError("select: expected how to choose from the grids of hparams, such as cl.select.validation(), got None.")
    if select is not None:
        numbers = (type, np.ndarray, np.generic)  # those of numpy have a method of that name, for something else
        if isinstance(select, numbers) or not callable(getattr(select, "choose", None)):
            raise checks.type_error("select", "a selection with a method choose, such as cl.select.validation()", select)
        if not hparams:
            raise ValueError(f"hparams: expected grids for {select!r} to choose from, {{'ER': cl.grid(...)}}, got {hparams!r}.")


@dataclasses.dataclass(frozen=True)
class Kept:
    """Where runs are kept, if anywhere: the folder of `resume`, or a checkpoint."""

    resume: Path | None
    checkpoint: Checkpoint | None

    @property
    def folder(self) -> Path | None:
        """The folder of either."""
        return self.resume if self.checkpoint is None else Path(self.checkpoint.folder)

    def at(self, cell: Cell) -> Kept:
        """The same for a cell."""
        return self.moved(cell.folder)

    def moved(self, to: Callable[[Path], Path]) -> Kept:
        """The same in another folder."""
        checkpoint = self.checkpoint
        if checkpoint is not None:
            checkpoint = dataclasses.replace(checkpoint, folder=to(Path(checkpoint.folder)))
        return Kept(None if self.resume is None else to(self.resume), checkpoint)

    @property
    def arguments(self) -> dict[str, Any]:
        """As `sweep` takes them."""
        return {"resume": self.resume, "checkpoint": self.checkpoint}


@dataclasses.dataclass
class ChoosingSweep:
    """`cl.sweep` with the options of the comparison; each call has a folder of its own, by its number."""

    options: dict[str, Any]
    kept: Kept
    calls: int = 0

    def __call__(self, *arguments: Any, **options: Any) -> Runs:
        kept = self.kept.moved(lambda folder: folder / f"choice-{self.calls}")
        self.calls += 1
        runs = sweep(*arguments, **{**self.options, **kept.arguments, **options})
        if not bool(runs.finished.all()):  # nothing can be chosen from the half of them
            raise KeyboardInterrupt
        return runs


def choose(select: Selection, cell: Cell, seeds: Sequence[int], options: dict[str, Any], kept: Kept) -> tuple[Grid | None, str]:
    """The point that is chosen from the grid of a cell, as a grid of one point, and how in words; seeds: of the result."""
    if cell.grid is None:
        return None, ""
    choosing = ChoosingSweep(options, kept)
    values = select.choose(cell.strategy, cell.benchmark, cell.grid, seeds=list(seeds), sweep=choosing)
    if not isinstance(values, Mapping) or not values:
        raise checks.type_error("select", "its method choose to return the values of a point, path -> value", values)
    return zipped({path: [value] for path, value in values.items()}), str(getattr(values, "how", f"chosen by {select}"))
