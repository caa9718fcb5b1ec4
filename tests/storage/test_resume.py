"""A run is resumed if nothing that it is made of has changed; otherwise it is refused, naming the change."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import subprocess
import sys
import textwrap
import warnings

import pytest
import torch

import cl_func as cl
from cl_func.storage import files

CLASSES, MODEL = 4, cl.models.mlp(6, (8,), 4)


def dataset(flip=False, brighter=False):
    x, y = cl.random.normal(cl.key(5), (40, 6)), torch.arange(40) % CLASSES
    if flip:
        y[17] = (y[17] + 1) % CLASSES
    if brighter:
        x[3, 2] += 0.5
    return cl.Dataset(x, y)


def benchmark(n=4, data=None, order=None):
    data = dataset() if data is None else data
    return cl.streams.split_by_class(data, dataset(), n_experiences=n, class_order=order)


BENCH = benchmark()


@dataclasses.dataclass(frozen=True)
class Asked:
    """The arguments of a scan."""

    update: object
    start: object
    stream: object = BENCH.train
    probe: object = cl.evaluate(MODEL, BENCH.test)
    every: int = 1

    def __call__(self, folder, **options):
        checkpoint = {k: options.pop(k) for k in ("on_change", "steps", "keep") if k in options}
        keep = cl.Checkpoint(folder, **{"steps": 1, **checkpoint})
        return cl.scan(self.update, self.start, self.stream, self.probe, every=self.every, checkpoint=keep, **options)


def er(lr=0.05, **changes):
    asked = {"capacity": 6, "replay_size": 3, "batch_size": 4, **changes}
    return cl.strategies.er(MODEL, cl.optim.sgd(lr), **asked)


START = er().init(cl.key(0))


def asked(strategy=None, **changes):
    return Asked(**{"update": (strategy or er()).update, "start": START, **changes})


class Stop(Exception):  # noqa: N818 - not an error: whatever may stop a run
    pass


@contextlib.contextmanager
def dying(monkeypatch, writes):
    """The process is stopped after that many writes."""
    left, write = iter(range(writes)), files.write

    def stopped(*args):
        if next(left, None) is None:
            raise Stop
        write(*args)

    with monkeypatch.context() as m:
        m.setattr(files, "write", stopped)
        with pytest.raises(Stop):
            yield


def interrupted(run, folder, after=2, **options):
    """Start a run and stop it when it has been measured that many times."""

    def tap(time, entry):
        if time + 1 == after:
            raise Stop

    with pytest.raises(RuntimeError, match="Stop"):
        run(folder, tap=tap, **options)


# A user's functions, as scripts have them.

WEIGHT, SCALES = 0.5, {"bias": [1.0, 2.0]}


def scaled(logits):
    return logits * WEIGHT


def own_loss(constant=1.0, weights=(1.0, 2.0), function=None, array=None):
    def loss(params, state, exp):
        logits = MODEL.apply(params, state.model.buffers, exp.x)[0]
        logits = logits if function is None else function(logits)
        value = torch.nn.functional.cross_entropy(logits, exp.y) * constant * weights[1]
        return (value if array is None else value * array.sum()), state

    return loss


def other_code(params, state, exp):
    logits = MODEL.apply(params, state.model.buffers, exp.x)[0]
    return torch.nn.functional.cross_entropy(logits, exp.y) * 3.0, state


def own(loss=None, *transforms, **options):
    step = cl.train_step(loss or own_loss(), cl.optim.sgd(0.05), *transforms)
    update = cl.minibatches(step, **{"batch_size": 4, **options})
    model = MODEL.init(cl.key(0))
    return Asked(update, cl.Agent(key=cl.key(0), model=model, opt=cl.optim.sgd(0.05).init(model.params)))


class Scale:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, logits):
        return logits * self.factor


def clip(limit, grads, state, exp):
    return {name: g.clamp(-limit, limit) for name, g in grads.items()}, state


def measure(state, exp):
    return {"accuracy": state.opt.lr}


def other_measure(state, exp):
    return {"accuracy": state.opt.lr * 2}


def listed(bench):
    return list(bench.train)


partial = functools.partial
CHANGES = {
    "replay_size": (asked(), asked(er(replay_size=5)), r"update\.0\.\S*loss\.n: 3 -> 5"),
    "capacity": (asked(), asked(er(capacity=7), start=er(capacity=7).init(cl.key(0))), r"state\.replay\.\S+: .*6.* -> .*7"),
    "batch_size": (asked(), asked(er(batch_size=5)), "batch_size: 4 -> 5"),
    "optimiser": (asked(), asked(er(lr=0.1)), r"optimizer\.lr: 0\.05 -> 0\.1"),
    "first state": (asked(), asked(start=er().init(cl.key(1))), r"state\.key: other values"),
    "leaf of the state": (asked(), asked(start=cl.tree.set(START, {"opt.lr": 0.3})), r"state\.opt\.lr: other values"),
    "every": (asked(), asked(every=2), "every: 1 -> 2"),
    "no probe": (asked(), asked(probe=None), "probe"),
    "another probe": (asked(probe=measure), asked(probe=other_measure), "probe: .*measure -> .*other_measure"),
    "test stream": (asked(), asked(probe=cl.evaluate(MODEL, BENCH.test[:2])), r"probe\.stream\.length: 4 -> 2"),
    "a label": (asked(), asked(stream=benchmark(data=dataset(flip=True)).train), r"stream\.make\.data\.y: other values"),
    "an input": (asked(), asked(stream=benchmark(data=dataset(brighter=True)).train), r"stream\.make\.data\.x: other values"),
    "a label, listed": (
        asked(stream=listed(BENCH)),
        asked(stream=listed(benchmark(data=dataset(flip=True)))),
        "stream: other data",
    ),
    "order": (asked(), asked(stream=benchmark(order=[2, 1, 0, 3]).train), r"stream\.make\.\S*classes\.0: other values"),
    "order, sliced": (asked(), asked(stream=BENCH.train[::-1]), "stream: other experiences"),
    "order, listed": (asked(stream=listed(BENCH)), asked(stream=listed(BENCH)[::-1]), "stream: other rows"),
    "epochs": (own(), own(epochs=2), "epochs: 1 -> 2"),
    "another loss": (own(), own(other_code), "loss: .*loss.* -> .*other_code"),
    "a constant closed over": (own(), own(own_loss(constant=2.0)), r"loss\.constant: 1\.0 -> 2\.0"),
    "a list closed over": (own(), own(own_loss(weights=[1.0, 3.0])), r"loss\.weights: \(1\.0, 2\.0\) -> \[1\.0, 3\.0\]"),
    "an array closed over": (
        own(own_loss(array=torch.ones(3))),
        own(own_loss(array=torch.tensor([1.0, 1.0, 2.0]))),
        r"loss\.array: other values",
    ),
    "a function closed over": (
        own(own_loss(function=scaled)),
        own(own_loss(function=torch.relu)),
        r"loss\.function: .*scaled -> .*relu",
    ),
    "an object closed over": (
        own(own_loss(function=Scale(1.0))),
        own(own_loss(function=Scale(2.0))),
        r"function\.factor: 1\.0 -> 2\.0",
    ),
    "a lambda": (
        own(own_loss(function=lambda x: x * 2)),
        own(own_loss(function=lambda x: x * 3)),
        r"loss\.function: other code",
    ),
    "a partial": (own(None, partial(clip, 1.0)), own(None, partial(clip, 2.0)), r"transforms\.0\.limit: 1\.0 -> 2\.0"),
    "one transform more": (own(), own(None, partial(clip, 1.0)), r"transforms: \(\) -> tuple of 1"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_has_changed_is_refused_by_name(tmp_path, name):
    before, after, said = CHANGES[name]
    interrupted(before, tmp_path, after=1 if before.probe is None else 2)
    names = sorted(p.name for p in tmp_path.glob("checkpoint*"))
    with pytest.raises(ValueError, match=rf"(?s)holds another run.*{said}.*on_change='warn'"):
        after(tmp_path)
    assert sorted(p.name for p in tmp_path.glob("checkpoint*")) == names
    expected = cl.scan(before.update, before.start, before.stream, before.probe, every=before.every)
    assert cl.tree.difference(before(tmp_path), expected) is None  # the refused attempts have done no harm


def test_a_global_constant_is_seen(tmp_path, monkeypatch):
    for name, value, said in (("WEIGHT", 0.7, r"scaled\.WEIGHT: 0\.5 -> 0\.7"), ("scaled", torch.tanh, "function")):
        folder = tmp_path / name
        run = own(own_loss(function=scaled if name == "WEIGHT" else lambda x: scaled(x)))
        interrupted(run, folder)
        with monkeypatch.context() as m:
            m.setitem(globals(), name, value)
            with pytest.raises(ValueError, match=rf"(?s)holds another run.*{said}"):
                run(folder)


def test_to_insist_gives_a_warning(tmp_path):
    interrupted(asked(), tmp_path)
    with pytest.warns(UserWarning, match=r"holds another run.*n: 3 -> 5"):
        state, history = asked(er(replay_size=5))(tmp_path, on_change="warn")
    assert history["accuracy"].shape == (4, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = asked(er(replay_size=5))(tmp_path)  # from now on the folder belongs to the changed run
    assert cl.tree.equal(again, (state, history))


def test_to_insist_with_another_probe_is_told_before_training(tmp_path):
    calls = []

    def counting(state, exp):
        calls.append(1)
        return state

    update = cl.compose(er().update, counting)
    interrupted(asked(update=update, probe=measure), tmp_path)
    calls.clear()
    with (
        pytest.warns(UserWarning, match="holds another run"),
        pytest.raises(ValueError, match=r"probe: .*class_accuracy.*accuracy"),
    ):
        asked(update=update)(tmp_path, on_change="warn")
    assert not calls


# What does not count as a change


@cl.state
class Plain(cl.Agent):
    pass


def same_in_other_lines(constant=1.0, weights=(1.0, 2.0), function=None, array=None):
    """Another docstring, other lines, comments."""

    def loss(params, state, exp):
        """What is fitted."""
        logits = MODEL.apply(
            params,
            state.model.buffers,
            exp.x,
        )[0]
        logits = logits if function is None else function(logits)

        # As it was.
        value = (
            torch.nn.functional.cross_entropy(logits, exp.y)
            * constant
            * weights[1]
        )  # fmt: skip
        return (value if array is None else value * array.sum()), state

    return loss


def logged(log):
    def probe(state, exp):
        log.append(1)
        return {"lr": state.opt.lr}

    return probe


SAME = {
    "the same": (asked(), asked(), {}),
    "built again": (
        asked(),
        asked(er(), stream=benchmark().train, probe=cl.evaluate(cl.models.mlp(6, (8,), 4), benchmark().test)),
        {},
    ),
    "other lines": (own(), own(same_in_other_lines()), {}),
    "other keep and steps": (asked(), asked(), {"keep": 5, "steps": 3}),
    "nested compose": (
        asked(update=cl.compose(er().update, cl.optim.exponential_decay(0.9))),
        asked(update=cl.compose(cl.compose(*er().update.updates), cl.optim.exponential_decay(0.9))),
        {},
    ),
    "a log that grows": (own(), own(), {}),
    "watched": (asked(), asked(update=cl.check_finite(er().update)), {}),
}


@pytest.mark.parametrize("name", SAME)
def test_what_is_the_same_goes_on(tmp_path, name):
    before, after, options = SAME[name]
    if name == "a log that grows":
        before = after = dataclasses.replace(before, probe=logged([]))
    expected = cl.scan(before.update, before.start, before.stream, before.probe, every=before.every)
    interrupted(before, tmp_path)
    assert cl.tree.difference(after(tmp_path, **options), expected) is None


SCRIPT = """
    import sys
    import torch, cl_func as cl
    {above}
    CONSTANTS = {{"a", "b", "c", "d"}}
    SETTINGS = {{"weights": {{"x": 1.0, "y": 2.0}}, "names": frozenset(["p", "q", "r"])}}
    model = cl.models.from_module(lambda: torch.nn.Linear(6, 4), n_classes=4, input_shape=(6,))

    class Net:
        names = {{"u", "v", "w"}}
        def __call__(self, x):
            return x if "u" in self.names and "b" in CONSTANTS else -x

    def make(net, chosen):
        def loss(params, state, exp):
            x = net(exp.x){comment}
            value = torch.nn.functional.cross_entropy(model.apply(params, state.model.buffers, x)[0], exp.y)
            return value * SETTINGS["weights"]["y"] * (len(chosen) + (1 if "k" in {{"k", "l", "m"}} else 2)), state
        return loss

    bench = cl.testing.small_benchmark(n_experiences=4)
    strategy = cl.strategies.er(model, cl.optim.sgd(0.1), capacity=6, replay_size=3, batch_size=4)
    step = cl.train_step(make(Net(), {{"s", "t", "o"}}), cl.optim.sgd(0.1))
    update = cl.compose(cl.minibatches(step, batch_size=4, epochs={epochs}), strategy.update)
    if {stop}:
        def tap(time, entry):
            if time == 1:
                raise SystemExit(3)
    else:
        tap = None
    probe = cl.evaluate(model, bench.test)
    keep = cl.Checkpoint(sys.argv[1], steps=1)
    state, history = cl.scan(update, strategy.init(cl.key(0)), bench.train, probe, tap=tap, checkpoint=keep)
    print(history["loss"].double().sum().item().hex(), state.model.params["weight"].double().sum().item().hex())
    """


def script(folder, seed, **changes):
    text = textwrap.dedent(SCRIPT).format(**{"above": "", "comment": "", "stop": False, "epochs": 1, **changes})
    path = folder.parent / f"script{seed}.py"
    path.write_text(text)
    environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
    return subprocess.run([sys.executable, path, folder], capture_output=True, text=True, check=False, env=environment)


def test_in_another_process(tmp_path):
    """Other hash seeds and line numbers make no difference; a changed constant is named."""
    expected = script(tmp_path / "whole", 0)
    assert expected.returncode == 0, expected.stderr
    stopped = script(tmp_path / "stopped", 1, stop=True)
    assert stopped.returncode == 3, stopped.stderr
    refused = script(tmp_path / "stopped", 2, epochs=2)
    assert "holds another run" in refused.stderr
    assert "epochs: 1 -> 2" in refused.stderr
    moved = script(tmp_path / "stopped", 3, above="# above\n\n# all", comment="  # as it is")
    assert moved.returncode == 0, moved.stderr
    assert moved.stdout == expected.stdout


# Other lengths of the stream


def test_a_longer_stream_goes_on(tmp_path):
    for name, short, whole in (
        ("sliced", BENCH.train[:2], BENCH.train),
        ("listed", listed(BENCH)[:2], listed(BENCH)),
        ("stream", cl.experience.__globals__["stream"](listed(BENCH)[:2]), cl.experience.__globals__["stream"](listed(BENCH))),
        ("iterated", None, None),
    ):
        for every in (1, 2, 3):
            first, then = asked(stream=short, every=every), asked(stream=whole, every=every)
            if name == "iterated":
                first, then = asked(stream=iter(BENCH.train[:2]), every=every), asked(stream=iter(BENCH.train), every=every)
            expected = cl.scan(then.update, then.start, BENCH.train, then.probe, every=every)
            first(tmp_path / f"{name}{every}")
            assert cl.tree.difference(then(tmp_path / f"{name}{every}"), expected) is None


def test_a_longer_stream_in_a_log(tmp_path):
    for n in (1, 3, 4):
        asked(stream=BENCH.train[:n], every=2)(tmp_path, tap=cl.taps.csv(tmp_path / "log.csv"))
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in lines] == ["time", "0", "1"]


@pytest.mark.parametrize("kind", [lambda s: s, list, iter])
@pytest.mark.parametrize("within", [False, True])
def test_a_shorter_stream_is_told(tmp_path, kind, within):
    interrupted(asked(stream=kind(BENCH.train)), tmp_path, after=3)
    length = 2 if within else 1
    with pytest.raises(ValueError, match=rf"stream: .*has seen [23] experiences.*holds {length}"):
        asked(stream=kind(BENCH.train[:length]))(tmp_path)
    asked(stream=kind(BENCH.train))(tmp_path)
    with pytest.raises(ValueError, match=r"stream: .*has seen 4 experiences.*holds 3"):
        asked(stream=kind(BENCH.train[:3]))(tmp_path)


# Compiled or not


def stand_in(monkeypatch):
    """`cl.compile` fuses leaves as usual, but they run eagerly."""
    monkeypatch.setattr(cl.transforms, "_compiler_available", lambda: False)


@pytest.mark.parametrize(("first", "at"), [("eager", at) for at in range(1, 24)] + [("compiled", at) for at in range(1, 21)])
def test_compiled_and_eager_go_on_with_each_other(tmp_path, monkeypatch, at, first):
    """Neighbours that are compiled to one call are separate when eager, and a run may be stopped between them."""
    stand_in(monkeypatch)
    strategy = cl.strategies.er_lwf(MODEL, cl.optim.adam(1e-2), capacity=6, replay_size=4, batch_size=5)
    eager = cl.compose(
        strategy.update, cl.optim.exponential_decay(0.9), cl.minibatches(lambda s, e: s.replace(key=s.key + 1), batch_size=None)
    )
    updates = {"eager": eager, "compiled": cl.compile(eager)}
    start = strategy.init(cl.key(0))
    expected = cl.fold(eager, start, BENCH.train)
    with dying(monkeypatch, at):
        cl.fold(updates[first], start, BENCH.train, checkpoint=cl.Checkpoint(tmp_path, steps=1))
    other = updates["compiled" if first == "eager" else "eager"]
    assert cl.tree.difference(cl.fold(other, start, BENCH.train, checkpoint=cl.Checkpoint(tmp_path, steps=1)), expected) is None


# Other versions


def newest(folder):
    return sorted(folder.glob("checkpoint-*"))[-1]


def rewritten(folder, keep_older=False, **changes):
    """The newest checkpoint with another header and the right checksum for it."""
    path = newest(folder)
    tensors, header = files.read(path, "checkpoint")
    for name, value in changes.items():
        header[name] = value(header[name]) if callable(value) else value
    files.write(path, tensors, header)
    if not keep_older:
        for other in folder.glob("checkpoint-*"):
            if other != path:
                other.unlink()


def test_another_version_is_a_warning(tmp_path):
    interrupted(own(), tmp_path)
    rewritten(tmp_path, run=lambda run: run | {"version.torch": "1.0.0"})
    with pytest.warns(UserWarning, match=r"torch 1\.0\.0, now"):
        own()(tmp_path)


def test_code_of_another_python_is_not_compared(tmp_path):
    interrupted(own(), tmp_path)
    rewritten(
        tmp_path, run=lambda run: {k: "code #0" if v.startswith("code ") else v for k, v in run.items()} | {"version.python": "3.9"}
    )
    with pytest.warns(UserWarning, match=r"python 3\.9, now"):
        own()(tmp_path)


def test_a_checkpoint_of_an_earlier_kind_is_refused(tmp_path):
    interrupted(own(), tmp_path)
    rewritten(tmp_path, run="0123456789abcdef")
    with pytest.raises(ValueError, match=r"earlier version of cl_func.*folder of its own"):
        own()(tmp_path)


# Forged headers: right checksums, wrong contents

FORGED = {
    "seen": [-1, 2.0, "2", None, True, 1 << 70],
    "calls": [-1, 1.5, None, "x"],
    "finished": [1, None],
    "orders": [None, ["0"], [0, 0], [-1], [7], 3, {}],
    "columns": [None, 3, ["accuracy"], ["a", "a", "b"], [1, 2, 3]],
    "entries": [-1, 3, None, "1", 10**9],
    "strides": [
        None,
        {"model.params.0.weight": [1]},
        {"model.params.0.weight": [1, 10**9]},
        {"model.params.0.weight": [-1, 1]},
        {"x": "y"},
    ],
    "passed": [None, 3, {"rows": 4}],
    "run": [None, [], {"a": 3}],
    "outline": [None, 3],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in FORGED.items() for value in values])
def test_a_forged_header_is_a_damaged_file(tmp_path, name, value):
    expected = cl.scan(er().update, START, BENCH.train, asked().probe)
    interrupted(asked(), tmp_path, keep=3)
    rewritten(tmp_path, keep_older=True, **{name: value})
    with pytest.warns(UserWarning, match="passed over a damaged file"):
        assert cl.tree.difference(asked()(tmp_path), expected) is None


@pytest.mark.parametrize("missing", list(FORGED))
def test_a_header_without_a_field_is_a_damaged_file(tmp_path, missing):
    interrupted(asked(), tmp_path)
    path = newest(tmp_path)
    tensors, header = files.read(path, "checkpoint")
    del header[missing]
    files.write(path, tensors, header)
    with pytest.warns(UserWarning, match="passed over a damaged file"):
        asked()(tmp_path)


def test_more_calls_than_the_update_makes_are_refused(tmp_path):
    interrupted(asked(), tmp_path)
    rewritten(tmp_path, calls=10**9)
    with pytest.raises(files.DamagedFile, match=r"1000000000 calls .* makes \d+"):
        asked()(tmp_path)


# Sweeps

SWEEP = {"progress": False, "compile": False, "lanes": 2}


def sweep(folder=None, strategy=None, bench=BENCH, **options):
    return cl.sweep(strategy or er(), bench, **{"seeds": 2, **SWEEP, "resume": folder, **options})


def own_bench(data):
    return lambda key: cl.streams.split_by_class(data, data, n_experiences=2, key=key)


SWEEP_CHANGES = {
    "replay_size": ({}, {"strategy": er(replay_size=5)}, r"n: 3 -> 5"),
    "a label": ({}, {"bench": benchmark(data=dataset(flip=True))}, r"train\.make\.data\.y: other values"),
    "order": ({}, {"bench": benchmark(order=[3, 1, 2, 0])}, r"train\.make"),
    "length": ({}, {"bench": dataclasses.replace(BENCH, train=BENCH.train[:3])}, r"train\.length: 4 -> 3"),
    "test": ({}, {"bench": dataclasses.replace(BENCH, test=benchmark(2).test)}, r"test\.length: 4 -> 2"),
    "every": ({}, {"every": 2}, "every: 1 -> 2"),
    "probe": ({}, {"probe": measure}, "probe"),
    "first state": ({}, {"strategy": er(lr=0.1)}, r"state\.opt\.lr|optimizer\.lr: 0\.05 -> 0\.1"),
    "a stream per seed": ({"bench": own_bench(dataset())}, {"bench": own_bench(dataset(flip=True))}, r"data\.y: other values"),
}


@pytest.mark.parametrize("name", SWEEP_CHANGES)
@pytest.mark.parametrize("how", ["resume", "checkpoint"])
def test_a_changed_sweep_is_refused_by_name(tmp_path, name, how):
    before, after, said = SWEEP_CHANGES[name]
    options = {"resume": tmp_path} if how == "resume" else {"resume": None, "checkpoint": cl.Checkpoint(tmp_path)}
    sweep(**before, **options)
    with pytest.raises(ValueError, match=rf"(?s)holds another sweep.*{said}.*on_change='warn'"):
        sweep(**after, **options)


def test_to_insist_on_a_sweep(tmp_path):
    sweep(tmp_path)
    with pytest.warns(UserWarning, match="holds another sweep"):
        runs = sweep(tmp_path, er(replay_size=5), seeds=3, on_change="warn")
    assert bool(runs.finished.all())
    with pytest.warns(UserWarning, match="holds another sweep"), pytest.raises(ValueError, match=r"probe: .*do not fit together"):
        sweep(tmp_path, seeds=4, probe=measure, on_change="warn")


def test_to_insist_does_not_make_old_runs_those_of_the_new_code(tmp_path):
    """The folder then holds runs of both: later calls without insisting were given the mixture without a word."""
    sweep(tmp_path, seeds=2)
    with pytest.warns(UserWarning, match="another sweep"):
        sweep(tmp_path, er(replay_size=5), seeds=3, on_change="warn")
    with pytest.raises(ValueError, match="another sweep"):
        sweep(tmp_path, er(replay_size=5), seeds=3)
    sweep(tmp_path, seeds=2)


def test_seeds_and_points_are_added_and_left_out(tmp_path):
    done = []

    def probe(state, exp):
        done.append(1)
        return {"key": state.key, "lr": state.opt.lr}

    def points(rates, seeds, folder=tmp_path, **options):
        done.clear()
        options = {"resume": folder, **options}
        return sweep(**options, hparams=cl.grid({"opt.lr": rates}), seeds=seeds, probe=probe, lanes=1)

    for rates, seeds, new in (
        ([0.1], 2, 2),
        ([0.1], [3, 0, 1], 1),
        ([0.3, 0.1, 0.2], [1, 0], 4),
        ([0.2], [0], 0),
        ([0.1, 0.2, 0.3], [0, 1, 2, 3], 12 - 7),
    ):
        runs = points(rates, seeds)
        assert len(done) == 4 * new
        expected = points(rates, seeds, None)
        assert cl.tree.difference(runs.history, expected.history) is None
        assert runs.axes == expected.axes
    added = sweep(tmp_path, hparams=cl.grid({"opt.lr": [0.1], "opt.weight_decay": [0.5]}), seeds=1, probe=probe, lanes=1)
    assert added.finished.all()


def test_seeds_are_added_to_interrupted_sweeps(tmp_path, monkeypatch):
    """Of the interrupted runs those that are asked for resume, in any order."""
    keep = cl.Checkpoint(tmp_path, steps=2)
    with dying(monkeypatch, 9):
        sweep(seeds=3, checkpoint=keep)
    assert list(tmp_path.glob("partial-*"))
    runs = sweep(seeds=[7, 2, 1, 0], checkpoint=keep)
    assert cl.tree.difference(runs.history, sweep(seeds=[7, 2, 1, 0]).history) is None
    assert not list(tmp_path.glob("partial-*"))


@pytest.mark.parametrize("at", range(2, 22))
@pytest.mark.parametrize("compiled", [True, False])
def test_a_sweep_goes_on_compiled_or_not(tmp_path, monkeypatch, at, compiled):
    """compile="auto" may choose either; no function is left out because compiled neighbours are one call."""
    stand_in(monkeypatch)
    update = cl.compose(er().update, cl.optim.exponential_decay(0.5), cl.optim.exponential_decay(0.9))
    strategy, keep = dataclasses.replace(er(), update=update), cl.Checkpoint(tmp_path, steps=1)
    with dying(monkeypatch, at):
        sweep(None, strategy, checkpoint=keep, compile=compiled)
    runs = sweep(None, strategy, checkpoint=keep, compile=not compiled)
    assert cl.tree.difference(runs.history, sweep(None, strategy).history) is None


def test_a_sweep_that_another_python_began_is_told_each_time(tmp_path):
    """Its code cannot be compared. The record became that of the new code, and nobody was told from then on."""
    sweep(tmp_path, probe=measure)
    plan = tmp_path / "sweep.json"
    record = json.loads(plan.read_bytes())
    name = f"code.{measure.__module__}.measure"
    record["run"] |= {"version.python": "3.0", name: f"{record['run'][name].partition(' #')[0]} #0123456789abcdef"}
    plan.write_text(json.dumps(record))
    for _ in range(2):
        with pytest.warns(UserWarning, match="begun with python 3.0, now .* code of your functions .* is not compared"):
            sweep(tmp_path, probe=measure)
        assert json.loads(plan.read_bytes()) == record
    with pytest.warns(UserWarning, match="begun with python"), pytest.raises(ValueError, match=r"n: 3 -> 5"):
        sweep(tmp_path, er(replay_size=5), probe=measure)


def test_a_sweep_of_another_torch_is_told_once(tmp_path):
    sweep(tmp_path)
    plan = tmp_path / "sweep.json"
    whole = json.loads(plan.read_bytes())
    plan.write_text(json.dumps({**whole, "run": {**whole["run"], "version.torch": "0.1"}}))
    with pytest.warns(UserWarning, match=r"begun with torch 0\.1, now .*\. Last digits may differ") as caught:
        sweep(tmp_path)
    assert not any("not compared" in str(one.message) for one in caught)
    assert json.loads(plan.read_bytes()) == whole


def test_a_sweep_under_autocast_is_another(tmp_path):
    sweep(tmp_path)
    with torch.autocast("cpu"), pytest.raises(ValueError, match=r"torch\.autocast\.cpu: not there before"):
        sweep(tmp_path)


@pytest.mark.parametrize("content", [b"\xff\xfe{}", b"", b"nothing", b"[]", b'{"run": 3}', b'{"run": {"a": 1}}'])
def test_a_damaged_sweep_file_is_told(tmp_path, content):
    sweep(tmp_path)
    (tmp_path / "sweep.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"resume: .*sweep\.json is damaged"):
        sweep(tmp_path)


def test_a_sweep_of_an_earlier_kind_is_refused(tmp_path):
    (tmp_path / "sweep.json").write_text('{"axes": {"seed": [0, 1]}, "fingerprint": "0123456789abcdef"}')
    with pytest.raises(ValueError, match=r"earlier version of cl_func.*folder of its own"):
        sweep(tmp_path)


@pytest.mark.parametrize(
    "forge",
    [
        lambda tensors, header: header.pop("runs"),
        lambda tensors, header: header.update(runs=3),
        lambda tensors, header: header.update(runs=[1, 2]),
        lambda tensors, header: header.update(runs=header["runs"][:1]),
        lambda tensors, header: header.update(runs=header["runs"][:1] * 2),
        lambda tensors, header: tensors.update(nothing=torch.zeros(1)),
        lambda tensors, header: tensors.pop("0.loss"),
    ],
)
def test_a_forged_chunk_is_run_again(tmp_path, forge):
    expected = sweep(tmp_path)
    path = next(iter(tmp_path.glob("chunk-*")))
    tensors, header = files.read(path, "chunk")
    forge(tensors, header)
    files.write(path, tensors, header)
    with pytest.warns(UserWarning, match="its runs are run again"):
        assert cl.tree.equal(sweep(tmp_path).history, expected.history)


@pytest.mark.parametrize(
    "forge",
    [
        lambda tensors, header: header.pop("runs"),
        lambda tensors, header: header.update(runs=[1]),
        lambda tensors, header: header.update(runs=header["runs"] * 3),
        lambda tensors, header: header.update(lanes=0),
        lambda tensors, header: header.update(lanes=5),
        lambda tensors, header: header.update(lanes="2"),
        lambda tensors, header: header.update(seen="2"),
    ],
)
def test_a_forged_partial_run_is_run_again(tmp_path, forge, monkeypatch):
    keep = cl.Checkpoint(tmp_path, steps=1, keep=1)
    with dying(monkeypatch, 4):
        sweep(checkpoint=keep)
    path = next(iter(tmp_path.glob("partial-*/checkpoint-*")))
    tensors, header = files.read(path, "checkpoint")
    forge(tensors, header)
    files.write(path, tensors, header)
    with pytest.warns(UserWarning, match="passed over a damaged file"):
        assert cl.tree.equal(sweep(checkpoint=keep).history, sweep().history)


@pytest.mark.parametrize("content", [b"\xff", b"[", b"3", b'"x"'])
def test_a_damaged_list_of_runs_does_not_matter(tmp_path, content):
    (tmp_path / "partial-000000-00000000").mkdir()
    (tmp_path / "partial-000000-00000000" / "runs.json").write_bytes(content)
    assert sweep(tmp_path).finished.all()


def test_an_interrupt_before_any_run_is_finished_goes_on():
    def probe(state, exp):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(probe=probe)
