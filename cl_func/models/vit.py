"""A small vision transformer (Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021).

    z_0 = [class; W p_1; ...; W p_T] + positions                   p_t: the values of patch t
    z' = z + attention(norm(z)),    z'' = z' + mlp(norm(z'))       for each block
    logits = W_head norm(z_L)[class]

Multi-head attention is softmax(q k^T / sqrt(d)) v for each head (Vaswani et al. 2017), and the MLP has one hidden layer with GELU.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_func import checks
from cl_func.checks import positive_int
from cl_func.models.cnn import as_images
from cl_func.models.model import Model
from cl_func.models.module import from_module


def vit(
    image_size: int = 32,
    patch: int = 4,
    n_classes: int = 10,
    *,
    channels: int = 3,
    width: int = 192,
    depth: int = 6,
    heads: int = 3,
    mlp_width: int | None = None,
    dropout: float = 0.0,
) -> Model:
    """A vision transformer: images [n, channels, image_size, image_size], or flattened, to logits [n, n_classes].

    patch: the height and width of a patch, which divide the image's; there are (image_size / patch)^2 patches and a class token.
    width: the features of a token, a multiple of `heads`. mlp_width: those of an MLP's hidden layer, 4 * width without one.
    dropout: the probability in [0, 1) with which `Dropout` zeroes values after the positions, each attention and each layer of an
        MLP, in train mode.

    Linear weights begin uniform (Glorot & Bengio 2010), those of the patches normal with variance 1 / inputs, positions normal with
    standard deviation 0.02, biases and the class token 0. The features are those of the class token. Nothing looks at other rows.
    Raises ValueError for a patch that does not divide the image, and for a width that the heads do not divide.

    >>> from cl_func import random
    >>> model = vit(8, 4, n_classes=10, width=16, depth=1, heads=2)
    >>> model.init(random.key(0)).params["patches.weight"].shape
    torch.Size([16, 48])
    """
    size, side = positive_int("image_size", image_size), positive_int("patch", patch)
    if size % side:
        raise ValueError(f"patch: it must divide image_size = {size}, got {side}.")
    if positive_int("width", width) % positive_int("heads", heads):
        raise ValueError(f"heads: it must divide width = {width}, got {heads}.")
    shape = (positive_int("channels", channels), size, size)
    hidden = 4 * width if mlp_width is None else positive_int("mlp_width", mlp_width)
    dropout = checks.number("dropout", dropout, 0, 1, ends="[)")
    sizes = (width, positive_int("depth", depth), heads, hidden, dropout, positive_int("n_classes", n_classes))
    factory = functools.partial(_ViT, shape, side, *sizes)
    return from_module(factory, n_classes=n_classes, input_shape=shape, last_layer="head")


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.out = _linear(width, 3 * width), _linear(width, width)
        self.linear1, self.linear2 = _linear(width, hidden), _linear(hidden, width)
        self.dropout, self.dropout1, self.dropout2 = (nn.Dropout(dropout) for _ in range(3))

    def attention(self, z: Tensor) -> Tensor:
        # Written out: torch's fused kernel has no rule for vmap on a CPU.
        q, k, v = self.qkv(z).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # each [n, heads, tokens, d]
        weights = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]), -1)
        mixed: Tensor = self.out((weights @ v).transpose(1, 2).flatten(2))
        return mixed

    def forward(self, z: Tensor) -> Tensor:
        z = z + self.dropout(self.attention(self.norm1(z)))
        hidden = self.dropout1(F.gelu(self.linear1(self.norm2(z))))
        return z + self.dropout2(self.linear2(hidden))


class _ViT(nn.Module):
    def __init__(
        self,
        shape: tuple[int, int, int],
        patch: int,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
        dropout: float,
        n_classes: int,
    ) -> None:
        super().__init__()
        self.shape, self.patch = shape, patch
        inputs = shape[0] * patch * patch
        self.patches = nn.Linear(inputs, width)
        nn.init.normal_(self.patches.weight, std=inputs**-0.5)
        nn.init.zeros_(self.patches.bias)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 1 + (shape[1] // patch) ** 2, width).normal_(std=0.02))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*[_Block(width, heads, hidden, dropout) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = _linear(width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = as_images(x, self.shape)
        n, channels, side, _ = x.shape
        per_side = side // self.patch
        # A convolution by patches that do not overlap is a linear layer on each patch, which vmap and compilation do better.
        cut = x.reshape(n, channels, per_side, self.patch, per_side, self.patch).permute(0, 2, 4, 1, 3, 5)
        z = self.patches(cut.reshape(n, per_side * per_side, -1))
        z = torch.cat([self.token.expand(n, -1, -1), z], 1) + self.positions
        logits: Tensor = self.head(self.norm(self.blocks(self.dropout(z)))[:, 0])
        return logits
