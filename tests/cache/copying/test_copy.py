"""A copy is the same byte for byte, checked on the way, and goes on where it was cut, whoever made it."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.builds import build_small, small, tree
from tests.support.files.damage import flip
from tests.support.processes import forked
from tests.support.processes.flaky_s3 import s3_behind_proxy
from tests.support.stores import write_store
from usjepa.cache.building.build import build, seal
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.cli import main
from usjepa.cache.converting.convert import convert
from usjepa.cache.copying import copy as copying
from usjepa.cache.copying.copy import copy_store
from usjepa.cache.copying.selection import Selection
from usjepa.cache.copying.target import begin
from usjepa.cache.copying.whole import WholeCopy
from usjepa.cache.errors import DamageError, FormatError, NotSealedError, UsageError
from usjepa.cache.reading.store import open_store
from usjepa.cache.store.writer import StoreWriter
from usjepa.cache.thinning.collect import collect
from usjepa.cache.thinning.remove import remove
from usjepa.cache.thinning.withdrawal import Choice
from usjepa.cache.upkeep.verify import verify

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result


@pytest.fixture
def bucket() -> Iterator[str]:
    with s3_behind_proxy("copies"):
        yield "s3://copies"


def _copy(source: Path, target: Path, resume: bool = False) -> None:
    copy_store(str(source), str(target), resume=resume)


def _copy_and_die(source: str, target: str, step: int, selection: Selection | None = None) -> None:
    forked.die_at_durable_step(step)
    copy_store(source, target, selection)


def _command(*arguments: object) -> Result:
    from click.testing import CliRunner

    return CliRunner().invoke(main, ["copy", *map(str, arguments)])


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_a_copy_is_the_same_byte_for_byte(tmp_path: Path, precision: str) -> None:
    write_store(tmp_path / "a", 10, precision, holes=((2, "torn"), (5, "torn")))
    _copy(tmp_path / "a", tmp_path / "b")
    assert tree(tmp_path / "b") == tree(tmp_path / "a")


def test_earlier_generations_and_references_come_along(tmp_path: Path, small_store: Path) -> None:
    shutil.copytree(small_store, tmp_path / "a")
    build(str(tmp_path / "a"), small("cache.phantom.patients=3"), BuildRequest(source="phantom", teacher="random"))
    (tmp_path / "a/references").mkdir()
    (tmp_path / "a/references/demo.safetensors").write_bytes(b"as given")
    _copy(tmp_path / "a", tmp_path / "b")
    assert tree(tmp_path / "b") == tree(tmp_path / "a")
    assert len(open_store(tmp_path / "b", generation=1)) == 20


@pytest.mark.parametrize(
    "step", [3, 20, 61, *(pytest.param(step, marks=pytest.mark.slow) for step in (1, 12, 37, 50, 70))]
)
def test_a_copy_that_is_killed_goes_on_and_is_the_same_byte_for_byte(
    tmp_path: Path, small_store: Path, step: int
) -> None:
    source, target = str(small_store), str(tmp_path / "b")
    assert forked.run(_copy_and_die, source, target, step) == -9
    before = {name: path.stat().st_mtime_ns for name, path in _shards(tmp_path / "b").items()}
    tally = copy_store(source, target)
    assert tree(tmp_path / "b") == tree(small_store)
    kept = [name for name, path in _shards(tmp_path / "b").items() if before.get(name) == path.stat().st_mtime_ns]
    assert tally.kept == len(kept) >= len(before) - 2  # two threads: what they had in hand is copied again


def _shards(root: Path) -> dict[str, Path]:
    return {str(path): path for path in root.rglob("c.*") if "commits" not in path.parts and path.suffix != ".tmp"}


@pytest.mark.slow
def test_a_copy_goes_on_wherever_it_is_killed(tmp_path: Path, small_store: Path) -> None:
    for step in range(1, 200):
        target = tmp_path / str(step)
        code = forked.run(_copy_and_die, str(small_store), str(target), step)
        copy_store(str(small_store), str(target), resume=code == 0)
        assert tree(target) == tree(small_store)
        if code == 0:
            break
    assert step > 60


def test_an_unfinished_copy_is_neither_read_nor_built_over_nor_sealed(tmp_path: Path, small_store: Path) -> None:
    target = str(tmp_path / "b")
    assert forked.run(_copy_and_die, str(small_store), target, 60) == -9
    for use in (open_store, build_small, seal):
        with pytest.raises(NotSealedError, match=r"copy that was begun here has not ended\. Run the same"):
            use(target)


def test_a_damaged_source_is_named_by_its_row_and_not_copied(tmp_path: Path) -> None:
    write_store(tmp_path / "a")
    flip(tmp_path / "a/latents/toy/c.1.0.0", 130)
    with pytest.raises(DamageError, match=r"latents/toy/c\.1\.0\.0: row 5 is not what was built.*--repair"):
        _copy(tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "b/latents/toy/c.1.0.0").exists()
    assert not (tmp_path / "b/manifest.json").exists()
    assert _command(tmp_path / "a", tmp_path / "b").exit_code == 3


@pytest.mark.parametrize("lost", ["pixels/c.2.0.0.0", "segments/000001/rows.parquet"])
def test_a_source_that_lacks_a_file_is_not_copied(tmp_path: Path, lost: str) -> None:
    write_store(tmp_path / "a")
    (tmp_path / "a" / lost).unlink()
    with pytest.raises(DamageError, match=lost):
        _copy(tmp_path / "a", tmp_path / "b")


def test_lost_records_are_written_again(tmp_path: Path) -> None:
    write_store(tmp_path / "a")
    whole = tree(tmp_path / "a")
    (tmp_path / "a/commits/pixels/000001.json").unlink()
    (tmp_path / "a/commits/regions/000000.json").write_bytes(b"{")
    _copy(tmp_path / "a", tmp_path / "b")
    assert tree(tmp_path / "b") == whole


def _cut_after(source: Path, target: Path, files: int, last_nbytes: int | None) -> None:
    """Copy the first files in rsync's order, the last of them in part."""
    for number, name in enumerate(sorted(tree(source))[:files], 1):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        data = (source / name).read_bytes()
        (target / name).write_bytes(data if number < files or last_nbytes is None else data[:last_nbytes])


