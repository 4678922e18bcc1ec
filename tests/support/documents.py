"""A document such as scores.json holds, of made-up scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.pages.pictures import png_uri, stored_picture
from usjepa.cache.recipes.evaluate import EvaluateSettings
from usjepa.evaluate.encoders.finished_run import Curve
from usjepa.evaluate.probes.registry import regressors
from usjepa.evaluate.probes.regression import Numbers
from usjepa.evaluate.report.answer.shown import Shown
from usjepa.evaluate.report.document import Document
from usjepa.evaluate.report.examples import Example
from usjepa.evaluate.report.page import render
from usjepa.evaluate.report.published import published_for
from usjepa.evaluate.scores.bootstrap import Draws
from usjepa.evaluate.scores.calibration import calibrate
from usjepa.evaluate.scores.metrics import packed, softmax
from usjepa.evaluate.scores.regression import packed_floats, rounded
from usjepa.evaluate.scoring.evaluation import wanted_probes
from usjepa.evaluate.scoring.regression import scores_of
from usjepa.evaluate.scoring.segmentation import _by_group

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from usjepa.evaluate.scores.calibration import Calibration

CSV = b"task,value\nlung,0.5\n"
TITLES = {
    "student": "Student (this run)",
    "teacher": "Its teacher",
    "random": "Random weights",
    "hog": "Edges (HOG)",
}


def document(task: str = "lung", classes: tuple[str, ...] = ("cyst", "none", "stone")) -> dict[str, Any]:
    """Return a document as it lies in scores.json."""
    settings = EvaluateSettings(attentive=True)
    made: dict[str, Any] = {
        "format": 5,
        "inputs_digest": "0" * 32,
        "inputs": {},
        "run": {"name": "demo run", "trained": {}, "noun": "student", "objective": "latents"},
        "settings": {"seeds": 5, "lr": 1e-3, "baselines": ["teacher", "random", "hog"]},
        "probes": {probe.name: probe.described.model_dump() for probe in wanted_probes(settings)},
        "encoders": {
            name: {"title": title, "pooling": "mean of patch tokens", "dim": 192, "identities": {task: {"kind": name}}}
            for name, title in TITLES.items()
        },
        "tasks": [_task(task, classes)],
        "scores": _scores(task, len(classes)),
        "differences": [_difference(task, name, d) for name, d in (("teacher", -0.05), ("random", 0.2))],
        "segmentation": {"tasks": [], "scores": []},
        "maps": {key: feature_map(classes) for key in ("", task)},
        "notes": ["lung: Raw pixels is left out: a made-up reason."],
        "software": {"torch": "2"},
    }
    del made["probes"]["attentive"]
    return made


def _scores(task: str, classes: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(7)
    scores = []
    for i, name in enumerate(TITLES):
        seeds = (0.75 - 0.1 * i + rng.normal(0, 0.015, 5)).tolist()
        spread = {"mean": float(np.mean(seeds)), "sd": float(np.std(seeds, ddof=1)), "seeds": seeds}
        confusion = (rng.integers(0, 25, (classes, classes)) + 60 * np.eye(classes, dtype=int)).tolist()
        told = {**spread, "interval": [spread["mean"] - 0.07, spread["mean"] + 0.06]}
        one = {"confusion": confusion, "constant": [], "predicted": ["0 1"], "about": {}, "calibration": None}
        probe = {"measures": {"macro_f1": told, "balanced_accuracy": told, "auroc": told}, **one}
        single = {"mean": 0.6 - 0.1 * i, "interval": [0.1, 0.9]}
        falling = [{"strength": s, "macro_f1": {**spread, "mean": spread["mean"] - 0.05 * s}} for s in (1, 2, 3)]
        robust = {"frames": 9, "clean": spread, "corruptions": {"blur": falling, "jpeg": falling}}
        scores.append(
            {
                "task": task,
                "encoder": name,
                "probes": {
                    "probe": {**probe, "calibration": calibration(i).model_dump(mode="json")},
                    "logistic": {"measures": {"macro_f1": single, "auroc": {"mean": 0.7}}, **one},
                    "knn": {"measures": {"macro_f1": single}, **one},
                },
                "few_shot": [
                    {"share": s, "frames": int(600 * s), "groups": [4, 5], "macro_f1": spread} for s in (0.01, 0.5)
                ],
                "robustness": None if name == "teacher" else robust,
            }
        )
    return scores


def _task(task: str, classes: tuple[str, ...]) -> dict[str, Any]:
    counts = {"frames": 30, "groups": 9, "classes": dict.fromkeys(classes, 10)}
    published = published_for("ultrabench", "pocus")
    assert published is not None
    return {
        "name": task,
        "classes": list(classes),
        "counts": dict.fromkeys(("train", "validation", "test"), counts),
        "notes": ["Too few examples: stone is tested on 4 frames of 2 groups."],
        "layout": "store",
        "split_origin": {},
        "leakage": dict.fromkeys(LEAKAGE, 0) | {"rows": []},
        "hygiene": dict.fromkeys(HYGIENE, 0)
        | {key: [] for key in ("missing", "few", "one_class", "empty")}
        | {"blank": ""},
        "identity": {"store": "f" * 32, "frames": "e" * 32},
        "published": published.model_dump(),
        "test": {"labels": "0 1", "groups": "0 1", "digest": "d" * 32},
        "floor": {"macro_f1": 0.17, "balanced_accuracy": 0.33},
        "ungrouped": 0,
    }


LEAKAGE = (
    *("test_frames", "test_groups", "groups", "group_frames", "exact", "near"),
    *("near_bits", "near_other_group", "stopping", "named"),
)
HYGIENE = (
    *("frames", "unlabelled", "constant_macro_f1", "constant_accuracy", "torn_exact", "torn_near"),
    "validation_groups",
)


def _difference(task: str, other: str, difference: float) -> dict[str, Any]:
    return {
        "task": task,
        "encoder": "student",
        "other": other,
        "difference": difference,
        "groups": 30,
        "interval": [difference - 0.1, difference + 0.1],
        "p": 0.01,
        "p_holm": 0.03,
        "real": difference > 0.1,
    }


def calibration(seed: int) -> Calibration:
    """Return how calibrated probes are that are surer the larger the seed."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((2, 200, 3)).astype(np.float32)
    truth = np.array([rng.choice(3, p=one) for one in softmax(logits[0])])
    return calibrate((1 + seed) * logits, truth, (1 + seed) * logits, truth)


