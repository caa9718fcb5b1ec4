"""Models as pure functions: `model.init(key) -> ModelState` and `model.apply(params, buffers, x) -> (logits, buffers)`.

`from_module` makes one from any `torch.nn.Module` factory; `mlp`, `cnn` and `slim_resnet18` are ready-made; `multi_head` masks the
logits by task label, `CosineLinear` (and `mlp(..., head="cosine")`) compares directions; `augmented` and `normalized` change what a
model sees. Layers that draw, such as `Dropout`, have a key of their own; `KeyedLayer` is the base for others.
"""

from cl_func.models.augmented import augmented, split_augment
from cl_func.models.batch_norm import BatchNorm
from cl_func.models.cnn import cnn
from cl_func.models.cosine import CosineLinear
from cl_func.models.heads import class_masks, mask_logits, multi_head, split_heads
from cl_func.models.inputs import linear_inputs, row_factors
from cl_func.models.keyed import AlphaDropout, Dropout, DropPath, KeyedLayer, RReLU
from cl_func.models.mlp import mlp
from cl_func.models.model import Model, ModelState, feature_function, features, forward, sample_features
from cl_func.models.module import from_module
from cl_func.models.normalized import normalized
from cl_func.models.resnet import slim_resnet18

__all__ = [
    "AlphaDropout",
    "BatchNorm",
    "CosineLinear",
    "DropPath",
    "Dropout",
    "KeyedLayer",
    "Model",
    "ModelState",
    "RReLU",
    "augmented",
    "class_masks",
    "cnn",
    "feature_function",
    "features",
    "forward",
    "from_module",
    "linear_inputs",
    "mask_logits",
    "mlp",
    "multi_head",
    "normalized",
    "row_factors",
    "sample_features",
    "slim_resnet18",
    "split_augment",
    "split_heads",
]
