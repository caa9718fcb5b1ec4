"""Sources: what experiences take their rows from, evaluated within the step, so that nothing is copied beforehand.

    Dataset        tensors that hold all rows
    Permuted       the features of another source in another order
    Rotated        the images of another source, rotated; made by rotate
    Noisy          the inputs of another source with noise, the same for a row each time
    Mapped         a function of the inputs of another source
    Relabelled     other class labels for the rows of another source
    TaskLabelled   a task label for each row of another source
    Joined         the rows of several views of one source; made by join
    Generated      rows that are drawn when they are asked for
    InMemory       the rows of another source, gathered once, of each lane its own; made by in_memory
    Stored         rows that are read from a disk when they are asked for; made by cl.data.stored

A source is an immutable pytree with `gather_x(rows)`, `gather_y(rows)` and `gather_task(rows)`. Views of other sources nest, and
their parameters, such as an order, may differ between the lanes of a run, which share the data. See `cl_func.sources.source` for
a source of your own.
"""

from cl_func.sources.dataset import Dataset
from cl_func.sources.generated import Generated
from cl_func.sources.held import InMemory, in_memory
from cl_func.sources.joined import Joined, join
from cl_func.sources.labels import Relabelled, TaskLabelled
from cl_func.sources.mapped import Mapped
from cl_func.sources.noisy import Noisy
from cl_func.sources.permuted import Permuted
from cl_func.sources.rotated import Rotated, rotate
from cl_func.sources.source import Source
from cl_func.sources.stored import Stored
from cl_func.sources.view import View
from cl_func.tree import per_lane

__all__ = [
    "Dataset",
    "Generated",
    "InMemory",
    "Joined",
    "Mapped",
    "Noisy",
    "Permuted",
    "Relabelled",
    "Rotated",
    "Source",
    "Stored",
    "TaskLabelled",
    "View",
    "in_memory",
    "join",
    "per_lane",
    "rotate",
]
