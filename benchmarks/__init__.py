"""Measurements that are too slow or too noisy to be tests.

    python -m benchmarks             B1 to B8: time beside the peers, each in its own environment (speed/, peers/)
    python -m benchmarks.accuracy    how well the methods learn (accuracy/)
    python -m benchmarks.page        docs/methods.md

Every bar on a time is a ratio to a peer in the same run. Long searches for faults are in soak/.
"""
