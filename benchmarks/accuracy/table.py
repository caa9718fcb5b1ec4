"""The results of the accuracy benchmark: cells of a table, its page, and the orders that the literature leads one to expect."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch

import cl_func as cl
from benchmarks import results
from benchmarks.accuracy.figure import draw
from benchmarks.methods import METHODS, SETTINGS

# (setting, better, worse): Split-MNIST in van de Ven et al. 2022, table 2; DER++ against ER in Buzzega et al. 2020, table 2. How
# GDumb and MIR compare with ER depends on the budget, so nothing is expected of them.
EXPECTED = (
    *(("class", a, b) for a, b in (("joint", "er"), ("joint", "icarl"), ("icarl", "lwf"), ("er", "agem"), ("agem", "naive"))),
    *(("class", "er", b) for b in ("lwf", "ewc", "si", "naive")),
    ("class", "der_pp", "er"),
    *(("domain", a, b) for a, b in (("joint", "er"), ("er", "agem"), ("er", "lwf"), ("lwf", "naive"), ("agem", "naive"))),
    *(("task", a, "naive") for a in ("ewc", "si", "lwf", "agem", "er", "joint")),
    *(("permuted", a, "naive") for a in ("ewc", "si", "er", "agem", "joint")),
)


@dataclasses.dataclass
class Results:
    """The cells of the table, and why the missing ones are missing."""

    command: str
    machine: dict[str, str]
    protocol: dict[str, Any]
    cells: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    missing: dict[str, str] = dataclasses.field(default_factory=dict)

    def cell(self, setting: str, name: str) -> dict[str, Any] | None:
        """The cell of a method in a setting."""
        return next((c for c in self.cells if (c["setting"], c["method"]) == (setting, name)), None)

    def put(self, cell: dict[str, Any]) -> None:
        """Add a cell, or replace the one of the same method and setting."""
        self.cells = [c for c in self.cells if (c["setting"], c["method"]) != (cell["setting"], cell["method"])] + [cell]

    @property
    def names(self) -> list[str]:
        """The methods that were run, in the order of METHODS."""
        return [m.name for m in METHODS if any(c["method"] == m.name for c in self.cells)]

    @property
    def settings(self) -> list[str]:
        """The settings that were run."""
        return [s for s in SETTINGS if any(c["setting"] == s for c in self.cells)]

    def table(self) -> str:
        """Final average accuracy and forgetting, mean ± half-width of the interval."""
        titles = [f"{s}: {what}" for s in self.settings for what in ("accuracy", "forgetting")]
        lines = ["| method | " + " | ".join(titles) + " |", "| --- |" + " --- |" * len(titles)]
        for name in self.names:
            cells = [self.cell(s, name) or {} for s in self.settings]
            lines.append("| " + " | ".join([name, *(shown(c.get(w)) for c in cells for w in ("accuracy", "forgetting"))]) + " |")
        return "\n".join(lines)

    def strengths(self) -> str:
        """The hyperparameters chosen, marked where they lie at the end of the range tried."""
        lines = ["| method | " + " | ".join(self.settings) + " |", "| --- |" + " --- |" * len(self.settings)]
        for name in self.names:
            cells = [self.cell(s, name) or {"chosen": {"values": {}, "at_edge": []}} for s in self.settings]
            texts = [
                ", ".join(
                    f"{path} {value:g}{' (edge)' if path in c['chosen']['at_edge'] else ''}"
                    for path, value in c["chosen"]["values"].items()
                )
                for c in cells
            ]
            if any(texts):
                lines.append(f"| {name} | " + " | ".join(text or "-" for text in texts) + " |")
        return "\n".join(lines)

    def orders(self) -> str:
        """The order of the methods that the literature leads one to expect, and the one found."""
        lines = ["| setting | better | worse | difference | as expected |", "| --- | --- | --- | --- | --- |"]
        for setting, better, worse in EXPECTED:
            a, b = self.cell(setting, better), self.cell(setting, worse)
            if a is None or b is None:
                continue
            gap = a["accuracy"]["mean"] - b["accuracy"]["mean"]
            half = math.hypot(a["accuracy"]["half"], b["accuracy"]["half"])
            verdict = "yes" if gap > half else "NO" if gap < -half else "not told apart"
            lines.append(f"| {setting} | {better} | {worse} | {gap:+.3f} ± {half:.3f} | {verdict} |")
        return "\n".join(lines)

    def markdown(self) -> str:
        """The page as Markdown."""
        facts = [f"- {name}: {value}" for name, value in self.machine.items()]
        facts += [f"- {name.replace('_', ' ')}: {value}" for name, value in self.protocol.items() if value is not None]
        facts += [f"- {s}: {SETTINGS[s]}" for s in self.settings]
        facts += [f"- not run: {name}: {why}" for name, why in self.missing.items()]
        parts = ["# Accuracy", f"`{self.command}`", "\n".join(facts), self.table()]
        parts += ["Mean ± half-width of the 95% confidence interval over the seeds. -: not run, or not defined."]
        parts += ["## Strengths chosen on validation data", self.strengths(), "## Expected order", self.orders()]
        return "\n\n".join(parts) + "\n"

    def write(self, folder: Path) -> None:
        """Write accuracy.json, accuracy.md and accuracy.png."""
        results.write(folder / "accuracy.json", dataclasses.asdict(self))
        (folder / "accuracy.md").write_text(self.markdown())
        if self.cells:
            draw(self.cells).savefig(folder / "accuracy.png")


def shown(value: dict[str, Any] | None) -> str:
    """A mean and its interval as text."""
    return "-" if value is None else f"{value['mean']:.3f} ± {value['half']:.3f}"


def summary(values: torch.Tensor) -> dict[str, Any]:
    """Mean and half-width of the 95% confidence interval over the seeds, and the values."""
    mean, half = cl.metrics.mean_ci(values) if len(values) > 1 else (values[0], torch.tensor(math.nan))
    return {"mean": float(mean), "half": float(half), "values": values.tolist()}
