"""docs/methods.md, made from the methods themselves: `python -m benchmarks.page`.

What a method stores and its hyperparameters are read from its initial state, its source from its file, so that nothing is written
twice. A test fails if the page is out of date.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import cl_func as cl
from benchmarks.methods import Method, Problem, all_methods, synthetic

PAGE = Path(__file__).resolve().parent.parent / "docs" / "methods.md"
HEAD = """# Methods

Made by `python -m benchmarks.page` from the methods themselves; do not edit.

One import and one call: `cl.strategies.er(model, optimizer, capacity=200, replay_size=10)`. Every factory also takes `batch_size`,
`epochs` and `iterations`, as `cl.minibatches` does; without `batch_size` an experience is one minibatch, as on online
streams, so give it on others. A hyperparameter is a leaf of the state: sweep it by its path,
`cl.grid({"opt.lr": [0.03, 0.1]})`, or set it, `cl.tree.set(state, {"opt.lr": 0.1})`; the optimiser's are there for all methods.
`agem`, `gem`, `ogd` and `owm` project gradients, which is exact with plain SGD: momentum and Adam, coming after, do not know of it.

*Stored* is what the state holds beyond the model and the optimiser, in MB for the MLP 784-400-400-10, 5 experiences and a memory of
1000 rows. *Step* is what a training step costs beside one of naive, counting forward and backward passes over rows; GEM takes a
gradient on each of its memories, filled or not, and SCR is counted with one view and without its projection. What is done once per
experience is not in it. `python -m benchmarks.speed.cost` counts the operations and measures the time.

| method | stored | step | hyperparameters, by path | source |
| --- | --- | --- | --- | --- |
"""


def stored(state: Any) -> str:
    """The slots that a method adds, with their sizes in MB."""
    slots = {path.partition(".")[0] for path, _ in cl.tree.items(state)} - {"key", "model", "opt"}
    sizes = {slot: sum(leaf.nbytes for leaf in cl.tree.leaves(getattr(state, slot))) / 1e6 for slot in slots}
    return ", ".join(f"`{slot}` {size:.1f}" for slot, size in sorted(sizes.items()) if size >= 0.05) or (
        "< 0.05" if sizes else "nothing"
    )


def paths(name: str, state: Any) -> str:
    """The hyperparameters that the factory's docstring names, with their defaults; those of the optimiser are left out."""
    listed = (getattr(cl.strategies, name).__doc__ or "").partition("Hyperparameter paths:")[2].partition("\n\n")[0]
    named = re.findall(r"`([\w.]+)`", listed)
    leaves = {path: leaf for path, leaf in cl.tree.items(state) if leaf.ndim == 0 and not path.startswith("opt.")}
    parameters = inspect.signature(getattr(cl.strategies, name)).parameters

    def default(path: str) -> str:
        argument = parameters.get(path.rpartition(".")[2])
        required = argument is not None and argument.default is inspect.Parameter.empty
        return f"`{path}` (required)" if required else f"`{path}` = {leaves[path].item():g}"

    return ", ".join(default(path) for path in named if path in leaves) or "none"


def step(entry: Method) -> str:
    """The cost of a step beside that of naive: a forward pass is a third of a forward and backward pass."""
    if entry.passes is None:
        return "its own"
    both, forward = entry.passes(5)
    return f"{both + forward / 3:.1f}"


def source(name: str) -> str:
    """The first paragraph of the method's file."""
    text = sys.modules[getattr(cl.strategies, name).__module__].__doc__ or ""
    return " ".join(text.strip().split("\n\n")[0].split()).replace("|", "\\|")


def row(entry: Method, problem: Problem) -> str:
    """One line of the table."""
    state = entry.strategy(problem).init(cl.key(0))
    return f"| `{entry.name}` | {stored(state)} | {step(entry)} | {paths(entry.name, state)} | {source(entry.name)} |"


def page() -> str:
    """The whole page."""
    problem = synthetic(2000, 2)
    return HEAD + "\n".join(row(entry, problem) for entry in all_methods() if entry.available) + "\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
    print(f"written: {PAGE.name}, {len(all_methods())} methods")
