"""Claims about marks, legends and axes."""

from __future__ import annotations

import math

import pytest

from usjepa.cache.pages.drawing import COLOURS, DASHES, legend, mark, nice_range, svg


def test_series_that_share_a_colour_differ_in_mark() -> None:
    drawn = [mark(place, 0, 0) for place in range(COLOURS + 1)]
    assert drawn[0].split(' transform="')[0] == drawn[COLOURS].split(' transform="')[0]
    assert len(set(drawn)) == COLOURS + 1
    assert len(set(DASHES)) == COLOURS


def test_names_in_legends_and_titles_are_escaped() -> None:
    assert "<b>" not in legend([(0, "<b>")], curves=True) + svg("", 1, 1, '"><b>')


@pytest.mark.parametrize(
    "values", [(0.0, 1.0), (3.0, 3.0), (-2.5, -2.5), (1e20, 1e20), (1e-9, 2e-9), (-1e6, 1e6), (0.1 + 0.2, 0.3)]
)
def test_a_range_holds_its_values_and_a_few_round_numbers(values: tuple[float, float]) -> None:
    low, high, ticks = nice_range(values)
    assert low < min(values) <= max(values) < high
    assert 2 <= len(ticks) <= 7
    assert all(low - 1e-9 * abs(low) <= tick <= high + 1e-9 * abs(high) and math.isfinite(tick) for tick in ticks)
