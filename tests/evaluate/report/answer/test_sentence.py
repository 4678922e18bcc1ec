"""Claims about the first sentence of a report: it says what the paired tests show, and no more."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.documents import add_regression, add_segmentation, document, page
from usjepa.evaluate.report.answer.sentence import against_floor, answer, in_sentence, on_task
from usjepa.evaluate.report.answer.standing import standings
from usjepa.evaluate.report.document import Document


def told(made: dict[str, Any]) -> str:
    return answer(standings(Document.model_validate(made)), made["run"]["noun"])


def two_encoders(apart: float, *, real: bool, groups: int = 30) -> dict[str, Any]:
    """Return a document of one task, where the student differs from its teacher alone by a share."""
    made = document()
    made["scores"] = made["scores"][:2]
    made["differences"] = made["differences"][:1]
    ours = made["scores"][0]["probes"]["probe"]["measures"]["macro_f1"]
    made["scores"][1]["probes"]["probe"]["measures"]["macro_f1"] = ours | {"mean": ours["mean"] - apart}
    made["differences"][0] |= {"difference": apart, "real": real, "groups": groups, "interval": [-0.01, 0.2]}
    return made


@pytest.mark.parametrize(
    ("apart", "real", "groups", "wanted"),
    [
        (0.1, True, 30, "10.0 points above its teacher, the only other; the difference is real (95 % interval -1.0"),
        (-0.1, True, 30, "10.0 points below its teacher, the only other; the difference is real"),
        (0.1, False, 30, "the difference is not shown to be real (95 % interval -1.0 to +20.0)."),
        (0.1, True, 12, "is real (95 % interval -1.0 to +20.0), though 12 test patients or clips are few."),
        (0.1, False, 5, "with 5 test patients or clips, no difference is called real."),
        (0.1, False, 1, "with 1 test patient or clip, no difference is called real."),
        (0.0, False, 30, "level with its teacher, the only other; the difference is not shown to be real"),
        (0.0001, False, 30, "level with its teacher"),
    ],
)  # fmt: skip
def test_one_task_is_told_with_interval_distance_and_verdict(
    apart: float, real: bool, groups: int, wanted: str
) -> None:
    text = told(two_encoders(apart, real=real, groups=groups)).replace("\N{MINUS SIGN}", "-")
    assert text.startswith("On lung, the student reaches 74.6 % macro F1 (95 % interval 67.6 to 80.6), ")
    assert wanted in text


def test_the_best_of_several_others_is_the_rival() -> None:
    made = document()
    assert "above its teacher, the best of 3 others" in told(made)
    made["scores"][2]["probes"]["probe"]["measures"]["macro_f1"]["mean"] = 0.7
    made["differences"][1] |= {"real": False}
    assert "below" not in told(made)
    assert "above random weights, the best of 3 others; the difference is not shown to be real" in told(made)
    made["scores"][3]["probes"]["probe"]["measures"]["macro_f1"]["mean"] = 0.9
    assert (
        "below edges (HOG), the best of 3 others; with 9 test patients or clips, no difference is called real."
        in told(made)
    )
    made["tasks"][0]["counts"]["test"] = made["tasks"][0]["counts"]["test"] | {"groups": 90}
    assert told(made).endswith("; whether that is more than chance was not tested.")


def test_an_encoder_alone_is_compared_with_nothing() -> None:
    made = document()
    made |= {"scores": made["scores"][:1], "differences": []}
    assert told(made).endswith("; nothing else was scored beside it.")


def test_a_score_that_a_constant_guess_reaches_is_said() -> None:
    made = two_encoders(0.1, real=True)
    for floor, wanted in (
        (0.17, "scores 17.0 %."),
        (0.7, "not shown that any frame was understood"),
        (0.9, "no better"),
    ):
        made["tasks"][0]["floor"]["macro_f1"] = floor
        assert wanted in against_floor(standings(Document.model_validate(made))[0])
        assert wanted in page(made)


def several(**verdicts: int) -> dict[str, Any]:
    """Return a document of tasks with a verdict each: 1 really ahead, -1 really behind, 0 neither."""
    made: dict[str, Any] | None = None
    for name, verdict in verdicts.items():
        one = document(name)
        one["differences"][0] |= {"difference": 0.1 * (verdict or 1), "real": verdict != 0}
        if made is None:
            made = one
            continue
        made["tasks"] += one["tasks"]
        made["scores"] += one["scores"]
        made["differences"] += one["differences"]
        for key, encoder in one["encoders"].items():
            made["encoders"][key]["identities"] |= encoder["identities"]
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("verdicts", "wanted"),
    [
        ({"a": 1, "b": 1}, "On all 2 tasks the student is ahead of the best of the other encoders, and each"),
        ({"a": -1, "b": -1}, "On all 2 tasks the student is behind the best of the other encoders, and each"),
        ({"a": 0, "b": 0, "c": 0}, "On none of 3 tasks is the student shown to differ from the best of the other"),
        ({"a": 1, "b": -1}, "Against the best of the other encoders the student is ahead on a and behind on b."),
        ({"a": 1, "b": 0}, "the student is ahead on a; on b no difference is shown to be real."),
        (dict.fromkeys("abcde", 0) | {"f": 1}, "ahead on f; on 5 tasks no difference is shown to be real."),
    ],
)  # fmt: skip
def test_several_tasks_are_counted_in_one_sentence(verdicts: dict[str, int], wanted: str) -> None:
    made = several(**verdicts)
    assert wanted in told(made)
    text = page(made)
    assert text.count('class="answer"') == 1
    assert all(f"On {name}, the student reaches" in text for name in verdicts)


def test_errors_and_dice_are_told_in_their_own_terms() -> None:
    rng = np.random.default_rng(0)
    truth = 50 + 10 * rng.standard_normal(300)
    said = {"student": truth + rng.standard_normal(300), "teacher": truth + 3 * rng.standard_normal(300)}
    made = document() | {"tasks": [], "scores": [], "differences": [], "maps": {}}
    add_regression(made, truth, said, np.arange(300) // 5)
    assert "On heart: EF, the student is off by 0.772 % on average" in told(made)
    assert " % less than its teacher, the only other; the difference is not shown to be real" in told(made)
    made["differences"][0] |= {"real": True}
    assert "the difference is real" in told(made)
    dice = {"student": np.full((2, 40, 2), 0.6), "teacher": np.full((2, 40, 2), 0.8)}
    add_segmentation(made, dice, np.arange(40) // 4)
    found = standings(Document.model_validate(made))
    assert "the student is ahead on heart: EF; on heart: mask no difference" in told(made)
    assert "reaches 60.0 % Dice (95 % interval 50.0 to 90.0), 20.0 points below its teacher" in on_task(
        found[1], "student"
    )


def test_titles_keep_their_capitals_within_a_sentence() -> None:
    assert [in_sentence(title) for title in ("Its teacher", "DINOv3", "A run", "I-JEPA", "", "x")] == [
        *("its teacher", "DINOv3", "a run", "I-JEPA", "", "x")
    ]
