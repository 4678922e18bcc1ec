"""What withdraws leaves no byte in any file, other rows keep theirs, and a removal that is killed is finished."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

from tests.support.builds import build_small, pictures, small, tree
from tests.support.files.damage import flip
from tests.support.processes import forked
from tests.support.runs import recipe
from tests.support.stores import ROWS_PER_SHARD, arrays, layers, single_frames, tables
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.cli import main
from usjepa.cache.errors import DamageError, HoleError, NotSealedError, UsageError, WithdrawnError
from usjepa.cache.reading.store import open_store
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.commits import read_commit
from usjepa.cache.store.writer import StoreWriter
from usjepa.cache.thinning import remove as removing
from usjepa.cache.thinning.collect import collect
from usjepa.cache.thinning.remove import remove
from usjepa.cache.thinning.withdrawal import Choice
from usjepa.cache.upkeep.status import status_report
from usjepa.cache.upkeep.verify import verify
from usjepa.train.run.loop import train

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

NAMES = {"a/0002.png", "a/0003.png", "group-1", f"{2:032x}", f"{3:032x}"}
"""What tells of group-1 of data set a, whose rows are 2 (a hole) and 3."""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two segments, groups of two rows: 10 rows of data set a, 7 of b; holes and notes that name files."""
    root = tmp_path / "s"
    writer = StoreWriter(LocalStorage(root))
    writer.create_or_open(ROWS_PER_SHARD)
    for tag, rows in (("a", 10), ("b", 7)):
        sources, lines = tables(rows, tag)
        writer.add_segment(sources if tag == "a" else sources.replace(b"group-", b"panel-"), lines, rows)
    for layer in layers(precision="int8").values():
        writer.add_layer(layer)
        values = arrays(layer, 12 + 7)
        for shard in range(writer.state.shard_count):
            numbers = writer.state.rows_of_shard(shard)
            holes = [(2, "a/0002.png, frame 0: torn")] if 2 in numbers else []
            notes = [(row, f"a/{row:04d}.png: dark") for row in (1, 3) if row in numbers and layer.teacher is None]
            block = values[numbers.start : numbers.stop]
            writer.write_shard(layer, shard, block, holes, {"torch": "x"}, notes, notes)
    writer.seal()
    return root


def stored(root: Path, row: int) -> dict[str, NDArray[np.generic]]:
    store = open_store(root)
    return store.read([row], layers=list(store.layers)).arrays


def found_in(root: Path, needles: set[bytes]) -> list[str]:
    return [
        name
        for name, data in tree(root).items()
        if any(needle in data or needle in name.encode() for needle in needles)
    ]


def test_after_gc_no_byte_of_who_withdrew_is_in_any_file(store: Path) -> None:
    needles = {array.tobytes() for array in stored(store, 3).values()} | {name.encode() for name in NAMES}
    assert len(found_in(store, {b"a/0003.png"})) > 1  # the search finds what is there
    (store / "scan").mkdir()
    (store / "scan/journal.jsonl").write_text("a/0003.png")
    remove(str(store), Choice(groups=("group-1",)))
    collect(str(store))
    assert found_in(store, needles) == []
    assert b"group-1" not in open_store(store).table.sources[2].group.encode()
    assert "group-1" not in status_report(str(store))


@pytest.mark.parametrize("choice", [
    Choice(groups=("group-1",)), Choice(sources=("a/0003.png", "b/0006.png")), Choice(datasets=("a",)),
    Choice(groups=("group-1", "group-0", "group-4")),
])  # fmt: skip
def test_other_rows_keep_their_numbers_and_bytes_and_zarr_reads_them(store: Path, choice: Choice) -> None:
    before = open_store(store)
    names = {str(name) for source in before.table.sources for name in (source.group, source.path, source.dataset)}
    gone = [
        int(row) for row in before.rows
        if {before.origin_of(row).source.group, before.origin_of(row).source.path, before.origin_of(row).source.dataset}
        & {*choice.groups, *choice.sources, *choice.datasets}
    ]  # fmt: skip
    kept = [int(row) for row in before.rows if row not in gone]
    content = before.read(kept, layers=list(before.layers)).arrays
    origins = [before.origin_of(row) for row in kept]
    found = remove(str(store), choice)
    assert found.rows == len(gone)
    after = open_store(store)
    assert after.rows.tolist() == kept
    assert verify(str(store)).damages == []
    for name, array in after.read(kept, layers=list(after.layers)).arrays.items():
        np.testing.assert_array_equal(array, content[name])
        np.testing.assert_array_equal(np.asarray(after.zarr_array(name)[:])[kept], array)
    assert [after.origin_of(row) for row in kept] == origins
    assert names  # of the store as it was
    with pytest.raises(HoleError, match="withdrawn"):
        after.read(gone[:1])


