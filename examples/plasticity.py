"""Loss of plasticity on the slowly changing regression problem: plain training gets worse than a linear model, slowly.

15 input bits change every 10,000 examples, each example is seen once, and the network, 20-5-1, is far too small for the target, so
that it has to go on learning (Dohare et al., "Loss of plasticity in deep continual learning", Nature 2024; data and settings are
those of their code, see `cl.streams.slowly_changing_regression`). What is measured is the squared error on each example before it
is trained on, in bins of 20,000. Each run has a stream of its own, and all runs and step sizes are lanes of one program.

    python examples/plasticity.py                                        # a short one, in a minute or so
    python examples/plasticity.py --runs 100 --examples 1000000          # the figure of the paper
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import cl_func as cl

STEP_SIZES = (0.01, 0.003, 0.001)
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"ReLU": nn.ReLU, "tanh": nn.Tanh}


def network(activation: str | None) -> nn.Module:
    """20-5-1, or for None a linear model, with uniform Kaiming weights, and biases of 0."""
    layers = [nn.Linear(20, 1)] if activation is None else [nn.Linear(20, 5), ACTIVATIONS[activation](), nn.Linear(5, 1)]
    for layer in layers:
        if isinstance(layer, nn.Linear):
            kind = "linear" if layer is layers[-1] or activation is None else activation.lower()
            nn.init.kaiming_uniform_(layer.weight, nonlinearity=kind)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def strategy(activation: str | None, extension: Callable[[Any], dict[str, Any]] | None = None) -> cl.Strategy:
    """SGD on one example at a time, measured before each step; `extension` gives from the model what else is in it."""
    model = cl.models.from_module(functools.partial(network, activation), n_classes=1, input_shape=(20,))
    loss = cl.losses.mean_squared_error(model)
    plain = cl.strategies.naive(model, cl.optim.sgd(STEP_SIZES[0]), loss=loss, batch_size=1)
    measured = cl.extend(plain, before_step=cl.trace.online.measure(model, target="regression"))
    return measured if extension is None else cl.extend(measured, **extension(model))


# Against the loss of plasticity, with the step size 0.01, by which plain training loses most.
METHODS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "continual backprop": lambda model: {
        "around_step": cl.plasticity.continual_backprop(model, 1e-4, 100, utility="adaptable_contribution")
    },
    "shrink and perturb": lambda model: {"after_step": cl.plasticity.shrink_and_perturb(model, 1 - 1e-4, 1e-3, noise="normal")},
    "L2 Init": lambda model: {"loss": cl.plasticity.l2_init(1e-2)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--flip-every", type=int, default=10_000, help="examples between two flips of a bit")
    parser.add_argument("--flips", choices=("one", "all"), default="all", help="how many of the bits change")
    parser.add_argument("--bin", type=int, default=20_000, help="examples of a bin, a multiple of the former")
    parser.add_argument("--only", default="", help="ReLU, tanh, linear or methods: one part of it")
    parser.add_argument("--out", type=Path, default=Path("out"))
    args = parser.parse_args()
    torch.set_num_threads(1)

    @functools.cache
    def stream(seed: int) -> cl.Benchmark:
        drawn = cl.streams.slowly_changing_regression(
            torch.tensor(seed),
            n_experiences=args.examples // args.flip_every,
            experience_size=args.flip_every,
            test_size=1,
            flips=args.flips,
            thresholds="code",
        )
        return cl.streams.in_memory(drawn)  # rows are drawn once an experience, not in each of these tiny steps

    def errors(name: str, learner: cl.Strategy, step_sizes: tuple[float, ...]) -> Tensor:
        """The squared error in each bin, [step size, run, bin]."""
        started = time.perf_counter()
        runs = cl.sweep(
            learner,
            lambda key: stream(int(key)),
            seeds=args.runs,
            hparams=cl.grid({"opt.lr": list(step_sizes)}),
            probe=cl.trace.online.probe(),
            every=args.bin // args.flip_every,
            progress=False,
        )
        print(f"{name}: {args.runs} runs of {len(step_sizes)} step sizes took {time.perf_counter() - started:.0f} s", flush=True)
        return cl.metrics.online_error(runs.history)

    panels: dict[str, dict[str, Tensor]] = {}
    linear = {}
    if args.only in ("", "linear"):
        linear["linear"] = errors("linear", strategy(None), STEP_SIZES[:1])[0]
    for activation in ACTIVATIONS:
        if args.only in ("", activation):
            found = errors(activation, strategy(activation), STEP_SIZES)
            panels[activation] = {f"step size {lr}": one for lr, one in zip(STEP_SIZES, found, strict=True)} | linear
    if args.only in ("", "methods"):
        plain = {"backprop": panels["ReLU"][f"step size {STEP_SIZES[0]}"]} if "ReLU" in panels else {}
        panels["ReLU, step size 0.01"] = plain | {
            name: errors(name, strategy("ReLU", extension), STEP_SIZES[:1])[0] for name, extension in METHODS.items()
        }
    args.out.mkdir(parents=True, exist_ok=True)
    written = {}
    for panel, curves in ({"linear": linear} if args.only == "linear" else panels).items():
        print(f"\n{panel:24} first bin        last quarter")
        for name, one in curves.items():
            late = one[:, -max(one.shape[1] // 4, 1) :].mean(1)
            (first, a), (last, b) = cl.metrics.mean_ci(one[:, 0]), cl.metrics.mean_ci(late)
            print(f"{name:24} {first:.3f} ± {a:.3f}    {last:.3f} ± {b:.3f}")
        figure = cl.plots.accuracy_timeline(
            curves, higher_is_better=False, xlabel=f"bins of {args.bin:,} examples", ylabel="squared error"
        )
        figure.savefig(args.out / f"{panel.partition(',')[0]}{'-methods' if ',' in panel else ''}.png")
        ci = {name: cl.metrics.mean_ci(one) for name, one in curves.items()}
        written[panel] = {name: [[round(v, 4) for v in part.tolist()] for part in pair] for name, pair in ci.items()}
    (args.out / f"plasticity{args.only and '-' + args.only}.json").write_text(json.dumps(written))  # means, half-widths by bin


if __name__ == "__main__":
    main()
