"""`usjepa-evaluate compare A.json B.json`: which differences between two reports are real.

Compared is what the probes said of the very same test frames; scores.json holds it. A task whose test frames differ is
named and left out: scores on other patients can't be told from scores of another encoder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from usjepa.cache.errors import UsageError
from usjepa.evaluate.differences import Pair, compared, held_out_of, predictions_of
from usjepa.evaluate.intervals import FEWEST_GROUPS

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.cache.identity import Json

FORMAT = 2


@dataclass(frozen=True)
class Comparison:
    """What two reports say of one another."""

    lines: list[dict[str, Json]]
    """One for each task and encoder that both hold; see `differences.compared`."""
    notes: list[str]
    """What could not be compared, and what a reader of the lines must know."""


def read_scores(path: Path) -> Json:
    """Return a report's document; a folder stands for its scores.json.

    Raises:
        UsageError: there is no such file, or it is no report that this version can compare.
    """
    file = path / "scores.json" if path.is_dir() else path
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        written = document["format"]
    except OSError as error:
        raise UsageError(f"{file}: can't be read ({error.strerror}). Give the scores.json of a report.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file}: not the scores.json of a report.") from error
    if written != FORMAT:
        raise UsageError(
            f"{file}: format {written}, this version compares format {FORMAT}. Make the report again with "
            "`usjepa-evaluate`; its features are kept."
        )
    return document


def compare(one: Json, other: Json, encoders: tuple[str, str] | None = None) -> Comparison:
    """Return what differs between two reports: every encoder they share, or one of the first against one of the second.

    Raises:
        UsageError: an encoder that was asked for isn't there, or no task has the same test frames in both.
    """
    pairs: list[Pair] = []
    notes: list[str] = []
    resamples = max(one["settings"]["resamples"], other["settings"]["resamples"])
    for task in one["tasks"]:
        match = next((t for t in other["tasks"] if t["test"]["digest"] == task["test"]["digest"]), None)
        if match is None:
            same = any(t["name"] == task["name"] for t in other["tasks"])
            notes.append(f"{task['name']}: {'other test frames, labels or groups' if same else 'not'} in the second.")
            continue
        notes += _notes(task, match)
        tested = held_out_of(task, resamples)
        for key_one, key_other in _keys(one, other, encoders):
            found = [_scores(d, t, k) for d, t, k in ((one, task, key_one), (other, match, key_other))]
            if found[0] is None or found[1] is None:
                notes.append(f"{task['name']}: {key_one} against {key_other}: not scored in both.")
                continue
            names = {"task": task["name"], "encoder": key_one, "against": key_other}
            pairs.append(Pair(names, predictions_of(found[0]), predictions_of(found[1]), tested))
    if not pairs:
        raise UsageError(f"nothing to compare: {' '.join(notes) or 'the reports share no encoder.'}")
    return Comparison(compared(pairs), notes)


def told(comparison: Comparison, one: Json, other: Json) -> str:
    """Return a comparison as text: a sentence a line, the real differences first."""
    lines = sorted(comparison.lines, key=lambda line: (not line["real"], line["p_holm"]))
    text = [_line(line, one, other) for line in lines]
    real = sum(line["real"] for line in lines)
    text.append("")
    text.append(
        f"{real} of {len(lines)} differences in macro F1 are real (p < 0.05 after Holm's correction for {len(lines)}, "
        "resampling whole test groups). The others are not shown to be real, which doesn't make them equal."
    )
    return "\n".join([*text, *comparison.notes])


def _line(line: dict[str, Json], one: Json, other: Json) -> str:
    title = one["encoders"][line["encoder"]]["title"]
    against = other["encoders"][line["against"]]["title"]
    low, high = line["interval"]
    what = title if title == against else f"{title} against {against}"
    return (
        f"{'real     ' if line['real'] else 'not shown'}  {line['task']}: {what}: {100 * line['difference']:+.1f} "
        f"points, 95 % [{100 * low:+.1f}, {100 * high:+.1f}], p {line['p']:.2g}, corrected {line['p_holm']:.2g}, "
        f"{line['groups']} test groups"
    )


def _keys(one: Json, other: Json, encoders: tuple[str, str] | None) -> list[tuple[str, str]]:
    if encoders is None:
        return [(key, key) for key in one["encoders"] if key in other["encoders"]]
    for document, key, which in ((one, encoders[0], "first"), (other, encoders[1], "second")):
        if key not in document["encoders"]:
            raise UsageError(
                f"the {which} report holds no encoder {key!r}; it holds {', '.join(document['encoders'])}."
            )
    return [encoders]


def _scores(document: Json, task: Json, key: str) -> Json | None:
    return next((s for s in document["scores"] if s["task"] == task["name"] and s["encoder"] == key), None)


def _notes(task: Json, match: Json) -> list[str]:
    notes = []
    if task["identity"]["frames"] != match["identity"]["frames"]:
        notes.append(
            f"{task['name']}: the reports' training or validation frames differ; the test frames are the same."
        )
    groups = len(set(task["test"]["groups"].split()))
    if groups < FEWEST_GROUPS:
        notes.append(
            f"{task['name']}: {groups} test groups are too few to call any difference real (at least {FEWEST_GROUPS})."
        )
    return notes