def test_only_shards_with_such_rows_are_written_anew(store: Path) -> None:
    before = tree(store)
    found = remove(str(store), Choice(groups=("group-1",)))
    after = tree(store)
    changed = {name for name in before if before[name] != after[name]}
    shards = {"pixels/c.0.0.0.0", "regions/c.0.0", "latents/toy/c.0.0.0", "scales/toy/c.0.0"}
    records = {f"commits/{name}/000000.json" for name in layers(precision="int8")}
    tables = {f"segments/000001/{name}" for name in ("sources.parquet", "rows.parquet", "segment.json")}
    assert changed == shards | records | tables | {"manifest.json"}
    assert set(after) - set(before) == {"manifests/000002.json"}
    assert (found.files, found.rows, found.shards) == (2, 1, 4)


def test_what_was_told_of_other_rows_stays(store: Path) -> None:
    remove(str(store), Choice(groups=("group-1",)))
    commit = read_commit(LocalStorage(store), open_store(store).layers["pixels"], 0)
    assert commit is not None
    assert commit.blank == commit.doubtful == ((1, "a/0001.png: dark"),)
    assert commit.holes == ((2, "withdrawn"), (3, "withdrawn"))


def test_the_manifest_remembers_through_later_seals(store: Path) -> None:
    remove(str(store), Choice(groups=("group-1",)))
    writer = StoreWriter(LocalStorage(store))
    writer.attach()
    assert writer.seal().generation == 2
    writer.add_segment(*tables(4, "c"), 4)
    for layer in writer.state.layers.values():
        shard = writer.state.shard_count - 1
        writer.write_shard(layer, shard, arrays(layer, 4), [], {})
    assert writer.seal().removed == ({"generation": 2, "rows": 1},)
    assert "withdrawn: 1 rows, in generation 2" in status_report(str(store))


def _remove_and_die(store: str, step: int) -> None:
    forked.die_at_durable_step(step)
    remove(store, Choice(groups=("group-1",)))


@pytest.mark.parametrize(
    "step", [6, 15, 30, 47, *(pytest.param(at, marks=pytest.mark.slow) for at in (2, 9, 12, 18, 24, 42))]
)
def test_a_removal_that_is_killed_is_finished_by_the_same_command(tmp_path: Path, store: Path, step: int) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(store, whole)
    remove(str(whole), Choice(groups=("group-1",)))
    assert forked.run(_remove_and_die, str(store), step) == -9
    if (store / "unfinished/remove.json").exists():
        for use in (open_store, build_small, verify, collect):
            with pytest.raises(NotSealedError, match="a remove that was begun here has not ended"):
                use(str(store))
    remove(str(store), Choice(groups=("group-1",)))
    assert tree(store) == tree(whole)


def _remove_groups_and_die(store: str, groups: tuple[str, ...], step: int) -> None:
    forked.die_at_durable_step(step)
    remove(store, Choice(groups=groups))


def begun(store: Path, *groups: str) -> None:
    """Leave a removal of groups behind that was killed when its mark was laid down and nothing else was done."""
    assert forked.run(_remove_groups_and_die, str(store), groups, 13) == -9
    assert (store / "unfinished/remove.json").exists()
    assert not (store / "manifests/000002.json").exists()


def left_of_data_set_a(store: Path) -> set[str]:
    return {source.group for source in open_store(store).table.sources if source.dataset == "a"}


def test_another_removal_finishes_the_interrupted_one_says_so_and_is_done_itself(store: Path) -> None:
    begun(store, "group-0")
    result = CliRunner().invoke(main, ["remove", str(store), "--group", "group-0", "--group", "group-1"])
    assert result.exit_code == 0, result.output
    assert "finished the removal begun earlier (generation 2)" in result.output
    assert "sealed: generation 3" in result.output
    assert left_of_data_set_a(store) == {"group-2", "group-3", "group-4", "withdrawn"}
    assert not (store / "unfinished").exists()


