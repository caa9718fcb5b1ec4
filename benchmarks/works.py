"""What is timed, as numbers that all contenders share. It imports only the standard library, since the peers import it too.

A step of an online work is one experience of `batch` rows: a gradient step on them and `replayed` rows of the memory, then their
insertion into the reservoir. A step of a batch work is one minibatch of a long experience, after which the memory is filled.
"""

from __future__ import annotations

import dataclasses
import itertools

CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Work:
    """One method on one network."""

    title: str
    widths: tuple[int, ...] = ()  # of the MLP, inputs first; () is the slim ResNet-18 on 3x32x32 images
    method: str = "er"
    batch: int = 10
    replayed: int = 10
    capacity: int = 500
    optimizer: str = "sgd"
    lr: float = 0.05
    online: bool = True
    rows: int = 5000  # of random data, normal inputs and balanced labels
    experiences: int = 5

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return self.widths[:1] or (3, 32, 32)

    @property
    def flops(self) -> int:
        """Floating-point operations of a step: forward, and backward without the gradient with respect to the inputs."""
        layers = [a * b for a, b in itertools.pairwise(self.widths)] if self.widths else _slim_resnet18()
        return 2 * (self.batch + self.replayed) * (3 * sum(layers) - layers[0])


def _slim_resnet18() -> list[int]:
    """Multiplications of each layer for a 3x32x32 image: a stem, then stages of two blocks, all but the first halving the image."""
    layers, inputs = [3 * 20 * 9 * 32**2], 20
    for outputs, size in ((20, 32), (40, 16), (80, 8), (160, 4)):
        shortcut = [inputs * outputs * size**2] if inputs != outputs else []
        layers += [inputs * outputs * 9 * size**2, *[outputs**2 * 9 * size**2] * 3, *shortcut]
        inputs = outputs
    return [*layers, inputs * CLASSES]


_BATCH = Work(
    "naive, MLP 784-400-400-10, Adam, batch 128",
    (784, 400, 400, 10),
    method="naive",
    batch=128,
    replayed=0,
    optimizer="adam",
    lr=1e-3,
    online=False,
    rows=12800,
)
_ER = "ER, MLP 784-400-400-10, Adam, 128 + 128 rows, reservoir 2000"

WORKS = {
    "B1": Work("online ER, MLP 784-256-256-10, SGD, 10 + 10 rows, reservoir 500", (784, 256, 256, 10)),
    "B2": Work("online ER, MLP 64-64-10, SGD, 10 + 10 rows, reservoir 200", (64, 64, 10), capacity=200),
    "B3-naive": _BATCH,
    "B3-er": dataclasses.replace(_BATCH, title=_ER, method="er", replayed=128, capacity=2000),
    "B3-lwf": dataclasses.replace(_BATCH, title="LwF, MLP 784-400-400-10, Adam, batch 128", method="lwf"),
    "B6-dead": dataclasses.replace(
        _BATCH, title="naive, MLP 784-100-100-10, Adam, batch 16", widths=(784, 100, 100, 10), batch=16, rows=8000
    ),
    "B4": Work("online ER, slim ResNet-18 on 3x32x32, SGD, 10 + 10 rows, reservoir 500", rows=1000),
}
