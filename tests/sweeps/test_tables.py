"""Tables of runs: what is best in them, and that Markdown, LaTeX and HTML are what they should be, whatever the labels are."""

from __future__ import annotations

import dataclasses
import html.parser
import math
import re
import shutil
import subprocess

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import NAN, guesses, make

import cl_func as cl
from cl_func.sweeps import tables

quick = settings(max_examples=60, deadline=None)
NASTY = r"a & b % c $ d # e _f {g} ~h ^i \j <k> |l| [m] *n* \alpha \\ \end{tabular}"


def fixed(values, name="accuracy", **history):
    """Runs over one axis whose last average is a value for each seed: values [points][seeds]."""
    R = torch.tensor(values)[..., None, None].expand(*torch.tensor(values).shape, 2, 2).contiguous()
    axes = {"x": [f"p{i}" for i in range(len(values))], "seed": list(range(len(values[0])))}
    return cl.Runs(axes, {name: R, **history}, torch.ones(R.shape[:2], dtype=torch.bool), 1.0)


# ---------------------------------------------------------------- readers


def read_latex(text):
    """The columns and the cells of a tabular, as LaTeX would take it apart; AssertionError where it would complain."""
    begin = re.match(r"\\begin\{tabular\}\{([lcr]+)\}\n", text)
    assert begin, text
    assert text.endswith("\\end{tabular}")
    body = text[begin.end() : -len("\\end{tabular}")]
    for rule in ("toprule", "midrule", "bottomrule"):
        assert body.count(f"\\{rule}\n") == 1
        body = body.replace(f"\\{rule}\n", "")
    rows, cell, row, depth, math_mode, i = [], "", [], 0, False, 0
    while i < len(body):
        sign, pair = body[i], body[i : i + 2]
        if pair == "\\\\":
            assert (depth, math_mode) == (0, False)
            rows.append([*(one.strip() for one in row), cell.strip()])
            cell, row, i = "", [], i + 2
            assert not re.match(r"\s*[\[*]", body[i:]), "an argument of the end of the row"
            continue
        if sign == "\\":
            command = re.match(r"\\([a-zA-Z]+|.)", body[i:])
            assert command[1] in {*"&%$#_{}", "textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater"} | {
                "textbar", "mathbf", "underline", "pm", "times", "infty",
            }  # fmt: skip
            cell += command[0]
            i += len(command[0])
            continue
        assert sign not in "%#~|<>"
        assert math_mode or sign not in "^_"
        assert math_mode or ord(sign) >= 32 or sign == "\n"
        if sign == "&":
            assert (depth, math_mode) == (0, False)
            row.append(cell)
            cell = ""
        else:
            cell += sign
        depth += (sign == "{") - (sign == "}")
        assert depth >= 0
        math_mode ^= sign == "$"
        i += 1
    assert not cell.strip()
    assert {len(row) for row in rows} == {len(begin[1])}
    return begin[1], rows


SIGNS = {
    r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"\textless{}": "<", r"\textgreater{}": ">",
    r"\textbar{}": "|", "{[}": "[", "{]}": "]", "{*}": "*", **{f"\\{sign}": sign for sign in "&%$#_{}"},
}  # fmt: skip


def plain(latex):
    """The text that LaTeX sets."""
    return re.sub("|".join(map(re.escape, SIGNS)), lambda found: SIGNS[found[0]], latex)


