"""A tap for MLflow: a run of MLflow for each run, its labels as the parameters."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time as clock
from typing import Any

from cl_func import checks
from cl_func.storage.taps.numbers import Labels, scalars, slashed, title
from cl_func.tree import PyTree

TAG = "cl_func.run"  # by which a run is found again
BATCH = 1000  # metrics in one request, the most that MLflow takes


@dataclasses.dataclass(frozen=True)
class MLflow:
    """A tap that logs to MLflow; made by `mlflow`."""

    experiment: str
    tracking_uri: str | None
    run_name: str | None
    runs: dict[str, str] = dataclasses.field(default_factory=dict, compare=False, repr=False)  # title -> the id of the run
    logged: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict, compare=False, repr=False)  # before a resumption

    def __reduce__(self) -> Any:
        return type(self), (self.experiment, self.tracking_uri, self.run_name)

    def _client(self) -> Any:
        return checks.optional("mlflow", "cl.taps.mlflow", "mlflow").MlflowClient(self.tracking_uri)

    def _experiment(self, client: Any) -> str:
        found = client.get_experiment_by_name(self.experiment)
        made: str = client.create_experiment(self.experiment) if found is None else found.experiment_id
        return made

    def _tag(self, labels: Labels) -> str:
        """A digest of the name and the labels of a run, in any order, which may hold any character."""
        ordered = None if labels is None else dict(sorted(labels.items()))
        return hashlib.sha256(json.dumps({"name": self.run_name, "labels": ordered}).encode()).hexdigest()[:16]

    def _run(self, client: Any, labels: Labels) -> str:
        """The id of the run of MLflow for the run with some labels; a new one where it has none yet."""
        name = title(labels)
        if name not in self.runs:
            given = " ".join(part for part in (self.run_name, name) if part) or None
            run = client.create_run(self._experiment(client), run_name=given, tags={TAG: self._tag(labels)})
            self.runs[name] = run.info.run_id
            for key, value in (labels or {}).items():
                client.log_param(run.info.run_id, key, value)
        return self.runs[name]

    def resume(self, time: int, labels: Labels = None) -> None:
        """Go on with the run that was interrupted; without entries there is nothing to go on with, and a new run begins."""
        client, name = self._client(), title(labels)
        self.runs.pop(name, None)
        self.logged.pop(name, None)
        found = client.search_runs([self._experiment(client)], f"tags.`{TAG}` = '{self._tag(labels)}'")  # the newest first
        if not time:
            for run in found:
                if run.info.status == "RUNNING":
                    client.set_terminated(run.info.run_id, "KILLED")
            return
        if not found:
            raise ValueError(f"tap: the experiment {self.experiment!r} does not hold the run that is resumed.")
        run_id = self.runs[name] = found[0].info.run_id
        client.update_run(run_id, status="RUNNING")
        self.logged[name] = {
            key: max(metric.step for metric in client.get_metric_history(run_id, key)) for key in found[0].data.metrics
        }

    def finish(self, labels: Labels = None) -> None:
        """Finish the run of MLflow."""
        self.logged.pop(title(labels), None)
        run_id = self.runs.pop(title(labels), None)
        if run_id is not None:
            self._client().set_terminated(run_id)

    def __call__(self, time: int, entry: PyTree, labels: Labels = None) -> None:
        client = self._client()
        run_id, before = self._run(client, labels), self.logged.get(title(labels), {})
        metric = checks.optional("mlflow", "cl.taps.mlflow", "mlflow").entities.Metric
        now = int(clock.time() * 1000)
        named = ((slashed(name), step, value) for name, step, value in scalars(time, entry))
        new = [metric(key, float(value), now, step) for key, step, value in named if step > before.get(key, -1)]
        for i in range(0, len(new), BATCH):
            client.log_batch(run_id, metrics=new[i : i + BATCH])


def mlflow(experiment: str, *, tracking_uri: str | None = None, run_name: str | None = None) -> MLflow:
    """Log to MLflow: each number of an entry at the step `time`, and each value of a trace at its own step.

    experiment: the name of the experiment, which is made where there is none. tracking_uri: where MLflow keeps it, such as
        "sqlite:///mlflow.db"; None for what MLflow is set to. run_name: of the run; in a sweep before its labels.

    In a sweep there is a run of MLflow for each run, with its labels as parameters; of one that was interrupted a new one takes the
    place, and the old one is marked as killed. A run with checkpoints that is resumed goes on with the newest run of its name, and
    does not log again what is logged there. Raises ImportError where mlflow is missing, TypeError for other arguments.
    """
    checks.text("experiment", experiment)
    for name, value in (("tracking_uri", tracking_uri), ("run_name", run_name)):
        if value is not None:
            checks.text(name, value)
    checks.optional("mlflow", "cl.taps.mlflow", "mlflow")
    return MLflow(experiment, tracking_uri, run_name)
