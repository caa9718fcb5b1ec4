"""Any metric of any history of Runs: their numbers, their best point, what is said of them in words and in pandas."""

from __future__ import annotations

import dataclasses
import functools
import math
from functools import partial

import numpy as np
import pytest
import registry
import torch
from hypothesis import settings
from made_runs import NAN, draws, guesses, make

import cl_func as cl
from cl_func import metrics
from cl_func.sweeps.summaries import METRICS

quick = settings(max_examples=40, deadline=None)
LR = {"opt.lr": [0.1, 0.3], "seed": [0, 1, 2]}


def plus(runs, **history):
    return dataclasses.replace(runs, history={**runs.history, **history})


# ---------------------------------------------------------------- metrics of any history


def test_metrics_by_hand():
    """Two seeds, three experiences; the numbers are worked out on paper."""
    R = torch.tensor([[[0.9, 0.1, 0.0], [0.5, 0.8, 0.1], [0.3, 0.6, 0.6]], [[0.8, 0.0, 0.1], [0.9, 0.7, 0.0], [0.6, 0.7, 0.5]]])
    errors = torch.tensor([[[1.0, 5.0, 5.0], [2.0, 1.0, 5.0], [4.0, 2.0, 1.0]]]).repeat(2, 1, 1)
    runs = cl.Runs(
        {"seed": [0, 1]}, {"accuracy": R, "loss": errors, "r2": 1 - errors, "norm": torch.tensor([[1.0, 2.0], [3.0, 5.0]])},
        torch.ones(2, dtype=torch.bool), 1.0,
    )  # fmt: skip
    close = partial(torch.testing.assert_close, check_dtype=False)
    close(runs.metric(), torch.tensor([0.5, 0.6]))
    close(runs.metric("forgetting"), torch.tensor([(0.6 + 0.2) / 2, (0.3 + 0.0) / 2]))
    close(runs.metric("average_loss"), torch.tensor([7 / 3, 7 / 3]))
    close(runs.metric("forgetting", "loss"), torch.tensor([2.0, 2.0]))  # from 1 to 4, from 1 to 2: an error's growth
    close(runs.metric(("backward_transfer", "loss")), torch.tensor([-2.0, -2.0]))
    close(runs.metric("forgetting", history="r2"), torch.tensor([2.0, 2.0]))
    close(runs.metric("final_norm"), torch.tensor([2.0, 5.0]))
    close(runs.metric(history="norm"), torch.tensor([2.0, 5.0]))
    close(runs.metric(lambda R: R[-1].min()), torch.tensor([0.3, 0.5]))
    close(runs.metric(lambda R: np.float64(R.numpy().max())), torch.tensor([0.9, 0.9]))
    close(runs.metric(lambda h: int(h[0] > 2), "norm"), torch.tensor([0.0, 1.0]))
    close(runs.metric(metrics.forgetting), runs.metric("forgetting"))
    close(runs.metric(metrics.average_accuracy, "loss"), runs.metric("average_loss"))
    close(runs.metric(metrics.forgetting, "loss"), torch.tensor([2.0, 2.0]))
    assert runs.best("average_loss") == {}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("history", ["accuracy", "loss", "r2", "mse", "f1", "0.accuracy"])
def test_a_metric_of_a_history_is_that_of_cl_metrics(name, history):
    R = draws(2, 3, 4, 4)
    runs = cl.Runs(LR, {"other": -R, history: R}, torch.ones(2, 3, dtype=torch.bool), 1.0)
    higher = {"loss": False, "mse": False, "r2": True}.get(history)
    value = getattr(metrics, name)(R, higher_is_better=higher)
    value = value[..., -1] if value.ndim == 3 else value
    own = name.replace("accuracy", history.removeprefix("0."))
    torch.testing.assert_close(runs.metric(own, history), value)
    torch.testing.assert_close(runs.metric(getattr(metrics, name), history), value)
    mean = runs.mean_ci(own, history=history)[0]
    smaller = name == "forgetting" or (history in ("loss", "mse") and name != "backward_transfer")
    at = int(mean.argmin() if smaller else mean.argmax())
    assert runs.best(own, history=history) == {"opt.lr": LR["opt.lr"][at]}
    assert runs.best(own, history=history, largest=smaller) == {"opt.lr": LR["opt.lr"][1 - at]}


