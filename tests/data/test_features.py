"""Features of a dataset: what they are, that they are computed once, and that a cache never gives others than were asked for."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import pytest
import registry
import torch
from torch import nn

import cl_func as cl
from cl_func import models
from cl_func.data import extraction, feature_cache
from cl_func.storage import files

KEY = cl.key(0)
BENCH = registry.BENCH
DATA = BENCH.train[0].source  # x [28, 6]
IMAGES = cl.Dataset(torch.randint(256, (10, 1, 8, 8), dtype=torch.uint8), torch.arange(10) % 3)
MODEL = models.mlp(6, hidden=(8,), n_classes=4, activation="tanh")
NET = MODEL.init(KEY)


def features(model=MODEL, net=NET, dataset=DATA, **options):
    return cl.data.features(model, net, dataset, **{"progress": False, **options})


@pytest.fixture
def passes(monkeypatch):
    """The number of rows of every batch that goes through a network."""
    seen = []
    function = extraction._function

    def counted(model):
        inner = function(model)

        def run(params, buffers, x, *, task):
            seen.append(len(x))
            return inner(params, buffers, x, task=task)

        return run

    monkeypatch.setattr(extraction, "_function", counted)
    return seen


# ------------------------------------------------------------------ what they are


def by_hand(params, x):
    return torch.tanh(x @ params["0.weight"].T + params["0.bias"])


def test_they_are_the_hidden_layer_and_a_linear_head_on_them_gives_the_logits():
    made = features()
    torch.testing.assert_close(made.x, by_hand(NET.params, DATA.x))
    logits, _ = MODEL.apply(NET.params, NET.buffers, DATA.x)
    linear = models.mlp(8, hidden=(), n_classes=4)
    head = {"0.weight": NET.params["2.weight"], "0.bias": NET.params["2.bias"]}
    assert torch.equal(linear.apply(head, {}, made.x)[0], logits)
    assert (made.x.dtype, made.y is DATA.y, made.task, made.n_classes) == (torch.float32, True, None, 4)
    assert not made.x.requires_grad


MODELS = {
    "mlp": (models.mlp(6, hidden=(8,), n_classes=4, norm="batch", dropout=0.5), DATA),
    "cosine": (models.mlp(6, hidden=(8,), n_classes=4, head="cosine"), DATA),
    "without hidden layers": (models.mlp(6, hidden=(), n_classes=4), DATA),
    "cnn": (models.cnn((1, 8, 8), channels=(4,), hidden=5, n_classes=3), IMAGES),
    "normalized": (models.normalized(models.slim_resnet18((1, 8, 8), n_classes=3, width=2), 0.5, 0.25), IMAGES),
    "augmented": (models.augmented(models.cnn((1, 8, 8), (4,), 5, 3), cl.augment.random_crop(padding=1)), IMAGES),
    "multi-head": (models.multi_head(MODEL, torch.eye(4) > 0), DATA),
    "vit": (models.vit(8, patch=4, n_classes=3, channels=1, width=8, depth=1, heads=2, dropout=0.1), IMAGES),
}


@pytest.mark.parametrize("name", MODELS)
def test_of_every_model_they_are_its_features_and_do_not_depend_on_the_batch_size(name, tmp_path):
    model, data = MODELS[name]
    net = model.init(KEY)
    rows = cl.experience(data)
    wanted = models.features(model, net, rows.x, task=rows.tasks)
    before = feature_cache.made_of(model=model, net=net)
    for size in (1, 3, 7, 100):
        torch.testing.assert_close(features(model, net, data, batch_size=size).x, wanted, rtol=1e-6, atol=1e-6)
    assert feature_cache.made_of(model=model, net=net) == before  # a model that has run is the same model
    assert torch.equal(features(model, net, data, cache=tmp_path).x, features(model, net, data, cache=tmp_path).x)


class Coder(nn.Module):
    def __init__(self, out=5):
        super().__init__()
        self.layer, self.noise = nn.Conv2d(1, out, 3), nn.Dropout(0.5)

    def forward(self, x):
        return self.noise(self.layer(x))


def test_of_a_pure_module_they_are_its_output_in_eval_mode(tmp_path):
    coder = models.pure(Coder)
    net = coder.init(KEY)
    made = features(coder, net, IMAGES, batch_size=4, cache=tmp_path)
    wanted = nn.functional.conv2d(IMAGES.x / 255, net.params["layer.weight"], net.params["layer.bias"])
    torch.testing.assert_close(made.x, wanted)
    assert torch.equal(made.x, features(coder, net, IMAGES, batch_size=4, cache=tmp_path).x)


def test_what_comes_with_the_rows_is_kept():
    task = torch.arange(28) % 2
    for y in (torch.rand(28, 2), torch.rand(28, 3) > 0.5, DATA.y):
        made = features(dataset=cl.Dataset(DATA.x, y, task))
        assert torch.equal(made.y, y)
        assert torch.equal(made.task, task)
        assert made.n_classes == cl.Dataset(DATA.x, y).n_classes
    assert features(dataset=cl.Dataset(DATA.x, DATA.y, n_classes=9)).n_classes == 9


def test_task_labels_reach_the_network():
    def by_task(params, buffers, x, *, valid=None, task=None):
        return x + task[:, None]

    model = models.Model(MODEL.init, MODEL.apply, 4, features=by_task)
    task = torch.arange(28) % 5
    made = features(model, NET, cl.Dataset(DATA.x, DATA.y, task), batch_size=3)
    assert torch.equal(made.x, DATA.x + task[:, None])


def test_the_dtype_is_that_of_the_network_and_tokens_are_taken():
    net = cl.tree.map(lambda leaf: leaf.double(), NET)
    assert features(MODEL, net, preprocess=lambda x: x.double()).x.dtype == torch.float64
    embed = models.pure(partial(nn.EmbeddingBag, 20, 3))
    net, tokens = embed.init(KEY), torch.randint(20, (9, 4))
    made = features(embed, net, cl.Dataset(tokens, torch.arange(9)))
    torch.testing.assert_close(made.x, net.params["weight"][tokens].mean(1))


def test_a_batch_is_prepared_where_it_is_needed(passes):
    big = partial(nn.functional.interpolate, size=16, mode="bilinear")
    model = models.cnn((1, 16, 16), channels=(4,), hidden=5, n_classes=3)
    net = model.init(KEY)
    made = features(model, net, IMAGES, preprocess=big, batch_size=4)
    torch.testing.assert_close(made.x, models.features(model, net, big(IMAGES.x / 255)), rtol=1e-6, atol=1e-6)
    assert passes == [4, 4, 2]


def test_it_trains_as_any_other_dataset():
    train, test = (cl.data.features(MODEL, NET, part, progress=False) for part in (DATA, DATA))
    bench = cl.streams.split_by_class(train, test, n_experiences=2)
    linear = models.mlp(8, hidden=(), n_classes=4)
    strategy = cl.strategies.slda(linear)
    on_features = cl.scan(strategy.update, strategy.init(KEY), bench.train, cl.evaluate(strategy.model, bench.test))
    bench = cl.streams.split_by_class(DATA, DATA, n_experiences=2)
    strategy = cl.strategies.slda(MODEL, weights=NET)
    on_inputs = cl.scan(strategy.update, strategy.init(KEY), bench.train, cl.evaluate(strategy.model, bench.test))
    assert torch.equal(on_features[1]["accuracy"], on_inputs[1]["accuracy"])


# ------------------------------------------------------------------ once


def test_they_are_computed_once(tmp_path, passes):
    cache = tmp_path / "a" / "b"
    first = features(cache=cache, batch_size=10)
    assert passes == [10, 10, 8]
    second = features(cache=str(cache), batch_size=7)
    assert passes == [10, 10, 8]
    assert cl.tree.equal(first, second)
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]


def doubled(x):
    return 2 * x


CHANGES = {
    "a weight": {"net": cl.tree.set(NET, {"params": {**NET.params, "0.bias": NET.params["0.bias"] + 1e-6}})},
    "another model with these weights": {"model": models.mlp(6, hidden=(8,), n_classes=4, activation="relu")},
    "a row": {"dataset": cl.Dataset(torch.cat([DATA.x[:-1], DATA.x[-1:] + 1e-6]), DATA.y)},
    "a row less": {"dataset": cl.Dataset(DATA.x[:-1], DATA.y[:-1])},
    "task labels": {"dataset": cl.Dataset(DATA.x, DATA.y, torch.ones_like(DATA.y))},
    "a function of the batch": {"preprocess": doubled},
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_they_are_made_of_is_compared(name, tmp_path, passes):
    features(cache=tmp_path)
    changed = features(**CHANGES[name], cache=tmp_path)
    assert len(passes) == 2
    assert cl.tree.equal(changed, features(**CHANGES[name]))
    features(**CHANGES[name], cache=tmp_path)
    assert len(passes) == 3  # the one without a cache
    assert len(list(tmp_path.iterdir())) == 2


def test_other_targets_have_the_same_features(tmp_path, passes):
    features(cache=tmp_path)
    relabelled = features(dataset=cl.Dataset(DATA.x, torch.rand(28)), cache=tmp_path)
    assert len(passes) == 1
    assert relabelled.target == "regression"


def test_another_constant_in_the_users_function_is_another_function(tmp_path, passes):
    for factor in (2, 3, 2):
        made = features(preprocess=eval(f"lambda x: x * {factor}"), cache=tmp_path)
        torch.testing.assert_close(made.x, by_hand(NET.params, DATA.x * factor))
    assert len(passes) == 2


def test_the_versions_that_change_rounding_do_not_count(monkeypatch, tmp_path, passes):
    features(cache=tmp_path)
    monkeypatch.setattr(torch, "__version__", "3.0")
    features(cache=tmp_path)
    assert len(passes) == 1


def test_another_process_finds_them(tmp_path, passes):
    code = (
        "import cl_func as cl; from cl_func import models, testing; "
        "model = models.mlp(6, hidden=(8,), n_classes=4, activation='tanh'); data = testing.small_benchmark().train[0].source; "
        f"cl.data.features(model, model.init(cl.key(0)), data, cache={str(tmp_path)!r})"
    )
    env = {"PYTHONPATH": str(Path(cl.__file__).parents[1]), "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=env)
    data = cl.testing.small_benchmark().train[0].source
    features(dataset=data, cache=tmp_path)
    assert passes == []


def _extract(folder):
    torch.set_num_threads(1)
    return features(batch_size=1, cache=folder).x.sum().item()


def test_processes_may_share_a_folder(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        sums = pool.map(_extract, [tmp_path] * 4, chunksize=1)
    assert len(set(sums)) == 1
    assert len(list(tmp_path.iterdir())) == 1
    assert features(cache=tmp_path).x.sum().item() == sums[0]


# ------------------------------------------------------------------ what may go wrong


def again(folder, match):
    """Computed with a warning that points at the caller, and kept."""
    with pytest.warns(UserWarning, match=match) as said:
        made = features(cache=folder)
    assert [Path(one.filename).name for one in said] == ["test_features.py"]
    torch.testing.assert_close(made.x, by_hand(NET.params, DATA.x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cl.tree.equal(features(cache=folder), made)


@pytest.mark.parametrize("damage", ["truncated", "altered", "empty", "text"])
def test_a_damaged_file_is_replaced(damage, tmp_path):
    features(cache=tmp_path)
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    altered = bytearray(data)
    altered[-3] ^= 1
    path.write_bytes({"truncated": data[:-10], "altered": bytes(altered), "empty": b"", "text": b"features"}[damage])
    again(tmp_path, "cache: the features are computed again.*damaged")


def test_a_foreign_file_is_replaced(tmp_path):
    features(cache=tmp_path)
    (path,) = tmp_path.iterdir()
    cl.save(path, NET)
    again(tmp_path, "cache: the features are computed again.*holds 'tree', not 'features'")
    features(MODEL, MODEL.init(cl.key(1)), cache=tmp_path)
    (other,) = set(tmp_path.iterdir()) - {path}
    path.write_bytes(other.read_bytes())
    again(tmp_path, "holds others than its name says")
    tensors, header = files.read(path, "features")
    for wrong in ({}, {"x": tensors["x"][:-1]}, {"x": tensors["x"][:, 0]}, {"x": tensors["x"].long()}):
        files.write(path, wrong, header)
        again(tmp_path, "holds others than its name says")


def test_an_interruption_leaves_no_file(tmp_path, monkeypatch):
    def stop(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        features(preprocess=stop, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []

    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.warns(UserWarning, match="cache: the features are not kept.*No space left") as said:
        made = features(cache=tmp_path)
    assert [Path(one.filename).name for one in said] == ["test_features.py"]
    torch.testing.assert_close(made.x, by_hand(NET.params, DATA.x))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_is_refused_before_anything_is_computed(tmp_path, passes):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match=r"cache: .*file.* cannot be used as a folder"):
            features(cache=folder)
    assert passes == []


def test_what_cannot_be_compared_is_not_cached(tmp_path, passes):
    file = (tmp_path / "log").open("w")
    with file, pytest.raises(ValueError, match=r"cache: preprocess.* is .*TextIOWrapper, whose content cannot be compared"):
        features(preprocess=lambda x: (file, x)[1], cache=tmp_path)
    assert passes == []


def test_what_a_network_or_a_function_returns_is_checked():
    for wrong, error, match in (
        (lambda x: None, TypeError, "preprocess: expected it to return a tensor"),
        (lambda x: x[:-1], ValueError, r"preprocess: expected it to return 9 rows for 9, got float32\[8, 6\]"),
        (lambda x: x.sum(), ValueError, "preprocess: expected it to return 9 rows"),
        (lambda x: x / 0, ValueError, "model: the features of rows 0 to 8 are not all finite"),
    ):
        with pytest.raises(error, match=match):
            features(preprocess=wrong, batch_size=9)

    def returning(value):
        return models.PureModule(MODEL.init, lambda params, buffers, x: (value(x), buffers), MODEL.fresh)

    for value, error, match in (
        (lambda x: (x, x), TypeError, "model: expected features as a floating tensor"),
        (lambda x: x.long(), TypeError, "model: expected features as a floating tensor"),
        (lambda x: x.T, ValueError, r"model: expected features \[28, ...\] of 28 rows, got float32\[6, 28\]"),
        (lambda x: x[:, 0], ValueError, r"model: expected features \[28, ...\] of 28 rows, got float32\[28\]"),
    ):
        with pytest.raises(error, match=match):
            features(returning(value))
    with pytest.raises(ValueError, match="last_layer"):
        features(models.from_module(partial(nn.Linear, 6, 4), n_classes=4), NET)
    lanes = cl.tree.stack([NET, NET])
    with pytest.raises(ValueError, match=r"model: the network cannot take float32\[28, 6\].*one run where there are lanes"):
        features(MODEL, lanes)


# ------------------------------------------------------------------ progress


@pytest.mark.parametrize("there", [True, False])
def test_progress_is_shown(there, monkeypatch, capsys):
    if not there:
        monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    features(batch_size=7, progress=True)
    said = capsys.readouterr().err
    assert said.lstrip("\r").startswith("features: ")
    assert ("28/28" if there else "28 of 28 rows") in said
    features(batch_size=7)
    assert capsys.readouterr() == ("", "")


def test_a_bar_ends_where_the_work_did(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    seen = []

    def once(x):
        seen.append(len(x))
        return x if len(seen) < 3 else x[0]

    with pytest.raises(ValueError, match="preprocess"):
        features(batch_size=7, preprocess=once, progress=True)
    assert "features: 14 of 28 rows when it stopped" in capsys.readouterr().err
