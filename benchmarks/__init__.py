"""Timings of the library beside its peers, each in its own environment and in turn: `python -m benchmarks`.

They live here and never in the tests. Every bar is a ratio against a peer in the same run.
"""
