"""How tables of means with their confidence intervals are written: Markdown, LaTeX (for the package booktabs) and HTML.

In LaTeX and HTML the best mean of a column is bold and the second underlined, and two rows whose means are written the same are
marked the same. A note is a sentence at the foot of the table.
"""

from __future__ import annotations

import dataclasses
import html as escaping
import math
import re
from collections.abc import Sequence
from typing import Literal

Format = Literal["markdown", "latex", "html"]
Mark = Literal["best", "second"]
LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # At the start of a row these would be read as arguments of the end of the row before.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """A mean, the half-width of its confidence interval (NaN for a single run), a note, and how the numbers are written.

    If the mean is NaN there is only the note.
    """

    mean: float
    half_width: float
    note: str = ""
    form: str = "z.3f"
    mark: Mark | None = None

    @property
    def numbers(self) -> list[str]:
        """The mean, and the half-width if there is one; nothing if there is no mean."""
        found = [number for number in (self.mean, self.half_width) if not math.isnan(number)]
        if math.isnan(self.mean):
            return []
        form, size = self.form, max(map(abs, found))
        if form == ".3g" and len(found) == 2 and self.half_width > 1e-4 and size < 1e5:
            form = f"z.{max(2 - math.floor(math.log10(self.half_width)), 0)}f"  # one number of decimals for both
        return [format(number, form) for number in found]


def marked(cells: Sequence[Cell], fit: Sequence[bool], larger_is_better: bool | None) -> list[Cell]:
    """The cells of a column with the best and the second best marked, among those that are fit to be compared.

    Nothing is marked if it is not known which way is better, or if there is nothing to compare with.
    """
    texts = [cell.numbers[0] if ok and cell.numbers else None for cell, ok in zip(cells, fit, strict=True)]
    known = [(cell.mean, text) for cell, text in zip(cells, texts, strict=True) if text is not None]
    if larger_is_better is None or len(known) < 2:
        return list(cells)
    ranks = dict.fromkeys(text for _, text in sorted(known, key=lambda one: one[0], reverse=larger_is_better))
    marks: dict[str | None, Mark] = dict(zip(ranks, ("best", "second"), strict=False))
    return [dataclasses.replace(cell, mark=marks.get(text)) for cell, text in zip(cells, texts, strict=True)]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str | Cell]], n_labels: int, note: str = "") -> str:
    """A Markdown table with a header [columns] and rows [rows][columns], of which the first columns, `n_labels`, hold labels."""
    del n_labels  # labels and numbers are written alike

    def text(value: str | Cell) -> str:
        if isinstance(value, Cell):
            value = _with_note(" ± ".join(value.numbers), value.note)
        return _one_line(value).replace("|", "\\|")

    lines = [header, ["---"] * len(header), *rows]
    table = "\n".join("| " + " | ".join(text(value) for value in line) + " |" for line in lines)
    return f"{table}\n\n{_one_line(note)}" if note else table


def latex(header: Sequence[str], rows: Sequence[Sequence[str | Cell]], n_labels: int, note: str = "") -> str:
    r"""The same as a tabular of LaTeX, without its float: `\usepackage{booktabs}`."""

    def line(values: Sequence[str | Cell]) -> str:
        return "  " + " & ".join(_latex(value) if isinstance(value, Cell) else latex_text(value) for value in values) + r" \\"

    columns = "l" * n_labels + "c" * (len(header) - n_labels)
    body = [r"\toprule", line(header), r"\midrule", *map(line, rows), r"\bottomrule"]
    foot = [rf"\par\smallskip{{\footnotesize {latex_text(note)}\par}}"] if note else []  # outside, where its lines are broken
    return "\n".join([f"\\begin{{tabular}}{{{columns}}}", *body, r"\end{tabular}", *foot])


def latex_text(text: str) -> str:
    """A text as LaTeX sets it, whatever signs it has."""
    return "".join(LATEX.get(sign, sign) for sign in _one_line(text))


def _latex(cell: Cell) -> str:
    command = {"best": r"\mathbf{%s}", "second": r"\underline{%s}", None: "%s"}[cell.mark]
    numbers = [_latex_number(number) for number in cell.numbers]
    value = " \\pm ".join([command % number if i == 0 else number for i, number in enumerate(numbers)])
    return _with_note(f"${value}$" if value else "", latex_text(cell.note))


def _latex_number(text: str) -> str:
    """A number in mathematical mode, such as 1.2 \\times 10^{-5}."""
    digits, _, power = text.partition("e")
    if text.lstrip("-") == "inf":
        return text.replace("inf", r"\infty")
    return f"{digits} \\times 10^{{{int(power)}}}" if power else digits


def html(header: Sequence[str], rows: Sequence[Sequence[str | Cell]], n_labels: int, note: str = "") -> str:
    """The same as a table of HTML, with labels as heads of the rows."""
    lines = ["<table>", "<thead>", "<tr>" + "".join(f"<th>{_html(text)}</th>" for text in header) + "</tr>", "</thead>", "<tbody>"]
    for row in rows:
        tags = ["th" if i < n_labels else "td" for i in range(len(row))]
        lines.append("<tr>" + "".join(f"<{tag}>{_html(value)}</{tag}>" for tag, value in zip(tags, row, strict=True)) + "</tr>")
    foot = [f'<tfoot><tr><td colspan="{len(header)}">{_html(_one_line(note))}</td></tr></tfoot>'] if note else []
    return "\n".join([*lines, "</tbody>", *foot, "</table>"])


def _html(value: str | Cell) -> str:
    if not isinstance(value, Cell):
        return escaping.escape(value)
    numbers = value.numbers
    if numbers and value.mark is not None:
        tag = {"best": "b", "second": "u"}[value.mark]
        numbers[0] = f"<{tag}>{numbers[0]}</{tag}>"
    return _with_note(" ± ".join(numbers), escaping.escape(value.note))


def _with_note(value: str, note: str) -> str:
    return f"{value} ({note})" if value and note else value or note


def _one_line(text: str) -> str:
    """A text without line ends and other control characters, which would end the row."""
    return re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]+", " ", text)


FORMATS = {"markdown": markdown, "latex": latex, "html": html}
