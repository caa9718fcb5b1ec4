"""What `help(cl.strategies.er)` shows: each factory explains its arguments, result and errors, and names its paper."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing

import pytest
import registry

import cl_func as cl

FACTORIES = {name: value for name in cl.strategies.__all__ if not isinstance(value := getattr(cl.strategies, name), type)}
each_factory = pytest.mark.parametrize("name", FACTORIES)


def doc(name):
    return inspect.cleandoc(FACTORIES[name].__doc__)


def section(name, title):
    """The text of a section of Google's style, such as Args, without its indentation."""
    found = re.search(rf"^{title}:\n((?: {{4}}.*\n?)+)", doc(name), re.M)
    assert found, f"{name}: no section {title}"
    return inspect.cleandoc(found[1])


def entries(name, title):
    """The entries `name: text` of a section, in order."""
    return {one: " ".join(text.split()) for one, text in re.findall(r"^(\w+): ((?:.+(?:\n +)?)+)", section(name, title), re.M)}


def start(name):
    return FACTORIES[name](registry.MODEL, registry.SGD, **registry.ARGUMENTS.get(name, {}), batch_size=5).init(cl.key(0))


def test_all_methods_are_looked_at():
    assert len(FACTORIES) >= 26
    assert set(registry.ARGUMENTS) <= set(FACTORIES)


@each_factory
def test_the_summary_is_one_line(name):
    first, rest = doc(name).split("\n\n", 1)
    assert "\n" not in first
    assert first.endswith(".")
    assert rest


@each_factory
def test_every_argument_is_explained_in_the_order_of_the_signature(name):
    explained = entries(name, "Args")
    assert list(explained) == list(inspect.signature(FACTORIES[name]).parameters)
    assert all(text.endswith(".") for text in explained.values())


@each_factory
def test_an_argument_that_many_factories_take_is_explained_alike(name):
    mine, those_of_er = entries(name, "Args"), entries("er", "Args")
    # GDumb's minibatches and passes are of its memory.
    for argument in {"model", "optimizer", "batch_size", "epochs", "iterations", "capacity"} & set(mine):
        own = {"gdumb": {"batch_size", "epochs", "iterations"}, "icarl": {"capacity"}, "bic": {"capacity"}, "ogd": {"capacity"}}
        same = mine[argument].split(". ")[0].rstrip(".") == those_of_er[argument].split(". ")[0].rstrip(".")
        assert same != (argument in own.get(name, ())), argument


@each_factory
def test_the_result_and_the_errors_are_named(name):
    result = section(name, "Returns")
    assert f"`{type(start(name)).__name__}`" in result
    assert "`Strategy.model` is" in result
    assert list(entries(name, "Raises")) == ["TypeError", "ValueError"]


@each_factory
def test_a_paper_is_named_with_its_title_and_year(name):
    (paper,) = [text for text in doc(name).split("\n\n") if text.startswith("Reference: ")]
    assert re.search(r'^Reference: [A-Zv][^"]+, "[^"]+", .*\b(19|20)\d\d\b', " ".join(paper.split()))


@each_factory
def test_the_hyperparameter_paths_are_the_bounded_leaves_of_the_state(name):
    """Those that `cl.tree.set` and a sweep check the range of; the optimiser's are its own."""
    (said,) = [text for text in doc(name).split("\n\n") if text.startswith("Hyperparameter paths: ")]
    assert "those of the optimiser" in said

    def bounded(node, prefix):
        return {
            f"{prefix}{f.name}" for f in dataclasses.fields(node) if "check" in f.metadata and getattr(node, f.name) is not None
        }

    agent = start(name)
    slots = {f.name: getattr(agent, f.name) for f in dataclasses.fields(agent) if f.name not in ("model", "opt")}
    found = bounded(agent, "").union(*(bounded(slot, f"{n}.") for n, slot in slots.items() if dataclasses.is_dataclass(slot)))
    assert set(re.findall(r"`([\w.]+)`", said)) - {"opt.lr"} == found


@each_factory
def test_every_argument_is_typed(name):
    hints = typing.get_type_hints(FACTORIES[name])
    assert set(hints) == {*inspect.signature(FACTORIES[name]).parameters, "return"}
    assert hints["return"] is cl.Strategy
    assert typing.Any not in hints.values()