@pytest.mark.parametrize(
    ("metric", "history", "error", "match"),
    [
        ("accuracy", None, ValueError, "metric: expected one of average_accuracy, .*final_accuracy, got 'accuracy'"),
        ("average_accuracy", "loss", ValueError, "metric: expected one of average_loss"),
        ("forgetting", "norm", ValueError, r"needs a history \[\*axes, time, T\], but 'norm' is .*; give final_norm"),
        ("forgetting", "own", ValueError, "higher_is_better: forgetting needs it to be said which way 'own' is better"),
        (metrics.backward_transfer, "own", ValueError, "higher_is_better: backward_transfer needs"),
        (None, "nowhere", ValueError, "history: 'nowhere': no such history; there is accuracy, loss, norm, own"),
        (("forgetting", "loss", 1), None, TypeError, "metric: expected a name, a function, or a pair"),
        (("forgetting", "loss"), "loss", TypeError, "metric: expected a name, a function, or a pair"),
        (3, None, TypeError, "metric: expected one of average_accuracy, .*, or a function"),
        (dict, None, TypeError, "metric: expected one of"),
        (lambda R: R, None, TypeError, r"metric: expected lambda to give a number .*, got float32\[3, 3\]"),
        (lambda R: "0.5", None, TypeError, "to give a number"),
        (lambda R: None, None, TypeError, "to give a number"),
        (metrics.forgetting_per_experience, None, TypeError, r"forgetting_per_experience to give a number .*, got float32\[2\]"),
        (None, 3, TypeError, "history: expected a string"),
    ],
)  # fmt: skip
def test_what_is_no_metric(metric, history, error, match):
    runs = make(LR, loss=draws(2, 3, 3, 3), norm=draws(2, 3, 3), own=draws(2, 3, 3, 3))
    with pytest.raises(error, match=match):
        runs.metric(metric, history)


def test_which_way_is_better_is_asked_for_where_it_is_not_known():
    own = draws(2, 3, 3, 3) * 10
    runs = make(LR, own=own)
    torch.testing.assert_close(runs.metric("average_own"), own[..., -1, :].mean(-1))
    for higher in (True, False):
        torch.testing.assert_close(
            runs.metric("forgetting", "own", higher_is_better=higher), metrics.forgetting(own, higher_is_better=higher)
        )
    with pytest.raises(ValueError, match="largest: it is not known whether larger is better for average_own"):
        runs.best("average_own")
    worst, best = (runs.best("average_own", largest=largest) for largest in (False, True))
    assert {worst["opt.lr"], best["opt.lr"]} == {0.1, 0.3}
    assert runs.best("average_own", higher_is_better=False) == worst
    assert runs.best("forgetting", history="own", higher_is_better=False)
    with pytest.raises(ValueError, match="largest: it is not known"):
        runs.best(lambda R: R.min())


def test_a_run_without_a_number_is_said_and_not_dropped():
    runs = guesses(points=2)
    norm = draws(2, 10, 3)
    norm[0, :3, -1] = NAN
    norm[1, :, -1] = NAN
    runs = plus(runs, norm=norm)
    assert runs.table("final_norm").splitlines()[2].endswith("(3 of 10 NaN) |")
    assert runs.table("final_norm").splitlines()[3] == "| 1 | 2 of 10 diverged, 8 of 10 NaN |"
    mean, _ = runs.mean_ci("final_norm")
    torch.testing.assert_close(mean[0], norm[0, 3:, -1].double().mean())
    assert mean[1].isnan()
    with pytest.warns(UserWarning, match="3 of 10 NaN"):
        assert runs.best("final_norm", largest=True) == {"opt.lr": 0.1}
    assert runs.metric("final_norm")[0].isnan().tolist() == [True] * 3 + [False] * 7


