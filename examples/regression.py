"""Regression on a stream: two waves, of which every experience shows another piece.

Plain training fits the newest piece and forgets the others. Errors are mean squared errors, so lower is better, and forgetting is
how much an error has risen since it was lowest.

    python examples/regression.py
"""

from __future__ import annotations

from typing import Any

import torch

import cl_func as cl


def wave(i: int, key: torch.Tensor) -> cl.Dataset:
    """Noisy values of both waves, y [100, 2], on the i-th of five pieces of [-1, 1]; the second slowly becomes shorter."""
    place, noise = cl.random.split(key)
    x = -1 + 0.4 * (i + cl.random.uniform(place, 100))
    y = torch.stack([torch.sin(4 * x), torch.cos((3 + 0.3 * i) * x)], 1)
    return cl.Dataset(x[:, None], y + 0.05 * cl.random.normal(noise, (100, 2)))


def main() -> None:
    torch.set_num_threads(1)
    keys = cl.random.split(cl.key(0), 10)
    bench = cl.streams.from_datasets([(wave(i, keys[2 * i]), wave(i, keys[2 * i + 1])) for i in range(5)])

    model = cl.models.mlp(1, hidden=(64, 64), n_classes=2)  # two outputs, one for each wave
    optimizer = cl.optim.adam(3e-3)
    common: dict[str, Any] = {"loss": cl.losses.mean_squared_error(model), "batch_size": 20, "epochs": 15}
    methods = {
        "naive": cl.strategies.naive(model, optimizer, **common),
        "EWC": cl.strategies.ewc(model, optimizer, strength=10.0, **common),
        "ER": cl.strategies.er(model, optimizer, capacity=100, replay_size=20, **common),
    }
    print("method  average mse      forgetting")
    for name, strategy in methods.items():
        runs = cl.sweep(strategy, bench, seeds=5, compile=False, progress=False)
        (error, spread), (forgotten, _) = (runs.mean_ci(metric) for metric in ("average_mse", "forgetting"))
        print(f"{name:6}  {error:.3f} ± {spread:.3f}  {forgotten:.3f}")


if __name__ == "__main__":
    main()
