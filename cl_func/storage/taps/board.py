"""A tap for TensorBoard: every number of the history is a scalar."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_func import checks
from cl_func.storage.taps.numbers import Labels, check_path, scalars, slashed, title, traces
from cl_func.tree import PyTree

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


LONGEST = 255  # bytes in the name of a folder


@dataclasses.dataclass(frozen=True)
class TensorBoard:
    """A tap that writes scalars for TensorBoard; made by `tensorboard`."""

    folder: Path
    writers: dict[Path, SummaryWriter] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    def __reduce__(self) -> Any:
        return type(self), (self.folder,)

    def _folder(self, labels: Labels) -> Path:
        return self.folder / _folder_name(title(labels)) if labels else self.folder

    def _writer(self, folder: Path, purge_step: int) -> SummaryWriter:
        """The writer of a folder; a new one makes TensorBoard forget what was written there from a step on."""
        from torch.utils.tensorboard import SummaryWriter

        if folder not in self.writers:
            self.writers[folder] = SummaryWriter(str(folder), purge_step=purge_step)
        return self.writers[folder]

    def resume(self, time: int, labels: Labels = None) -> int:
        """Make TensorBoard forget what was written from `time` on; of a folder that is not there it lacks what was before, too."""
        self.finish(labels)
        folder = self._folder(labels)
        held = time if any(folder.glob("*tfevents*")) else 0
        self._writer(folder, held)
        return held

    def finish(self, labels: Labels = None) -> None:
        """Close the files of a run."""
        folder = self._folder(labels)
        for one in (folder, folder / "steps"):
            if one in self.writers:
                self.writers.pop(one).close()

    def __call__(self, time: int, entry: PyTree, labels: Labels = None) -> None:
        folder, of_steps = self._folder(labels), set(traces(entry))
        for name, step, value in scalars(time, entry):
            writer = self._writer(folder / "steps" if name in of_steps else folder, step)
            writer.add_scalar(slashed(name), value, step)
        for one in (folder, folder / "steps"):
            if one in self.writers:
                self.writers[one].flush()


def _folder_name(name: str) -> str:
    """A name as that of a folder: where it has to be another one, a digest tells apart what would be the same."""
    data = name.replace("/", "_").replace("\0", "_").encode("utf-8", "replace")
    if data == name.encode("utf-8", "surrogatepass") and len(data) <= LONGEST:
        return name
    short = data[: LONGEST - 9].decode("utf-8", "ignore")
    return f"{short}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def tensorboard(folder: str | Path) -> TensorBoard:
    """Write every number of the history as a scalar for TensorBoard, such as `accuracy/0` at the step `time`.

    Traces go to the run "steps" below it, each value at its own step. In a sweep each run has a folder of its own in `folder`, by
    its labels; a digest follows where these cannot be the name of a folder. Raises ImportError where tensorboard is missing.
    """
    folder = check_path("folder", folder, "folder")
    checks.optional("torch.utils.tensorboard", "cl.taps.tensorboard", "tensorboard")
    return TensorBoard(folder)
