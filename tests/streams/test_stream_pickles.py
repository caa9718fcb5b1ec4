"""Every stream is pickled by Python's own pickle, and its experiences are the same when it comes back, in another process too."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
import torch
from test_sorted import KEY, SPLIT, STREAMS

import cl_func as cl
from cl_func import streams, tree
from cl_func.experiences import Benchmark, Experience, Stream, experience, stream

DATA = SPLIT.train[0].source


def made(index: int) -> Experience:
    """An experience of a user's own stream."""
    return experience(DATA, torch.arange(index, 9 * index + 9), index=index)


OWN = Benchmark(Stream(made, 3), stream([made(0), made(2)]))
DERIVED = {
    "as it is": lambda bench: bench,
    "a slice": lambda bench: Benchmark(bench.train[::-1], bench.test[:1]),
    "online": lambda bench: streams.split_online(bench, 20),
    "validation, cumulative, online": lambda bench: streams.split_online(
        streams.cumulative(streams.with_validation(bench, 0.3, key=KEY)), 40
    ),
}
BENCHMARKS = {**STREAMS, "small_benchmark": cl.testing.small_benchmark, "a stream of one's own": lambda: OWN}


def derived(name, how):
    bench = BENCHMARKS[name]()
    if how.startswith("validation") and bench.valid is not None:
        bench = Benchmark(bench.train, bench.test)
    return DERIVED[how](bench)


def parts(bench):
    return {name: part for name in ("train", "test", "valid") if (part := getattr(bench, name)) is not None}


@pytest.mark.parametrize("how", DERIVED)
@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_stream_comes_back(name, how):
    bench = derived(name, how)
    again = pickle.loads(pickle.dumps(bench))
    assert parts(again).keys() == parts(bench).keys()
    for part, experiences in parts(bench).items():
        other = getattr(again, part)
        assert len(other) == len(experiences)
        for one, two in zip(experiences, other, strict=True):
            assert tree.difference(one, two) is None


READ = """
import pickle, sys
for bench, expected in pickle.load(sys.stdin.buffer):
    found = [exp for part in (bench.train, bench.test) for exp in part]
    assert len(found) == len(expected)
    from cl_func import tree
    assert all(tree.difference(one, two) is None for one, two in zip(found, expected, strict=True))
"""


def test_another_process_needs_nothing_but_the_library():
    with_functions_of_ours = {"a stream of one's own", "generated"}
    benches = [make() for name, make in BENCHMARKS.items() if name not in with_functions_of_ours]
    sent = pickle.dumps([(bench, [exp for part in (bench.train, bench.test) for exp in part]) for bench in benches])
    subprocess.run([sys.executable, "-c", READ], input=sent, check=True)
