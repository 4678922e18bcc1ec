"""docs/scaling.md says what the code computes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from usjepa.cache.coding.form import Form, LatentPrecision
from usjepa.cache.planning.estimate import _need_of_store, row_nbytes
from usjepa.cache.recipes.recipe import load_recipe

TEXT = (Path(__file__).parents[3] / "docs/scaling.md").read_text().replace("*", "")
FRAMES, GRID = 5_100_000, (196, 768)
SIZES = re.findall(r"^\| (fp32|fp16|int8|int4) \| (\d) \| ([\d,]+) \| ([\d,]+) \| ([\d.]+) \| ([\d,]+) \|$", TEXT, re.M)
RATES = re.findall(r"^\| ([18]) \| (0\.[24]) \| ([\d,]+)" + 4 * r" \| ([\d.]+)" + r" \|$", TEXT, re.M)


def number(text: str) -> int:
    return int(text.replace(",", ""))


def test_bytes_and_inodes_are_those_that_a_build_checks_for() -> None:
    settings = load_recipe("us-jepa").cache
    assert len(SIZES) == 16
    for precision, views, rows, nbytes, terabytes, inodes in SIZES:
        need = _need_of_store(settings, Form(precision), [GRID], FRAMES * int(views))
        assert number(rows) == FRAMES * int(views)
        assert number(nbytes) == row_nbytes(settings, Form(precision), [GRID])
        assert float(terabytes) == round(need.nbytes / 1e12, 2)
        assert number(inodes) == need.files


def test_what_training_reads_is_images_a_second_times_the_bytes_of_a_row() -> None:
    settings = load_recipe("us-jepa").cache
    assert len(RATES) == 4
    for _, _, images, *rates in RATES:
        for precision, rate in zip(get_args(LatentPrecision), rates, strict=True):
            expected = number(images) * row_nbytes(settings, Form(precision), [GRID]) / 1e9
            assert float(rate) == pytest.approx(expected, abs=0.01)
