"""Probes of plasticity: what of a network still learns, measured while a run goes on.

    dormant_units, dead_units            hidden units that say little, or nothing, on any row
    effective_rank, stable_rank          how many directions the hidden activations of the rows span
    weight_norm, gradient_norm           how large the weights are, and the gradient of a loss
    hessian_top_eigenvalue               how curved a loss is

Each returns a dict of tensors, so that several make one Probe, `cl.probes.join(...)`, which stands wherever a Probe stands:
`cl.scan(..., probe=)`, `cl.sweep(..., probe=)`, and beside traces, `cl.trace.probe("losses", beside=...)`. What is measured on rows
is measured on those of `exp`, or without it on those of the experience that was trained on last. `on_test` makes a Probe for the
test stream of each run of a sweep.
"""

from cl_func.probes.curvature import hessian_top_eigenvalue
from cl_func.probes.joined import Joined, join
from cl_func.probes.norms import gradient_norm, weight_norm
from cl_func.probes.per_stream import OnTest, on_test
from cl_func.probes.ranks import effective_rank, stable_rank
from cl_func.probes.rows import OnRows
from cl_func.probes.units import dead_units, dormant_units

__all__ = [
    "Joined",
    "OnRows",
    "OnTest",
    "dead_units",
    "dormant_units",
    "effective_rank",
    "gradient_norm",
    "hessian_top_eigenvalue",
    "join",
    "on_test",
    "stable_rank",
    "weight_norm",
]
