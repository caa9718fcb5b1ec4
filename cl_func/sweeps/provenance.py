"""Where Runs come from: the attributes that a sweep gives them."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch

from cl_func.core import Strategy
from cl_func.storage import codes
from cl_func.sweeps.autotune import cores

STRATEGY = "strategy"


def of(strategy: Strategy, device: torch.device) -> dict[str, Any]:
    """What is run, with the arguments that it was made with; the versions, with a digest of this library's code; and the machine
    on which the sweep was called, by name.
    """
    return {
        STRATEGY: repr(strategy),
        "cl_func": codes.own_version(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": cores(),
        "device": _device(device),
    }


def _processor() -> str:
    """The model of the CPU, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    found = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return found or platform.processor() or platform.machine()


def _device(device: torch.device) -> str:
    """The kind of the device, and what it is called where its module knows that."""
    name = getattr(getattr(torch, device.type, None), "get_device_name", None)
    return f"{device.type}: {name(device)}" if name is not None else device.type
