"""The report's parts on one task: scores and intervals, differences, confusions, what is in it, example frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usjepa.evaluate.report.calibration import calibration_part
from usjepa.evaluate.report.charts import Series, scores_svg
from usjepa.evaluate.report.few_labels import corrupted, feature_map, few_labels
from usjepa.evaluate.report.markup import (
    STUDENT,
    Example,
    ends,
    find,
    note_list,
    percent,
    ranked,
    signed,
    table,
    text,
    title,
)
from usjepa.evaluate.scores.bootstrap import LEAST_GROUPS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usjepa.cache.identity import Json

_NAMED_COLUMNS = 5


def task_part(document: Json, task: Json, examples: Sequence[Example]) -> str:
    """Return everything the page says of one task."""
    order = ranked(document, task["name"])
    rivals = [s for s in order if s["encoder"] != STUDENT][:1]
    shown = [find(document, task["name"], STUDENT), *rivals]
    matrices = "".join(_confusion(title(document, s["encoder"]), task["classes"], s) for s in shown)
    return "\n".join(
        [
            f"<h2>Task: {text(task['name'])}</h2>",
            _counts(task),
            note_list(task["notes"]),
            _dots(document, task, order),
            _measures(document, task, order),
            _differences(document, task),
            "<h3>What is taken for what</h3>",
            f'<div class="pair">{matrices}</div>',
            '<p class="quiet">Rows are the truth, columns what the probe said, in percent of the row, over all seeds. '
            "A faultless encoder has 100 on the diagonal.</p>",
            calibration_part(document, task),
            few_labels(document, task),
            corrupted(document, task),
            feature_map(document["maps"].get(task["name"]), "Map of the features", "class"),
            _frames(examples),
        ]
    )


def _dots(document: Json, task: Json, order: Sequence[Json]) -> str:
    series = [
        Series(
            title(document, s["encoder"]),
            tuple(100 * value for value in s["probe"]["macro_f1"]["seeds"]),
            100 * s["knn"]["macro_f1"],
            s["encoder"] == STUDENT,
            _in_percent(s["probe"]["macro_f1"].get("interval")),
        )
        for s in order
    ]
    figure = scores_svg(series, 100 * task["floor"]["macro_f1"], f"Macro F1 on {task['name']}, percent, by encoder")
    return (
        f"<figure>{figure}<figcaption>Macro F1 in percent. A dot is one probe seed, the upright bar their mean, the "
        "thin line its 95 % interval over patients, the diamond k-NN; the dashed line is what always naming the "
        "commonest class gives.</figcaption></figure>"
    )


def _in_percent(interval: Sequence[float] | None) -> tuple[float, float] | None:
    return None if interval is None else (100 * interval[0], 100 * interval[1])


def _measures(document: Json, task: Json, order: Sequence[Json]) -> str:
    attentive = next((s["attentive"] for s in order if s["attentive"]), None)
    lines = []
    for s in order:
        probe, logistic, knn = s["probe"], s["logistic"], s["knn"]
        cells = [_spread(probe["macro_f1"]), _spread(probe["balanced_accuracy"]), _spread(probe.get("auroc"))]
        cells += [_spread((s["attentive"] or {}).get(measure)) for measure in ("macro_f1", "auroc") if attentive]
        cells += [_single(logistic, "macro_f1"), _single(logistic, "auroc"), _single(knn, "macro_f1")]
        lines.append((title(document, s["encoder"]), cells, "ours" if s["encoder"] == STUDENT else ""))
    head = [
        "Percent",
        "probe: macro F1",
        "probe: balanced accuracy",
        "probe: AUROC",
        *(["attentive: macro F1", "attentive: AUROC"] if attentive else []),
        "logistic: macro F1",
        "logistic: AUROC",
        "k-NN: macro F1",
    ]
    return (
        f"<h3>All measures</h3>{table(head, lines, 'measures')}"
        '<p class="quiet">Mean ± standard deviation over probe seeds; in brackets the 95 % interval if other patients '
        f"of the same kind had been tested.{_attentive_told(attentive, task)}</p>"
    )


def _attentive_told(attentive: Json, task: Json) -> str:
    """Return on how many frames the attentive probes were trained, where that is not all."""
    trained = task["counts"]["train"]["frames"]
    if not attentive or attentive["training_frames"] == trained:
        return ""
    return f" The attentive probe was trained on {attentive['training_frames']} of the {trained} training frames."


def _spread(told: Json) -> str:
    if told is None:
        return "&ndash;"
    return f"{percent(told['mean'])} ± {percent(told['sd'])}<small>{ends(told.get('interval'))}</small>"


def _single(told: Json, measure: str) -> str:
    if told.get(measure) is None:
        return "&ndash;"
    return f"{percent(told[measure])}<small>{ends(told['interval'].get(measure))}</small>"


def _differences(document: Json, task: Json) -> str:
    """Return which differences of the student to others are real."""
    here = [one for one in document["differences"] if one["task"] == task["name"]]
    if not here:
        return ""
    lines = []
    for one in here:
        better = "student better" if one["difference"] > 0 else "student worse"
        verdict = f"<b>real: {better}</b>" if one["real"] else "not shown to differ"
        low, high = one["interval"]
        cells = [verdict, signed(one["difference"]), f"{signed(low)} to {signed(high)}", f"{one['p_holm']:.2g}"]
        lines.append((title(document, one["other"]), cells, ""))
    head = ["Student minus", "Verdict", "macro F1, points", "95 % interval", "p (Holm)"]  # a phone shows the first
    return (
        f"<h3>Which differences are real</h3>{table(head, lines, 'measures')}"
        f'<p class="quiet">Paired: both encoders meet the same test patients, drawn again with replacement. p-values '
        f"are corrected for the {len(document['differences'])} comparisons on this page; on fewer than {LEAST_GROUPS} "
        "test groups nothing is called real. “Not shown to differ” is not “equal”.</p>"
    )


def _counts(task: Json) -> str:
    """Return the table of what each split holds: a line per class, so that many classes fit a phone."""
    counts = task["counts"]
    lines = [(name, [str(c["classes"][name]) for c in counts.values()], "") for name in task["classes"]]
    lines.append(("All frames", [str(c["frames"]) for c in counts.values()], ""))
    lines.append(("Patients or clips", [str(c["groups"]) for c in counts.values()], ""))
    return table(["Frames", *map(text, counts)], lines, "counts")


def _confusion(name: str, classes: Sequence[str], scores: Json) -> str:
    codes = list(classes) if len(classes) <= _NAMED_COLUMNS else [_code(i) for i in range(len(classes))]
    head = "".join(f'<th scope="col">{text(code)}</th>' for code in codes)
    rows = ""
    for class_name, code, counts in zip(classes, codes, scores["probe"]["confusion"], strict=True):
        total = sum(counts)
        untested = f'<td colspan="{len(classes)}">no test frames</td>'
        cells = "".join(_cell(count / total) for count in counts) if total else untested
        told = text(class_name) if class_name == code else f"{text(class_name)} <b>{code}</b>"
        rows += f'<tr><th scope="row">{told}</th>{cells}</tr>'
    accuracy = scores["probe"]["balanced_accuracy"]
    return (
        f'<figure class="scroll"><table class="confusion"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
        f"<figcaption>{text(name)}: balanced accuracy {percent(accuracy['mean'])} ± {percent(accuracy['sd'])} "
        "%</figcaption></figure>"
    )


def _code(number: int) -> str:
    """Return A, B, ... Z, AA, AB, ...: what stands over a column when the classes' names don't fit."""
    letters = ""
    while number >= 0:
        letters, number = chr(65 + number % 26) + letters, number // 26 - 1
    return letters


def _cell(share: float) -> str:
    """Return a cell whose depth of colour is its share, never so deep that the ink on it can't be read."""
    return f'<td style="background: rgba(var(--heat), {0.75 * share:.2f})">{100 * share:.0f}</td>'


def _frames(examples: Sequence[Example]) -> str:
    if not examples:
        return ""
    parts = []
    for heading, right in (
        ("Best: recognised, most surely first", True),
        ("Worst: mistaken, most surely first", False),
    ):
        chosen = [e for e in examples if (e.truth == e.predicted) == right]
        if chosen:
            parts.append(f'<h3>{heading}</h3><div class="frames">{"".join(map(_frame, chosen))}</div>')
    return "".join(parts)


def _frame(example: Example) -> str:
    said = f"{text(example.predicted)}, {100 * example.confidence:.0f} % sure"
    caption = (
        said
        if example.truth == example.predicted
        else f'<span class="wrong">said {said}</span><br>is {text(example.truth)}'
    )
    alt = text(f"Ultrasound frame: {example.truth}")
    return f'<figure><img src="{example.image}" alt="{alt}"><figcaption>{caption}</figcaption></figure>'
