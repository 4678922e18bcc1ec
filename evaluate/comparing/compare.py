"""Compare two reports, or two encoders, and decide which differences are real.

Two reports are compared on the tasks whose test frames are the same: equal content, labels and groups, in order. What
`scores.json` keeps of each test patient is scored again in the same draws of patients, so the comparison is paired. All
differences of one call belong to one family, corrected together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from usjepa.cache.errors import UsageError
from usjepa.evaluate.comparing.comparison import HEAD, MEASURES, Comparison, EncoderDifference, Question
from usjepa.evaluate.comparing.pairs import pairs_of
from usjepa.evaluate.report.document import read_document
from usjepa.evaluate.scores.bootstrap import verdicts

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.evaluate.report.document import Document

_PROTOCOL = (
    *("seeds", "lr", "weight_decay", "batch_size", "epochs", "patience", "neighbours", "attentive_frames"),
    *("logistic_c", "unit", "gather", "pooling"),
)
"""Settings whose difference is noted."""


def compare(first: Path, second: Path, question: Question) -> Comparison:
    """Compare two reports' scores, encoder by encoder, or two encoders, which may be of one report.

    Args:
        first: a report's scores.json, or its folder.
        second: another's.
        question: which encoders, by which probe and measure.

    Raises:
        UsageError: a file is no report's scores, or neither has such a probe, or one has no such encoder.
    """
    reports = read_document(first), read_document(second)
    _refuse_unknown(question, (first, second), reports)
    pairs, notes = pairs_of(reports, question)
    tests = verdicts([pair.drawn_R for pair in pairs], [pair.groups for pair in pairs])
    differences = [
        EncoderDifference(
            task=pair.task,
            encoder=pair.encoder,
            measure=pair.measure,
            unit=pair.unit,
            first=pair.first,
            second=pair.second,
            difference=pair.second - pair.first,
            groups=pair.groups,
            interval=test.interval,
            p=test.p,
            p_holm=test.p_holm,
            real=test.real,
        )
        for pair, test in zip(pairs, tests, strict=True)
    ]
    return Comparison(differences, [*_settings_differ(*reports), *notes])


def _refuse_unknown(question: Question, paths: tuple[Path, Path], reports: tuple[Document, Document]) -> None:
    if question.measure is not None and question.measure not in MEASURES:
        raise UsageError(f"no measure {question.measure!r} can be compared; there are {', '.join(MEASURES)}.")
    known = dict.fromkeys(name for report in reports for name in report.probes)
    known |= dict.fromkeys(name for report in reports for name in report.regression.probes)
    known |= dict.fromkeys(HEAD for report in reports if report.segmentation.tasks)
    if question.probe is not None and question.probe not in known:
        raise UsageError(f"neither report has scores of {question.probe!r}; there are {', '.join(known)}.")
    for path, report, encoder in zip(paths, reports, question.encoders or (), strict=False):
        if encoder not in report.encoders:
            raise UsageError(f"{path}: no encoder {encoder!r}; it has {', '.join(report.encoders)}.")


def _settings_differ(first: Document, second: Document) -> list[str]:
    a, b = first.settings, second.settings
    differ = [
        f"{name} {a.get(name)} | {b.get(name)}"
        for name in sorted(_PROTOCOL)
        if (a.get(name) or _BEFORE.get(name)) != (b.get(name) or _BEFORE.get(name))
    ]
    return [f"The protocols differ (first | second): {', '.join(differ)}."] if differ else []


_BEFORE = {"unit": "frame", "gather": "predictions", "pooling": "mean"}
"""What holds in documents that were written before a setting was there."""
