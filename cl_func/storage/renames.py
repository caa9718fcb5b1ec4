"""Files of format 2, written before states and functions got the names that they have now: what can still be compared of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from cl_func.storage.fingerprint import Entries

V = TypeVar("V")

FORMAT = 3  # the first with the names of today
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
    """Saved leaves by "prefix.path" and their outline, under the names of today where the outline `like` has those.

    A class of the user's that is called as one of ours was keeps its name.
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
    """What two fingerprints say of data, numbers and the user's code, where both do; nothing of how our functions are called."""

    def own(entries: Entries) -> set[str]:
        return {path for path, value in entries.items() if _OWN.search(value)}

    shared = (before.keys() & now.keys()) - own(before) - own(now)
    kept = shared | {path for path in {*before, *now} if path.startswith(("code.", "version."))}
    return (
        {path: value for path, value in before.items() if path in kept},
        {path: value for path, value in now.items() if path in kept},
    )
