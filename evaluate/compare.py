"""`usjepa-evaluate compare A.json B.json`: which differences between two reports are real.

Two reports are compared on the tasks whose test frames are the same: equal content, classes, labels and groups, in
order. The predictions that `scores.json` keeps are scored again in the same draws of patients, so the comparison is
paired. Every difference that is asked for belongs to one family, corrected together.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.errors import UsageError
from usjepa.cache.identity import Json, digest_of
from usjepa.evaluate.scores.bootstrap import FEW_GROUPS, LEAST_GROUPS, LEVEL, Draws, differences
from usjepa.evaluate.scores.metrics import score, unpacked

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

FORMAT = 2
"""Of scores.json: the first that keeps predictions."""

CLASSIFIERS = ("probe", "attentive", "logistic", "knn")
MEASURES = ("macro_f1", "balanced_accuracy")


@dataclass(frozen=True)
class Compared:
    """What came of a comparison."""

    differences: list[dict[str, Json]]
    """Second minus first, a line each; see `bootstrap.differences`."""
    notes: list[str]
    """What was not compared and why, and what differs beside the encoders."""

    def told(self) -> dict[str, Json]:
        """Return it for a JSON file."""
        return {"level": LEVEL, "differences": self.differences, "notes": self.notes}


def compare(
    first: Path, second: Path, classifier: str, measure: str, draws: int, encoders: tuple[str, str] | None = None
) -> Compared:
    """Compare two reports' scores, encoder by encoder, or two encoders, be they of one report.

    Args:
        first: a report's scores.json.
        second: another's.
        classifier: "probe", "attentive", "logistic" or "knn".
        measure: "macro_f1" or "balanced_accuracy".
        draws: of the test groups, with replacement.
        encoders: keys of the first report's encoder and of the second's; none: each with its namesake.

    Raises:
        UsageError: a file is no report's scores, or has no such encoder.
    """
    a, b = _read(first), _read(second)
    for path, document, encoder in zip((first, second), (a, b), encoders or (), strict=False):
        if encoder not in document["encoders"]:
            raise UsageError(f"{path}: no encoder {encoder!r}; it has {', '.join(document['encoders'])}.")
    notes = _settings_differ(a, b)
    told: list[dict[str, Json]] = []
    drawn: list[NDArray[np.float64]] = []
    theirs = {task["name"]: task for task in b["tasks"]}
    for task in a["tasks"]:
        why = _not_alike(task, theirs.get(task["name"]))
        if why:
            notes.append(f"{task['name']}: not compared, {why}.")
            continue
        notes += _warnings(task, theirs[task["name"]])
        one = _On(task, Draws(unpacked(task["test"]["groups"]), draws), measure)
        for ours, other in [encoders] if encoders else [(name, name) for name in a["encoders"]]:
            pair = [_scores(a, task["name"], ours), _scores(b, task["name"], other)]
            encoder = ours if ours == other else f"{ours} | {other}"
            if None in pair:
                continue
            if _identity(a, ours, task["name"]) == _identity(b, other, task["name"]):
                notes.append(f"{task['name']}: {encoder} is the same in both: nothing to compare.")
                continue
            if not all(each.get(classifier) for each in pair):
                notes.append(f"{task['name']}: {encoder} is not compared, a report has no {classifier} scores of it.")
                continue
            about, difference = one.difference(encoder, *[each[classifier] for each in pair])
            told.append(about)
            drawn.append(difference)
    return Compared(differences(told, drawn), notes)


@dataclass(frozen=True)
class _On:
    """A task on which both reports are compared."""

    task: Json
    draws: Draws
    measure: str

    def difference(self, encoder: str, first: Json, second: Json) -> tuple[dict[str, Json], NDArray[np.float64]]:
        """Return what is told of one encoder's two scores, and their difference in each draw."""
        truth, classes = unpacked(self.task["test"]["labels"]), len(self.task["classes"])
        means, drawn = [], []
        for told in (first, second):
            predicted = _predictions(told)
            values = [getattr(score(truth, one, classes), self.measure) for one in predicted]
            means.append(float(np.mean(values)))
            drawn.append(self.draws.of_predictions(truth, predicted, classes)[self.measure])
        about = {
            "task": self.task["name"],
            "encoder": encoder,
            "measure": self.measure,
            "first": means[0],
            "second": means[1],
            "difference": means[1] - means[0],
            "groups": self.draws.groups,
        }
        return about, drawn[1] - drawn[0]


