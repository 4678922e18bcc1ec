"""Render the report's page from the document, the run's losses and stored frames.

The templates lie in `templates/`; every value is escaped there. The page can show nothing that the numbers don't hold,
and the same inputs give the same bytes: no clock, no path of this machine. It fetches nothing.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from markupsafe import Markup

from usjepa.cache.identity import digest_of
from usjepa.cache.pages.environment import Section, open_templates
from usjepa.evaluate.encoders.base import STUDENT
from usjepa.evaluate.report import figures, text
from usjepa.evaluate.report.answer.dots import dots_of
from usjepa.evaluate.report.answer.sentence import against_floor, answer, on_task
from usjepa.evaluate.report.answer.standing import standings
from usjepa.evaluate.scores.bootstrap import LEAST_GROUPS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jinja2 import Environment

    from usjepa.evaluate.encoders.finished_run import Curve
    from usjepa.evaluate.report.answer.shown import Shown
    from usjepa.evaluate.report.document import Document, TaskRecord
    from usjepa.evaluate.report.examples import Example
    from usjepa.evaluate.report.numbers.records import RegressionTask
    from usjepa.evaluate.scores.records import Measure
    from usjepa.evaluate.scoring.encoder import EncoderScores
    from usjepa.evaluate.scoring.regression import RegressionScores

_LOSSES = {
    "latents": "the distance between the student's prediction of the teacher's features and those features: lower is "
    "nearer",
    "pixels": "the distance between the pixels that it predicts and the hidden ones: lower is nearer",
    "contrast": "how badly it finds, among the frames of a batch, the one that belongs to each: lower is better",
}
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")
_TENS = ("tenth", "eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth")
_SHARES = ("", "half", "third", "quarter", *_ORDINALS[4:], *_TENS)
_NAMED_COLUMNS = 5
"""Classes whose names fit over the columns of a confusion matrix."""


@dataclass(frozen=True)
class _Column:
    """One measure of one probe in the table of all measures."""

    heading: str
    probe: str
    measure: str

    def of(self, scores: EncoderScores) -> Measure | None:
        """Return an encoder's value; None where it has none."""
        found = scores.probes.get(self.probe)
        return None if found is None else found.measures.get(self.measure)


def render(
    document: Document, curve: Curve, examples: Sequence[Example], scores_csv: bytes, shown: Sequence[Shown] = ()
) -> str:
    """Return the page as HTML text.

    Args:
        document: what scores.json holds.
        curve: the run's loss.
        examples: frames to show.
        scores_csv: the table that the page offers for download, kept within it.
        shown: the frames of the first screen.
    """
    view, found = _View(document), standings(document)
    return (
        _environment()
        .get_template("page.html")
        .render(
            document=document,
            curve=curve,
            examples=examples,
            scores_csv=base64.b64encode(scores_csv).decode(),
            student=STUDENT,
            losses=_LOSSES,
            best=Markup(' class="best"'),
            least_groups=LEAST_GROUPS,
            sections=_sections(document),
            measured=view.measured,
            scored_in_order=view.scored_in_order,
            numbers_scored=view.numbers_scored,
            standings=found,
            answer=answer(found, document.run.noun),
            dot_charts=[dots_of(one) for one in found],
            has_intervals=any(row.interval for one in found for row in one.rows),
            shown=shown,
            tasks_named=view.tasks_named(),
            smallest_groups=view.smallest_groups,
            trained_on_some=view.trained_on_some,
            apart=view.apart(),
            summarised={name: probe for name, probe in document.probes.items() if probe.summary},
            **view.published(),
            **view.measured_how(),
        )
    )


@cache
def _environment() -> Environment:
    formats: dict[str, Callable[..., object]] = {
        "percent": text.percent,
        "spread": text.spread,
        "listed": text.listed,
        "signed": text.signed,
        "number": lambda value, measure="mae": text.true_minus(text.plain_number(value, measure)),
        "number_spread": lambda one, measure="mae": text.true_minus(text.number_spread(one, measure)),
        "number_ends": text.number_ends,
        "signed_number": text.signed_number,
        "measure_name": text.measure_name,
        "ends": text.ends,
        "extent": _extent,
        "shares": _shares,
        "ordinal_share": lambda bins: _SHARES[bins - 1],
        "column_names": _column_names,
        "capitalized": lambda words: words[:1].upper() + words[1:],
        "on_task": on_task,
        "against_floor": against_floor,
    }
    drawn = (
        figures.dots,
        figures.few_label_curves,
        figures.corruption_charts,
        figures.corruption_legend,
        figures.reliability_diagram,
        figures.reliability_legend,
        figures.map_figure,
        figures.scatters,
        figures.shown_points,
        figures.loss_figure,
    )
    return open_templates("usjepa.evaluate.report", formats | {one.__name__: one for one in drawn})


def _sections(document: Document) -> list[Section]:
    """Return the lines of the navigation, in the order of the page."""
    names = {
        "task": [task.name for task in document.tasks],
        "numbers": [task.name for task in document.regression.tasks],
        "masks": [task.name for task in document.segmentation.tasks],
    }
    tasks = {kind: [Section(f"{kind}-{n}", name) for n, name in enumerate(some, 1)] for kind, some in names.items()}
    together = [Section("all-tasks", "All tasks together")] if document.maps.get("") else []
    return [
        Section("answer", "What came out"),
        Section("scores", "Scores"),
        *tasks["task"],
        *together,
        *tasks["numbers"],
        *tasks["masks"],
        Section("training", "Training"),
        Section("protocol", "Protocol and identities"),
    ]