def test_integers_and_functions_of_them():
    runs = make(LR, dormant=torch.arange(18).reshape(2, 3, 3), asleep=torch.ones(2, 3, 3, dtype=torch.bool))
    assert runs.metric("final_dormant").tolist() == [[2, 5, 8], [11, 14, 17]]
    assert runs.metric(lambda h: h.sum(), "dormant").tolist() == [[3, 12, 21], [30, 39, 48]]
    assert runs.metric(lambda h: h.all(), "asleep").tolist() == [[1] * 3] * 2
    unfinished = dataclasses.replace(runs, finished=torch.tensor([[True, True, False], [False] * 3]))
    assert unfinished.metric("final_dormant").isnan().tolist() == [[False, False, True], [True] * 3]
    assert unfinished.table("final_dormant").endswith("| 0.3 | 3 of 3 unfinished |")


def test_the_runs_of_several_probes():
    """A list of probes has histories "0.accuracy" and so on; they are judged, averaged and drawn like one's."""
    one = guesses()
    history = {f"0.{name}": value for name, value in one.history.items()} | {"1.norm": draws(3, 10, 3)}
    runs = dataclasses.replace(one, history=history)
    assert torch.equal(runs.diverged, one.diverged)
    assert torch.equal(runs.constant, one.constant)
    assert runs.table() == one.table()
    assert runs.table(["average_accuracy", "final_norm"]).splitlines()[0].endswith("| final_norm of 1.norm (10 seeds) |")
    runs.plot_timeline()
    runs.plot_matrix()
    history = {**history, "0.class_accuracy": one["class_accuracy"].clone(), "2.accuracy": draws(3, 10, 3, 3)}
    history["0.class_accuracy"][0, 0, -1], history["0.loss"][0, 0] = torch.eye(6)[1], 1.0
    runs = dataclasses.replace(one, history=history)
    assert runs.constant.nonzero().tolist() == [[0, 0]]
    assert "average_accuracy of 2.accuracy" in runs.table([("average_accuracy", "2.accuracy")])


def test_two_evaluations_are_never_taken_for_one_another():
    """Of the accuracies on validation and on test data none is the usual one: tables show both, and a choice asks for a name."""
    one = guesses()
    histories = {f"{kind}.{name}": value for kind in ("valid", "test") for name, value in one.history.items()}
    runs = dataclasses.replace(one, history=histories)
    which = r"made of valid.accuracy or test.accuracy; say which, by history='valid.accuracy' or metric=\('average_accuracy', 'val"
    asks = [runs.best, runs.ranked, runs.metric, runs.mean_ci, runs.plot_timeline, runs.plot_matrix, runs.plot_scatter]
    asks += [functools.partial(runs.metric, name) for name in ("average_accuracy", "forgetting", "final_accuracy")]
    for ask in (*asks, lambda: runs.compare(axis="opt.lr")):
        with pytest.raises(ValueError, match=which):
            ask()
    head = "average_accuracy of {}.accuracy (10 seeds)"
    assert runs.table().splitlines()[0] == f"| opt.lr | {head.format('valid')} | {head.format('test')} |"
    assert head.format("test") in runs._repr_html_()
    assert "best" not in repr(runs)
    with pytest.warns(UserWarning, match="diverged"):
        assert runs.best(history="valid.accuracy") == one.best()
    assert torch.equal(runs.metric(("forgetting", "test.accuracy")).nan_to_num(-1), one.metric("forgetting").nan_to_num(-1))
    assert len(runs.to_pandas().columns) == len(one.to_pandas().columns) + 2
    with pytest.raises(ValueError, match=r"got 'average_valid.accuracy'; of the history 'valid.accuracy' there is \('average_acc"):
        runs.metric("average_valid.accuracy", history="valid.accuracy")
    for draw in (runs.plot_timeline, runs.plot_matrix, runs.plot_forgetting, runs.plot_scatter, runs.plot_parallel):
        parts = draw(history="test.accuracy").figure.axes
        assert any("accuracy (test)" in part.get_ylabel() for part in parts), draw
    texts = runs.plot_classes("test.class_accuracy").figure.findobj(lambda one: hasattr(one, "get_text"))
    assert "class accuracy (test)" in {text.get_text() for text in texts}
    both = dataclasses.replace(one, history={**one.history, **histories})  # one of them has the plain name
    assert torch.equal(both.metric().nan_to_num(-1), one.metric().nan_to_num(-1))


