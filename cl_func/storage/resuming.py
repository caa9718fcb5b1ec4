"""Whether what was saved may be gone on with: what has changed since, in words, and which experiences of a stream were seen."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from cl_func import checks, tree
from cl_func.experiences import Experience, Stream, digest
from cl_func.storage import fingerprint, renames
from cl_func.storage.fingerprint import Entries

OnChange = Literal["error", "warn"]
SHOWN = 8  # changes in a message
_DIGEST = re.compile(r" #[0-9a-f]{16}$")


def strings(value: Any) -> bool:
    """Whether a value read from a file is a dict of strings, as fingerprints are."""
    return isinstance(value, dict) and all(isinstance(part, str) for pair in value.items() for part in pair)


def changes(before: Entries, now: Entries) -> list[str]:
    """What differs between two fingerprints but for versions, each in words; of what is another thing altogether no details."""
    found, others = list[str](), list[str]()
    python = before.get("version.python") == now.get("version.python")
    for path in dict.fromkeys([*now, *before]):
        old, new = before.get(path), now.get(path)
        if old == new or path.startswith("version.") or any(path.startswith(f"{other}.") for other in others):
            continue
        # Without their digests: what they are, such as "int64[40]" or "my_loss code".
        was, is_now = ("" if value is None else _DIGEST.sub("", value) for value in (old, new))
        if was == is_now:
            code = was.endswith((" code", " lambda"))
            if python or not code:
                found.append(f"{path}: other {'code' if code else 'values'}")
            continue
        others.append(path)
        gone, came = "no longer there", "not there before"
        found.append(f"{path}: {gone if new is None else came if old is None else f'{_name(was)} -> {_name(is_now)}'}")
    return found


def _name(value: str) -> str:
    return value.removesuffix(" code")


def versions(before: Entries, now: Entries) -> list[str]:
    """The libraries of other versions, in words."""
    names = [path for path in before if path.startswith("version.") and now.get(path, before[path]) != before[path]]
    return [f"{path.removeprefix('version.')} {before[path]}, now {now[path]}" for path in names]


def check(before: Entries, now: Entries, others: Sequence[str], what: str, on_change: OnChange, mend: str, format: int) -> bool:
    """Whether all is as it was. If not: ValueError that lists the changes, with `others`, or with "warn" a warning.

    what: "checkpoint: FOLDER holds another run"; mend: how to go on all the same; format: that of the file with `before`. Other
    versions of libraries are a warning.
    """
    newer = versions(before, now)
    if newer:
        said = f"{what.partition(' holds')[0]} was begun with {'; '.join(newer)}. Last digits may differ."
        if format < renames.FORMAT:
            said += " The functions of cl_func had other names in its files and are not compared; data and your own code are."
        warnings.warn(said, stacklevel=5)
    if format < renames.FORMAT:
        before, now = renames.comparable(before, now)
    found = [*changes(before, now), *others]
    if not found:
        return True
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    said = f"{what}. What has changed: {'; '.join(found[:SHOWN])}{more}."
    if on_change == "error":
        raise ValueError(f"{said} Give this one a folder of its own, or go on all the same with {mend}.")
    warnings.warn(f"{said} It goes on all the same.", stacklevel=5)
    return False


class Passed:
    """Digests of the first experiences of a stream, each looked at once: what a run has seen, when another stream is given.

    Of a `Stream` whose experiences are made when asked for, it is which of them they are; what makes them is in the fingerprint.
    An iterator, and a sequence of a class of one's own, is not looked at.
    """

    def __init__(self, stream: Iterable[Any]) -> None:
        self.stream: Any = stream
        self.places: Sequence[int] = ()
        if isinstance(stream, Stream):
            self.stream, self.places = stream.based()
        elif isinstance(stream, (list, tuple)):
            self.places = range(len(stream))
        self.listed = isinstance(self.stream, (list, tuple))
        self.count = 0
        self.hashes = {name: hashlib.sha256() for name in (("data", "rows") if self.listed else ("experiences",))}

    @property
    def made(self) -> Any:
        """What a fingerprint has of the stream, however many of its experiences were seen."""
        return "a sequence of experiences" if self.listed else self.stream

    def first(self, n: int) -> Entries:
        """The digests of the first n experiences; n never goes down."""
        for place in self.places[self.count : n]:
            for name, text in self._identity(place).items():
                self.hashes[name].update(text.encode())
        self.count = n
        return {name: found.hexdigest()[:16] for name, found in self.hashes.items()} if self.places else {}

    def _identity(self, place: int) -> Entries:
        if not self.listed:
            return {"experiences": f"{place} "}
        exp = self.stream[place]
        if not isinstance(exp, Experience):
            return {"data": repr(fingerprint.of(exp=exp)), "rows": ""}
        rows = [digest(leaf) for leaf in tree.leaves(tree.replace(exp, source=None))]
        return {"data": repr(exp.source.digests), "rows": repr(rows)}

    def differences(self, before: Entries, n: int) -> list[str]:
        """What of the first n experiences is not as it was, in words; nothing of a shorter stream, which `remaining` refuses."""
        if self.places and len(self.places) < n:
            return []
        now = self.first(n)
        if before.keys() != now.keys():
            return ["stream: of another kind"]
        words = {"data": "other data", "rows": "other rows, or another order", "experiences": "other experiences, or another order"}
        return [f"stream: {words[name]}, among the first {n}" for name in now if now[name] != before[name]]


def on_change(value: Any) -> OnChange:
    """Check the argument `on_change`: "error" or "warn"."""
    return checks.choice("on_change", value, "error", "warn")