@pytest.mark.parametrize("choice", [
    ("--group", "group-typo"), ("--source", "a/0001.png"), ("--group", "group-0", "--group", "group-typo"),
])  # fmt: skip
def test_another_removal_of_what_there_is_not_finishes_the_interrupted_one_and_is_refused(
    store: Path, choice: tuple[str, ...]
) -> None:
    begun(store, "group-0")
    result = CliRunner().invoke(main, ["remove", str(store), *choice])
    assert result.exit_code == 2, result.output
    assert "finished the removal begun earlier (generation 2)" in result.output
    assert f"not found: {choice[-1]})" in result.output
    assert left_of_data_set_a(store) == {"group-1", "group-2", "group-3", "group-4", "withdrawn"}
    assert verify(str(store)).damages == []


def test_the_same_removal_after_a_kill_ends_well_and_says_that_it_went_on(store: Path) -> None:
    begun(store, "group-0", "group-1")
    result = CliRunner().invoke(main, ["remove", str(store), "--group", "group-1", "--group", "group-0"])
    assert result.exit_code == 0, result.output
    assert "finished the removal begun earlier (generation 2)" in result.output
    assert left_of_data_set_a(store) == {"group-2", "group-3", "group-4", "withdrawn"}


@pytest.mark.parametrize("step", [42, 70, *(pytest.param(at, marks=pytest.mark.slow) for at in (2, 46, 50))])
def test_a_removal_after_an_interrupted_one_may_be_killed_too(tmp_path: Path, store: Path, step: int) -> None:
    whole = tmp_path / "whole"
    begun(store, "group-0")
    shutil.copytree(store, whole)
    both = ("group-0", "group-3")
    remove(str(whole), Choice(groups=both))
    assert forked.run(_remove_groups_and_die, str(store), both, step) == -9
    remove(str(store), Choice(groups=both))
    assert tree(store) == tree(whole)


def _remove_and_die_planning(store: str) -> None:
    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    vars(removing)["thin_segments"] = die
    remove(store, Choice(groups=("group-0", "group-1")))


def test_a_kill_between_the_interrupted_removal_and_the_next_one_loses_neither(store: Path) -> None:
    begun(store, "group-0")
    assert forked.run(_remove_and_die_planning, str(store)) == -9
    assert (store / "manifests/000002.json").exists()
    remove(str(store), Choice(groups=("group-0", "group-1")))
    assert left_of_data_set_a(store) == {"group-2", "group-3", "group-4", "withdrawn"}


def test_a_damaged_row_that_stays_is_found_before_anything_changes(store: Path) -> None:
    flip(store / "latents/toy/c.0.0.0", 1)
    before = tree(store)
    with pytest.raises(DamageError, match=r"row 0 is not what was built\. Nothing of this removal was begun"):
        remove(str(store), Choice(groups=("group-1",)))
    assert tree(store) == before


def _flipped(path: Path) -> None:
    flip(path, 1)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(("name", "harm"), [
    ("pixels/c.0.0.0.0", _flipped), ("latents/toy/c.0.0.0", _cut), ("regions/c.0.0", Path.unlink),
    ("segments/000001/rows.parquet", Path.unlink), ("segments/000001/segment.json", Path.unlink),
    ("manifest.json", _cut), ("commits/pixels/000000.json", _cut),
])  # fmt: skip
def test_what_is_damaged_while_a_removal_is_unfinished_is_put_back_from_a_copy_and_it_goes_on(
    tmp_path: Path, store: Path, name: str, harm: Callable[[Path], None]
) -> None:
    copy, whole = tmp_path / "copy", tmp_path / "whole"
    shutil.copytree(store, copy)
    shutil.copytree(store, whole)
    remove(str(whole), Choice(groups=("group-1",)))
    begun(store, "group-1")
    harm(store / name)
    result = CliRunner().invoke(main, ["remove", str(store), "--group", "group-1"])
    if name.startswith(("pixels", "latents", "regions")):
        assert result.exit_code == 3, result.output
        assert name in result.output
        assert "put this file back (cp)" in result.output
        assert "verify" not in result.output
        shutil.copy(copy / name, store / name)
        result = CliRunner().invoke(main, ["remove", str(store), "--group", "group-1"])
    assert result.exit_code == 0, result.output
    assert verify(str(store)).damages == []
    after = tree(store)
    assert {file for file, data in tree(whole).items() if after[file] != data} <= {"commits/pixels/000000.json"}


