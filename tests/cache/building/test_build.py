"""A build gives one store whatever happens to it: killed, interrupted, out of disk, run twice, grown."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.builds import SMALL, build_and_die, build_small, pictures, small, tree
from tests.support.processes import forked
from tests.support.processes.commands import stop_python
from tests.support.stores import build_all
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.errors import IdentityError, SourceError, UsageError, WriteError
from usjepa.cache.reading.store import open_store
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.upkeep.status import status_report
from usjepa.cache.upkeep.verify import verify

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("undisturbed") / "s"
    assert forked.run(build_small, str(root)) == 0
    return root


def _durable_steps(root: Path) -> int:
    """Return about how many fsyncs and renames a build makes: three a file, and the folders."""
    return 3 * len(tree(root)) + 10


def _killed_at(root: Path, undisturbed: Path, step: int) -> None:
    code = forked.run(build_and_die, str(root), step)
    assert code in (0, -signal.SIGKILL)
    assert forked.run(build_small, str(root)) == 0
    assert tree(root) == tree(undisturbed), f"killed at durable step {step}"


@pytest.mark.parametrize("moment", range(5))
def test_a_build_killed_and_resumed_is_byte_identical_to_an_undisturbed_one(
    tmp_path: Path, undisturbed: Path, moment: int
) -> None:
    _killed_at(tmp_path / "s", undisturbed, 4 + moment * _durable_steps(undisturbed) // 5)


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(25))
def test_a_build_killed_at_25_moments_is_byte_identical(tmp_path: Path, undisturbed: Path, moment: int) -> None:
    _killed_at(tmp_path / "s", undisturbed, 1 + moment * _durable_steps(undisturbed) // 25)


@pytest.mark.slow
def test_a_build_killed_again_and_again_is_byte_identical(tmp_path: Path, undisturbed: Path) -> None:
    root = tmp_path / "s"
    kills = 0
    # A claim, a sweep and the segment's three files are about 25 durable steps: fewer would never end.
    for attempt in range(200):
        if forked.run(build_and_die, str(root), 28 + attempt % 7) == 0:
            break
        kills += 1
    else:
        pytest.fail("the build made no progress between kills")
    assert kills >= 3
    assert tree(root) == tree(undisturbed)


def test_a_finished_store_verifies_and_a_second_build_changes_nothing(tmp_path: Path, undisturbed: Path) -> None:
    root = tmp_path / "s"
    shutil.copytree(undisturbed, root)
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}
    assert verify(str(root)).damages == []
    assert build_all(str(root), small(), BuildRequest(teacher="random")).generation == 1
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()} == before


def test_a_shard_that_differs_from_its_record_is_built_again(tmp_path: Path, undisturbed: Path) -> None:
    root = tmp_path / "s"
    shutil.copytree(undisturbed, root)
    shard = root / "pixels/c.1.0.0.0"
    shard.write_bytes(shard.read_bytes()[:-1])
    build(str(root), small(), BuildRequest(teacher="random"))
    assert tree(root) == tree(undisturbed)


def test_another_teacher_joins_from_the_stored_pixels_alone(tmp_path: Path, undisturbed: Path) -> None:
    root = tmp_path / "s"
    shutil.copytree(undisturbed, root)
    recipe = small("cache.source=/nowhere", "cache.teacher.name=second", "cache.teacher.seed=5")
    assert build_all(str(root), recipe, BuildRequest(teacher="random")).generation == 2
    store = open_store(root)
    assert store.latents == ["demo", "second"]
    assert open_store(root, generation=1).latents == ["demo"]
    whole = tmp_path / "whole"
    build(str(whole), small("cache.teacher.name=second", "cache.teacher.seed=5"), BuildRequest(teacher="random"))
    rows = store.rows
    np.testing.assert_array_equal(
        store.read(rows, teacher="second").latents, open_store(whole).read(rows, teacher="second").latents
    )


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("cache.teacher.seed=9", "teacher.weights"),
        ("cache.teacher.mean=[0.5, 0.5, 0.5]", "teacher.input.mean"),
        ("cache.teacher.norm=false", "teacher.norm"),
        ("cache.teacher.block=3", "teacher.block"),
        ("cache.teacher.compute=bf16", "teacher.compute"),
        ("cache.precision=fp16", "precision"),
        ("cache.views.crop_scale=[0.5, 1.0]", "views.crop_scale"),
        ("cache.preprocess.percentiles=[1, 99]", "preprocess.percentiles"),
        ("cache.seed=3", "seed"),
    ],
)
def test_a_change_in_a_hard_field_is_refused_and_named(
    tmp_path: Path, undisturbed: Path, change: str, field: str
) -> None:
    root = tmp_path / "s"
    shutil.copytree(undisturbed, root)
    with pytest.raises(IdentityError, match=rf"(?s)stored \| wanted.*{field}"):
        build(str(root), small(change), BuildRequest(teacher="random"))
    assert tree(root) == tree(undisturbed)


def test_a_store_cut_by_another_version_says_that_no_setting_helps_and_what_does(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "s"
    shutil.copytree(undisturbed, root)
    monkeypatch.setattr("usjepa.cache.frames.layers.REGION_VERSION", 999)
    with pytest.raises(IdentityError, match=r"(?s)versions.region.*No setting changes versions.*build a new one"):
        build(str(root), small(), BuildRequest(teacher="random"))
    assert tree(root) == tree(undisturbed)


def test_a_moved_store_goes_on_as_if_nothing_had_happened(tmp_path: Path, undisturbed: Path) -> None:
    root = tmp_path / "elsewhere" / "t"
    shutil.copytree(undisturbed, root)
    for path in root.rglob("*"):
        os.utime(path)
    assert build_all(str(root), small(), BuildRequest(teacher="random")).generation == 1


def test_int8_latents_are_half_the_bytes_and_close_to_what_the_teacher_said(tmp_path: Path, undisturbed: Path) -> None:
    build(str(tmp_path / "s"), small("cache.precision=int8"), BuildRequest(teacher="random"))
    store = open_store(tmp_path / "s")
    exact = open_store(undisturbed).read(store.rows).targets().numpy()
    coded = store.read(store.rows).targets().numpy()
    flat_exact, flat_coded = exact.reshape(-1, exact.shape[-1]), coded.reshape(-1, exact.shape[-1])
    mean, std = flat_exact.mean(axis=0), flat_exact.std(axis=0) + 1e-9
    a, b = (flat_exact - mean) / std, (flat_coded - mean) / std
    cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    control = (a * np.roll(b, 7, axis=0)).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.mean() > 0.999
    assert control.mean() < 0.9
    assert verify(str(tmp_path / "s")).damages == []


def test_an_unreadable_file_stops_the_build_and_is_named(tmp_path: Path) -> None:
    pictures(tmp_path / "in", ["a/1.png", "a/2.png"])
    (tmp_path / "in/a/bad.png").write_text("not a picture")
    with pytest.raises(SourceError, match=r"a/bad\.png"):
        build(str(tmp_path / "s"), small("cache.test_fraction=0"), BuildRequest(source=str(tmp_path / "in")))


def test_with_skip_an_unreadable_file_is_recorded_and_shown_never_replaced(tmp_path: Path) -> None:
    pictures(tmp_path / "in", ["a/1.png", "a/2.png"])
    (tmp_path / "in/a/bad.png").write_text("not a picture")
    build(str(tmp_path / "s"), small(), BuildRequest(source=str(tmp_path / "in"), on_error="skip"))
    store = open_store(tmp_path / "s")
    assert len(store) == 4
    assert [source.path for source in store.table.sources] == ["a/1.png", "a/2.png", "a/bad.png"]
    report = status_report(str(tmp_path / "s"))
    assert "failed: 1" in report
    assert "a/bad.png" in report


def test_added_files_make_a_new_segment_and_no_row_moves(tmp_path: Path) -> None:
    pictures(tmp_path / "in", ["a/1.png", "a/3.png"])
    build(str(tmp_path / "s"), small(), BuildRequest(source=str(tmp_path / "in"), teacher="random"))
    before = open_store(tmp_path / "s")
    pictures(tmp_path / "in", ["a/2.png"], seed=4)
    again = build_all(str(tmp_path / "s"), small(), BuildRequest(source=str(tmp_path / "in"), teacher="random"))
    assert again.generation == 2
    grown = open_store(tmp_path / "s")
    assert [grown.table.sources[i].path for i in grown.table.source] == ["a/1.png"] * 2 + ["a/3.png"] * 2 + [
        "a/2.png"
    ] * 2
    np.testing.assert_array_equal(before.read(before.rows).latents, grown.read(before.rows).latents)


def test_a_file_edited_since_it_was_built_is_refused(tmp_path: Path) -> None:
    pictures(tmp_path / "in", ["a/1.png", "a/3.png"])
    build(str(tmp_path / "s"), small(), BuildRequest(source=str(tmp_path / "in")))
    stat = (tmp_path / "in/a/1.png").stat()
    pictures(tmp_path / "in", ["a/1.png"], seed=8)
    os.utime(tmp_path / "in/a/1.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(SourceError, match=r"a/1\.png .*content changed"):
        build(str(tmp_path / "s"), small(), BuildRequest(source=str(tmp_path / "in")))


def test_a_file_edited_between_scan_and_build_is_caught_when_it_is_read(tmp_path: Path) -> None:
    from usjepa.cache.scanning.growth import grow
    from usjepa.cache.scanning.journal import ScanJournal
    from usjepa.cache.scanning.scan import list_source
    from usjepa.cache.store.writer import StoreWriter

    pictures(tmp_path / "in", ["a/1.png", "a/3.png"])
    settings = small().cache
    writer = StoreWriter(LocalStorage(tmp_path / "s"))
    writer.create_or_open(8)
    grow(writer, list_source(str(tmp_path / "in"), settings), settings, ScanJournal(None), "stop")
    pictures(tmp_path / "in", ["a/3.png"], seed=8)
    with pytest.raises(SourceError, match=r"a/3\.png.*changed"):
        build(str(tmp_path / "s"), small(), BuildRequest(source=str(tmp_path / "in")))


def test_pixels_not_all_built_need_the_source_again(tmp_path: Path) -> None:
    pictures(tmp_path / "in", ["a/1.png"])
    build(str(tmp_path / "s"), small(), BuildRequest(source=str(tmp_path / "in")))
    (tmp_path / "s/pixels/c.0.0.0.0").unlink()
    with pytest.raises(UsageError, match="Give --source"):
        build(str(tmp_path / "s"), small("cache.source=null"))


def _build_with_little_disk(store: str, limit: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        build(store, small(), BuildRequest(teacher="random"))
    except WriteError as error:
        raise SystemExit(42 if "no room for" in str(error) else 43) from error


def test_a_full_disk_is_said_and_loses_nothing_that_was_committed(tmp_path: Path, undisturbed: Path) -> None:
    root = tmp_path / "s"
    biggest = max(len(data) for data in tree(undisturbed).values())
    assert forked.run(_build_with_little_disk, str(root), biggest - 1) == 42
    assert not list(root.rglob("*.tmp"))
    build(str(root), small(), BuildRequest(teacher="random"))
    assert tree(root) == tree(undisturbed)


def test_a_target_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError, match="can't write"):
        build(str(tmp_path / "file" / "s"), small())


def test_ctrl_c_stops_within_seconds_says_how_to_go_on_and_the_next_run_goes_on(tmp_path: Path) -> None:
    sets = [f"--set={item}" for item in (*SMALL, "cache.phantom.patients=100", "cache.phantom.frames_per_patient=5")]
    command = ["-m", "usjepa.cache.cli", "build", tmp_path / "s", "--pipeline", "demo", *sets]
    stopped = stop_python(signal.SIGINT, (tmp_path / "s/commits/pixels/000000.json").exists, *command)
    assert len(list((tmp_path / "s/commits/pixels").iterdir())) < 100  # of 125
    assert "run the same command again" in stopped.stderr
    assert not list((tmp_path / "s").rglob("*.tmp"))
    assert not (tmp_path / "s/claims").exists()
    assert "not sealed" in status_report(str(tmp_path / "s"))
