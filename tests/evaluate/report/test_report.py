"""Claims about the report: one file that asks for nothing, the same bytes each time, all text escaped."""

from __future__ import annotations

import html.parser
import re
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from tests.support.documents import add_attentive, document, examples, page
from usjepa.evaluate.encoders.finished_run import Curve
from usjepa.evaluate.report.compose import _understated
from usjepa.evaluate.report.examples import Example
from usjepa.evaluate.scoring.encoder import EncoderScores

NASTY = '<script>alert("x")</script> & $name'


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
    made = page(document())
    reader = read(made)
    assert reader.fetched
    assert all(place.startswith(("data:", "#")) for place in reader.fetched)
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", made)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    assert "script" not in reader.tags


def test_the_same_inputs_give_the_same_bytes() -> None:
    assert page(document()) == page(document())


def test_names_from_the_data_can_not_become_markup() -> None:
    made = document(NASTY, (NASTY, "b"))
    for named in (made["run"], made["encoders"]["student"], made["probes"]["knn"]):
        named |= {key: NASTY for key in named if isinstance(named[key], str)}
    made["notes"] = made["tasks"][0]["notes"] = [NASTY]
    made["software"] = {NASTY: NASTY}
    made["settings"] = {NASTY: NASTY, "seeds": 5}
    text = page(made, shown=[Example(NASTY, NASTY, "b", 0.5, examples()[0].image)])
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt; &amp; $name") > 20
    read(text)


def test_the_page_says_every_score_note_and_floor() -> None:
    made = document()
    text = page(made)
    for scores in made["scores"]:
        assert f"{100 * scores['probes']['probe']['measures']['macro_f1']['mean']:.1f} ± " in text
        assert f"k-NN {100 * scores['probes']['knn']['measures']['macro_f1']['mean']:.1f}" in text
    for told in (*made["notes"], *made["tasks"][0]["notes"], "Constant guess", "17.0"):
        assert told in text


def test_the_page_says_how_sure_the_probe_is_and_draws_it_for_student_and_best_rival() -> None:
    made = document()
    text = page(made)
    assert text.count('aria-label="Share of frames right by confidence on lung: ') == 2
    for scores in made["scores"]:
        found = scores["probes"]["probe"]["calibration"]
        assert f"{100 * found['raw']['ece']['mean']:.1f} ± {100 * found['raw']['ece']['sd']:.1f}" in text
        assert f"{found['tempered']['brier']['mean']:.3f}" in text
        assert f"{found['temperature']['mean']:.2f}" in text
    for scores in made["scores"]:
        scores["probes"]["probe"]["calibration"] |= {"tempered": None, "temperature": None}
    without = page(made)
    read(without)
    assert "no validation frames to fit a temperature on" in without
    assert "with its temperature" not in without


def test_the_run_of_a_first_stage_is_no_student() -> None:
    made = document()
    made["encoders"]["student"]["title"] = "Pixel teacher (this run)"
    made["run"] |= {"noun": "teacher", "objective": "pixels"}
    told = page(made)
    assert "student" not in re.sub(r"<style>.*?</style>|base64,[A-Za-z0-9+/=]+", "", told, flags=re.S).lower()
    assert "the teacher reaches" in told
    assert "The distance between the pixels that it predicts and the hidden ones" in told


def test_encoders_that_the_linear_probe_understates_are_named_with_both_scores() -> None:
    probes = {
        "probe": {"measures": {"macro_f1": {"mean": 0.61}}},
        "logistic-fixed": {"measures": {"macro_f1": {"mean": 0.69}}},
    }
    one: dict[str, Any] = {"confusion": [], "constant": [], "predicted": [], "about": {}, "calibration": None}
    record = EncoderScores.model_validate(
        {
            **{"task": "t", "encoder": "hog", "few_shot": [], "robustness": None},
            "probes": {name: {**probe, **one} for name, probe in probes.items()},
        }
    )
    hog = cast("Any", SimpleNamespace(record=record, described=SimpleNamespace(title="Edges (HOG)", dim=1764)))
    assert _understated(hog) == [
        "the linear probe understates Edges (HOG) (1,764 numbers): 61.0, where logistic regression of a fixed strength "
        "has 69.0."
    ]
    record.probes["probe"].measures["macro_f1"] = record.probes["logistic-fixed"].measures["macro_f1"]
    assert _understated(hog) == []


def test_attentive_probes_are_shown_where_there_are_any() -> None:
    made = document()
    assert "attentive:" not in page(made)
    add_attentive(made, made["scores"][0])
    text = page(made)
    read(text)
    mean = made["scores"][0]["probes"]["attentive"]["measures"]["macro_f1"]["mean"]
    assert f"attentive {100 * mean:.1f}" in text
    assert "attentive: AUROC" in text
    assert "attentive probe was trained on 12 of the" in text


def test_a_run_without_a_log_and_a_task_without_frames_still_make_a_page() -> None:
    text = page(document(), Curve([], []), [])
    read(text)
    assert "log has no losses" in text


def test_a_report_without_draws_validation_frames_or_corruptions_still_makes_a_page() -> None:
    made = document()
    made |= {"differences": [], "maps": {}}
    for scores in made["scores"]:
        scores |= {"few_shot": [], "robustness": None}
        for probe in scores["probes"].values():
            probe["calibration"] = None
            for measure in probe["measures"].values():
                measure["interval"] = None
    read(page(made))


@pytest.mark.parametrize("points", [[(0.0, 1.0)], [(0.0, 1.0), (1.0, 1.0)]])
def test_a_loss_curve_of_one_point_or_one_value_is_drawn(points: list[tuple[float, float]]) -> None:
    text = page(document(), Curve(points, []))
    read(text)
    assert 'aria-label="Loss over epochs' in text
    assert "nan" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)


def test_example_frames_come_from_different_patients_while_there_are_any() -> None:
    from usjepa.evaluate.report.examples import _SHOWN, _pick

    rng = np.random.default_rng(0)
    probability = rng.dirichlet([0.2] * 3, 200)
    groups = np.repeat(np.arange(10), 20)
    predicted, among = probability.argmax(1), rng.random(200) < 0.5
    chosen = _pick(probability, predicted, groups, among)
    assert len(set(groups[chosen].tolist())) == len(chosen) == _SHOWN
    assert among[chosen].all()
    assert len(_pick(probability, predicted, np.zeros(200, np.int64), among)) == _SHOWN
    assert _pick(probability, predicted, groups, np.zeros(200, bool)) == []
