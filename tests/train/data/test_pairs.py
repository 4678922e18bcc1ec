"""Claims about pairs: partners are those of loops over all rows, of one part alone, and named by (seed, step, row)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from usjepa.cache.reading.store import open_store
from usjepa.cache.recipes.train import ContrastSettings, TrainSettings
from usjepa.cache.store.origins import Source, Table
from usjepa.train.data.batches import BatchRequest
from usjepa.train.data.pairs import PairMaker
from usjepa.train.data.partners import Partners, codes_of
from usjepa.train.data.split import split_rows

if TYPE_CHECKING:
    from pathlib import Path


def table_of(rows: list[tuple[int, int, int]], groups: list[str]) -> Table:
    """Return a table of rows (source, frame, view); sources of the given groups."""
    source, frame, view = (np.array(column, np.int32) for column in zip(*rows, strict=True))
    sources = [Source(f"{i}.mp4", "d", group, "", "", f"{i:032x}", 99, "") for i, group in enumerate(groups)]
    return Table(sources, source, frame, view.astype(np.int16))


@given(
    st.integers(0, 10_000),
    st.sampled_from(["clip", "group"]),
    st.sampled_from([None, 0, 1, 3]),
    st.booleans(),
)
def test_partners_are_those_of_a_loop_over_all_rows(seed: int, by: str, distance: int | None, views: bool) -> None:
    rng = np.random.default_rng(seed)
    rows = [(s, f, v) for s in range(4) for f in range(rng.integers(1, 6)) for v in range(rng.integers(1, 4))]
    table = table_of(rows, ["a", "a", "b", ""])
    positions = np.sort(rng.permutation(len(rows))[: max(1, len(rows) // 2)])
    settings = ContrastSettings.model_validate(
        {"positives": by, "distance": distance if by == "clip" else None, "views": views}
    )
    codes, part = codes_of(table, by), Partners(table, positions, settings)

    def allowed(anchor: int) -> set[int]:
        source, frame, view = rows[anchor]
        found = {
            int(other)
            for other in positions
            if codes[rows[other][0]] == codes[source]
            and (views or rows[other][2] == view)
            and (settings.distance is None or abs(rows[other][1] - frame) <= settings.distance)
            and other != anchor
        }
        return found or {anchor}

    seen: dict[int, set[int]] = {int(anchor): set() for anchor in positions}
    for step in range(40):
        for anchor, partner in zip(positions, part.of(positions, positions, seed, step), strict=True):
            seen[int(anchor)].add(int(partner))
    for anchor, partners in seen.items():
        assert partners <= allowed(anchor)
        assert len(partners) >= min(len(allowed(anchor)), 2)  # 40 draws don't all fall on one of several


def test_a_partner_depends_on_seed_step_and_row_and_not_on_its_batch() -> None:
    table = table_of([(0, f, 0) for f in range(50)], ["a"])
    part = Partners(table, np.arange(50), ContrastSettings())
    whole = part.of(np.arange(50), np.arange(50), 3, 7)
    some = np.array([4, 40])
    assert np.array_equal(part.of(some, some, 3, 7), whole[some])
    assert not np.array_equal(part.of(np.arange(50), np.arange(50), 3, 8), whole)
    assert not np.array_equal(part.of(np.arange(50), np.arange(50), 4, 7), whole)


def test_partners_take_12_bytes_a_row() -> None:
    table = table_of([(s, f, v) for s in range(40) for f in range(5) for v in range(4)], ["a"] * 40)
    part = Partners(table, np.arange(800), ContrastSettings())
    assert sum(array.nbytes for array in vars(part).values() if isinstance(array, np.ndarray)) == 800 * 12


@pytest.mark.parametrize("spared", ["clip", "group"])
def test_pairs_join_no_training_group_with_a_held_out_or_excluded_one(phantom_store: Path, spared: str) -> None:
    store = open_store(phantom_store)
    settings = TrainSettings.model_validate(
        {"objective": "contrast", "validation_fraction": 0.3, "contrast": {"positives": "group", "spared": spared}}
    )
    split = split_rows(store.table, settings)
    maker = PairMaker(store, split, settings, torch.device("cpu"))
    of_row = {
        int(row): store.table.sources[source].group for row, source in zip(store.rows, store.table.source, strict=True)
    }
    for step, part in ((0, split.train), (5, split.train), (-1, split.validation)):
        batch = maker.make(BatchRequest(step, part[:16]))
        mine = {of_row[int(row)] for row in store.rows[part]}
        assert {of_row[int(row)] for row in batch.partners_B} <= mine
        assert [of_row[int(row)] for row in batch.rows_B] == [of_row[int(row)] for row in batch.partners_B]
        groups = [of_row[int(row)] for row in batch.rows_B]
        assert len(set(zip(batch.codes_B.tolist(), groups, strict=True))) == len(set(batch.codes_B.tolist()))
        pixels = store.read(np.concatenate([batch.rows_B, batch.partners_B]), layers=("pixels",)).pixels
        assert np.array_equal(batch.pixels_2BCSS.numpy(), pixels)


def test_parts_of_a_batch_have_fingerprints_that_add_up(phantom_store: Path) -> None:
    store, settings = open_store(phantom_store), TrainSettings(objective="contrast")
    split = split_rows(store.table, settings)
    maker = PairMaker(store, split, settings, torch.device("cpu"))
    whole = maker.make(BatchRequest(2, split.train[:9])).fingerprint
    parts = [maker.make(BatchRequest(2, split.train[start : start + 3])).fingerprint for start in (0, 3, 6)]
    assert (sum(parts) - whole) % 2**64 == 0
    assert len(maker.make(BatchRequest(2, split.train[:0]))) == 0
