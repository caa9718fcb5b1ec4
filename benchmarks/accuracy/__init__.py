"""How well the methods learn: `python -m benchmarks.accuracy`."""
