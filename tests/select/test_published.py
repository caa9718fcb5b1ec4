"""Published values: all of them make strategies, and they are those of their sources."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest
import registry

import cl_func as cl
from cl_func.select import literature
from cl_func.select.literature import published

ENTRIES = literature._entries()
MODEL = cl.models.mlp(6, hidden=(8,), n_classes=4)


def named(entry):
    return f"{entry.method}-{entry.benchmark}-{entry.source}-{entry.settings[0]}-{entry.capacity}"


@pytest.mark.parametrize("entry", ENTRIES, ids=named)
def test_every_entry_makes_a_strategy(entry):
    strategy = entry.make(MODEL)
    assert float(strategy.init(cl.key(0)).opt.lr) == pytest.approx(entry.lr)
    assert set(entry.settings) <= {"class", "task", "domain"}
    assert set(entry.arguments) <= set(inspect.signature(getattr(cl.strategies, entry.method)).parameters)
    assert "batch_size" in entry.arguments or entry.benchmark.endswith("_online")
    assert re.search(r"[0-9a-f]{7}\b", entry.read_in)
    assert re.search(r"20\d\d", entry.paper)


def test_entries_are_distinct_and_found():
    keys = [(one.method, one.benchmark, one.settings, one.capacity, one.source) for one in ENTRIES]
    assert len(set(keys)) == len(keys) > 90
    for one in ENTRIES:
        assert published(one.method, one.benchmark, capacity=one.capacity, setting=one.settings[0], source=one.source) is one


def test_a_strategy_of_them_learns():
    entry = published("er", "split_mnist")
    end = cl.fold(entry.make(registry.MODEL).update, entry.make(registry.MODEL).init(cl.key(0)), registry.BENCH.train)
    assert int(end.replay.occupied.sum()) > 0


@pytest.mark.parametrize(
    ("method", "benchmark", "wanted", "lr", "arguments"),
    [
        ("der_pp", "split_cifar10", {"capacity": 500}, 0.03, {"alpha": 0.2, "beta": 0.5, "replay_size": 32, "epochs": 50}),
        ("der_pp", "split_cifar10", {"capacity": 5120}, 0.03, {"alpha": 0.1, "beta": 1.0, "batch_size": 32}),
        ("der_pp", "split_cifar10", {}, 0.03, {"alpha": 0.1, "beta": 0.5, "capacity": 200}),
        ("der", "split_tiny_imagenet", {"capacity": 200}, 0.03, {"alpha": 0.1, "epochs": 100}),
        ("er", "split_tiny_imagenet", {"capacity": 500}, 0.03, {"replay_size": 32}),
        ("der_pp", "permuted_mnist", {"capacity": 200}, 0.1, {"alpha": 1.0, "beta": 1.0, "batch_size": 128, "epochs": 1}),
        ("gem", "permuted_mnist", {"capacity": 500}, 0.1, {"margin": 0.5, "memory_per_experience": 25, "n_experiences": 20}),
        ("agem", "rotated_mnist", {"capacity": 5120}, 0.3, {"sample_size": 128}),
        # penalties without 1/2: c = 0.5, xi = 1; lambda = 10
        ("si", "split_cifar10", {}, 0.03, {"strength": 2 * 0.5, "damping": 1.0}),
        ("ewc_online", "split_cifar10", {}, 0.03, {"strength": 2 * 10, "decay": 1.0}),
        ("ewc", "split_mnist", {"setting": "class"}, 1e-3, {"strength": 1e9, "iterations": 2000, "batch_size": 128}),
        ("ewc", "split_mnist", {"setting": "task"}, 1e-3, {"strength": 1e5}),
        ("ewc", "split_mnist", {"setting": "domain"}, 1e-3, {"strength": 1e10}),
        ("si", "split_mnist", {"setting": "class", "source": "van_de_ven"}, 1e-3, {"strength": 2 * 5000.0, "damping": 0.1}),
        ("ewc", "permuted_mnist", {}, 1e-4, {"strength": 100.0, "importance_samples": 1000, "iterations": 5000}),
        ("er_ace", "split_cifar100_online", {}, 0.024841548604384433 / 2, {"capacity": 2000, "iterations": 3}),
        (
            "er_lwf",
            "split_cifar100_online",
            {},
            0.023247938755185472,
            {"strength": 0.5188603936239411 / 1.2228156692940246**2, "temperature": 1.2228156692940246},
        ),
        ("scr", "split_cifar100_online", {}, 0.0817694849118531 * 0.17532258875378776 / 0.07, {"replay_size": 118}),
        ("mir", "split_tiny_imagenet_online", {}, 0.007967482153899462, {"virtual_lr": 0.007967482153899462, "candidates": 128}),
    ],
)
def test_values_are_those_of_the_source(method, benchmark, wanted, lr, arguments):
    found = published(method, benchmark, **wanted)
    assert found.lr == pytest.approx(lr, rel=1e-12)
    assert {name: found.arguments[name] for name in arguments} == pytest.approx(arguments, rel=1e-12)


def test_what_is_not_known_is_said_with_what_is():
    with pytest.raises(ValueError, match=r"benchmark: nothing is known of 'split_cifar11', but of permuted_mnist, .*split_cifar10"):
        published("er", "split_cifar11")
    with pytest.raises(
        ValueError, match=r"method: of 'split_cifar10' only naive, er, der, .* are known, got 'mir', known of split_c"
    ):
        published("mir", "split_cifar10")
    with pytest.raises(ValueError, match=r"capacity: 'er' on 'split_cifar10' is known with 200, 500, 5120, got 300"):
        published("er", "split_cifar10", capacity=300)
    with pytest.raises(ValueError, match=r"setting: 'ewc' on 'split_mnist' is known with class, domain, task, got 'online'"):
        published("ewc", "split_mnist", setting="online")
    with pytest.raises(ValueError, match=r"source: 'si' on 'split_mnist' is known with buzzega, van_de_ven, got 'me'"):
        published("si", "split_mnist", source="me")


def test_it_is_pickled():
    entry = published("ewc", "split_mnist")
    assert pickle.loads(pickle.dumps(entry)).arguments == entry.arguments
