"""A tap for Weights & Biases: a run of W&B for each run, its labels as the config."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from cl_func import checks
from cl_func.storage.taps.numbers import Labels, scalars, slashed, title, traces
from cl_func.tree import PyTree


@dataclasses.dataclass(frozen=True)
class WandB:
    """A tap that logs to W&B; made by `wandb`."""

    options: Mapping[str, Any]  # of wandb.init
    runs: dict[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)  # title -> the run of W&B
    logged: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict, compare=False, repr=False)  # before a resumption

    def __reduce__(self) -> Any:
        return type(self), (self.options,)

    def _run(self, labels: Labels) -> Any:
        """The run of W&B for the run with some labels."""
        name = title(labels)
        if name not in self.runs:
            package = checks.optional("wandb", "cl.taps.wandb", "wandb")
            options = {"reinit": "create_new", **self.options}
            if labels is not None:
                options |= {"config": {**(options.get("config") or {}), **labels}, "name": options.get("name", name)}
            if "id" in options:
                if labels is not None:
                    raise ValueError("id: in a sweep each run has an id of its own; leave it out.")
                options = {"resume": "allow", **options}
            self.runs[name] = package.init(**options)
            self.runs[name].define_metric("time")
        return self.runs[name]

    def resume(self, time: int, labels: Labels = None) -> None:
        """Go on with the run that has the id; without entries there is nothing to go on with, and a new run begins."""
        self.finish(labels)
        if time:
            if "id" not in self.options:
                raise ValueError('tap: W&B finds the run that is resumed by its id; give one, cl.taps.wandb(id="...").')
            summary = self._run(labels).summary
            self.logged[title(labels)] = {key: value for key, value in dict(summary).items() if isinstance(value, (int, float))}

    def finish(self, labels: Labels = None) -> None:
        """Finish the run of W&B."""
        self.logged.pop(title(labels), None)
        run = self.runs.pop(title(labels), None)
        if run is not None:
            run.finish()

    def __call__(self, time: int, entry: PyTree, labels: Labels = None) -> None:
        run, of_steps = self._run(labels), set(traces(entry))
        before = self.logged.get(title(labels), {})
        steps: dict[int, dict[str, float]] = {}
        row: dict[str, float] = {} if time <= before.get("time", -1) else {"time": time}
        for name, step, value in scalars(time, entry):
            key = slashed(name)
            axis = f"{key}/step" if name in of_steps else "time"
            if time == 0 or name in of_steps:
                run.define_metric(key, step_metric=axis)
            if step > before.get(axis, -1):
                (steps.setdefault(step, {}) if name in of_steps else row).update({key: value, axis: step})
        for step in sorted(steps):
            run.log(steps[step])
        if row:
            run.log(row)


def wandb(**options: Any) -> WandB:
    """Log to Weights & Biases: each number of an entry against "time", and each value of a trace against its own step.

    options: those of `wandb.init`, such as project, group, config, dir, and mode="offline". In a sweep there is a run of W&B for
        each run, with its labels in the config and as its name; of one that was interrupted a new run of W&B takes the place.

    A run with checkpoints that is resumed goes on with the run of W&B that has its `id`, which it must have, and does not log again
    what is logged there already; offline that is not known, and what came after the checkpoint is logged again.
    Raises ImportError where wandb is missing, TypeError for an option that `wandb.init` does not have.
    """
    package = checks.optional("wandb", "cl.taps.wandb", "wandb")
    known = set(inspect.signature(package.init).parameters)
    unknown = [name for name in options if name not in known]
    if unknown:
        raise TypeError(f"options: wandb.init has no {unknown[0]!r}; it has {', '.join(sorted(known))}.")
    return WandB(options)
