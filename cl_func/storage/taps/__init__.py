"""Taps: where the history of a run is written while it grows. `cl.scan(..., tap=cl.taps.csv("run.csv"))`.

A tap is a function `(time, entry)`: `time` counts the entries of the history from 0, `entry` is the tree that the probe returned,
with `cl.trace.Steps` in place of each trace: what was recorded since the entry before. In a sweep it is called once for each run,
also where runs share a program, as `(time, entry, labels)` with the seed and the hyperparameters of the run by name:
`cl.sweep(..., tap=cl.taps.wandb(project="mine"))`.

Two methods are called where a tap has them, in a sweep with the labels as a further argument. `resume(time)` comes first in a run
with checkpoints; it drops what was written of the entries from `time` on, which will come again, and what a crash left incomplete.
It may return how many entries the tap holds; those that it lacks come again, too. In a sweep with a folder it comes first for each
run that the folder does not hold complete, with time 0: all entries of the run come, those that were made before the interruption
too. `finish()` is called when the run is over.

The taps of this package that write lines leave alone what another run wrote: TapError, a RuntimeError. Instead of `resume` they
have `reopen`, which is told where the run is kept and what its history is; to put one into a tap of your own, use `several`.
"""

from cl_func.core.tapping import Tap
from cl_func.storage.taps.board import TensorBoard, tensorboard
from cl_func.storage.taps.combined import Several, Warned, several, warn
from cl_func.storage.taps.lines import Lines, csv, json_lines
from cl_func.storage.taps.mlflow_runs import MLflow, mlflow
from cl_func.storage.taps.wandb_runs import WandB, wandb

__all__ = [
    "Lines",
    "MLflow",
    "Several",
    "Tap",
    "TensorBoard",
    "WandB",
    "Warned",
    "csv",
    "json_lines",
    "mlflow",
    "several",
    "tensorboard",
    "wandb",
    "warn",
]
