"""Claims about table.tex: LaTeX takes it, it says what the scores say, and no name from the data becomes a command."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.documents import add_attentive, document
from usjepa.evaluate.report.document import Document
from usjepa.evaluate.report.latex import table_tex, tex
from usjepa.evaluate.report.published import published_for

if TYPE_CHECKING:
    from pathlib import Path

NASTY = 'a_b & 50% $x$ #1 {y} ~z^2 \\input{c} <"|">\nend'
COMMANDS = {
    *(
        "begin",
        "end",
        "centering",
        "caption",
        "label",
        "toprule",
        "midrule",
        "bottomrule",
        "usepackage",
        "pm",
        "textbf",
    ),
    *(
        "textsuperscript",
        "textbackslash",
        "textasciitilde",
        "textasciicircum",
        "textless",
        "textgreater",
        "textbar",
        "textquotedbl",
    ),
}
PAPER = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage{booktabs}
\begin{document}
\input{table}
\end{document}
"""


def tables(made: dict[str, Any]) -> str:
    """Return table.tex of a document."""
    return table_tex(Document.model_validate(made))


def scored(task: str = "pocus", **changed: Any) -> dict[str, Any]:
    made = document(task)
    made["tasks"][0] |= changed
    return made


def parsed(text: str) -> list[list[list[str]]]:
    """Return the cells of each table's rows; asserts that environments nest, braces pair and only known words occur."""
    bare = re.sub(r"\\[&%$#_{}]", "", "\n".join(line for line in text.splitlines() if not line.startswith("%")))
    assert set(re.findall(r"\\([A-Za-z]+)", bare)) <= COMMANDS
    assert not re.findall(r"(?<!\\)\\(?![A-Za-z\\])", bare)
    assert not set("#~^%") & set(bare)
    depth = 0
    for sign in bare:
        depth += (sign == "{") - (sign == "}")
        assert depth >= 0
    assert depth == 0
    opened = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", bare):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert opened == []
    assert bare.count("$") % 2 == 0
    found = []
    for columns, body in re.findall(r"\\begin\{tabular\}\{(l?c*)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL):
        assert body.startswith("\\toprule\n")
        assert body.endswith("\\bottomrule\n")
        lines = [line for line in body.splitlines() if not re.fullmatch(r"\\(top|mid|bottom)rule", line)]
        assert all(line.endswith(r" \\") for line in lines)
        rows = [re.split(r" (?<!\\)& ", line.removesuffix(r" \\")) for line in lines]
        assert all(len(row) == len(columns) for row in rows)
        found.append(rows)
    return found


def test_every_encoder_and_published_model_has_a_row_with_its_scores() -> None:
    made = scored()
    ((head, *rows),) = parsed(tables(made))
    assert head == ["Encoder", "pocus"]
    cells = dict(rows)
    for scores in made["scores"]:
        f1 = scores["probes"]["probe"]["measures"]["macro_f1"]
        title = made["encoders"][scores["encoder"]]["title"]
        assert (
            cells[title].replace("\\textbf{", "").replace("}", "")
            == f"{100 * f1['mean']:.1f} $\\pm$ {100 * f1['sd']:.1f}"
        )
    assert cells["USFM"] == "85.7 $\\pm$ 0.5"
    assert cells["Constant guess"] == "17.0"
    assert [name for name, _ in rows].index("Constant guess") == len(made["encoders"])


def test_the_best_is_bold_among_ours_and_among_the_published_and_the_source_is_named() -> None:
    text = tables(scored())
    bold = [row for row in parsed(text)[0] if "\\textbf" in row[1]]
    assert [name for name, _ in bold] == ["Student (this run)", "US-JEPA"]
    assert bold[1][1] == "\\textbf{93.1} $\\pm$ 0.0"
    assert "as published (US-JEPA, arXiv 2602.19322v1, main table), not measured by us" in text
    without = tables(scored(published=None))
    assert without.count("\\midrule") == 1
    assert "published" not in without


def test_what_reads_equal_is_bold_together() -> None:
    made = scored()
    first, second = (scores["probes"]["probe"]["measures"] for scores in made["scores"][:2])
    second["macro_f1"] = first["macro_f1"]
    assert sum("\\textbf" in row[1] for row in parsed(tables(made))[0]) == 3


def test_a_score_that_is_missing_is_a_dash_and_tasks_are_columns() -> None:
    made = scored()
    other = published_for("ultrabench", "mmotu")
    assert other is not None
    made["tasks"].append({**made["tasks"][0], "name": "mmotu", "published": other.model_dump()})
    made["scores"].append({**made["scores"][0], "task": "mmotu"})
    made["encoders"]["student"]["identities"]["mmotu"] = {}
    ((head, *rows),) = parsed(tables(made))
    assert head == ["Encoder", "pocus", "mmotu"]
    assert {row[0]: row[2] for row in rows}["Random weights"] == "--"
    assert {row[0]: row[2] for row in rows}["US-JEPA"] == "\\textbf{52.2} $\\pm$ 0.2"


def test_attentive_probes_and_segmentations_have_tables_of_their_own() -> None:
    made = scored()
    add_attentive(made, made["scores"][0])
    dice = {"mean": 0.812, "sd": 0.004, "seeds": [], "low": 0.8, "high": 0.9}
    heads = {"classes": {}, "epochs": [], "training_frames": 9, "dim": 3}
    floor = {"mean": 0.567, "low": 0.5, "high": 0.6, "classes": {}, "training_frames": 9}
    task = {key: made["tasks"][0][key] for key in ("classes", "identity", "leakage", "notes")}
    made["segmentation"] = {
        "tasks": [{"name": "camus: mask", "frames": {}, "floor": floor, **task}],
        "scores": [{"task": "camus: mask", "encoder": "student", "dice": dice, **heads}],
    }
    found = parsed(tables(made))
    assert [len(table) for table in found[1:]] == [2, 3]  # a head and the student, and of the masks a floor
    assert found[2][1] == ["Student (this run)", "\\textbf{81.2} $\\pm$ 0.4"]
    assert found[2][2] == ["Mean mask, no image seen", "56.7"]


def test_names_from_the_data_are_printed_and_are_no_commands() -> None:
    made = scored(NASTY)
    made["encoders"]["student"]["title"] = NASTY
    made["probes"]["probe"]["caption"] = NASTY
    text = tables(made)
    parsed(text)
    assert "\\input" not in text
    assert text.count(tex(NASTY)) == 3
    assert tex("50 % & a_b\n\\x") == r"50 \% \& a\_b \textbackslash{}x"


def test_the_same_scores_give_the_same_bytes() -> None:
    assert tables(scored()) == tables(scored())


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here; Debian: texlive-latex-recommended")
def test_latex_takes_it_without_a_complaint(tmp_path: Path) -> None:
    made = scored(NASTY)
    made["encoders"]["hog"]["title"] = NASTY
    add_attentive(made, *made["scores"])
    (tmp_path / "table.tex").write_text(tables(made))
    (tmp_path / "paper.tex").write_text(PAPER)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    log = (tmp_path / "paper.log").read_text(errors="replace")
    assert "! " not in log
    assert "Missing character" not in log
    assert (tmp_path / "paper.pdf").stat().st_size > 1000