@pytest.mark.parametrize("name", ["segment-000001-rows.parquet", "remove.json"])
def test_where_what_was_laid_down_is_damaged_the_whole_copy_takes_the_stores_place(
    tmp_path: Path, store: Path, name: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    begun(store, "group-1")
    _cut(store / "unfinished" / name)
    result = CliRunner().invoke(main, ["remove", str(store), "--group", "group-1"])
    assert result.exit_code == 3, result.output
    assert "or the whole store in place of this one" in result.output
    shutil.rmtree(store)
    shutil.copytree(copy, store)
    result = CliRunner().invoke(main, ["remove", str(store), "--group", "group-1"])
    assert result.exit_code == 0, result.output
    assert verify(str(store)).damages == []


def test_a_damaged_row_that_goes_is_no_obstacle(store: Path) -> None:
    slot = open_store(store).layers["pixels"].layout.slot_nbytes
    flip(store / "pixels/c.0.0.0.0", 2 * slot + 5)  # row 3: row 2 is a hole
    remove(str(store), Choice(groups=("group-1",)))
    assert verify(str(store)).damages == []


def test_what_there_is_not_or_is_all_there_is_changes_nothing(store: Path) -> None:
    before = tree(store)
    for choice, match in (
        (Choice(groups=("group-1", "nobody")), "not found: nobody"),
        (Choice(datasets=("a", "b")), "delete the whole store"),
    ):
        with pytest.raises(UsageError, match=match):
            remove(str(store), choice)
    with pytest.raises(UsageError, match="one kind of them"):
        Choice(sources=("x",), datasets=("y",))
    assert CliRunner().invoke(main, ["remove", str(store)]).exit_code == 2
    dry = CliRunner().invoke(main, ["remove", str(store), "--group", "group-1", "--dry-run"])
    assert "would be removed: 2 sources, 1 rows, 4 shard files" in dry.output
    assert tree(store) == before


@pytest.mark.parametrize("kind", ["--group", "--source", "--dataset"])
@pytest.mark.parametrize("name", ["", " \t"])
def test_an_empty_name_removes_nothing_and_says_what_to_do(tmp_path: Path, kind: str, name: str) -> None:
    store = write_shared(tmp_path / "s", groups=["x", "x", "", "", "", ""])
    before = tree(store)
    for more in ([], [kind, "x"], ["--dry-run"]):
        result = CliRunner().invoke(main, ["remove", str(store), kind, name, *more])
        assert result.exit_code == 2, result.output
    with pytest.raises(UsageError, match=f"an empty name of a {kind[2:]}.*--source P"):
        Choice(**{f"{kind[2:]}s": (name,)})
    assert tree(store) == before


def test_a_group_of_several_data_sets_is_told_with_them_and_dataset_narrows_it(tmp_path: Path) -> None:
    store = write_shared(tmp_path / "s", groups=["1", "1", "2", "2", "2", "3"])

    def run(*more: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["remove", str(store), *more])
        return result.exit_code, result.output

    before = tree(store)
    assert "group 1 of the data sets: a, b" in run("--group", "1", "--dry-run")[1]
    assert "data sets" not in run("--group", "3", "--dry-run")[1]
    for wrong, missing in ((("1", "c"), "1"), (("1", "d"), "1, d"), (("3", "a"), "3")):
        code, said = run("--group", wrong[0], "--dataset", wrong[1])
        assert (code, f"(not found: {missing})" in said) == (2, True), said
    assert tree(store) == before
    code, said = run("--group", "1", "--dataset", "a")
    assert code == 0, said
    left = [(source.dataset, source.group) for source in open_store(store).table.sources]
    assert left[1:] == [("b", "1"), ("c", "2"), ("a", "2"), ("b", "2"), ("c", "3")]
    assert "group 2 of the data sets: a, b, c" in run("--group", "2")[1]


@pytest.mark.parametrize(("asked", "done", "left"), [
    (Choice(("1", "2")), Choice(("1",)), Choice(("2",))),
    (Choice(("1",)), Choice(("1", "2")), None),
    (Choice(("1",)), Choice(("1",), (), ("a",)), Choice(("1",))),
    (Choice(("1", "2"), (), ("a",)), Choice(("1",)), Choice(("2",), (), ("a",))),
    (Choice(("1",), (), ("a", "b")), Choice(("1",), (), ("a",)), Choice(("1",), (), ("a", "b"))),
    (Choice(("1",)), Choice((), ("1",)), Choice(("1",))),
])  # fmt: skip
def test_what_is_left_of_a_removal_is_what_another_did_not_take(
    asked: Choice, done: Choice, left: Choice | None
) -> None:
    assert asked.without(done) == left


def write_shared(root: Path, groups: list[str]) -> Path:
    """Write a store of data sets a, b and c, in turns, whose sources have these groups."""
    names = [f"{i:032x}" for i in range(len(groups))]
    datasets = ["abc"[i % 3] for i in range(len(groups))]
    writer = StoreWriter(LocalStorage(root))
    writer.create_or_open(ROWS_PER_SHARD)
    described = single_frames(path=names, dataset=datasets, group=groups, label=names, split=names, content_hash=names)
    writer.add_segment(*described, len(groups))
    for layer in layers().values():
        writer.add_layer(layer)
        for shard in range(writer.state.shard_count):
            rows = writer.state.rows_of_shard(shard)
            writer.write_shard(layer, shard, arrays(layer, len(rows), shard), [], {"torch": "x"})
    writer.seal()
    return root


def test_what_is_begun_is_finished_or_deleted_first(store: Path) -> None:
    writer = StoreWriter(LocalStorage(store))
    writer.attach()
    writer.add_layer(replace(layers()["latents/toy"], name="latents/later"))
    with pytest.raises(UsageError, match="latents/later was begun and is not sealed"):
        remove(str(store), Choice(groups=("group-1",)))
    collect(str(store), unfinished=True)
    remove(str(store), Choice(groups=("group-1",)))


def test_earlier_generations_are_refused_and_not_kept(store: Path) -> None:
    remove(str(store), Choice(groups=("group-1",)))
    with pytest.raises(WithdrawnError, match="generation 1 holds were withdrawn in generation 2"):
        open_store(store, generation=1)
    collect(str(store), keep=5)
    assert [path.name for path in (store / "manifests").iterdir()] == ["000002.json"]


def test_runs_that_saw_the_rows_are_named_and_do_not_go_on(tmp_path: Path, phantom_store: Path) -> None:
    root, run = tmp_path / "s", tmp_path / "runs/a"
    shutil.copytree(phantom_store, root, ignore=shutil.ignore_patterns("pins"))  # of other tests' runs
    train(str(root), str(run), recipe(), stop_after_steps=2)
    shutil.copytree(run, tmp_path / "elsewhere/b")
    group = open_store(root).table.sources[0].group
    result = CliRunner().invoke(main, ["remove", str(root), "--group", group, "--runs", str(tmp_path / "elsewhere")])
    assert result.exit_code == 0
    for folder in (tmp_path / "elsewhere/b", run):  # one by its folder, one by its note in the store
        assert f"saw these rows: {folder} (unfinished, generation 1)" in result.output
    with pytest.raises(WithdrawnError, match="begin a new run"):
        train(str(root), str(run), recipe())
    train(str(root), str(tmp_path / "runs/c"), recipe(), stop_after_steps=1)
    result = CliRunner().invoke(main, ["gc", str(root)])
    assert f"the run {run} (unfinished, generation 1) can't go on" in result.output


def test_a_file_that_withdrew_is_left_out_when_the_store_grows(tmp_path: Path, said: list[str]) -> None:
    folder, root = tmp_path / "in", str(tmp_path / "s")
    pictures(folder, [f"{i}.png" for i in range(4)])
    build(root, small(), BuildRequest(source=str(folder), teacher="random"))
    remove(root, Choice(sources=("2.png",)))
    shutil.move(folder / "2.png", folder / "renamed.png")
    pictures(folder, ["new.png"], seed=1)
    build(root, small(), BuildRequest(source=str(folder), teacher="random"))
    paths = {source.path for source in open_store(root).table.sources}
    assert paths == {"0.png", "1.png", "3.png", "withdrawn", "new.png"}
    assert any("1 files are left out: they were withdrawn" in line for line in said)
    assert verify(root).damages == []


def test_another_teacher_joins_a_store_from_which_rows_were_removed(tmp_path: Path, small_store: Path) -> None:
    root = tmp_path / "s"
    shutil.copytree(small_store, root)
    gone = open_store(root).table.sources[1].path
    remove(str(root), Choice(sources=(gone,)))
    other = small("cache.teacher.name=other", "cache.teacher.seed=3")
    build(str(root), other, BuildRequest(teacher="random"))
    store = open_store(root)
    assert store.latents == ["demo", "other"]
    assert verify(str(root)).damages == []
    assert store.manifest.removed
