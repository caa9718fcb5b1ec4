"""Files of tensors that can be trusted: safetensors with a checked header, written completely or not at all.

    [8 bytes: length of the header] [header: JSON] [tensors, one after the other]

The header's metadata holds our JSON text and the SHA-256 of that text and of all names, dtypes, shapes and bytes. Nothing in such a
file is ever executed. Reading allocates no more than a few times the size of the file, and returns everything or raises.

The format: https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from cl_func import checks, tree
from cl_func.storage import renames
from cl_func.storage.outlines import outline
from cl_func.tree import describe

T = TypeVar("T")

# Incremented when older versions of this library can no longer read the files. 1: the axes of Runs had no order; 2: states and
# functions had other names, see `renames`.
FORMAT = renames.FORMAT


TEMPORARY = re.compile(r"\..+\.(safetensors|json)\.[0-9a-f]{8}\.tmp")  # the names under which files are written


class Kind(Protocol):
    """A class with its own kind of file, to which `save` and `load` leave reading and writing it; all else is saved as a tree."""

    def save(self, path: str | Path) -> None:
        """Write a file whose header has this kind."""

    @staticmethod
    def of(tensors: dict[str, Tensor], header: dict[str, Any], path: str | Path) -> Any:
        """The content of such a file; DamagedFile if it is inconsistent."""


KINDS: dict[str, type[Kind]] = {}  # filled by the modules that define these classes


class DamagedFile(ValueError):  # noqa: N818 - says what the file is
    """The file is not intact: truncated, altered, or not of this kind."""


def _safetensors() -> ModuleType:
    return checks.optional("safetensors.torch", "a file of tensors", "checkpoint")


def write(path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write named tensors and a header of JSON values; after a crash there is either the old file or the new one.

    Raises OSError, naming the file, if it cannot be written; the old file is then unchanged.
    """
    # Contiguous copies on the CPU, of which no two share memory.
    copies = {name: leaf.detach().cpu().clone(memory_format=torch.contiguous_format) for name, leaf in tensors.items()}
    text = json.dumps({"format": FORMAT, **header})  # not sorted: the order of the keys has a meaning
    try:
        data = _safetensors().save(copies, {"cl_func": text, "sha256": digest(copies, text)})
    except (KeyError, UnicodeEncodeError) as error:  # for a dtype or a name
        raise TypeError(f"{_unsupported(copies)}: safetensors cannot hold it: {error}.") from error
    write_bytes(path, data)


def _unsupported(tensors: Mapping[str, Tensor]) -> str:
    """The first tensor that safetensors cannot save, in words."""
    for name, leaf in tensors.items():
        try:
            _safetensors().save({name: leaf})
        except (KeyError, UnicodeEncodeError):
            return f"tree: the leaf {name.partition('.')[2]!r}, {describe(leaf)}"
    return "tree: one of its leaves"


