"""Every score is a line of CSV that no spreadsheet computes."""

from __future__ import annotations

import csv
import io

import pytest

from tests.support.documents import document
from usjepa.evaluate.report.document import Document
from usjepa.evaluate.report.scores_csv import scores_csv


@pytest.mark.parametrize(
    ("evil", "shown"),
    [
        ("=cmd|'/C calc'!A0", "'=cmd|'/C calc'!A0"),
        ("+1+1", "'+1+1"),
        ("-1+cmd", "'-1+cmd"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\uff1d1", "'\uff1d1"),
        ("\t=1", "\\t=1"),
        ("\r=1", "\\r=1"),
        ("a\n=1", "a\\n=1"),
    ],
)
def test_no_cell_is_a_formula_and_every_number_stays_one(evil: str, shown: str) -> None:
    made = document(task=evil)
    made["encoders"]["hog"]["title"] = evil
    made["settings"]["lr"] = -0.5
    lines = list(csv.DictReader(io.StringIO(scores_csv(Document.model_validate(made)), newline="")))
    assert {line["task"] for line in lines} == {shown}
    assert shown in {line["title"] for line in lines}
    assert {line["setting.lr"] for line in lines} == {"-0.5"}
    assert all(float(line["value"]) is not None for line in lines)
