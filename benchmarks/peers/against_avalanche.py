"""The accuracy of the methods beside Avalanche's, with the same protocol and hyperparameters and independent seeds.

    python -m benchmarks.peers.against_avalanche --data FOLDER --avalanche-python ENV/bin/python

Class-incremental Split-Fashion-MNIST in the quick protocol of benchmarks/accuracy: 300 iterations per experience, 5 seeds. The
two draw different random numbers, so only distributions can agree. The table gives for each method both means with their 95%
confidence intervals, whether each mean lies in the other's interval, and if not, whether the two can be told apart; known
differences are listed beside them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

import cl_func as cl
from benchmarks import machine, results
from benchmarks.accuracy.table import shown, summary
from benchmarks.accuracy.tuning import QUICK, Sweeper
from benchmarks.methods import MEMORY, Problem, find, load_problem
from benchmarks.peers.interpreters import MAKE, Peers
from benchmarks.process import ROOT, WorkerError, command_line, environment, last_line


def lwf_all_classes(p: Problem) -> cl.Strategy:
    """LwF as in Avalanche: all classes compete in the cross-entropy. `cl.strategies.lwf` follows Algorithm 1 of the paper."""
    ours = find("lwf").strategy(p)
    loss = cl.losses.total(cl.losses.cross_entropy(p.model), cl.regularizers.lwf.distillation(p.model))
    train = cl.minibatches(cl.train_step(loss, p.optimizer), batch_size=p.batch, iterations=p.iterations)
    return cl.Strategy(ours.init, cl.compose(cl.regularizers.lwf.snapshot(), train), p.model)


def icarl_all_outputs(p: Problem) -> cl.Strategy:
    """iCaRL as in Avalanche: the loss has outputs of future classes, and minibatches hold exemplars in proportion to their number.

    `cl.strategies.icarl` follows Algorithm 3 of the paper, and adds to every minibatch exemplars that are weighted in proportion.
    """
    ours = find("icarl").strategy(p)
    assert isinstance(ours.update, cl.core.Compose)
    begin, _, *after = ours.update.updates

    def loss(params: Any, agent: Any, exp: cl.Experience) -> tuple[torch.Tensor, Any]:
        key, draw_key, swap_key = cl.random.split(agent.key, 3)
        n = len(exp)
        exemplars, valid = cl.memory.herding.draw(agent.replay, draw_key, n)
        swapped = valid & (cl.random.uniform(swap_key, (n,)) < agent.share)
        mixed = cl.tree.where(swapped, exemplars, cl.memory.fields(agent, exp))
        logits, _ = p.model.apply(params, agent.model.buffers, mixed["x"], train=True)
        teacher, _ = p.model.apply(agent.teacher.params, agent.teacher.buffers, mixed["x"])
        label = (mixed["y"][:, None] == torch.arange(p.classes, device=logits.device)).to(logits.dtype)
        target = torch.where(agent.old, teacher.sigmoid(), label)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, target), agent.replace(key=key)

    train = cl.minibatches(cl.train_step(loss, p.optimizer), batch_size=p.batch, iterations=p.iterations)
    return cl.Strategy(ours.init, cl.compose(begin, train, *after), ours.model)


def slda_untrained(p: Problem) -> cl.Strategy:
    """SLDA on the features of the untrained network: Avalanche expects a pretrained one and never trains it."""
    return cl.strategies.slda(p.model, batch_size=p.batch)


@dataclasses.dataclass(frozen=True)
class Pair:
    """A method of both libraries: our hyperparameters by path, their arguments, and the known differences."""

    name: str
    ours: Mapping[str, float] = dataclasses.field(default_factory=dict)
    theirs: Mapping[str, float] = dataclasses.field(default_factory=dict)
    differs: str = ""
    mended: bool = False  # whether their known fault is mended, in benchmarks/peers/avalanche_methods.py
    strategy: Callable[[Problem], cl.Strategy] | None = None
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of our factory

    @property
    def label(self) -> str:
        """The name in the table."""
        return f"{self.name}, mended" if self.mended else self.name


CLASSES = 10

BATCHED = "their importances are of minibatch gradients, about 128 times smaller"
LEFT_OUT = "they never replay the classes of the experience before: those of its last minibatch are left out"
BALANCED = "their memory is class-balanced"
SHARE = "exemplars are drawn in their share of the data, ours join every minibatch and weigh that share"
MIR = Pair("mir", {"virtual_lr": 1e-3}, {"subsample": 200}, arguments={"candidates": 200})

PAIRS = (
    Pair("naive"),
    Pair("er"),
    Pair("er_ace", differs=f"{BALANCED} and holds the current classes from the start; classes not yet seen compete"),
    Pair("der", {"alpha": 0.3}, {"alpha": 0.3, "beta": 0.0}, f"{BALANCED} and filled after an experience, ours at each step"),
    Pair("agem", differs="their memory is balanced over experiences"),
    Pair("gem", {"gem.margin": 0.5}, {"memory_strength": 0.5}),
    Pair("ewc", {"ewc.strength": 100.0}, {"ewc_lambda": 50.0}, BATCHED),
    Pair("ewc", {"ewc.strength": 100.0}, {"ewc_lambda": 50.0}, mended=True),
    Pair(
        "lwf",
        {"lwf.strength": 1.0, "lwf.temperature": 2.0},
        {"alpha": 4.0, "temperature": 2.0},
        "nothing: ours is composed as theirs, all classes compete in the cross-entropy, not as cl.strategies.lwf",
        strategy=lwf_all_classes,
    ),
    Pair(
        "icarl",
        differs="nothing: ours is composed as theirs, not as cl.strategies.icarl; see the mended one",
        strategy=icarl_all_outputs,
    ),
    Pair("icarl", differs=SHARE, mended=True),
    Pair("gdumb"),
    dataclasses.replace(MIR, differs=f"{LEFT_OUT}; {BALANCED}"),
    dataclasses.replace(MIR, differs=BALANCED, mended=True),
    Pair("slda", {"slda.shrinkage": 1e-4}, {"shrinkage_param": 1e-4}, strategy=slda_untrained),
)


def ours(pair: Pair, problem: Problem, seeds: int, sweeper: Sweeper) -> dict[str, Any]:
    """Our accuracies."""
    strategy = pair.strategy(problem) if pair.strategy else find(pair.name).strategy(problem, **pair.arguments)
    return final(sweeper.sweep(strategy, problem.bench, seeds, {path: [v] for path, v in pair.ours.items()})["accuracy"])


def theirs(pair: Pair, args: argparse.Namespace) -> dict[str, Any]:
    """Avalanche's accuracies, from one process for all seeds."""
    words = [pair.name, "--data", args.data.resolve(), "--iterations", args.iterations, "--seeds", args.seeds, "--memory", MEMORY]
    words += ["--values", json.dumps(dict(pair.theirs)), *(["--mended"] if pair.mended else [])]
    words += ["--limit", args.limit] if args.limit else []
    command = args.peers.command("avalanche", "benchmarks.peers.avalanche_methods", words)
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise WorkerError(f"ended with status {done.returncode}: {last_line(done.stderr)}")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return final(torch.tensor([line["accuracy"] for line in lines]))


