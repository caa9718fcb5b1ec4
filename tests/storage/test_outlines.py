"""States whose fields are filled during the run, and memory layouts, come back from checkpoints as they were."""

from __future__ import annotations

import contextlib
import json

import pytest
import torch
from torch import Tensor, nn

import cl_func as cl
from cl_func.storage import files, outlines

BENCH = cl.testing.small_benchmark()


@cl.state
class Average:
    """What an update keeps beside the network."""

    of: dict
    unused: Tensor | None = None
    power: int = cl.tree.static(default=3)
    words: tuple = cl.tree.static(default=("a", 1))


@cl.state
class Filling(cl.Agent):
    counts: Tensor | None = None
    average: Average | None = None
    parts: tuple | None = None


def fill(state, exp):
    state = cl.maybe_init(
        state,
        counts=lambda _: torch.zeros(10),
        average=lambda _: Average(of={"b.weight": torch.ones(3), "a": {"x": torch.zeros(2)}}, power=2),
        parts=lambda _: (torch.ones(1), [torch.zeros(2), None], {}),
    )
    scaled = cl.tree.map(lambda leaf: leaf * state.average.power + 1, state.average.of)
    counts = state.counts.index_add(0, exp.y, exp.valid.float())
    return state.replace(counts=counts, average=state.average.replace(of=scaled))


def probe(state, exp):
    return {"seen": state.counts.sum(), "average": state.average.of["b.weight"][0]}


def stop(time, *_):
    if time == 1:
        raise KeyboardInterrupt


def test_fields_that_were_none_are_filled_again(tmp_path):
    """Killed and called again, and called once more when it is done; the order of keys is that of the run."""
    start = Filling(key=cl.key(0))
    straight, history = cl.scan(fill, start, BENCH.train, probe)
    with contextlib.suppress(KeyboardInterrupt):
        cl.scan(fill, start, BENCH.train, probe, tap=stop, checkpoint=cl.Checkpoint(tmp_path, every=1))
    assert list(tmp_path.glob("checkpoint-*"))
    for _ in range(2):
        again, entries = cl.scan(fill, start, BENCH.train, probe, checkpoint=cl.Checkpoint(tmp_path, every=1))
        assert cl.tree.difference(again, straight) is None
        assert cl.tree.difference(entries, history) is None
        assert [*again.average.of] == ["b.weight", "a"]
        assert (again.average.power, again.average.words, again.average.unused) == (2, ("a", 1), None)


@pytest.mark.parametrize("lanes", [(1, 1), (2, 2), (1, 2), (2, 1)])
def test_fields_are_filled_again_in_sweeps(tmp_path, lanes):
    strategy = cl.Strategy(lambda key: Filling(key=key), fill)
    asked = {"seeds": 2, "probe": probe, "compile": False, "progress": False}
    before, after = lanes
    with contextlib.suppress(KeyboardInterrupt):
        cl.sweep(strategy, BENCH, tap=stop, checkpoint=cl.Checkpoint(tmp_path, every=1), lanes=before, **asked)
    assert list(tmp_path.glob("partial-*/checkpoint-*"))
    runs = cl.sweep(strategy, BENCH, checkpoint=cl.Checkpoint(tmp_path, every=1), lanes=after, **asked)
    assert cl.tree.difference(runs.history, cl.sweep(strategy, BENCH, **asked).history) is None


def test_a_node_that_no_file_describes_is_named(tmp_path):
    @cl.state
    class Odd:
        x: Tensor
        function: object = cl.tree.static(default=len)

    update = lambda state, exp: cl.maybe_init(state, average=lambda _: Odd(x=torch.zeros(2)))  # noqa: E731
    start, keep = Filling(key=cl.key(0)), cl.Checkpoint(tmp_path, every=1)
    cl.scan(update, start, BENCH.train, checkpoint=keep)
    with pytest.raises(ValueError, match=r"state: 'average' is None when the state is made, and holds Odd\(function="):
        cl.scan(update, start, BENCH.train, checkpoint=keep)


@pytest.mark.parametrize(
    "described",
    [None, [], {"average": 3}, {"average": ["os:system", ["of"], {}]}, {"average": ["dict", [["of"]], {}]}]
    + [{"average": ["dict", ["of"], {"power": text}]} for text in ("__import__('os')", "(", "[1]")],
)
def test_what_a_forged_file_describes_is_not_made(described):
    tensors, structure = {"state.average.of": torch.zeros(2)}, {"": "Filling()", "average": "Average()"}
    with pytest.raises(ValueError, match="'average' is None when the state is made"):
        outlines.filled(Filling(key=cl.key(0)), tensors, described, structure, "state")


def test_nodes_survive_a_file():
    """They are JSON, and describe a tree that is built from them and its leaves alone."""
    state = fill(Filling(key=cl.key(0)), BENCH.train[0])
    described = json.loads(json.dumps(outlines.nodes(state)))
    built = outlines.filled(Filling(key=cl.key(1)), files.named(state, "state"), described, outlines.outline(state), "state")
    assert cl.tree.difference(built.replace(key=state.key), state) is None


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_sweep_goes_on_in_the_memory_layout_that_it_had(tmp_path, lanes):
    """Convolutions of weights in another layout sum in another order, with other last bits."""

    def net():
        layers = nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(576, 6)
        return nn.Sequential(*layers).to(memory_format=torch.channels_last)

    data = cl.Dataset(cl.random.uniform(cl.key(0), (120, 3, 10, 10)), torch.arange(120) % 6)
    bench = cl.streams.split_by_class(data, data, n_experiences=3)
    strategy = cl.strategies.naive(
        cl.models.from_module(net, input_shape=(3, 10, 10), n_classes=6), cl.optim.sgd(0.05), batch_size=10
    )
    asked = {"seeds": 2, "lanes": lanes, "compile": False, "progress": False}
    with contextlib.suppress(KeyboardInterrupt):
        cl.sweep(strategy, bench, tap=stop, checkpoint=cl.Checkpoint(tmp_path, steps=1), **asked)
    runs = cl.sweep(strategy, bench, checkpoint=cl.Checkpoint(tmp_path, steps=1), **asked)
    assert cl.tree.difference(runs.history, cl.sweep(strategy, bench, **asked).history) is None


def test_temporary_files_of_others_are_left(tmp_path):
    """Only those that a killed process of ours has left are removed."""
    kept = [tmp_path / ".notes.tmp", tmp_path / ".folder.tmp", tmp_path / ".a.safetensors.tmp"]
    left = [tmp_path / ".checkpoint-00000001.safetensors.0123abcd.tmp", tmp_path / ".sweep.json.0123abcd.tmp"]
    for path in (*kept[::2], *left):
        path.write_text("x")
    kept[1].mkdir()
    cl.scan(fill, Filling(key=cl.key(0)), BENCH.train, checkpoint=cl.Checkpoint(tmp_path))
    assert [path.exists() for path in (*kept, *left)] == [True, True, True, False, False]


def test_a_link_to_nothing_is_no_folder(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"link is a link to .*nowhere, which is not there"):
        cl.scan(fill, Filling(key=cl.key(0)), BENCH.train, checkpoint=cl.Checkpoint(tmp_path / "link"))
