"""Claims about the report: one file that asks for nothing, the same bytes each time, all text escaped."""

from __future__ import annotations

import html.parser
import re
from typing import Any

import numpy as np
import pytest

from usjepa.evaluate.encoders.finished_run import Curve
from usjepa.evaluate.report.charts import loss_svg
from usjepa.evaluate.report.examples import frame_png
from usjepa.evaluate.report.markup import Example
from usjepa.evaluate.report.paper_scores import published_for
from usjepa.evaluate.report.report import render
from usjepa.evaluate.scores.calibration import calibration_told
from usjepa.evaluate.scores.metrics import packed, softmax

CSV = b"task,value\nlung,0.5\n"
NASTY = '<script>alert("x")</script> & $name'


def document(task: str = "lung", classes: tuple[str, ...] = ("cyst", "none", "stone")) -> dict[str, Any]:
    """Return a document such as scores.json holds, of made-up scores."""
    rng = np.random.default_rng(7)
    titles = {
        "student": "Student (this run)",
        "teacher": "Its teacher",
        "random": "Random weights",
        "hog": "Edges (HOG)",
    }
    scores = []
    for i, name in enumerate(titles):
        seeds = (0.75 - 0.1 * i + rng.normal(0, 0.015, 5)).tolist()
        spread = {"mean": float(np.mean(seeds)), "sd": float(np.std(seeds, ddof=1)), "seeds": seeds}
        confusion = (rng.integers(0, 25, (len(classes), len(classes))) + 60 * np.eye(len(classes), dtype=int)).tolist()
        told = {**spread, "interval": [spread["mean"] - 0.07, spread["mean"] + 0.06]}
        measures = {"macro_f1": told, "balanced_accuracy": told, "auroc": told}
        probe = {**measures, "confusion": confusion, "constant_seeds": []}
        knn = {"macro_f1": 0.6 - 0.1 * i, "interval": {"macro_f1": [0.1, 0.9]}}
        shots = [{"share": s, "frames": int(600 * s), "groups": [4, 5], "macro_f1": spread} for s in (0.01, 0.5)]
        falling = [{"strength": s, "macro_f1": {**spread, "mean": spread["mean"] - 0.05 * s}} for s in (1, 2, 3)]
        corrupted = {"blur": falling, "jpeg": falling}
        robust = {} if name == "teacher" else {"frames": 9, "clean": spread, "corruptions": corrupted}
        more = {"logistic": {**knn, "auroc": 0.7}, "few_shot": shots, "robustness": robust, "attentive": None}
        more["calibration"] = calibration(i)
        scores.append({"task": task, "encoder": name, "probe": probe, "knn": knn, **more})
    counts = {"frames": 30, "groups": 9, "classes": dict.fromkeys(classes, 10)}
    return {
        "inputs_digest": "0" * 32,
        "run": {"name": "demo run"},
        "settings": {"seeds": 5, "lr": 1e-3, "baselines": ["teacher", "random", "hog"]},
        "encoders": {
            name: {"title": title, "pooling": "mean of patch tokens", "dim": 192, "identities": {task: {"kind": name}}}
            for name, title in titles.items()
        },
        "tasks": [
            {
                "name": task,
                "classes": list(classes),
                "counts": dict.fromkeys(("train", "validation", "test"), counts),
                "notes": ["Too few examples: stone is tested on 4 frames of 2 groups."],
                "identity": {"store": "f" * 32},
                "published": published_for("ultrabench", "pocus"),
                "floor": {"macro_f1": 0.17, "balanced_accuracy": 0.33},
            }
        ],
        "scores": scores,
        "differences": [
            {
                "task": task,
                "other": name,
                "difference": d,
                "interval": [d - 0.1, d + 0.1],
                "p_holm": 0.03,
                "real": d > 0.1,
            }
            for name, d in (("teacher", -0.05), ("random", 0.2))
        ],
        "segmentation": {"tasks": [], "scores": []},
        "maps": {key: feature_map(classes) for key in ("", task)},
        "notes": ["lung: Raw pixels is left out: a made-up reason."],
        "software": {"torch": "2"},
    }


