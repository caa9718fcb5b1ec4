"""What was measured and whether it meets the bars: one table, results.json and results.md."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import results


@dataclasses.dataclass(frozen=True)
class Measured:
    """The repetitions of one contender."""

    work: str
    contender: str
    unit: str
    values: list[float]
    command: str = ""

    @property
    def median(self) -> float:
        """The figure that counts."""
        return statistics.median(self.values)


@dataclasses.dataclass(frozen=True)
class Bar:
    """A figure, usually a ratio of two medians, and its bound; None if something was not measured."""

    work: str
    what: str
    value: float | None
    bound: float
    at_most: bool

    @property
    def asked(self) -> str:
        """The bar in words."""
        return f"{'at most' if self.at_most else 'at least'} {self.bound:g}"

    @property
    def verdict(self) -> str:
        """Met or not, or that it was not measured."""
        if self.value is None:
            return "not measured"
        return "met" if (self.value <= self.bound if self.at_most else self.value >= self.bound) else "NOT MET"


@dataclasses.dataclass
class Report:
    """Everything that one call of `python -m benchmarks` measured."""

    command: str
    machine: Mapping[str, str]
    titles: dict[str, str] = dataclasses.field(default_factory=dict)
    versions: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    measured: list[Measured] = dataclasses.field(default_factory=list)
    bars: list[Bar] = dataclasses.field(default_factory=list)
    missing: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)  # work, contender, why
    notes: list[str] = dataclasses.field(default_factory=list)

    def median(self, work: str, contender: str) -> float | None:
        """The median of a contender, None if it was not measured."""
        found = [m.median for m in self.measured if (m.work, m.contender) == (work, contender)]
        return found[0] if found else None

    def best(self, work: str, prefix: str) -> float | None:
        """The smallest median of the contenders whose names have a prefix: the best lane count, the better of two modes."""
        return min((m.median for m in self.measured if m.work == work and m.contender.startswith(prefix)), default=None)

    def bar(self, work: str, what: str, top: float | None, bottom: float | None, bound: float, at_most: bool = True) -> None:
        """Add the ratio top / bottom and its bound."""
        ratio = None if top is None or bottom is None else top / bottom
        self.bars.append(Bar(work, what, ratio, bound, at_most))

    def table(self) -> str:
        """One table: for each work the contenders, then the bars."""
        lines = [
            "| work | contender, or ratio | median | min to max | unit | bar | |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for work, title in self.titles.items():
            lines.append(f"| **{work}** | *{title}* | | | | | |")
            for m in (m for m in self.measured if m.work == work):
                spread = f"{_digits(min(m.values))} to {_digits(max(m.values))}" if len(m.values) > 1 else ""
                lines.append(f"| {work} | {m.contender} | {_digits(m.median)} | {spread} | {m.unit} | | |")
            for _, contender, why in (m for m in self.missing if m[0] == work):
                lines.append(f"| {work} | {contender} | - | | | | {why.replace('|', '/')} |")
            for b in (b for b in self.bars if b.work == work):
                value = "-" if b.value is None else f"{b.value:.2f}"
                lines.append(f"| {work} | {b.what} | {value} | | | {b.asked} | {b.verdict} |")
        return "\n".join(lines)

    def markdown(self) -> str:
        """The page: machine, versions, table, commands."""
        parts = ["# Benchmarks", f"`{self.command}`", "\n".join(f"- {name}: {value}" for name, value in self.machine.items())]
        parts += ["\n".join(f"- {who}: " + ", ".join(f"{k} {v}" for k, v in found.items()) for who, found in self.versions.items())]
        parts += ["\n".join(f"- {note}" for note in self.notes)] if self.notes else []
        parts += [self.table()]
        commands = "\n".join(f"{m.work:<9} {m.contender}: {m.command}" for m in self.measured if m.command)
        parts += ["## Commands", "From the root of the repository, `python` being that of the contender's environment:"]
        parts += [f"```\n{commands}\n```"]
        return "\n\n".join(part for part in parts if part) + "\n"

    def write(self, folder: Path) -> None:
        """Write results.json, with every repetition, and results.md."""
        (folder / "results.md").write_text(self.markdown())
        fields: dict[str, Any] = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        fields["measured"] = [{**dataclasses.asdict(m), "median": m.median} for m in self.measured]
        fields["bars"] = [{**dataclasses.asdict(b), "verdict": b.verdict} for b in self.bars]
        results.write(folder / "results.json", fields)


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
