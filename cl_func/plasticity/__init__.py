"""Methods against the loss of plasticity: networks that have been trained for long learn new things less and less well.

| method | kind | where it goes |
| --- | --- | --- |
| `continual_backprop` | Update | after each step |
| `shrink_and_perturb` | Update | before each experience, or after each step |
| `l2_init` | Loss | in a `cl.losses.total` |

Each makes its own slot, `method.init(net)`, whose hyperparameters are leaves; `cl.extend` puts them into any strategy. What is an
option of models and optimisers is there: `cl.models.mlp(activation="crelu", norm="layer")`, `cl.optim.sgd(weight_decay=)`,
`cl.optim.adam(betas=(0.9, 0.9))`.
"""

from cl_func.plasticity.continual_backprop import CBP, continual_backprop
from cl_func.plasticity.l2_init import Initial, l2_init
from cl_func.plasticity.shrink_and_perturb import SnP, shrink_and_perturb
from cl_func.plasticity.units import hidden_layers

__all__ = ["CBP", "Initial", "SnP", "continual_backprop", "hidden_layers", "l2_init", "shrink_and_perturb"]
