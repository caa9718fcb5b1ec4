"""Curves of each step: the loss, the norm of the gradient or any number, recorded in the state while a run trains.

    losses: cl.trace.Trace                                  a slot of the agent, made by cl.trace.init(n)
    cl.trace.loss(loss, slot="losses")                      a Loss whose values are recorded
    cl.trace.grad_norm(slot="norms")                        a GradientTransform that records the norm of the gradients it is given
    cl.trace.record(function, slot="rates")                 an Update that records function(state, exp)
    cl.trace.probe("losses", "norms", beside=evaluation)    a Probe: what has been recorded goes into the history
    cl.trace.read(history["losses"])                        the curve, one value a step
    cl.trace.online                                         how good a model is on rows before it is trained on them

A step is a pure function, so what it has to tell goes where everything goes, into the state. A trace is a ring of n values (the
i-th value at i mod n) and a count: its shape never changes, lanes have traces of their own, and a checkpoint holds it. So that n
need not be the length of the run, `probe` puts the trace into every entry of the history, from which `read` joins the whole curve:
n is then the number of steps between two entries. It should not be much larger, since a step within `minibatches` writes the
whole ring, as it writes all of the state that it changes. The history holds nothing else that a probe does not return, so which
traces are in it is said where it is said what is measured.
"""

from cl_func.core.traces import Snapshot, Steps, Trace
from cl_func.trace import online
from cl_func.trace.reading import TraceProbe, probe, read
from cl_func.trace.recording import add, grad_norm, init, loss, record

__all__ = ["Snapshot", "Steps", "Trace", "TraceProbe", "add", "grad_norm", "init", "loss", "online", "probe", "read", "record"]
