"""Fingerprints: the same for equal values, however they were made; different, naming the part, for others."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import importlib
import logging
import os
import shutil
import subprocess
import sys
import threading
import types

import numpy as np
import pytest
import registry
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

import cl_func as cl
from cl_func.sources import dataset
from cl_func.storage import codes, fingerprint, resuming


def changes(before, now):
    return resuming.changes(fingerprint.of(x=before), fingerprint.of(x=now))


# The law

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.binary(max_size=3)
TENSORS = st.lists(st.floats(-1, 1, width=32), max_size=3).map(torch.tensor)
VALUES = st.recursive(
    LEAVES | TENSORS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
        | st.frozensets(LEAVES, max_size=3)
    ),
    max_leaves=8,
)


def said(value):
    """A value in full, for comparison."""
    if isinstance(value, torch.Tensor):
        return ("tensor", repr(value.tolist()))  # not by ==, for which 0.0 is -0.0
    if isinstance(value, dict):
        return ("dict", [(repr(k), said(v)) for k, v in value.items()])
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, [said(v) for v in value])
    return ("set", sorted(map(repr, value))) if isinstance(value, frozenset) else (type(value).__name__, repr(value))


def closing_over(value):
    def loss(params, state, exp):
        return value

    return loss


@examples(max_examples=150, deadline=None, database=None)
@given(a=VALUES, b=VALUES)
def test_equal_values_and_no_others_have_one_fingerprint(a, b):
    assert changes(closing_over(a), closing_over(copy.deepcopy(a))) == []
    found = changes(closing_over(a), closing_over(b))
    assert (found == []) == (said(a) == said(b))
    assert all(path.startswith("x.value") for path in found)


# Functions


def module_of(text):
    """The text as a module of the user's own."""
    made = types.ModuleType("mine")
    exec(compile(text, "mine.py", "exec"), made.__dict__)
    return made


FUNCTION = """
def f(x, y=1, *, z=2):
    for i in range(3):
        try:
            x = x + {}
        except ValueError:
            pass
    return x
"""


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (FUNCTION.format(1), "\n\n# moved\n" + FUNCTION.format(1).replace("\n        try", "\n\n        # said\n        try")),
        ("def f(x):\n    return x + 1", 'def f(x):\n    "Documented."\n    return (\n        x\n        + 1\n    )'),
        ("def f(x):\n    'One.'\n    return 'b'", "def f(x):\n    'Two.'\n    return 'b'"),
        (
            "def f(x):\n    def g():\n        'One.'\n        return x\n    return g",
            "def f(x):\n    def g(): return x\n    return g",
        ),
        ("def f(x: int) -> int:\n    return x", "def f(x):\n    return x"),
        ("other = 3\ndef f(x):\n    return x", "def f(x):\n    return x"),
        (
            "def f(x):\n    try:\n        if x:\n            pass\n        return x()\n    except ValueError:\n        pass",
            "def f(x):\n    try:\n        if x: pass\n        return x()\n    except ValueError: pass",
        ),
        ("def f(x):\n    while True:\n        x += 1", "def f(x):\n    while True: x += 1"),
    ],
)
def test_what_does_the_same_is_the_same(a, b):
    assert changes(module_of(a).f, module_of(b).f) == []