def final(R: torch.Tensor) -> dict[str, Any]:
    """Average accuracy and forgetting at the end, from the accuracy matrices of all seeds."""
    R = R.reshape(-1, *R.shape[-2:])
    return {
        "accuracy": summary(cl.metrics.average_accuracy(R)[:, -1]),
        "forgetting": summary(cl.metrics.forgetting(R).reshape(len(R), -1)[:, -1]),
        "R": R.mean(0).tolist(),
    }


def verdict(a: dict[str, Any], b: dict[str, Any]) -> str:
    """Whether two means lie in each other's intervals, or at least cannot be told apart."""
    gap = abs(a["mean"] - b["mean"])
    if gap <= min(a["half"], b["half"]):
        return "inside each other's"
    inside = "ours in theirs" if gap <= b["half"] else "theirs in ours" if gap <= a["half"] else "neither in the other's"
    return f"{inside}; {'not told apart' if gap <= math.hypot(a['half'], b['half']) else 'DIFFERENT'}"


def broken(sides: list[dict[str, Any]]) -> str:
    """How many seeds ended at chance, as after a loss that became NaN, and how the sides compare without them; "" if none did."""
    learned = [[value for value in side["values"] if value > 1 / CLASSES + 1e-6] for side in sides]
    lost = [len(side["values"]) - len(values) for side, values in zip(sides, learned, strict=True)]
    if not any(lost) or min(map(len, learned)) < 2:
        return ""
    a, b = (summary(torch.tensor(values)) for values in learned)
    return (
        f"; {lost[0]} of our seeds and {lost[1]} of theirs ended at chance, without them {shown(a)} and {shown(b)}: {verdict(a, b)}"
    )


