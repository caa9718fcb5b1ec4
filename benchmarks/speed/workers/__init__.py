"""This library's programs that are timed, each in a process of its own: `python -m benchmarks.speed.workers.ours B1`."""
