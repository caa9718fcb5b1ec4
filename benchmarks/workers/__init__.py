"""The programs that are timed. Each runs in its own environment: `python -m benchmarks.workers.NAME WORK ...`."""
