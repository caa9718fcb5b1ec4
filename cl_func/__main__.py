"""Comparisons from a shell.

python -m cl_func compare --data FOLDER --setting class --methods er der_pp lwf --seeds 5
python -m cl_func list
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cl_func import checks
from cl_func.commands import comparison, methods


def _positive(text: str) -> int:
    try:
        return checks.positive_int("it", int(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}") from None


def parser() -> argparse.ArgumentParser:
    """The arguments of all commands."""
    found = argparse.ArgumentParser("python -m cl_func", description="Continual-learning methods from a shell.")
    commands = found.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="name the methods", description="The methods, the settings that they are for, their sources.")
    one = commands.add_parser(
        "compare",
        help="run several methods with the same seeds, and print a table",
        description="Run several methods with the same seeds, and print their accuracy, forgetting and differences as Markdown.",
    )
    add = one.add_argument
    add("--data", type=Path, metavar="FOLDER", help="idx files, CIFAR, npz files or images (default: the digits that are shipped)")
    add("--setting", nargs="+", choices=methods.SETTINGS, default=["class"], help="one or several (default: class)")
    add("--methods", nargs="+", default=["naive", "lwf", "er", "der_pp"], metavar="NAME", help="as `list` has them")
    add("--seeds", type=_positive, default=5, metavar="N", help="runs of each method (default: 5)")
    add("--experiences", type=_positive, metavar="N", help="how many experiences (default: about five)")
    add("--hidden", type=_positive, nargs="+", default=[256, 256], metavar="N", help="sizes of the layers of the MLP")
    add("--batch-size", type=_positive, metavar="N", help="rows of a minibatch (default: 32, or 128 of more than 10,000 rows)")
    add("--epochs", type=_positive, metavar="N", help="passes over an experience (default: 10, or 1 of more than 10,000 rows)")
    add(
        "--capacity",
        type=_positive,
        metavar="N",
        help="rows of a memory (default: 200, or 1000 of more than 10,000 rows; 10 a class)",
    )
    add("--lr", type=float, default=0.05, help="of SGD with momentum 0.9 (default: 0.05)")
    add("--device", help="where to run, such as cuda (default: cpu)")
    add("--resume", type=Path, metavar="FOLDER", help="keeps what is finished; the same command goes on from there")
    add("--out", type=Path, metavar="FOLDER", help="for runs.safetensors, table.md and pictures")
    add("--quiet", action="store_true", help="show no progress")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the status to exit with."""
    arguments_parser = parser()
    args = arguments_parser.parse_args(arguments)
    if args.command == "list":
        return comparison.show_methods()
    if len(set(args.methods)) < len(args.methods) or len(set(args.setting)) < len(args.setting):
        arguments_parser.error("--methods, --setting: give each once")
    try:
        return comparison.run(args)
    except (ValueError, FileNotFoundError, ImportError) as error:
        arguments_parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