@pytest.mark.parametrize(
    ("a", "b", "path"),
    [
        (FUNCTION.format(1), FUNCTION.format(2), "code.mine.f: other code"),
        (
            "def f(x):\n    try:\n        x()\n        x(1)\n    except ValueError:\n        pass",
            "def f(x):\n    x()\n    try:\n        x(1)\n    except ValueError:\n        pass",
            "code.mine.f: other code",
        ),
        (FUNCTION.format(1), FUNCTION.format(1.0), "code.mine.f: other code"),
        (FUNCTION.format(1), FUNCTION.format(1).replace("y=1", "y=3"), "code.mine.f.y: 1 -> 3"),
        (FUNCTION.format(1), FUNCTION.format(1).replace("z=2", "z=3"), "code.mine.f.z: 2 -> 3"),
        (FUNCTION.format(1), FUNCTION.format(1).replace("range", "reversed"), "code.mine.f: other code"),
        ("def f(x):\n    return x in {'a', 'b'}", "def f(x):\n    return x in {'a', 'c'}", "code.mine.f: other code"),
        ("n = 3\ndef f(x):\n    return x + n", "n = 4\ndef f(x):\n    return x + n", "code.mine.f.n: 3 -> 4"),
        ("def g(): return 1\ndef f(x):\n    return g()", "def g(): return 2\ndef f(x):\n    return g()", "code.mine.g: other code"),
        ("def f(x):\n    return [y + 1 for y in x]", "def f(x):\n    return [y + 2 for y in x]", "code.mine.f: other code"),
        ("n = 3\ndef f(x):\n    return lambda: n", "n = 4\ndef f(x):\n    return lambda: n", "code.mine.f.n: 3 -> 4"),
        (
            "class A:\n    def g(self): return 1\ndef f(x):\n    return A().g()",
            "class A:\n    def g(self): return 2\ndef f(x):\n    return A().g()",
            "code.mine.A.g: other code",
        ),
        (
            "class A:\n    n = 1\nclass B(A):\n    @property\n    def g(self): return self.n\ndef f(x):\n    return B().g",
            "class A:\n    n = 2\nclass B(A):\n    @property\n    def g(self): return self.n\ndef f(x):\n    return B().g",
            "code.mine.A.n: 1 -> 2",
        ),
        (
            "class B:\n    @staticmethod\n    def g(): return 1\ndef f(x):\n    return B.g()",
            "class B:\n    @staticmethod\n    def g(): return 2\ndef f(x):\n    return B.g()",
            "code.mine.B.g: other code",
        ),
    ],
)
def test_what_does_something_else_is_named(monkeypatch, a, b, path):
    modules = [module_of(text) for text in (a, b)]
    found = []
    for made in modules:
        monkeypatch.setitem(sys.modules, "mine", made)
        found.append(fingerprint.of(x=made.f))
    assert resuming.changes(*found) == [path]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("@dataclass(slots=True)\nclass C:\n    k: float = V\ndef f(x): return x * C().k", "C.default of k: 1.5 -> 2.5"),
        (
            "@dataclass\nclass C:\n    k: list = field(default_factory=lambda: [V])\ndef f(x): return C().k",
            "C.default of k.V: 1.5 -> 2.5",
        ),
        ("class M(type):\n    k = V\nclass C(metaclass=M): pass\ndef f(x): return C.k", "M.k: 1.5 -> 2.5"),
        ("class C(dict):\n    def __missing__(self, key): return V\nc = C()\ndef f(x): return c[x]", "C.__missing__.V: 1.5 -> 2.5"),
        ("class C(float):\n    def g(self): return V\nc = C(1)\ndef f(x): return c.g()", "C.g.V: 1.5 -> 2.5"),
        ("class C(tuple):\n    def g(self): return V\nc = C()\ndef f(x): return c.g()", "C.g.V: 1.5 -> 2.5"),
        ("c = defaultdict(lambda: V)\ndef f(x): return c[x]", "f.c.default_factory.V: 1.5 -> 2.5"),
    ],
)
def test_what_is_no_attribute_of_a_class_counts_too(monkeypatch, text, path):
    start = "from collections import defaultdict\nfrom dataclasses import dataclass, field\nV = "
    found = []
    for value in (1.5, 2.5):
        made = types.ModuleType("mine")
        monkeypatch.setitem(sys.modules, "mine", made)
        exec(f"{start}{value}\n{text}", vars(made))
        found.append(fingerprint.of(x=made.f))
    assert resuming.changes(*found) == [f"code.mine.{path}"]


