"""Whether a saved run may be resumed: what has changed since, in words, and which experiences of the stream it has seen."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from cl_func import checks, tree, user_warnings
from cl_func.experiences import Experience, Stream
from cl_func.sources.dataset import Dataset, digest
from cl_func.storage import fingerprint, renames
from cl_func.storage.entries import Entries

OnChange = Literal["error", "warn"]
SHOWN = 8  # changes in a message
_DIGEST = re.compile(r" #[0-9a-f]{16}$")
_MAPPING = re.compile(r" of \d+$")  # with entries below


def strings(value: Any) -> bool:
    """Whether a value read from a file is a dict of strings, as fingerprints are."""
    return isinstance(value, dict) and all(isinstance(part, str) for pair in value.items() for part in pair)


def changes(before: Entries, now: Entries) -> list[str]:
    """The differences between two fingerprints other than versions, in words; without details of parts that were replaced."""
    found, others = list[str](), list[str]()
    python = before.get("version.python") == now.get("version.python")
    for path in dict.fromkeys([*now, *before]):
        old, new = before.get(path), now.get(path)
        if old == new or path.startswith("version.") or any(path.startswith(f"{other}.") for other in others):
            continue
        # Without the digest: the kind of value, such as "int64[40]" or "my_loss code".
        old_kind, new_kind = ("" if value is None else _DIGEST.sub("", value) for value in (old, new))
        if old_kind == new_kind:
            if old_kind in (old, new):  # of a mapping, for which earlier versions kept no digest of its keys
                continue
            code = old_kind.endswith((" code", " lambda"))
            if python or not code:
                keys = _MAPPING.search(old_kind) and any(other.startswith(f"{path}.") for other in now)
                what = "code" if code else "keys, or in another order" if keys else "values"
                found.append(f"{path}: other {what}")
            continue
        others.append(path)
        gone, came = "no longer there", "not there before"
        found.append(f"{path}: {gone if new is None else came if old is None else f'{_name(old_kind)} -> {_name(new_kind)}'}")
    return found


def _name(value: str) -> str:
    return value.removesuffix(" code")


def listed(found: Sequence[str]) -> str:
    """The first of some changes, and how many more there are."""
    return "; ".join([*found[:SHOWN], *([f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else [])])


def versions(before: Entries, now: Entries) -> list[str]:
    """The libraries whose versions differ, in words."""
    names = [path for path in before if path.startswith("version.") and now.get(path, before[path]) != before[path]]
    return [f"{path.removeprefix('version.')} {before[path]}, now {now[path]}" for path in names]


def check(before: Entries, now: Entries, others: Sequence[str], what: str, on_change: OnChange, mend: str, format: int) -> bool:
    """Whether a fingerprint is unchanged; if not, ValueError or, with "warn", a warning that lists the changes and `others`.

    what: "checkpoint: FOLDER holds another run". mend: how to resume all the same. format: of the file that holds `before`.
    Other versions of libraries only give a warning. With another Python, whose instructions are others, it cannot be told whether
    the code is the same: that gives a warning too, and is not "unchanged".
    """
    newer = versions(before, now)
    python = not any(text.startswith("python ") for text in newer)
    if newer:
        message = f"{what.partition(' holds')[0]} was begun with {'; '.join(newer)}."
        if not python:
            message += " The code of your functions is compiled otherwise and is not compared; data and values are."
        message += " Last digits may differ."
        if format < renames.FORMAT:
            message += " The functions of cl_func had other names in its files and are not compared"
            message += "; data and your own code are." if python else "."
        user_warnings.warn(message)
    if format < renames.FORMAT:
        before, now = renames.comparable(before, now)
    found = [*changes(before, now), *others]
    if not found:
        return python
    message = f"{what}. What has changed: {listed(found)}."
    if on_change == "error":
        raise ValueError(f"{message} Give this one a folder of its own, or resume it all the same with {mend}.")
    user_warnings.warn(f"{message} It is resumed all the same.")
    return False


class SeenExperiences:
    """Digests of the experiences of a stream that a run has seen, each computed once, to recognise them in another stream.

    For a `Stream` that makes its experiences on demand these are digests of their indices, since the fingerprint covers what makes
    them. Iterators, and sequences of other classes, are not compared.
    """

    def __init__(self, stream: Iterable[Any]) -> None:
        self.stream: Any = stream
        self.indices: Sequence[int] = ()
        if isinstance(stream, Stream):
            self.stream, self.indices = stream.based()
        elif isinstance(stream, (list, tuple)):
            self.indices = range(len(stream))
        self.listed = isinstance(self.stream, (list, tuple))
        self.count = 0
        self.hashes = {name: hashlib.sha256() for name in (("data", "rows") if self.listed else ("experiences",))}

    @property
    def source(self) -> Any:
        """What belongs to the fingerprint of the stream, however many of its experiences have been seen."""
        return "a sequence of experiences" if self.listed else self.stream

    def first(self, n: int) -> Entries:
        """The digests of the first n experiences; n must not decrease."""
        for index in self.indices[self.count : n]:
            for name, text in self._identity(index).items():
                self.hashes[name].update(text.encode())
        self.count = n
        return {name: found.hexdigest()[:16] for name, found in self.hashes.items()} if self.indices else {}

    def _identity(self, index: int) -> Entries:
        if not self.listed:
            return {"experiences": f"{index} "}
        exp = self.stream[index]
        if not isinstance(exp, Experience):
            return {"data": repr(fingerprint.of(exp=exp)), "rows": ""}
        rows = [digest(leaf) for leaf in tree.leaves(tree.replace(exp, source=None))]
        data: Entries
        if isinstance(exp.source, Dataset):
            data = exp.source.digests
        else:
            data = {path: text for path, text in fingerprint.of(source=exp.source).items() if not path.startswith("version.")}
        return {"data": repr(data), "rows": repr(rows)}

    def differences(self, before: Entries, n: int) -> list[str]:
        """How the first n experiences have changed, in words; [] for a shorter stream, which `remaining` rejects."""
        if self.indices and len(self.indices) < n:
            return []
        now = self.first(n)
        if before.keys() != now.keys():
            return ["stream: of another kind"]
        words = {"data": "other data", "rows": "other rows, or another order", "experiences": "other experiences, or another order"}
        return [f"stream: {words[name]}, among the first {n}" for name in now if now[name] != before[name]]


def on_change(value: OnChange) -> OnChange:
    """Check the argument `on_change`: "error" or "warn"."""
    return checks.choice("on_change", value, "error", "warn")