@dataclass(frozen=True)
class _View:
    """What the templates compute from the document."""

    document: Document

    def tasks_named(self) -> str:
        """Return the names of all tasks as a person lists them."""
        document = self.document
        names = [task.name for task in document.tasks] + [task.name for task in document.regression.tasks]
        return text.listed([*names, *[task.name for task in document.segmentation.tasks]])

    def numbers_scored(self, task: RegressionTask, probe: str) -> list[RegressionScores]:
        """Return a regression task's scores of the encoders that a probe could score, the best by ridge first."""
        return [s for s in self.document.regression.ranked(task.name) if probe in s.probes]

    def apart(self) -> str:
        """Return whether patients are kept apart, as a clause: never more than the data names."""
        exceptions = [f"on {task.name} {why}" for task in self.document.tasks if (why := _not_apart(task))]
        if not exceptions:
            return "groups (patients or clips) are kept apart"
        return f"groups (patients or clips) are kept apart where the data names them, but {'; '.join(exceptions)}"

    def measured(self, task: TaskRecord) -> list[_Column]:
        """Return the columns of the table of all measures: of each probe that scored any encoder on the task."""
        used = {name for s in self.document.scores if s.task == task.name for name in s.probes}
        return [
            _Column(text.column_name(probe, measure), name, measure)
            for name, probe in self.document.probes.items()
            if name in used
            for measure in probe.shown
        ]

    def scored_in_order(self, task: TaskRecord, what: str) -> list[EncoderScores]:
        """Return a task's scores that have something, in the order of the encoders."""
        found = [self.document.find(task.name, key) for key in self.document.encoders]
        return [s for s in found if s is not None and getattr(s, what)]

    def smallest_groups(self, task: TaskRecord) -> Sequence[int]:
        """Return how many patients or clips each draw of the smallest share of labels holds."""
        return self.scored_in_order(task, "few_shot")[0].few_shot[0].groups

    def trained_on_some(self, task: TaskRecord) -> list[tuple[str, int]]:
        """Return the probes that were trained on some of the training frames alone, and on how many."""
        found = []
        for name, probe in self.document.probes.items():
            made = [s.probes[name] for s in self.document.ranked(task.name) if name in s.probes]
            frames = made[0].about.get("training_frames") if made else None
            if frames is not None and frames != task.counts["train"].frames:
                found.append((probe.title.lower(), frames))
        return found

    def published(self) -> dict[str, list[str]]:
        """Return the published models, their sources, and where they were tested on other frames than ours."""
        known = [(task, task.published) for task in self.document.tasks if task.published is not None]
        return {
            "published_models": list(dict.fromkeys(model for _, published in known for model in published.macro_f1)),
            "sources": list(dict.fromkeys(published.source for _, published in known)),
            "other_tests": [
                f"{task.name} has {task.counts['test'].frames} test frames here, {published.test_frames} there"
                for task, published in known
                if task.counts["test"].frames != published.test_frames
            ],
        }

    def measured_how(self) -> dict[str, list[tuple[str, str]]]:
        """Return the tables of how it was measured, as names and values."""
        document, encoders = self.document, self.document.encoders.values()
        identities = [("Everything", document.inputs_digest)]
        identities += [(f"Task {task.name}", digest_of(task.identity)) for task in document.tasks]
        identities += [(f"Task {task.name}", digest_of(task.identity)) for task in document.regression.tasks]
        identities += [
            (f"{encoder.title}, {task}", digest_of(identity))
            for encoder in encoders
            for task, identity in encoder.identities.items()
        ]
        return {
            "features": [(one.title, f"{one.dim} numbers; {one.pooling}") for one in encoders],
            "protocol": [(key, json.dumps(value)) for key, value in document.settings.items()],
            "identities": identities,
        }


def _not_apart(task: TaskRecord) -> str:
    """Return why a patient of a task may be on both sides of its split, "" where nothing says so."""
    reasons = []
    if task.ungrouped:
        frames = task.hygiene.frames - task.hygiene.unlabelled
        some = "every file" if task.ungrouped >= frames else "some files"
        reasons.append(f"patients are not known for {some}, each of which counts as a group of its own")
    if task.leakage.groups:
        reasons.append(f"{task.leakage.groups} test groups are in training too")
    if task.leakage.named:
        reasons.append(f"names suggest that patients of {task.leakage.named} test frames are in training too")
    return " and ".join(reasons)


def _extent(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _shares(counts: Sequence[int]) -> list[float]:
    """Return the share of each count; none where all are 0."""
    total = sum(counts)
    return [count / total for count in counts] if total else []


def _column_names(classes: Sequence[str]) -> list[str]:
    """Return what stands over the columns of a confusion matrix: names, or A, B, ... Z, AA, AB, ... for many."""
    return list(classes) if len(classes) <= _NAMED_COLUMNS else [_code(i) for i in range(len(classes))]


def _code(number: int) -> str:
    letters = ""
    while number >= 0:
        letters, number = chr(65 + number % 26) + letters, number // 26 - 1
    return letters
