"""Claims about the chart of the first screen."""

from __future__ import annotations

import re

from tests.support.documents import document, page
from usjepa.evaluate.report.answer.dots import dots_of
from usjepa.evaluate.report.answer.standing import standings
from usjepa.evaluate.report.document import Document


def test_every_encoder_has_a_dot_on_its_interval_and_the_floor_is_within_the_chart() -> None:
    made = document()
    (one,) = standings(Document.model_validate(made))
    drawn = str(dots_of(one).svg)
    dots = [float(x) for x in re.findall(r'<circle class="\w+ dot" cx="([\d.]+)"', drawn)]
    lines = [tuple(map(float, ends)) for ends in re.findall(r'wide" x1="([\d.]+)" y1="[\d.]+" x2="([\d.]+)"', drawn)]
    assert len(dots) == len(lines) == len(made["encoders"])
    assert all(low < dot < high for dot, (low, high) in zip(dots, lines, strict=True))
    assert dots == sorted(dots, reverse=True)
    floor = re.search(r'class="floor" x1="([\d.]+)"', drawn)
    assert floor is not None
    assert 134 <= float(floor[1]) < min(dots)


def test_a_score_without_interval_has_a_dot_alone() -> None:
    made = document()
    for scores in made["scores"]:
        scores["probes"]["probe"]["measures"]["macro_f1"]["interval"] = None
    (one,) = standings(Document.model_validate(made))
    drawn = str(dots_of(one).svg)
    assert drawn.count("<circle") == len(made["encoders"])
    assert "wide" not in drawn


def test_more_than_four_tasks_are_folded() -> None:
    from tests.evaluate.report.answer.test_sentence import several

    text = page(several(**dict.fromkeys("abcdef", 0)))
    assert "<summary>2 more tasks</summary>" in text
    assert text.count("by encoder, with intervals") == 6