def _predictions(told: Json) -> NDArray[np.int64]:
    lines = told["predicted"]
    return np.stack([unpacked(line) for line in ([lines] if isinstance(lines, str) else lines)])


def _read(path: Path) -> Json:
    path = path / "scores.json" if path.is_dir() else path
    try:
        document = json.loads(path.read_bytes())
        version = document["format"]
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file. Name the scores.json of a report, or its folder.") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: not a report's scores.json ({type(error).__name__}).") from error
    if version != FORMAT:
        raise UsageError(
            f"{path}: format {version}, this version reads {FORMAT}. Make the report again with this version."
        )
    return document


def _not_alike(one: Json, other: Json | None) -> str:
    """Return why two reports' tasks can't be compared; "" if they can."""
    if other is None:
        return "the second report has no task of that name"
    if one["classes"] != other["classes"]:
        return "its classes differ"
    if one["test"] != other["test"]:
        return "its test frames differ in content, number, labels or groups"
    return ""


def _warnings(one: Json, other: Json) -> list[str]:
    notes = []
    groups = len(set(one["test"]["groups"].split()))
    if groups < FEW_GROUPS:
        what = (
            "too few to call any difference real"
            if groups < LEAST_GROUPS
            else "few: p-values are too sure of themselves"
        )
        notes.append(f"{one['name']}: {groups} test groups are {what}.")
    if one["identity"]["store"] != other["identity"]["store"]:
        notes.append(
            f"{one['name']}: the frames lie in two stores, whose pixels may differ; labels and groups are equal."
        )
    if one["identity"]["frames"] != other["identity"]["frames"]:
        notes.append(f"{one['name']}: training or validation frames differ between the reports.")
    return notes


def _settings_differ(a: Json, b: Json) -> list[str]:
    names = sorted(set(a["settings"]) | set(b["settings"]))
    told = [
        f"{name} {a['settings'].get(name)} | {b['settings'].get(name)}"
        for name in names
        if name in ("seeds", "lr", "weight_decay", "batch_size", "epochs", "patience", "neighbours", "attentive_frames")
        and a["settings"].get(name) != b["settings"].get(name)
    ]
    return [f"The protocols differ (first | second): {', '.join(told)}."] if told else []


def _scores(document: Json, task: str, encoder: str) -> Json:
    return next((s for s in document["scores"] if s["task"] == task and s["encoder"] == encoder), None)


def _identity(document: Json, encoder: str, task: str) -> str:
    return digest_of(document["encoders"][encoder]["identities"][task])


def as_text(found: Compared) -> str:
    """Return a comparison as lines for a terminal: percent, and a verdict in words."""
    lines = [["task", "encoder", "first", "second", "difference [95 %]", "p (Holm)", "verdict"]]
    for one in found.differences:
        low, high = one["interval"] or (float("nan"), float("nan"))
        spread = f"{100 * one['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
        better = "second is better" if one["difference"] > 0 else "first is better"
        verdict = f"real: {better}" if one["real"] else "not shown to differ"
        values = [f"{100 * one['first']:.1f}", f"{100 * one['second']:.1f}"]
        lines.append([one["task"], one["encoder"], *values, spread, f"{one['p_holm']:.3g}", verdict])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    notes = [f"note: {note}" for note in found.notes]
    return "\n".join([*(table if found.differences else ["Nothing to compare."]), *notes])
