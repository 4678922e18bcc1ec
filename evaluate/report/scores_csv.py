"""`scores.csv`: every score as a line, with the identities, settings and seed it rests on."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from usjepa.cache.identity import digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usjepa.cache.identity import Json

COLUMNS = (
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
)
"""Before the settings. `statistic` is mean, sd, low and high (95 % interval) or seed; a `seed` column belongs to it.

`class` is that of a Dice; empty: the mean over classes.
"""


def scores_csv(document: Json) -> str:
    """Return the scores of a document as CSV text, lines ending in a newline alone."""
    settings = {f"setting.{name}": _plain(value) for name, value in document["settings"].items()}
    segmented = document["segmentation"]
    identity = {task["name"]: digest_of(task["identity"]) for task in (*document["tasks"], *segmented["tasks"])}
    out = io.StringIO()
    writer = csv.DictWriter(out, (*COLUMNS, *settings), restval="", lineterminator="\n")
    writer.writeheader()
    for scores in (*document["scores"], *segmented["scores"]):
        encoder = document["encoders"][scores["encoder"]]
        fixed = {
            "task": scores["task"],
            "encoder": scores["encoder"],
            "labels_share": 1,
            "title": encoder["title"],
            "encoder_identity": digest_of(encoder["identities"][scores["task"]]),
            "task_identity": identity[scores["task"]],
            "report_identity": document["inputs_digest"],
            **settings,
        }
        writer.writerows({**fixed, **line} for line in (_dice(scores) if "dice" in scores else _lines(scores)))
    return out.getvalue()


def _plain(value: Json) -> Json:
    return json.dumps(value) if isinstance(value, list | dict) else value


def _lines(scores: Json) -> Iterator[dict[str, Any]]:
    """Yield what differs between the lines of one encoder on one task."""
    for classifier in ("probe", "attentive"):
        for measure in ("macro_f1", "balanced_accuracy", "auroc"):
            if scores[classifier] is not None and measure in scores[classifier]:
                yield from _spread(scores[classifier][measure], classifier=classifier, measure=measure)
    yield from _calibration(scores["calibration"])
    for classifier in ("logistic", "knn"):
        for measure in ("macro_f1", "balanced_accuracy", "auroc"):
            if scores[classifier].get(measure) is not None:
                yield from _single(scores[classifier], classifier, measure)
    for shot in scores["few_shot"]:
        yield from _spread(shot["macro_f1"], classifier="probe", measure="macro_f1", labels_share=shot["share"])
    if scores["robustness"]:
        about = {"classifier": "probe", "measure": "macro_f1", "corruption": "none", "strength": 0}
        yield from _spread(scores["robustness"]["clean"], **about)
    for corruption, strengths in scores["robustness"].get("corruptions", {}).items():
        for at in strengths:
            about = {"corruption": corruption, "strength": at["strength"]}
            yield from _spread(at["macro_f1"], classifier="probe", measure="macro_f1", **about)


def _calibration(told: Json) -> Iterator[dict[str, Any]]:
    for state, classifier in (("raw", "probe"), ("tempered", "probe, tempered")):
        for measure in ("ece", "brier", "log_loss") if told[state] is not None else ():
            yield from _spread(told[state][measure], classifier=classifier, measure=measure)
    if told["temperature"] is not None:
        yield from _spread(told["temperature"], classifier="probe", measure="temperature")


def _dice(scores: Json) -> Iterator[dict[str, Any]]:
    about = {"classifier": "segmentation", "measure": "dice"}
    dice = scores["dice"]
    yield from _spread({**dice, "interval": [dice["low"], dice["high"]]}, **about)
    for name, one in scores["classes"].items():
        yield from _spread({**one, "seeds": []}, **{**about, "class": name})


def _spread(told: Json, **about: Any) -> Iterator[dict[str, Any]]:
    yield {**about, "statistic": "mean", "value": told["mean"]}
    yield {**about, "statistic": "sd", "value": told["sd"]}
    yield from _interval(told.get("interval"), about)
    for seed, value in enumerate(told["seeds"]):
        yield {**about, "statistic": "seed", "seed": seed, "value": value}


def _single(told: Json, classifier: str, measure: str) -> Iterator[dict[str, Any]]:
    about = {"classifier": classifier, "measure": measure}
    yield {**about, "statistic": "mean", "value": told[measure]}
    yield from _interval(told["interval"].get(measure), about)


def _interval(ends: Json, about: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if ends is not None:
        yield {**about, "statistic": "low", "value": ends[0]}
        yield {**about, "statistic": "high", "value": ends[1]}
