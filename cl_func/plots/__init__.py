"""Figures of runs: accuracy over time with confidence bands, accuracy and forgetting matrices, a metric over two hyperparameters.

Every function returns a matplotlib `Figure` that no global state knows: show it in a notebook or write it with
`figure.savefig("name.pdf")`. Given `ax`, it draws there and returns that axes' figure, so that figures can be composed.
Colours are safe for colour-blind readers: Okabe & Ito's (2008) for lines, viridis (Smith & van der Walt 2015) for accuracies,
and for what has a sign orange where it is bad and purple where it is good. What lies outside of a scale is refused, not clamped.

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

__all__ = ["PALETTE", "accuracy_timeline", "forgetting_matrix", "hyperparameter_grid", "matrices", "matrix"]
