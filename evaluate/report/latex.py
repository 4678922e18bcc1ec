"""Write scores as LaTeX tables for a paper, published rows under ours with sources.

`table.tex` is read by `\\input{table}` in a document with `\\usepackage{booktabs}`; UTF-8, as LaTeX reads by default
since 2018. Bold is the best mean of a column among our rows, and among the published ones: those were measured on
splits that may differ, so the two are never ranked together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from usjepa.evaluate.probes.base import PRIMARY
from usjepa.evaluate.probes.ridge import RIDGE
from usjepa.evaluate.report.text import FLOOR_TITLE, MEAN_TITLE, listed, measure_name, percent, plain_number
from usjepa.evaluate.scores.regression import LOWER_IS_BETTER, MEASURES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from usjepa.evaluate.report.document import Document, TaskRecord
    from usjepa.evaluate.report.numbers.records import RegressionTask

_ESCAPED = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "\u00b2": r"\textsuperscript{2}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}
_DASH = "--"
_Cell = tuple[float, float | None] | None
"""Mean and standard deviation, as shares; None: not scored."""
_Row = tuple[str, list[_Cell]]


@dataclass(frozen=True)
class _Column:
    """What stands over a column, and how its numbers are printed and ranked."""

    name: str
    lowest: bool = False
    """Whether the lowest mean is the best."""
    shown: Callable[[float], str] = percent

    def best(self, cells: Sequence[_Cell]) -> str:
        """Return the best mean as it is printed: means that print alike are bold together."""
        means = [cell[0] for cell in cells if cell]
        return self.shown(min(means) if self.lowest else max(means)) if means else ""


def tex(text: object) -> str:
    """Return text that LaTeX prints as it is, on one line."""
    return "".join(_ESCAPED.get(sign, sign) for sign in " ".join(str(text).split()))


def table_tex(document: Document) -> str:
    """Return the tables of a document: one per probe that has a caption, the linear probe first; then segmentation."""
    tables = [
        _linear(document) if name == PRIMARY else _probe(document, name, probe.caption)
        for name, probe in document.probes.items()
        if probe.caption and document.tasks
    ]
    tables += [
        _numbers(document, task, name, probe.caption)
        for task in document.regression.tasks
        for name, probe in document.regression.probes.items()
        if probe.caption and any(name in s.probes for s in document.regression.ranked(task.name))
    ]
    segmented = document.segmentation
    if segmented.scores:
        named = [task.name for task in segmented.tasks]
        found: dict[tuple[str, str], _Cell] = {(s.task, s.encoder): (s.dice.mean, s.dice.sd) for s in segmented.scores}
        lines = [(title, [found.get((name, key)) for name in named]) for key, title in _ours(document)]
        caption = f"Dice in percent of a linear layer on frozen patch tokens: {_seeds(document)}"
        floor = [percent(task.floor.mean) for task in segmented.tasks]
        tables.append(_table("segmentation", caption, list(map(_Column, named)), [_some(lines)], floor, FLOOR_TITLE))
    return "% Made by usjepa-evaluate; needs \\usepackage{booktabs}.\n" + "\n".join(tables)


def _linear(document: Document) -> str:
    """Return the linear probe's table, with the published scores and the score of a constant guess."""
    tasks = document.tasks
    published = _published(tasks)
    caption = f"Macro F1 in percent of {tex(document.probes[PRIMARY].caption)}: {_seeds(document)}"
    if published:
        sources = listed(sorted({task.published.source for task in tasks if task.published}))
        caption += (
            f" Below the second rule: as published ({tex(sources)}), not measured by us, on splits that may differ;"
            " bold there is the best published."
        )
    floor = [percent(task.floor.macro_f1) for task in tasks]
    blocks = [_scores(document, PRIMARY), *([published] if published else [])]
    return _table("linear", caption, [_Column(task.name) for task in tasks], blocks, floor)


def _probe(document: Document, name: str, what: str) -> str:
    """Return another probe's table, of the encoders that it could score."""
    lines = _some(_scores(document, name))
    seeded = any(cell is not None and cell[1] is not None for _, cells in lines for cell in cells)
    caption = f"Macro F1 in percent of {tex(what)}: {_seeds(document) if seeded else 'bold is the best of ours.'}"
    return _table(name, caption, [_Column(task.name) for task in document.tasks], [lines], [])


