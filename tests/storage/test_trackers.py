"""Taps for trackers: by stand-ins for their packages, and by the packages themselves where they are installed."""

from __future__ import annotations

import importlib.util
import json
import pickle
import struct

import made_trackers
import pytest
import torch

import cl_func as cl
from cl_func import losses

BENCH = cl.testing.small_benchmark(n_experiences=4)  # of 7 rows each
MODEL = cl.models.mlp(6, (8,), 4)
OPT = cl.optim.sgd(0.1)


@cl.state
class Traced(cl.Agent):
    losses: cl.trace.Trace
    norms: cl.trace.Trace


def init(key):
    key, init_key = cl.random.split(key)
    net = MODEL.init(init_key)
    return Traced(key=key, model=net, opt=OPT.init(net.params), losses=cl.trace.init(20), norms=cl.trace.init(20))


STEP = cl.train_step(cl.trace.loss(losses.cross_entropy(MODEL), "losses"), OPT, cl.trace.grad_norm("norms"))
TRAIN = cl.minibatches(STEP, batch_size=3)  # 3 steps an experience
PROBE = cl.trace.probe("losses", "norms", beside=cl.evaluate(MODEL, BENCH.test))
START = init(cl.key(0))
STRATEGY = cl.Strategy(init, TRAIN, MODEL)
PLAIN = {"compile": False, "progress": False}


def run(tap, checkpoint=None, train=BENCH.train):
    return cl.scan(TRAIN, START, train, PROBE, tap=tap, checkpoint=checkpoint)


def interrupted(tap, folder, at=3):
    """A run that ends after the tap has had entry `at`; the checkpoint is from before it."""

    def crash(time, entry):
        if time == at:
            raise KeyboardInterrupt

    keep = cl.Checkpoint(folder, every=2)
    with pytest.raises(KeyboardInterrupt):
        run(cl.taps.several(tap, crash), keep)
    return keep


@pytest.fixture
def trackers(monkeypatch):
    return made_trackers.install(monkeypatch)


def curves(rows, *names):
    return {name: [(row[f"{name}/step"], row[name]) for row in rows if name in row] for name in names}


def expected(history):
    return {name: list(enumerate(cl.trace.read(history[name]).tolist())) for name in ("losses", "norms")}


def check_wandb_rows(rows, history):
    assert curves(rows, "losses", "norms") == expected(history)
    entries = [row for row in rows if "time" in row]
    assert [row["time"] for row in entries] == [0, 1, 2, 3]
    assert [row["accuracy/2"] for row in entries] == history["accuracy"][:, 2].tolist()


def test_wandb_gets_the_history_and_the_curves(trackers):
    tap = pickle.loads(pickle.dumps(cl.taps.wandb(project="mine", config={"lr": 0.1})))
    _, history = run(tap)
    (made,) = trackers[0]
    assert made.options["project"] == "mine"
    assert made.options["config"] == {"lr": 0.1}
    assert made.finished
    assert made.axes["losses"] == "losses/step"
    assert made.axes["loss/0"] == "time"
    check_wandb_rows(made.rows, history)


def test_wandb_goes_on_with_the_run_of_its_id(trackers, tmp_path):
    keep = interrupted(cl.taps.wandb(id="a"), tmp_path)
    _, history = run(cl.taps.wandb(id="a"), keep)
    (made,) = trackers[0]
    check_wandb_rows(made.rows, history)
    keep = interrupted(cl.taps.wandb(), tmp_path / "other")
    with pytest.raises(ValueError, match=r"tap: W&B finds the run that is resumed by its id; give one, cl.taps.wandb\(id="):
        run(cl.taps.wandb(), keep)


def test_wandb_has_a_run_for_each_of_a_sweep(trackers):
    runs = cl.sweep(STRATEGY, BENCH, seeds=2, hparams=cl.grid({"opt.lr": [0.1, 0.2]}), probe=PROBE, lanes=2,
                    tap=cl.taps.wandb(config={"net": "mlp"}), **PLAIN)  # fmt: skip
    made = {run.options["name"]: run for run in trackers[0]}
    assert list(made) == [f"opt.lr={lr}, seed={seed}" for lr in (0.1, 0.2) for seed in (0, 1)]
    one = made["opt.lr=0.2, seed=1"]
    assert one.options["config"] == {"net": "mlp", "opt.lr": 0.2, "seed": 1}
    assert curves(one.rows, "losses")["losses"] == list(enumerate(runs.curve("losses")[1, 1].tolist()))
    with pytest.raises(RuntimeError, match=r"tap: WandB.* raised ValueError at entry 0 .*'seed': 0\}: id: in a sweep each run"):
        cl.sweep(STRATEGY, BENCH, seeds=1, tap=cl.taps.wandb(id="a"), **PLAIN)


