"""Workers: long-lived processes that are timed in turn (A B C A B C ...); and whole processes, timed from the outside."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

# All contenders run on the CPU, even where JAX or torch would find an accelerator. How threads wait is left at its default: made to
# sleep at once (OMP_WAIT_POLICY=PASSIVE), they double the time of a small step.
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}


class WorkerError(RuntimeError):
    """A contender did not start, or died; the message ends with the last line that it wrote."""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of every process that is timed."""
    return {**os.environ, **ENVIRONMENT, **(extra or {})}


def shown(command: Sequence[str | Path]) -> str:
    """A command as a reader can type it, without the path of the interpreter."""
    return shlex.join(["python", *map(str, command[1:])])


def command_line(module: str, words: Sequence[str], paths: Sequence[str]) -> str:
    """The command that was typed, with PATH for the values of the options in `paths`: local paths tell a reader nothing."""
    typed, hide = [], False
    for word in words:
        option, equals, _ = word.partition("=")
        typed.append("PATH" if hide else f"{option}=PATH" if equals and option in paths else word)
        hide = word in paths
    return shlex.join(["python", "-m", module, *typed])


def last_line(text: str) -> str:
    """The last line that a failed process wrote."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it wrote nothing"


class Worker:
    """One contender: a process that has warmed up and waits for its turn."""

    def __init__(
        self, command: Sequence[str | Path], log: Path, timeout: float = 1200, extra: Mapping[str, str] | None = None
    ) -> None:
        self.command, self.log, self.timeout, self._buffer = command, log, timeout, b""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                list(map(str, command)),
                cwd=ROOT,
                env=environment(extra),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        try:
            self.ready = self._answer()
        except WorkerError:
            self.close()
            raise

    def go(self) -> dict[str, Any]:
        """One timed repetition."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(b"go\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died; `_answer` raises with the reason
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        """The next JSON object on its standard output; other lines there come from libraries."""
        assert self.process.stdout is not None
        end, source = time.monotonic() + self.timeout, self.process.stdout.fileno()
        while True:
            while b"\n" in self._buffer:
                line, _, self._buffer = self._buffer.partition(b"\n")
                if line.startswith(b"{"):
                    return json.loads(line)
            if not select.select([source], [], [], max(0.0, end - time.monotonic()))[0]:
                raise WorkerError(f"no answer within {self.timeout:.0f} s")
            chunk = os.read(source, 1 << 16)
            if not chunk:
                self.process.wait()
                raise WorkerError(f"ended with status {self.process.returncode}: {last_line(self.log.read_text(errors='replace'))}")
            self._buffer += chunk

    def close(self) -> None:
        """End the process, which exits when its standard input is closed."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def workers(commands: Mapping[str, Sequence[str | Path]], logs: Path) -> Iterator[tuple[dict[str, Worker], dict[str, str]]]:
    """Start the workers one after the other; yields those that are ready, and for the others the reasons why they are not."""
    started: dict[str, Worker] = {}
    failed: dict[str, str] = {}
    try:
        for name, command in commands.items():
            print(f"  starting {name}", flush=True)
            try:
                started[name] = Worker(command, logs / f"{name.replace(' ', '-').replace('/', '-')}.log")
            except WorkerError as error:
                failed[name] = str(error)
                print(f"  {name}: {error}", flush=True)
        yield started, failed
    finally:
        for worker in started.values():
            worker.close()


def alternate(started: dict[str, Worker], failed: dict[str, str], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Ask each worker in turn, `rounds` times; one that dies on the way is added to `failed`."""
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in started}
    for turn in range(rounds):
        print(f"  round {turn + 1} of {rounds}", flush=True)
        for name, worker in started.items():
            if name in failed:
                continue
            try:
                answers[name].append(worker.go())
            except WorkerError as error:
                failed[name] = str(error)
                print(f"  {name}: {error}", flush=True)
    return {name: values for name, values in answers.items() if name not in failed}


def timed(command: Sequence[str | Path], extra: Mapping[str, str] | None = None, timeout: float = 3600) -> tuple[float, str]:
    """The seconds from the start of a process to its end, and what it printed."""
    start = time.perf_counter()
    try:
        done = subprocess.run(
            list(map(str, command)), cwd=ROOT, env=environment(extra), capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise WorkerError(f"not done within {timeout:.0f} s") from error
    elapsed = time.perf_counter() - start
    if done.returncode:
        raise WorkerError(f"ended with status {done.returncode}: {last_line(done.stderr)}")
    return elapsed, done.stdout
