"""B1 to B4: the time of a training step, ours and the peers' in turn."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.interpreters import MAKE, Peers
from benchmarks.process import alternate, shown, workers
from benchmarks.speed.report import Measured, Report
from benchmarks.works import WORKS

PER_STEP = "us per step of one run"


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of all benchmarks, from the command line."""

    peers: Peers
    rounds: int
    seconds: float  # length of one repetition
    quick: bool
    out: Path
    data: Path | None


@dataclasses.dataclass(frozen=True)
class Contender:
    """One worker: its name in the table, the environment it runs in, its module (below `benchmarks`) and its arguments."""

    name: str
    who: str
    module: str
    arguments: tuple[object, ...] = ()


def compare(settings: Settings, report: Report, work: str, contenders: Sequence[Contender]) -> dict[str, list[dict[str, Any]]]:
    """Time the contenders in turn and add their answers to the report, or why they are missing.

    Returns for each contender its message when ready, then one answer per round.
    """
    commands = {}
    for c in contenders:
        command = settings.peers.command(c.who, f"benchmarks.{c.module}", (*c.arguments, "--seconds", settings.seconds))
        if command is None:
            report.missing.append((work, c.name, f"not installed: {MAKE[c.who]}"))
        else:
            commands[c.name] = command
    with workers(commands, settings.out / "logs" / work) as (started, failed):
        answers = alternate(started, failed, settings.rounds)
        ready = {name: worker.ready for name, worker in started.items()}
    report.missing += [(work, name, f"failed: {why}") for name, why in failed.items()]
    for c in contenders:
        if c.name in answers:
            report.versions.setdefault(c.who, {}).update(ready[c.name].get("versions", {}))
            for key, unit in (("us_per_step", PER_STEP), ("gflops", "GFLOP/s")):
                values = [answer[key] for answer in answers[c.name] if key in answer]
                if values:
                    report.measured.append(Measured(work, c.name, unit, values, shown(commands[c.name])))
    return {name: [ready[name], *values] for name, values in answers.items()}


def count(lanes: int) -> str:
    """A number of lanes with its noun."""
    return f"{lanes} lane" if lanes == 1 else f"{lanes} lanes"


def _ours(work: str, lanes: Sequence[int]) -> list[Contender]:
    return [Contender(f"ours, compiled, {count(n)}", "ours", "speed.workers.ours", (work, "--lanes", n)) for n in lanes]


def _side_by_side(who: str, module: str, name: str, work: str, lanes: int, cores: int = 2) -> Contender:
    """A chunk of lanes on each core, as `cl.sweep` runs them."""
    return Contender(f"{name}, {cores} x {count(lanes)}", who, module, (work, "--lanes", lanes, "--chunks", cores))


def _by_hand(work: str) -> list[Contender]:
    return [
        Contender("by hand, eager", "ours", "peers.by_hand", (work, "--mode", "eager")),
        Contender("by hand, torch.compile", "ours", "peers.by_hand", (work, "--mode", "compiled")),
    ]


def b1(settings: Settings, report: Report) -> None:
    """Online ER on an MLP of the usual size, by all contenders."""
    work, lanes = "B1", (1, 4) if settings.quick else (1, 4, 16, 64)
    beside = (2,) if settings.quick else (1, 2, 4)
    report.titles[work] = WORKS[work].title
    contenders = [
        *_ours(work, lanes),
        *(_side_by_side("ours", "speed.workers.ours", "ours, compiled", work, n) for n in beside),
        Contender("ours, eager", "ours", "speed.workers.ours", (work, "--mode", "eager")),
        *_by_hand(work),
        *(Contender(f"JAX, {count(n)}", "jax", "peers.jax_er", (work, "--lanes", n)) for n in lanes),
        *(_side_by_side("jax", "peers.jax_er", "JAX", work, n) for n in beside),
        Contender("Avalanche, online", "avalanche", "peers.avalanche_er", (work, "--mode", "online")),
        Contender("Avalanche, batch mode", "avalanche", "peers.avalanche_er", (work, "--mode", "batch")),
        Contender("GEMM peak", "ours", "speed.workers.gemm"),
    ]
    compare(settings, report, work, contenders)
    ours, hand, peak = report.best(work, "ours, compiled"), report.median(work, "by hand, eager"), report.median(work, "GEMM peak")
    report.bar(work, "ours, best lanes / JAX, best lanes", ours, report.best(work, "JAX"), 0.75)
    report.bar(work, "by hand, eager / ours, best lanes", hand, ours, 3.5, at_most=False)
    report.bar(work, "Avalanche, online / ours, best lanes", report.median(work, "Avalanche, online"), ours, 15, at_most=False)
    limit = WORKS[work].flops / peak / 1e3 if peak else None
    report.bar(work, "share of the FLOP limit: limit / ours, best lanes", limit, ours, 0.75, at_most=False)
    one = report.median(work, "ours, compiled, 1 lane")
    report.bar(work, "one run: ours, compiled / JAX", one, report.median(work, "JAX, 1 lane"), 1.0)
    report.bar(work, "one run: ours, eager / by hand, eager", report.median(work, "ours, eager"), hand, 1.6)
    if limit:
        report.notes.append(f"B1: a step is {WORKS[work].flops / 1e6:.1f} MFLOP, {limit:.0f} us at the measured GEMM peak")


