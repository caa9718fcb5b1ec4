"""Models as pure functions: `model.init(key) -> ModelState` and `model.apply(params, buffers, x) -> (logits, buffers)`.

`from_module` makes one from any `torch.nn.Module` factory, `pure` a functional view of modules without logits; `mlp`, `cnn`,
`resnet18`, `slim_resnet18` and `vit` are ready-made; `activations` gives the hidden units of any of them; `multi_head` masks the
logits by task label, `CosineLinear` (and `mlp(..., head="cosine")`) compares directions; `augmented` and `normalized` change what a
model sees, `projected` what it gives, `pretrained` where it starts. Layers that draw, such as `Dropout`, have a key of their own;
`KeyedLayer` is the base for others.
"""

from cl_func.models.activations import activations
from cl_func.models.augmented import augmented, split_augment
from cl_func.models.batch_norm import BatchNorm
from cl_func.models.cnn import cnn
from cl_func.models.cosine import CosineLinear
from cl_func.models.fresh import fresh_rows
from cl_func.models.heads import class_masks, mask_logits, multi_head, split_heads
from cl_func.models.inputs import linear_inputs, row_factors
from cl_func.models.keyed import AlphaDropout, Dropout, DropPath, KeyedLayer, RReLU
from cl_func.models.mlp import mlp
from cl_func.models.model import Model, ModelState, feature_function, features, forward, fresh_function, sample_features
from cl_func.models.module import from_module
from cl_func.models.normalized import normalized
from cl_func.models.pretrained import pretrained
from cl_func.models.projected import projected
from cl_func.models.pure import PureModule, pure
from cl_func.models.resnet import resnet18, slim_resnet18
from cl_func.models.vit import vit

__all__ = [
    "AlphaDropout",
    "BatchNorm",
    "CosineLinear",
    "DropPath",
    "Dropout",
    "KeyedLayer",
    "Model",
    "ModelState",
    "PureModule",
    "RReLU",
    "activations",
    "augmented",
    "class_masks",
    "cnn",
    "feature_function",
    "features",
    "forward",
    "fresh_function",
    "fresh_rows",
    "from_module",
    "linear_inputs",
    "mask_logits",
    "mlp",
    "multi_head",
    "normalized",
    "pretrained",
    "projected",
    "pure",
    "resnet18",
    "row_factors",
    "sample_features",
    "slim_resnet18",
    "split_augment",
    "split_heads",
    "vit",
]
