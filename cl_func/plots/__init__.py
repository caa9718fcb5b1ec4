"""Pictures of runs: curves with their confidence, matrices and grids as heat maps, what random search found, and average ranks
with their critical difference.

Every function returns the matplotlib `Axes` that it drew on, so titles, scales and sizes are changed as anywhere in matplotlib.
Given `ax`, it draws there. Without it a figure is made whose Axes are a `Picture`, which a notebook shows and
`picture.savefig("name.pdf")` writes; it is not registered with pyplot. (To a type checker what is returned is a Picture always.)
The colours are safe for colour-blind readers: those of Okabe & Ito (2008) for lines, viridis (Smith & van der Walt 2015) for
accuracies, and for signed values orange where they are bad and purple where they are good. Values outside the scale are refused,
not clamped.

matplotlib is imported only when something is drawn: `pip install "cl_func[plots]"`.
"""

from typing import TYPE_CHECKING, Any

from cl_func.plots.curves import accuracy_timeline
from cl_func.plots.grids import hyperparameter_grid
from cl_func.plots.learning import learning_curve
from cl_func.plots.lines import PALETTE
from cl_func.plots.maps import class_heatmap, forgetting_matrix, matrices, matrix
from cl_func.plots.per_experience import forgetting_curves
from cl_func.plots.ranks import critical_difference
from cl_func.plots.searches import hyperparameter_scatter, parallel_coordinates

if TYPE_CHECKING:
    from cl_func.plots.picture import Picture

__all__ = [
    "PALETTE",
    "Picture",
    "accuracy_timeline",
    "class_heatmap",
    "critical_difference",
    "forgetting_curves",
    "forgetting_matrix",
    "hyperparameter_grid",
    "hyperparameter_scatter",
    "learning_curve",
    "matrices",
    "matrix",
    "parallel_coordinates",
]


def __getattr__(name: str) -> Any:
    """`Picture`, which is not there before it is asked for, since matplotlib has to be."""
    if name != "Picture":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cl_func import checks

    checks.optional("matplotlib.axes", "cl_func.plots", "plots")
    from cl_func.plots.picture import Picture

    return Picture
