"""Figures of runs: accuracy over time with confidence bands, accuracy and forgetting matrices, a metric over two hyperparameters,
average ranks with their critical difference.

Every function returns a matplotlib `Figure` that is not registered with pyplot: show it in a notebook or write it with
`figure.savefig("name.pdf")`. Given `ax`, it draws there and returns the figure of these axes, so that figures can be composed.
The colours are safe for colour-blind readers: those of Okabe & Ito (2008) for lines, viridis (Smith & van der Walt 2015) for
accuracies, and for signed values orange where they are bad and purple where they are good. Values outside the scale are refused,
not clamped.

matplotlib is imported only when something is drawn: `pip install "cl_func[plots]"`.
"""

from cl_func.plots.curves import (
    PALETTE,
    accuracy_timeline,
    forgetting_matrix,
    hyperparameter_grid,
    matrices,
    matrix,
)
from cl_func.plots.ranks import critical_difference

__all__ = [
    "PALETTE",
    "accuracy_timeline",
    "critical_difference",
    "forgetting_matrix",
    "hyperparameter_grid",
    "matrices",
    "matrix",
]
