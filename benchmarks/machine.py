"""The machine on which the measurements were made."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from cl_func.sweeps.autotune import cores


def describe() -> dict[str, str]:
    """CPU model, cores, memory, system, and the load before the measurement."""
    facts = {
        "CPU": _cpu(),
        "cores": str(cores()),
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
    }
    if hasattr(os, "sysconf"):
        facts["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    if hasattr(os, "getloadavg"):
        facts["load average before"] = f"{os.getloadavg()[0]:.2f}"
    for name in ("OMP_NUM_THREADS", "XLA_FLAGS"):
        if name in os.environ:
            facts[name] = os.environ[name]
    return facts


def busy() -> bool:
    """Whether something else seems to be running, which makes the figures useless."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.5


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    facts = {name.strip(): value.strip() for name, value in found.items()}
    wide = [flag for flag in ("avx2", "avx512f") if flag in facts.get("flags", "").split()]
    return ", ".join([facts.get("model name", platform.machine()), *wide])