def test_what_is_measured_without_accuracies_is_shown():
    one = guesses()
    norm, dormant = draws(3, 10, 3), draws(3, 10, 3, 2)
    runs = dataclasses.replace(one, history={"norm": norm})
    assert torch.equal(runs.metric(), norm[..., -1].double())
    assert "final_norm (10 seeds)" in runs.table()
    runs.plot_timeline()
    runs = dataclasses.replace(one, history={"often": torch.arange(90).reshape(3, 10, 3)})
    assert runs.plot_timeline().get_ylabel() == "often"
    runs = dataclasses.replace(one, history={"norm": norm, "dormant_by_layer": dormant})
    assert "| final_norm (10 seeds) | final_dormant_by_layer (10 seeds) |" in runs.table()
    with pytest.raises(ValueError, match="made of norm or dormant_by_layer; say which, by history='norm' or metric="):
        runs.best()
    with pytest.raises(ValueError, match=r"got 'norm'; of the history 'norm' there is \('final_norm', 'norm'\)"):
        runs.table("norm", history="norm")
    layers = runs.plot_timeline("dormant_by_layer", labels=["a", "b", "c"])
    texts = [text.get_text() for text in (*layers.texts, *(layers.get_legend().get_texts() if layers.get_legend() else ()))]
    assert {text for text in texts if "layer" in text} == {f"{name}, layer {i}" for name in "abc" for i in (0, 1)}
    assert layers.get_ylabel() == "dormant"


def test_a_real_sweep_with_probes_of_ones_own():
    evaluate = cl.evaluate(registry.MODEL, registry.BENCH.test)

    def norm(state, exp=None):
        return sum(p.square().sum() for p in state.model.params.values()).sqrt()

    strategy = cl.strategies.naive(registry.MODEL, cl.optim.sgd(0.1), batch_size=5)
    runs = cl.sweep(
        strategy, registry.BENCH, seeds=2, probe=lambda s, e=None: [evaluate(s), norm(s)], compile=False, progress=False
    )
    assert set(runs.history) == {"0.accuracy", "0.loss", "0.class_accuracy", "1"}
    assert runs.metric("final_1").shape == (2,)
    assert "average_accuracy" in repr(runs)
    assert runs.attributes["torch"] == torch.__version__
    assert runs.attributes["device"] == "cpu"
    assert {"cl_func", "python", "system", "processor", "cores"} <= runs.attributes.keys()


# ---------------------------------------------------------------- in words


def test_a_line_that_says_it_all():
    runs = guesses()
    mean = runs.mean_ci()[0][1]
    assert repr(runs) == (
        "Runs(opt.lr: 3, seed: 10; accuracy float32[3, 10, 3, 3], loss float32[3, 10, 3, 3], class_accuracy float32[3, 10, 3, 6]; "
        f"best average_accuracy {mean:.3f} at opt.lr=1 (2 of 10 diverged); 12 of 30 diverged; 1.5 s)"
    )
    only = make({"seed": [0, 1]})
    assert f"; average_accuracy {only.metric().mean():.3f}; all finished; 1.5 s)" in repr(only)


@pytest.mark.parametrize(
    "history",
    [
        {},
        {"norm": draws(2, 3, 3)},
        {"accuracy": draws(2, 3, 5)},
        {"accuracy": torch.full((2, 3, 3, 3), NAN)},
        {"accuracy": 9 * draws(2, 3, 3, 3)},
    ],
)  # fmt: skip
def test_words_for_any_histories(history):
    runs = cl.Runs({"<b>": [1, 2], "seed": [0, 1, 2]}, history, torch.ones(2, 3, dtype=torch.bool), math.nan)
    assert repr(runs).startswith("Runs(<b>: 2, seed: 3; ")
    assert "&lt;b&gt;: 2, seed: 3" in runs._repr_html_()
    assert "<b>" not in runs._repr_html_().replace("<b>0", "")


