"""Gradient transforms that keep an update from undoing what was learnt: the gradient is projected to a set that old data allow.

    agem   one constraint: the loss on a sample of the memory must not rise           (half-space)
    gem    one such constraint per past experience                                    (cone)
    ogd    no change of old outputs, by their stored gradients                        (subspace)
    owm    no change of old outputs, layer by layer, by the inputs of each layer      (subspace)

All are meant for plain SGD: momentum and weight decay act after the projection and may undo it.
"""

from cl_func.projections import agem, gem, ogd, owm
from cl_func.projections.gem import GEMMemory
from cl_func.projections.ogd import OGD
from cl_func.projections.owm import OWM

__all__ = ["OGD", "OWM", "GEMMemory", "agem", "gem", "ogd", "owm"]
