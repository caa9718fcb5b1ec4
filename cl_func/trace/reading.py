"""How traces get into a history, and curves out of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cl_func import checks, signatures, user_warnings
from cl_func.core import Probe
from cl_func.core.traces import Snapshot, Trace, lookup
from cl_func.tree import state, static


@state
class TraceProbe:
    """The Probe made by `probe`."""

    beside: Probe | None
    slots: tuple[str, ...] = static()

    def __call__(self, state: Any, exp: Any = None) -> dict[str, Any]:
        """What is measured of a state, by name, and its traces by their slots."""
        entry = {} if self.beside is None else self.beside(state, exp)
        if not isinstance(entry, dict):
            raise checks.type_error("beside", "a probe that returns a dict, so that traces can stand in it by name", entry)
        for slot in self.slots:
            if slot in entry:
                raise ValueError(f"slots: {slot!r} is also measured by `beside`; name the slot of the trace otherwise.")
            found = checks.slot(state, slot, Trace, "a Trace made by cl.trace.init")
            entry = {**entry, slot: Snapshot(values=found.values, count=found.count)}
        return entry


def probe(*slots: str, beside: Probe | None = None) -> TraceProbe:
    """The Probe that returns the traces in some slots of the state, by their names, and beside them what another probe returns.

    The history of `cl.scan` then holds each trace as a `Snapshot` with values [time, n] and count [time], which `read` joins to a
    curve; `runs.curve(slot)` does so for a sweep. In a sweep, where `beside` is not given, it is the evaluation of the
    strategy's model on the test stream of the run, if the strategy names a model.

    slots: at least one path of a trace in the state. beside: a Probe that returns a dict, such as `cl.evaluate(model, stream)`.
    Raises TypeError or ValueError for other arguments, and, when applied, for a slot without a trace or with the name of something
    that `beside` returns.
    """
    if not slots:
        raise TypeError("slots: expected the slot of at least one trace, got none.")
    for slot in slots:
        checks.path("slots", slot, "losses")
    if len(set(slots)) < len(slots):
        raise ValueError(f"slots: expected each once, got {slots}.")
    if beside is not None:
        signatures.probe("beside", beside)
    return TraceProbe(beside=beside, slots=slots)


def read(trace: Trace | Snapshot) -> Tensor:
    """The curve that a trace holds, [k] float32: value i is what was recorded at step i, NaN where it is lost.

    trace: one in a state, `state.losses`; or a whole history of one, `history["losses"]`, whose first axis is time, for all that
        was recorded between the entries. Further leading axes are lanes, and stay: [lanes, k], with NaN behind the values of a
        lane that has fewer.

    Warns of values that are lost because the ring is too short, with their number and the length that it would have needed.
    Raises TypeError or ValueError for anything else.
    """
    if not isinstance(trace, (Trace, Snapshot)):
        raise checks.type_error("trace", "a trace in a state, or that of a history made with cl.trace.probe", trace)
    values, count = trace.values, trace.count
    if isinstance(trace, Trace):
        values, count = values[None], count[None]
    elif not count.ndim:
        raise ValueError("trace: expected a whole history, with time as its first axis, got one entry of it.")
    checks.tensor("trace: values", values, (*count.shape, values.shape[-1]), torch.float32)
    total = int(count[-1].max()) if count[-1].numel() else 0
    curve = torch.full((*count.shape[1:], total), torch.nan, device=values.device)
    found = torch.zeros_like(curve, dtype=torch.bool)
    for ring, end in zip(values, count, strict=True):
        if not end.numel():
            break
        window = torch.arange(max(int(end.min()) - ring.shape[-1], 0), int(end.max()), device=values.device)
        part, held = lookup(ring, end, window)
        curve[..., window] = torch.where(held, part, curve[..., window])
        found[..., window] |= held
    lost = int((count[-1] - found.sum(-1)).max()) if count[-1].numel() else 0
    if lost:
        needed = int(torch.diff(count, dim=0, prepend=torch.zeros_like(count[:1])).max())
        sooner = "" if isinstance(trace, Trace) else ", or measure more often"
        user_warnings.warn(
            f"trace: {lost} of {total} values are lost, since it holds {values.shape[-1]}; make it longer, "
            f"cl.trace.init({needed}){sooner}."
        )
    return curve
