"""A Probe for the test stream of each run of a sweep, whose benchmark may be made from its key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cl_func import signatures
from cl_func.core import Probe
from cl_func.experiences import Stream


@dataclass(frozen=True)
class OnTest:
    """What `on_test` returns; a sweep calls `make` with the test stream of its runs."""

    make: Callable[[Stream], Probe]

    def __call__(self, state: Any, exp: Any = None) -> Any:
        """Raise TypeError: outside of a sweep there is no test stream to measure on."""
        raise TypeError(
            "probe: cl.probes.on_test(make) is for cl.sweep and cl.compare, which know the test stream; give make(benchmark.test)."
        )


def on_test(make: Callable[[Stream], Probe]) -> OnTest:
    """The Probe `make(test)` for the test stream of each run, in `cl.sweep` and `cl.compare`.

    By default these evaluate the strategy's model on it; this is for other measurements, where each seed has a stream of its own:
    `on_test(lambda test: join(class_il=cl.evaluate(model, test), task_il=cl.evaluate(model, test, mask="experience")))`. A Probe
    of one benchmark measures all seeds on the test stream of that one. Where runs are lanes, so are the experiences of `test`.

    Raises TypeError for anything but a function of a stream; in a sweep, for one that gives no Probe.
    """
    return OnTest(signatures.function("make", make, 1, "a function of a test stream that gives a Probe"))