def test_of_a_module_what_is_used_counts():
    """With `import helpers` and `helpers.loss(...)` only that function of the module counts, not its neighbours."""

    def using(helpers):
        exec_globals = {"helpers": helpers, "__name__": "mine"}
        exec("def f(x):\n    return helpers.loss(x) + helpers.settings.rate", exec_globals)
        return exec_globals["f"]

    def helpers(loss="return 1", rate=0.1, other=1):
        made = module_of(
            f"import types\nother = {other}\ndef loss(x):\n    {loss}\nsettings = types.SimpleNamespace(rate={rate}, seed={other})"
        )
        made.__name__ = "helpers"
        return made

    assert changes(using(helpers()), using(helpers(other=2))) == []
    assert changes(using(helpers()), using(helpers(loss="return 2"))) == ["code.helpers.loss: other code"]
    assert changes(using(helpers()), using(helpers(rate=0.2))) == ["code.mine.f.helpers.settings.rate: 0.1 -> 0.2"]


IMPORTING = {
    "a function": "def f(x):\n    from helpers import loss\n    return loss(x)",
    "a constant, by an attribute": "def f(x):\n    import helpers\n    return x * helpers.rate",
    "under another name": "def f(x):\n    import helpers as h\n    def g(): return h.loss(x)\n    return g()",
    "of a package": "def f(x):\n    import pack.inner\n    return pack.inner.loss(x)",
    "of a package, under another name": "def f(x):\n    import pack.inner as inner\n    return inner.loss(x)",
    "a submodule": "def f(x):\n    from pack import inner\n    return inner.loss(x)",
    "in an inner function": "def f(x):\n    def g():\n        from pack.inner import loss\n        return loss(x)\n    return g()",
    "relative": "__package__ = 'pack'\ndef f(x):\n    from .inner import loss\n    return loss(x)",
    "whole, by text": "def f(x):\n    import helpers\n    return getattr(helpers, 'loss')(x)",
    "whole, of the module": "import helpers\ndef f(x):\n    return getattr(helpers, 'loss')(x)",
}


@pytest.mark.parametrize("text", IMPORTING.values(), ids=IMPORTING)
def test_what_is_imported_while_a_function_runs_counts(text, tmp_path, monkeypatch):
    """It changed unseen, and a folder gave back the runs of the old code."""
    monkeypatch.syspath_prepend(str(tmp_path))
    found = []
    for factor in (1, 1, 2):
        for name in ("helpers", "pack", "pack.inner"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / "pack").mkdir(exist_ok=True)
        (tmp_path / "pack" / "__init__.py").write_text("")
        for file in ("helpers.py", "pack/inner.py"):
            (tmp_path / file).write_text(f"rate = {factor}\n\ndef loss(x):\n    return x * {factor:.1f}\n")
        importlib.invalidate_caches()
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        shutil.rmtree(tmp_path / "pack" / "__pycache__", ignore_errors=True)
        found.append(fingerprint.of(x=module_of(text).f))
        for name in ("helpers", "pack", "pack.inner"):
            monkeypatch.delitem(sys.modules, name, raising=False)
    assert resuming.changes(*found[:2]) == []
    assert resuming.changes(*found[1:]) != []


def test_an_import_of_a_library_or_of_nothing_is_no_error():
    code = "def f(x):\n    import json, cl_func.metrics\n    from scipy import stats\n    return json.dumps(x), stats"
    assert "import" not in str(fingerprint.of(x=module_of(code).f)).replace("imported", "")
    missing = "def f(x):\n    try:\n        import not_there_at_all\n    except ImportError:\n        return x"
    assert "ModuleNotFoundError on import" in fingerprint.of(x=module_of(missing).f).values()


def test_of_parsed_arguments_what_is_used_counts():
    """A script that is started with --resume the second time is the same script."""

    def step(args):
        return lambda state, exp: state * args.rate

    first = argparse.Namespace(rate=0.1, resume=False)
    assert changes(step(first), step(argparse.Namespace(rate=0.1, resume=True))) == []
    assert changes(step(first), step(argparse.Namespace(rate=0.2, resume=False))) == ["x.args.rate: 0.1 -> 0.2"]


def test_a_log_is_no_part_of_a_function():
    def probe(log, table):
        def f(state, exp):
            log.append(1)
            return table.get(1), len(table)

        return f

    assert changes(probe([], {}), probe([1, 2], {})) == []
    assert changes(probe([], {}), probe([], {1: 2})) == ["x.table: {} -> {1: 2}"]