def b2(settings: Settings, report: Report) -> None:
    """The same on a tiny MLP, where overheads dominate and many lanes fit into the cache."""
    work, lanes = "B2", (1, 64) if settings.quick else (1, 4, 16, 64)
    report.titles[work] = WORKS[work].title
    contenders = [
        *_ours(work, lanes),
        _side_by_side("ours", "speed.workers.ours", "ours, compiled", work, lanes[-1] // 2),
        *_by_hand(work),
        *(Contender(f"JAX, {count(n)}", "jax", "peers.jax_er", (work, "--lanes", n)) for n in lanes),
        _side_by_side("jax", "peers.jax_er", "JAX", work, lanes[-1] // 2),
        Contender("Avalanche, online", "avalanche", "peers.avalanche_er", (work, "--mode", "online")),
    ]
    compare(settings, report, work, contenders)
    ours, jax = report.median(work, "ours, compiled, 64 lanes"), report.median(work, "JAX, 64 lanes")
    report.bar(work, "64 lanes: ours / JAX", ours, jax, 0.7)
    one = report.median(work, "ours, compiled, 1 lane")
    report.bar(work, "one run: ours, compiled / JAX", one, report.median(work, "JAX, 1 lane"), 2.0)


def b3(settings: Settings, report: Report) -> None:
    """Batch mode with Adam on 128 rows, bound by the matrix products."""
    for work in ("B3-naive", "B3-er", "B3-lwf"):
        report.titles[work] = WORKS[work].title
        contenders = [
            *_ours(work, (1,) if settings.quick else (1, 4)),
            _side_by_side("ours", "speed.workers.ours", "ours, compiled", work, 1),
            *_by_hand(work),
            Contender("Avalanche", "avalanche", "peers.avalanche_er", (work,)),
        ]
        compare(settings, report, work, contenders)
        hand = report.median(work, "by hand, eager")
        report.bar(work, "by hand, eager / ours, best lanes", hand, report.best(work, "ours, compiled"), 1.3, at_most=False)


def b4(settings: Settings, report: Report) -> None:
    """A convolutional network, bound by the convolutions: on all cores and on one; several runs as lanes, or side by side."""
    work = "B4"
    report.titles[work] = WORKS[work].title
    contenders = []
    for cores, threads in (("", ()), (", 1 thread", ("--threads", 1))):
        contenders += [
            Contender(f"ours, compiled{cores}", "ours", "speed.workers.ours", (work, "--lanes", 1, *threads)),
            Contender(f"ours, eager{cores}", "ours", "speed.workers.ours", (work, "--mode", "eager", *threads)),
            *(
                Contender(f"by hand, {mode}{layout}{cores}", "ours", "peers.by_hand", (work, "--mode", mode, *flag, *threads))
                for mode in (("eager",) if settings.quick else ("eager", "compiled"))
                for layout, flag in (("", ()), (", channels last", ("--channels-last",)))
            ),
            Contender(f"GEMM peak{cores}", "ours", "speed.workers.gemm", threads),
        ]
    if not settings.quick:
        contenders.append(Contender("ours, 4 runs in a loop", "ours", "speed.workers.ours", (work, "--lanes", 4, "--loop")))
        contenders += [Contender(f"ours, compiled, {count(n)}", "ours", "speed.workers.ours", (work, "--lanes", n)) for n in (2, 4)]
        contenders.append(_side_by_side("ours", "speed.workers.ours", "ours, compiled", work, 1))
    compare(settings, report, work, contenders)
    for cores in ("", ", 1 thread"):
        ours, peak = report.median(work, f"ours, compiled{cores}"), report.median(work, f"GEMM peak{cores}")
        for mode in ("eager", "compiled"):
            for layout in ("", ", channels last"):
                hand = f"by hand, {mode}{layout}{cores}"
                if mode == "eager" or not settings.quick:
                    report.bar(work, f"ours, compiled / {hand}", ours, report.median(work, hand), 1.0)
        limit = WORKS[work].flops / peak / 1e3 if peak else None
        report.bar(work, f"share of the FLOP limit{cores}: limit / ours, compiled", limit, ours, 0.7, at_most=False)


def b9(settings: Settings, report: Report) -> None:
    """Many runs of a tiny network, one example at a time: 100 runs of slowly changing regression as lanes."""
    work, lanes = "B9", 10 if settings.quick else 100
    report.titles[work] = "slowly changing regression, MLP 20-5-1, SGD on one example at a time, its error summed"
    contenders = [
        Contender(f"ours, {count(lanes)}", "ours", "speed.workers.slow_regression", ("--lanes", lanes)),
        Contender(f"JAX, {count(lanes)}", "jax", "peers.jax_slow_regression", ("--lanes", lanes)),
    ]
    compare(settings, report, work, contenders)
    ours, jax = (report.median(work, contender.name) for contender in contenders)
    report.bar(work, "ours / JAX", ours, jax, 1.0)
    if ours:
        report.notes.append(f"B9: at this rate 100 runs of a million examples take {ours * 100:.0f} s")
