"""Write every score as a CSV line, with its identities, settings and seed."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from usjepa.cache.identity import digest_of
from usjepa.cache.terminal.streams import shown_name
from usjepa.evaluate.probes.base import PRIMARY
from usjepa.evaluate.report.text import FLOOR_TITLE, MEAN_TITLE
from usjepa.evaluate.scores.records import Measure
from usjepa.evaluate.scores.regression import LOWER_IS_BETTER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usjepa.cache.identity import Json
    from usjepa.evaluate.report.document import Document
    from usjepa.evaluate.scores.calibration import Calibration
    from usjepa.evaluate.scoring.encoder import EncoderScores
    from usjepa.evaluate.scoring.regression import RegressionScores
    from usjepa.evaluate.scoring.segmentation import DiceFloor, SegmentationScores

_Line = dict[str, Any]

_COLUMNS = (
    "task",
    "encoder",
    "classifier",
    "measure",
    "labels_share",
    "corruption",
    "strength",
    "class",
    "statistic",
    "seed",
    "value",
    "title",
    "encoder_identity",
    "task_identity",
    "report_identity",
    "unit",
)
"""Before the settings. `statistic` is mean, sd, low and high (95 % interval) or seed; a `seed` column belongs to it.

`class` is that of a Dice; empty: the mean over classes. `unit` is that of a regression's
errors; empty: none, or unknown.
"""
_FORMULAS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Beginnings of text that spreadsheets compute (OWASP, CSV injection), the full-width ones too."""
_LINEAR = {"classifier": PRIMARY, "measure": "macro_f1"}


def scores_csv(document: Document) -> str:
    """Return the scores of a document as CSV text, lines ending in a newline alone."""
    settings = {f"setting.{name}": _plain(value) for name, value in document.settings.items()}
    identity = {task.name: digest_of(task.identity) for task in document.tasks}
    identity |= {task.name: digest_of(task.identity) for task in document.segmentation.tasks}
    identity |= {task.name: digest_of(task.identity) for task in document.regression.tasks}
    out = io.StringIO()
    writer = csv.DictWriter(out, (*_COLUMNS, *settings), restval="", lineterminator="\n")
    writer.writeheader()
    units = {task.name: task.unit for task in document.regression.tasks}
    lines = [(s.task, s.encoder, _classification(s)) for s in document.scores]
    lines += [(s.task, s.encoder, _regression(s, units[s.task])) for s in document.regression.scores]
    lines += [(s.task, s.encoder, _dice(s)) for s in document.segmentation.scores]
    every: list[tuple[_Line, Iterator[_Line]]] = []
    for task, key, some in lines:
        encoder = document.encoders[key]
        told = {"encoder": key, "title": encoder.title, "encoder_identity": digest_of(encoder.identities[task])}
        every.append(({"task": task, **told}, some))
    for one in document.regression.tasks:
        about = {"classifier": "none", "unit": one.unit}
        floor = (line for m, value in one.floor.measures.items() for line in _number(value, m, about))
        every.append(({"task": one.name, "encoder": "training mean", "title": MEAN_TITLE}, floor))
    for segmented in document.segmentation.tasks:
        told = {"task": segmented.name, "encoder": "mean mask", "title": FLOOR_TITLE}
        every.append((told, _floor(segmented.floor)))
    for told, some in every:
        fixed = {
            **told,
            "labels_share": 1,
            "task_identity": identity[told["task"]],
            "report_identity": document.inputs_digest,
            **settings,
        }
        writer.writerows({name: defused(cell) for name, cell in {**fixed, **line}.items()} for line in some)
    return out.getvalue()


def defused(cell: Json) -> Json:
    """Return a cell on one line that no spreadsheet computes: text that begins like a formula gets an apostrophe."""
    if not isinstance(cell, str):
        return cell
    text = shown_name(cell)
    return f"'{text}" if text.startswith(_FORMULAS) else text


def _plain(value: Json) -> Json:
    return json.dumps(value) if isinstance(value, list | dict) else value


def _classification(scores: EncoderScores) -> Iterator[_Line]:
    """Yield what differs between the lines of one encoder on one task."""
    for name, probe in scores.probes.items():
        for measure, one in probe.measures.items():
            yield from _lines(one, classifier=name, measure=measure)
        if probe.calibration is not None:
            yield from _calibration(probe.calibration, name)
    for shot in scores.few_shot:
        yield from _lines(shot.macro_f1, **_LINEAR, labels_share=shot.share)
    if scores.robustness is not None:
        yield from _lines(scores.robustness.clean, **_LINEAR, corruption="none", strength=0)
        for corruption, strengths in scores.robustness.corruptions.items():
            for at in strengths:
                yield from _lines(at.macro_f1, **_LINEAR, corruption=corruption, strength=at.strength)


def _calibration(found: Calibration, probe: str) -> Iterator[_Line]:
    for state, classifier in ((found.raw, probe), (found.tempered, f"{probe}, tempered")):
        if state is not None:
            for measure, one in (("ece", state.ece), ("brier", state.brier), ("log_loss", state.log_loss)):
                yield from _lines(one, classifier=classifier, measure=measure)
    if found.temperature is not None:
        one = Measure(mean=found.temperature.mean, sd=found.temperature.sd, seeds=found.temperature.seeds)
        yield from _lines(one, classifier=probe, measure="temperature")


def _regression(scores: RegressionScores, unit: str) -> Iterator[_Line]:
    """Yield the lines of one encoder on one regression task."""
    for name, probe in scores.probes.items():
        for measure, one in probe.measures.items():
            yield from _number(one, measure, {"classifier": name, "unit": unit})


def _number(one: Measure, measure: str, about: _Line) -> Iterator[_Line]:
    """Yield the lines of a measure of predicted numbers; only errors have a unit."""
    unit = about["unit"] if measure in LOWER_IS_BETTER else ""
    yield from _lines(one, **{**about, "unit": unit}, measure=measure)


def _dice(scores: SegmentationScores) -> Iterator[_Line]:
    about = {"classifier": "segmentation", "measure": "dice"}
    dice = scores.dice
    yield from _lines(Measure(mean=dice.mean, sd=dice.sd, seeds=dice.seeds, interval=dice.interval), **about)
    for name, one in scores.classes.items():
        yield from _lines(Measure(mean=one.mean, sd=one.sd), **about, **{"class": name})


def _floor(found: DiceFloor) -> Iterator[_Line]:
    about = {"classifier": "segmentation", "measure": "dice"}
    yield from _lines(Measure(mean=found.mean, interval=found.interval), **about)
    for name, one in found.classes.items():
        yield from _lines(Measure(mean=one), **about, **{"class": name})


def _lines(one: Measure, **about: Any) -> Iterator[_Line]:
    """Yield a measure's lines: mean, deviation and interval where it has them, and each seed."""
    yield {**about, "statistic": "mean", "value": one.mean}
    if one.sd is not None:
        yield {**about, "statistic": "sd", "value": one.sd}
    if one.interval is not None:
        yield {**about, "statistic": "low", "value": one.interval[0]}
        yield {**about, "statistic": "high", "value": one.interval[1]}
    for seed, value in enumerate(one.seeds):
        yield {**about, "statistic": "seed", "seed": seed, "value": value}
