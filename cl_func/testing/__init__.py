"""The laws that every component obeys, as functions for your own tests, and Hypothesis strategies for their inputs.

    cl.testing.check_update(my_update, state, exp)            an Update `(state, exp) -> state`
    cl.testing.check_loss(my_loss, state, exp)                a Loss
    cl.testing.check_gradient_transform(mine, state, exp)     a GradientTransform
    cl.testing.check_probe(my_probe, state, exp)              a Probe
    cl.testing.check_draw(my_draw, memory)                    a function that draws rows from a memory
    cl.testing.check_strategy(my_strategy, benchmark)         a Strategy, over a whole stream
    cl.testing.check_device(my_update, state, exp)            any function of (state, exp), on another device
    cl.testing.check_round_trip(state)                        anything that can be saved: a state, a history, Runs

Each raises an AssertionError that names the law and the first leaf that breaks it:
    pure       the inputs stay the same to the bit, a second call gives the same result, torch's global generator is not used, and
               nothing is kept outside of the state
    closed     it returns what its kind returns; the state keeps its structure, shapes, dtypes and devices
    occupied   what stands in the empty slots of a memory, a node with `data` and `occupied`, changes nothing (give it room for more
               than an experience); (draws) only rows that the memory holds are drawn, and no more are valid than it holds
    depends    (losses) the value is computed from the parameters given
    fresh      no key is drawn from twice, within one call or two consecutive ones; a probe does not draw what the next update will
    lanes      lane i of the vmapped run equals the single run
    compiled   the compiled run equals the eager one, and the donated one the pure one (with compiled=True)
    padding    rows that are not valid change nothing, whichever they are, in an experience or a minibatch
    rows       (strategies) what the model says of a row does not depend on the others that it is evaluated with
    device     it does not name a device, nor wait for one
    resumed    (strategies) a run that is stopped, stored and resumed gives what an uninterrupted one gives
    silent     (strategies) evaluating during the run changes nothing
    round trip what is saved and loaded comes back the same to the bit, names and labels in order and of the same types
"""

from cl_func.testing.components import check_device, check_draw, check_gradient_transform, check_loss, check_probe, check_update
from cl_func.testing.generators import agents, experiences, keys, small_benchmark, streams
from cl_func.testing.laws import assert_equal, vary
from cl_func.testing.whole import check_round_trip, check_strategy

__all__ = [
    "agents",
    "assert_equal",
    "check_device",
    "check_draw",
    "check_gradient_transform",
    "check_loss",
    "check_probe",
    "check_round_trip",
    "check_strategy",
    "check_update",
    "experiences",
    "keys",
    "small_benchmark",
    "streams",
    "vary",
]
