"""No collection of cyclic garbage while something is compiled: a fifth of the time of a first compilation went into it.

Importing torch's compiler and tracing a function make a million objects that all stay, and Python's collector, which runs each time
that their number has grown by a quarter, walks through all of them again and finds nothing.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def collection_deferred() -> Iterator[None]:
    """A context in which cyclic garbage is not collected, unless another thread asks for it; afterwards as before."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
