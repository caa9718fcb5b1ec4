"""Images that have been read once, in one file, so that the next run need not decode them again.

The file is an npz of the tensors and of a key, the digest of all that they depend on. Another key, a damaged file or anything else
that is not these tensors means reading the images again; nothing in it is executed. It is written completely or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cl_func import user_warnings

_FORMAT = "2"  # changes when the same files give other tensors, or are refused


def listing_key(root: Path, paths: Iterable[Path], *more: object) -> str:
    """The digest of the names of some files within `root`, of their sizes and times of change, and of what else is given."""
    found = hashlib.sha256(repr((_FORMAT, *more)).encode())
    for path in map(str, paths):
        stat = os.stat(path)
        found.update(repr((path.removeprefix(str(root)), stat.st_size, stat.st_mtime_ns)).encode())
    return found.hexdigest()


def cached(file: Path | None, key: str, make: Callable[[], dict[str, Tensor]], counts: dict[str, int]) -> dict[str, Tensor]:
    """What `make` returns, tensors uint8 [n, C, H, W] by name, from `file` if it holds them under the same key, else kept there.

    counts: n of each. A file that cannot be written is a warning.
    """
    if file is None:
        return make()
    found = _load(file, key, counts)
    if found is None:
        found = make()
        try:
            _save(file, key, found)
        except OSError as error:
            user_warnings.warn(
                f"the images could not be kept in {file} ({error}); give a folder to keep them in, cache=FOLDER, or cache=False"
            )
    return found


def _load(file: Path, key: str, counts: dict[str, int]) -> dict[str, Tensor] | None:
    try:
        if not zipfile.is_zipfile(file):
            return None
        with np.load(file, allow_pickle=False) as arrays:
            if set(arrays.files) != {"key", *counts} or str(arrays["key"]) != key:
                return None
            found = {name: arrays[name] for name in counts}
    except (OSError, EOFError, ValueError, MemoryError, zipfile.BadZipFile, zlib.error):
        return None
    right = all(found[name].dtype == np.uint8 and found[name].ndim == 4 and len(found[name]) == n for name, n in counts.items())
    alike = len({array.shape[1:] for array in found.values()}) == 1
    return {name: torch.from_numpy(array) for name, array in found.items()} if right and alike else None


def _save(file: Path, key: str, tensors: dict[str, Tensor]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}")
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
    try:
        with part.open("wb") as out:
            np.savez(out, key=np.array(key), **arrays)
        part.replace(file)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