def write_tree(path: str | Path, values: Any) -> None:
    """Write a tree of tensors, with its outline, as a file of kind "tree"; TypeError for leaves that are not tensors."""
    write(path, named(values), {"kind": "tree", "outline": outline(values)})


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file atomically: a temporary file in the same folder is synced, then renamed.

    Where there is a file already it keeps its permissions; of a link the file that it leads to is written.
    """
    path = Path(path)
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"  # see TEMPORARY
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError, PermissionError):
            temporary.chmod(stat.S_IMODE(path.stat().st_mode))
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        kept = "; the file that was there before is unchanged" if path.is_file() else ""
        raise OSError(error.errno, f"could not write {path}: {error.strerror or error}{kept}") from error


def _sync_folder(folder: Path) -> None:
    # Without this a power cut may undo the rename. Only POSIX can open a folder.
    with contextlib.suppress(PermissionError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """The SHA-256 of a text and of the names, dtypes, shapes and bytes of tensors, as hexadecimal digits."""
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        leaf = tensors[name].detach().cpu().contiguous()
        found.update(json.dumps([name, str(leaf.dtype), list(leaf.shape)]).encode())
        found.update(leaf.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def read(path: str | Path, *kinds: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the header, checked, of a file of one of the given kinds ("tree", "runs", ...).

    Raises FileNotFoundError; DamagedFile, a ValueError, for a file that is not intact; ValueError for a file of another kind or of
    a newer format.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path: there is no file {path}.")
    if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would block
        raise ValueError(f"path: {path} is not a regular file; give the file that was saved.")
    data = path.read_bytes()
    metadata = _metadata(data, path)
    text = metadata.get("cl_func")
    if not isinstance(text, str):
        raise ValueError(f"path: {path} is a safetensors file, but not one that cl_func wrote.")
    header = _json(text, path)
    if not isinstance(header.get("format"), int) or not isinstance(header.get("kind"), str):
        raise DamagedFile(f"path: {path} is damaged: its header has no format and kind.")
    if header["format"] > FORMAT:
        raise ValueError(f"path: {path} has format {header['format']}, this version of cl_func reads up to {FORMAT}; upgrade it.")
    try:
        tensors = dict(_safetensors().load(data))
    except Exception as error:  # a malicious file may make safetensors raise anything
        raise DamagedFile(f"path: {path} is damaged: {error}.") from error
    if digest(tensors, text) != metadata.get("sha256"):
        raise DamagedFile(f"path: {path} is damaged: its content does not match its checksum.")
    if header["kind"] not in kinds:
        raise ValueError(f"path: {path} holds {header['kind']!r}, not {' or '.join(map(repr, kinds))}.")
    return tensors, header


def _metadata(data: bytes, path: Path) -> Mapping[str, Any]:
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > len(data) - 8:
        raise DamagedFile(f"path: {path} is damaged: {len(data)} bytes, fewer than its header says.")
    try:
        header = _json(data[8 : 8 + size].decode(), path)
    except UnicodeDecodeError as error:
        raise DamagedFile(f"path: {path} is damaged: its header is not text.") from error
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict):
        raise ValueError(f"path: {path} is a safetensors file, but not one that cl_func wrote.")
    return metadata


def _json(text: str, path: Path) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = dict(pairs)
        if len(names) != len(pairs):
            raise ValueError("a name occurs twice")
        return names

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"path: {path} is damaged: its header is not JSON of this kind ({error}).") from error
    if not isinstance(value, dict):
        raise DamagedFile(f"path: {path} is damaged: its header is not a JSON object.")
    return value


def named(values: Any, prefix: str = "tree") -> dict[str, Tensor]:
    """The leaves of a tree by "prefix.path". Raises TypeError, naming the path, for a leaf that is not a tensor."""
    for path, leaf in tree.items(values):
        if not isinstance(leaf, Tensor):
            raise TypeError(f"tree: the leaf {path!r} is {leaf!r}; only tensors can be saved, make it one or a static field.")
        if leaf.is_meta:
            raise ValueError(f"tree: the leaf {path!r} is on the device meta, which holds no values.")
        if leaf.layout != torch.strided:
            raise TypeError(f"tree: the leaf {path!r} is {leaf.layout}; only dense tensors can be saved, use .to_dense().")
    found = {f"{prefix}.{path}": leaf for path, leaf in tree.items(values)}
    if len(found) != len(tree.items(values)):
        raise ValueError("tree: two of its leaves have the same path; rename a key that contains a dot.")
    return found


def restore(tensors: Mapping[str, Tensor], header: Mapping[str, Any], like: T, path: str | Path, prefix: str = "tree") -> T:
    """The saved leaves in the structure and on the devices of `like`; ValueError, naming the first difference, if they differ."""
    wanted_outline, saved_outline = outline(like), header.get("outline")
    if not isinstance(saved_outline, dict):
        raise DamagedFile(f"path: {path} is damaged: it holds no outline of its tree.")
    if header.get("format", FORMAT) < FORMAT:
        tensors, saved_outline = renames.current_names(tensors, saved_outline, wanted_outline, prefix)
    for node in sorted({*wanted_outline, *saved_outline}):
        saved, wanted = (some.get(node, "no inner node") for some in (saved_outline, wanted_outline))
        if saved != wanted:
            at = f"at {node!r}" if node else "at the root"
            raise ValueError(f"like: {at} {path} holds {saved}, `like` has {wanted}; build `like` as the saved tree was built.")
    leaves_like = named(like, prefix)
    given = {name: leaf for name, leaf in tensors.items() if name.startswith(f"{prefix}.")}
    for verb, names in (("lacks", [*leaves_like.keys() - given.keys()]), ("also holds", [*given.keys() - leaves_like.keys()])):
        if names:
            listed = ", ".join(sorted(name.removeprefix(f"{prefix}.") for name in names)[:8])
            raise ValueError(f"like: {path} {verb} {len(names)} leaves of this tree: {listed}.")
    leaves = []
    for name, leaf in leaves_like.items():
        found, at = given[name], name.removeprefix(f"{prefix}.")
        if found.dtype != leaf.dtype or found.shape != leaf.shape:
            raise ValueError(f"like: at {at!r} {path} holds {describe(found)}, `like` has {describe(leaf)}; nothing is cast.")
        leaves.append(found.to(leaf.device))
    return tree.unflatten(tree.flatten(like)[1], leaves)
