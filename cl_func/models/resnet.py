"""ResNet-18 (He, Zhang, Ren & Sun, "Deep residual learning for image recognition", CVPR 2016), and the slim one of the field.

    h' = relu(bn(conv(relu(bn(conv(h))))) + shortcut(h))

Four stages of two such blocks, with 1, 2, 4 and 8 times the width of the first, each but the first halving the image. Global
average pooling makes them independent of the image's size. `resnet18` is the original, with torchvision's names and initial
distributions; `slim_resnet18` is the reduced one of continual learning (Lopez-Paz & Ranzato, "Gradient episodic memory", NeurIPS
2017): 20 filters instead of 64 and a 3x3 stem without pooling; at 32x32 its pooling equals the original's by 4.
"""

from __future__ import annotations

import functools
from typing import Literal

import torch
from torch import Tensor, nn

from cl_func import checks
from cl_func.checks import positive_int
from cl_func.models.cnn import as_images, channels_last, image_size
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


def resnet18(
    n_classes: int = 10,
    *,
    stem: Literal["cifar", "imagenet"] = "cifar",
    width: int = 64,
    input_shape: tuple[int, int, int] | None = None,
) -> Model:
    """ResNet-18: x [n, C, H, W] of any height and width, or flattened images of `input_shape`, to logits [n, n_classes].

    stem: "cifar" for images of about 32x32, a 3x3 convolution; "imagenet" for large ones, a 7x7 convolution of stride 2 and a 3x3
        max-pooling of stride 2.
    width: the filters of the first stage. input_shape: (3, 32, 32) or, with the stem for large images, (3, 224, 224) without one.

    Convolutions begin normal with variance 2 / (outputs * positions of the kernel) (He et al. 2015). With stem="imagenet" and width
    64 names and sizes are those of torchvision's resnet18, so that its weights, a dict w, may be taken:
    `net.replace(params={name: w[name] for name in net.params}, buffers={name: w[name] for name in net.buffers})`.

    >>> from cl_func import random
    >>> sum(p.numel() for p in resnet18(1000, stem="imagenet", input_shape=(3, 64, 64)).init(random.key(0)).params.values())
    11689512
    """
    large = checks.choice("stem", stem, "cifar", "imagenet") == "imagenet"
    shape = image_size(input_shape if input_shape is not None else (3, 224, 224) if large else (3, 32, 32))
    factory = functools.partial(_ResNet18, shape, large, positive_int("width", width), positive_int("n_classes", n_classes))
    return from_module(factory, n_classes=n_classes, input_shape=shape, last_layer="fc")


class _BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)  # first: activations count to the convolution before them
        h = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(h)) + shortcut)


class _ResNet18(nn.Module):
    def __init__(self, shape: tuple[int, ...], large: bool, width: int, n_classes: int) -> None:
        super().__init__()
        self.shape, self.large = shape, large
        self.conv1 = nn.Conv2d(shape[0], width, 7 if large else 3, 2 if large else 1, padding=3 if large else 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        stages, inputs = [], width
        for outputs, stride in ((width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)):
            stages.append(nn.Sequential(_BasicBlock(inputs, outputs, stride), _BasicBlock(outputs, outputs, 1)))
            inputs = outputs
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(inputs, n_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.bn1(self.conv1(channels_last(as_images(x, self.shape, any_size=True)))))
        if self.large:
            h = nn.functional.max_pool2d(h, 3, 2, padding=1)
        h = self.layer4(self.layer3(self.layer2(self.layer1(h))))
        logits: Tensor = self.fc(h.mean((2, 3)))
        return logits


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
        h = torch.relu(self.bn1(self.conv1(channels_last(as_images(x, self.shape, any_size=True)))))
        h = self.layer4(self.layer3(self.layer2(self.layer1(h))))
        logits: Tensor = self.linear(h.mean((2, 3)))
        return logits
