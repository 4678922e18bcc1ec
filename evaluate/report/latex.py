"""`table.tex`: the scores as LaTeX tables for a paper (booktabs), published rows under ours with their source.

`\\input{table}` in a document with `\\usepackage{booktabs}`; UTF-8, as LaTeX reads by default since 2018. Bold is the
best mean of a column among our rows, and among the published ones: those were measured on splits that may differ, so
the two are never ranked together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from usjepa.evaluate.report.markup import find, listed, percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usjepa.cache.identity import Json

_ESCAPED = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}
_DASH = "--"
Cell = tuple[float, float] | None
"""Mean and standard deviation, as shares."""


def tex(text: object) -> str:
    """Return text that LaTeX prints as it is, on one line."""
    return "".join(_ESCAPED.get(sign, sign) for sign in " ".join(str(text).split()))


def table_tex(document: Json) -> str:
    """Return the tables of a document: linear probes, then attentive probes and segmentation where there are any."""
    tasks = document["tasks"]
    names = [task["name"] for task in tasks]
    tables = [_linear(document)]
    if any(scores.get("attentive") for scores in document["scores"]):
        lines = [
            (title, [_score(document, name, key, "attentive") for name in names]) for key, title in _ours(document)
        ]
        caption = f"Macro F1 in percent of attentive probes on frozen patch tokens: {_seeds(document)}"
        tables.append(_table("attentive", caption, names, [_some(lines)], []))
    found = document["segmentation"]
    if found["scores"]:
        named = [task["name"] for task in found["tasks"]]
        lines = [(title, [_dice(found, name, key) for name in named]) for key, title in _ours(document)]
        caption = f"Dice in percent of a linear layer on frozen patch tokens: {_seeds(document)}"
        tables.append(_table("segmentation", caption, named, [_some(lines)], []))
    return "% Made by usjepa-evaluate; needs \\usepackage{booktabs}.\n" + "\n".join(tables)


def _linear(document: Json) -> str:
    tasks = document["tasks"]
    ours = [(title, [_score(document, task["name"], key, "probe") for task in tasks]) for key, title in _ours(document)]
    published = _published(tasks)
    caption = f"Macro F1 in percent of linear probes on frozen features: {_seeds(document)}"
    if published:
        sources = listed(sorted({task["published"]["source"] for task in tasks if task["published"]}))
        caption += (
            f" Below the second rule: as published ({tex(sources)}), not measured by us, on splits that may differ;"
            " bold there is the best published."
        )
    floor = [f"{100 * task['floor']['macro_f1']:.1f}" for task in tasks]
    names = [task["name"] for task in tasks]
    return _table("linear", caption, names, [ours, *([published] if published else [])], floor)


def _ours(document: Json) -> list[tuple[str, str]]:
    return [(key, encoder["title"]) for key, encoder in document["encoders"].items()]


def _seeds(document: Json) -> str:
    return f"mean $\\pm$ standard deviation over {document['settings']['seeds']} seeds; bold is the best of ours."


def _score(document: Json, task: str, encoder: str, probe: str) -> Cell:
    scores = find(document, task, encoder)
    if scores is None or not scores.get(probe):
        return None
    return scores[probe]["macro_f1"]["mean"], scores[probe]["macro_f1"]["sd"]


def _dice(found: Json, task: str, encoder: str) -> Cell:
    one = next((s for s in found["scores"] if s["task"] == task and s["encoder"] == encoder), None)
    return None if one is None else (one["dice"]["mean"], one["dice"]["sd"])


def _published(tasks: Sequence[Json]) -> list[tuple[str, list[Cell]]]:
    """Return the published scores, a line a model, where a task is one of the paper's."""
    told = [task["published"]["macro_f1"] if task["published"] else {} for task in tasks]
    models = list(dict.fromkeys(model for one in told for model in one))
    return [
        (model, [(one[model]["mean"], one[model]["sd"]) if model in one else None for one in told]) for model in models
    ]


def _some(lines: Sequence[tuple[str, list[Cell]]]) -> list[tuple[str, list[Cell]]]:
    """Return the lines that hold any score."""
    return [(name, cells) for name, cells in lines if any(cells)]


def _table(
    label: str,
    caption: str,
    columns: Sequence[str],
    blocks: Sequence[Sequence[tuple[str, Sequence[Cell]]]],
    floor: Sequence[str],
) -> str:
    """Return one floating table.

    Args:
        label: referred to as `tab:usjepa-LABEL`.
        caption: LaTeX.
        columns: names of tasks.
        blocks: rows between rules; the best of each column is bold within its block.
        floor: what always naming the commonest class gives, the last row of the first block; empty: no such row.
    """
    lines = [r"\begin{table}", r"\centering", f"\\caption{{{caption}}}", f"\\label{{tab:usjepa-{label}}}"]
    lines += [f"\\begin{{tabular}}{{l{'c' * len(columns)}}}", r"\toprule"]
    lines.append(_row("Encoder", [tex(name) for name in columns]))
    for number, block in enumerate(blocks):
        best = [_best([cells[i] for _, cells in block]) for i in range(len(columns))]
        lines.append(r"\midrule")
        lines += [_row(tex(name), list(map(_cell, cells, best))) for name, cells in block]
        if floor and not number:
            lines.append(_row("Always the commonest class", floor))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _row(name: str, cells: Sequence[str]) -> str:
    return " & ".join((name, *cells)) + r" \\"


def _best(cells: Sequence[Cell]) -> str:
    """Return the best mean as it is printed: what reads equal is bold together."""
    return percent(max((cell[0] for cell in cells if cell), default=-1.0))


def _cell(cell: Cell, best: str) -> str:
    if cell is None:
        return _DASH
    mean, deviation = percent(cell[0]), percent(cell[1])
    shown = f"\\textbf{{{mean}}}" if mean == best else mean
    return f"{shown} $\\pm$ {deviation}"
