"""The Python interpreters of the contenders: ours, and one per peer, each with an environment of its own."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Sequence

MAKE = {
    "jax": "python -m venv ENV; ENV/bin/pip install jax jaxlib; then --jax-python ENV/bin/python or CL_BENCH_JAX",
    "avalanche": (
        "python -m venv ENV; ENV/bin/pip install avalanche-lib==0.6.0 torch==2.14.1 torchvision==0.29.1; "
        "then --avalanche-python ENV/bin/python or CL_BENCH_AVALANCHE"
    ),
}


@dataclasses.dataclass(frozen=True)
class Peers:
    """The paths of the peers' interpreters; None for those not given."""

    jax: str | None = None
    avalanche: str | None = None

    @staticmethod
    def of(jax: str | None, avalanche: str | None) -> Peers:
        """From the arguments, or else from the environment. Raises ValueError for a path that is not a program."""
        given = {"jax": jax or os.environ.get("CL_BENCH_JAX"), "avalanche": avalanche or os.environ.get("CL_BENCH_AVALANCHE")}
        for name, path in given.items():
            if path and not shutil.which(path):
                raise ValueError(f"--{name}-python: {path} is not a program that can be run.")
        return Peers(**given)

    def command(self, who: str, module: str, arguments: Sequence[object] = ()) -> list[str] | None:
        """The command that runs a module in the environment of "ours", "jax" or "avalanche"; None without one."""
        interpreter = sys.executable if who == "ours" else getattr(self, who)
        return [interpreter, "-m", module, *map(str, arguments)] if interpreter else None
