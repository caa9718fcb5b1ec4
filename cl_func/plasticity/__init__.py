"""Methods against the loss of plasticity: networks that have been trained for long learn new things less and less well.

| method | kind | where it goes |
| --- | --- | --- |
| `continual_backprop` | Update | after each step |
| `redo` | Update | after each step, every so many of which it acts |
| `shrink_and_perturb` | Update | before each experience, or after each step |
| `reset_head` | Update | before each experience |
| `l2_init`, `spectral` | Loss | in a `cl.losses.total` |
| `upgd` | GradientTransform | last in a `cl.train_step`, before `cl.optim.sgd` |

Each but `reset_head` makes its own slot, `method.init(net)`, whose hyperparameters are leaves; `cl.extend` puts them into any
strategy. What is an option of models and optimisers is there: `cl.models.mlp(activation="crelu", norm="layer")`,
`cl.optim.sgd(weight_decay=)`, `cl.optim.adam(betas=(0.9, 0.9))`.
"""

from cl_func.plasticity.continual_backprop import CBP, continual_backprop
from cl_func.plasticity.l2_init import Initial, l2_init
from cl_func.plasticity.redo import Recycling, redo
from cl_func.plasticity.reset_head import reset_head
from cl_func.plasticity.shrink_and_perturb import SnP, shrink_and_perturb
from cl_func.plasticity.spectral import Spectra, spectral
from cl_func.plasticity.units import hidden_layers
from cl_func.plasticity.upgd import WeightUtility, upgd

__all__ = [
    "CBP",
    "Initial",
    "Recycling",
    "SnP",
    "Spectra",
    "WeightUtility",
    "continual_backprop",
    "hidden_layers",
    "l2_init",
    "redo",
    "reset_head",
    "shrink_and_perturb",
    "spectral",
    "upgd",
]
