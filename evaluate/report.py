"""The page a person reads: scores, what they mean, the loss curve, confusions, example frames, caveats, identities.

Everything shown comes from the document that `scores.json` holds, from the run's log and from stored pixels, so that
the page can say nothing the numbers don't. The same inputs give the same bytes: no clock, no path of this machine.
"""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from usjepa.cache.identity import digest_of
from usjepa.evaluate.figures import Points, Series, loss_svg, scores_svg
from usjepa.evaluate.page import MEANING, PAGE, STYLE
from usjepa.evaluate.segmentation_report import segmentation_html

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usjepa.cache.identity import Json

STUDENT = "student"
_NAMED_COLUMNS = 5
_ORDINAL = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")


@dataclass(frozen=True)
class Example:
    """A test frame and what the student's probes make of it."""

    task: str
    truth: str
    predicted: str
    confidence: float
    """Mean probability of the predicted class over the probes."""
    image: str
    """Data URI."""


@dataclass(frozen=True)
class Curve:
    """The run's loss: (epoch, loss) points."""

    train: Points
    validation: Points


def render(document: Json, curve: Curve, examples: Sequence[Example]) -> str:
    """Return the page as HTML text."""
    run = _text(document["run"]["name"])
    body = [
        f'<h1>What the encoder of “{run}” has learnt</h1><p class="quiet">{_what_was_done(document)}</p>',
        _headline(document),
        "<h2>Scores</h2>",
        _table(document),
        "<h2>What the numbers mean</h2>",
        MEANING,
        *[_task(document, task, [e for e in examples if e.task == task["name"]]) for task in document["tasks"]],
        segmentation_html(document),
        _training(curve),
        "<h2>How it was measured</h2>",
        _settings(document),
    ]
    return PAGE.substitute(title=f"{run}: scores", style=STYLE, body="\n".join(body))


def find(document: Json, task: str, encoder: str) -> Json:
    """Return the scores of an encoder on a task."""
    return next(s for s in document["scores"] if s["task"] == task and s["encoder"] == encoder)


def ranked(document: Json, task: str) -> list[Json]:
    """Return a task's scores, best mean macro F1 first; equal ones in the table's order."""
    here = [s for s in document["scores"] if s["task"] == task]
    return sorted(here, key=lambda s: -float(s["probe"]["macro_f1"]["mean"]))


