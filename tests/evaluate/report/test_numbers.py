"""Claims about regression in the report: page, CSV, LaTeX and terminal say the same numbers, with their unit."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.evaluate.report.test_latex import parsed
from tests.evaluate.report.test_report import NASTY, read
from tests.support.documents import add_regression, add_segmentation, document, page
from usjepa.cache.errors import UsageError
from usjepa.evaluate.report.document import Document, read_document
from usjepa.evaluate.report.latex import table_tex
from usjepa.evaluate.report.scores_csv import scores_csv
from usjepa.evaluate.report.text import number_spread, plain_number, scores_text
from usjepa.evaluate.scores.records import Measure

if TYPE_CHECKING:
    from pathlib import Path

GROUPS = np.repeat(np.arange(20), 4)
TRUTH = 55 + 10 * np.random.default_rng(0).standard_normal(80)


def numbers(noise: float = 4.0, **changed: Any) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    said = {key: TRUTH + (noise + i) * rng.standard_normal(80) for i, key in enumerate(("student", "teacher", "hog"))}
    made = add_regression(document(), TRUTH, said, GROUPS)
    made["regression"]["tasks"][0] |= changed
    return made


def alone(made: dict[str, Any]) -> dict[str, Any]:
    """Return the document of an evaluation of numbers alone."""
    named = made["regression"]["tasks"][0]["name"]
    kept = [one for one in made["differences"] if one["task"] == named]
    return made | {"tasks": [], "scores": [], "maps": {}, "differences": kept}


def test_the_page_says_every_error_with_interval_unit_and_floor() -> None:
    made = numbers()
    text = page(made)
    read(text)
    for scores in made["regression"]["scores"]:
        for probe in scores["probes"].values():
            assert plain_number(probe["measures"]["mae"]["mean"]) in text
            assert f"{probe['measures']['r2']['mean']:.3f}" in text
    low, high = made["regression"]["scores"][0]["probes"]["ridge"]["measures"]["mae"]["interval"]
    assert f"[{low:.2f}, {high:.2f}]" in text
    for told in ("is off by ", " % on average", "Mean of the training values", "MAE and RMSE in %", "real: "):
        assert told in text
    assert text.count('aria-label="Predicted against true EF, % on heart: EF: ') == 2
    assert "student worse" not in text  # a lower error is better
    assert "student better" in text


def test_a_report_of_numbers_alone_makes_a_page_a_table_and_lines() -> None:
    made = alone(numbers())
    text = page(made, shown=[])
    read(text)
    assert "Macro F1" not in text
    ((head, *rows), attentive) = parsed(table_tex(Document.model_validate(made)))
    assert head == ["Encoder", "MAE (\\%)", "RMSE (\\%)", "R\\textsuperscript{2}", "Pearson's r"]
    assert [row[0] for row in rows] == [
        "Student (this run)",
        "Its teacher",
        "Edges (HOG)",
        "Mean of the training values",
    ]
    assert rows[0][1].startswith("\\textbf{")
    assert "\\textbf" not in rows[1][1]
    assert rows[0][3].startswith("\\textbf{")  # the highest R2, the lowest error
    assert rows[-1][4] == "--"
    assert " $\\pm$ " in attentive[1][1]
    lines = scores_text(Document.model_validate(made))
    assert lines[0].startswith("heart: EF, % (frame)")
    assert any(line.startswith("Mean of the training values") and line.endswith("-") for line in lines)


def test_the_csv_has_a_line_for_each_measure_with_the_unit_of_errors() -> None:
    made = numbers()
    lines = list(csv.DictReader(io.StringIO(scores_csv(Document.model_validate(made)))))
    for scores in made["regression"]["scores"]:
        for name, probe in scores["probes"].items():
            for measure, one in probe["measures"].items():
                (line,) = [
                    found
                    for found in lines
                    if (found["task"], found["encoder"], found["classifier"], found["measure"], found["statistic"])
                    == ("heart: EF", scores["encoder"], name, measure, "mean")
                ]
                assert float(line["value"]) == one["mean"]
                assert line["unit"] == ("%" if measure in ("mae", "rmse") else "")
    floor = [one for one in lines if one["encoder"] == "training mean"]
    assert {one["measure"] for one in floor} == {"mae", "rmse", "r2"}
    assert all(one["unit"] == "" for one in lines if one["task"] == "lung")


def test_what_is_undefined_is_said_and_never_a_number() -> None:
    flat = np.full(80, 55.0)
    made = alone(add_regression(document(), flat, {"student": flat + 1}, GROUPS))
    text = page(made, shown=[])
    assert text.count("<td>undefined</td>") >= 4
    assert "nan" not in re.sub(r"<style>.*?</style>|base64,[A-Za-z0-9+/=]+", "", text, flags=re.S).lower()
    assert "nan" not in scores_csv(Document.model_validate(made)).lower()
    probe = made["regression"]["scores"][0]["probes"]["ridge"]
    assert probe["undefined"] == "R² and Pearson's r are undefined: all true values of the test are equal"
    ((_, student, floor), _) = parsed(table_tex(Document.model_validate(made)))
    assert student[3:] == floor[3:] == ["--", "--"]


def test_names_and_units_from_the_data_can_not_become_markup() -> None:
    made = numbers(quantity=NASTY, unit="<b>", notes=[NASTY])
    text = page(made)
    assert "<script" not in text
    read(text)
    parsed(table_tex(Document.model_validate(made)))


def test_dice_has_tested_differences_on_the_page() -> None:
    dice = np.random.default_rng(0).random((2, 80, 2))
    made = add_segmentation(document(), {"student": dice, "teacher": dice / 2}, GROUPS)
    made["differences"].append(
        {**made["differences"][0], "task": "heart: mask", "measure": "dice", "difference": 0.25, "real": True}
    )
    text = page(made)
    read(text)
    assert "Dice, points" in text
    assert "+25.0" in text


def test_clips_and_patients_are_named_as_what_is_scored() -> None:
    text = page(numbers(scored="patient"))
    assert "Patients scored" in text
    assert "test patients: the true number across" in text


def test_a_document_of_format_4_is_read_as_it_was(tmp_path: Path) -> None:
    old = document() | {"format": 4}
    old["tasks"][0].pop("unit", None)
    old["tasks"][0]["test"] = {"labels": "0 1", "groups": "0 1", "digest": "d" * 32}
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(old))
    found = read_document(path)
    assert (found.format, found.tasks[0].unit, found.regression.tasks) == (4, "frame", ())
    assert {one.measure for one in found.differences} == {"macro_f1"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda made: made["scores"][0].update(encoder="nobody"), "scores of nobody on heart: EF, but not both"),
        (lambda made: made["scores"][0]["probes"].pop("ridge"), "the probes of student on heart: EF are not those"),
        (lambda made: made["scores"][0]["probes"]["ridge"].update(predicted=["1 2"]), "does not predict its test"),
        (lambda made: made["scores"][0]["probes"]["ridge"].update(predicted=["1 inf"]), "String should match pattern"),
        (lambda made: made["scores"][0]["probes"]["ridge"]["measures"].pop("mae"), "has no errors"),
    ],
)
def test_a_document_whose_numbers_do_not_belong_together_is_refused(tmp_path: Path, change: Any, told: str) -> None:
    made = numbers()
    change(made["regression"])
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(made))
    with pytest.raises(UsageError, match=re.escape(told)):
        read_document(path)


def test_errors_are_written_with_three_digits_whatever_their_unit() -> None:
    values = {
        6.1234: "6.12",
        14.449: "14.4",
        123.4: "123",
        4567.8: "4,568",
        0.01234: "0.0123",
        1.2e-7: "1.20e-07",
        0: "0.00",
    }
    assert {value: plain_number(value) for value in values} == values
    assert plain_number(-0.4014, "r2") == "-0.401"
    assert number_spread(Measure(mean=12.43, sd=0.0567)) == "12.4 ± 0.1"
    assert number_spread(Measure(mean=0.8071, sd=0.2072), "r2") == "0.807 ± 0.207"
