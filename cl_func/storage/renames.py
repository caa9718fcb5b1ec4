"""Files of format 2, written before states and functions had their present names: how to read them, and what to compare."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from cl_func.storage.entries import Entries

V = TypeVar("V")

FORMAT = 3  # the first format with the present names
CLASSES = {
    "AGEM": "AGEMAgent",
    "BiC": "BiCAgent",
    "DER": "DERAgent",
    "DERpp": "DERppAgent",
    "ER": "ERAgent",
    "ERACE": "ERACEAgent",
    "ERLwF": "ERLwFAgent",
    "FromScratch": "FromScratchAgent",
    "GEM": "GEMAgent",
    "ICaRL": "ICaRLAgent",
    "MIR": "MIRAgent",
    "NCM": "NCMAgent",
}
FIELDS = {("BiCAgent", "fate"): "holdout_key"}
_OWN = re.compile(r"\bcl_func\.")


def current_names(
    tensors: Mapping[str, V], outline: Mapping[str, str], like: Mapping[str, str], prefix: str
) -> tuple[dict[str, V], dict[str, str]]:
    """Saved leaves by "prefix.path" and their outline, renamed to the present names wherever the outline `like` has these.

    A user's class that has the former name of one of ours keeps its name.
    """
    leaves, renamed = dict(tensors), dict(outline)
    for path, node in outline.items():
        old, opening, statics = node.partition("(")
        new = f"{CLASSES.get(old, old)}{opening}{statics}"
        if new != node and like.get(path) == new:
            renamed[path] = new
        kind = renamed[path].partition("(")[0]
        for (owner, field), name in FIELDS.items():
            if owner == kind:
                at = f"{prefix}.{path}." if path else f"{prefix}."
                leaves = {f"{at}{name}" if key == f"{at}{field}" else key: leaf for key, leaf in leaves.items()}
    return leaves, renamed


def comparable(before: Entries, now: Entries) -> tuple[Entries, Entries]:
    """The entries of two fingerprints that can be compared: those of data, numbers and user code that both have."""

    def own(entries: Entries) -> set[str]:
        return {path for path, value in entries.items() if _OWN.search(value)}

    shared = (before.keys() & now.keys()) - own(before) - own(now)
    kept = shared | {path for path in {*before, *now} if path.startswith(("code.", "version."))}
    return (
        {path: value for path, value in before.items() if path in kept},
        {path: value for path, value in now.items() if path in kept},
    )
