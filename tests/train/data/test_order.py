"""The order of rows and the split of groups: pure, balanced, stable under growth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usjepa.cache.errors import IdentityError, UsageError
from usjepa.cache.recipes.train import TrainSettings
from usjepa.cache.store.origins.sources import Source
from usjepa.cache.store.origins.table import Table
from usjepa.train.data.clip_runs import Frames, Positions, frames_of
from usjepa.train.data.order import ORDER_VERSION, EpochOrder, first_views
from usjepa.train.data.split import _split_groups, split_rows
from usjepa.train.record.checkpoint import RunProgress
from usjepa.train.run.plan import _refuse_differences

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Columns = tuple[NDArray[np.object_], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
    """(dataset, source, frame, view) of every row"""


def column(values: Sequence[str] | NDArray[np.str_]) -> np.ndarray:
    return np.array(values, dtype=object)


def table(frames_by_dataset: dict[str, int], views: int = 1, per_source: int = 7) -> Columns:
    """Columns (dataset, source, frame, view), a row a view, sources of up to 7 frames."""
    dataset, source, frame = [], [], []
    sources = 0
    for name, frames in frames_by_dataset.items():
        for k in range(frames):
            dataset.append(name)
            source.append(sources + k // per_source)
            frame.append(k % per_source)
        sources += -(-frames // per_source)
    repeat = np.repeat(np.arange(len(dataset)), views)
    view = np.tile(np.arange(views), len(dataset))
    return column(dataset)[repeat], np.array(source)[repeat], np.array(frame)[repeat], view


def frames(columns: Columns, positions: NDArray[Any] | None = None) -> Frames:
    dataset, source, frame, view = columns
    named = np.empty(source.max() + 1, dtype=object)
    named[source] = dataset
    return frames_of(named.tolist(), source, frame, view, np.arange(len(source)) if positions is None else positions)


def order(columns: Columns, positions: NDArray[Any] | None = None, **fields: Any) -> EpochOrder:
    return EpochOrder(frames(columns, positions), TrainSettings(**fields))


def drawn_frames(columns: Columns, rows: NDArray[Any]) -> list[tuple[int, int]]:
    return list(zip(columns[1][rows].tolist(), columns[2][rows].tolist(), strict=True))


# -- order -------------------------------------------------------------------------------------------------------------


@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 60), min_size=1),
    st.integers(1, 4),
    st.integers(1, 40),
    st.integers(0, 50),
)
@settings(max_examples=60)
def test_an_epoch_draws_min_of_size_and_cap_frames_of_each_dataset_once(
    sizes: dict[str, int], views: int, cap: int, epoch: int
) -> None:
    columns = table(sizes, views)
    it = order(columns, dataset_cap=cap)
    rows = it.rows(epoch)
    frames = drawn_frames(columns, rows)
    assert len(set(frames)) == len(frames) == it.length
    names, counts = np.unique(columns[0][rows].astype(str), return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == {n: min(s, cap) for n, s in sizes.items()}


def test_order_is_pure_in_seed_and_epoch() -> None:
    columns = table({"a": 100, "b": 30}, views=2)
    one, other = order(columns), order(columns)
    later = [other.rows(epoch).tolist() for epoch in (5, 1, 0)]
    assert [one.rows(epoch).tolist() for epoch in (0, 1, 5)] == later[::-1]
    assert one.rows(0).tolist() != one.rows(1).tolist()
    assert one.rows(0).tolist() != order(columns, seed=1).rows(0).tolist()


def test_order_of_this_version_stays_what_it_is() -> None:
    assert order(table({"a": 9, "b": 6}, views=2), dataset_cap=6).rows(3).tolist() == [
        10,
        7,
        18,
        23,
        0,
        15,
        28,
        21,
        4,
        26,
        13,
        24,
    ]


def test_views_rotate_so_that_k_epochs_show_every_view_of_a_frame_once() -> None:
    columns = table({"a": 200}, views=3)
    it = order(columns)
    first_epoch = columns[3][it.rows(0)]
    assert np.bincount(first_epoch, minlength=3).min() > 40  # offsets differ between frames
    for start in (0, 4):
        rows = np.concatenate([it.rows(epoch) for epoch in range(start, start + 3)])
        assert sorted(rows.tolist()) == list(range(600))
    by_frame = [
        dict(zip(drawn_frames(columns, r), columns[3][r].tolist(), strict=True)) for r in (it.rows(0), it.rows(1))
    ]
    assert all(by_frame[1][key] == (view + 1) % 3 for key, view in by_frame[0].items())


def test_frames_with_a_missing_view_rotate_over_those_they_have() -> None:
    columns = table({"a": 50}, views=3)
    positions = np.flatnonzero(np.arange(150) != 4)  # one hole: view 1 of frame 1
    it = order(columns, positions)
    rows = [it.rows(epoch) for epoch in range(6)]
    assert all(len(r) == 50 and 4 not in r for r in rows)
    assert sorted(int(r[(r >= 3) & (r < 6)][0]) for r in rows) == [3, 3, 3, 5, 5, 5]


def test_capped_datasets_are_mixed_evenly_through_the_epoch() -> None:
    columns = table({"large": 5000, "small": 500})
    rows = order(columns, dataset_cap=500).rows(0)
    assert len(rows) == 1000
    large = columns[0][rows] == "large"
    for part in np.split(large, 10):
        assert 0.3 < part.mean() < 0.7


def test_a_capped_dataset_shows_all_its_frames_over_epochs_with_equal_chance() -> None:
    columns = table({"a": 100})
    it = order(columns, dataset_cap=20)
    seen = np.bincount(np.concatenate([it.rows(epoch) for epoch in range(2000)]), minlength=100)
    assert abs(seen - 400).max() < 5 * np.sqrt(400 * 0.8)


def test_shuffles_are_uniform_over_places() -> None:
    it = order(table({"a": 8}))
    places = np.array([np.argsort(it.rows(epoch)) for epoch in range(8000)])
    for frame in range(8):
        assert np.abs(np.bincount(places[:, frame], minlength=8) - 1000).max() < 5 * np.sqrt(875)


def test_a_hundred_million_rows_are_ordered_without_being_listed() -> None:
    clips = 100_000
    starts = np.arange(clips, dtype=np.int64) * 250
    many = Frames(
        first_r=starts,
        count=25_000_000,
        rows_r=starts * 4,
        views_r=np.full(clips, 4),
        source_r=np.arange(clips),
        frame_r=np.zeros(clips, np.int64),
        kind_r=np.ones(clips, np.int8),
        datasets=(20_000_000, 5_000_000),
        positions=Positions(np.array([0]), np.array([0])),
    )
    it = EpochOrder(many, TrainSettings(dataset_cap=8_000_000, batch_size=1024))
    assert it.length == 13_000_000
    assert it.nbytes < 5_000_000
    drawn = it.at(7, np.arange(4_000_000, 4_200_000))
    assert drawn.min() >= 0
    assert drawn.max() < 100_000_000
    assert len(np.unique(drawn // 4)) == 200_000
    assert (drawn < 80_000_000).mean() == pytest.approx(8 / 13, abs=0.005)
    assert it.batch(7, 4000).tolist() == it.at(7, np.arange(4_096_000, 4_097_024)).tolist()


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5), st.integers(1, 3)), min_size=1, max_size=12), st.data())
@settings(max_examples=150)
def test_runs_describe_any_frames_exactly(sources: list[tuple[int, int, int]], data: st.DataObject) -> None:
    rows = [
        (s, frame, view)
        for s, (_, count, views) in enumerate(sources)
        for frame in range(count)
        for view in range(views)
    ]
    source, frame, view = (np.array(column) for column in zip(*rows, strict=True))
    kept = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, unique=True))
    described = frames_of([s[0] for s in sources], source, frame, view, np.array(kept))
    by_frame: dict[tuple[int, int], list[int]] = {}
    for p in sorted(kept):
        by_frame.setdefault((int(source[p]), int(frame[p])), []).append(p)
    assert described.count == len(by_frame) == sum(described.datasets)
    row, views, of_source, number = described.find(np.arange(described.count))
    found = {}
    for f in range(described.count):
        key = (int(of_source[f]), int(number[f]))
        found[key] = described.positions[row[f] + np.arange(views[f])].tolist()
    assert found == by_frame
    names = [sources[s][0] for s in of_source]
    assert [name for name, before in zip(names, [None, *names], strict=False) if name != before] == list(
        dict.fromkeys(names)
    )


def test_a_folder_of_images_and_a_list_of_clips_take_few_runs() -> None:
    images = frames(table({"a": 50_000, "b": 20_000}, views=4, per_source=1))
    clips = frames(table({"a": 50_000, "b": 20_000}, views=4, per_source=100))
    assert (len(images.first_r), len(clips.first_r)) == (2, 700)
    assert images.nbytes < 200


def test_only_given_positions_are_drawn_and_their_order_does_not_matter() -> None:
    columns = table({"a": 60}, views=2)
    positions = np.flatnonzero(np.repeat(np.random.default_rng(0).random(60) < 0.5, 2))
    rows = order(columns, positions).rows(0)
    assert np.isin(rows, positions).all()
    assert order(columns, positions[::-1]).rows(0).tolist() == rows.tolist()


@given(st.integers(1, 80), st.integers(1, 90))
@settings(max_examples=40)
def test_batches_hold_every_row_of_the_epoch_and_only_the_last_is_short(frames: int, batch_size: int) -> None:
    it = order(table({"a": frames}), batch_size=batch_size)
    steps = it.steps_per_epoch()
    batches = [it.batch(1, index) for index in range(steps)]
    assert np.concatenate(batches).tolist() == it.rows(1).tolist()
    assert [len(b) for b in batches[:-1]] == [batch_size] * (steps - 1)
    assert it.steps_per_epoch(7) == -(-frames // 7)
    assert [it.position_of(step) for step in (0, steps - 1, steps, 3 * steps)] == [
        (0, 0),
        (0, steps - 1),
        (1, 0),
        (3, 0),
    ]
    with pytest.raises(UsageError, match="does not exist"):
        it.batch(0, steps)


def test_datasets_may_be_codes_instead_of_names() -> None:
    columns = table({"a": 30, "b": 20})
    codes = (columns[0] == "b").astype(np.int32)
    assert (
        order((codes, *columns[1:]), dataset_cap=15).rows(0).tolist() == order(columns, dataset_cap=15).rows(0).tolist()
    )


def test_no_rows_to_order_is_said() -> None:
    with pytest.raises(UsageError, match=r"Check train\.exclude_splits"):
        order(table({"a": 3}), positions=np.array([], dtype=np.int64))


def test_first_views_are_one_row_a_frame() -> None:
    columns = table({"a": 5}, views=3)
    assert first_views(*columns[1:], np.arange(15)).tolist() == [0, 3, 6, 9, 12]
    assert first_views(*columns[1:], np.array([14, 13, 4, 2])).tolist() == [2, 4, 13]
    assert first_views(*columns[1:], np.array([], dtype=np.int64)).tolist() == []


# -- groups ------------------------------------------------------------------------------------------------------------


def groups(
    count: int, frames: int = 3, prefix: str = "patient"
) -> tuple[NDArray[np.object_], NDArray[np.object_], NDArray[np.object_]]:
    names = np.repeat([f"{prefix}{k}" for k in range(count)], frames)
    return column(["d"] * len(names)), column(names), column([""] * len(names))


def test_groups_are_never_cut_and_five_percent_are_held_out() -> None:
    dataset, group, split = groups(4000)
    parts = _split_groups(dataset, group, split, TrainSettings())
    assert sorted([*parts.train, *parts.validation]) == list(range(12_000))
    assert not set(group[parts.train]) & set(group[parts.validation])
    assert len(parts.validation) / 12_000 == pytest.approx(0.05, abs=0.015)
    assert parts.train.dtype == parts.validation.dtype == np.int64
    assert (np.diff(parts.train) > 0).all()
    assert (parts.excluded, parts.note) == (0, "")


def test_growth_moves_no_group() -> None:
    dataset, group, split = groups(500)
    held = set(group[_split_groups(dataset, group, split, TrainSettings()).validation])
    dataset, group, split = groups(900)
    backwards = group[::-1]
    grown = set(backwards[_split_groups(dataset, backwards, split, TrainSettings()).validation])
    larger = set(group[_split_groups(dataset, group, split, TrainSettings(validation_fraction=0.1)).validation])
    assert held == {name for name in grown if int(name[7:]) < 500}
    assert grown < larger


def test_groups_of_one_name_in_two_datasets_are_two_groups() -> None:
    dataset, group, split = groups(300, frames=2)
    dataset[::2] = "e"
    held = _split_groups(dataset, group, split, TrainSettings(validation_fraction=0.5)).validation
    pairs = {(dataset[p], group[p]) for p in held}
    assert len({name for _, name in pairs}) < len(pairs) < 2 * len({name for _, name in pairs})


def test_excluded_splits_are_in_neither_part() -> None:
    dataset, group, split = groups(100)
    split[30:90] = "test"
    parts = _split_groups(dataset, group, split, TrainSettings())
    assert parts.excluded == 60
    assert not set(range(30, 90)) & {*parts.train, *parts.validation}
    with pytest.raises(UsageError, match="excluded splits"):
        _split_groups(dataset, group, column(["test"] * 300), TrainSettings())


def test_the_smallest_hash_is_held_out_where_none_lies_under_the_fraction_and_it_is_said() -> None:
    dataset, group, split = groups(4)
    parts = _split_groups(dataset, group, split, TrainSettings(validation_fraction=1e-9))
    assert len(parts.validation) == 3
    assert "smallest hash" in parts.note
    assert len(_split_groups(dataset, group, split, TrainSettings(validation_fraction=0.0)).validation) == 0


def test_a_lone_group_is_trained_on_and_never_is_all_held_out() -> None:
    dataset, group, split = groups(1)
    parts = _split_groups(dataset, group, split, TrainSettings(validation_fraction=1.0))
    assert (len(parts.train), len(parts.validation)) == (3, 0)
    assert "without a validation loss" in parts.note
    parts = _split_groups(*groups(5), TrainSettings(validation_fraction=1.0))
    assert (len(parts.train), len(parts.validation)) == (3, 12)
    assert "largest hash" in parts.note


def test_rows_without_a_group_belong_to_their_source() -> None:
    dataset, group, split = groups(40, frames=5)
    path = group.copy()
    group[:] = ""
    recipe = TrainSettings(validation_fraction=0.3)
    by_source = _split_groups(dataset, group, split, recipe, path)
    assert 0 < len(by_source.validation) < 200
    assert not set(path[by_source.train]) & set(path[by_source.validation])
    assert len(_split_groups(dataset, group, split, recipe).train) == 200  # one group: the dataset


def test_held_out_groups_are_not_those_of_another_split_by_the_bare_hash() -> None:
    import xxhash

    names = [f"patient{k}" for k in range(5000)]
    bare = np.array([xxhash.xxh3_64_intdigest(f"d\0{name}".encode()) / 2**64 < 0.05 for name in names])
    held = _split_groups(*groups(5000, frames=1), TrainSettings()).validation
    assert bare[held].mean() == pytest.approx(0.05, abs=0.05)


def test_rows_follow_their_sources_and_sources_without_rows_do_not_count() -> None:
    names = [("d", f"patient{k}", "test" if k % 10 == 3 else "") for k in range(300)]
    sources = tuple(Source(f"{g}.mp4", d, g, "", s, "0" * 32, 2, "") for d, g, s in names)
    source = np.repeat(np.arange(0, 300, 2), 2).astype(np.int32)  # every other source has no rows
    stored = Table(sources, source, np.tile([0, 1], 150).astype(np.int32), np.zeros(300, np.int16))
    parts = split_rows(stored, TrainSettings(validation_fraction=0.2))
    path = np.array([s.path for s in sources], dtype=object)[source]
    by_row = _split_groups(stored.dataset, stored.group, stored.split, TrainSettings(validation_fraction=0.2), path)
    assert parts.train.tolist() == by_row.train.tolist()
    assert parts.validation.tolist() == by_row.validation.tolist()
    assert len(parts.validation) > 0
    assert (parts.excluded, parts.note) == (by_row.excluded, by_row.note)


def test_it_is_told_when_large_groups_hold_out_far_more_than_was_asked_for() -> None:
    sources = tuple(Source(f"{k}.mp4", "d", f"patient{k}", "", "", "0" * 32, 50, "") for k in range(40))
    held = {sources[p].group for p in _split_groups(*sources_columns(sources), TrainSettings()).validation}
    assert 0 < len(held) < 4
    frames = [50 if source.group in held else 5 for source in sources]  # the clips held out are the long ones
    source = np.repeat(np.arange(40), frames).astype(np.int32)
    frame = np.concatenate([np.arange(count) for count in frames]).astype(np.int32)
    large = split_rows(Table(sources, source, frame, np.zeros(len(source), np.int16)), TrainSettings())
    share = len(large.validation) / len(source)
    assert share > 0.1
    assert f"{share:.0%} of the rows are held out, but train.validation_fraction is 5%" in large.note
    even = Table(sources, np.arange(40, dtype=np.int32), np.zeros(40, np.int32), np.zeros(40, np.int16))
    assert split_rows(even, TrainSettings()).note == ""


def sources_columns(
    sources: tuple[Source, ...],
) -> tuple[NDArray[np.object_], NDArray[np.object_], NDArray[np.object_]]:
    return column([s.dataset for s in sources]), column([s.group for s in sources]), column([s.split for s in sources])


def test_a_run_of_the_order_before_is_refused_with_the_reason() -> None:
    identity = {"train": {"seed": 0}, "order": {"version": ORDER_VERSION}}
    _refuse_differences(RunProgress(0, 0, identity, {}), identity)
    with pytest.raises(IdentityError, match=r"another order[\s\S]*order: null \| \{.version.: 2\}[\s\S]*another RUN"):
        _refuse_differences(RunProgress(0, 0, {"train": {"seed": 0}}, {}), identity)
