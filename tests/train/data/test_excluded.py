"""A name in `train.exclude_splits` that excludes nothing by a slip of the pen is refused, and test rows stay out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.several import names, write_sources
from usjepa.cache import open_store
from usjepa.cache.errors import UsageError
from usjepa.cache.recipes.train import TrainSettings
from usjepa.train.data.split import split_rows

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.train.data.split import Split


def split(folder: Path, splits: list[str], *excluded: str) -> Split:
    write_sources(folder / "s", names("a", len(splits)), splits=splits)
    return split_rows(open_store(folder / "s").table, TrainSettings(exclude_splits=excluded, validation_fraction=0.0))


@pytest.mark.parametrize("slip", ["tset", "none", "", "fold-3"])
def test_a_name_that_is_no_split_and_not_in_the_data_is_refused(tmp_path: Path, slip: str) -> None:
    with pytest.raises(UsageError, match=r"exclude_splits: '.*' is no split.*data names: test, train\."):
        split(tmp_path, ["train", "test"] * 4, "val", slip)


@pytest.mark.parametrize("name", ["test", "Testing", "holdout"])
def test_every_spelling_of_a_split_excludes_it(tmp_path: Path, name: str) -> None:
    found = split(tmp_path, ["train", "test"] * 4, name)
    assert np.asarray(found.train).tolist() == [0, 2, 4, 6]


def test_a_split_that_no_row_has_and_rows_without_one_may_be_excluded(tmp_path: Path) -> None:
    assert split(tmp_path / "a", ["train"] * 4, "test").excluded == 0
    assert split(tmp_path / "b", ["train", ""] * 2, "").excluded == 2


def test_a_name_of_the_datas_own_is_taken_as_it_is(tmp_path: Path) -> None:
    assert split(tmp_path, ["train", "fold-3"] * 2, "fold-3").excluded == 2