def test_compiled_vmapped_and_watched_are_the_same():
    model = cl.models.mlp(6, (8,), 4)
    update = cl.strategies.er_lwf(model, cl.optim.adam(1e-2), capacity=6, replay_size=4, batch_size=5).update
    update = cl.compose(update, cl.optim.exponential_decay(0.9), cl.at("opt", cl.compose(lambda s, e: s, lambda s, e: s)))
    expected = fingerprint.of(x=update)
    assert len(expected) > 40
    for other in (cl.compile(update), cl.compile(cl.vmap(update)), cl.vmap(cl.compile(update)), cl.check_finite(update)):
        assert fingerprint.of(x=other) == expected
    for one in (lambda s, e: s, cl.minibatches(lambda s, e: s, batch_size=None)):
        assert fingerprint.of(x=cl.compile(one)) == fingerprint.of(x=one)


# Objects


@dataclasses.dataclass
class Settings:
    rate: float
    table: object = None


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a):
        self.a = a


class Own:
    def __init__(self, value, lock=None):
        self.value, self.lock = value, lock

    def __call__(self, state, exp):
        return state

    def method(self, state, exp):
        return state


@pytest.mark.parametrize(
    ("a", "b", "path"),
    [
        (Settings(1.0), Settings(2.0), "x.rate: 1.0 -> 2.0"),
        (Settings(1.0, Own(1)), Settings(1.0, Own(2)), "x.table.value: 1 -> 2"),
        (Slotted(1), Slotted(2), "x.a: 1 -> 2"),
        (Own(1).method, Own(2).method, "x.value: 1 -> 2"),
        (functools.partial(max, 1), functools.partial(max, 2), "x.0: 1 -> 2"),
        (np.arange(3), np.arange(1, 4), "x: other values"),
        (np.array([None, 1]), np.array([None, 2]), "x: [None, 1] -> [None, 2]"),
        (np.float32(1), np.float32(2), "x: float32 1.0 -> float32 2.0"),
        (np.random.default_rng(0), np.random.default_rng(1), None),
        (torch.arange(3).bfloat16(), torch.ones(3).bfloat16(), "x: other values"),
        (torch.ones(2, dtype=torch.complex64).conj(), torch.ones(2, dtype=torch.complex64) * 1j, "x: other values"),
        (torch.eye(2).to_sparse(), torch.zeros(2, 2).to_sparse(), "x: other values"),
        (torch.zeros(2, device="meta"), torch.zeros(3, device="meta"), "x: float32[2] -> float32[3]"),
        (torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False), "x._parameters.weight: other values"),
        ({1, 2, 3}, {1, 2, 4}, "x: other values"),
        ({Own: 1}, {Settings: 1}, None),
        (torch.relu, torch.tanh, "x: torch._VariableFunctionsClass.relu -> torch._VariableFunctionsClass.tanh"),
        (np.add, np.multiply, "x.name: 'add' -> 'multiply'"),
        ("a" * 100 + "b", "a" * 100 + "c", "x: other values"),
        ([1] * 100, [1] * 101, "x: other values"),
        ([Own(i) for i in range(2000)], [Own(i) for i in range(1, 2001)], "x: other values"),
        (Own(1, threading.Lock()), Own(1), "x: tests.Own (not looked into) -> tests.Own"),
    ],
)
def test_of_objects_what_differs_is_named(a, b, path):
    found = changes(a, b)
    assert len(found) >= 1
    if path is not None:
        assert found[0] == path.replace("tests.", f"{__name__}.")
    assert changes(a, a) == []


def test_what_cannot_be_looked_into_goes_by_its_type(tmp_path):
    with open(tmp_path / "a", "w") as a, open(tmp_path / "b", "w") as b:
        for one, other in (
            (a, b),
            (iter([1]), iter([2])),
            ((i for i in [1]), (i for i in [2])),
            (threading.Lock(), threading.Lock()),
            (Own(1, threading.Lock()), Own(2, threading.Lock())),
        ):
            assert changes(one, other) == []
    assert changes(logging.getLogger("a"), logging.getLogger("b")) == ["x.name: 'a' -> 'b'"]