def calibration(seed: int) -> dict[str, Any]:
    """Return what is told of probes that are surer the larger the seed."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((2, 200, 3)).astype(np.float32)
    truth = np.array([rng.choice(3, p=one) for one in softmax(logits[0])])
    return calibration_told((1 + seed) * logits, truth, (1 + seed) * logits, truth)


def feature_map(names: tuple[str, ...]) -> dict[str, Any]:
    x, y, kind = np.random.default_rng(3).integers(0, (1000, 700, len(names)), (90, 3)).T
    told = {"x": packed(x), "y": packed(y), "kind": packed(kind)}
    return {"names": list(names), "explained": [0.3, 0.1], "frames": 200, **told}


def curve() -> Curve:
    epochs = np.linspace(0.02, 20, 900)
    train = [(float(e), 0.4 + 0.5 * float(np.exp(-e / 4)) + 0.01 * float(np.sin(40 * e))) for e in epochs]
    return Curve(train, [(float(e), 0.43 + 0.5 * float(np.exp(-e / 4))) for e in range(1, 21)])


def examples(task: str = "lung", count: int = 6) -> list[Example]:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (2 * count, 1, 64, 64)).astype(np.uint8)
    return [
        Example(task, "cyst", "cyst" if i % 2 else "stone", 0.97 - i / 50, frame_png(frame))
        for i, frame in enumerate(frames)
    ]


class Reader(html.parser.HTMLParser):
    """Collects what a browser would fetch, and checks that every tag is closed."""

    VOID = {"meta", "link", "img", "br", "circle", "line", "path", "polyline"}

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "poster")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert not reader.open
    return reader


def test_the_page_fetches_nothing_from_anywhere() -> None:
    page = render(document(), curve(), examples(), CSV)
    reader = read(page)
    assert reader.fetched
    assert all(place.startswith("data:") for place in reader.fetched)
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    assert "script" not in reader.tags


def test_the_same_inputs_give_the_same_bytes() -> None:
    assert render(document(), curve(), examples(), CSV) == render(document(), curve(), examples(), CSV)


def test_names_from_the_data_can_not_become_markup() -> None:
    page = render(document(NASTY, (NASTY, "b")), curve(), [Example(NASTY, NASTY, "b", 0.5, examples()[0].image)], CSV)
    assert "<script" not in page
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; $name" in page
    read(page)


def test_the_page_says_every_score_note_and_floor() -> None:
    made = document()
    page = render(made, curve(), examples(), CSV)
    for scores in made["scores"]:
        assert f"{100 * scores['probe']['macro_f1']['mean']:.1f} ± " in page
        assert f"k-NN {100 * scores['knn']['macro_f1']:.1f}" in page
    for told in (*made["notes"], *made["tasks"][0]["notes"], "Always the commonest class", "17.0"):
        assert told in page


def test_the_page_says_how_sure_the_probe_is_and_draws_it_for_student_and_best_rival() -> None:
    made = document()
    page = render(made, curve(), examples(), CSV)
    assert page.count('aria-label="Share of frames right by confidence on lung: ') == 2
    for scores in made["scores"]:
        told = scores["calibration"]
        assert f"{100 * told['raw']['ece']['mean']:.1f} ± {100 * told['raw']['ece']['sd']:.1f}" in page
        assert f"{told['tempered']['brier']['mean']:.3f}" in page
        assert f"{told['temperature']['mean']:.2f}" in page
    for scores in made["scores"]:
        scores["calibration"] |= {"tempered": None, "temperature": None}
    without = render(made, curve(), examples(), CSV)
    read(without)
    assert "no validation frames to fit a temperature on" in without
    assert "with its temperature" not in without


def test_attentive_probes_are_shown_where_there_are_any() -> None:
    made = document()
    assert "attentive:" not in render(made, curve(), examples(), CSV)
    attentive = {**made["scores"][0]["probe"], "training_frames": 12}
    made["scores"][0]["attentive"] = attentive
    page = render(made, curve(), examples(), CSV)
    read(page)
    assert f"attentive {100 * attentive['macro_f1']['mean']:.1f}" in page
    assert "attentive: AUROC" in page
    assert "trained on 12 of the 30 training frames" in page


def test_a_run_without_a_log_and_a_task_without_frames_still_make_a_page() -> None:
    page = render(document(), Curve([], []), [], CSV)
    read(page)
    assert "holds no loss to show" in page


@pytest.mark.parametrize("points", [[(0.0, 1.0)], [(0.0, 1.0), (1.0, 1.0)]])
def test_a_loss_curve_of_one_point_or_one_value_is_drawn(points: list[tuple[float, float]]) -> None:
    assert "nan" not in loss_svg(points, [], "loss")


def test_example_frames_come_from_different_patients_while_there_are_any() -> None:
    from usjepa.evaluate.report.examples import SHOWN, _pick

    rng = np.random.default_rng(0)
    probability = rng.dirichlet([0.2] * 3, 200)
    groups = np.repeat(np.arange(10), 20)
    predicted, among = probability.argmax(1), rng.random(200) < 0.5
    chosen = _pick(probability, predicted, groups, among)
    assert len(set(groups[chosen].tolist())) == len(chosen) == SHOWN
    assert among[chosen].all()
    assert len(_pick(probability, predicted, np.zeros(200, np.int64), among)) == SHOWN
    assert _pick(probability, predicted, groups, np.zeros(200, bool)) == []
