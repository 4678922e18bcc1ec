"""The page a person reads: scores beside the published ones, what they mean, each task, caveats, identities.

Everything shown comes from the document that `scores.json` holds, from the run's log and from stored pixels, so that
the page can say nothing the numbers don't. The same inputs give the same bytes: no clock, no path of this machine.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

from usjepa.cache.identity import digest_of
from usjepa.evaluate.report.charts import loss_svg
from usjepa.evaluate.report.few_labels import feature_map
from usjepa.evaluate.report.markup import STUDENT, Example, ends, find, listed, note_list, percent, ranked, table, text
from usjepa.evaluate.report.page import MEANING, PAGE, STYLE
from usjepa.evaluate.report.sections import task_part
from usjepa.evaluate.report.segmentation import segmentation_html

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usjepa.cache.identity import Json
    from usjepa.evaluate.encoders.finished_run import Curve

_ORDINAL = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")


def render(document: Json, curve: Curve, examples: Sequence[Example], scores_csv: bytes) -> str:
    """Return the page as HTML text.

    Args:
        document: what scores.json holds.
        curve: the run's loss.
        examples: frames to show.
        scores_csv: the table that the page offers for download, kept within it.
    """
    run = text(document["run"]["name"])
    body = [
        f'<h1>What the encoder of “{run}” has learnt</h1><p class="quiet">{_what_was_done(document)}</p>',
        _headline(document),
        "<h2>Scores</h2>",
        _table(document),
        _download(scores_csv),
        "<h2>What the numbers mean</h2>",
        MEANING,
        *[task_part(document, task, [e for e in examples if e.task == task["name"]]) for task in document["tasks"]],
        _all_tasks(document),
        segmentation_html(document),
        _training(curve),
        "<h2>How it was measured</h2>",
        _settings(document),
    ]
    return PAGE.substitute(title=f"{run}: scores", style=STYLE, body="\n".join(body))


def _what_was_done(document: Json) -> str:
    names = [text(task["name"]) for task in document["tasks"]]
    seeds = document["settings"]["seeds"]
    return (
        f"The encoder is frozen; a linear classifier on its features is trained and tested {seeds} "
        f"{'time' if seeds == 1 else 'times'} on {listed(names)}, with patients kept apart. "
        "Other ways to describe the same frames are scored in the same way beside it."
    )


def _headline(document: Json) -> str:
    sentences = []
    for task in document["tasks"]:
        order = ranked(document, task["name"])
        place = next(i for i, s in enumerate(order) if s["encoder"] == STUDENT)
        ours = order[place]["probe"]["macro_f1"]
        others = [s for s in order if s["encoder"] != STUDENT]
        sentence = f"<b>{text(task['name'])}</b>: the student reaches <b>{percent(ours['mean'])} %</b> macro F1"
        if ours.get("interval"):
            sentence += f" (95 % interval {percent(ours['interval'][0])} to {percent(ours['interval'][1])})"
        if others:
            best = others[0]
            name = document["encoders"][best["encoder"]]["title"]
            name = text(name[0].lower() + name[1:])
            sentence += f"; the best of the others, {name}, reaches {percent(best['probe']['macro_f1']['mean'])} %"
            rank = _ORDINAL[place] if place < len(_ORDINAL) else f"number {place + 1}"
            sentence += f" (the student is {rank} of {len(order)}{_verdict(document, task['name'], best['encoder'])})"
        sentence += f". Always naming the commonest class would give {percent(task['floor']['macro_f1'])} %."
        sentences.append(f"<li>{sentence}</li>")
    return f'<ul class="lead">{"".join(sentences)}</ul>' + note_list(document["notes"])


def _verdict(document: Json, task: str, other: str) -> str:
    """Return whether the difference to the best of the others is real."""
    found = [one for one in document["differences"] if one["task"] == task and one["other"] == other]
    if not found:
        return ""
    return "; the difference is real" if found[0]["real"] else "; they are not shown to differ"


def _table(document: Json) -> str:
    tasks = document["tasks"]
    lines = [
        (encoder["title"], [_score(document, task["name"], key) for task in tasks], "ours" if key == STUDENT else "")
        for key, encoder in document["encoders"].items()
    ]
    floor = [percent(task["floor"]["macro_f1"]) for task in tasks]
    lines.append(("Always the commonest class", floor, "floor"))
    published = _published(tasks)
    asked = any(scores.get("attentive") for scores in document["scores"])
    attentive = " Attentive: a probe that learns where to look." if asked else ""
    head = ["Macro F1, %", *[text(task["name"]) for task in tasks]]
    return (
        f"{table(head, [*lines, *published], 'scores')}"
        '<p class="quiet">Linear probe: mean ± standard deviation over seeds; * the highest mean of ours on a task, '
        f"in brackets the 95 % interval over patients. k-NN: k nearest neighbours.{attentive}</p>"
        f"{_source(tasks)}"
    )


def _score(document: Json, task: str, encoder: str) -> str:
    scores = find(document, task, encoder)
    if scores is None:
        return "&ndash;"
    f1, knn = scores["probe"]["macro_f1"], scores["knn"]["macro_f1"]
    mark = ' class="best"' if ranked(document, task)[0]["encoder"] == encoder else ""
    interval = f"<small>{ends(f1.get('interval'))}</small>" if f1.get("interval") else ""
    attentive = scores.get("attentive")
    more = f"<small>attentive {percent(attentive['macro_f1']['mean'])}</small>" if attentive else ""
    shown = f"<span{mark}>{percent(f1['mean'])} ± {percent(f1['sd'])}</span>"
    return f"{shown}{interval}<small>k-NN {percent(knn)}</small>{more}"


def _published(tasks: Sequence[Json]) -> list[tuple[str, list[str], str]]:
    """Return the published scores, a line a model, where a task is one of the paper's."""
    models = list(
        dict.fromkeys(model for task in tasks if task["published"] for model in task["published"]["macro_f1"])
    )
    lines = []
    for number, model in enumerate(models):
        told = [task["published"]["macro_f1"].get(model) if task["published"] else None for task in tasks]
        cells = [f"{percent(one['mean'])} ± {percent(one['sd'])}" if one else "&ndash;" for one in told]
        lines.append((f"{model}, published", cells, "published first" if number == 0 else "published"))
    return lines


