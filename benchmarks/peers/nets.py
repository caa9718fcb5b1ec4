"""The peers' networks and data in plain torch, with the shapes and initial distributions of the library's."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from benchmarks.works import CLASSES, Work


def data(work: Work) -> tuple[Tensor, Tensor]:
    """Normal inputs [N, ...] and balanced labels [N], grouped by pairs of classes as in a class-incremental stream."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(work.rows) * work.experiences // work.rows * (CLASSES // work.experiences)
    y = y + torch.arange(work.rows) % (CLASSES // work.experiences)
    return torch.randn(work.rows, *work.shape, generator=generator), y


def network(work: Work) -> nn.Module:
    """The MLP or the slim ResNet-18 of a work."""
    return mlp(work) if work.widths else SlimResNet18()


def mlp(work: Work) -> nn.Sequential:
    """The MLP of a work: linear layers with ReLU between."""
    layers = [layer for a, b in itertools.pairwise(work.widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def optimizer(work: Work, net: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of a work, with torch's defaults."""
    return (torch.optim.Adam if work.optimizer == "adam" else torch.optim.SGD)(net.parameters(), lr=work.lr)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(h)) + self.shortcut(x))


class SlimResNet18(nn.Module):
    """The reduced ResNet-18 of Lopez-Paz & Ranzato (2017), 20 filters in the first stage."""

    def __init__(self) -> None:
        super().__init__()
        widths = (20, 20, 40, 80, 160)
        blocks = [nn.Sequential(Block(a, b, 1 if a == b else 2), Block(b, b, 1)) for a, b in itertools.pairwise(widths)]
        self.stem = nn.Sequential(nn.Conv2d(3, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU())
        self.stages = nn.Sequential(*blocks)
        self.linear = nn.Linear(widths[-1], CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.stages(self.stem(x)).mean((2, 3)))