def feature_map(names: tuple[str, ...]) -> dict[str, Any]:
    x, y, kind = np.random.default_rng(3).integers(0, (1000, 700, len(names)), (90, 3)).T
    told = {"x": packed(x), "y": packed(y), "kind": packed(kind)}
    return {"names": list(names), "explained": [0.3, 0.1], "frames": 200, **told}


def add_attentive(made: dict[str, Any], *scores: dict[str, Any], frames: int = 12) -> None:
    """Give some encoders the scores of an attentive probe: those of their linear one."""
    described = {probe.name: probe.described.model_dump() for probe in wanted_probes(EvaluateSettings(attentive=True))}
    made["probes"] = {name: described[name] for name in described if name == "attentive" or name in made["probes"]}
    for one in scores:
        one["probes"]["attentive"] = {**one["probes"]["probe"], "about": {"training_frames": frames}}


def add_regression(
    made: dict[str, Any],
    truth: NDArray[np.float64],
    predicted: Mapping[str, NDArray[np.float64]],
    groups: NDArray[np.int64],
    name: str = "heart: EF",
    unit: str = "%",
) -> dict[str, Any]:
    """Give a document a regression task: what encoders predict by ridge, and by an attentive head of three seeds."""
    draws = Draws(groups, 200)
    middle = float(truth.mean()) + 1.0
    floor = scores_of(truth, Numbers(np.full((1, len(truth)), middle), seeded=False), draws)[0]
    count = {"frames": len(truth), "items": len(truth), "groups": 9, "mean": middle, "sd": float(truth.std())}
    count |= {"low": float(truth.min()), "high": float(truth.max())}
    task = {
        **{"name": name, "quantity": "EF", "unit": unit, "scored": "frame", "layout": "plain", "split_origin": {}},
        "counts": dict.fromkeys(("train", "validation", "test"), count),
        "notes": ["Few validation patients: 2 groups."],
        "identity": {"store": "f" * 32, "frames": "e" * 32},
        "leakage": dict.fromkeys(LEAKAGE, 0) | {"rows": []},
        "test": {"values": packed_floats(truth), "groups": packed(groups), "digest": "0"},
        "floor": {"value": middle, "measures": {k: m.model_dump() for k, m in floor.measures.items()}},
    }
    scores = []
    for key, said in predicted.items():
        about = {"strength": 0.1, "chosen": True, "at_limit": False}
        ridge = scores_of(truth, Numbers(rounded(said)[None], seeded=False, about=about), draws)[0]
        seeds = rounded(np.stack([said + shift for shift in (-1.0, 0.5, 1.0)]))
        probes = {"ridge": ridge, "attentive": scores_of(truth, Numbers(seeds), draws)[0]}
        dumped = {one: probe.model_dump(mode="json") for one, probe in probes.items()}
        scores.append({"task": name, "encoder": key, "dim": 192, "probes": dumped})
        made["encoders"][key]["identities"][name] = {"kind": key}
    described = regressors(EvaluateSettings(attentive=True))
    made["regression"] = {
        "probes": {one.name: one.described.model_dump() for one in described},
        "tasks": [task],
        "scores": scores,
    }
    made["differences"] += [
        _difference(name, other, -1.5) | {"measure": "mae"} for other in predicted if other != "student"
    ]
    return made


