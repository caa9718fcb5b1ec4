"""Stand-ins for the packages of trackers, as far as taps use them, which keep what they are given."""

from __future__ import annotations

import types
from dataclasses import dataclass, field
from typing import Any


@dataclass
class WandBRun:
    """A run of W&B; one that is resumed finds the summary of what had been logged."""

    options: dict[str, Any]
    rows: list[dict[str, float]] = field(default_factory=list)
    axes: dict[str, str | None] = field(default_factory=dict)
    summary: dict[str, float] = field(default_factory=dict)
    finished: bool = False

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.axes[name] = step_metric

    def log(self, row: dict[str, float]) -> None:
        assert not self.finished
        self.rows.append(dict(row))
        self.summary |= row

    def finish(self) -> None:
        self.finished = True


def wandb(runs: list[WandBRun]) -> Any:
    def init(project=None, id=None, name=None, config=None, reinit=None, resume=None, mode=None):
        known = [run for run in runs if id is not None and run.options["id"] == id]
        assert reinit == "create_new"
        if known:
            assert resume == "allow"
            known[0].finished = False
            return known[0]
        runs.append(WandBRun({"project": project, "id": id, "name": name, "config": config, "mode": mode}))
        return runs[-1]

    module = types.ModuleType("wandb")
    module.init = init
    return module


@dataclass
class Metric:
    key: str
    value: float
    timestamp: int
    step: int


@dataclass
class MLflowRun:
    """A run of MLflow with its info and its data in one."""

    run_id: str
    tags: dict[str, str]
    run_name: str | None
    experiment_id: str
    params: dict[str, Any] = field(default_factory=dict)
    history: list[Metric] = field(default_factory=list)
    status: str = "RUNNING"

    @property
    def info(self) -> MLflowRun:
        return self

    data = info

    @property
    def metrics(self) -> dict[str, float]:
        return {metric.key: metric.value for metric in self.history}


@dataclass
class Server:
    """What is kept beyond a client."""

    experiments: dict[str, str] = field(default_factory=dict)
    runs: dict[str, MLflowRun] = field(default_factory=dict)


def mlflow(server: Server) -> Any:
    class MlflowClient:
        def __init__(self, tracking_uri=None):
            self.tracking_uri = tracking_uri

        def get_experiment_by_name(self, name):
            made = server.experiments.get(name)
            return None if made is None else types.SimpleNamespace(experiment_id=made)

        def create_experiment(self, name):
            return server.experiments.setdefault(name, f"experiment {name}")

        def create_run(self, experiment_id, run_name=None, tags=None):
            assert experiment_id in server.experiments.values()
            run = MLflowRun(str(len(server.runs)), dict(tags), run_name, experiment_id)
            server.runs[run.run_id] = run
            return run

        def search_runs(self, experiment_ids, filter_string):
            name, _, value = filter_string.partition(" = ")
            tag = name.removeprefix("tags.").strip("`")
            found = [run for run in server.runs.values() if run.tags[tag] == value.strip("'")]
            return [run for run in found[::-1] if run.experiment_id in experiment_ids]

        def log_param(self, run_id, key, value):
            server.runs[run_id].params[key] = value

        def log_batch(self, run_id, metrics):
            assert len(metrics) <= 1000
            assert server.runs[run_id].status == "RUNNING"
            server.runs[run_id].history += metrics

        def get_metric_history(self, run_id, key):
            return [metric for metric in server.runs[run_id].history if metric.key == key]

        def set_terminated(self, run_id, status="FINISHED"):
            server.runs[run_id].status = status

        def update_run(self, run_id, status):
            server.runs[run_id].status = status

    module = types.ModuleType("mlflow")
    module.MlflowClient = MlflowClient
    module.entities = types.SimpleNamespace(Metric=Metric)
    return module


def install(monkeypatch: Any) -> tuple[list[WandBRun], Server]:
    """Put the stand-ins in the place of the packages: the runs of W&B, and what MLflow keeps."""
    runs, server = list[WandBRun](), Server()
    monkeypatch.setitem(__import__("sys").modules, "wandb", wandb(runs))
    monkeypatch.setitem(__import__("sys").modules, "mlflow", mlflow(server))
    return runs, server
