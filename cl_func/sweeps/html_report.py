"""Runs as one HTML page that needs nothing else: tables, pictures, what was run, on what, and how to run it again.

Pictures are inside the page, so that it can be sent, kept and opened without a network.
"""

from __future__ import annotations

import base64
import datetime
import functools
import html
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_func import checks
from cl_func.progress import in_notebook
from cl_func.sweeps import named_axes, over_seeds, summaries

if TYPE_CHECKING:
    from cl_func.plots import Picture
    from cl_func.sweeps.runs import Runs

FEW = 12  # points of the axes: with more, panels of lines would not be told apart
MANY = 24  # points of the axes: with more, matrices would be too small to read
MACHINE = ("cl_func", "torch", "python", "system", "processor", "cores", "device")  # the attributes that a sweep gives
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
p.when { color: #666; margin-top: 0; } p.wrong { color: #9a3412; }
div.wide { overflow-x: auto; } table { border-collapse: collapse; margin: 0.6rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.8rem; text-align: left; vertical-align: top; border-bottom: 1px solid #e5e5e5; }
thead th { border-bottom: 2px solid #999; } tbody th { font-weight: normal; }
img { max-width: 100%; height: auto; } pre { background: #f4f4f4; padding: 0.7rem; overflow-x: auto; }
td pre { font-size: 0.75rem; margin: 0; max-height: 14rem; overflow: auto; }
@media print { body { margin: 0; max-width: none; } h2, img, table { break-inside: avoid; } }
"""


def page(runs: Runs, title: str, metrics: Sequence[Any] | None, command: str | None) -> str:
    """The page; the arguments are those of `Runs.report`."""
    command = own_command() if command is None else command
    wrong = over_seeds.counted(runs._standing)
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="when">{datetime.datetime.now().astimezone():%d %B %Y, %H:%M %Z}</p>',
        f"<p>{html.escape(_sizes(runs))}</p>",
        f'<p class="wrong">{html.escape(wrong)}: the tables say which.</p>' if wrong else "",
        _section("Results", _wide(runs.table(_default_metrics(runs) if metrics is None else list(metrics), "html"))),
        _section("Pictures", _pictures(runs)),
        _section("Runs", _wide(_pairs(_what(runs)))),
        _section("Machine and versions", _wide(_pairs({name: runs.attributes.get(name) for name in MACHINE}))),
        _section("Command", f"<pre>{html.escape(command)}</pre>" if command else ""),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
    body = "\n".join(part for part in parts if part)
    return f'<!doctype html>\n<html lang="en">\n<head>{head}<style>{STYLE}</style></head>\n<body>\n{body}\n</body>\n</html>\n'


def own_command() -> str:
    """The command line of this process, as it can be typed in the folder where it was called; empty in a notebook."""
    if in_notebook() or not sys.orig_argv or "-c" in sys.orig_argv:
        return ""
    words = [Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]]
    here = os.getcwd() + os.sep
    return shlex.join(word.removeprefix(here) for word in words)


def _section(title: str, content: str) -> str:
    return f"<h2>{title}</h2>\n{content}" if content else ""


def _wide(table: str) -> str:
    return f'<div class="wide">{table}</div>' if table else ""


def _sizes(runs: Runs) -> str:
    n = runs.finished.numel()
    axes = ", ".join(f"{name}: {len(labels)}" for name, labels in runs.axes.items())
    return f"{n} run{'s' if n > 1 else ''} ({axes}); the sweep took {runs.seconds:.1f} s."


def _default_metrics(runs: Runs) -> list[Any]:
    """The default metrics, and forgetting where it can be made of what these are made of."""
    found: list[Any] = runs._shown
    try:
        runs.metric("forgetting")
    except ValueError:
        return found
    return [*found, "forgetting"]


def _pictures(runs: Runs) -> str:
    """Those that can be drawn of these runs."""
    points = runs.finished[..., 0].numel()
    histories = summaries.candidates(runs.history)
    drawn: list[tuple[str, Callable[[], Picture]]] = [("average over the stream", runs.plot_timeline)]
    if len(histories) > 1:
        drawn = [(f"{name} over the stream", functools.partial(runs.plot_timeline, name)) for name in histories]
    if len(runs.axes) == 3:
        drawn.append((f"over {' and '.join(list(runs.axes)[:-1])}", runs.plot_grid))
    if points <= MANY:
        drawn.append(("after each experience, on each", runs.plot_matrix))
    if points <= FEW:
        drawn.append(("each experience over time", runs.plot_forgetting))
    if runs._scales:
        drawn.append(("over the hyperparameters", runs.plot_scatter))
    if len(runs.axes.get("method", ())) > 2 and len(runs.axes["seed"]) > 1:
        drawn.append(("average ranks of the methods", runs.plot_critical_difference))
    found = []
    for caption, draw in drawn:
        try:
            picture = draw()
        except (ValueError, ImportError) as error:  # no such history, or no scipy; said in place of the picture
            found.append(f"<p>{html.escape(caption)}: not drawn. {html.escape(str(error))}</p>")
            continue
        png, size = picture._repr_png_()
        data, width = base64.b64encode(png).decode(), size["width"]
        found.append(f'<p><img src="data:image/png;base64,{data}" width="{width}" alt="{html.escape(caption)}"></p>')
    return "\n".join(found)


def _what(runs: Runs) -> dict[str, Any]:
    """The labels of the axes, and what else the attributes tell, such as the point at which others were joined."""
    axes = {name: ", ".join(named_axes.texts(name, labels)) for name, labels in runs.axes.items()}
    more = {name: value for name, value in runs.attributes.items() if name not in MACHINE}
    return {**axes, **dict(_leaves(more))}


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """What nested attributes hold, each by its path; what there is of a machine or a time in them is left out."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name not in (*MACHINE, "seconds"):
                yield from _leaves(inner, path if name == "attributes" else (*path, str(name)))
    else:
        yield ", ".join(path), value


def _pairs(values: Mapping[str, Any]) -> str:
    """A table of names and values, without those that are not known."""
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items() if value is not None}
    cells = {name: f"<pre>{html.escape(text)}</pre>" if "\n" in text else html.escape(text) for name, text in texts.items()}
    rows = [f"<tr><th>{html.escape(name)}</th><td>{cell}</td></tr>" for name, cell in cells.items()]
    return f"<table><tbody>{''.join(rows)}</tbody></table>" if rows else ""


def write(path: Any, text: str) -> Path:
    """Write a page; ValueError for a path that is no file of HTML."""
    file = Path(checks.instance("path", path, (str, Path), "the path of a file such as 'report.html'"))
    if file.suffix not in (".html", ".htm"):
        raise ValueError(f"path: expected a file such as 'report.html', got {str(path)!r}.")
    if file.is_dir() or not file.absolute().parent.is_dir():
        raise ValueError(f"path: cannot write {file}: {'it is a folder' if file.is_dir() else 'its folder does not exist'}.")
    file.write_text(text, encoding="utf-8")
    return file