def check_mlflow_history(history_of, history):
    for name in ("losses", "norms"):
        assert history_of(name) == expected(history)[name]
    assert history_of("accuracy/2") == list(enumerate(history["accuracy"][:, 2].tolist()))


def steps_of(run):
    return lambda key: [(metric.step, metric.value) for metric in run.history if metric.key == key]


def test_mlflow_gets_the_history_and_the_curves(trackers):
    _, history = run(pickle.loads(pickle.dumps(cl.taps.mlflow("digits", run_name="er"))))
    (made,) = trackers[1].runs.values()
    assert (made.run_name, made.status) == ("er", "FINISHED")
    check_mlflow_history(steps_of(made), history)


def test_mlflow_goes_on_with_the_run_that_was_interrupted(trackers, tmp_path):
    keep = interrupted(cl.taps.mlflow("digits"), tmp_path)
    _, history = run(cl.taps.mlflow("digits"), keep)
    (made,) = trackers[1].runs.values()
    assert made.status == "FINISHED"
    check_mlflow_history(steps_of(made), history)
    keep = interrupted(cl.taps.csv(tmp_path / "log.csv"), tmp_path / "other")
    with pytest.raises(ValueError, match="the experiment 'others' does not hold the run that is resumed"):
        run(cl.taps.mlflow("others"), keep)


def test_mlflow_has_a_run_for_each_of_a_sweep(trackers, tmp_path):
    tap = cl.taps.mlflow("digits", run_name="er")

    def crash(time, entry, labels):
        if labels["seed"] == 1 and time == 2:
            raise KeyboardInterrupt

    asked = {"seeds": 2, "lanes": 1, "probe": PROBE, "resume": tmp_path, **PLAIN}
    with pytest.warns(UserWarning, match="interrupted"):
        cl.sweep(STRATEGY, BENCH, tap=cl.taps.several(tap, crash), **asked)
    runs = cl.sweep(STRATEGY, BENCH, tap=cl.taps.mlflow("digits", run_name="er"), **asked)
    first, killed, second = trackers[1].runs.values()
    assert [one.status for one in (first, killed, second)] == ["FINISHED", "KILLED", "FINISHED"]
    assert second.params == {"seed": 1}
    assert second.run_name == "er seed=1"
    for i, one in enumerate((first, second)):
        assert steps_of(one)("losses") == list(enumerate(runs.curve("losses")[i].tolist()))
        assert len(steps_of(one)("accuracy/0")) == 4


def test_a_trace_with_many_new_values_is_sent_in_parts(trackers):
    entry = cl.trace.Steps(numbers=torch.arange(2500), values=torch.ones(2500))
    cl.taps.mlflow("digits")(0, {"losses": entry})
    assert len(trackers[1].runs["0"].history) == 2500


# -- the packages themselves


def installed(package):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


def records(data, block=1 << 15):
    """The records of a log in the format of LevelDB, in which W&B writes, after a header of 7 bytes."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
            continue
        length, part = struct.unpack_from("<HB", data, at + 4)  # 1: a whole record; 2, 3, 4: its first, a middle, its last part
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if part in (1, 4):
            yield whole
            whole = b""


def wandb_rows(folder):
    """The rows in the file of an offline run."""
    from wandb.proto import wandb_internal_pb2

    rows = []
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    for data in records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            row = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            rows.append({key: value for key, value in row.items() if not key.startswith("_")})
    return rows


@installed("wandb")
@pytest.mark.filterwarnings("ignore")
def test_wandb_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    _, history = run(cl.taps.wandb(project="mine", mode="offline", dir=str(tmp_path)))
    check_wandb_rows(wandb_rows(tmp_path), history)
    runs = cl.sweep(STRATEGY, BENCH, seeds=2, probe=PROBE, tap=cl.taps.wandb(mode="offline", dir=str(tmp_path)), **PLAIN)
    assert bool(runs.finished.all())
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 3


@installed("mlflow")
@pytest.mark.filterwarnings("ignore")
def test_mlflow_in_files(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    import mlflow

    where = (tmp_path / "runs").as_uri()

    def tap():
        return cl.taps.mlflow("digits", tracking_uri=where)

    _, history = run(tap(), interrupted(tap(), tmp_path / "points"))
    client = mlflow.MlflowClient(where)
    experiment = client.get_experiment_by_name("digits").experiment_id
    (made,) = client.search_runs([experiment])
    assert made.info.status == "FINISHED"
    check_mlflow_history(lambda key: [(m.step, m.value) for m in client.get_metric_history(made.info.run_id, key)], history)
    cl.sweep(STRATEGY, BENCH, seeds=2, probe=PROBE, tap=tap(), **PLAIN)
    assert sorted(run.data.params.get("seed", "") for run in client.search_runs([experiment])) == ["", "0", "1"]