@pytest.mark.parametrize("files", [1, 9, 12, 14, 16, 20, 23])
@pytest.mark.parametrize("last_nbytes", [0, 100, None])
def test_a_copy_by_another_program_that_was_cut_is_finished(
    tmp_path: Path, files: int, last_nbytes: int | None
) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    write_store(source)
    _cut_after(source, target, files, last_nbytes)
    with pytest.raises(UsageError, match=r"is not empty.*--resume"):
        _copy(source, target)
    _copy(source, target, resume=True)
    assert tree(target) == tree(source)


def test_a_cut_copy_is_recognised_by_name(tmp_path: Path) -> None:
    from click.testing import CliRunner

    write_store(tmp_path / "a")
    _cut_after(tmp_path / "a", tmp_path / "b", 14, 100)
    for use in (open_store, build_small):
        with pytest.raises(FormatError, match=r"holds commits.* of a store and no zarr\.json: a copy that was cut"):
            use(str(tmp_path / "b"))
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    for shard in ("latents/toy/c.2.0.0", "pixels/c.0.0.0.0"):
        (tmp_path / "c" / shard).unlink()
    result = CliRunner().invoke(main, ["verify", str(tmp_path / "c")])
    assert "latents/toy/c.2.0.0 (shard 2): missing" in result.output
    assert "2 files are missing, as in a copy that was cut" in result.output


