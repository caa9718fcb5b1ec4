"""Whose log a file is: the folder of a run has an id, and so has a hidden file beside the log, `.log.csv.run` of `log.csv`.

Names of folders would not do: one that was deleted to begin anew is not the one that wrote the log. Nor would the lines: before
the first checkpoint there is nothing to compare them with, and with other lanes a run has other last digits.
"""

from __future__ import annotations

import uuid
from pathlib import Path

from cl_func.storage import files

ID = "log.id"  # in the folder of a run, of a sweep or of a comparison


def owns(folder: Path, log: Path) -> bool:
    """Whether a log is that of what is kept in a folder."""
    own = _read(folder / ID)
    return own is not None and own == _read(_mark(log))


def take(folder: Path, log: Path) -> None:
    """Make a log, which may be still to come, that of what is kept in a folder."""
    if owns(folder, log):
        return
    own = _read(folder / ID)
    if own is None:
        own = uuid.uuid4().hex.encode()
        files.write_bytes(folder / ID, own)
    log.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(_mark(log), own)


def release(log: Path) -> None:
    """Make a log that of a run without a folder."""
    _mark(log).unlink(missing_ok=True)


def _mark(log: Path) -> Path:
    return log.with_name(f".{log.name}.run")


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes() or None
    except FileNotFoundError:
        return None
