"""The report's part on calibration: how sure the linear probe is, how often it is right, what a temperature mends."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from usjepa.evaluate.report.charts import legend, mark
from usjepa.evaluate.report.markup import STUDENT, find, percent, ranked, signed, table, text, title

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usjepa.cache.identity import Json

_PLACES = {"raw": 0, "tempered": 1}
"""Colour and mark of each state of the probe in the diagram."""
_NAMES = {"raw": "as trained", "tempered": "with its temperature"}


def calibration_part(document: Json, task: Json) -> str:
    """Return the section of a task: diagrams of the student and of its best rival, and a table of all encoders."""
    order = [scores for scores in ranked(document, task["name"]) if scores.get("calibration")]
    if not order:
        return ""
    shown = [find(document, task["name"], STUDENT), *[s for s in order if s["encoder"] != STUDENT][:1]]
    figures = "".join(_figure(title(document, scores["encoder"]), task["name"], scores) for scores in shown)
    states = [state for state in _PLACES if shown[0]["calibration"][state] is not None]
    named = legend([(_PLACES[state], _NAMES[state]) for state in states], curves=True)
    told = shown[0]["calibration"]
    return (
        f'<h3>How sure, and how often right</h3>{named}<div class="multiples">{figures}</div>'
        f'<p class="quiet">Across: how sure the linear probe is of the class it names, in percent. Up: how often it is '
        "right. On the dotted line both agree; below it the probe is too sure. A mark is one "
        f"{_ordinal(told['bins'])} of the {told['frames']} test frames, all seeds together, from the least sure to the "
        "surest.</p>"
        f"{_table(document, order)}{_explained(order)}"
    )


def reliability_svg(states: Sequence[tuple[int, Json]], name: str) -> str:
    """Return a reliability diagram: share right over confidence, a curve a state of the probe."""
    edge, left, top = 190.0, 38.0, 12.0

    def place(confidence: float, right: float) -> tuple[float, float]:
        return left + edge * confidence, top + edge * (1.0 - right)

    parts = []
    for tick in range(0, 101, 25):
        x, y = place(tick / 100, tick / 100)
        parts.append(f'<line class="grid" x1="{left:g}" y1="{y:.1f}" x2="{left + edge:g}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 6:g}" y="{y + 4:.1f}" text-anchor="end">{tick}</text>')
        parts.append(f'<text x="{x:.1f}" y="{top + edge + 16:g}" text-anchor="middle">{tick}</text>')
    parts.append(f'<line class="even" x1="{left:g}" y1="{top + edge:g}" x2="{left + edge:g}" y2="{top:g}"/>')
    for number, told in reversed(states):
        points = [place(*pair) for pair in zip(told["confidence"], told["accuracy"], strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dash = "6 3" if number else "none"
        parts.append(f'<polyline class="curve c{number}" stroke-dasharray="{dash}" points="{path}"/>')
        parts += [mark(number, x, y) for x, y in points]
    middle = left + edge / 2
    parts.append(f'<text x="{middle:g}" y="{top + edge + 33:g}" text-anchor="middle">sure, %</text>')
    label = html.escape(name, quote=True)
    return f'<svg viewBox="0 0 260 {top + edge + 40:g}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _figure(name: str, task: str, scores: Json) -> str:
    told = scores["calibration"]
    states = [(place, told[state]["diagram"]) for state, place in _PLACES.items() if told[state] is not None]
    figure = reliability_svg(states, f"Share of frames right by confidence on {task}: {name}")
    return f"<figure><h4>{text(name)}: right, %</h4>{figure}</figure>"


def _table(document: Json, order: Sequence[Json]) -> str:
    lines = []
    for scores in order:
        told, kind = scores["calibration"], "ours" if scores["encoder"] == STUDENT else ""
        raw, tempered = told["raw"], told["tempered"]
        cells = [
            f"{signed(raw['confidence'] - raw['accuracy'])}<small>{percent(raw['confidence'])} sure, "
            f"{percent(raw['accuracy'])} right</small>",
            f"{_spread(raw, 'ece')}<small>faultless: {percent(raw['faultless_ece'])}</small>",
            "&ndash;"
            if tempered is None
            else f"{_spread(tempered, 'ece')}<small>faultless: {percent(tempered['faultless_ece'])}</small>",
            f"{raw['brier']['mean']:.3f}",
            "&ndash;" if tempered is None else f"{tempered['brier']['mean']:.3f}",
            "&ndash;" if told["temperature"] is None else f"{told['temperature']['mean']:.2f}",
        ]
        lines.append((title(document, scores["encoder"]), cells, kind))
    head = [
        "Linear probe",
        "too sure by, points",
        "calibration error, %",
        "with temperature",
        "Brier score",
        "with temperature",
        "temperature",
    ]
    return table(head, lines, "measures")


def _spread(told: Json, measure: str) -> str:
    return f"{percent(told[measure]['mean'])} ± {percent(told[measure]['sd'])}"


def _explained(order: Sequence[Json]) -> str:
    """Return how to read the table, and what is amiss with the temperatures."""
    told = order[0]["calibration"]
    sentences = [
        "Calibration error: the mean distance of the marks from the dotted line. So few frames never give 0: "
        "“faultless” is what a probe that is right exactly as often as it says would show on as many. "
        "Brier score: squared distance of all probabilities from the truth, from 0 to 2, lower is better."
    ]
    if told["temperature"] is None:
        sentences.append("There are no validation frames to fit a temperature on.")
    else:
        sentences.append(
            "The temperature is fitted on the validation frames, which early stopping has also looked at; above 1 it "
            "makes the probe less sure. It changes no prediction."
        )
        limit = sum(scores["calibration"]["temperature"]["at_limit"] for scores in order)
        if limit:
            sentences.append(f"{limit} of the temperatures lie at the end of the range that is searched (0.05 to 20).")
    return f'<p class="quiet">{" ".join(sentences)}</p>'


def _ordinal(bins: int) -> str:
    words = "whole half third quarter fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth"
    return [*words.split(), "fifteenth"][bins - 1]