def test_what_was_used_is_not_used_up():
    values = iter([1, 2])
    fingerprint.of(x=closing_over(values))
    assert list(values) == [1, 2]


def test_circles_and_depths_end():
    circle: list = [1]
    circle.append(circle)
    own = Own(None)
    own.value = own
    deep = shallow = 1
    for _ in range(5000):
        deep = [deep, 1]

    def recursive(n):
        return recursive(n - 1)

    for value in (circle, own, deep, recursive):
        assert fingerprint.of(x=value) == fingerprint.of(x=value)
    assert changes(circle, [1, shallow]) != []


def test_many_paths_to_one_object_are_looked_at_once():
    """Without remembering what it has seen, this would take 2**40 steps."""
    value: list = [torch.ones(1)]
    for _ in range(30):
        value = [value, value]
    assert len(fingerprint.of(x=value)) < 2 * fingerprint.MOST


def test_a_compiler_around_a_function_goes_by_the_function():
    def f(x):
        return x + 1

    def g(x):
        return x + 2

    assert changes(torch.compile(f), torch.compile(f)) == []
    assert changes(torch.compile(f), torch.compile(g)) != []
    assert len(fingerprint.of(x=torch.compile(f))) < 100


def test_codes_tell_what_names_are_used_for():
    def f(x):
        log.append(x)
        return [args.items for _ in x] + settings.a.b, (lambda: settings.c(log))()

    assert codes.uses(f.__code__) == {
        "log": {("append",), ()},
        "args": {("items",)},
        "settings": {("a", "b"), ("c",)},
    }


ALL = """
import hashlib
import registry
from cl_func.storage import fingerprint
for i, case in enumerate(registry.ALL):
    found = fingerprint.of(x=case.make())
    print(i, case.name, len(found), hashlib.sha256(repr(found).encode()).hexdigest())
"""


def test_every_component_has_one_fingerprint_in_every_process():
    """It does not depend on hash seeds, addresses in memory or what was done before."""
    said = []
    for seed, before in ((1, ""), (2, "taken = [object() for _ in range(10**5)]\n")):
        environment = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", before + ALL]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.splitlines())
    assert said[0] == said[1]
    assert len(said[0]) == len(registry.ALL)


# Data


def test_a_data_set_is_hashed_once(monkeypatch):
    counted, digest = [], dataset.digest
    monkeypatch.setattr(dataset, "digest", lambda values: counted.append(1) or digest(values))
    data = cl.Dataset(torch.rand(8, 3), torch.arange(8) % 2, torch.zeros(8, dtype=torch.int64))
    bench = cl.streams.permuted(dataclasses.replace(data, task=None), cl.Dataset(data.x, data.y), 3, key=cl.key(0))
    fingerprint.of(a=data, b=bench)
    assert len(counted) == 3 + 2 + 2  # not once for each view of it
    fingerprint.of(a=[data, data], b=bench.train)
    assert len(counted) == 7
    assert set(data.digests) == {"x", "y", "task"}
    other = cl.tree.replace(data, x=data.x + 1)
    assert other.digests["x"] != data.digests["x"]
    assert other.digests["y"] == data.digests["y"]
    assert cl.tree.map(lambda leaf: leaf, data).digests == data.digests
    assert cl.Dataset(data.x.T.contiguous().T, data.y, data.task).digests == data.digests  # values, not layouts


@pytest.mark.parametrize("n", [0, 1, 3, 7])
def test_seen_experiences_have_one_digest_however_they_were_counted(n):
    bench = cl.testing.small_benchmark(n_experiences=4)
    for stream in (bench.train, list(bench.train), bench.train[::2], cl.streams.split_online(bench, 4).train):
        steps = resuming.SeenExperiences(stream)
        for i in range(n):
            steps.first(i)
        assert steps.first(n) == resuming.SeenExperiences(stream).first(n)
        whole = resuming.SeenExperiences(stream).first(len(stream))
        assert steps.differences(whole, len(stream)) == []
        assert resuming.SeenExperiences(stream[::-1]).differences(whole, len(stream)) != []


log = args = settings = None  # what `test_codes_tell_what_names_are_used_for` names
