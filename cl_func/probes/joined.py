"""Several Probes as one."""

from __future__ import annotations

from typing import Any

from cl_func import checks, signatures
from cl_func.core import Probe
from cl_func.tree import state, static


@state
class Joined:
    """The Probe made by `join`."""

    probes: tuple[Probe, ...]
    names: tuple[str | None, ...] = static()  # of each probe; None: what it returns has names

    def __call__(self, state: Any, exp: Any = None) -> dict[str, Any]:
        """What all of them return, by name."""
        entry: dict[str, Any] = {}
        for name, probe in zip(self.names, self.probes, strict=True):
            found = probe(state, exp) if name is None else {name: probe(state, exp)}
            if not isinstance(found, dict):
                raise checks.type_error("probes", "each to return a dict, so that what they measure can stand side by side", found)
            twice = sorted(str(name) for name in entry.keys() & found.keys())
            if twice:
                raise ValueError(f"probes: {', '.join(twice)} is measured by two of them; give one of them.")
            entry |= found
        return entry


def join(*probes: Probe, **named: Probe) -> Joined:
    """The Probe that returns what several return, each a dict, in one dict; what a named one returns stands under its name.

    probes: such as `cl.evaluate(model, stream)` and those of `cl.probes`; at least one, or one of `named`.
    named: Probes that measure the same thing, each with a name for it, which the histories of a sweep begin with:
        `join(class_il=cl.evaluate(model, stream), task_il=cl.evaluate(model, stream, mask="experience"))` gives
        "class_il.accuracy" and "task_il.accuracy".
    Raises TypeError for arguments that are no functions, ValueError for a name with a dot; when applied, TypeError for a probe that
    returns no dict and has no name, and ValueError for a name that two of them have.

    >>> from cl_func import core, models, probes, random, testing
    >>> model, exp = models.mlp(6, hidden=(8, 5), n_classes=4), testing.small_benchmark().test[0]
    >>> agent = core.Agent(key=random.key(0), model=model.init(random.key(0)))
    >>> sorted(join(probes.weight_norm(), probes.effective_rank(model, exp))(agent))
    ['effective_rank', 'effective_rank_by_layer', 'weight_magnitude', 'weight_norm']
    """
    if not probes and not named:
        raise TypeError("probes: expected at least one Probe, got none.")
    for name in named:
        if not name or "." in name:
            raise ValueError(f"named: expected names without a dot, such as class_il=, got {name!r}.")
    checked = [*(("probes", probe) for probe in probes), *named.items()]
    return Joined(probes=tuple(signatures.probe(name, probe) for name, probe in checked), names=(*(None for _ in probes), *named))
