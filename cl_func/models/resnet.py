"""The reduced ResNet-18 of continual learning (Lopez-Paz & Ranzato, "Gradient episodic memory", NeurIPS 2017).

ResNet-18 (He et al. 2016) with 20 filters instead of 64 in the first stage, a 3x3 stem without pooling, and four stages of two
basic blocks with 20, 40, 80 and 160 filters, each but the first halving the image. Global average pooling makes it independent of
the image's size; at 32x32 it equals the original's pooling by 4.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from cl_func.checks import positive_int
from cl_func.models.cnn import as_images, image_size
from cl_func.models.model import Model
from cl_func.models.module import from_module


def slim_resnet18(input_shape: tuple[int, int, int] = (3, 32, 32), n_classes: int = 10, width: int = 20) -> Model:
    """The slim ResNet-18: x [n, C, H, W] of any height and width, or flattened images of `input_shape`, to logits [n, n_classes].

    With 3 channels and width 20 it has 1,093,140 + 161 * n_classes parameters: 1,094,750 for 10 classes, 1,109,240 for 100.

    >>> from cl_func import random
    >>> sum(p.numel() for p in slim_resnet18(n_classes=10).init(random.key(0)).params.values())
    1094750
    """
    shape = image_size(input_shape)
    factory = functools.partial(_ResNet, shape, positive_int("width", width), positive_int("n_classes", n_classes))
    return from_module(factory, n_classes=n_classes, input_shape=shape, last_layer="linear")


class _Block(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + shortcut(x))."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(h)) + self.shortcut(x))


class _ResNet(nn.Module):
    def __init__(self, shape: tuple[int, ...], width: int, n_classes: int) -> None:
        super().__init__()
        self.shape = shape
        self.conv1 = nn.Conv2d(shape[0], width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        stages, inputs = [], width
        for outputs, stride in ((width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)):
            stages.append(nn.Sequential(_Block(inputs, outputs, stride), _Block(outputs, outputs, 1)))
            inputs = outputs
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.linear = nn.Linear(inputs, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.bn1(self.conv1(as_images(x, self.shape, any_size=True))))
        h = self.layer4(self.layer3(self.layer2(self.layer1(h))))
        logits: Tensor = self.linear(h.mean((2, 3)))
        return logits