def add_segmentation(
    made: dict[str, Any], dice: Mapping[str, NDArray[np.float64]], groups: NDArray[np.int64], name: str = "heart: mask"
) -> dict[str, Any]:
    """Give a document a segmentation task of two classes: the Dice [seeds, frames, classes] of encoders."""
    classes = ("background", "ventricle", "atrium")
    floor = {"mean": 0.5, "low": 0.4, "high": 0.6, "classes": dict.fromkeys(classes[1:], 0.5), "training_frames": 9}
    task = {
        **{"name": name, "classes": list(classes), "frames": {"test": len(groups)}, "notes": []},
        "identity": {"store": "f" * 32, "frames": "e" * 32},
        "leakage": dict.fromkeys(LEAKAGE, 0) | {"rows": []},
        "floor": floor,
        "test": {"groups": len(np.unique(groups)), "digest": "0"},
    }
    scores = []
    for key, one in dice.items():
        each = one.mean(axis=(1, 2)).tolist()
        record = {"mean": float(np.mean(each)), "sd": 0.01, "seeds": each, "low": 0.5, "high": 0.9}
        known = {c: {"mean": 0.6, "sd": 0.01, "frames": 9} for c in classes[1:]}
        by_group = [part.model_dump() for part in _by_group(one, np.isfinite(one[0]), groups)]
        scores.append(
            {
                "task": name,
                "encoder": key,
                "dice": record,
                "classes": known,
                "epochs": [3],
                "training_frames": 9,
                "dim": 3,
            }
            | {"by_group": by_group}
        )
        made["encoders"][key]["identities"][name] = {"kind": key}
    made["segmentation"] = {"tasks": [task], "scores": scores}
    return made


def curve() -> Curve:
    epochs = np.linspace(0.02, 20, 900)
    train = [(float(e), 0.4 + 0.5 * float(np.exp(-e / 4)) + 0.01 * float(np.sin(40 * e))) for e in epochs]
    return Curve(train, [(float(e), 0.43 + 0.5 * float(np.exp(-e / 4))) for e in range(1, 21)])


def examples(task: str = "lung", count: int = 6) -> list[Example]:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (2 * count, 1, 64, 64)).astype(np.uint8)
    return [
        Example(task, "cyst", "cyst" if i % 2 else "stone", 0.97 - i / 50, png_uri(stored_picture(frame)))
        for i, frame in enumerate(frames)
    ]


def first_frames(task: str = "lung") -> list[Shown]:
    """Return the frames of the first screen."""
    chosen = (("Recognised most surely", True), ("Mistaken most surely", False), ("Least sure", True))
    pictures = [one.image for one in examples()]
    return [
        Shown(task, why, "cyst, 97 %", "cyst" if right else "stone", right, pictures[i], pictures[3 + i])
        for i, (why, right) in enumerate(chosen)
    ]


def page(
    made: dict[str, Any],
    losses: Curve | None = None,
    shown: list[Example] | None = None,
    first: Sequence[Shown] = (),
) -> str:
    """Return the page of a document."""
    losses, shown = curve() if losses is None else losses, examples() if shown is None else shown
    return render(Document.model_validate(made), losses, shown, CSV, first)
