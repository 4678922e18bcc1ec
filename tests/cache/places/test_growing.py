"""A column that grows by parts is the array of all its values."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from usjepa.cache.places import growing
from usjepa.cache.places.growing import GrowingColumn


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("kind", [pa.string(), pa.int32(), pa.bool_(), pa.float64()], ids=str)
def test_it_is_the_array_of_all_values_whatever_the_parts(kind: pa.DataType, size: int) -> None:
    drawn = np.random.default_rng(0).integers(0, 3, 100)
    texts = np.array([f"é{number}" * number for number in drawn], object)
    values = texts if kind == pa.string() else drawn.astype(kind.to_pandas_dtype())
    column = GrowingColumn(kind)
    for start in range(0, len(values), size):
        column.add(values[start : start + size])
    array = column.array()
    array.validate(full=True)
    assert array.type == kind
    assert array.to_pylist() == values.tolist()
    assert not isinstance(array, pa.ChunkedArray) or array.num_chunks == 1


def test_text_that_does_not_fit_begins_another_array(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing, "_MOST_TEXT", 5)
    values = np.array(["abc", "de", "", "f", "ghijk", "", "l"], object)
    for size in (1, 2, 3, 7):
        column = GrowingColumn(pa.string())
        for start in range(0, len(values), size):
            column.add(values[start : start + size])
        assert column.array().chunks == [pa.array(part) for part in (["abc", "de", ""], ["f"], ["ghijk", ""], ["l"])]


def test_what_is_no_value_of_the_column_is_refused() -> None:
    with pytest.raises(pa.ArrowInvalid):
        GrowingColumn(pa.int32()).add(np.array([1 << 40]))
    with pytest.raises(UnicodeEncodeError):
        GrowingColumn(pa.string()).add(np.array(["\ud800"], object))