def test_a_tar_that_was_cut_is_finished(tmp_path: Path) -> None:
    write_store(tmp_path / "a", 40)
    archive = tmp_path / "a.tar"
    subprocess.run(["tar", "-cf", archive, "-C", tmp_path / "a", "."], check=True)
    data = archive.read_bytes()
    archive.write_bytes(data[: len(data) // 2 + 7])
    (tmp_path / "b").mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", tmp_path / "b"], check=False, stderr=subprocess.DEVNULL)
    _copy(tmp_path / "a", tmp_path / "b", resume=True)
    assert tree(tmp_path / "b") == tree(tmp_path / "a")


def test_files_of_the_right_size_with_other_bytes_are_copied_again(tmp_path: Path) -> None:
    write_store(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    flip(tmp_path / "b/pixels/c.0.0.0.0", 300)  # in the middle, so that size and table are right
    (tmp_path / "b/segments/000001/sources.parquet").write_bytes(b"")
    tally = copy_store(str(tmp_path / "a"), str(tmp_path / "b"), resume=True)
    assert tally.shards - tally.kept == 1
    assert tree(tmp_path / "b") == tree(tmp_path / "a")


def test_an_older_copy_is_brought_up_to_date(tmp_path: Path, small_store: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    shutil.copytree(small_store, source)
    shutil.copytree(small_store, target)
    build(str(source), small("cache.phantom.patients=3"), BuildRequest(source="phantom", teacher="random"))
    tally = copy_store(str(source), str(target), resume=True)
    assert tree(target) == tree(source)
    assert 0 < tally.kept < tally.shards


def test_an_older_copy_is_brought_up_to_date_though_its_generation_was_collected(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    write_store(source)
    _copy(source, target)
    convert(str(source), "int8")
    collect(str(source))
    _copy(source, target, resume=True)
    collect(str(target))
    assert tree(target) == tree(source)


def test_a_copy_from_before_a_removal_is_not_brought_up_to_date(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    write_store(source)
    _copy(source, target)
    remove(str(source), Choice(groups=("group-1",)))
    collect(str(source))
    before = tree(target)
    with pytest.raises(UsageError, match="from before rows were withdrawn may hold them: remove it"):
        _copy(source, target, resume=True)
    assert tree(target) == before


@pytest.mark.parametrize("selection", [Selection(), Selection(rows=((0, 10),))])
@pytest.mark.parametrize("moment", ["begin", "end"])
def test_rows_that_withdraw_while_they_are_copied_are_told_and_the_copy_is_not_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, selection: Selection, moment: str
) -> None:
    write_store(tmp_path / "a", 12)
    real = {"begin": begin, "end": StoreWriter.seal if selection.rows else WholeCopy._generations}[moment]

    def late(*args: Any, **more: Any) -> Any:
        done = real(*args, **more)
        remove(str(tmp_path / "a"), Choice(groups=("group-1",)))
        return done

    where = copying if moment == "begin" else StoreWriter if selection.rows else WholeCopy
    name = "begin" if moment == "begin" else "seal" if selection.rows else "_generations"
    monkeypatch.setattr(where, name, late)
    with pytest.raises(UsageError, match=r"changed while it was copied: rows were withdrawn\. Remove .*b, which"):
        copy_store(str(tmp_path / "a"), str(tmp_path / "b"), selection)
    with pytest.raises(NotSealedError):
        open_store(tmp_path / "b")


def test_a_cut_choice_of_rows_of_a_source_that_changed_can_not_be_finished_and_says_so(tmp_path: Path) -> None:
    write_store(tmp_path / "a")
    chosen = Selection(rows=((0, 6),))
    assert forked.run(_copy_and_die, str(tmp_path / "a"), str(tmp_path / "b"), 20, chosen) == -9
    convert(str(tmp_path / "a"), "int8")
    with pytest.raises(UsageError, match=r"which has changed since.*remove DST and copy again"):
        copy_store(str(tmp_path / "a"), str(tmp_path / "b"), chosen)


def test_nothing_is_written_over_another_store(tmp_path: Path) -> None:
    write_store(tmp_path / "a", 10)
    write_store(tmp_path / "other", 11)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/mine.txt").write_text("x")
    for target, resume, match in (
        ("other", False, "not empty"),
        ("other", True, "its segment 000001 is not of"),
        ("notes", False, "not empty"),
        ("a", True, "the other way round"),
        ("a/inside", False, "the other way round"),
    ):
        before = tree(tmp_path)
        with pytest.raises(UsageError, match=match):
            _copy(tmp_path / "a", tmp_path / target, resume=resume)
        assert tree(tmp_path) == before


def test_an_unfinished_copy_is_not_gone_on_with_as_another(tmp_path: Path, small_store: Path) -> None:
    target = str(tmp_path / "b")
    assert forked.run(_copy_and_die, str(small_store), target, 60) == -9
    with pytest.raises(UsageError, match=r"unfinished copy of .* with another selection"):
        copy_store(str(small_store), target, Selection(datasets=("phantom",)))


def test_an_unsealed_store_is_not_copied_and_no_folder_left(tmp_path: Path) -> None:
    write_store(tmp_path / "a", seal=False)
    with pytest.raises(NotSealedError):
        _copy(tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_shards_begun_since_the_seal_stay_behind(tmp_path: Path) -> None:
    write_store(tmp_path / "a")
    whole = tree(tmp_path / "a")
    write_store(tmp_path / "b")
    (tmp_path / "b/commits/latents/later").mkdir()
    (tmp_path / "b/commits/latents/later/000000.json").write_bytes(b"{}")
    _copy(tmp_path / "b", tmp_path / "c")
    assert tree(tmp_path / "c") == whole


@pytest.mark.slow
def test_a_copy_there_and_back_over_a_bucket_is_the_same(tmp_path: Path, bucket: str) -> None:
    write_store(tmp_path / "a", 30)
    copy_store(str(tmp_path / "a"), f"{bucket}/copied")
    copy_store(f"{bucket}/copied", f"{bucket}/again")
    copy_store(f"{bucket}/again", str(tmp_path / "b"))
    assert tree(tmp_path / "b") == tree(tmp_path / "a")
    assert verify(f"{bucket}/again").damages == []
    assert copy_store(str(tmp_path / "a"), f"{bucket}/copied", resume=True).kept == 24