def _source(tasks: Sequence[Json]) -> str:
    """Return where the published scores are from, and where they were measured on other frames than ours."""
    known = [task for task in tasks if task["published"]]
    if not known:
        return ""
    other = [
        f"{text(task['name'])} has {task['counts']['test']['frames']} test frames here, "
        f"{task['published']['test_frames']} there"
        for task in known
        if task["counts"]["test"]["frames"] != task["published"]["test_frames"]
    ]
    differ = f" Not the same test: {'; '.join(other)}." if other else ""
    return (
        f'<p class="quiet">Published: {text(known[0]["published"]["source"])}; mean ± standard deviation over five '
        f"seeds, as printed there, not measured by us.{differ}</p>"
    )


def _download(scores_csv: bytes) -> str:
    coded = base64.b64encode(scores_csv).decode()
    return (
        f'<p class="download"><a download="scores.csv" href="data:text/csv;base64,{coded}">Every score as a table '
        "(CSV)</a>; beside this page, table.tex is the table for a paper, and scores.json also holds settings, "
        "identities and predictions.</p>"
    )


def _all_tasks(document: Json) -> str:
    found = feature_map(document["maps"].get(""), "Map of the features, all tasks", "dataset")
    return f"<h2>All tasks together</h2>{found}" if found else ""


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
        f'<tr><th scope="row">{text(name)}</th><td class="{kind}">{text(value)}</td></tr>' for name, value in lines
    )
    return f'<div class="scroll"><table class="facts"><tbody>{rows}</tbody></table></div>'
