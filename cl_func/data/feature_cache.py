"""Files of features, each found by what it is made of: `features-DIGEST.safetensors` in a folder that any number of runs may share.

The digest is over the parts of the model, its tensors, the inputs and the function that prepares them, by content, as
`storage.fingerprint` reads them; the file holds all of these entries and is compared with them when it is read. So a stale file is
never used, and nothing need ever be deleted for correctness. Files are written atomically: of two processes that compute the same,
the last one's takes the place of an equal one.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from cl_func import checks, user_warnings
from cl_func.storage import files, fingerprint

_KIND = "features"
_VERSIONS = ("version.python", "version.torch")  # they change rounding at most, and a cache that an upgrade empties is none


def made_of(**parts: Any) -> dict[str, str]:
    """What features are made of, by readable paths. Raises ValueError for parts that cannot be compared by content."""
    found = fingerprint.of(**parts)
    closed = [name for name, value in found.items() if value.endswith(fingerprint.CLOSED)]
    if closed:
        what = found[closed[0]].removesuffix(fingerprint.CLOSED).strip()
        raise ValueError(
            f"cache: {closed[0]} is {what}, whose content cannot be compared, so other features could be taken for these; make it "
            "of what can be pickled, or leave cache=None."
        )
    # Of this library the release counts, not the digest of its files.
    found["version.cl_func"] = found["version.cl_func"].partition(" ")[0]
    return {name: value for name, value in found.items() if name not in _VERSIONS}


def path(folder: Any, parts: dict[str, str]) -> Path:
    """The path of the file of these parts in a folder, which is made if necessary; TypeError or ValueError if it cannot be."""
    checks.optional("safetensors.torch", "cache=", "checkpoint")
    if not isinstance(folder, (str, Path)) or not str(folder):
        raise checks.type_error("cache", "the path of a folder", folder)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cache: {folder} cannot be used as a folder: {error.strerror or error}.") from error
    digest = hashlib.sha256(json.dumps(sorted(parts.items())).encode()).hexdigest()[:32]
    return Path(folder) / f"{_KIND}-{digest}.safetensors"


def load(path: Path, parts: dict[str, str], n: int) -> Tensor | None:
    """The features [n, ...] in a file; None if there is no file, and, with a warning, if it is damaged or holds something else."""
    if not path.exists():
        return None
    try:
        tensors, header = files.read(path, _KIND)
    except (ValueError, OSError) as error:
        user_warnings.warn(f"cache: the features are computed again. {error}")
        return None
    x = tensors.get("x")
    if header.get("made_of") != parts or x is None or not x.is_floating_point() or x.ndim < 2 or len(x) != n:
        user_warnings.warn(f"cache: the features are computed again. {path} holds others than its name says.")
        return None
    return x


def save(path: Path, parts: dict[str, str], x: Tensor) -> None:
    """Write the features; a warning if that fails, since they can still be used."""
    try:
        files.write(path, {"x": x}, {"kind": _KIND, "made_of": parts})
    except OSError as error:
        user_warnings.warn(f"cache: the features are not kept. {error}.")
