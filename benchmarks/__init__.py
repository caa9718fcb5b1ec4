"""Timings. They live here and never in the tests; every figure is a ratio against a peer in the same run."""
