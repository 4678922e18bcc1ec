"""Claims about pairs: partners are those of loops over all rows, of one part alone, and named by (seed, step, row)."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from usjepa.cache.places.runs import Runs
from usjepa.cache.reading.store import open_store
from usjepa.cache.recipes.train import ContrastSettings, TrainSettings
from usjepa.cache.sources.patients import group_key
from usjepa.cache.store.origins.sources import PackedSources, Source
from usjepa.cache.store.origins.table import Table
from usjepa.train.counter import stream, uniforms
from usjepa.train.data.batches import BatchRequest
from usjepa.train.data.pairs import PairMaker
from usjepa.train.data.partners import Partners, codes_of
from usjepa.train.data.split import split_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
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


def plain_partners(
    rows: list[tuple[int, int, int]], codes: list[int], positions: np.ndarray, settings: ContrastSettings, step: int
) -> list[int]:
    """Return the partners that are drawn from an order of all rows, by key, view and position."""
    views = max(view for _, _, view in rows) + 1

    def key(place: int) -> tuple[int, int]:
        source, frame, view = rows[place]
        return (codes[source] if settings.views else codes[source] * views + view), frame

    order = sorted(positions.tolist(), key=lambda place: (key(place), rows[place][2], place))
    drawn = uniforms(stream("partners", 5, step, positions), 0)
    found = []
    for place, share in zip(positions.tolist(), drawn.tolist(), strict=True):
        clip, frame = key(place)
        low, high = (0, 2**40) if settings.distance is None else (frame - settings.distance, frame + settings.distance)
        near = [other for other in order if key(other)[0] == clip and low <= key(other)[1] <= high]
        others = [other for other in near if other != place]
        found.append(others[min(int(share * len(others)), len(others) - 1)] if others else place)
    return found


@pytest.mark.parametrize("room", [True, False])
@given(
    seed=st.integers(0, 10_000),
    by=st.sampled_from(["clip", "group"]),
    distance=st.sampled_from([None, 0, 2]),
    views=st.booleans(),
)
def test_partners_are_drawn_from_one_order_of_rows_however_it_is_found(
    room: bool, seed: int, by: str, distance: int | None, views: bool
) -> None:
    rng = np.random.default_rng(seed)
    rows = [(s, f, v) for s in range(6) for f in range(rng.integers(1, 4)) for v in range(rng.integers(1, 4))]
    groups = ["a", "b", "a", "", "b", "a"]
    if seed % 2:
        rows = [rows[i] for i in rng.permutation(len(rows))]
    table = table_of(rows, groups)
    positions = np.sort(rng.permutation(len(rows))[: max(1, len(rows) * 2 // 3)])
    settings = ContrastSettings.model_validate(
        {"positives": by, "distance": distance if by == "clip" else None, "views": views}
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("usjepa.train.data.partners._AT_ONCE", 5)
        if not room:
            patched.setattr("usjepa.train.data.partners._ROOM", 0)
        part = Partners(table, positions, settings)
    codes = codes_of(table, by).tolist()
    expected = plain_partners(rows, codes, positions, settings, 3)
    assert part.of(positions, positions, 5, 3).tolist() == expected
    assert part.of(positions[::-1], positions[::-1], 5, 3).tolist() == expected[::-1]


def test_groups_are_those_of_a_loop_over_names() -> None:
    groups = ["a", "b", "", "patient:a", "a", "", "b", "patient:a"]
    sources = [Source(f"{i}.mp4", "de"[i // 5], group, "", "", "", 1, "") for i, group in enumerate(groups)]
    nothing = np.empty(0, np.int32)
    codes = codes_of(Table(sources, nothing, nothing, nothing.astype(np.int16)), "group").tolist()
    keys = [(*group_key(one.dataset, one.group), "" if one.group else one.path) for one in sources]
    assert all((codes[i] == codes[j]) == (keys[i] == keys[j]) for i in range(8) for j in range(8))
    assert sorted(set(codes)) == list(range(len(set(keys))))


@pytest.mark.parametrize(("by", "nbytes"), [("clip", 4), ("group", 8)])
def test_partners_take_8_bytes_a_row_and_4_where_clips_lie_in_order(by: str, nbytes: int) -> None:
    table = table_of([(s, f, v) for s in range(40) for f in range(5) for v in range(4)], ["a", "b"] * 20)
    part = Partners(table, np.arange(800), ContrastSettings.model_validate({"positives": by}))
    held = (array.nbytes for name, array in vars(part).items() if isinstance(array, np.ndarray) and name != "_code_S")
    assert sum(held) == 800 * nbytes
    assert part._code_S.nbytes == 40 * 4


def peak_of(work: Callable[[], object]) -> int:
    """Return the most bytes that some work holds at once, with what it returns."""
    tracemalloc.start()
    kept = work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    del kept
    return peak


def test_ordering_pairs_takes_no_more_than_11_bytes_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usjepa.train.data.partners._AT_ONCE", 1 << 12)
    sources, views = 50_000, 4
    source = np.repeat(np.arange(sources, dtype=np.int32), views)
    view = np.tile(np.arange(views, dtype=np.int16), sources)
    named = [Source(f"{i}.png", "d", f"p{i % 9000}", "", "", "", 1, "") for i in range(sources)]
    table = Table(named, source, np.zeros(len(source), np.int32), view)
    settings = ContrastSettings.model_validate({"positives": "group"})
    rows, codes = Runs.of(np.array([0]), np.array([len(table.stretches)])), codes_of(table, "group")
    peak = peak_of(lambda: Partners(table, rows, settings, codes))
    assert peak / len(source) < 11  # 13 when keys and an order were held, 41 when rows were sorted by two columns


class SourcesInBatches(PackedSources):
    """Sources of the group before or their own, a few of which are held at once."""

    def __len__(self) -> int:
        return 100_000

    def at(self, number: int) -> Source:
        return Source(f"{number}.png", "d", f"p{number // 3}" if number % 5 else "", "", "", "", 1, "")

    def columns(self, *names: str) -> Iterator[list[list[Any]]]:
        for start in range(0, len(self), 500):
            some = [self.at(number) for number in range(start, start + 500)]
            yield [[getattr(source, name) for source in some] for name in names]


def test_telling_groups_apart_takes_no_more_than_24_bytes_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usjepa.train.data.partners._AT_ONCE", 1 << 12)
    nothing, sources = np.empty(0, np.int32), SourcesInBatches()
    table = Table(sources, nothing, nothing, nothing.astype(np.int16))
    assert peak_of(lambda: codes_of(table, "group")) / len(sources) < 24  # 34 when the index that sorts was held


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


@pytest.mark.parametrize(
    ("size", "sizes"), [(8, [30, 30, 30]), (8, [100, 3, 1]), (5, [7] * 9), (2, [1, 1]), (4, [50, 1])]
)
def test_held_out_batches_mix_clips_as_evenly_as_they_allow(
    phantom_store: Path, monkeypatch: pytest.MonkeyPatch, size: int, sizes: list[int]
) -> None:
    store, settings = open_store(phantom_store), TrainSettings(objective="contrast")
    maker = PairMaker(store, split_rows(store.table, settings), settings, torch.device("cpu"))
    codes = np.repeat(np.arange(len(sizes)), sizes)
    monkeypatch.setattr(maker, "_codes", lambda positions: codes[positions])
    batches = list(maker.held_out(np.arange(len(codes)), size))
    count = -(-len(codes) // size)
    for batch in batches:
        assert 2 <= len(batch) <= size
        found = np.bincount(codes[batch], minlength=len(sizes))
        assert (found > 0).sum() > 1
        assert all(of // count <= mine <= -(-of // count) for mine, of in zip(found, sizes, strict=True))
    seen = np.concatenate(batches)
    assert len(set(seen.tolist())) == len(seen)
    assert set(codes[seen]) == set(range(len(sizes)))
    assert len(seen) == len(codes) or max(sizes) > len(codes) // 2


def test_parts_of_a_batch_have_fingerprints_that_add_up(phantom_store: Path) -> None:
    store, settings = open_store(phantom_store), TrainSettings(objective="contrast")
    split = split_rows(store.table, settings)
    maker = PairMaker(store, split, settings, torch.device("cpu"))
    whole = maker.make(BatchRequest(2, split.train[:9])).fingerprint
    parts = [maker.make(BatchRequest(2, split.train[start : start + 3])).fingerprint for start in (0, 3, 6)]
    assert (sum(parts) - whole) % 2**64 == 0
    assert len(maker.make(BatchRequest(2, split.train[:0]))) == 0
