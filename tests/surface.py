"""The public surface, call by call: what `test_bad_input.py` gives bad arguments to.

For each public callable a call that works and, for each argument, its kind. A kind says which of the values of SORTS are fine; all
the others, and what is wrong with this kind only (another dtype, shape or device, a number out of range drawn by Hypothesis), must
be refused. A public callable that has no call here, and is no record, fails a test.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import struct
import tempfile
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import made_files
import made_runs
import made_trackers
import numpy as np
import pytest
import registry
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import cl_func as cl
from cl_func import classifiers, losses, memory, models, optim, plasticity, projections, random, regularizers, strategies, tree

BENCH, MODEL, SGD = registry.BENCH, registry.MODEL, registry.OPTIMIZERS["sgd_momentum"]
KEY, EXP, STATE = cl.key(0), BENCH.train[0], registry.init(cl.key(0))
DATA = EXP.source
STRATEGY = strategies.naive(MODEL, SGD)
IMAGES = cl.Dataset(torch.rand(8, 1, 4, 4), torch.arange(8) % 4)
R = torch.tensor([[0.9, 0.2, 0.1], [0.5, 0.8, 0.2], [0.4, 0.6, 0.7]])
LOGITS = random.normal(KEY, (len(EXP), 4))
GRID = cl.grid({"opt.lr": [0.1, 0.2]})


LINEAR = models.from_module(lambda: nn.Linear(6, 4), n_classes=4, input_shape=(6,))
LINEAR_STATE = cl.Agent(key=KEY, model=LINEAR.init(KEY))

_folder = tempfile.TemporaryDirectory()  # removed when the process ends
FOLDER = Path(_folder.name)
for part in ("train", "t10k"):
    (FOLDER / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, 4, 2, 2) + bytes(16))
    (FOLDER / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 4) + bytes([0, 1, 2, 3]))
FILE = FOLDER / "train-labels-idx1-ubyte"


class Columns(list):
    """Rows that are dicts, with the names that a table of the Hugging Face hub has beside them."""

    column_names = ["a", "b", "t"]  # noqa: RUF012
    features = None


def update(state, exp):
    return state


def loss(params, state, exp):
    return sum(p.square().sum() for p in params.values()), state


def clip(grads, state, exp):
    return grads, state


def probe(state, exp):
    return {"accuracy": torch.zeros(2)}


def build() -> nn.Module:
    return nn.Linear(6, 4)


def swap(layer: nn.Module) -> nn.Module:
    return nn.Identity()


def through(module: nn.Module, x: Tensor) -> Tensor:
    return module(x)


def shift(x: Tensor, params: Any) -> Tensor:
    return x + params["by"]


def draw_row(key: Tensor, params: Any) -> tuple[Tensor, Tensor]:
    label, noise = random.split(key)
    return random.normal(noise, 6) + params["by"], random.randint(label, (), 0, 4)


SHIFTS = (torch.flatten, torch.argmax, torch.isnan, lambda x, params: x - x.mean(0), lambda x: x, lambda x, params: x[:, 0])
SAMPLES = (lambda key, params: key, lambda key: (key, key), lambda key, params: (params["by"], params["by"] > 0), torch.add)
PARAMS = ({"by": 1.0}, {"other": torch.zeros(2, 6)}, {"by": torch.zeros(3, 6, 7)}, {"by": torch.zeros(2, 6).to("meta")})


def with_trackers(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that finds the packages of trackers, installed or not."""

    def call(**arguments: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            made_trackers.install(patch)
            return function(**arguments)

    return call


# Values of every sort that a caller may pass by mistake.
SORTS: dict[str, Any] = {
    "none": None,
    "bool": True,
    "int": 2,
    "zero": 0,
    "negative": -3,
    "float": 2.5,
    "nan": float("nan"),
    "inf": float("inf"),
    "complex": 1 + 2j,
    "str": "10",
    "empty str": "",
    "bytes": b"10",
    "list": [1, 2],
    "empty list": [],
    "list of str": ["a", "b"],
    "dict": {"a": 1},
    "empty dict": {},
    "object": object(),
    "numpy int": np.int64(2),
    "numpy float": np.float32(0.5),
    "numpy bool": np.bool_(True),
    "numpy array": np.ones(3),
    "tensor": torch.ones(3),
    "scalar tensor": torch.tensor(0.5),
    "nan tensor": torch.full((3,), float("nan")),
    "integer tensor": torch.tensor([1, 2, 0]),
    "meta tensor": torch.ones(3, device="meta"),
    "function": lambda: None,
    "function of five": lambda a, b, c, d, e: None,
    "class": nn.Linear,
    "module": nn.Linear(6, 4),
    "key": KEY,
    "dataset": DATA,
    "experience": EXP,
    "stream": BENCH.train,
    "benchmark": BENCH,
    "model": MODEL,
    "weights": STATE.model,
    "optimizer": SGD,
    "strategy": STRATEGY,
    "state": STATE,
    "grid": GRID,
    "dtype": torch.float32,
    "device": torch.device("meta"),
}
CALLABLE = {"class", "module"}
TENSORS = {"tensor", "scalar tensor", "nan tensor", "integer tensor", "key", "dataset", "experience", "weights"}
NUMBER = {"int", "zero", "float", "numpy int", "numpy float"}


@dataclass(frozen=True)
class Kind:
    """What an argument takes: the sorts that are fine, more values that are bad, and a strategy for still more of them."""

    fine: frozenset[str] = frozenset()
    bad: tuple[Any, ...] = ()
    drawn: Any = None

    def but(self, *fine: str, bad: tuple[Any, ...] = ()) -> Kind:
        return dataclasses.replace(self, fine=self.fine | set(fine), bad=(*self.bad, *bad))


def kind(*fine: str, bad: tuple[Any, ...] = (), drawn: Any = None) -> Kind:
    return Kind(frozenset(fine), bad, drawn)


NO_NUMBER = st.floats(max_value=-1e-9) | st.just(float("nan")) | st.just(float("inf"))
SIZE = kind("int", bad=(2.0, "2", -1, 1.0, np.float64(2), torch.tensor(2), 10.0), drawn=st.integers(max_value=0) | st.floats())
COUNT = dataclasses.replace(SIZE, fine=frozenset({"int", "zero"}), drawn=st.integers(max_value=-1) | st.floats())
NON_NEGATIVE = kind(*NUMBER, bad=("0.1", float("-inf")), drawn=NO_NUMBER)
POSITIVE = dataclasses.replace(NON_NEGATIVE, fine=frozenset(NUMBER - {"zero"}), bad=(0.0, "0.1"))
DECAY = kind("zero", "numpy float", bad=("0.9", 1, 1.0), drawn=NO_NUMBER | st.floats(min_value=1.0))  # in [0, 1)
FRACTION = kind("numpy float", bad=("0.5", 0.0, 1.0), drawn=NO_NUMBER | st.floats(min_value=1.0))  # in (0, 1)
EXPONENT = kind("numpy float", bad=("0.5", 0.0, 1.1), drawn=NO_NUMBER)  # in (0, 1]
PROBABILITY = kind("zero", "numpy float", bad=("0.5", 1.1), drawn=NO_NUMBER)
ANGLE = kind(*NUMBER, "negative")
FLAG = kind("bool", bad=("True", 0, 1))
FUNCTION = kind(*CALLABLE, bad=("update",))
UPDATE = FUNCTION.but("strategy")  # for what takes a Strategy too
MODEL_ = kind("model", bad=(models.mlp, "mlp"))
CLASSIFIER = kind("model", bad=("mlp",))
OPTIMIZER = kind("optimizer", bad=(optim.sgd, torch.optim.SGD, "sgd"))
STRATEGY_ = kind("strategy", bad=(strategies.naive,))
DATASET = kind("dataset", bad=((DATA, DATA),))
EXPERIENCE = kind("experience", bad=([EXP],))
STREAM = kind("stream", bad=([], iter([]), [1, 2], [None], "stream"))
BENCHMARK = kind("benchmark", bad=(BENCH.train, (BENCH.train, BENCH.test)))
SLOT = kind("str")
DTYPE = kind("dtype", bad=(torch.int32, torch.uint8, torch.bool, torch.complex64, "float32"))  # floating or int64
KEYS = (torch.tensor(1.0), torch.tensor(1, dtype=torch.int32), torch.zeros(2, dtype=torch.int64), torch.tensor(True))
KEY_ = kind("key", bad=(*KEYS, KEY.to("meta")))
NAME = kind("str", "empty str")
SEEN = kind(
    bad=([1, 2], [3, 2, 1], [0, 1, 2], [1, 2, 4], [1.0, 2.0, 3.0], [True, 2, 3], ["1", "2", "3"], torch.tensor([1.0, 2.0, 3.0]))
)


def tensor(like: Tensor, *fine: str, bad: tuple[Any, ...] = (), shapes: bool = True, dtypes: bool = True) -> Kind:
    """A tensor as `like`: another device, other dtypes, and other shapes are bad."""
    others: list[Any] = [like.to("meta"), like.tolist()]
    if dtypes:
        others += [like.to(torch.complex64), like.to(torch.int16 if like.is_floating_point() else torch.float32)]
    if shapes:
        others += [like[None], like.flatten()[:0], like.repeat(*[2] * like.ndim) if like.ndim else like.repeat(2)]
    drawn = _other_shapes(like) if shapes else None
    return kind(*fine, bad=(*others, *bad), drawn=drawn)


def _other_shapes(like: Tensor) -> Any:
    shape = st.lists(st.integers(0, 3), max_size=3).filter(lambda sizes: list(like.shape) != sizes)
    dtype = st.sampled_from([like.dtype, torch.float64, torch.int32, torch.complex64])
    return st.builds(lambda sizes, dtype: torch.zeros(sizes, dtype=dtype), shape, dtype)


def choice(*options: Any) -> Kind:
    return kind(bad=("experiences", *(f"{option} " for option in options if isinstance(option, str))))


@dataclass(frozen=True, repr=False)
class Call:
    """A call that works. `says`: what a message names instead of an argument, where that is a path or a part."""

    name: str
    function: Callable[..., Any]
    valid: dict[str, Any]
    kinds: dict[str, Kind]
    says: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return self.name

    def __call__(self, **changes: Any) -> Any:
        return self.function(**{**self.valid, **changes})


# The kinds of arguments by their names, where a call does not say otherwise.
USUAL = {
    "batch_size": SIZE.but("none"),
    "benchmark": BENCHMARK,
    "alpha": NON_NEGATIVE,
    "beta": NON_NEGATIVE,
    "capacity": SIZE,
    "checkpoint": kind("none"),
    "damping": POSITIVE,
    "decay": NON_NEGATIVE,
    "epochs": SIZE,
    "exp": EXPERIENCE,
    "importance_batch_size": SIZE.but("none"),
    "importance_samples": SIZE.but("none"),
    "higher_is_better": kind("none", "bool", bad=(0, 1, "True")),
    "interval": SIZE,
    "iterations": SIZE.but("none"),
    "key": KEY_,
    "labels": kind("none", bad=("True", "exact ")),
    "margin": NON_NEGATIVE,
    "memory_per_experience": SIZE,
    "model": MODEL_,
    "n_classes": SIZE,
    "n_experiences": SIZE.but(bad=(3, 10**9)),
    "optimizer": OPTIMIZER,
    "per_experience": SIZE,
    "projection_size": SIZE,
    "replay_size": SIZE,
    "ridge": POSITIVE,
    "sample_size": SIZE,
    "shrinkage": NON_NEGATIVE,
    "candidates": SIZE,
    "fields": FUNCTION,
    "gamma1": POSITIVE,
    "gamma2": PROBABILITY,  # at most gamma1, which is 1
    "loss": FUNCTION,
    "losses": FUNCTION,
    "n": SIZE,
    "params": kind(*TENSORS, "meta tensor", "state"),
    "per_class": SIZE,
    "samples": SIZE.but("none"),
    "sample": kind(*TENSORS, "meta tensor", "state"),
    "slot": SLOT,
    "subset_size": SIZE,
    "virtual_lr": NON_NEGATIVE,
    "state": kind("state"),
    "strength": NON_NEGATIVE,
    "target": choice("class", "multilabel", "regression"),
    "temperature": POSITIVE,
    "test": DATASET,
    "train": DATASET,
    "tukey": EXPONENT,
    "update": FUNCTION,
    "validation": FRACTION,
    "which": FUNCTION,
}
TABLE: list[Call] = []


def call(
    name: str, valid: dict[str, Any], kinds: dict[str, Kind] | None = None, says: dict[str, str] | None = None, run: Any = None
) -> None:
    """Enter a call; arguments of `valid` whose kind is None are not tried."""
    function = run
    if run is None:
        function = cl
        for part in name.split("."):
            function = getattr(function, part)
    given = {**{n: USUAL[n] for n in valid if n in USUAL}, **(kinds or {})}
    missing = [n for n in valid if n not in given]
    assert not missing, f"{name}: no kind for {missing}"
    TABLE.append(Call(name, function, valid, given, says or {}))


ANY = kind(*SORTS)  # whatever is given is taken
NETS = models.mlp(6, hidden=(8,), n_classes=4)
LOOP = {"batch_size": 5, "epochs": 2}

# -- the core
call(
    "Strategy",
    {"init": STRATEGY.init, "update": STRATEGY.update, "model": MODEL},
    {"init": FUNCTION, "model": CLASSIFIER.but("none")},
)
call(
    "Dataset",
    {"x": DATA.x, "y": DATA.y, "task": torch.zeros_like(DATA.y), "n_classes": 4},
    {
        "x": tensor(DATA.x, dtypes=False, bad=(DATA.x.int(), DATA.x.char(), DATA.x > 0, DATA.x[:, 0], DATA.x[:-1])),
        "y": tensor(DATA.y, bad=(DATA.y.float(), DATA.y - 1, DATA.y + 1, DATA.y[:-1], DATA.y > 0)),
        "task": tensor(DATA.y, "none", bad=(DATA.y[:-1], DATA.y - 5)),
        "n_classes": COUNT.but(bad=(10.0, "10", -4, 2)),
    },
)
call(
    "Benchmark",
    {"train": BENCH.train, "test": BENCH.test, "valid": BENCH.test},
    {"train": kind("stream"), "test": kind("stream"), "valid": kind("stream", "none")},
)
call("Stream", {"make": BENCH.train.make, "length": 2}, {"make": FUNCTION, "length": COUNT})
call(
    "experience",
    {"source": DATA, "rows": torch.tensor([1, 3]), "task": 0, "index": 0, "classes": torch.ones(4) > 0},
    {
        "source": DATASET,
        "rows": kind(
            "none",
            "integer tensor",
            bad=(
                torch.tensor([1.0]),
                torch.tensor([-1]),
                torch.tensor([28]),
                torch.tensor([[1]]),
                torch.tensor([1]).to("meta"),
                torch.tensor([1], dtype=torch.int32),
                torch.tensor([], dtype=torch.int64),
            ),
        ),
        "task": COUNT,
        "index": COUNT,
        "classes": kind(
            "none", bad=(torch.ones(4), torch.ones(5) > 0, torch.zeros(4) > 0, (torch.ones(4) > 0).to("meta"), torch.ones(1, 4) > 0)
        ),
    },
)
call("at", {"slot": "opt", "update": update})
call("check_finite", {"update": update, "save": None}, {"update": UPDATE, "save": kind("none", "str")})
call("compile", {"update": update, "donate": False, "rewrite": True}, {"update": UPDATE, "donate": FLAG, "rewrite": FLAG})
call("vmap", {"update": update}, {"update": UPDATE})
call("compose", {"updates": update}, {"updates": FUNCTION}, run=lambda updates: cl.compose(update, updates))
call("repeat", {"update": update, "times": 2}, {"times": SIZE})
call("when", {"condition": lambda s, e: s.key > 0, "update": update}, {"condition": FUNCTION})
call(
    "when",
    {"condition": torch.tensor(True)},
    {"condition": kind("bool", bad=(torch.ones(2) > 0, torch.tensor(1), torch.ones(1) > 0))},
    run=lambda condition: cl.when(lambda s, e: condition, optim.restart())(STATE, EXP),
)
call(
    "minibatches",
    {"step": update, **LOOP, "iterations": None, "shuffle": True, "drop_last": False},
    {"step": FUNCTION, "iterations": SIZE.but("none"), "shuffle": FLAG, "drop_last": FLAG},
)
call("minibatches", {"state": STATE, "exp": EXP}, run=lambda state, exp: cl.minibatches(update, batch_size=5)(state, exp))
call(
    "train_step",
    {"loss": loss, "optimizer": SGD, "transforms": clip},
    {"loss": FUNCTION, "transforms": FUNCTION},
    run=lambda loss, optimizer, transforms: cl.train_step(loss, optimizer, transforms),
)
SCALAR = torch.tensor(1.0)


def following(params, out):
    """What a loss returns, its value made to depend on the parameters."""
    with_value = isinstance(out, tuple) and isinstance(out[0], torch.Tensor) and out[0].is_floating_point()
    return (out[0] + 0 * params["0.bias"][0], *out[1:]) if with_value else out


PAIRS = (
    (torch.ones(2), STATE),
    (SCALAR, None),
    (1.0, STATE),
    (None, STATE),
    (torch.tensor(1), STATE),
    (SCALAR, STATE, STATE),
    SCALAR,
    torch.ones(2),
    (torch.ones(1), STATE),
)
call(
    "train_step",
    {"loss": (SCALAR, STATE)},
    {"loss": kind(bad=PAIRS)},
    run=lambda loss: cl.train_step(lambda p, s, e: following(p, loss), SGD)(STATE, EXP),
)
call(
    "train_step",
    {"transforms": (STATE.model.params, STATE)},
    {"transforms": kind(bad=((STATE.model.params, None), (None, STATE), ({}, STATE)))},
    run=lambda transforms: cl.train_step(losses.cross_entropy(MODEL), SGD, lambda g, s, e: transforms)(STATE, EXP),
)
call("train_step", {"state": STATE, "exp": EXP}, run=lambda state, exp: cl.train_step(losses.cross_entropy(MODEL), SGD)(state, exp))
call("core.gradient", {"loss": losses.cross_entropy(MODEL), "state": STATE, "exp": EXP}, {"loss": FUNCTION})
call("core.resolve", {"agent": STATE, "value": "opt.lr"}, {"agent": ANY, "value": ANY})
call(
    "maybe_init",
    {"agent": cl.Agent(key=KEY), "model": lambda s: STATE.model},
    {"agent": kind("state", "strategy"), "model": FUNCTION},
    {"agent": "agent|no 'model'"},
)
RAN = STRATEGY.init(KEY)
KEPT: dict[str, Any] = {"checkpoint": None}
FEED = kind("stream", bad=([], iter([]), "stream", EXP.source, [None], [1, 2], ["a"], [BENCH]))
AGENT = kind("state", bad=(KEY,))
call(
    "fold",
    {"update": STRATEGY.update, "state": RAN, "stream": BENCH.train, "donate": False, "progress": False, **KEPT},
    {"update": FUNCTION.but(), "state": AGENT, "stream": FEED, "donate": FLAG, "progress": FLAG.but("none")},
    {"stream": "stream|exp"},
)
call("fold", {"update": STATE}, {"update": kind("state")}, run=lambda update: cl.fold(lambda s, e: update, STATE, BENCH.train))
call(
    "scan",
    {
        "update": STRATEGY.update,
        "state": RAN,
        "stream": BENCH.train,
        "probe": probe,
        "every": 1,
        "donate": False,
        **KEPT,
        "tap": None,
        "stop": None,
        "progress": False,
    },
    {
        "update": FUNCTION,
        "state": AGENT,
        "stream": FEED,
        "probe": FUNCTION.but("none"),
        "every": SIZE,
        "donate": FLAG,
        "tap": FUNCTION.but("none"),
        "stop": FUNCTION.but("none"),
        "progress": FLAG.but("none"),
    },
    {"stream": "stream|exp"},
)
call(
    "scan",
    {"probe": torch.zeros(2)},
    {
        "probe": kind(
            "tensor",
            "scalar tensor",
            "nan tensor",
            "integer tensor",
            "key",
            "meta tensor",
            "dataset",
            "experience",
            "state",
            "weights",
            bad=({"a": 1.0}, {"a": torch.ones(2), "b": 3}, []),
        )
    },
    run=lambda probe: cl.scan(update, STATE, BENCH.train, lambda s, e: probe),
)
call(
    "scan",
    {"stop": True},
    {"stop": kind("bool", bad=(0, 1, torch.ones(2) > 0))},
    run=lambda stop: cl.scan(update, STATE, BENCH.train, probe, stop=lambda history: stop),
)
PATIENCE = {"n": 1, "name": "accuracy", "least": 0.0, "higher_is_better": True}
call("stop.patience", PATIENCE, {"name": kind("str"), "least": NON_NEGATIVE, "higher_is_better": FLAG.but("none")})
call("stop.diverged", {"name": "loss"}, {"name": kind("str")})
LANES = tree.stack([STATE, STATE])
call(
    "scan",
    {"probe": cl.vmap(registry.PROBES[0].make())},
    {"probe": kind("none", *CALLABLE, bad=(cl.evaluate(MODEL, BENCH.test),))},
    run=lambda probe: cl.scan(cl.vmap(update), LANES, BENCH.train, probe),
)
# -- data
call("data.digits", {})
call(
    "data.class_orders.shuffled",
    {"n_classes": 4, "seed": 0},
    {"seed": COUNT.but(bad=(2**32,))},
)
LAYOUT = choice("NCHW", "NHWC").but("none", bad=("NHWC",))  # of rows that are no images
ARRAYS = (
    np.zeros((4, 2), dtype=np.int64),
    np.zeros((4, 2), dtype=complex),
    np.zeros((4, 2), dtype=object),
    np.zeros((4, 2), dtype=str),
)
call(
    "data.from_arrays",
    {"x": np.zeros((4, 2), dtype=np.float32), "y": np.array([0, 1, 1, 0]), "n_classes": 2, "layout": None},
    {
        "x": kind(bad=(*ARRAYS, np.zeros((3, 2)), np.zeros((0, 2)), torch.zeros(4, 2, device="meta"), np.zeros((4, 8, 8, 3)))),
        "y": kind(
            bad=(
                *ARRAYS,
                np.zeros(4),
                np.zeros(4, dtype=bool),
                np.array([0, 1, 2, 0]),
                np.array([0, -1, 0, 0]),
                torch.zeros(4, dtype=torch.complex64),
                torch.zeros(4, dtype=torch.int64, device="meta"),
            )
        ),
        "n_classes": SIZE.but("none", bad=(1,)),
        "layout": LAYOUT,
    },
    {"n_classes": "n_classes"},
)
np.savez(FOLDER / "arrays.npz", x=np.zeros((4, 2), dtype=np.float32), y=np.array([0, 1, 1, 0]), objects=np.array([{}] * 4))
call(
    "data.from_npz",
    {"path": FOLDER / "arrays.npz", "x": "x", "y": "y", "n_classes": 2, "layout": None},
    {
        "path": kind(bad=("/nowhere", FILE, FOLDER)),
        "x": kind(bad=("z", "objects")),
        "y": kind(bad=("z", "objects")),
        "n_classes": SIZE.but("none", bad=(1,)),
        "layout": LAYOUT,
    },
    {"x": "x|path|arrays.npz", "y": "y|path|arrays.npz"},
)
ITEMS = [(torch.zeros(2), 0), (torch.ones(2), 1)]
call(
    "data.from_torch",
    {"dataset": [{"a": x, "b": y, "t": y} for x, y in ITEMS], "x": "a", "y": "b", "task": "t", "transform": torch.relu},
    {
        "dataset": kind(bad=(ITEMS, [{"a": torch.zeros(2)}], [{"a": torch.zeros(2), "b": 0, "t": 0.5}])),
        "x": kind(bad=("c",)),
        "y": kind(bad=("c",)),
        "task": kind("none", bad=("c", "a")),
        "transform": FUNCTION.but("none", bad=(lambda x: None,)),
    },
    {"x": "x|dataset", "y": "y|dataset", "task": "task|dataset", "transform": "transform|dataset"},
)
TABLE_OF_ITEMS = Columns([{"a": x, "b": y, "t": y} for x, y in ITEMS])
call(
    "data.from_hf",
    {"dataset": TABLE_OF_ITEMS, "x": "a", "y": "b", "task": "t", "n_classes": 2, "transform": torch.relu, "layout": None},
    {
        "dataset": kind(bad=(ITEMS, Columns([]))),
        "x": kind(bad=("c",)),
        "y": kind(bad=("c",)),
        "task": kind("none", bad=("c", "a")),
        "n_classes": SIZE.but("none", bad=(1,)),
        "transform": FUNCTION.but("none", bad=(lambda x: None,)),
        "layout": LAYOUT,
    },
    {"dataset": "dataset|x", "task": "task|dataset", "transform": "transform|dataset"},
)
call(
    "data.from_torch",
    {"dataset": ITEMS, "n_classes": 2, "layout": None},
    {
        "layout": LAYOUT,
        "dataset": kind(
            bad=(
                [(torch.zeros(2), 0), (torch.zeros(2), 0.5)],
                [(torch.zeros(2), 0), (torch.zeros(3), 1)],
                [torch.zeros(2)],
                [("a", 1)],
                [(torch.zeros(2), -1)],
                [(torch.zeros(2), None)],
            )
        ),
        "n_classes": SIZE.but("none", bad=(1,)),
    },
    {"dataset": "dataset|y"},
)
BATCHES = made_files.cifar(FOLDER / "cifar", "cifar-100-binary")
call(
    "data.cifar",
    {"folder": BATCHES, "labels": "fine"},
    {"folder": kind(bad=("/nowhere", FILE, FOLDER)), "labels": choice("fine", "coarse")},
)
PHOTOS = FOLDER / "photos"
for one in ("train/a/0.png", "train/b/0.png", "train/b/1.png", "test/a/0.png"):
    made_files.save(PHOTOS / one, made_files.image(0))
IMAGE_FILES: dict[str, Any] = {"size": (4, 5), "cache": False, "progress": False}
IMAGE_FILES_ = {
    "size": SIZE.but("none", "list", bad=((4,), (4, 5, 6), (0, 4), (4, 2.0), "44")),
    "cache": kind("bool", "str", bad=(0, 1)),
    "progress": FLAG,
}
call(
    "data.from_folder",
    {"path": PHOTOS, "mode": "RGB", "test_fraction": None, "classes": ["b", "a"], **IMAGE_FILES},
    {
        "path": kind(bad=("/nowhere", FILE, FOLDER / "nowhere")),
        "mode": choice("RGB", "L"),
        "test_fraction": FRACTION.but("none", bad=(0.5,)),
        "classes": kind("none", "list of str", bad=("ab", ["a"], ["a", "b", "a"], ["a", "b", 1])),
        **IMAGE_FILES_,
    },
)
FOLDERS_ = kind(bad=("/nowhere", FILE, FOLDER))
WHOLE = {"mode": "RGB", **IMAGE_FILES}
WHOLE_ = {"folder": FOLDERS_, "mode": choice("RGB", "L"), **IMAGE_FILES_}
call("data.tiny_imagenet", {"folder": made_files.tiny_imagenet(FOLDER / "published", per_class=1), **WHOLE}, WHOLE_)
call(
    "data.cub",
    {"folder": made_files.cub(FOLDER / "published"), **WHOLE},
    {**WHOLE_, "size": dataclasses.replace(IMAGE_FILES_["size"], fine=frozenset({"int", "list"}))},
)
call(
    "data.core50",
    {"folder": made_files.core50(FOLDER / "core50"), "scenario": "nc", "run": 1, "cache": False, "progress": False},
    {
        "folder": FOLDERS_,
        "scenario": choice("ni", "nc", "nic", "nicv2_79", "nicv2_196", "nicv2_391").but(bad=("nic",)),
        "run": COUNT.but(bad=(7,)),
        "cache": IMAGE_FILES_["cache"],
        "progress": FLAG,
    },
    {"scenario": "scenario|LUP.pkl"},
)
for part in ("train", "test"):
    made_files.idx(FOLDER / f"emnist-letters-{part}-images-idx3-ubyte", np.zeros((4, 2, 2)))
    made_files.idx(FOLDER / f"emnist-letters-{part}-labels-idx1-ubyte", np.array([1, 2, 3, 4]))
call(
    "data.emnist",
    {"folder": FOLDER, "split": "letters"},
    {"folder": kind(bad=("/nowhere", FILE)), "split": choice("letters")},
)
call("data.class_names", {"path": PHOTOS}, {"path": kind(bad=("/nowhere", FILE, PHOTOS / "train" / "a"))})
call(
    "data.idx_folder",
    {"folder": FOLDER, "n_classes": 4},
    {"folder": kind(bad=("/nowhere", FILE)), "n_classes": SIZE.but("none", bad=(1,))},
)
call(
    "data.features",
    {
        "model": MODEL,
        "net": STATE.model,
        "dataset": DATA,
        "preprocess": lambda x: x,
        "batch_size": 5,
        "cache": FOLDER / "features",
        "progress": False,
    },
    {
        "model": MODEL_.but(bad=(models.from_module(build, n_classes=4),)),
        "net": kind("weights", bad=(STATE.model.params, tree.stack([STATE.model] * 2), tree.to(STATE.model, torch.device("meta")))),
        "dataset": DATASET,
        "preprocess": FUNCTION.but("none", bad=(lambda x: None, lambda x: x[:-1], lambda x: x[:, :3])),
        "batch_size": SIZE,
        "cache": kind("none", "str", bad=(FILE, FILE / "below")),
        "progress": FLAG,
    },
    {"preprocess": "preprocess|^x:"},  # what the network says of inputs that it cannot take
)
call(
    "data.features",
    {"model": DATA.x},
    {"model": kind(bad=(DATA.x.long(), DATA.x[0], DATA.x[:, 0], DATA.x[:-1], (DATA.x, DATA.x), DATA.x.log()))},
    run=lambda model: cl.data.features(dataclasses.replace(PURE, apply=lambda *_: (model, {})), STATE.model, DATA, progress=False),
)
NPY = FOLDER / "x.npy"
np.save(NPY, np.zeros((4, 2), dtype=np.float32))
np.savez(FOLDER / "several.npz", a=np.zeros((4, 2)), b=np.zeros(4))
np.save(FOLDER / "columns.npy", np.zeros((4, 2), dtype=np.float32, order="F")[:, ::-1].T)
np.save(FOLDER / "int32.npy", np.zeros((4, 2), dtype=np.int32))
np.save(FOLDER / "last.npy", np.zeros((4, 8, 8, 3), dtype=np.uint8))
np.save(FOLDER / "flat.npy", np.zeros(4, dtype=np.float32))
np.save(FOLDER / "none.npy", np.zeros((0, 2), dtype=np.float32))
STORED = cl.data.stored(NPY, np.array([0, 1, 1, 0]))
FOUR = torch.tensor([0, 1, 1, 0])
call(
    "data.stored",
    {"x": NPY, "y": FOUR, "task": FOUR, "n_classes": 2, "largest": 100, "layout": None},
    {
        "x": kind(
            bad=(
                *ARRAYS,
                "/nowhere.npy",
                FILE,
                FOLDER,
                *(FOLDER / name for name in ("several.npz", "columns.npy", "int32.npy", "last.npy", "flat.npy", "none.npy")),
                np.load(NPY, mmap_mode="c"),
                np.load(NPY, mmap_mode="r")[:, :1],
                np.load(NPY, mmap_mode="r")[:3],
                [[0.0, 1.0]] * 4,
            )
        ),
        "y": kind(
            bad=(
                *ARRAYS,
                "/nowhere.npy",
                FILE,
                NPY.with_name("several.npz"),
                np.zeros(3, dtype=np.int64),
                np.array([0, 1, 2, 0]),
                np.array([0, -1, 0, 0]),
                FOUR.to("meta"),
            )
        ),
        "task": kind("none", bad=(*ARRAYS, np.zeros(4), np.array([0, -1, 0, 0]), np.zeros(3, dtype=np.int64))),
        "n_classes": SIZE.but("none", bad=(1,)),
        "largest": SIZE,
        "layout": kind("none", bad=("NHWC",)),
    },
    {"n_classes": "n_classes", "y": "y"},
)

# -- streams
call(
    "streams.from_datasets",
    {"pairs": [(DATA, DATA), (DATA, DATA)]},
    {
        "pairs": kind(
            bad=(
                *([], [DATA], [(DATA,)], [(DATA, BENCH)], [(DATA, DATA), (DATA, None)], DATA, iter([])),
                [(DATA, DATA), (cl.Dataset(DATA.x[:, :3], DATA.y), cl.Dataset(DATA.x[:, :3], DATA.y))],
                [(DATA, DATA), (cl.Dataset(DATA.x, DATA.x), cl.Dataset(DATA.x, DATA.x))],
            )
        )
    },
)
TASK_SETS = [[(torch.zeros(2), 0, 0), (torch.ones(2), 1, 0)], [(torch.zeros(2), 2, 1)]]
THEIRS = types.SimpleNamespace(
    **{f"{side}_stream": [types.SimpleNamespace(dataset=rows) for rows in TASK_SETS] for side in ("train", "test")}
)
call("streams.from_avalanche", {"benchmark": THEIRS}, {"benchmark": kind(bad=(TASK_SETS, [THEIRS]))})
call(
    "streams.from_continuum",
    {"train": TASK_SETS, "test": TASK_SETS, "task_labels": True},
    {
        **{side: kind(bad=([], [[]], [[(torch.zeros(2), 0)]], [[(torch.zeros(3), 0, 0)]], THEIRS)) for side in ("train", "test")},
        "task_labels": FLAG,
    },
)
WITH_TASKS = cl.Dataset(DATA.x, DATA.y, torch.arange(len(DATA)) % 2)
OTHER_TASKS = cl.Dataset(DATA.x, DATA.y, torch.arange(len(DATA)) % 2 * 2)
call(
    "streams.split_by_task",
    {"train": WITH_TASKS, "test": WITH_TASKS},
    {"train": kind(bad=(DATA, OTHER_TASKS)), "test": kind("dataset", bad=(IMAGES, OTHER_TASKS))},
    {"test": "test|train"},
)
PAIR = {"train": DATA, "test": DATA}
OTHERS = (
    cl.Dataset(DATA.x[:, :3], DATA.y),
    cl.Dataset(DATA.x.double(), DATA.y),
    cl.Dataset(DATA.x, DATA.y % 2),
    cl.Dataset(DATA.x, DATA.y, DATA.y),
    tree.map(lambda leaf: leaf.to("meta"), DATA),
)
ORDER = kind(
    "none",
    bad=(
        [0, 1],
        [0, 1, 2, 2],
        [0, 1, 2, 4],
        [0.0, 1.0, 2.0, 3.0],
        ["0", "1", "2", "3"],
        [False, True, 2, 3],
        torch.arange(4.0),
        torch.arange(4).to("meta"),
    ),
)
for scenario in ("split_by_class", "task_incremental", "domain_incremental"):
    sides = {side: DATASET.but(bad=OTHERS) for side in PAIR}
    call(f"streams.{scenario}", {**PAIR, "n_experiences": 2, "class_order": [3, 1, 0, 2]}, {**sides, "class_order": ORDER})
    call(
        f"streams.{scenario}",
        {**PAIR, "n_experiences": 2, "key": KEY},
        {"train": ANY, "test": ANY, "n_experiences": ANY, "key": KEY_.but("none")},
    )
call("streams.permuted", {**PAIR, "n_experiences": 2, "key": KEY}, {**sides, "n_experiences": SIZE, "key": KEY_})
call(
    "streams.rotated",
    {"train": IMAGES, "test": IMAGES, "n_experiences": 2, "max_angle": 90.0},
    {"train": kind(bad=OTHERS), "test": kind(bad=OTHERS), "n_experiences": SIZE, "max_angle": ANGLE},
    {"train": "train|x"},
)
call(
    "streams.rotated",
    {"train": IMAGES, "test": IMAGES, "n_experiences": 2, "key": KEY},
    {"train": ANY, "test": ANY, "n_experiences": ANY, "key": KEY_.but("none")},
)
call(
    "streams.noisy",
    {**PAIR, "n_experiences": 2, "max_std": 0.5, "key": KEY},
    {**sides, "n_experiences": SIZE, "max_std": NON_NEGATIVE, "key": KEY_},
)
call(
    "streams.mapped",
    {"benchmark": BENCH, "function": shift, "params": {"by": torch.zeros(2, 6)}},
    {"function": kind(bad=SHIFTS), "params": kind(bad=PARAMS)},
    {"params": "params|function"},
)
call(
    "streams.generated",
    {
        "sample": draw_row,
        "n_experiences": 2,
        "train_size": 5,
        "test_size": 3,
        "key": KEY,
        "params": {"by": torch.zeros(2, 6)},
        "n_classes": 4,
    },
    {
        "sample": kind(bad=SAMPLES),
        "n_experiences": SIZE.but(bad=(3,)),
        "train_size": SIZE,
        "test_size": SIZE,
        "params": kind(bad=PARAMS),
        "n_classes": SIZE.but(bad=(0, 1)),
    },
    {"n_experiences": "n_experiences|params", "params": "params|sample"},
)
call(
    "streams.slowly_changing_regression",
    {
        "key": KEY,
        "n_experiences": 2,
        "experience_size": 5,
        "test_size": 3,
        "n_inputs": 4,
        "n_flipping": 2,
        "n_features": 3,
        "beta": 0.7,
        "flips": "one",
        "thresholds": "paper",
    },
    {
        **dict.fromkeys(("n_experiences", "test_size", "n_features"), SIZE),
        "experience_size": SIZE,
        "n_inputs": SIZE.but(bad=(1,)),
        "n_flipping": COUNT.but(bad=(5,)),
        "beta": FRACTION,
        "flips": choice("one", "all"),
        "thresholds": choice("paper", "code"),
    },
    {"experience_size": "experience_size|train_size", "n_inputs": "n_inputs|n_flipping"},
)
VIEW = cl.sources.Permuted(DATA, torch.arange(6))
call(
    "sources.Permuted",
    {"source": DATA, "order": torch.arange(6).flip(0)},
    {"source": DATASET.but(bad=OTHERS[:1]), "order": tensor(torch.arange(6), bad=(torch.zeros(6).long(), torch.arange(6) + 1))},
    {"source": "source|order"},
)
call(
    "sources.rotate",
    {"source": IMAGES, "angle": 30.0},
    {"source": kind(bad=(DATA, cl.Dataset(IMAGES.x.long(), IMAGES.y))), "angle": ANGLE},
    {"source": "source|x"},
)
call(
    "sources.Noisy",
    {"source": DATA, "key": KEY, "std": torch.tensor(0.5)},
    {
        "source": DATASET.but(bad=(DATA.x, cl.Dataset(DATA.x.long(), DATA.y))),
        "key": KEY_,
        "std": tensor(torch.tensor(0.5), "scalar tensor", bad=(torch.tensor(-0.5), torch.tensor(float("inf")))),
    },
)
LABELS = torch.tensor([1, 0, 1, 0])
call(
    "sources.Relabelled",
    {"source": DATA, "labels": LABELS, "n_classes": 2},
    {
        "source": DATASET.but(bad=(OTHERS[2], registry.BENCHES["regression"].train[0].source)),
        "labels": tensor(LABELS, bad=(LABELS - 1, LABELS + 1)),
        "n_classes": COUNT.but(bad=(1,)),
    },
    {"source": "source|labels", "n_classes": "n_classes"},
)
call(
    "sources.TaskLabelled",
    {"source": DATA, "labels": DATA.y},
    {"source": DATASET.but(bad=(IMAGES,)), "labels": tensor(DATA.y, bad=(DATA.y - 1,))},
    {"source": "source|labels"},
)
call(
    "sources.Mapped",
    {"source": DATA, "function": shift, "params": {"by": torch.zeros(6)}},
    {"source": DATASET.but(bad=OTHERS[:1]), "function": kind(bad=SHIFTS), "params": kind(bad=PARAMS)},
    {"source": "source|function", "params": "params|function"},
)
call(
    "sources.Generated",
    {"sample": draw_row, "key": KEY, "length": 5, "params": {"by": torch.zeros(6)}, "n_classes": 4},
    {
        "sample": kind(bad=SAMPLES),
        "length": SIZE,
        "params": kind(bad=PARAMS),
        "n_classes": SIZE.but(bad=(0, 1)),
    },
    {"params": "params|sample"},
)
call(
    "sources.in_memory",
    {"source": DATA, "rows": torch.tensor([1, 3])},
    {
        "source": kind("dataset", bad=(EXP,)),
        "rows": kind("integer tensor", bad=(torch.tensor([-1]), torch.tensor([28]), torch.tensor([[1]]), torch.tensor([1]).int())),
    },
)
call("streams.in_memory", {"benchmark": BENCH})
call(
    "sources.join",
    {"sources": [VIEW, VIEW]},
    {"sources": kind(bad=([DATA, 3], [VIEW, DATA], VIEW, (DATA, IMAGES)))},
)
call(
    "sources.Stored",
    {"file": STORED.file, "y": FOUR, "task": FOUR, "n_classes": 2, "largest": 100},
    {
        "file": kind(bad=(str(NPY), NPY, np.load(NPY, mmap_mode="r"))),
        "y": tensor(FOUR, dtypes=False, bad=(FOUR - 1, FOUR + 1, FOUR[:3], FOUR.int())),
        "task": tensor(FOUR, "none", bad=(FOUR - 1,)),
        "n_classes": COUNT.but(bad=(1,)),
        "largest": SIZE,
    },
    {"y": "y|n_classes"},
)
call("sources.per_lane", {"rank": 1}, {"rank": COUNT})
call("streams.cumulative", {"benchmark": BENCH})
call("streams.blurred", {"benchmark": BENCH, "width": 0.3, "key": KEY}, {"width": FRACTION.but(bad=(0.6,))})
call(
    "streams.class_repetition",
    {**PAIR, "n_experiences": 2, "probability": 0.5, "introductions": 2, "key": KEY},
    {
        **sides,
        "n_experiences": SIZE.but(bad=(1,)),
        "probability": PROBABILITY.but(bad=([0.5, 0.5], [0.5] * 3 + [1.1], torch.ones(4).to("meta"), ["0.5"] * 4)),
        "introductions": SIZE.but("none", bad=(3,)),
    },
    {"n_experiences": "n_experiences|introductions"},
)
call(
    "streams.split_online",
    {"benchmark": BENCH, "experience_size": 3, "shuffle": True, "key": KEY},
    {"experience_size": SIZE, "shuffle": FLAG, "key": KEY_.but("none")},
    {"shuffle": "shuffle|key"},
)
call("streams.with_validation", {"benchmark": BENCH, "fraction": 0.2, "key": KEY}, {"fraction": FRACTION, "key": KEY_})

# -- models
SHAPE = kind(bad=((), (0,), (6.0,), ("6",), (-6,), (True,), [6, 0]))
IMAGE = kind(bad=((), (1, 4), (1, 4, 0), (1, 4.0, 4), (1, -4, 4), (True, 4, 4), "144"))
WIDTHS = kind("list", bad=((0,), (-1,), (2.0,), ("2",), (True,), (None,)))
call(
    "models.mlp",
    {"n_features": 6, "hidden": (8,), "n_classes": 4, "head": "linear", "activation": "crelu", "norm": "batch", "dropout": 0.1},
    {
        "n_features": SIZE,
        "hidden": WIDTHS.but("empty list"),
        "head": choice("linear", "cosine"),
        "activation": choice("relu", "crelu", "tanh", "gelu"),
        "norm": choice("layer", "batch").but("none"),
        "dropout": DECAY,
    },
)
call(
    "models.mlp",
    {"n_features": 6, "hidden": (8,), "n_classes": 4},
    {"n_features": SIZE, "hidden": WIDTHS.but("empty list")},
)
call(
    "models.cnn",
    {"input_shape": (1, 8, 8), "channels": (2, 2), "hidden": 4, "n_classes": 3},
    {"input_shape": IMAGE, "channels": WIDTHS.but(bad=((2,) * 9,)), "hidden": SIZE},
    {"input_shape": "input_shape|channels"},
)
call(
    "models.resnet18",
    {"n_classes": 3, "stem": "imagenet", "width": 2, "input_shape": (1, 32, 32)},
    {"stem": choice("cifar", "imagenet"), "width": SIZE, "input_shape": IMAGE.but("none")},
)
call(
    "models.vit",
    {
        "image_size": 4,
        "patch": 2,
        "n_classes": 3,
        "channels": 1,
        "width": 4,
        "depth": 1,
        "heads": 2,
        "mlp_width": 3,
        "dropout": 0.1,
    },
    {
        "image_size": SIZE.but(bad=(3, 5)),
        "patch": SIZE.but(bad=(3, 8)),
        "channels": SIZE,
        "width": SIZE.but(bad=(3, 5)),
        "depth": SIZE,
        "heads": SIZE.but(bad=(3, 8)),
        "mlp_width": SIZE.but("none"),
        "dropout": DECAY,
    },
)
call("models.slim_resnet18", {"input_shape": (1, 8, 8), "n_classes": 3, "width": 2}, {"input_shape": IMAGE, "width": SIZE})
call(
    "models.from_module",
    {
        "factory": build,
        "n_classes": 4,
        "input_shape": (6,),
        "last_layer": None,
        "replace": {nn.Dropout: swap},
        "forward": through,
        "input_dtype": torch.float32,
    },
    {
        "factory": kind("class", bad=(lambda: 1, lambda: nn.Linear)),
        "input_shape": SHAPE.but("none", "list"),
        "last_layer": kind("none", "empty str", bad=("nothing",)),
        "replace": kind("none", "empty dict", bad=({nn.Dropout: 1}, {"Dropout": swap}, [nn.Dropout], {nn.Linear: lambda layer: 1})),
        "forward": FUNCTION.but("none"),
        "input_dtype": DTYPE,
    },
)
call(
    "models.pure",
    {"factory": build, "replace": {nn.Dropout: swap}},
    {
        "factory": kind("class", bad=(lambda: 1, lambda: nn.Linear)),
        "replace": kind("none", "empty dict", bad=({nn.Dropout: 1}, {"Dropout": swap}, [nn.Dropout], {nn.Linear: lambda layer: 1})),
    },
)
PURE = models.pure(build)
call(
    "models.PureModule",
    {"init": PURE.init, "apply": PURE.apply, "fresh": PURE.fresh},
    {"init": FUNCTION, "apply": FUNCTION, "fresh": FUNCTION},
)
call("models.PureModule", {"key": KEY}, {"key": KEY_}, run=PURE.init)
for made in (PURE, MODEL, models.mlp(6, (), 4, head="cosine")):
    weights = made.init(KEY).params
    wrong = (
        {"w": torch.zeros(4, 6)},
        {name: w[:1, None] for name, w in weights.items() if w.ndim},
        {**weights, next(iter(weights)): 1.0},
    )
    call(
        "models.PureModule" if made is PURE else "models.Model",
        {"key": KEY, "params": weights},
        {"key": KEY_, "params": kind(bad=wrong)},
        run=made.fresh,
    )
call(
    "models.PureModule",
    {"params": PURE.init(KEY).params, "buffers": {}, "method": "forward", "train": True, "valid": EXP.valid},
    {
        "params": kind(bad=({"w": torch.zeros(4, 6)},)),
        "buffers": kind("empty dict"),
        "method": kind(bad=("encode", "weight")),
        "train": FLAG,
        "valid": kind("none", bad=(EXP.valid.float(), EXP.valid.tolist())),
    },
    {"buffers": "params|buffers"},
    run=lambda params, buffers, method, train, valid: PURE.apply(params, buffers, EXP.x, method=method, train=train, valid=valid),
)
call(
    "models.multi_head",
    {"model": MODEL, "masks": torch.eye(4) > 0},
    {
        "masks": tensor(
            torch.eye(4) > 0, shapes=False, bad=(torch.eye(5) > 0, torch.zeros(4, 4) > 0, torch.ones(4) > 0, torch.ones(0, 4) > 0)
        )
    },
)
PICTURE_MODEL = registry.PICTURES
FLAT_MODELS = kind(bad=(MODEL, "cnn", models.from_module(build, n_classes=4), registry.AUGMENTED))
call(
    "models.projected",
    {"model": MODEL, "size": 5, "head": "mlp"},
    {"model": MODEL_.but(bad=(LINEAR,)), "size": SIZE, "head": choice("linear", "mlp")},
)
call(
    "models.pretrained",
    {"model": MODEL, "net": STATE.model},
    {"model": MODEL_, "net": kind("weights", bad=(STATE.model.params, tree.stack([STATE.model] * 2)))},
)
call("models.augmented", {"model": PICTURE_MODEL, "augment": registry.VIEWS}, {"model": FLAT_MODELS, "augment": FUNCTION})
call(
    "models.normalized",
    {"model": PICTURE_MODEL, "mean": 0.5, "std": 0.5},
    {
        "model": FLAT_MODELS,
        "mean": ANGLE.but(bad=([0.1, "a"], [0.1, 0.2])),
        "std": POSITIVE.but(bad=([0.1, 0.0], [0.1, 0.2])),
    },
)
call("models.split_augment", {"model": PICTURE_MODEL})
call("models.class_masks", {"stream": BENCH.train}, {"stream": STREAM.but(bad=([BENCH], [DATA]))})
CLASSES = torch.tensor([True, False, True, True])
MASK = tensor(CLASSES, bad=(torch.ones(3) > 0, torch.ones(3, 4) > 0))
call(
    "losses.mask_logits",
    {"logits": LOGITS, "classes": CLASSES},
    {"logits": tensor(LOGITS, shapes=False, bad=(LOGITS[:, :3], LOGITS.long())), "classes": MASK},
    {"logits": "logits"},
)
call(
    "models.forward",
    {"model": MODEL, "params": STATE.model.params, "state": STATE, "exp": EXP, "train": True},
    {"params": kind(bad=({"0.weight": torch.zeros(8, 6)}, STATE, list(STATE.model.params.values()))), "train": ANY},
)
call(
    "models.forward",
    {"params": LINEAR.init(KEY).params},
    {"params": kind(bad=({"weight": torch.zeros(4, 6)}, STATE))},
    run=lambda params: models.forward(LINEAR, params, LINEAR_STATE, EXP),
)
call(
    "models.Model",
    {
        "init": MODEL.init,
        "apply": MODEL.apply,
        "n_classes": 4,
        "input_shape": (6,),
        "features": None,
        "fresh": MODEL.fresh,
        "input_dtype": torch.int64,
    },
    {
        "init": FUNCTION,
        "apply": FUNCTION,
        "input_shape": SHAPE.but("none", "list"),
        "features": FUNCTION.but("none"),
        "fresh": FUNCTION.but("none"),
        "input_dtype": DTYPE,
    },
)
X_ = tensor(EXP.x, shapes=False, bad=(EXP.x[:, :5], EXP.x[0], EXP.x.half(), EXP.x.double()))
for net in (MODEL, LINEAR):
    call("models.Model", {"key": KEY}, {"key": KEY_}, run=net.init)
    weights = net.init(KEY)
    call(
        "models.Model",
        {"params": weights.params, "buffers": weights.buffers, "x": EXP.x, "valid": EXP.valid, "task": EXP.tasks},
        {
            "params": kind(bad=({"w": torch.zeros(4, 6)},)),
            "buffers": kind("empty dict"),
            "x": X_,
            "valid": ANY if net is MODEL else tensor(EXP.valid, "none"),  # the MLP has no use for it
            "task": ANY,
        },
        {"buffers": "params|buffers", "x": "x|valid"},
        run=net.apply,
    )
call(
    "models.BatchNorm",
    {"num_features": 6, "eps": 1e-5, "momentum": 0.1, "affine": True, "track_running_stats": True},
    {"num_features": SIZE, "eps": POSITIVE, "momentum": PROBABILITY.but("none"), "affine": FLAG, "track_running_stats": FLAG},
)
call(
    "models.BatchNorm", {"x": EXP.x}, {"x": kind(bad=(EXP.x[:, :5], EXP.x[:1], EXP.x.long()))}, run=lambda x: models.BatchNorm(6)(x)
)
call("models.Dropout", {"p": 0.5, "channels": False}, {"p": PROBABILITY, "channels": FLAG})
call("models.AlphaDropout", {"p": 0.5, "channels": False}, {"p": PROBABILITY, "channels": FLAG})
call(
    "models.DropPath",
    {"p": 0.5, "mode": "row", "scale": True},
    {"p": PROBABILITY, "mode": choice("row", "batch"), "scale": FLAG},
)
call(
    "models.RReLU",
    {"lower": 0.1, "upper": 0.3},
    {"lower": kind("zero", "negative", bad=(0.4,)), "upper": kind("int", "float", "numpy float", "numpy int", bad=(0.05,))},
)
call("models.KeyedLayer", {}, {})

# -- augmentations
PARTS = kind(bad=((0.5,), (0.5, 0.2), (0.0, 1.0), (0.2, "1"), (0.2, float("nan")), (0.2, float("inf")), (True, 1.0)))
PICTURES = torch.rand(3, 3, 4, 4)
PICTURES_ = tensor(PICTURES, shapes=False, bad=(PICTURES.flatten(1), PICTURES[0], PICTURES[None], PICTURES.long()))
for name, valid, kinds in (
    ("random_crop", {"padding": 2, "fill": 0.5}, {"padding": SIZE, "fill": ANGLE}),
    ("horizontal_flip", {"p": 0.3}, {"p": PROBABILITY}),
    ("random_resized_crop", {"scale": (0.2, 1.0), "ratio": (0.5, 2.0)}, {"scale": PARTS, "ratio": PARTS.but("list")}),
    ("cutout", {"size": 2, "fill": 0.5}, {"size": SIZE, "fill": ANGLE}),
    (
        "color_jitter",
        {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "p": 0.8},
        {
            **dict.fromkeys(("brightness", "contrast", "saturation"), NON_NEGATIVE),
            "hue": kind("zero", "numpy float", bad=(0.6, "0.1"), drawn=NO_NUMBER),
            "p": PROBABILITY,
        },
    ),
    ("grayscale", {"p": 0.3}, {"p": PROBABILITY}),
    (
        "normalize",
        {"mean": 0.5, "std": 0.5},
        {"mean": ANGLE.but("list", bad=([0.1, "a"],)), "std": POSITIVE.but("list", bad=([0.1, 0.0],))},
    ),
):
    call(f"augment.{name}", valid, kinds)
    made = getattr(cl.augment, name)(**valid)
    call(f"augment.{name}", {"key": KEY, "x": PICTURES}, {"key": ANY if name == "normalize" else KEY_, "x": PICTURES_}, run=made)
call(
    "augment.compose",
    {"augments": registry.VIEWS},
    {"augments": FUNCTION},
    run=lambda augments: cl.augment.compose(augments, augments),
)
call("augment.compose", {"key": KEY, "x": PICTURES}, {"x": PICTURES_}, run=cl.augment.compose(cl.augment.cutout(2)))

# -- losses
call("losses.cross_entropy", {"model": MODEL, "mask": "seen", "slot": "seen"}, {"mask": choice("experience", "seen").but("none")})
ALPHA = dataclasses.replace(POSITIVE, fine=POSITIVE.fine | {"str"}, bad=(0.0, float("-inf")))
MIX = {"mask": choice("experience", "seen").but("none"), "alpha": ALPHA}
call("losses.supervised_contrastive", {"model": MODEL, "temperature": 0.1}, {"temperature": ALPHA})
call(
    "losses.contrast",
    {"embeddings": LOGITS, "labels": EXP.y, "valid": EXP.valid, "temperature": 0.1},
    {
        "embeddings": tensor(LOGITS, shapes=False, bad=(LOGITS[0], LOGITS[None], LOGITS[:5])),
        "labels": tensor(EXP.y),
        "valid": tensor(EXP.valid),
        "temperature": POSITIVE.but("scalar tensor"),
    },
    {"embeddings": "embeddings|labels|valid"},
)
call("losses.mixup", {"model": MODEL, "alpha": 0.2, "mask": "seen", "slot": "seen"}, MIX)
call(
    "losses.cutmix",
    {"model": PICTURE_MODEL, "alpha": 0.2, "mask": "seen", "slot": "seen"},
    {**MIX, "model": kind(bad=(MODEL, models.cnn, models.from_module(build, n_classes=4)))},
)
call(
    "losses.mixup",
    {"params": STATE.model.params, "state": STATE, "exp": EXP},
    {"params": kind(bad=({"w": torch.zeros(2)},)), "state": ANY},
    run=losses.mixup(MODEL),
)
call("losses.total", {"losses": loss}, {"losses": FUNCTION}, run=lambda losses: cl.losses.total(loss, losses))
call("losses.scaled", {"loss": loss, "by": 0.5}, {"loss": FUNCTION, "by": kind(*NUMBER, "negative", "str")})
call(
    "losses.with_replay",
    {"loss": loss, "n": 2, "slot": "replay", "draw": memory.reservoir.draw},
    {"loss": FUNCTION, "n": SIZE, "draw": FUNCTION},
)
call("losses.mark_seen", {"slot": "seen"})
call(
    "losses.weighted_mean",
    {"values": LOGITS[:, 0], "valid": EXP.valid},
    {"values": tensor(LOGITS[:, 0]), "valid": tensor(EXP.valid)},
    {"values": "values", "valid": "valid"},
)
call(
    "losses.masked_cross_entropy",
    {"logits": LOGITS, "exp": EXP, "classes": CLASSES},
    {"logits": tensor(LOGITS, bad=(LOGITS[:, :3], LOGITS.long())), "classes": MASK.but("none")},
    {"logits": "logits|n_classes"},
)
call(
    "losses.distillation",
    {"student": LOGITS, "teacher": LOGITS, "classes": CLASSES, "valid": EXP.valid, "temperature": 2.0},
    {
        "student": tensor(LOGITS),
        "teacher": tensor(LOGITS),
        "classes": MASK,
        "valid": tensor(EXP.valid),
        "temperature": POSITIVE.but("scalar tensor"),
    },
)
call(
    "losses.cross_entropy",
    {"state": STATE, "exp": EXP, "params": STATE.model.params},
    {"params": kind(bad=({"w": 1}, STATE))},
    run=lambda params, state, exp: losses.cross_entropy(MODEL)(params, state, exp),
)

# -- memory
ROWS = memory.fields(None, EXP)
ROWS_ = kind(
    bad=(
        {**ROWS, "x": ROWS["x"][:, :2]},
        {**ROWS, "y": ROWS["y"].float()},
        {"x": ROWS["x"]},
        {**ROWS, "z": ROWS["y"]},
        {**ROWS, "y": ROWS["y"][:3]},
        {**ROWS, "y": None},
        tree.map(lambda leaf: leaf.to("meta"), ROWS),
        EXP,
    )
)
call("memory.sample", {"model": MODEL, "target": "class"}, {"model": MODEL_.but(bad=(models.from_module(build, n_classes=4),))})
call("memory.fields", {"state": None, "exp": EXP}, {"state": ANY})
call(
    "memory.join",
    {"exp": EXP, "rows": ROWS, "valid": EXP.valid},
    {
        "rows": dataclasses.replace(ROWS_, bad=tuple(rows for rows in ROWS_.bad if rows is EXP or "z" not in rows)),
        "valid": tensor(EXP.valid),
    },
    {"rows": "rows|x|y"},
)
EMPTY = memory.reservoir.init(5, memory.sample(MODEL))
MEMORY = kind(bad=("replay", STATE))
call(
    "memory.reservoir.init",
    {"capacity": 5, "sample": memory.sample(MODEL)},
    {
        "sample": kind(
            "tensor",
            "scalar tensor",
            "integer tensor",
            "nan tensor",
            "meta tensor",
            "key",
            "experience",
            "dataset",
            "state",
            "weights",
            bad=({"x": 1}, {"x": None}),
        )
    },
)
call(
    "memory.reservoir.add",
    {"memory": EMPTY, "key": KEY, "rows": ROWS, "valid": EXP.valid},
    {"memory": MEMORY, "key": KEY_, "rows": ROWS_, "valid": tensor(EXP.valid)},
)
call("memory.reservoir.draw", {"memory": EMPTY, "key": KEY, "n": 2}, {"memory": MEMORY, "key": KEY_, "n": SIZE})
call("memory.reservoir.insert", {"slot": "replay", "fields": memory.fields}, {"fields": FUNCTION})
call(
    "memory.reservoir.insert",
    {"slot": "replay"},
    {"slot": kind(bad=("model", "opt", "key", "replay.seen", "nothing"))},
    run=lambda slot: memory.reservoir.insert(slot)(STATE, EXP),
)
call(
    "losses.with_replay",
    {"slot": "replay"},
    {"slot": kind(bad=("model", "opt", "key", "replay.seen", "nothing"))},
    run=lambda slot: losses.with_replay(losses.cross_entropy(MODEL), 2, slot)(STATE.model.params, STATE, EXP),
    says={"slot": "slot|memory|path '"},
)
call(
    "losses.cross_entropy",
    {"slot": "seen"},
    {"slot": kind(bad=("model", "opt", "key", "opt.lr", "nothing"))},
    run=lambda slot: losses.cross_entropy(MODEL, "seen", slot)(STATE.model.params, STATE, EXP),
)
for name, factory in (
    ("losses.mark_seen", losses.mark_seen),
    ("regularizers.lwf.snapshot", regularizers.lwf.snapshot),
    ("regularizers.lwf.new_classes", regularizers.lwf.new_classes),
):
    call(
        name,
        {"slot": "seen" if name[0] == "l" else "lwf"},
        {"slot": kind(bad=("model", "opt", "key", "opt.lr", "replay", "nothing"))},
        run=lambda slot, f=factory: f(slot)(STATE, EXP),
    )
call(
    "memory.reservoir.insert",
    {"exp": EXP, "state": STATE},
    says={"state": "state|path 'replay'"},
    run=lambda state, exp: memory.reservoir.insert()(state, exp),
)

# -- regularizers
NET = STATE.model
call("regularizers.lwf.init", {"model": NET, "n_classes": 4, "strength": 1.0, "temperature": 2.0}, {"model": kind("weights")})
call("regularizers.lwf.hyperparameters", {"strength": 1.0, "temperature": 2.0})
call("regularizers.lwf.snapshot", {"slot": "lwf"})
FIVE = cl.experience(cl.Dataset(DATA.x, DATA.y, n_classes=5))  # the slot is for 4 classes
for name, factory in (("snapshot", regularizers.lwf.snapshot), ("new_classes", regularizers.lwf.new_classes)):
    call(
        f"regularizers.lwf.{name}",
        {"exp": EXP},
        {"exp": EXPERIENCE.but(bad=(FIVE,))},
        {"exp": "exp|n_classes"},
        run=lambda exp, factory=factory: factory()(STATE, exp),
    )
call("regularizers.lwf.new_classes", {"slot": "lwf"})
call("regularizers.lwf.distillation", {"model": MODEL, "slot": "lwf"})
call(
    "regularizers.lwf.distillation",
    {"slot": "lwf"},
    {"slot": kind(bad=("model", "opt", "key", "nothing"))},
    run=lambda slot: regularizers.lwf.distillation(MODEL, slot)(NET.params, STATE, EXP),
)
call(
    "regularizers.lwf.penalty",
    {"model": MODEL, "student": LOGITS, "lwf": STATE.lwf, "exp": EXP, "heads": torch.ones(1, 4) > 0},
    {"student": tensor(LOGITS), "lwf": kind(bad=(STATE,)), "heads": tensor(torch.ones(1, 4) > 0, "none", shapes=False)},
)

# -- strategies: the registry says what each needs; all other arguments are tried around their defaults, or around these
BATCHES = {"batch_size": 5, "epochs": 1, "iterations": 3}
INSTEAD_OF_NONE = {"importance_batch_size": 4, "importance_samples": 8, "candidates": 5}


def own_arguments(name: str) -> dict[str, Any]:
    """The arguments of a strategy's factory that are its own, with values that it takes."""
    parameters = inspect.signature(getattr(strategies, name)).parameters
    values = {key: INSTEAD_OF_NONE.get(key, parameter.default) for key, parameter in parameters.items()} | registry.ARGUMENTS.get(
        name, {}
    )
    return {key: value for key, value in values.items() if key not in {"model", "optimizer", *BATCHES}}


RANGES: dict[str, dict[str, Kind]] = {
    "gem": {"n_experiences": SIZE},
    "ewc_online": {"decay": PROBABILITY},
    "mas": {"decay": PROBABILITY},
    "mir": {"candidates": SIZE.but("none")},
    "rwalk": {"alpha": PROBABILITY},
    "ncm": {"optimizer": OPTIMIZER.but("none"), "train": choice("first", "every"), "weights": kind("weights", "none")},
    "rar": {
        "epsilon": NON_NEGATIVE,
        "beta": PROBABILITY,
        "attack_steps": SIZE,
        "bounds": kind("none", "list", bad=((0.0,), (1.0, 0.0), (0.5, 0.5), (0.0, "1"), (0.0, float("nan")), (False, True))),
    },
    "scr": {"projection": choice("linear", "mlp"), "projection_size": SIZE},
    "slda": {"optimizer": OPTIMIZER.but("none"), "weights": kind("weights", "none")},
    "ranpac": {
        "optimizer": OPTIMIZER.but("none"),
        "weights": kind("weights", "none"),
        "ridge": POSITIVE.but("none"),
        "choose_on": choice("experience", "all"),
    },
    "fecam": {"optimizer": OPTIMIZER.but("none"), "weights": kind("weights", "none")},
    "acil": {"optimizer": OPTIMIZER.but("none"), "weights": kind("weights", "none")},
}
for name in [name for name in strategies.__all__ if not isinstance(getattr(strategies, name), type)]:
    own = own_arguments(name)
    takes_loss = "loss" in own
    loss_ = {"loss": losses.cross_entropy(MODEL)} if takes_loss else {}
    kinds_ = {**RANGES.get(name, {}), **dict.fromkeys(loss_, FUNCTION.but("none"))}
    call(f"strategies.{name}", {"model": MODEL, "optimizer": SGD, **own, **loss_, **BATCHES}, kinds_)
    call(f"strategies.{name}", {"key": KEY}, run=getattr(strategies, name)(MODEL, SGD, **own, batch_size=5).init)

# -- optimisers
for name in ("adam", "adamw"):
    betas = kind(bad=((0.9,), (0.9, 1.0), (0.9, -0.1), (0.9, "0.9"), (0.9, None), (True, 0.9), (float("nan"), 0.9), (1, 2, 3)))
    call(
        f"optim.{name}",
        {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.0, "count_each": True},
        {"lr": NON_NEGATIVE, "betas": betas, "eps": POSITIVE, "weight_decay": NON_NEGATIVE, "count_each": FLAG},
    )
call(
    "optim.sgd",
    {"lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0},
    {"lr": NON_NEGATIVE, "momentum": DECAY, "nesterov": FLAG, "weight_decay": NON_NEGATIVE},
)
PARAMS = kind(
    "weights", "tensor", "scalar tensor", "nan tensor", "meta tensor", bad=({"w": 1.0}, {"w": torch.tensor(1)}, {"w": None})
)
call("optim.sgd", {"params": NET.params}, {"params": PARAMS}, run=optim.sgd(0.1).init)
call("optim.adam", {"params": NET.params}, {"params": PARAMS}, run=optim.adam().init)
call(
    "optim.sgd",
    {"state": SGD.init(NET.params)},
    {"state": kind()},
    {"state": "sgd"},
    run=lambda state: SGD.update(NET.params, state, NET.params),
)
call(
    "optim.adam",
    {"state": optim.adam().init(NET.params)},
    {"state": kind()},
    {"state": "adam"},
    run=lambda state: optim.adam().update(NET.params, state, NET.params),
)
call("optim.chain", {"transforms": clip}, {"transforms": FUNCTION}, run=lambda transforms: optim.chain(clip, transforms))
call("optim.clip_by_global_norm", {"max_norm": 1.0}, {"max_norm": dataclasses.replace(POSITIVE.but("str"), bad=(0.0,))})
call("optim.clip_by_value", {"limit": 1.0}, {"limit": dataclasses.replace(POSITIVE.but("str"), bad=(0.0,))})
RATE = dataclasses.replace(POSITIVE.but("str"), bad=(0.0,))
call("optim.exponential_decay", {"gamma": 0.9, "slot": "opt"}, {"gamma": RATE})
call("optim.step_decay", {"every": 2, "gamma": 0.9, "slot": "opt"}, {"every": SIZE, "gamma": RATE})
call(
    "optim.cosine_decay",
    {"total": 9, "final": 0.1, "slot": "opt"},
    {"total": SIZE, "final": dataclasses.replace(NON_NEGATIVE.but("str"), bad=())},
)
call("optim.restart", {"slot": "opt"})
call(
    "optim.schedule",
    {"fn": lambda ticks, steps: 1.0 / (ticks + steps), "slot": "opt", "steps": 3.0},
    {"fn": FUNCTION, "steps": kind(*NUMBER, "negative", "str")},
)
for name, made in (("restart", optim.restart), ("exponential_decay", lambda slot: optim.exponential_decay(0.9, slot))):
    call(
        f"optim.{name}",
        {"slot": "opt"},
        {"slot": kind(bad=("model", "replay", "key", "nothing"))},
        run=lambda slot, made=made: made(slot)(STATE, EXP),
    )

# -- metrics
MATRIX = kind(
    bad=(R[0], R.long(), R * 100, R - 1, R * float("nan"), R.tolist(), R[:0], R.to("meta"), R.to(torch.complex64), R.numpy())
)
for name in (
    "average_accuracy",
    "average_anytime_accuracy",
    "forgetting_matrix",
    "forgetting_per_experience",
    "forgetting",
    "backward_transfer",
    "learning_accuracy",
    "worst_case_accuracy",
):
    call(f"metrics.{name}", {"R": R, "seen": [1, 2, 3], "higher_is_better": None}, {"R": MATRIX, "seen": SEEN.but("none")})
call(
    "metrics.forward_transfer",
    {"R": R, "baseline": R[0], "seen": [1, 2, 3], "higher_is_better": None},
    {"R": MATRIX, "baseline": kind("tensor", bad=(R[0, :2], R[0] * 100, R[0].long(), R[0].to("meta"))), "seen": SEEN.but("none")},
)
call(
    "metrics.mean_ci",
    {"values": R, "confidence": 0.9, "dim": 0},
    {
        "values": kind("tensor", "nan tensor", bad=(R[:0], R.to("meta"))),
        "confidence": FRACTION,
        "dim": kind("zero", bad=(-3, 2, 1.0, "0")),
    },
)

# -- figures
AX = kind("none")
AXES_WITHOUT_A_GRID = Figure().add_axes((0, 0, 1, 1))
PLOT_DRAWN = {"ax": None, "title": "t", "xlabel": "x", "ylabel": "y"}
PLOT_DRAWN_ = {"ax": AX, "title": NAME.but("none"), "xlabel": NAME, "ylabel": NAME}
PLOT_LINES = {"ylim": (0, None), "direct": None, "spread": None}
PLOT_LINES_ = {
    "ylim": kind("none", "list", bad=((1, 0), (0, float("nan")), (0, "1"), (0, 1, 2), [0])),
    "direct": kind("none", "bool", bad=(0, 1, "True")),
    "spread": kind("none", bad=("bands", "None", True)),
}
MEASURE = {"measure": "accuracy", "higher_is_better": None}
MISSING = kind("list of str", "empty list", bad=(["a"], [None]))
call(
    "plots.accuracy_timeline",
    {"curves": {"a": R}, "confidence": 0.9, "missing": [], "higher_is_better": None, **PLOT_DRAWN, **PLOT_LINES},
    {
        **PLOT_DRAWN_,
        **PLOT_LINES_,
        "curves": kind(bad=({"a": R.long()}, {"a": R * 100}, {"a": R[None]}, {"a": None}, {3: R}, [R], R)),
        "confidence": FRACTION,
        "missing": MISSING,
    },
)
PLOT_MAP = {**PLOT_DRAWN, "labels": ["a", "b", "c"]}
PLOT_MAP_ = {**PLOT_DRAWN_, "ylabel": NAME.but("none"), "labels": kind("none", bad=(["a"], [1, 2, 3], "abc"))}
call(
    "plots.matrix",
    {"R": R, **PLOT_MAP, **MEASURE},
    {**PLOT_MAP_, "R": MATRIX.but(bad=(R[None, None],)), "measure": NAME},
)
call(
    "plots.matrices",
    {"matrices": {"a": R}, "missing": [], **PLOT_MAP, **MEASURE},
    {
        **PLOT_MAP_,
        "matrices": kind(bad=({"a": R.long()}, {"a": R * 100}, {"a": None}, {3: R}, [R], R)),
        "missing": MISSING,
        "measure": NAME,
        "ax": AX.but(bad=(AXES_WITHOUT_A_GRID,)),
    },
)
call(
    "plots.forgetting_matrix",
    {"R": R, "seen": [1, 2, 3], **PLOT_MAP, "higher_is_better": None},
    {**PLOT_MAP_, "R": MATRIX.but(bad=(R[None, None],)), "seen": SEEN.but("none")},
)
CLASS_MAPS = (R.long(), R * 100, R.to("meta"), R.tolist(), R[0], R[None, None], {"a": R[0]}, {3: R}, [R])
call(
    "plots.class_heatmap",
    {"values": {"a": R}, "missing": [], **PLOT_MAP},
    {
        **PLOT_MAP_,
        "ylabel": NAME,
        "values": kind(bad=CLASS_MAPS),
        "missing": MISSING,
        "ax": AX.but(bad=(AXES_WITHOUT_A_GRID,)),
    },
)
call(
    "plots.class_heatmap",
    {"values": R, "missing": (), **PLOT_MAP},
    {
        **PLOT_MAP_,
        "ylabel": NAME,
        "values": kind(bad=CLASS_MAPS),
        "missing": kind("empty list"),
    },
)

CURVES = kind(bad=({"a": R.long()}, {"a": R[None]}, {"a": None}, {3: R}, [R], {"a": R * float("inf")}, R.to("meta"), R.long()))
STEPS = kind("list", "empty list", "integer tensor", bad=([-1], [1.0], [True], torch.ones(2), R))
for log in (False, True):
    call(
        "plots.learning_curve",
        {"curves": {"a": R}, "window": 2, "ends": [1, 3], "confidence": 0.9, "log": log, "missing": [], "higher_is_better": None}
        | {**PLOT_DRAWN, **PLOT_LINES},
        {
            **PLOT_DRAWN_,
            **PLOT_LINES_,
            "curves": CURVES.but("tensor"),
            "window": SIZE.but("none"),
            "ends": STEPS,
            "confidence": FRACTION,
            "log": FLAG,
            "missing": MISSING,
        },
    )
for given, also in ((R, ()), ({"a": R, "b": R}, (AXES_WITHOUT_A_GRID,))):
    call(
        "plots.forgetting_curves",
        {"R": given, "seen": [1, 2, 3], "confidence": 0.9, "missing": [], "higher_is_better": None} | {**PLOT_MAP, **PLOT_LINES},
        {
            **PLOT_MAP_,
            **PLOT_LINES_,
            "R": MATRIX.but(bad=(R[None, None], {"a": R * 100}, {"a": R, "b": R[:2, :2]}, {3: R}, [R])),
            "seen": SEEN.but("none"),
            "ylabel": NAME,
            "ax": AX.but(bad=also),
            "confidence": FRACTION,
            "missing": MISSING if also else kind("empty list"),
            "labels": PLOT_MAP_["labels"].but(bad=(["a", "a", "b"],)),
        },
    )
POINTS = {"opt.lr": [0.1, 1.0, 10.0], "act": ["a", "b", "a"]}
SEARCH = {"points": POINTS, "values": R, "metric": "m", "log": ["opt.lr"], "higher_is_better": None, "ax": None, "title": "t"}
SEARCH["largest"] = None
SEARCH_ = {
    "points": kind(bad=({}, {3: [1, 2, 3]}, {"opt.lr": [1, 2]}, {"opt.lr": "abc"}, {"act": [1, 2, 3]}, [POINTS])),
    "values": kind(
        "tensor", "nan tensor", bad=(R[0, 0], R.long(), R * 100, R * float("inf"), -R, R[:2], R.tolist(), R.to("meta"), R[None])
    ),
    "metric": NAME,
    "log": kind("none", "empty list", bad=(["act "], ["alpha"], "opt.lr", [3])),
    "title": NAME.but("none"),
    "largest": FLAG.but("none"),
}
SAYS_POINTS = {"points": "points|log", "values": "values|points"}
call("plots.parallel_coordinates", SEARCH, {**SEARCH_, "ax": AX}, SAYS_POINTS)
call(
    "plots.hyperparameter_scatter",
    {**SEARCH, "confidence": 0.9, "ylabel": "y", "ylim": (0, 1), "mark_best": False},
    {
        **SEARCH_,
        "mark_best": FLAG,
        "ax": AX.but(bad=(AXES_WITHOUT_A_GRID,)),
        "confidence": FRACTION,
        "ylabel": NAME.but("none"),
        "ylim": PLOT_LINES_["ylim"],
    },
    SAYS_POINTS,
)
LABELS = kind(bad=(("x", ["1", "2"]), ("x", [1, 2, 3]), (None, ["1", "2", "3"]), ["x", ["1", "2", "3"]]))
call(
    "plots.hyperparameter_grid",
    {
        "values": R,
        "metric": "m",
        "rows": ("x", ["1", "2", "3"]),
        "columns": ("y", ["1", "2", "3"]),
        "notes": None,
        "higher_is_better": None,
        **PLOT_DRAWN,
    },
    {
        "values": kind(bad=(R[0], R.long(), R * 100, -R, R.tolist(), R[:0], R.to("meta"), R.to(torch.complex64), R.numpy())),
        "metric": NAME,
        "rows": LABELS,
        "columns": LABELS,
        "notes": kind("none", "empty dict", bad=({(0, 0): 1}, ["a"])),
        **PLOT_DRAWN_,
        "xlabel": NAME.but("none"),
        "ylabel": NAME.but("none"),
    },
)
THREE = {"a": R[0], "b": R[1], "c": R[2]}
call(
    "plots.critical_difference",
    {"scores": THREE, "largest": True, "level": 0.05, "title": "t", "ax": None},
    {
        "scores": kind(bad=(R, {"a": R[0], "b": R[1]}, {**THREE, "c": R}, {**THREE, "c": R[0] * float("nan")}, {**THREE, 3: R[0]})),
        "largest": FLAG,
        "level": FRACTION,
        "title": NAME.but("none"),
        "ax": AX,
    },
)

# -- random
DIMS = kind("none", "int", "zero", "list", "empty list", bad=((2.0,), ("2",), (-1,), (True,), (None,)))
DIMS = dataclasses.replace(DIMS, fine=DIMS.fine - {"none"})
DTYPE = kind("dtype", bad=(torch.int64, torch.float16, "float32", float))
call(
    "key",
    {"seed": 3, "device": "cpu"},
    {
        "seed": kind("int", "zero", "negative", bad=(1 << 64, -(1 << 63) - 1, "3", 3.0)),
        "device": kind("none", bad=("gpu", "nowhere:0")),
    },
)
call(
    "random.children",
    {"key": KEY, "data": torch.arange(3)},
    {"data": kind("key", "integer tensor", bad=(3, torch.ones(3), torch.tensor([True]), torch.arange(3, device="meta")))},
)
call(
    "random.fold_in",
    {"key": KEY, "data": 3},
    {
        "data": kind(
            "int", "zero", "negative", "key", bad=(3.0, torch.tensor([1]), torch.tensor(True), torch.tensor(1).to("meta"), 1 << 70)
        )
    },
)
call("random.split", {"key": KEY, "n": 2}, {"n": SIZE})
call("random.bits", {"key": KEY, "shape": (2,)}, {"shape": DIMS})
call("random.uniform", {"key": KEY, "shape": (2,), "dtype": torch.float32}, {"shape": DIMS, "dtype": DTYPE})
call("random.normal", {"key": KEY, "shape": (2,), "dtype": torch.float32}, {"shape": DIMS, "dtype": DTYPE})
BOUND = kind("int", bad=(3.0, "3", torch.tensor(1.0), torch.tensor([1, 2, 3]), torch.tensor(True), 1 << 70))
call(
    "random.randint",
    {"key": KEY, "shape": (2,), "low": 0, "high": 5},
    {"shape": DIMS, "low": BOUND.but("zero", "negative", "key", bad=(5,)), "high": BOUND.but("key", bad=(0,))},
    {"low": "low|high", "high": "high|low"},
)
call(
    "random.bernoulli",
    {"key": KEY, "p": 0.3, "shape": (2,)},
    {
        "p": kind("zero", "numpy float", "scalar tensor", bad=(1.1, -0.1, torch.ones(3), torch.tensor(1)), drawn=NO_NUMBER),
        "shape": DIMS,
    },
)
ABOVE_ZERO = POSITIVE.but("scalar tensor", bad=(torch.ones(3), torch.tensor(1), torch.tensor(0.5, device="meta")))
call(
    "random.beta",
    {"key": KEY, "a": 0.3, "b": 2.0, "shape": (2,), "dtype": torch.float32},
    {"a": ABOVE_ZERO, "b": ABOVE_ZERO, "shape": DIMS, "dtype": DTYPE},
)
call("random.permutation", {"key": KEY, "n": 3}, {"n": COUNT})
call(
    "random.categorical",
    {"key": KEY, "logits": torch.zeros(3)},
    {
        "logits": kind(
            "tensor",
            "nan tensor",
            bad=(
                torch.zeros(3).long(),
                torch.zeros(()),
                torch.zeros(2, 0),
                [0.0],
                torch.zeros(3, device="meta"),
            ),
        )
    },
)

# -- trees
LEAVES, STRUCTURE = tree.flatten(STATE)
call(
    "tree.get",
    {"tree": STATE, "path": "opt.lr"},
    {"tree": kind("state", bad=({"a": 1},)), "path": kind("empty str", bad=("nothing", "opt.rate", "opt.lr.more", "."))},
    {"tree": "path", "path": "path"},
)
call(
    "tree.set",
    {"tree": STATE, "changes": {"opt.lr": 0.2}},
    {
        "tree": kind("state", bad=({"a": 1},)),
        "changes": kind("empty dict", bad=({3: 0.1}, {"": 0.1}, {"opt.rate": 0.1}, [("opt.lr", 0.1)])),
    },
    {"tree": "path", "changes": "changes|path"},
)
PATHS: dict[str, Kind] = {
    "opt.lr": kind(
        "int",
        "float",
        "zero",
        "scalar tensor",
        "numpy int",
        "numpy float",
        bad=(torch.tensor(0.1, device="meta"), torch.tensor([0.1]), "0.1", float("-inf"), -1.0),
    ),
    "opt.momentum": kind("zero", "scalar tensor", "numpy float", bad=(1.0, -0.1)),
    "opt.count": kind("int", "zero", "negative", "numpy int", "key", bad=(1.0, "1", torch.tensor(1.0))),
    "lwf.temperature": kind("int", "float", "scalar tensor", "numpy int", "numpy float", bad=(0, -2.0)),
    "opt": kind(bad=(0.1, "opt", STATE.model)),
    "model": kind("weights", bad=(0.1, "model", {}, STATE.opt)),
    "model.params": kind("dict", "empty dict", bad=(0.1, [])),
    "model.params.0.bias": kind(bad=(0.1, torch.zeros(9), torch.zeros(8).double(), torch.zeros(8, device="meta"))),
    "replay": kind(bad=("replay", STATE.lwf, {})),
}
for path, some in PATHS.items():
    call(
        "tree.set",
        {"value": tree.get(STATE, path)},
        {"value": some},
        {"value": re.escape(path)},
        run=lambda value, path=path: tree.set(STATE, {path: value}),
    )
call(
    "tree.map",
    {"function": torch.clone, "tree": STATE},
    {"function": FUNCTION.but("function", "function of five"), "tree": ANY},
    run=lambda function, tree: cl.tree.map(torch.clone if callable(function) else function, STATE),
)
call("tree.map", {"rest": STATE}, {"rest": kind("state")}, run=lambda rest: tree.map(torch.add, STATE, rest))
for name in ("leaves", "flatten", "items"):
    call(f"tree.{name}", {"tree": STATE}, {"tree": ANY})
call(
    "tree.unflatten",
    {"structure": STRUCTURE, "leaves": LEAVES},
    {"structure": kind(), "leaves": kind(bad=(LEAVES[:-1], [*LEAVES, 1]))},
)
call(
    "tree.replace",
    {"node": STATE, "key": KEY},
    {
        "node": kind("state", "weights", "dataset", "experience", "benchmark", "model", "stream", "optimizer", "strategy", "grid"),
        "key": ANY,
    },
    run=lambda node, key: tree.replace(node, **({} if node is not STATE else {"key": key})),
)
call(
    "tree.replace",
    {"changes": "key"},
    {"changes": kind(bad=("keys", "x"))},
    {"changes": "field"},
    run=lambda changes: tree.replace(STATE, **{changes: KEY} if isinstance(changes, str) else {"nothing": 0}),
)
call("tree.describe", {"value": STATE}, {"value": ANY})
call(
    "tree.to",
    {"tree": STATE, "device": "cpu"},
    {
        "tree": kind(*TENSORS, "meta tensor", "empty list", "empty dict", "none", "state"),
        "device": kind("device", bad=("gpu7", "cuda:99", 0)),
    },
)
OTHER = registry.init(KEY, models.mlp(6, hidden=(9,), n_classes=4))
call(
    "tree.stack",
    {"trees": [STATE, STATE]},
    {
        "trees": kind(
            "stream",
            bad=(
                [STATE, OTHER],
                [STATE, RAN],
                [STATE, None],
                [1, 2],
                [STATE, tree.map(lambda x: x.to("meta"), STATE)],
                [KEY, KEY.float()],
            ),
        )
    },
)
call(
    "tree.unstack",
    {"tree": LANES},
    {
        "tree": kind(
            "tensor",
            "nan tensor",
            "integer tensor",
            "meta tensor",
            "dataset",
            bad=(STATE, {"a": torch.zeros(2), "b": torch.zeros(3)}),
        )
    },
)
call(
    "tree.where",
    {"condition": torch.tensor(True), "new": STATE, "old": STATE},
    {
        "condition": kind(bad=(torch.ones(2) > 0, torch.tensor(1), torch.tensor(True, device="meta"))),
        "new": kind("state", bad=(OTHER,)),
        "old": kind("state", bad=(OTHER,)),
    },
    {"new": "new|rest", "old": "old|rest"},
)
call(
    "tree.where",
    {"condition": torch.tensor([True, False]), "new": LANES, "old": LANES},
    {"condition": kind(bad=(torch.ones(3) > 0, torch.ones(1) > 0, torch.ones(2, 2) > 0)), "new": ANY, "old": ANY},
)
for name in ("difference", "equal"):
    call(
        f"tree.{name}",
        {"a": STATE, "b": STATE, "rtol": 0.0, "atol": 0.0},
        {"a": ANY, "b": ANY, "rtol": NON_NEGATIVE, "atol": NON_NEGATIVE},
    )
call(
    "state",
    {"cls": type("Mine", (), {"__annotations__": {"x": Tensor}}), "kw_only": True},
    {"cls": kind("none", "class"), "kw_only": FLAG},
    run=cl.state,
)
call("static", {"default": 0, "init": False}, {"default": ANY, "init": FLAG})
call("tree.bounded", {"check": print, "default": 0}, {"check": FUNCTION.but("function", "function of five"), "default": ANY})

# -- evaluation, grids, sweeps
call(
    "evaluate",
    {"model": MODEL, "stream": BENCH.test, "batch_size": 5, "mask": "experience", "measure": None},
    {
        "measure": FUNCTION.but("none"),
        "stream": dataclasses.replace(STREAM, bad=([], [1, 2], [None], "stream", [BENCH])),
        "model": CLASSIFIER,
        "batch_size": SIZE,
        "mask": choice("experience").but("none"),
    },
)
call("evaluate", {"state": STATE}, run=lambda state: cl.evaluate(MODEL, BENCH.test)(state, None))
VALUES = kind(
    "empty dict",
    bad=(
        {3: [0.1]},
        {"": [0.1]},
        {"a": []},
        {"a": 0.1},
        {"a": "0.1"},
        {"a": {"b": 1}},
        {"a": [0.1, 0.1]},
        {"a": [torch.ones(2), torch.ones(2)]},
        {"a": [0.1, "0.1"]},
        {"a": [None]},
        {"a": [object()]},
        {"a": np.zeros((0,))},
        {"a": 3},
        {"a": torch.tensor(1.0)},
        {"a": torch.zeros(2, device="meta")},
        {"a": [float("nan")]},
        {"a": [np.float32(0.5), 0.5]},
    ),
)
call(
    "grid",
    {
        "values": {
            "opt.lr": [0.1, 0.2],
            "a": np.ones(1),
            "b": torch.arange(3),
            "c": range(2),
            "d": [np.int64(1)],
            "e": [torch.ones(2), torch.zeros(2)],
        }
    },
    {"values": VALUES},
)
call("zipped", {"values": {"opt.lr": [0.1, 0.2], "a": np.arange(2)}}, {"values": kind(bad=(*VALUES.bad, {"a": [1], "b": [1, 2]}))})
call(
    "random_grid",
    {"n": 3, "ranges": {"opt.lr": (0.1, 1.0), "a": cl.integers(1, 4), "b": cl.choice([0.1, 1])}, "key": KEY, "log": True},
    {
        "n": SIZE,
        "ranges": kind(
            bad=(
                {3: (0.1, 1.0)},
                {"": (0.1, 1.0)},
                {"a": 0.1},
                {"a": (0.1,)},
                {"a": (1.0, 0.1)},
                {"a": (0.0, 1.0)},
                {"a": (0.1, float("inf"))},
                {"a": ("0.1", "1")},
                {"a": (0.1, None)},
                {"a": (float("nan"), 1.0)},
                {"a": (True, 2)},
                {"a": "ab"},
                {"a": cl.choice},
                {"a": [0.1, 0.2, 0.3]},
            )
        ),
        "key": KEY_,
        "log": FLAG,
    },
)
BOUND = kind(*NUMBER, "negative", bad=("0.1",))
call("uniform", {"low": -5.0, "high": 1.0}, {"low": BOUND.but(bad=(1.0, 2.0)), "high": BOUND.but(bad=(-5.0, -6.0))})
call("log", {"low": 1e-4, "high": 3}, {"low": POSITIVE.but(bad=(3, 4)), "high": POSITIVE.but(bad=(1e-4, 1e-5))})
WHOLE = kind("int", "zero", "negative", bad=(1.0, "1", 1 << 60, torch.tensor(1)))
call("integers", {"low": -5, "high": 3}, {"low": WHOLE.but(bad=(3, 4)), "high": WHOLE.but(bad=(-5, -6))})
call(
    "choice",
    {"values": [0.5, 1, torch.ones(2)]},
    {"values": kind("list", "numpy array", "integer tensor", bad=([], [0.1, 0.1], [0.1, "0.1"], [None], [float("nan")], 3, {0.1}))},
)
PLAIN = {"compile": False, "lanes": 1, "progress": False}
TRACE = {"losses.values": torch.rand(2, 2, 3, 2), "losses.count": torch.tensor([2, 4, 6]).expand(2, 2, 3)}
RUNS = made_runs.make(
    {"opt.lr": [0.1, 0.2], "seed": [0, 1]}, norm=torch.ones(2, 2, 3), class_accuracy=torch.rand(2, 2, 3, 4), **TRACE
)
AXES, FINISHED = {"a": [1, 2], "seed": [0, 1]}, torch.ones(2, 2, dtype=torch.bool)
call(
    "Runs",
    {"axes": AXES, "history": {}, "finished": FINISHED, "seconds": 1.0, "attributes": {}, "_replay": None},
    {
        "axes": kind(bad=({"seed": [0, 1]}, {"seed": [0, 1], "a": [1, 2]}, {"a": [], "seed": [0]}, {"a": 1, "seed": [0]})),
        "history": kind("empty dict", bad=({"a": torch.ones(3)}, {"a": 1.0})),
        "finished": tensor(FINISHED),
        "seconds": kind("bool", "int", "zero", "negative", "float", "nan", "inf", "numpy float"),
        "attributes": kind("dict", "empty dict", bad=({3: 1},)),
        "_replay": ANY,
    },
    {"axes": "axes|finished"},
)
METRIC = kind("none", "function", bad=("accuracy", ("forgetting", "loss"), ("a", "b", "c"), ["accuracy"], float))
HISTORY = kind("none", bad=("loss", "", ["accuracy"]))
ONE_METRIC = {"metric": "average_accuracy", "history": None, "higher_is_better": None}
ONE_METRIC_ = {"metric": METRIC, "history": HISTORY}
SAYS = {"metric": "metric|history"}
call("Runs", ONE_METRIC, {**ONE_METRIC_, "metric": METRIC.but(bad=(lambda R: R,))}, SAYS, run=RUNS.metric)
call("Runs", {**ONE_METRIC, "confidence": 0.9}, {**ONE_METRIC_, "confidence": FRACTION}, SAYS, run=RUNS.mean_ci)
for function in (RUNS.best, RUNS.ranked):
    call("Runs", {**ONE_METRIC, "largest": True}, {**ONE_METRIC_, "largest": FLAG.but("none")}, SAYS, run=function)
PICTURED = {"labels": ["a", "b"], "title": "t", "ax": None}
PICTURED_ = {"labels": kind("none", "list of str", bad=(["a"], [1, 2], ["a", "a"], "ab")), "title": NAME.but("none"), "ax": AX}
for plot in (RUNS.plot_timeline, RUNS.plot_matrix, RUNS.plot_forgetting):
    call("Runs", {**PICTURED, "history": None, "higher_is_better": None}, {**PICTURED_, "history": HISTORY}, SAYS, run=plot)
for plot in (RUNS.plot_scatter, RUNS.plot_parallel):
    pictured = {**ONE_METRIC_, "title": NAME.but("none"), "ax": AX, "largest": FLAG.but("none")}
    call("Runs", {**ONE_METRIC, "title": "t", "ax": None, "largest": None}, pictured, SAYS, run=plot)
call(
    "Runs",
    {**PICTURED, "history": "class_accuracy"},
    {**PICTURED_, "history": kind(bad=("loss", "norm"))},
    {"history": "history|values|'"},
    run=RUNS.plot_classes,
)
call(
    "Runs",
    {**PICTURED, "name": "losses"},
    {**PICTURED_, "name": kind(bad=("loss", "norm"))},
    {"name": "name|'"},
    run=RUNS.plot_curve,
)
call(
    "Runs",
    {**ONE_METRIC, "format": "latex", "largest": None},
    {
        **ONE_METRIC_,
        "metric": METRIC.but("dict", bad=([], [["forgetting"]], {"a": "b"}, {3: "forgetting"})),
        "format": choice("markdown", "latex", "html"),
        "largest": kind("none", "empty dict", bad=({"average_accuracy": 1}, {"nowhere": True})),
    },
    {**SAYS, "metric": "metric|history"},
    run=RUNS.table,
)
call(
    "Runs",
    {"histories": "norm"},
    {"histories": kind("none", "function", bad=("loss", ["accuracy", "norm"], ["loss"], [3]))},
    run=lambda histories: RUNS.to_pandas(histories),
)
call(
    "Runs",
    {"runs": {"a": RUNS, "b": RUNS}, "axis": "method", "histories": None},
    {
        "runs": kind(bad=(RUNS, [RUNS], {3: RUNS}, {"a": RUNS, "b": RUNS.at(seed=0)}, {"a": RUNS["accuracy"]})),
        "axis": kind("str", bad=("seed", "opt.lr", "")),
        "histories": kind("none", "empty list", bad=("accuracy", ["loss"], [3])),
    },
    run=cl.Runs.join,
)
call(
    "Runs",
    {"a": 0.1, "b": 0.2, "axis": "opt.lr", "test": "t", "confidence": 0.9, **ONE_METRIC},
    {
        **ONE_METRIC_,
        "a": kind(bad=(0.2, 0.3)),
        "b": kind("none", bad=(0.1, 0.3)),
        "axis": kind(bad=("seed", "method")),
        "test": choice("wilcoxon", "t"),
        "confidence": FRACTION,
    },
    SAYS,
    run=RUNS.compare,
)
call(
    "Runs",
    {"axis": "opt.lr", "over": "seeds", "largest": True, "level": 0.05, "title": "t", "ax": None, **ONE_METRIC},
    {
        **ONE_METRIC_,
        "axis": kind(bad=("seed", "method")),
        "over": choice("seeds", "settings"),
        "largest": FLAG.but("none"),
        "level": FRACTION,
        "title": NAME.but("none"),
        "ax": AX,
    },
    SAYS,
    run=made_runs.make({"opt.lr": [0.1, 0.2, 0.3], "seed": [0, 1]}).plot_critical_difference,
)
call("Runs", {"dataset": RUNS.to_xarray()}, {"dataset": kind(bad=(RUNS,))}, run=cl.Runs.from_xarray)
call(
    "Runs",
    {"seed": 1},
    {"seed": kind("zero", bad=(3, [3], [0, 0], [], (2,)))},
    run=lambda seed: RUNS.at(seed=seed),
)
HPARAMS = (
    cl.grid({"opt.rate": [0.1]}),
    cl.grid({"opt.count": [0.5]}),
    cl.grid({"opt.lr": [-1.0]}),
    cl.grid({"opt": [1.0]}),
    {"opt.lr": [0.1]},
    {"opt.lr": "0.1"},
    {"opt.lr": None},
    {"opt.rate": 0.1},
    {3: 0.1},
    cl.grid({"opt.lr": [torch.ones(2)]}),
)
CHOOSE = made_runs.First()
MANY = {"a": STRATEGY, "b": STRATEGY}
OPTIONS = {
    "probe": probe,
    "executor": None,
    "every": 1,
    **KEPT,
    "device": "cpu",
    "resume": None,
    "on_change": "error",
    "tap": None,
    **PLAIN,
}
OPTIONS_ = {
    "tap": FUNCTION.but("none"),
    "seeds": kind("int", "list", "numpy int", "integer tensor", bad=([1, 1], [0.0], ["a"], [True], [None], [-(1 << 70)], 2.0)),
    "probe": FUNCTION.but("none"),
    "executor": kind("none"),
    "every": SIZE,
    "device": kind("none", bad=("gpu", "nowhere:0")),
    "resume": kind("none", "str", bad=(FILE,)),
    "on_change": choice("error", "warn"),
    "compile": choice("auto").but("bool"),
    "lanes": SIZE.but(bad=("many",)),
    "progress": FLAG,
}
call(
    "compare",
    {"strategies": MANY, "benchmark": BENCH, "seeds": [0], "hparams": {"a": GRID}, "select": CHOOSE, "streams": None, **OPTIONS},
    {
        **OPTIONS_,
        "strategies": kind(bad=(STRATEGY, {"a": None}, {3: STRATEGY}, {"": STRATEGY}, {"a": {"class": STRATEGY}}, {"a": GRID})),
        "benchmark": BENCHMARK.but(*CALLABLE, bad=(lambda key: None, lambda key: DATA, {"a": DATA}, {3: BENCH})),
        "hparams": kind(bad=({"a": {"opt.lr": [0.1]}}, {"c": GRID}, *({"a": grid} for grid in HPARAMS), GRID)),
        "select": kind(bad=(made_runs.First, "validation")),
        "streams": kind("none", bad=({"a": 3}, {"c": cl.streams.cumulative}, {"a": lambda benchmark: None}, cl.streams.cumulative)),
    },
    {"hparams": r"hparams|'opt[.\w]*'", "streams": "streams|'a'"},
)
call(
    "sweep",
    {"strategy": STRATEGY, "benchmark": BENCH, "seeds": [0], "hparams": None, **OPTIONS},
    {
        **OPTIONS_,
        "strategy": STRATEGY_,
        "benchmark": BENCHMARK.but(*CALLABLE, bad=(lambda key: None, lambda key: DATA)),
        "hparams": kind("none", "grid", "empty dict", bad=HPARAMS),
    },
    {"hparams": r"hparams|'opt[.\w]*'"},
)

# -- selections
SELECTS = {"metric": None, "seeds": 1, "largest": None, "probe": None}
SELECTS_ = {
    "metric": kind(
        "none", "function", "str", "empty str", bad=(("a", "b", "c"), ("forgetting", 3), (None, "loss"), ["accuracy"], float)
    ),
    "seeds": SIZE,
    "largest": FLAG.but("none"),
    "probe": FUNCTION.but("none"),
    "key": KEY_.but("none"),
}
call("select.validation", {"fraction": 0.2, **SELECTS, "key": None}, {"fraction": FRACTION, **SELECTS_})
call("select.first_experiences", {"k": 2, "fraction": 0.2, **SELECTS, "key": None}, {"k": SIZE, "fraction": FRACTION, **SELECTS_})
call("select.oracle", SELECTS, SELECTS_)
call(
    "select.successive_halving",
    {"selection": None, "eta": 2, "resource": "seeds", "least": 1},
    {
        "selection": kind("none", bad=(cl.select.validation, cl.select.successive_halving())),
        "eta": SIZE.but(bad=(1,)),
        "resource": kind(bad=("experience", "seeds ", "rows")),
        "least": SIZE,
    },
)
for chooser in (cl.select.validation(0.4, seeds=1), cl.select.successive_halving(cl.select.first_experiences(2, seeds=1))):
    call(
        "select.validation",
        {
            "strategy": STRATEGY,
            "benchmark": BENCH,
            "hparams": GRID,
            "seeds": 2,
            "sweep": functools.partial(cl.sweep, **PLAIN),
        },
        {
            "strategy": STRATEGY_,
            "benchmark": BENCHMARK.but(*CALLABLE, bad=(lambda key: None, lambda key: DATA)),
            "hparams": kind(
                "grid",
                bad=(cl.grid({"opt.rate": [0.1, 0.2]}), cl.grid({"opt.lr": [0.1, -1.0]}), {"opt.lr": 0.1}, {"opt.lr": [0.1, 0.2]}),
            ),
            "seeds": kind("int", "list", "numpy int", "integer tensor", bad=([1, 1], [0.0], ["a"], [True], [None], 2.0)),
            "sweep": FUNCTION,
        },
        {"hparams": r"hparams|'opt[.\w]*'"},
        run=chooser.choose,
    )
call(
    "select.published",
    {"method": "er", "benchmark": "split_mnist", "capacity": 200, "setting": "class", "source": "buzzega"},
    {
        "method": kind(bad=("mir", "Er")),
        "benchmark": kind(bad=("split_mnist ", "mnist")),
        "capacity": kind("none", bad=(201, 200.0, "200")),
        "setting": kind("none", bad=("domain",)),
        "source": kind("none", bad=("van_de_ven",)),
    },
)
call("select.published", {"model": MODEL}, run=cl.select.published("er", "split_mnist").make)

# -- testing
call(
    "testing.assert_equal",
    {"actual": STATE, "expected": STATE, "law": "mine", "rtol": 0.0, "atol": 0.0},
    {"actual": ANY, "expected": ANY, "law": ANY, "rtol": NON_NEGATIVE, "atol": NON_NEGATIVE},
)
call(
    "testing.check_update",
    {"update": update, "state": STATE, "exp": EXP, "compiled": False, "padding": True},
    {"update": FUNCTION, "state": kind(*TENSORS, "state"), "compiled": FLAG, "padding": FLAG},
)
call(
    "testing.check_loss",
    {"loss": losses.cross_entropy(MODEL), "state": STATE, "exp": EXP, "compiled": False},
    {"loss": FUNCTION, "compiled": FLAG},
)
call(
    "testing.check_gradient_transform",
    {"transform": clip, "state": STATE, "exp": EXP, "compiled": False},
    {"transform": FUNCTION, "compiled": FLAG},
)
call(
    "testing.check_probe",
    {"probe": cl.evaluate(MODEL, BENCH.test), "state": STATE, "exp": EXP, "compiled": False},
    {"probe": FUNCTION, "exp": EXPERIENCE.but("none"), "compiled": FLAG},
)
call(
    "testing.check_draw",
    {"draw": memory.draws.uniform, "memory": EMPTY, "n": 3, "compiled": False},
    {"draw": FUNCTION, "memory": MEMORY, "n": SIZE, "compiled": FLAG},
)
call(
    "testing.check_strategy",
    {"strategy": STRATEGY, "benchmark": BENCH, "seed": 0, "compiled": False},
    {"strategy": STRATEGY_, "benchmark": BENCHMARK, "seed": kind("int", "zero", "negative"), "compiled": FLAG},
)
call(
    "testing.check_device",
    {"function": update, "state": STATE, "exp": EXP, "device": "cpu"},
    {
        "function": FUNCTION,
        "state": kind(*TENSORS, "state"),
        "exp": EXPERIENCE.but("none"),
        "device": kind("none", bad=("gpu", "nowhere:0")),
    },
)
call(
    "testing.check_round_trip",
    {"value": STATE},
    {"value": kind(*TENSORS, "state", bad=({"a": torch.ones(3, device="meta")}, {"a": 1.0}))},
)
call("testing.vary", {"state": STATE}, {"state": kind(*TENSORS, "meta tensor", "state")})
call(
    "testing.small_benchmark",
    {"n_features": 3, "n_classes": 4, "rows_per_class": 2, "n_experiences": 2, "target": "regression"},
    {"n_features": SIZE, "rows_per_class": SIZE},
)
call("testing.keys", {})
call(
    "testing.experiences",
    {"n_features": 3, "n_classes": 4, "max_rows": 5, "min_rows": 1, "target": "multilabel"},
    {"n_features": SIZE, "max_rows": SIZE, "min_rows": SIZE.but(bad=(6,))},
)
call(
    "testing.streams",
    {"n_features": 3, "n_classes": 4, "max_length": 2, "target": "class"},
    {"n_features": SIZE, "max_length": SIZE},
)
call("testing.agents", {"init": STRATEGY.init}, {"init": FUNCTION})

# -- the pieces of the methods
ROW = memory.sample(MODEL)
for room, own in {
    "balanced": {},
    "gss": {},
    "gdumb": {"n_classes": 4},
    "herding": {"n_classes": 4},
}.items():
    call(f"memory.{room}.init", {"capacity": 6, "sample": ROW, **own})
call("memory.ring.init", {"per_class": 2, "sample": ROW, "n_classes": 4})
call(
    "memory.balanced.insert", {"slot": "replay", "groups": memory.balanced.by_class, "fields": memory.fields}, {"groups": FUNCTION}
)
call("memory.gdumb.insert", {"slot": "replay", "fields": memory.fields})
SQUARES = losses.row_losses(losses.mean_squared_error(MODEL))
call(
    "memory.gss.insert",
    {"model": MODEL, "subset_size": 3, "slot": "replay", "fields": memory.fields, "losses": SQUARES},
)
call("memory.herding.insert", {"model": MODEL, "slot": "replay", "fields": memory.fields})
call("memory.ring.insert", {"slot": "replay", "fields": memory.fields})
call("memory.dark.sample", {"model": MODEL, "target": "multilabel"})
call("memory.dark.fields", {"model": MODEL})
call(
    "memory.dark.insert",
    {"logits": LOGITS, "slot": "replay"},
    {"logits": kind("tensor", "scalar tensor", "nan tensor", "meta tensor")},
)
STORED = memory.reservoir.init(5, ROW)
for name in ("uniform", "distinct", "class_balanced"):
    known = "memory.balanced.draw" if name == "uniform" else f"memory.draws.{name}"  # the first of its names
    call(known, {"memory": STORED, "key": KEY, "n": 2}, {"memory": MEMORY})
for store in (memory.herding.init(5, ROW, 4), memory.ring.init(2, ROW, 4)):
    call("memory.balanced.draw", {"memory": store, "key": KEY, "n": 2}, {"memory": MEMORY})
for room, store, name, extra, extra_kind in (
    ("balanced", memory.balanced.init(6, ROW), "group", EXP.y, tensor(EXP.y)),
    ("gdumb", memory.gdumb.init(6, ROW, 4), "label", EXP.y, tensor(EXP.y)),
    ("gss", memory.gss.init(6, ROW), "score", LOGITS[:, 0], tensor(LOGITS[:, 0])),
    ("ring", memory.ring.init(2, ROW, 4), "label", EXP.y, tensor(EXP.y)),
):
    call(
        f"memory.{room}.add",
        {"memory": store, "key": KEY, "rows": ROWS, "valid": EXP.valid, name: extra},
        {"memory": MEMORY.but(bad=(EMPTY,)), "rows": ROWS_, "valid": tensor(EXP.valid), name: extra_kind},
    )
call(
    "memory.herding.add",
    {
        "memory": memory.herding.init(6, ROW, 4),
        "key": KEY,
        "rows": ROWS,
        "valid": EXP.valid,
        "label": EXP.y,
        "embed": lambda rows: rows["x"],
    },
    {
        "memory": MEMORY.but(bad=(EMPTY,)),
        "rows": ROWS_,
        "valid": tensor(EXP.valid),
        "label": tensor(EXP.y),
        "embed": FUNCTION,
    },
)
call("memory.herding.unit", {"rows": LOGITS}, {"rows": kind(bad=(LOGITS[0], LOGITS.long(), LOGITS.tolist(), LOGITS[None]))})
for name in ("by_class", "by_experience", "by_task"):
    call(f"memory.balanced.{name}", {"state": None, "exp": EXP}, {"state": ANY})
FIELDS = kind(
    bad=(
        EXP,
        {"x": ROWS["x"]},
        {**ROWS, "y": ROWS["y"].float()},
        {**ROWS, "y": ROWS["y"][:3]},
        {**ROWS, "task": None},
        tree.map(lambda leaf: leaf.to("meta"), ROWS),
    )
)
call(
    "memory.gss.scores",
    {
        "model": MODEL,
        "net": STATE.model,
        "rows": ROWS,
        "others": ROWS,
        "valid": EXP.valid,
        "losses": losses.row_losses(losses.cross_entropy(MODEL)),
    },
    {"net": kind("weights"), "rows": FIELDS, "others": FIELDS, "valid": tensor(EXP.valid)},
    {"rows": "rows|y", "others": "others|y"},
)
call(
    "memory.union_weights",
    {"replayed": EXP.valid, "valid": EXP.valid, "share": torch.tensor(0.5)},
    {
        "replayed": tensor(EXP.valid, shapes=False, bad=(EXP.valid[None],)),
        "valid": tensor(EXP.valid, shapes=False, bad=(EXP.valid[None],)),
        "share": tensor(torch.tensor(0.5), "scalar tensor"),
    },
)
call("memory.rehearse", {"step": update, "slot": "replay", **BATCHES}, {"step": FUNCTION})
call(
    "memory.recalled",
    {"exp": EXP, "rows": ROWS, "valid": EXP.valid},
    {"rows": kind(bad=(EXP, {"x": ROWS["x"]})), "valid": tensor(EXP.valid)},
    {"rows": "rows|x|y"},
)
for name, own in {"binary_cross_entropy": {}, "huber": {"delta": 1.0}, "mean_squared_error": {}}.items():
    call(f"losses.{name}", {"model": MODEL, **own}, dict.fromkeys(own, POSITIVE))
call(
    "losses.for_target",
    {"loss": loss, "target": "regression", "rows": SQUARES},
    {"rows": FUNCTION.but("none")},
)
call("losses.row_losses", {"loss": losses.mean_squared_error(MODEL)}, {"loss": kind("none", bad=(loss, lambda: None))})
call("losses.target_of", {"loss": loss}, {"loss": FUNCTION.but("none")})
call("losses.dark_experience", {"model": MODEL, "n": 2, "slot": "replay", "draw": memory.draws.uniform}, {"draw": FUNCTION})
call("losses.replayed", {"loss": loss, "n": 2, "slot": "replay", "draw": memory.reservoir.draw}, {"draw": FUNCTION})
call(
    "losses.divergence",
    {"student": LOGITS, "teacher": LOGITS, "classes": CLASSES, "temperature": 2.0},
    {"student": tensor(LOGITS), "teacher": tensor(LOGITS), "classes": MASK, "temperature": POSITIVE.but("scalar tensor")},
    {"student": "student|teacher|logits", "teacher": "teacher|student|logits"},
)
call(
    "losses.logit_distance",
    {"logits": LOGITS, "stored": LOGITS, "valid": EXP.valid},
    {"logits": tensor(LOGITS), "stored": tensor(LOGITS), "valid": tensor(EXP.valid)},
    {"logits": "logits|stored", "stored": "stored|logits"},
)
call("models.split_heads", {"model": MODEL})
call("models.feature_function", {"model": MODEL})
call("models.fresh_function", {"model": MODEL})
call("models.activations", {"model": MODEL, "net": NET, "exp": EXP}, {"net": kind("weights")})
call("models.sample_features", {"model": MODEL, "state": NET}, {"state": kind("weights")})
X6 = tensor(EXP.x, shapes=False, bad=(EXP.x[:, :5], EXP.x[0]))
call(
    "models.features",
    {"model": MODEL, "state": NET, "x": EXP.x, "valid": EXP.valid, "task": EXP.tasks},
    {"state": kind("weights"), "x": X6, "valid": ANY, "task": ANY},  # the MLP has no use for the last two
)
call("models.linear_inputs", {"model": MODEL, "net": NET, "exp": EXP}, {"net": kind("weights")})
ONES = torch.ones(len(EXP), 2, 4)
call(
    "models.row_factors",
    {"model": MODEL, "net": NET, "x": EXP.x, "task": EXP.tasks, "outputs": torch.tanh, "weights": ONES},
    {
        "net": kind("weights"),
        "x": X6,
        "task": tensor(EXP.tasks),
        "outputs": FUNCTION,
        "weights": tensor(ONES),
    },
    {"x": "x|task"},
)
call("projections.agem.project", {"loss": loss, "n": 2, "slot": "replay", "draw": memory.reservoir.draw}, {"draw": FUNCTION})
call(
    "projections.gem.init", {"n_experiences": 2, "memory_per_experience": 3, "sample": ROW, "margin": 0.5}, {"n_experiences": SIZE}
)
call("projections.gem.by_index", {"state": None, "exp": EXP}, {"state": ANY})
call(
    "projections.gem.closest",
    {"g": LOGITS[0], "G": LOGITS, "active": EXP.valid, "margin": torch.tensor(0.5)},
    {
        "g": tensor(LOGITS[0]),
        "G": tensor(LOGITS),
        "active": tensor(EXP.valid),
        "margin": tensor(torch.tensor(0.5), "scalar tensor"),
    },
    {"G": "G|active"},
)
call("projections.gem.insert", {"slot": "gem", "which": projections.gem.by_index})
call("projections.gem.project", {"loss": loss, "slot": "gem", "which": projections.gem.by_index})
call("projections.ogd.init", {"model": MODEL, "net": NET, "capacity": 3}, {"net": kind("weights")})
call("projections.ogd.project", {"slot": "ogd"})
call("projections.ogd.store", {"model": MODEL, "n": 2, "slot": "ogd", "target": "class"})
call("projections.owm.init", {"model": MODEL, "net": NET, "alpha": 1e-3}, {"net": kind("weights")})
call("projections.owm.absorb", {"model": MODEL, "slot": "owm"})
call("projections.owm.project", {"slot": "owm"})
for name, own in {
    "ewc": {"decay": 0.9},
    "mas": {"decay": 0.9},
    "rwalk": {"alpha": 0.9, "damping": 1e-3},
    "si": {"damping": 0.1},
}.items():
    kinds = {"decay": PROBABILITY.but("none") if name == "ewc" else PROBABILITY, "alpha": PROBABILITY}
    call(f"regularizers.{name}.init", {"params": NET.params, "strength": 1.0, **own}, {n: k for n, k in kinds.items() if n in own})
call(
    "regularizers.ewc.consolidate",
    {"model": MODEL, "slot": "ewc", "labels": "true", "target": "class", "batch_size": 4, "samples": 8},
)
call("regularizers.mas.consolidate", {"model": MODEL, "slot": "mas", "batch_size": 4, "samples": 8})
call("regularizers.rwalk.consolidate", {"slot": "rwalk"})
call("regularizers.rwalk.score", {"slot": "rwalk", "interval": 3})
call("regularizers.rwalk.track", {"model": MODEL, "slot": "rwalk", "labels": "true", "target": "class", "batch_size": 4})
call("regularizers.si.consolidate", {"slot": "si"})
call("regularizers.importance.fisher", {"model": MODEL, "labels": "all", "target": "regression"})
call("regularizers.importance.sensitivity", {"model": MODEL})
call(
    "regularizers.importance.accumulate",
    {
        "measure": regularizers.importance.sensitivity(MODEL),
        "slot": "ewc",
        "kind": regularizers.EWC,
        "begin": lambda slot, params: slot,
        "add": lambda slot, params, part: slot,
        "batch_size": 4,
        "samples": 8,
    },
    {"measure": kind(bad=(MODEL.apply,)), "kind": kind("class"), "begin": FUNCTION, "add": FUNCTION},
)
call("regularizers.quadratic.loss", {"slot": "ewc"})
call("regularizers.quadratic.fields", {"params": NET.params, "strength": 1.0})
PART = {"0.weight": NET.params["0.weight"]}
call(
    "regularizers.quadratic.penalty",
    {"params": NET.params, "held": regularizers.ewc.init(NET.params, 1.0)},
    {
        "params": kind(bad=(PART, {**NET.params, "2.bias": torch.zeros(5)}, cl.tree.to(NET.params, "meta"))),
        "held": kind(bad=(NET, STATE.lwf)),
    },
)
call(
    "regularizers.path.train_step",
    {"loss": loss, "optimizer": SGD, "transforms": clip, "slot": "si"},
    {"transforms": FUNCTION},
    run=lambda loss, optimizer, transforms, slot: regularizers.path.train_step(loss, optimizer, transforms, slot=slot),
)
FEATURES = torch.zeros(8)
call(
    "classifiers.nearest_mean.init",
    {"n_classes": 4, "sample": FEATURES},
    {"sample": kind("tensor", "nan tensor", "integer tensor", "meta tensor")},
)
call(
    "classifiers.nearest_mean.of_memory",
    {"model": MODEL, "net": NET, "memory": STORED},
    {"net": kind("weights"), "memory": MEMORY},
)
call("classifiers.nearest_mean.insert", {"model": MODEL, "slot": "ncm"})
call(
    "classifiers.slda.init",
    {"n_classes": 4, "sample": FEATURES, "shrinkage": 1e-4},
    {
        "sample": kind("tensor", "nan tensor", "integer tensor", "meta tensor"),
        "shrinkage": dataclasses.replace(DECAY, fine=frozenset({"numpy float"})),
    },
)
call("classifiers.slda.insert", {"model": MODEL, "slot": "slda"})
call(
    "classifiers.bias_correction.init", {"n_classes": 4, "decay": 1e-3, "device": None}, {"decay": POSITIVE, "device": kind("none")}
)
ROWS, LABELLED = torch.zeros(len(EXP), 8), {"labels": EXP.y, "valid": EXP.valid}
LABELLED_ = {"labels": tensor(EXP.y), "valid": tensor(EXP.valid)}
FEATURES_ = tensor(ROWS, shapes=False, bad=(ROWS[:, :7], ROWS[0], ROWS[None]))
for name, made in (
    ("nearest_mean", classifiers.nearest_mean.init(4, FEATURES)),
    ("slda", classifiers.slda.init(4, FEATURES)),
):
    learnt = {"slot": kind(bad=(STATE,))}
    call(f"classifiers.{name}.logits", {"slot": made, "rows": ROWS}, {**learnt, "rows": FEATURES_})
    call(
        f"classifiers.{name}.add",
        {"slot": made, "rows": ROWS, **LABELLED},
        {**learnt, "rows": FEATURES_.but(bad=(ROWS[:5],)), **LABELLED_},
        {"rows": "rows|labels"},
    )
SAMPLE = kind("tensor", "nan tensor", bad=(FEATURES[None], FEATURES.long()))
call(
    "classifiers.acil.init",
    {"n_classes": 4, "sample": FEATURES, "key": KEY, "projection_size": 5, "ridge": 0.1},
    {"sample": SAMPLE},
)
call("classifiers.acil.insert", {"model": MODEL, "slot": "acil"})
call(
    "classifiers.ranpac.init",
    {"n_classes": 4, "sample": FEATURES, "key": KEY, "projection_size": 5, "ridge": 0.1, "choose_on": "all"},
    {"sample": SAMPLE, "ridge": POSITIVE.but("none"), "choose_on": choice("experience", "all")},
)
call("classifiers.ranpac.insert", {"model": MODEL, "slot": "ranpac", "validation": 0.2})
call("classifiers.ranpac.begin", {"slot": "ranpac"})
GAMMAS = {"gamma1": 1.0, "gamma2": 0.5, "tukey": 0.5}
call("classifiers.fecam.hyperparameters", GAMMAS)
call(
    "classifiers.fecam.init",
    {"n_classes": 4, "sample": FEATURES, **GAMMAS},
    {"sample": kind("tensor", "nan tensor", "integer tensor", "meta tensor")},
)
call("classifiers.fecam.insert", {"model": MODEL, "slot": "fecam"})
SLOTS = {
    "acil": classifiers.acil.init(4, FEATURES, KEY, 5),
    "fecam": classifiers.fecam.init(4, FEATURES),
    "ranpac": classifiers.ranpac.init(4, FEATURES, KEY, 5),
}
for name, made in SLOTS.items():
    learnt = {"slot": kind(bad=(STATE,))}
    call(f"classifiers.{name}.logits", {"slot": made, "rows": ROWS}, {**learnt, "rows": FEATURES_})
    held_, held_kind = ({"held": EXP.valid}, {"held": tensor(EXP.valid)}) if name == "ranpac" else ({}, {})
    call(
        f"classifiers.{name}.add",
        {"slot": made, "rows": ROWS, **LABELLED, **held_},
        {**learnt, "rows": FEATURES_.but(bad=(ROWS[:5],)), **LABELLED_, **held_kind},
        {"rows": "rows|labels"},
    )
for function in ("close", "choose_ridge", "solve"):
    call(f"classifiers.ranpac.{function}", {"slot": SLOTS["ranpac"]}, {"slot": kind(bad=(STATE,))})
call("classifiers.fecam.solve", {"slot": SLOTS["fecam"]}, {"slot": kind(bad=(STATE,))})
call(
    "classifiers.fecam.distances",
    {"classifier": classifiers.fecam.solve(SLOTS["fecam"]), "rows": ROWS},
    {"classifier": kind(bad=(STATE,)), "rows": FEATURES_},
)
call("classifiers.slda.solve", {"slot": classifiers.slda.init(4, FEATURES)}, {"slot": kind(bad=(STATE,))})
SOLVED = classifiers.slda.solve(classifiers.slda.init(4, FEATURES))
call("classifiers.linear.logits", {"slot": SOLVED, "rows": ROWS}, {"slot": kind(bad=(STATE,)), "rows": FEATURES_})
CORRECTION = {"slot": classifiers.bias_correction.init(4), "logits": LOGITS}
CORRECTION_ = {"slot": kind(bad=(STATE,)), "logits": tensor(LOGITS, shapes=False, bad=(LOGITS[:, :3], LOGITS[0]))}
call("classifiers.bias_correction.correct", CORRECTION, CORRECTION_)
call(
    "classifiers.bias_correction.fit",
    {**CORRECTION, **LABELLED, "old": CLASSES, "new": ~CLASSES},
    {**CORRECTION_, **LABELLED_, "old": tensor(CLASSES), "new": tensor(CLASSES)},
)

# -- plasticity
LAYERS = kind("none", bad=(("1",), ("0", "2"), (0,), (), "0"))
call("models.fresh_rows", {"model": MODEL})
call("plasticity.hidden_layers", {"model": MODEL, "layers": ("0",)}, {"layers": LAYERS})
call(
    "plasticity.continual_backprop",
    {
        "model": MODEL,
        "rate": 0.1,
        "maturity": 3,
        "utility": "random",
        "decay": 0.9,
        "keep_mean": True,
        "layers": ("0",),
        "slot": "cbp",
    },
    {
        "rate": PROBABILITY,
        "maturity": COUNT,
        "utility": choice("contribution", "adaptation"),
        "decay": DECAY,
        "keep_mean": FLAG,
        "layers": LAYERS,
    },
)
call(
    "plasticity.shrink_and_perturb",
    {"model": MODEL, "shrink": 0.5, "perturb": 0.1, "noise": "initial", "slot": "snp"},
    {"shrink": PROBABILITY, "perturb": NON_NEGATIVE, "noise": choice("initial", "normal")},
)
call("plasticity.l2_init", {"strength": 0.1, "slot": "l2_init"})
call("plasticity.spectral", {"strength": 0.1, "exponent": 2, "iterations": 1, "slot": "a"}, {"exponent": SIZE, "iterations": SIZE})
call(
    "plasticity.redo",
    {"model": MODEL, "threshold": 0.1, "every": 10, "layers": ("0",), "slot": "redo"},
    {"threshold": NON_NEGATIVE, "every": SIZE, "layers": LAYERS},
)
call(
    "plasticity.reset_head",
    {"model": MODEL, "to": "zero", "layers": ("2",)},
    {"to": choice("initial", "zero"), "layers": kind("none", bad=(("1",), ("2.weight ",), (2,), (), "2"))},
)
call(
    "plasticity.upgd",
    {"sigma": 0.1, "decay": 0.9, "scale": "local", "protect": True, "slot": "upgd"},
    {"sigma": NON_NEGATIVE, "decay": DECAY, "scale": choice("global", "local"), "protect": FLAG},
)
CBP = plasticity.continual_backprop(MODEL)
for name, made in {
    "continual_backprop": CBP,
    "redo": plasticity.redo(MODEL),
    "shrink_and_perturb": plasticity.shrink_and_perturb(MODEL),
    "l2_init": plasticity.l2_init(0.1),
    "spectral": plasticity.spectral(0.1),
    "upgd": plasticity.upgd(),
}.items():
    call(f"plasticity.{name}", {"net": NET}, {"net": kind("weights")}, run=made.init)
PART_ = FUNCTION.but("empty list")
call(
    "extend",
    {
        "strategy": STRATEGY,
        "loss": loss,
        "transform": clip,
        "before_step": update,
        "around_step": CBP,
        "after_step": update,
        "before": update,
        "after": update,
        "around_loss": lambda loss: loss,
        "slots": {"mine": cl.trace.init(2)},
    },
    {
        "strategy": STRATEGY_.but(bad=(cl.vmap(STRATEGY),)),
        **dict.fromkeys(("loss", "transform", "before_step", "after_step", "around_loss"), PART_),
        "slots": kind("none", "empty dict", bad=({"opt.lr": KEY}, {"l2": None}, {1: KEY})),
    }
    | {"around_step": kind("empty list", bad=(update,)), "before": PART_.but("strategy"), "after": PART_.but("strategy")},
)

# -- traces
TRACE = cl.trace.init(3)
call("trace.init", {"n": 3})
call(
    "trace.add",
    {"trace": TRACE, "value": SCALAR},
    {
        "trace": kind(bad=(STATE,)),
        "value": kind("scalar tensor", "key", bad=(SCALAR[None], SCALAR.to(torch.complex64), SCALAR.to("meta"))),
    },
)
call("trace.loss", {"loss": loss, "slot": "trace"})
call("trace.grad_norm", {"slot": "trace"})
call("trace.record", {"function": lambda s, e: SCALAR, "slot": "trace"}, {"function": FUNCTION})
call(
    "trace.probe",
    {"slots": "trace", "beside": probe},
    {"slots": kind("str"), "beside": FUNCTION.but("none")},
    run=lambda slots, beside: cl.trace.probe(slots, beside=beside),
)
call("trace.read", {"trace": TRACE}, {"trace": kind(bad=(STATE, cl.trace.Snapshot(values=TRACE.values, count=TRACE.count)))})

call("trace.online.measure", {"model": MODEL, "target": "class", "slot": "online"})
ONLINE = cl.trace.online.measure(MODEL)
call("trace.online.measure", {"net": STATE.model}, {"net": kind("weights")}, run=ONLINE.init)
call("trace.online.probe", {"slot": "online"})
MEASURED = registry.measured(KEY)
call(
    "trace.online.measure",
    {"state": MEASURED, "exp": EXP},
    says={"state": "state|path 'online'"},
    run=lambda state, exp: ONLINE(state, exp),
)
PREQUENTIAL = {"online_accuracy": torch.tensor([0.5, 0.6]), "online_mse": torch.ones(2), "online_rows": torch.tensor([10, 20])}
for name, bad in {"online_accuracy": "online_mse", "online_error": "online_accuracy"}.items():
    HISTORIES = kind(
        bad=(
            {bad: PREQUENTIAL[bad]},
            {**PREQUENTIAL, "online_rows": torch.tensor([20, 10])},
            {**PREQUENTIAL, "online_rows": torch.tensor([10.0, 20.0])},
            {**PREQUENTIAL, "online_rows": torch.tensor([10])},
            cl.tree.to(PREQUENTIAL, "meta"),
        )
    )
    call(f"metrics.{name}", {"history": PREQUENTIAL, "bin": 2}, {"history": HISTORIES, "bin": SIZE.but(bad=(3,))})

# -- probes
ON_ROWS = {"exp": EXPERIENCE.but("none"), "n": SIZE.but("none")}
for name in ("dead_units", "effective_rank", "stable_rank"):
    call(f"probes.{name}", {"model": MODEL, "exp": EXP, "n": 5}, ON_ROWS)
call("probes.dormant_units", {"model": MODEL, "exp": EXP, "threshold": 0.1, "n": 5}, {**ON_ROWS, "threshold": NON_NEGATIVE})
call("probes.gradient_norm", {"loss": loss, "exp": EXP, "n": 5}, ON_ROWS)
call("probes.hessian_top_eigenvalue", {"loss": loss, "exp": EXP, "iterations": 2, "n": 5}, {**ON_ROWS, "iterations": SIZE})
call("probes.join", {"probes": probe}, {"probes": FUNCTION}, run=lambda probes: cl.probes.join(cl.probes.weight_norm(), probes))
call("probes.on_test", {"make": lambda test: probe}, {"make": FUNCTION})
call("probes.join", {"named": probe}, {"named": FUNCTION}, run=lambda named: cl.probes.join(named=named))
call("probes.weight_norm", {"state": STATE}, run=lambda state: cl.probes.weight_norm()(state, None))
call(
    "probes.gradient_norm",
    {"state": STATE, "exp": EXP},
    run=lambda state, exp: cl.probes.gradient_norm(losses.cross_entropy(MODEL))(state, exp),
)

# -- files
call(
    "save",
    {"path": FOLDER / "saved", "tree": STATE},
    {
        "path": kind("str", bad=(FOLDER, FOLDER / "nowhere" / "state")),
        "tree": kind(*TENSORS, "state", "none", "empty list", "empty dict", bad=({"a": "b"},)),
    },
)
cl.save(FOLDER / "state", STATE)
call(
    "load",
    {"path": FOLDER / "state", "like": STATE},
    {"path": kind("str", bad=(FILE, FOLDER / "nowhere")), "like": kind("none", "state", bad=(RAN, OTHER))},
    {"path": "path|state|train-labels|nowhere|/", "like": "like|structure|leaf|leaves|path"},
)
call("taps.csv", {"path": FOLDER / "a.csv"}, {"path": kind("str")})
call("taps.json_lines", {"path": FOLDER / "a.jsonl"}, {"path": kind("str")})
call("taps.tensorboard", {"folder": FOLDER / "board"}, {"folder": kind("str")})
call(
    "taps.wandb",
    {"options": "project"},
    {"options": ANY.but(bad=("projekt", "time"))},
    run=with_trackers(lambda options: cl.taps.wandb(**{options: "mine"} if type(options) is str and len(options) > 3 else {})),
)
call(
    "taps.mlflow",
    {"experiment": "digits", "tracking_uri": None, "run_name": "er"},
    {"experiment": NAME, "tracking_uri": NAME.but("none"), "run_name": NAME.but("none")},
    run=with_trackers(cl.taps.mlflow),
)
call(
    "Checkpoint",
    {"folder": FOLDER / "points", "every": 2, "steps": None, "keep": 2, "on_change": "error"},
    {
        "folder": kind("str", bad=(FILE,)),
        "every": SIZE.but("none"),
        "steps": SIZE.but("none"),
        "keep": SIZE,
        "on_change": choice("error", "warn"),
    },
    {"every": "every|steps"},
)
call("taps.several", {"taps": print}, {"taps": FUNCTION}, run=lambda taps: cl.taps.several(print, taps))
call("taps.warn", {"tap": print}, {"tap": FUNCTION})

# Classes that factories fill, beside those of `@cl.state`; Python itself names a field that is missing or unknown.
RECORDS = {
    "core.Combinator",
    "losses.TargetLoss",
    "plots.Picture",
    "Grid",
    "Runs",
    "core.SkipEmpty",
    "core.Optimizer",
    "core.TrainStep",
    "memory.Memory",
    "regularizers.path.PathStep",
    "select.Chosen",
    "select.Halving",
    "select.Published",
    "select.Selection",
    "sources.Source",
    "sources.View",
    "models.CosineLinear",
    "regularizers.importance.Measure",
    "trace.online.Measure",
    "taps.Lines",
    "taps.MLflow",
    "taps.Several",
    "taps.TensorBoard",
    "taps.WandB",
    "probes.OnTest",
    "taps.Warned",
    "transforms.Compiled",
    "transforms.Vmapped",
}


def public() -> dict[str, Any]:
    """Every public callable once, by name: what the rooms export, and the public functions of modules without `__all__`."""
    found: dict[int, tuple[str, Any]] = {}

    def walk(prefix: str, room: Any, names: list[str]) -> None:
        for name in names:
            value = getattr(room, name)
            if isinstance(value, types.ModuleType):
                own = [
                    n
                    for n, v in vars(value).items()
                    if n[0] != "_" and callable(v) and getattr(v, "__module__", "") == value.__name__
                ]
                walk(f"{prefix}{name}.", value, getattr(value, "__all__", own))
            elif callable(value) and typing.get_origin(value) is None and value is not Any:  # no alias of a type
                found.setdefault(id(value), (prefix + name, value))

    walk("", cl, sorted(cl.__all__, key=lambda name: isinstance(getattr(cl, name), types.ModuleType)))
    return dict(found.values())
