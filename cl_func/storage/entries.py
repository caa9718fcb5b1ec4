"""The entries of a fingerprint: a flat dict from readable paths to short values."""

from __future__ import annotations

import hashlib

Entries = dict[str, str]


def short(text: str) -> str:
    """A text, of which a digest stands for the rest if it is long."""
    return text if len(text) <= 60 else f"{text[:40]}... #{hashed(text)}"


def hashed(text: str) -> str:
    """The digest of a text, 16 hexadecimal digits."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def under(name: str, entries: Entries) -> Entries:
    """The entries of a part, below its name."""
    name = name or "''"  # or the entries of a part could not be told from those of the whole
    return {f"{name}.{path}" if path else name: value for path, value in entries.items()}


def joined(*several: Entries) -> Entries:
    """All entries of several; of two with one path, as of {"a.b": 1, "a": {"b": 2}}, the later one is "a.b (again)"."""
    found: Entries = {}
    for entries in several:
        for path, value in entries.items():
            while path in found:
                path += " (again)"
            found[path] = value
    return found
