"""A copy of some layers, datasets or rows is a whole store of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr
from click.testing import CliRunner

from tests.support.builds import pictures, small, tree
from tests.support.processes import forked
from tests.support.stores import ROWS_PER_SHARD, arrays, layers, tables, write_store
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.cli import main
from usjepa.cache.copying.copy import copy_store
from usjepa.cache.copying.selection import Selection, range_of
from usjepa.cache.errors import DamageError, UsageError
from usjepa.cache.reading.store import open_store
from usjepa.cache.scanning.known_sources import KnownSources
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.commits import read_commit
from usjepa.cache.store.writer import StoreWriter
from usjepa.cache.thinning.remove import remove
from usjepa.cache.thinning.withdrawal import Choice
from usjepa.cache.upkeep.verify import verify

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

ALL = {"pixels", "regions", "latents/toy"}


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A store of two segments: 10 rows of data set a with a hole, 7 of b, the second with notes."""
    root = tmp_path / "two"
    writer = StoreWriter(LocalStorage(root))
    writer.create_or_open(ROWS_PER_SHARD)
    for tag, rows in (("a", 10), ("b", 7)):
        writer.add_segment(*tables(rows, tag), rows)
    for layer in layers().values():
        writer.add_layer(layer)
        values = arrays(layer, 12 + 7)
        for shard in range(writer.state.shard_count):
            numbers = writer.state.rows_of_shard(shard)
            holes = [(3, "torn")] if 3 in numbers else []
            blank = [(row, f"frame of row {row}") for row in (13, 17) if row in numbers and layer.name == "pixels"]
            soft = {"torch": str(shard // 3)}
            writer.write_shard(layer, shard, values[numbers.start : numbers.stop], holes, soft, blank)
    writer.seal()
    return root


def _copy(source: Path, target: Path, layers: str = "", datasets: str = "", rows: str = "") -> None:
    ranges = tuple(range_of(text) for text in rows.split(",") if rows)
    named = tuple(name for name in layers.split(",") if name)
    copy_store(str(source), str(target), Selection(named, (datasets,) if datasets else (), ranges))


@pytest.mark.parametrize(("datasets", "rows", "expected"), [
    ("a", "", [0, 1, 2, 4, 5, 6, 7, 8, 9]),
    ("b", "", [12, 13, 14, 15, 16, 17, 18]),
    ("a,b", "2:6,8:14", [2, 4, 5, 8, 9, 12, 13]),
    ("", "16:1000", [16, 17, 18]),
])  # fmt: skip
def test_chosen_rows_are_a_store_of_their_own(
    tmp_path: Path, two: Path, datasets: str, rows: str, expected: list[int]
) -> None:
    _copy(two, tmp_path / "c", datasets=datasets, rows=rows)
    old, new = open_store(two), open_store(tmp_path / "c")
    assert verify(str(tmp_path / "c")).damages == []
    assert len(new) == len(expected)
    for name in ALL:
        stored = old.read(expected, layers=[name]).arrays[name]
        np.testing.assert_array_equal(new.read(new.rows, layers=[name]).arrays[name], stored)
        found = np.asarray(zarr.open_array(tmp_path / "c" / name, mode="r")[:])[new.rows]
        np.testing.assert_array_equal(found, stored)
    for row, was in zip(new.rows, expected, strict=True):
        assert new.origin_of(int(row)) == old.origin_of(was)


def test_nothing_of_rows_left_out_is_in_any_file(tmp_path: Path, two: Path) -> None:
    _copy(two, tmp_path / "c", datasets="b")
    store = open_store(tmp_path / "c")
    assert {source.path for source in store.table.sources} == {f"b/{i:04d}.png" for i in range(7)}
    pixels = open_store(two).read([0, 1, 2]).pixels
    for name, data in tree(tmp_path / "c").items():
        assert b"a/0000.png" not in data, name
        assert not any(one.tobytes() in data for one in pixels), name


def test_what_was_told_of_rows_goes_with_them(tmp_path: Path, two: Path) -> None:
    _copy(two, tmp_path / "c", rows="13:15,17:18")
    storage = LocalStorage(tmp_path / "c")
    commit = read_commit(storage, open_store(tmp_path / "c").layers["pixels"], 0)
    assert commit is not None
    assert commit.blank == ((0, "frame of row 13"), (2, "frame of row 17"))
    soft = open_store(tmp_path / "c").manifest.soft
    assert soft["pixels"] == ((0, {"torch": "1"}),)
    assert soft["latents/toy"] == ((0, {"torch": "1", "copied": "chosen rows"}),)


@pytest.mark.parametrize("wanted", ["toy", "latents/toy", "scales/toy"])
def test_chosen_layers_keep_their_bytes_and_int8_its_scales(tmp_path: Path, wanted: str) -> None:
    write_store(tmp_path / "a", 10, "int8")
    _copy(tmp_path / "a", tmp_path / "pixels", layers="pixels")
    _copy(tmp_path / "a", tmp_path / "all", layers=wanted)
    assert tree(tmp_path / "all") == tree(tmp_path / "a")
    assert list(open_store(tmp_path / "pixels").layers) == ["pixels", "regions"]
    assert verify(str(tmp_path / "pixels")).damages == []
    assert (tmp_path / "pixels/pixels/c.1.0.0.0").read_bytes() == (tmp_path / "a/pixels/c.1.0.0.0").read_bytes()
    assert not (tmp_path / "pixels/commits/latents").exists()


def test_what_there_is_not_is_refused_and_no_folder_left(tmp_path: Path, two: Path) -> None:
    for option, text, match in (
        ("layers", "nobody", "no layer 'nobody'; it holds latents/toy, pixels, regions"),
        ("datasets", "c", "no dataset 'c'; it holds 'a', 'b'"),
        ("rows", "100:200", "none of its 16 rows is chosen"),
        ("rows", "3:4", "none of its 16 rows is chosen"),
        ("rows", "4:4", "give FIRST:STOP"),
        ("rows", "-1:4", "give FIRST:STOP"),
    ):
        with pytest.raises(UsageError, match=match):
            _copy(two, tmp_path / "c", **{option: text})
        assert not (tmp_path / "c").exists()


def test_only_chosen_rows_need_to_be_whole(tmp_path: Path, two: Path) -> None:
    shard = two / "pixels/c.4.0.0.0"
    data = bytearray(shard.read_bytes())
    data[10] ^= 1
    shard.write_bytes(data)
    _copy(two, tmp_path / "c", rows="0:16")
    with pytest.raises(DamageError, match="row 16"):
        _copy(two, tmp_path / "d", rows="0:17")


def _command(*words: object) -> Result:
    return CliRunner().invoke(main, [*map(str, words)])


@pytest.mark.parametrize(("options", "expected"), [
    (("--datasets", "a", "--datasets", "b"), 16),
    (("--datasets", "a, b"), 16),
    (("--rows", "0:3", "--rows", "8:10,12:13"), 6),
    (("--layers", "toy", "--layers", "pixels"), 16),
])  # fmt: skip
def test_an_option_given_twice_means_both(tmp_path: Path, two: Path, options: tuple[str, ...], expected: int) -> None:
    assert _command("copy", two, tmp_path / "c", *options).exit_code == 0
    store = open_store(tmp_path / "c")
    assert len(store) == expected
    assert store.latents == ["toy"]


@pytest.mark.parametrize("text", ["", " ", ",", "{},", ",{}"])
@pytest.mark.parametrize(("option", "name"), [("--layers", "toy"), ("--datasets", "a"), ("--rows", "0:3")])
def test_an_option_that_names_nothing_does_not_mean_everything(
    tmp_path: Path, two: Path, option: str, name: str, text: str
) -> None:
    for command in (("copy",), ("export", "--format", "npy"))[: 2 if option == "--layers" else 1]:
        result = _command(*command, two, tmp_path / "c", option, text.format(name))
        assert result.exit_code == 2, result.output
        assert "error: " in result.output
        assert not (tmp_path / "c").exists()


def test_a_dataset_whose_name_has_a_comma_can_be_chosen(tmp_path: Path) -> None:
    writer = StoreWriter(LocalStorage(tmp_path / "s"))
    writer.create_or_open(ROWS_PER_SHARD)
    for tag in ("a", "c,d"):
        writer.add_segment(*tables(3, tag), 3)
    for layer in layers().values():
        writer.add_layer(layer)
        for shard in range(2):
            writer.write_shard(layer, shard, arrays(layer, 3), [], {})
    writer.seal()
    for number, options in enumerate((["--datasets", "c,d"], ["--datasets", "a", "--datasets", "c,d"])):
        result = _command("copy", tmp_path / "s", tmp_path / str(number), *options)
        assert result.exit_code == 0, result.output
        assert len(open_store(tmp_path / str(number))) == 3 + 3 * number


@pytest.mark.parametrize(("datasets", "rows"), [("a", ""), ("b", ""), ("", "1:9"), ("", "12:14")])
def test_who_withdrew_is_remembered_whatever_is_chosen_and_by_a_hash_alone(
    tmp_path: Path, two: Path, datasets: str, rows: str
) -> None:
    remove(str(two), Choice(sources=("a/0000.png", "b/0003.png")))
    gone = _tombstones(two)
    assert len(gone) == 2
    _copy(two, tmp_path / "c", datasets=datasets, rows=rows)
    store = open_store(tmp_path / "c")
    assert _tombstones(tmp_path / "c") == gone
    assert store.manifest.removed == ({"generation": 1, "rows": 2},)
    assert len(open_store(tmp_path / "c", generation=1)) == len(store)
    assert verify(str(tmp_path / "c")).damages == []
    shown = {store.origin_of(int(row)).source for row in store.rows}
    others = [source for source in store.table.sources if source not in shown]
    assert {(one.path, one.group, one.label, one.error) for one in others} == {
        ("withdrawn", "withdrawn", "", "withdrawn")
    }
    assert {one.dataset for one in others} <= {one.dataset for one in shown} | {"withdrawn"}
    assert [store.origin_of(int(row)).source.error for row in store.rows] == [""] * len(store)


def _tombstones(root: Path) -> set[str]:
    store = open_store(root)
    known = KnownSources(LocalStorage(root), store.manifest.segments)
    return known.withdrawn


def test_a_file_that_withdrew_joins_no_copy_of_chosen_rows_that_grows(tmp_path: Path, said: list[str]) -> None:
    folder = tmp_path / "in"
    pictures(folder, [f"{i}.png" for i in range(4)])
    request = BuildRequest(source=str(folder), teacher="random")
    build(str(tmp_path / "s"), small(), request)
    pictures(folder, ["4.png", "5.png"], seed=1)
    build(str(tmp_path / "s"), small(), request)
    remove(str(tmp_path / "s"), Choice(sources=("2.png", "5.png")))
    _copy(tmp_path / "s", tmp_path / "c", rows="0:2")
    build(str(tmp_path / "c"), small(), request)
    paths = {source.path for source in open_store(tmp_path / "c").table.sources}
    assert not paths & {"2.png", "5.png"}
    assert any("2 files are left out: they were withdrawn" in line for line in said)


def _choose_and_die(source: str, target: str, step: int) -> None:
    forked.die_at_durable_step(step)
    copy_store(source, target, Selection(rows=((1, 15),)))


@pytest.mark.parametrize("step", [4, 22, 51, *(pytest.param(at, marks=pytest.mark.slow) for at in (1, 11, 40))])
def test_a_choice_that_is_killed_goes_on_to_the_same_bytes(tmp_path: Path, two: Path, step: int) -> None:
    _copy(two, tmp_path / "whole", rows="1:15")
    assert forked.run(_choose_and_die, str(two), str(tmp_path / "c"), step) == -9
    _copy(two, tmp_path / "c", rows="1:15")
    assert tree(tmp_path / "c") == tree(tmp_path / "whole")