class Reader(html.parser.HTMLParser):
    """The cells of a table, and which are marked; AssertionError for tags that are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.rows, self.marks = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag in ("b", "u"):
            self.marks.append((tag, len(self.rows) - 1, len(self.rows[-1]) - 1))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and {"td", "th"} & {*self.open}:
            self.rows[-1][-1] += data


# ---------------------------------------------------------------- any labels


@quick
@given(
    labels=st.lists(
        st.text(max_size=6) | st.sampled_from([NASTY, "[0.0, 1.0]", "*", "a\nb", "|"]), min_size=1, max_size=4, unique=True
    )
)
def test_any_labels_are_set_as_they_are(labels):
    runs = make({NASTY: labels, "z": [[0.0, 1.0], None], "seed": [0, 1]})
    metrics = {NASTY: "average_accuracy", "F": "forgetting"}
    wanted = [re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]+", " ", label).strip() for label in labels for _ in range(2)]
    columns, (head, *rows) = read_latex(runs.table(metrics, format="latex"))
    assert columns == "llcc"
    assert [plain(cell) for cell in head] == [NASTY, "z", NASTY, "F"]
    assert [plain(row[0]) for row in rows] == wanted
    reader = Reader(runs.table(metrics, format="html"))
    assert reader.rows[0] == [NASTY, "z", NASTY, "F"]
    assert [row[0].strip() for row in reader.rows[1:]] == [label.strip() for label in labels for _ in range(2)]
    lines = runs.table(metrics).split("\n")
    assert len(lines) == 2 + 2 * len(labels)
    assert {len(re.sub(r"\\\|", "", line).split("|")) for line in lines} == {6}


# ---------------------------------------------------------------- which is best


def marks(runs, metric=None, **more):
    """Which points are bold and which underlined, in a table of one metric; the same in LaTeX and in HTML."""
    found = {"b": [], "u": []}
    for tag, row, _ in Reader(runs.table(metric, format="html", **more)).marks:
        found[tag].append(row - 1)
    _, (_, *rows) = read_latex(runs.table(metric, format="latex", **more))
    for tag, command in (("b", r"\mathbf{"), ("u", r"\underline{")):
        assert [i for i, row in enumerate(rows) if command in row[1]] == found[tag]
    assert "*" not in runs.table(metric, **more)
    return found["b"], found["u"]


def test_the_largest_accuracy_is_bold_and_the_next_underlined():
    runs = fixed([[0.1, 0.2], [0.5, 0.6], [0.3, 0.4]])
    assert marks(runs) == ([1], [2])
    assert marks(fixed([[0.1, 0.2]])) == ([], [])  # nothing to compare with
    assert marks(runs, lambda R: R[-1].max()) == ([], [])  # who knows
    assert marks(runs, lambda R: R[-1].max(), largest={"lambda": True}) == ([1], [2])
    assert marks(runs, lambda R: R[-1].max(), largest={"lambda": False}) == ([0], [2])
    assert marks(runs, {"a": "average_accuracy"}, largest={"a": False}) == ([0], [2])


@pytest.mark.parametrize(("name", "lowest"), [("loss", True), ("mse", True), ("r2", False), ("f1", False)])
def test_the_smallest_error_is_bold(name, lowest):
    runs = fixed([[1.0, 2.0], [5.0, 6.0], [3.0, 4.0]] if name != "f1" else [[0.1, 0.2], [0.5, 0.6], [0.3, 0.4]], name)
    assert marks(runs, f"average_{name}") == (([0] if lowest else [1]), [2])
    assert marks(runs, f"average_{name}", higher_is_better=not lowest) == (([0] if lowest else [1]), [2])
    assert marks(runs, f"average_{name}", higher_is_better=lowest) == (([1] if lowest else [0]), [2])


def test_the_smallest_forgetting_is_bold_also_of_an_error():
    R = torch.zeros(3, 1, 2, 2)
    R[:, 0, 0, 0], R[:, 0, 1, 0] = torch.tensor([0.9, 0.9, 0.9]), torch.tensor([0.1, 0.8, 0.5])
    for name, higher in (("accuracy", True), ("mse", False)):
        runs = cl.Runs({"x": [0, 1, 2], "seed": [0]}, {name: R if higher else 1 - R}, torch.ones(3, 1, dtype=torch.bool), 1.0)
        assert runs.metric("forgetting")[:, 0].tolist() == pytest.approx([0.8, 0.1, 0.4])
        assert marks(runs, "forgetting") == ([1], [2])
        assert marks(runs, "backward_transfer") == ([1], [2])


def test_what_is_written_the_same_is_marked_the_same():
    assert marks(fixed([[0.50001], [0.50002], [0.4], [0.40001], [0.1]])) == ([0, 1], [2, 3])
    assert marks(fixed([[0.5], [0.5]])) == ([0, 1], [])
    assert marks(fixed([[-0.0001], [0.0]], "r2"), "average_r2") == ([1], [0])


def test_numbers_with_other_decimals_are_compared_as_they_are():
    """0.7249 ± 1.27 is written 0.72, which looks less than 0.721; the lower error is the other."""
    latex = fixed([[0.6249, 0.8249], [0.671, 0.771]], "loss").table("average_loss", "latex")
    assert r"\mathbf{0.721} \pm 0.635" in latex
    assert r"\underline{0.72} \pm 1.27" in latex


def test_no_point_is_best_by_the_runs_that_it_lost():
    """Two of the ten runs diverged, or did not end: their mean is over the others, and is not compared."""
    runs = guesses()
    runs["accuracy"][1, 2:] = 1.0
    assert marks(runs) == ([], [])  # the other has diverged altogether
    runs = guesses(points=2)
    runs["accuracy"][1, 2:] = 1.0
    lost = dataclasses.replace(
        fixed([[0.9, 0.9], [0.5, 0.5], [0.4, 0.4]]), finished=torch.tensor([[True, False], [True] * 2, [True] * 2])
    )
    assert marks(lost) == ([1], [2])
    norm = torch.tensor([[[NAN], [9.0]], [[2.0], [2.0]], [[1.0], [1.0]]])
    undefined = fixed([[0.9, 0.9], [0.5, 0.5], [0.4, 0.4]], norm=norm)
    assert marks(undefined, "final_norm", largest={"final_norm": True}) == ([1], [2])


# ---------------------------------------------------------------- several metrics


def test_several_metrics_by_hand():
    runs = fixed([[0.5, 0.7], [0.25, 0.25]], loss=torch.full((2, 2, 2, 2), 1e-5))
    assert runs.table(["average_accuracy", ("average_loss", "loss"), lambda R: R.max()]) == (
        "| x | average_accuracy (2 seeds) | average_loss (2 seeds) | lambda (2 seeds) |\n"
        "| --- | --- | --- | --- |\n"
        "| p0 | 0.600 ± 1.271 | 1e-05 ± 0 | 0.60 ± 1.27 |\n"
        "| p1 | 0.250 ± 0.000 | 1e-05 ± 0 | 0.25 ± 0 |"
    )
    assert runs.table({"A": "average_accuracy", "L": "average_loss"}, format="latex") == (
        "\\begin{tabular}{lcc}\n\\toprule\n  x & A & L \\\\\n\\midrule\n"
        "  p0 & $\\mathbf{0.600} \\pm 1.271$ & $\\mathbf{1 \\times 10^{-5}} \\pm 0$ \\\\\n"
        "  p1 & $\\underline{0.250} \\pm 0.000$ & $\\mathbf{1 \\times 10^{-5}} \\pm 0$ \\\\\n"
        "\\bottomrule\n\\end{tabular}"
    )
    assert "<td><b>0.600</b> ± 1.271</td>" in runs.table(format="html")
    assert runs.table(["average_accuracy"]) == runs.table("average_accuracy") == runs.table()
    assert runs.table("average_loss") == runs.table(history="loss")


def test_every_cell_says_what_is_missing():
    runs = guesses()
    text = "2 of 10 diverged"
    for format in ("markdown", "latex", "html"):
        assert runs.table(["average_accuracy", "forgetting"], format=format).count(text) == 2
        assert runs.table(["average_accuracy", "forgetting"], format=format).count("10 of 10 diverged") == 2
    _, rows = read_latex(runs.table(format="latex"))
    assert rows[-1] == ["10", "10 of 10 diverged"]


def test_a_table_of_seeds_alone():
    runs = make({"seed": [0, 1]})
    assert len(runs.table().splitlines()) == 3
    columns, rows = read_latex(runs.table(format="latex"))
    assert (columns, len(rows)) == ("c", 2)
    assert len(Reader(runs.table(format="html")).rows) == 2


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"metric": []}, "metric: expected at least one"),
        ({"metric": {}}, "metric: expected at least one"),
        ({"metric": {3: "forgetting"}}, "metric: expected a string"),
        ({"metric": ["forgetting", 3]}, "metric: expected one of"),
        ({"metric": ("average_accuracy", "forgetting")}, "history: 'forgetting': no such history"),
        ({"format": "md"}, "format: expected 'markdown', 'latex' or 'html', got 'md'"),
        ({"format": None}, "format: expected"),
        ({"format": ["latex"]}, "format: expected"),
        ({"largest": {"average_accuracy": 1}}, "largest: expected True or False"),
        ({"largest": True}, "largest: expected None or a mapping"),
        ({"largest": {"nowhere": True}}, "largest: 'nowhere' is no column of this table"),
    ],
)
def test_what_is_no_table(arguments, match):
    with pytest.raises((TypeError, ValueError), match=match):
        make({"seed": [0, 1]}).table(**arguments)


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        (tables.Cell(0.5, NAN), "$0.500$"),
        (tables.Cell(-0.25, 0.125), r"$-0.250 \pm 0.125$"),
        (tables.Cell(-0.0001, NAN), "$0.000$"),
        (tables.Cell(1.5e30, 2e-7, "", ".3g"), r"$1.5 \times 10^{30} \pm 2 \times 10^{-7}$"),
        (tables.Cell(math.inf, NAN, "", ".3g"), r"$\infty$"),
        (tables.Cell(-math.inf, NAN, "", ".3g", "best"), r"$\mathbf{-\infty}$"),
        (tables.Cell(NAN, NAN, "3 of 3 diverged"), "3 of 3 diverged"),
        (tables.Cell(0.5, NAN, "1 of 3 NaN", mark="second"), r"$\underline{0.500}$ (1 of 3 NaN)"),
    ],
)
def test_numbers_in_latex(cell, written):
    assert read_latex(tables.latex(["x"], [[cell]], 0))[1][1] == [written]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex")
def test_latex_compiles(tmp_path):
    runs = guesses()
    named = make({NASTY: [NASTY, "[0.0, 1.0]", "*"], "seed": [0, 1]})
    body = "\n\n".join(some.table(["average_accuracy", "forgetting"], format="latex") for some in (runs, named))
    text = f"\\documentclass{{article}}\n\\usepackage{{booktabs}}\n\\begin{{document}}\n{body}\n\\end{{document}}\n"
    (tmp_path / "table.tex").write_text(text, encoding="utf-8")
    run = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout[-2000:]
