"""Rows held as stretches say of every row what arrays would, however clips, images, views and holes follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from usjepa.cache.places.runs import Runs
from usjepa.cache.places.stretches import Stretches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Columns = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int16]]


@st.composite
def tables(draw: st.DrawFn) -> Columns:
    """Return source, frame and view of rows in order, some of them left out."""
    lines = []
    for source in range(draw(st.integers(1, 6))):
        for frame in range(draw(st.integers(0, 4))):
            lines += [(source, frame, view) for view in range(draw(st.sampled_from([1, 2, 2, 3])))]
    kept = draw(st.lists(st.booleans(), min_size=len(lines), max_size=len(lines)))
    if draw(st.booleans()):
        lines = [line for line, keep in zip(lines, kept, strict=True) if keep]
    table = np.array(lines, np.int64).reshape(-1, 3)
    return table[:, 0].astype(np.int32), table[:, 1].astype(np.int32), table[:, 2].astype(np.int16)


def chunks(columns: Columns, size: int) -> Iterator[Any]:
    for start in range(0, len(columns[0]), size):
        yield tuple(column[start : start + size] for column in columns)


def runs_of(mask: NDArray[np.bool_]) -> Runs:
    return Runs.like(np.flatnonzero(mask))


@given(tables(), st.integers(1, 9))
def test_columns_and_single_rows_are_those_of_the_arrays_whatever_the_chunks(columns: Columns, size: int) -> None:
    found = Stretches.of(chunks(columns, size))
    source, frame, _ = columns
    assert len(found) == len(source)
    assert found.in_order
    for mine, wanted in zip(found.columns(), (source, frame), strict=True):
        np.testing.assert_array_equal(mine, wanted)
    for value, wanted in zip(found.at(np.arange(len(source))[::-1]), (source, frame), strict=True):
        np.testing.assert_array_equal(value, wanted[::-1])
    np.testing.assert_array_equal(found.rows_per_source(8), np.bincount(source, minlength=8))


@given(tables(), st.data())
def test_rows_of_sources_and_sources_of_rows_are_found(columns: Columns, data: st.DataObject) -> None:
    found, source = Stretches.of([columns]), columns[0]
    wanted = np.array(data.draw(st.lists(st.booleans(), min_size=8, max_size=8)))
    rows = found.rows_of(wanted)
    np.testing.assert_array_equal(np.asarray(rows), np.flatnonzero(wanted[source]))
    np.testing.assert_array_equal(found.sources_of(rows), np.unique(source[wanted[source]]))
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(source), max_size=len(source))), bool)
    np.testing.assert_array_equal(found.sources_of(runs_of(mask)), np.unique(source[mask]))


@given(tables(), st.data())
def test_a_cut_has_the_rows_of_its_part_and_refuses_half_a_frame(columns: Columns, data: st.DataObject) -> None:
    found, (source, frame, _) = Stretches.of([columns]), columns
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(source), max_size=len(source))), bool)
    cut = found.cut(runs_of(mask))
    frames = {(s, f) for s, f, chosen in zip(source.tolist(), frame.tolist(), mask.tolist(), strict=True) if chosen}
    whole = all(mask[(source == s) & (frame == f)].all() for s, f in frames)
    assert (cut is not None) == whole
    if cut is not None:
        rows = [np.arange(first, first + n) for first, n in zip(cut.row_r, cut.frames_r * cut.views_r, strict=True)]
        np.testing.assert_array_equal(np.concatenate([np.empty(0, int), *rows]), np.flatnonzero(mask))
        np.testing.assert_array_equal(cut.source_r, source[cut.row_r])
        np.testing.assert_array_equal(cut.frame_r, frame[cut.row_r])


@pytest.mark.parametrize(
    "columns",
    [([1, 0], [0, 0], [0, 0]), ([0, 0], [1, 0], [0, 0]), ([0, 0], [0, 0], [1, 0]), ([0, 1, 0], [0, 0, 0], [0, 0, 1])],
)
def test_rows_out_of_order_are_told(columns: tuple[list[int], ...]) -> None:
    source, frame, view = (np.array(column, np.int32) for column in columns)
    assert not Stretches.of([(source, frame, view)]).in_order


def test_images_in_many_chunks_are_one_stretch() -> None:
    source = np.repeat(np.arange(250_000, dtype=np.int32), 4)
    views = np.tile(np.arange(4, dtype=np.int16), 250_000)
    found = Stretches.of(chunks((source, np.zeros_like(source), views), 1 << 16))
    assert len(found.row_r) == 1
    np.testing.assert_array_equal(found.columns()[0], source)


@given(st.lists(st.booleans(), max_size=40), st.data())
def test_runs_of_numbers_are_an_array_of_them(flags: list[bool], data: st.DataObject) -> None:
    numbers = np.flatnonzero(np.array(flags, bool)) + 5
    runs = Runs.like(numbers)
    assert len(runs) == len(numbers)
    assert runs.tolist() == numbers.tolist() == np.asarray(runs).tolist()
    low, high = sorted(data.draw(st.tuples(st.integers(-50, 50), st.integers(-50, 50))))
    np.testing.assert_array_equal(runs[low:high], numbers[low:high])
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(numbers), max_size=len(numbers))), bool)
    np.testing.assert_array_equal(runs[mask], numbers[mask])
    asked = np.array([0, 4, 5, 20, 44, 45, 99])
    index, known = runs.find(asked)
    assert known.tolist() == np.isin(asked, numbers).tolist()
    np.testing.assert_array_equal(numbers[index[known]], asked[known])
    assert runs.below(asked).tolist() == [int((numbers < each).sum()) for each in asked]
    for first in range(3, 48):
        for stop in (first + 1, first + 3, 49):
            assert runs.holds(first, stop) == np.isin(np.arange(first, stop), numbers).all()
    with pytest.raises(IndexError):
        runs[np.array([len(numbers)])]
    inside = runs.within(7, 12)
    wanted = np.isin(np.arange(7, 12), numbers)
    assert (inside is None) == bool(wanted.all())
    assert inside is None or inside.tolist() == wanted.tolist()