def _numbers(document: Document, task: RegressionTask, name: str, what: str) -> str:
    """Return the table of a regression task by one probe: a column per measure, errors in the task's unit."""
    unit = f" ({task.unit})" if task.unit else ""
    columns = [
        _Column(
            f"{measure_name(m)}{unit if m in LOWER_IS_BETTER else ''}",
            m in LOWER_IS_BETTER,
            partial(_number, measure=m),
        )
        for m in MEASURES
    ]
    lines: list[tuple[str, list[_Cell]]] = []
    for key, title in _ours(document):
        scores = document.regression.find(task.name, key)
        found = {} if scores is None or name not in scores.probes else scores.probes[name].measures
        lines.append((title, [(found[m].mean, found[m].sd) if m in found else None for m in MEASURES]))
    seeded = any(cell is not None and cell[1] is not None for _, cells in lines for cell in cells)
    caption = f"{tex(task.name)}: errors of {tex(what)}, per {task.scored}. "
    caption += _seeds(document)[:1].upper() + _seeds(document)[1:] if seeded else "Bold is the best of ours."
    floor = [
        _number(task.floor.measures[m].mean, m) if name == RIDGE and m in task.floor.measures else _DASH
        for m in MEASURES
    ]
    label = f"regression-{document.regression.tasks.index(task) + 1}-{name}"
    return _table(label, caption, columns, [_some(lines)], floor if name == RIDGE else [], MEAN_TITLE)


def _number(value: float, measure: str) -> str:
    text = plain_number(value, measure)
    return f"$-${text[1:]}" if text.startswith("-") else text


def _ours(document: Document) -> list[tuple[str, str]]:
    return [(key, encoder.title) for key, encoder in document.encoders.items()]


def _seeds(document: Document) -> str:
    return f"mean $\\pm$ standard deviation over {document.settings['seeds']} seeds; bold is the best of ours."


def _scores(document: Document, probe: str) -> list[_Row]:
    """Return a row per encoder: a probe's macro F1 on each task."""
    tasks = [task.name for task in document.tasks]
    return [(title, [_cell_of(document, task, key, probe) for task in tasks]) for key, title in _ours(document)]


def _cell_of(document: Document, task: str, encoder: str, probe: str) -> _Cell:
    scores = document.find(task, encoder)
    if scores is None or probe not in scores.probes:
        return None
    found = scores.probes[probe].measures["macro_f1"]
    return found.mean, found.sd


def _published(tasks: Sequence[TaskRecord]) -> list[_Row]:
    """Return the published scores, a row per model, where a task is one of the paper's."""
    known = [task.published.macro_f1 if task.published else {} for task in tasks]
    models = list(dict.fromkeys(model for one in known for model in one))
    return [(model, [(one[model].mean, one[model].sd) if model in one else None for one in known]) for model in models]


def _some(lines: Sequence[_Row]) -> list[_Row]:
    """Return the lines that hold any score."""
    return [(name, cells) for name, cells in lines if any(cells)]


def _table(
    label: str,
    caption: str,
    columns: Sequence[_Column],
    blocks: Sequence[Sequence[_Row]],
    floor: Sequence[str],
    floor_name: str = "Constant guess",
) -> str:
    """Return one floating table.

    Args:
        label: the table's is `tab:usjepa-LABEL`.
        caption: LaTeX.
        columns: tasks, or the measures of one.
        blocks: rows between rules; the best of each column is bold within its block.
        floor: what can be had without looking, the last row of the first block; empty: no such row.
        floor_name: what that row is called.
    """
    lines = [r"\begin{table}", r"\centering", f"\\caption{{{caption}}}", f"\\label{{tab:usjepa-{label}}}"]
    lines += [f"\\begin{{tabular}}{{l{'c' * len(columns)}}}", r"\toprule"]
    lines.append(_row("Encoder", [tex(column.name) for column in columns]))
    for number, block in enumerate(blocks):
        best = [column.best([cells[i] for _, cells in block]) for i, column in enumerate(columns)]
        lines.append(r"\midrule")
        lines += [_row(tex(name), list(map(_cell, columns, cells, best))) for name, cells in block]
        if floor and not number:
            lines.append(_row(floor_name, floor))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _row(name: str, cells: Sequence[str]) -> str:
    return " & ".join((name, *cells)) + r" \\"


def _cell(column: _Column, cell: _Cell, best: str) -> str:
    if cell is None:
        return _DASH
    mean = column.shown(cell[0])
    shown = f"\\textbf{{{mean}}}" if mean == best else mean
    return shown if cell[1] is None else f"{shown} $\\pm$ {column.shown(cell[1])}"
