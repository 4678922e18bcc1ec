"""What encoders' scores say: means and deviations over training seeds or folds, differences, goals met or not."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

STUDENT, TEACHER, PIXEL_ONLY, INT8 = "student", "pixel teacher", "pixels only, equal compute", "int8 targets"
CONTRAST, BOTH, OF_PIXELS = "contrastive teacher", "student of both teachers", "student of the pixel teacher"
MEAN, GRID = ", mean pooling", ", 2 x 2 means"
"""Behind the names of rows that are scored by the plain mean of patch tokens, or by those of the four quarters."""
GOALS = (("random weights", 10.0), ("32x32 pixels", 0.0))
"""What the student must beat on the phantom, and by how many points of macro F1."""
Rows = dict[str, list[dict[str, dict[str, Any]]]]
"""Row of the table -> for each training seed, task -> scores."""


def scores_of(document: dict[str, Any], encoder: str) -> dict[str, dict[str, Any]]:
    """Task -> what the report tells of an encoder, in percent of macro F1."""
    found = {}
    for scores in document["scores"]:
        if scores["encoder"] == encoder:
            f1 = {name: probe["measures"]["macro_f1"] for name, probe in scores["probes"].items()}
            found[scores["task"]] = {
                "probe": 100 * f1["probe"]["mean"],
                "probe_sd": 100 * f1["probe"]["sd"],
                "probe_interval": [100 * end for end in f1["probe"]["interval"] or ()],
                "logistic": 100 * f1["logistic"]["mean"],
                "knn": 100 * f1["knn"]["mean"],
            }
    return found


@dataclass(frozen=True)
class Scored:
    """An encoder in a report."""

    row: str
    """Of the table that it belongs to."""
    seed: int
    report: Path
    encoder: str


def read_rows(scored: Iterable[Scored]) -> Rows:
    """Read the scores of reports, whose seeds come in order; rows of further poolings stand last."""
    rows: Rows = {}
    for one in scored:
        document = json.loads((one.report / "scores.json").read_text())
        rows.setdefault(one.row, []).append(scores_of(document, one.encoder))
    return dict(sorted(rows.items(), key=lambda row: (MEAN in row[0]) + 2 * (GRID in row[0])))


def values_of(rows: Rows, name: str, task: str, measure: str = "probe") -> list[float]:
    return [one[task][measure] for one in rows[name] if task in one]


def told(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}" if values else "-"


def table(rows: Rows) -> list[str]:
    """Mean and deviation over training seeds, or folds: the paper's probe; k-NN."""
    tasks = sorted({task for scores in rows.values() for one in scores for task in one})
    lines = [f"| encoder | seeds | {' | '.join(tasks)} |", "|---" * (len(tasks) + 2) + "|"]
    for name, scores in rows.items():
        cells = [f"{told(values_of(rows, name, task))}; {told(values_of(rows, name, task, 'knn'))}" for task in tasks]
        lines.append(f"| {name} | {len(scores)} | {' | '.join(cells)} |")
    return lines


def verdicts(rows: Rows, task: str) -> list[str]:
    """The phantom's goals by the means over training seeds, met or not: in each pooling."""
    lines = []
    for pooling in ("", MEAN, GRID):
        if STUDENT + pooling not in rows:
            continue
        mine = statistics.mean(values_of(rows, STUDENT + pooling, task))
        for name, least in GOALS:
            other = name + pooling if name + pooling in rows else name  # pixels are not pooled
            gained = mine - statistics.mean(values_of(rows, other, task))
            met = gained >= least and gained > 0
            line = f"{STUDENT}{pooling} over {other}: {gained:+.1f} points"
            lines.append(f"{line}; goal {least:g}: {'met' if met else 'NOT met'}")
    return lines


def differences(rows: Rows, names: list[str]) -> dict[str, dict[str, list[float]]]:
    """Row -> task -> for each training seed, its probe's score minus that of the student of the same seed."""
    found: dict[str, dict[str, list[float]]] = {}
    for name in names:
        for pooling in ("", MEAN, GRID):
            if name + pooling not in rows:
                continue
            for task in rows[STUDENT][0]:
                # Where the teacher has one seed it is compared with the student of that seed.
                mine, students = (values_of(rows, one + pooling, task) for one in (name, STUDENT))
                found.setdefault(name + pooling, {})[task] = [
                    one - other for one, other in zip(mine, students, strict=False)
                ]
    return found


def int8_told(rows: Rows) -> list[str]:
    """Whether int8's probe lies within the spread of fp16's over training seeds: a claim of the store's precision."""
    lines = []
    for task in rows[STUDENT][0]:
        exact, coarse = values_of(rows, STUDENT, task), values_of(rows, INT8, task)
        if len(exact) < 2 or not coarse:
            continue
        difference, spread = statistics.mean(coarse) - statistics.mean(exact), statistics.stdev(exact)
        verdict = "within" if abs(difference) <= spread else "NOT within"
        lines.append(f"{task}: int8 minus fp16: {difference:+.1f} points, {verdict} fp16's deviation of {spread:.1f}")
    return lines
