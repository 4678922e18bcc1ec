"""Read the published scores that stand beside ours, from `paper_scores.csv`."""

from __future__ import annotations

import csv
from functools import cache
from importlib import resources

from usjepa.evaluate.scores.records import Record


class PublishedScore(Record):
    """A published macro F1, as a share."""

    mean: float
    sd: float


class Published(Record):
    """What was published on a task."""

    source: str
    test_frames: int
    """Of the publication's own test split."""
    macro_f1: dict[str, PublishedScore]
    """By model."""


def published_for(layout: str, name: str) -> Published | None:
    """Return the published scores on a task; None where there are none.

    A task is known by how it lies on disk and by its name: a folder that merely bears the name has none.
    """
    lines = [line for line in _table() if (line["layout"], line["task"]) == (layout, name)]
    if not lines:
        return None
    scores = {line["model"]: PublishedScore(mean=_share(line["macro_f1"]), sd=_share(line["sd"])) for line in lines}
    return Published(source=lines[0]["source"], test_frames=int(lines[0]["test_frames"]), macro_f1=scores)


@cache
def _table() -> list[dict[str, str]]:
    text = resources.files("usjepa.evaluate.report").joinpath("paper_scores.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


def _share(percent: str) -> float:
    return round(float(percent) / 100, 4)