def test_a_notebook_shows_the_first_points():
    many = make({"opt.lr": [float(i) for i in range(30)], "seed": [0, 1]})._repr_html_()
    assert many.count("<tr>") == 21
    assert "and 10 more points" in many
    assert "more points" not in make(LR)._repr_html_()


# ---------------------------------------------------------------- pandas


def test_columns_hold_numbers():
    points = [{"opt.lr": 0.1, "n": 1}, {"opt.lr": 1, "n": 2}]
    runs = make({"method": ["ER", "x"], "opt.lr & n": points, "mixed": [0.5, 1], "seed": [0, 3]}, norm=draws(2, 2, 2, 2, 3))
    frame = runs.to_pandas()
    kinds = {name: dtype.kind for name, dtype in frame.dtypes.items()}
    assert [kinds[name] for name in ("opt.lr", "n", "mixed", "seed", "time", "test_experience", "accuracy")] == list("fifiiif")
    assert kinds["diverged"] == "b"
    assert set(frame["mixed"]) == {0.5, 1.0}
    one = frame[
        (frame["opt.lr"] == 1) & (frame["n"] == 2) & (frame["seed"] == 3) & (frame["mixed"] == 0.5) & (frame["method"] == "x")
    ]
    assert one["accuracy"].tolist() == runs["accuracy"][1, 1, 0, 1].flatten().tolist()
    norms = runs.to_pandas("norm")
    assert len(norms) == 2 * 2 * 2 * 2 * 3
    assert list(norms.columns) == ["method", "opt.lr", "n", "mixed", "seed", "time", "finished", "diverged", "constant", "norm"]
    numbers = runs.to_pandas(metrics=["average_accuracy", "final_norm", metrics.forgetting])
    assert len(numbers) == 16
    assert numbers["forgetting"].tolist() == runs.metric("forgetting").flatten().tolist()
    named = runs.to_pandas(metrics={"a": "average_accuracy", "b": lambda R: R.max()})
    assert {"a", "b"} <= set(named.columns)
    assert named["b"].tolist() == runs["accuracy"].flatten(0, 3).amax((1, 2)).tolist()


def test_frames_of_histories_that_differ_in_shape():
    runs = guesses()
    assert {"time", "class"} <= set(runs.to_pandas("class_accuracy").columns)
    assert len(runs.to_pandas("class_accuracy")) == 30 * 3 * 6
    with pytest.raises(ValueError, match="histories: expected some that are by the same axes"):
        runs.to_pandas(["accuracy", "class_accuracy"])
    with pytest.raises(ValueError, match="histories: 'norm': no such history; there is accuracy"):
        runs.to_pandas("norm")
    with pytest.raises(ValueError, match="metrics: two columns would have one name"):
        runs.to_pandas(metrics=["forgetting", metrics.forgetting])
    own = plus(make({"seed": [0]}), top5=draws(1, 3, 3), norm=draws(1, 3).bfloat16())
    assert set(own.to_pandas().columns) >= {"accuracy"}
    assert own.to_pandas("norm")["norm"].tolist() == own["norm"].float().flatten().tolist()


def test_the_worst_case_has_a_name_and_a_missing_trace_is_told_of():
    runs = guesses()
    assert torch.equal(runs.metric("worst_case_accuracy").nan_to_num(-1), runs.metric(metrics.worst_case_accuracy).nan_to_num(-1))
    with pytest.raises(ValueError, match=r"got 'wrst_accuracy'\.$"):
        runs.metric("wrst_accuracy")
    with pytest.raises(ValueError, match=r"name: there is no trace 'losses', there is none; .*cl\.trace\.probe\('losses'\)"):
        runs.curve("losses")
