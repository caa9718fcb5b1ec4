"""Runs as xarray Datasets: they come back to the bit, from memory and from NetCDF, and so do their parts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import xarray
from hypothesis import given, settings
from made_runs import draws, guesses, make, same, some_runs

import cl_func as cl

quick = settings(max_examples=40, deadline=None)
POINTS = [{"opt.lr": 0.1, "n": 1}, {"opt.lr": 1.0, "n": 2}]
KEPT = {"torch": "2.13.0", "cores": 2, "share": 0.5, "on": True, "at": {"lr": 0.1}, "labels": [1, (2, None)], "": "x", "a/b": "\0"}


def full():
    """Runs with all that may be lost."""
    shape = (2, 2, 3)
    return cl.Runs(
        {"opt.lr & n": POINTS, "mixed": [None, "é"], "seed": [5, 2**63, 1]},
        {
            "accuracy": draws(*shape, 4, 4),
            "class_accuracy": draws(*shape, 4, 4),
            "norm": draws(*shape, 4).bfloat16(),
            "half": draws(*shape, 4, 2, 1).half(),
            "count": torch.arange(12).reshape(shape)[..., None] - 2**40,
            "on": torch.ones(*shape, 0, dtype=torch.bool),
            "z.byte": torch.zeros(shape, dtype=torch.uint8),
        },
        torch.tensor([True, False, True]).expand(shape).clone(),
        float("inf"),
        KEPT,
    )


def through(runs, path):
    runs.to_xarray().to_netcdf(path)
    return cl.Runs.from_xarray(xarray.load_dataset(path))


def test_all_comes_back(tmp_path):
    runs = full()
    assert same(cl.Runs.from_xarray(runs.to_xarray()), runs)
    assert same(through(runs, tmp_path / "runs.nc"), runs)
    cl.testing.check_round_trip(runs)


@quick
@given(runs=some_runs())
def test_any_runs_come_back(tmp_path_factory, runs):
    try:
        dataset = runs.to_xarray()
    except ValueError as error:  # for its names
        assert str(error).startswith("to_xarray: ")  # noqa: PT017
        return
    assert same(cl.Runs.from_xarray(dataset), runs)
    assert same(through(runs, tmp_path_factory.mktemp("nc") / "runs.nc"), runs)


def test_the_dataset_is_what_it_says(tmp_path):
    runs = full()
    path = tmp_path / "runs.nc"
    runs.to_xarray().to_netcdf(path)
    found = xarray.load_dataset(path)
    assert found["accuracy"].dims == ("opt.lr & n", "mixed", "seed", "time", "test_experience")
    assert found["class_accuracy"].dims[-1] == "class"
    assert found["norm"].dims[-1] == "time"
    assert found["half"].dims[-3:] == ("time", "half_dim_1", "half_dim_2")
    assert found["count"].dims[-1] == "count_dim_0"  # it has another length
    assert found["opt.lr"].values.tolist() == [0.1, 1.0]
    assert found["n"].dtype == np.int64
    assert found["n"].dims == ("opt.lr & n",)
    assert found["seed"].dtype == np.uint64 or found["seed"].dtype.kind in "UO"
    assert found["finished"].dtype == bool
    assert found.attrs["torch"] == "2.13.0"
    assert found.attrs["cores"] == 2
    assert "a/b" not in found.attrs
    simple = make({"opt.lr": [0.1, 0.3], "method": ["a", "b"], "seed": [0, 7]}).to_xarray()
    kinds = {name: simple[name].dtype.kind for name in ("opt.lr", "method", "seed")}
    assert kinds == {"opt.lr": "f", "method": "U", "seed": "i"}
    assert set(simple.coords) == {"opt.lr", "method", "seed"}
    chosen = simple["accuracy"].sel({"opt.lr": 0.3, "method": "b", "seed": 7})
    assert (
        chosen.values.tolist() == make({"opt.lr": [0.1, 0.3], "method": ["a", "b"], "seed": [0, 7]})["accuracy"][1, 1, 1].tolist()
    )


def test_what_went_wrong_is_there():
    runs = guesses()
    found = runs.to_xarray()
    assert found["diverged"].values.tolist() == runs.diverged.tolist()
    assert torch.equal(cl.Runs.from_xarray(found).diverged, runs.diverged)
    assert cl.Runs.from_xarray(found).table() == runs.table()


def test_a_part_of_a_dataset_is_that_part():
    runs = make({"z & n": [{"z": 1, "n": 2}, {"z": 3, "n": 4}], "lr": [0.1, 0.2, 0.3], "seed": [4, 5]}, norm=draws(2, 3, 2, 3))
    found = runs.to_xarray()
    part = cl.Runs.from_xarray(found.isel({"z & n": [1], "lr": [2, 0]}).sel(seed=[5]))
    assert same(part, runs.at(**{"z & n": [{"z": 3, "n": 4}]}, lr=[0.3, 0.1], seed=[5]))
    turned = found.transpose("time", "seed", ...).rename({"time": "after"})
    assert same(cl.Runs.from_xarray(turned), runs)
    fewer = cl.Runs.from_xarray(found.drop_vars(["norm", "diverged"]))
    assert list(fewer.history) == ["accuracy"]
    double = cl.Runs.from_xarray(found.assign(accuracy=found["accuracy"].astype("float64")))
    assert double["accuracy"].dtype == torch.float64  # nothing is cast back


def test_files_of_netcdf_3(tmp_path):
    """They have no integers of 64 bits, and scipy reads them with other bytes first."""
    runs = make({"lr": [0.1, 0.2], "method": ["ER", "x"], "seed": [4, 5]}, count=torch.arange(8).reshape(2, 2, 2, 1))
    runs.to_xarray().to_netcdf(tmp_path / "runs.nc", engine="scipy")
    assert same(cl.Runs.from_xarray(xarray.load_dataset(tmp_path / "runs.nc", engine="scipy")), runs)


def test_attributes_of_joined_runs_come_back(tmp_path):
    both = cl.Runs.join(
        {
            name: dataclasses.replace(make({"seed": [0, 1]}), attributes={"at": {"lr": x}, "torch": "2"})
            for name, x in (("a", 1), ("b", 2))
        }
    )
    again = through(both, tmp_path / "runs.nc")
    assert same(again, both)
    assert again.at(method="b").attributes == {"torch": "2", "at": {"lr": 2}}


@pytest.mark.parametrize(
    ("axes", "history", "match"),
    [
        ({"a/b": [1]}, {}, "'a/b' cannot be a name in NetCDF"),
        ({"": [1]}, {}, "'' cannot be a name"),
        ({}, {"x/y": draws(1, 2)}, "'x/y' cannot be a name"),
        ({"time": [1]}, {"norm": draws(1, 1, 2)}, "two things would be called 'time'"),
        ({}, {"finished": draws(1, 2)}, "two things would be called 'finished'"),
        ({}, {"seed": draws(1, 2)}, "two things would be called 'seed'"),
        ({"x & y": [{"x": 1, "y": 2}], "x": [1]}, {}, "two things would be called 'x'"),
    ],
)
def test_names_that_netcdf_does_not_allow(axes, history, match):
    axes = {**axes, "seed": [0]}
    runs = cl.Runs(axes, history, torch.ones([1] * len(axes), dtype=torch.bool), 1.0)
    with pytest.raises(ValueError, match=f"to_xarray: {match}"):
        runs.to_xarray()


def test_labels_that_would_not_come_back_are_refused():
    with pytest.raises(TypeError, match=r"axes: the label .* of 'x', a float32, can not be saved"):
        make({"x": [np.float32(1)], "seed": [0]}).to_xarray()


@pytest.mark.parametrize("dataset", [None, 3, {"a": 1}, make({"seed": [0]}), xarray.DataArray(np.ones(2))])
def test_what_is_no_dataset(dataset):
    with pytest.raises((TypeError, ValueError), match="dataset: "):
        cl.Runs.from_xarray(dataset)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: xarray.Dataset({"a": ("x", [1.0])}), "was not made by runs.to_xarray"),
        (lambda d: d.assign_attrs(cl_func_runs="{}"), "is missing or damaged"),
        (lambda d: d.assign_attrs(cl_func_runs="[1"), "is missing or damaged"),
        (lambda d: d.assign_attrs(cl_func_runs=3), "is missing or damaged"),
        (lambda d: d.isel(seed=0), r"it has no dimension 'seed' with its labels; .*\.sel\(\{'seed': \[\.\.\.\]\}\)"),
        (lambda d: d.mean("seed", keep_attrs=True), "no dimension 'seed'"),
        (lambda d: d.assign(accuracy=d["accuracy"].mean("lr")), r"'accuracy' has no dimension 'lr', but only \['z', 'seed'"),
        (lambda d: d.drop_vars("finished"), "it has no variable 'finished'"),
        (lambda d: d.drop_vars("lr"), "no dimension 'lr' with its labels"),
        (lambda d: d.assign_coords({"z:json": ("z", ["{", "1"])}), r"the coordinate 'z:json' is damaged"),
        (lambda d: d.assign(finished=d["finished"].astype(int)), "finished: expected a bool tensor"),
        (lambda d: d.assign(accuracy=d["accuracy"].astype(str)), "'accuracy' holds"),
    ],
)
def test_datasets_that_are_no_runs_any_more(change, match):
    found = make({"lr": [0.1, 0.2], "z": [None, 1], "seed": [4, 5]}).to_xarray()
    with pytest.raises((TypeError, ValueError), match=match):
        cl.Runs.from_xarray(change(found))


def test_a_part_of_joined_runs_has_what_belongs_to_it():
    """Otherwise a table of one method would say how another was tuned, and a metric be refused for the times of another."""
    axes, one = {"seed": [0, 1]}, torch.ones(2, dtype=torch.bool)
    tuned = cl.Runs(
        axes, {"accuracy": draws(2, 3, 3)}, one, 1.0, {"chosen": {"values": {"opt.lr": 0.1}, "by": "chosen on test data"}}
    )
    often = cl.Runs(axes, {"accuracy": draws(2, 3, 3)}, one, 3.0, {"every": 2, "experiences": 6})
    runs = cl.Runs.join({"A": tuned, "B": often})
    dataset = runs.to_xarray()
    for labels in (["A"], ["B"], ["B", "A"]):
        same(cl.Runs.from_xarray(dataset.sel({"method": labels})), runs.at(method=labels))
    outer = cl.Runs.join({"x": runs, "y": runs}, "setting")
    same(cl.Runs.from_xarray(outer.to_xarray().sel({"method": ["B"]})), outer.at(method=["B"]))
    with pytest.raises(ValueError, match="the axis 'method' has the label 'C', but was joined of"):
        cl.Runs.from_xarray(dataset.assign_coords(method=["A", "C"]))


def test_what_is_measured_by_layer_is_not_by_experience():
    runs = make({"seed": [0, 1]}, rank_by_layer=draws(2, 3, 3))
    assert "test_experience" not in runs.to_xarray()["rank_by_layer"].dims
    assert runs.to_xarray()["accuracy"].dims[-1] == "test_experience"