def percent(fraction: float) -> str:
    """Return a share as percent with one decimal."""
    return f"{100 * fraction:.1f}"


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def _what_was_done(document: Json) -> str:
    names = [_text(task["name"]) for task in document["tasks"]]
    seeds = document["settings"]["seeds"]
    return (
        f"The encoder is frozen; a linear classifier on its features is trained and tested {seeds} "
        f"{'time' if seeds == 1 else 'times'} on {_listed(names)}, with patients kept apart. "
        "Other ways to describe the same frames are scored in the same way beside it."
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _headline(document: Json) -> str:
    sentences = []
    for task in document["tasks"]:
        order = ranked(document, task["name"])
        place = next(i for i, s in enumerate(order) if s["encoder"] == STUDENT)
        ours = order[place]["probe"]["macro_f1"]
        others = [s for s in order if s["encoder"] != STUDENT]
        sentence = f"<b>{_text(task['name'])}</b>: the student reaches <b>{percent(ours['mean'])} %</b> macro F1"
        if others:
            best = others[0]
            title = document["encoders"][best["encoder"]]["title"]
            title = _text(title[0].lower() + title[1:])
            sentence += f"; the best of the others, {title}, reaches {percent(best['probe']['macro_f1']['mean'])} %"
            sentence += f" (the student is {_ORDINAL[place]} of {len(order)})"
        sentence += f". Always naming the commonest class would give {percent(task['floor']['macro_f1'])} %."
        sentences.append(f"<li>{sentence}</li>")
    return f'<ul class="lead">{"".join(sentences)}</ul>' + _notes(document["notes"])


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    return f'<div class="note"><ul>{"".join(f"<li>{_text(note)}</li>" for note in notes)}</ul></div>'


def _table(document: Json) -> str:
    tasks = document["tasks"]
    best = {task["name"]: ranked(document, task["name"])[0]["encoder"] for task in tasks}
    head = "".join(f'<th scope="col">{_text(task["name"])}</th>' for task in tasks)
    rows = []
    for key, encoder in document["encoders"].items():
        cells = []
        for task in tasks:
            if not any(s["task"] == task["name"] and s["encoder"] == key for s in document["scores"]):
                cells.append("<td>&ndash;</td>")
                continue
            scores = find(document, task["name"], key)
            f1, knn = scores["probe"]["macro_f1"], scores["knn"]["macro_f1"]
            mark = ' class="best"' if best[task["name"]] == key else ""
            told = f"<span{mark}>{percent(f1['mean'])} ± {percent(f1['sd'])}</span>"
            cells.append(f"<td>{told}<small>k-NN {percent(knn)}</small></td>")
        kind = ' class="ours"' if key == STUDENT else ""
        rows.append(f'<tr{kind}><th scope="row">{_text(encoder["title"])}</th>{"".join(cells)}</tr>')
    floor = "".join(f"<td>{percent(task['floor']['macro_f1'])}</td>" for task in tasks)
    rows.append(f'<tr class="floor"><th scope="row">Always the commonest class</th>{floor}</tr>')
    return (
        f'<div class="scroll"><table class="scores"><thead><tr><th scope="col">Macro F1, %</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        '<p class="quiet">Linear probe: mean ± standard deviation over its seeds; * the highest mean of a task. '
        "Below it: k nearest neighbours.</p>"
    )


def _task(document: Json, task: Json, examples: Sequence[Example]) -> str:
    order = ranked(document, task["name"])
    series = [
        Series(
            document["encoders"][s["encoder"]]["title"],
            tuple(100 * value for value in s["probe"]["macro_f1"]["seeds"]),
            100 * s["knn"]["macro_f1"],
            s["encoder"] == STUDENT,
        )
        for s in order
    ]
    figure = scores_svg(series, 100 * task["floor"]["macro_f1"], f"Macro F1 on {task['name']}, percent, by encoder")
    rivals = [s for s in order if s["encoder"] != STUDENT][:1]
    shown = [find(document, task["name"], STUDENT), *rivals]
    matrices = "".join(_confusion(document["encoders"][s["encoder"]]["title"], task["classes"], s) for s in shown)
    return "\n".join(
        [
            f"<h2>Task: {_text(task['name'])}</h2>",
            _counts(task),
            _notes(task["notes"]),
            f"<figure>{figure}<figcaption>Macro F1 in percent. A dot is one probe seed, the bar their mean, the "
            "diamond k-NN; the dashed line is what always naming the commonest class gives.</figcaption></figure>",
            "<h3>What is taken for what</h3>",
            f'<div class="pair">{matrices}</div>',
            '<p class="quiet">Rows are the truth, columns what the probe said, in percent of the row, over all seeds. '
            "A faultless encoder has 100 on the diagonal.</p>",
            _frames(examples),
        ]
    )


def _counts(task: Json) -> str:
    """Return the table of what each split holds: a line per class, so that many classes fit a phone."""
    counts = task["counts"]
    head = "".join(f'<th scope="col">{_text(split)}</th>' for split in counts)

    def line(title: str, values: Sequence[int]) -> str:
        return f'<tr><th scope="row">{_text(title)}</th>{"".join(f"<td>{value}</td>" for value in values)}</tr>'

    lines = [line(name, [c["classes"][name] for c in counts.values()]) for name in task["classes"]]
    lines.append(line("All frames", [c["frames"] for c in counts.values()]))
    lines.append(line("Patients or clips", [c["groups"] for c in counts.values()]))
    return (
        f'<div class="scroll"><table class="counts"><thead><tr><th scope="col">Frames</th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _confusion(title: str, classes: Sequence[str], scores: Json) -> str:
    codes = list(classes) if len(classes) <= _NAMED_COLUMNS else [_code(i) for i in range(len(classes))]
    head = "".join(f'<th scope="col">{_text(code)}</th>' for code in codes)
    rows = ""
    for name, code, counts in zip(classes, codes, scores["probe"]["confusion"], strict=True):
        total = sum(counts)
        untested = f'<td colspan="{len(classes)}">no test frames</td>'
        cells = "".join(_cell(count / total) for count in counts) if total else untested
        told = _text(name) if name == code else f"{_text(name)} <b>{code}</b>"
        rows += f'<tr><th scope="row">{told}</th>{cells}</tr>'
    accuracy = scores["probe"]["balanced_accuracy"]
    return (
        f'<figure class="scroll"><table class="confusion"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
        f"<figcaption>{_text(title)}: balanced accuracy {percent(accuracy['mean'])} ± {percent(accuracy['sd'])} "
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
    for title, right in (("Recognised, most surely first", True), ("Mistaken, most surely first", False)):
        chosen = [e for e in examples if (e.truth == e.predicted) == right]
        if chosen:
            parts.append(f'<h3>{title}</h3><div class="frames">{"".join(map(_frame, chosen))}</div>')
    return "".join(parts)


def _frame(example: Example) -> str:
    said = f"{_text(example.predicted)}, {100 * example.confidence:.0f} % sure"
    caption = (
        said
        if example.truth == example.predicted
        else f'<span class="wrong">said {said}</span><br>is {_text(example.truth)}'
    )
    alt = _text(f"Ultrasound frame: {example.truth}")
    return f'<figure><img src="{example.image}" alt="{alt}"><figcaption>{caption}</figcaption></figure>'


def _training(curve: Curve) -> str:
    if not curve.train:
        return "<h2>How the encoder was trained</h2><p>The run's log holds no loss to show.</p>"
    figure = loss_svg(curve.train, curve.validation, "Loss over epochs in training and on held-out patients")
    return (
        f"<h2>How the encoder was trained</h2><figure>{figure}"
        '<figcaption><span class="key"></span> training &ensp; <span class="key validation"></span> held-out patients. '
        "The loss is the distance between the student's prediction of the teacher's features and those features: lower "
        "is nearer. A validation line that rises while training falls means that the encoder learns its patients by "
        "heart."
        "</figcaption></figure>"
    )


def _settings(document: Json) -> str:
    encoders = document["encoders"].values()
    identities = [("Everything", document["inputs_digest"])]
    identities += [(f"Task {task['name']}", digest_of(task["identity"])) for task in document["tasks"]]
    identities += [
        (f"{encoder['title']}, {task}", digest_of(identity))
        for encoder in encoders
        for task, identity in encoder["identities"].items()
    ]
    return (
        f"<h3>Features</h3>{_facts([(e['title'], str(e['dim']) + ' numbers; ' + e['pooling']) for e in encoders])}"
        f"<h3>Protocol</h3>{_facts([(key, json.dumps(value)) for key, value in document['settings'].items()], 'mono')}"
        "<h3>Identities</h3><p>Reports with equal identities rest on the same weights and frames. scores.json, beside "
        f"this page, says what is behind each, and holds every score of every seed.</p>{_facts(identities, 'mono')}"
        f"<h3>Software</h3>{_facts(list(document['software'].items()), 'mono')}"
    )


def _facts(lines: Sequence[tuple[str, str]], kind: str = "") -> str:
    """Return a table of names and what is so of them."""
    rows = "".join(
        f'<tr><th scope="row">{_text(name)}</th><td class="{kind}">{_text(value)}</td></tr>' for name, value in lines
    )
    return f'<div class="scroll"><table class="facts"><tbody>{rows}</tbody></table></div>'