def table(rows: list[dict[str, Any]]) -> str:
    """One line per method."""
    lines = ["| method | ours | Avalanche | interval | forgetting, ours | Avalanche | known to differ |", "|" + " --- |" * 7]
    for row in rows:
        sides = [row[side] for side in ("ours", "theirs") if side in row]
        accuracies = [side["accuracy"] for side in sides]
        found = verdict(*accuracies) + broken(accuracies) if len(sides) == 2 else row.get("why", "-").replace("|", "/")
        accuracy, forgetting = (
            [shown(row[side][what] if side in row else None) for side in ("ours", "theirs")] for what in ("accuracy", "forgetting")
        )
        cells = [row["method"], *accuracy, found, *forgetting, row["differs"]]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    """The command line, checked."""
    names = list(dict.fromkeys(pair.name for pair in PAIRS))
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.against_avalanche",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the idx files of Fashion-MNIST, plain or .gz")
    parser.add_argument("--avalanche-python", help="the interpreter of an environment with Avalanche (or CL_BENCH_AVALANCHE)")
    parser.add_argument("--methods", nargs="+", choices=names, default=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--iterations", type=int, default=QUICK, help="per experience")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--lanes", type=int, default=2, help="runs in one program of ours; 0 lets the sweep find what is fastest")
    parser.add_argument("--limit", type=int, help="only the first rows of the data, for a trial")
    parser.add_argument("--again", action="store_true", help="run what --out already holds, too")
    parser.add_argument("--out", type=Path, default=Path("out/against_avalanche"), help="folder for the .json and .md")
    args = parser.parse_args()
    if not args.data.is_dir():
        parser.error(f"--data: there is no folder {args.data}")
    if args.seeds < 2:
        parser.error(f"--seeds: an interval needs at least 2, got {args.seeds}")
    try:
        args.peers = Peers.of(None, args.avalanche_python)
    except ValueError as error:
        parser.error(str(error))
    if args.peers.avalanche is None:
        parser.error(f"--avalanche-python: not given; {MAKE['avalanche']}")
    return args


def main() -> int:
    """Run both sides of every method, write after each; 1 if one failed."""
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    problem, sweeper = load_problem("class", args.data, args.iterations, args.limit), Sweeper(args.lanes or "auto", None)
    protocol = {"iterations": args.iterations, "seeds": args.seeds, "limit": args.limit}
    command = command_line("benchmarks.peers.against_avalanche", sys.argv[1:], ("--data", "--out", "--avalanche-python"))
    file, failed = args.out / "against_avalanche.json", 0
    try:
        rows = {row["method"]: row for row in ([] if args.again else results.earlier(file, "rows", "protocol", protocol))}
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    for pair in PAIRS:
        if pair.name not in args.methods:
            continue
        same = {
            "method": pair.label,
            "differs": pair.differs,
            "hyperparameters": {"ours": dict(pair.ours), "theirs": dict(pair.theirs)},
            "composed": pair.strategy.__name__ if pair.strategy else "",
        }
        row, start = {**rows.get(pair.label, {}), **same}, time.perf_counter()
        deciding = ("hyperparameters", "composed")
        if any(rows.get(pair.label, {}).get(name) != same[name] for name in deciding):
            row = same
        # A pair and its mended twin share our side.
        alike = (r for r in rows.values() if r["method"].split(",")[0] == pair.name and all(r[n] == same[n] for n in deciding))
        twin = next(alike, {})
        row.update({"ours": twin["ours"]} if "ours" in twin else {})
        sides: dict[str, Callable[[], dict[str, Any]]] = {
            "ours": partial(ours, pair, problem, args.seeds, sweeper),
            "theirs": partial(theirs, pair, args),
        }
        row.pop("why", None)
        for side, run in sides.items():
            if side in row:
                continue
            if side == "ours" and not find(pair.name).available:
                row["why"] = "ours: not in cl.strategies"
                continue
            try:
                row[side] = run()
            except Exception as error:  # one method that fails must not cost the others' hours
                row["why"], failed = f"{side}: {type(error).__name__}: {error}".splitlines()[0][:200], 1
        rows[pair.label] = row
        print(f"{table([row]).splitlines()[-1]} ({time.perf_counter() - start:.0f} s)", flush=True)
        ordered = [rows[p.label] for p in PAIRS if p.label in rows]
        results.write(file, {"command": command, "machine": machine.describe(), "protocol": protocol, "rows": ordered})
        facts = "\n".join(f"- {name}: {value}" for name, value in {**machine.describe(), **protocol}.items() if value is not None)
        page = [
            "# Beside Avalanche 0.6",
            f"`{command}`",
            facts,
            table(ordered),
            "Mean ± half-width of the 95% confidence interval.",
        ]
        (args.out / "against_avalanche.md").write_text("\n\n".join(page) + "\n")
    print(f"\nwritten: {args.out}/against_avalanche.json, .md")
    return failed


if __name__ == "__main__":
    sys.exit(main())
