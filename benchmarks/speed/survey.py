"""How long a run of the online survey takes, ER on Split CIFAR-100, beside the same run in Avalanche.

    python -m benchmarks.speed.survey --avalanche-python ENV/bin/python [--rounds 5]

A run is 4,760 minibatches, each stepped on three times; some of them are timed, ours and theirs in turn, on one thread and on two.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from benchmarks import machine, results
from benchmarks.peers.interpreters import MAKE, Peers
from benchmarks.process import alternate, command_line, workers

MINIBATCHES = 4_760


def main() -> int:
    """Time them, print and write the table; 1 if one did not start."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--avalanche-python", help="the interpreter of an environment with Avalanche (or CL_BENCH_AVALANCHE)")
    parser.add_argument("--rounds", type=int, default=5, help="timed repetitions of each")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one repetition")
    parser.add_argument("--out", type=Path, default=Path("out/survey"), help="folder for survey.json and survey.md")
    args = parser.parse_args()
    try:
        peers = Peers.of(None, args.avalanche_python)
    except ValueError as error:
        parser.error(str(error))
    commands, untimed = {}, {}
    contenders = [
        (f"{name}, {threads} thread{'s' if threads > 1 else ''}", who, module, ("--threads", threads))
        for threads in (1, 2)
        for name, who, module in (
            ("ours", "ours", "benchmarks.speed.workers.survey"),
            ("Avalanche", "avalanche", "benchmarks.peers.avalanche_survey"),
        )
    ]
    for name, who, module, more in contenders:
        command = peers.command(who, module, (*more, "--seconds", args.seconds))
        if command is None:
            untimed[name] = f"not installed: {MAKE[who]}"
        else:
            commands[name] = command
    with workers(commands, args.out / "logs") as (started, failed):
        answers = alternate(started, failed, args.rounds)
        versions = {name: worker.ready["versions"] for name, worker in started.items()}
    rows = []
    for name, found in answers.items():
        times = [answer["us_per_step"] / 1e3 for answer in found]
        middle = statistics.median(times)
        rows.append(
            {
                "contender": name,
                "milliseconds per minibatch": middle,
                "from": min(times),
                "to": max(times),
                "minutes per run": middle * MINIBATCHES / 60e3,
                "versions": ", ".join(f"{key} {value}" for key, value in versions[name].items()),
            }
        )
    typed = command_line("benchmarks.speed.survey", sys.argv[1:], ("--out", "--avalanche-python"))
    lines = ["# A run of the online survey", "", f"`{typed}`", "", *(f"- {k}: {v}" for k, v in machine.describe().items()), ""]
    lines += ["| contender | ms per minibatch | from | to | minutes per run | versions |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        numbers = " | ".join(
            f"{row[key]:.1f}"
            for key in ("milliseconds per minibatch", "from", "to", "minutes per run")
            if isinstance(row[key], float)
        )
        lines.append(f"| {row['contender']} | {numbers} | {row['versions']} |")
    lines += ["", *(f"- {name}: {why}" for name, why in {**untimed, **failed}.items())]
    text = "\n".join(lines).rstrip() + "\n"
    print(text)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "survey.md").write_text(text, encoding="utf-8")
    results.write(args.out / "survey.json", {"command": typed, "machine": machine.describe(), "rows": rows})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
