"""The results of the online survey: runs, the table of their figures, and the picture of the accuracy along the stream."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import cl_func as cl
from benchmarks import results
from benchmarks.accuracy.online_methods import METHODS
from benchmarks.accuracy.table import summary
from cl_func.plots import PALETTE

# The published runs of ER: the accuracy on the test data seen so far after each experience, five seeds (results/ in their
# repository, er_split_cifar100_20_2000/*/logs.json).
_PUBLISHED_ER = """
    6700 6080 4733 5115 4608 4407 4083 4180 3951 3920 4018 3928 3462 3514 3284 3080 3245 3329 2974 2895
    5220 4170 4440 4295 3816 4203 4080 4265 3418 3142 3376 3300 2962 3279 3028 3063 3128 2946 2834 2969
    6820 6060 5147 5090 4732 4760 4091 4368 4456 4252 3515 4163 3754 3589 3437 2845 3114 3081 2943 2698
    7200 4930 4487 4580 4064 3803 3917 3523 4147 3974 3635 3705 3708 3507 3283 3265 3222 2933 2781 2824
    6960 5570 5873 5040 4300 4170 4003 3715 3978 3816 3629 3378 3218 3391 3265 3118 2915 3067 2647 2689
"""  # in units of 0.0001
PUBLISHED_ER = torch.tensor(
    [[int(v) / 1e4 for v in line.split()] for line in _PUBLISHED_ER.strip().split("\n")], dtype=torch.float64
)
FIGURES = {
    "final": "final accuracy, test",
    "ends": "mean over the ends of experiences, test",
    "stream": "mean over the stream, validation",
    "worst": "worst case, validation",
}


@dataclasses.dataclass
class OnlineResults:
    """The runs so far."""

    command: str
    machine: dict[str, str]
    protocol: dict[str, Any]
    runs: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @classmethod
    def read(cls, folder: Path, command: str, facts: dict[str, str], protocol: dict[str, Any]) -> OnlineResults:
        """Those of an earlier call in a folder. Raises ValueError if they are of another protocol."""
        return cls(command, facts, protocol, results.earlier(folder / "online.json", "runs", "protocol", protocol))

    def run(self, method: str, seed: int) -> dict[str, Any] | None:
        """A run that is there."""
        return next((one for one in self.runs if (one["method"], one["seed"]) == (method, seed)), None)

    def put(self, run: dict[str, Any]) -> None:
        """Add a run, in the order of the methods."""
        self.runs.append(run)
        self.runs.sort(key=lambda one: (list(METHODS).index(one["method"]), one["seed"]))

    @property
    def methods(self) -> list[str]:
        """Those with a run, in their order."""
        return list(dict.fromkeys(one["method"] for one in self.runs))

    def of(self, method: str) -> list[dict[str, Any]]:
        """The runs of a method."""
        return [one for one in self.runs if one["method"] == method]

    def table(self) -> str:
        """A row for each method."""
        lines = ["| method | seeds | " + " | ".join(FIGURES.values()) + " |", "| --- | --- |" + " --- |" * len(FIGURES)]
        for name in self.methods:
            found = [figures(one) for one in self.of(name)]
            cells = [_shown([one[figure] for one in found]) for figure in FIGURES]
            lines.append("| " + " | ".join([name, str(len(found)) + (" (one run)" if len(found) == 1 else ""), *cells]) + " |")
        theirs = [_shown(PUBLISHED_ER[:, -1].tolist()), _shown(PUBLISHED_ER.mean(1).tolist()), "-", "-"]
        lines.append("| " + " | ".join(["ER, the survey's runs", str(len(PUBLISHED_ER)), *theirs]) + " |")
        return "\n".join(lines)

    def markdown(self) -> str:
        """The page as Markdown."""
        facts = [f"- {name}: {value}" for name, value in self.machine.items()]
        facts += [f"- {name}: {value}" for name, value in self.protocol.items()]
        single = [name for name in self.methods if len(self.of(name)) == 1]
        notes = [
            "Mean ± half-width of the 95% confidence interval over the seeds. Only the classes seen so far compete. The mean over "
            "the stream and the worst case (`cl.metrics.average_anytime_accuracy`, `worst_case_accuracy`) are of validation rows, "
            f"measured {self.protocol['evaluations']} times in each experience, where the survey measures after every minibatch."
        ]
        if single:
            notes.append(f"Nothing is known of the spread of those with one seed: {'; '.join(single)}")
        parts = ["# Online Split CIFAR-100", f"`{self.command}`", "\n".join(facts), self.table(), *notes]
        return "\n\n".join([*parts, "![accuracy along the stream](online.png)"]) + "\n"

    def write(self, folder: Path) -> None:
        """Write online.json, online.md and online.png."""
        results.write(folder / "online.json", dataclasses.asdict(self))
        (folder / "online.md").write_text(self.markdown())
        if self.runs:
            draw(self).savefig(folder / "online.png")


def figures(run: dict[str, Any]) -> dict[str, float]:
    """The figures of a run."""
    valid, test = _matrix(run["valid"]), _matrix(run["test"])
    return {
        "final": float(cl.metrics.average_accuracy(test, run["seen_test"])[-1]),
        "ends": float(cl.metrics.average_accuracy(test, run["seen_test"]).mean()),
        "stream": float(cl.metrics.average_anytime_accuracy(valid, run["seen"])),
        "worst": float(cl.metrics.worst_case_accuracy(valid, run["seen"])),
    }


def _matrix(values: list[list[float]]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _shown(values: list[float]) -> str:
    found = summary(torch.tensor(values, dtype=torch.float64))
    return f"{found['mean']:.3f}" + ("" if math.isnan(found["half"]) else f" ± {found['half']:.3f}")


def draw(table: OnlineResults) -> Figure:
    """The accuracy on the validation rows seen so far along the stream, a line for each method; the survey's ER on test rows."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained", dpi=150)
    ax = figure.subplots()
    last = 1
    for i, name in enumerate(table.methods):
        found = table.of(name)
        curves = torch.stack([cl.metrics.average_accuracy(_matrix(one["valid"]), one["seen"]) for one in found])
        times, color = found[0]["minibatches"], PALETTE[i % len(PALETTE)]
        if len(times) == 1:  # GDumb is asked at the end alone
            ax.axhline(float(curves.mean()), color=color, linewidth=1.2, linestyle=":", label=f"{name}, at the end")
            continue
        mean, dashes = curves.mean(0), "-" if i < len(PALETTE) else "--"
        ax.plot(times, mean.tolist(), color=color, linestyle=dashes, linewidth=1.4, label=name)
        if len(found) > 1:
            ax.fill_between(times, curves.amin(0).tolist(), curves.amax(0).tolist(), color=color, alpha=0.15, linewidth=0)
        last = max(last, times[-1])
    published = PUBLISHED_ER.mean(0)
    if table.protocol["experiences"] == len(published) and last > 1:
        ends = [last * (i + 1) / len(published) for i in range(len(published))]
        ax.plot(ends, published.tolist(), "k--", linewidth=1, label="ER, the survey's, test")
    ax.set(xlabel="minibatches", ylabel="accuracy on the classes seen so far", ylim=(0, None))
    ax.grid(axis="y", color="0.9", linewidth=0.8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize="small")
    return figure
