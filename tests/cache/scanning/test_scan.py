"""Scans: what is counted once stays counted, what can't be read is named, and no group straddles a split."""

from __future__ import annotations

import csv
import json
import shutil
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from tests.cache.frames.test_views import scalar_view
from tests.support.files.clips import grey_steps, write_clip
from tests.support.files.damage import cut
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.decoding.child import DecodingProcess
from usjepa.cache.errors import Interrupted, SourceError
from usjepa.cache.recipes.cache import CacheSettings, PhantomSettings, ViewSettings
from usjepa.cache.recipes.recipe import Recipe
from usjepa.cache.scanning.changes import chosen_frames
from usjepa.cache.scanning.journal import ScanJournal
from usjepa.cache.scanning.row_table import row_table
from usjepa.cache.scanning.scan import list_source, scan, scan_report
from usjepa.cache.scanning.splits import assign_splits, straddling_groups
from usjepa.cache.store.tables import SourceTable

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.cache.sources.base import FileFacts

SETTINGS = CacheSettings()


def image(path: Path, level: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 20), level, np.uint8)).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with two images and a clip of 12 frames."""
    root = tmp_path / "clinic"
    image(root / "cyst" / "a.png", 1)
    image(root / "none" / "b.png", 2)
    write_clip(root / "none" / "c.mp4", grey_steps(12))
    return root


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were decoded, in order."""
    names: list[str] = []
    real = DecodingProcess.probe

    def probe(self: DecodingProcess, path: str, reader: str) -> FileFacts:
        names.append(path.rpartition("/")[2])
        return real(self, path, reader)

    monkeypatch.setattr(DecodingProcess, "probe", probe)
    return names


def scanned(root: Path, journal: ScanJournal | None = None, on_error: str = "stop", **settings: object) -> SourceTable:
    chosen = SETTINGS.model_copy(update=settings)
    return scan(list_source(str(root), chosen), chosen, journal, on_error)  # type: ignore[arg-type]


def table(*lines: tuple[str, str, str]) -> SourceTable:
    """Return a table of one-frame sources of the given (dataset, group, split)."""

    def column(values: list[str]) -> np.ndarray:
        return np.array([*values, None], dtype=object)[:-1]

    ones, blank = np.ones(len(lines), np.int32), column([""] * len(lines))
    names = column([f"{i}.png" for i in range(len(lines))])
    dataset, group, split = (column(list(values)) for values in zip(*lines, strict=True))
    return SourceTable(names, dataset, group, blank, split, blank, names, ones, ones * 100, ones * 200, blank)


def test_a_scan_says_what_every_file_holds(folder: Path) -> None:
    found = scanned(folder)
    assert found.path.tolist() == ["cyst/a.png", "none/b.png", "none/c.mp4"]
    assert found.label.tolist() == ["cyst", "none", "none"]
    assert found.frames.tolist() == [1, 1, 12]
    assert list(zip(found.height.tolist(), found.width.tolist(), strict=True)) == [(16, 20), (16, 20), (48, 64)]
    assert {len(content) for content in found.content_hash} == {32}
    assert found == scanned(folder)
    assert found.to_parquet() == scanned(folder).to_parquet()


def test_content_decides_whatever_the_time_or_place(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy" / "clinic")
    assert scanned(tmp_path / "copy" / "clinic") == scanned(folder)


def test_a_resumed_scan_decodes_no_counted_file_again(folder: Path, tmp_path: Path, decoded: list[str]) -> None:
    listing, seen = list_source(str(folder), SETTINGS), 0

    def stop_at_third() -> None:
        nonlocal seen
        seen += 1
        if seen == 3:
            raise Interrupted("stopped")

    journal = ScanJournal(tmp_path / "scan" / "journal.jsonl")
    with pytest.raises(Interrupted):
        scan(listing, SETTINGS, journal, "stop", stop_at_third)
    assert decoded == ["a.png", "b.png"]
    resumed = scan(listing, SETTINGS, ScanJournal(tmp_path / "scan" / "journal.jsonl"), "stop")
    assert decoded == ["a.png", "b.png", "c.mp4"]
    assert resumed == scanned(folder)


def test_a_file_edited_between_scans_is_decoded_again(folder: Path, tmp_path: Path, decoded: list[str]) -> None:
    path = tmp_path / "journal.jsonl"
    first = scanned(folder, ScanJournal(path))
    image(folder / "none" / "b.png", 99)
    decoded.clear()
    second = scanned(folder, ScanJournal(path))
    assert decoded == ["b.png"]
    assert second.content_hash[1] != first.content_hash[1]


@pytest.mark.parametrize("tail", [b'["none/c.mp4", "0f', b'{"torn', b"\xff\xfe\x00"], ids=["torn", "brace", "bytes"])
def test_a_torn_last_line_is_ignored_and_written_anew(
    folder: Path, tmp_path: Path, decoded: list[str], tail: bytes
) -> None:
    path = tmp_path / "journal.jsonl"
    scanned(folder, ScanJournal(path))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + tail)
    decoded.clear()
    again = scanned(folder, ScanJournal(path))
    assert decoded == ["c.mp4"]
    assert path.read_bytes().splitlines(keepends=True) == lines
    assert again == scanned(folder)
    assert len([json.loads(line) for line in lines]) == 3


def test_an_unreadable_file_stops_the_scan_and_is_named(folder: Path) -> None:
    (folder / "cyst" / "notes.png").write_text("no image")
    with pytest.raises(SourceError, match=r"^cyst/notes\.png: can't be read as an image: "):
        scanned(folder)


def test_an_unreadable_file_is_kept_with_its_reason_and_no_frames(folder: Path) -> None:
    cut(folder / "none" / "c.mp4", 0.5)
    found = scanned(folder, on_error="skip")
    assert found.frames.tolist() == [1, 1, 0]
    assert found.error[2].startswith("none/c.mp4: can't be read as a video: it is cut short")
    assert found.error.tolist()[:2] == ["", ""]
    assert str(folder) not in "".join(found.error)
    assert row_table(found, SETTINGS).source.tolist() == [0, 1]


def test_an_unreadable_file_is_tried_again_by_the_next_scan(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "none" / "c.mp4").read_bytes()
    cut(folder / "none" / "c.mp4", 0.5)
    scanned(folder, ScanJournal(tmp_path / "journal.jsonl"), "skip")
    (folder / "none" / "c.mp4").write_bytes(whole)
    assert scanned(folder, ScanJournal(tmp_path / "journal.jsonl")).frames.tolist() == [1, 1, 12]


def test_a_group_with_any_test_source_is_wholly_test() -> None:
    mixed = table(("d", "p1", "train"), ("d", "p1", "test"), ("d", "p2", "train"), ("e", "p1", "train"))
    assert assign_splits(mixed, 0.0).split.tolist() == ["test", "test", "train", "train"]


def test_test_groups_are_drawn_only_where_a_dataset_has_none() -> None:
    groups = [f"p{i}" for i in range(400)]
    lines = [("own", group, "train") for group in groups[:-1]] + [("own", groups[-1], "test")]
    drawn = [("drawn", group, "") for group in groups for _ in range(2)]
    split = assign_splits(table(*lines, *drawn), 0.25).split
    assert split[:400].tolist() == ["train"] * 399 + ["test"]
    pairs = split[400:].reshape(-1, 2)
    assert (pairs[:, 0] == pairs[:, 1]).all()
    assert 0.18 < (pairs[:, 0] == "test").mean() < 0.32


def test_growth_moves_no_group_between_splits() -> None:
    few = [("d", f"p{i}", "") for i in range(50)]
    more = [*few, *[("d", f"q{i}", "") for i in range(50)]]
    assert assign_splits(table(*more), 0.3).split[:50].tolist() == assign_splits(table(*few), 0.3).split.tolist()


def test_groups_that_straddle_are_reported(folder: Path) -> None:
    (folder / "manifest.csv").write_text(
        "path,group,split\ncyst/a.png,p,test\nnone/b.png,p,train\nnone/c.mp4,q,train\n"
    )
    assert straddling_groups(list_source(str(folder), SETTINGS).entries) == [("clinic", "p")]
    assert scanned(folder).split.tolist() == ["test", "test", "train"]
    assert "now wholly test: 1\n  clinic/p" in scan_report(str(folder), Recipe())


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [
        (5, None, [0, 1, 2, 3, 4]),
        (5, 9, [0, 1, 2, 3, 4]),
        (5, 1, [0]),
        (11, 3, [0, 5, 10]),
        (6, 3, [0, 3, 5]),
        (0, 3, []),
    ],
)
def test_chosen_frames_are_evenly_spaced(count: int, most: int | None, expected: list[int]) -> None:
    assert chosen_frames(count, most).tolist() == expected


def test_chosen_frames_never_repeat_and_lie_nearest_to_even_spacing() -> None:
    for count in range(1, 60):
        for most in range(1, count + 1):
            chosen = chosen_frames(count, most)
            assert len(set(chosen.tolist())) == most
            assert np.abs(chosen - np.linspace(0, count - 1, most)).max() <= 0.5 + 1e-9


def test_rows_are_ordered_by_source_frame_and_view_with_the_drawn_views(folder: Path) -> None:
    settings = CacheSettings(views=ViewSettings(count=3), max_frames_per_source=4, seed=5)
    sources = scanned(folder)
    rows = row_table(sources, settings)
    expected = [(s, f, v) for s, frames in enumerate(([0], [0], [0, 4, 7, 11])) for f in frames for v in range(3)]
    assert list(zip(rows.source.tolist(), rows.frame.tolist(), rows.view.tolist(), strict=True)) == expected
    for i, (source, frame, view) in enumerate(expected):
        shape = (int(sources.height[source]), int(sources.width[source]))
        drawn = scalar_view(5, sources.content_hash[source], frame, view, shape, settings.views)
        assert (rows.top[i], rows.left[i], rows.height[i], rows.width[i]) == (
            drawn.top,
            drawn.left,
            drawn.height,
            drawn.width,
        )
        assert (rows.flip_horizontal[i], rows.flip_vertical[i]) == (drawn.flip_horizontal, drawn.flip_vertical)
    plain = rows.take(rows.view == 0)
    assert plain.height.tolist() == sources.height[plain.source].tolist()


def test_a_million_plain_rows_take_seconds_not_minutes() -> None:
    many = table(*[("d", f"p{i}", "") for i in range(1000)])
    many.frames[:] = 1000
    started = time.process_time()
    assert len(row_table(many, SETTINGS)) == 1_000_000
    assert time.process_time() - started < 5


def test_the_report_names_what_matters(folder: Path) -> None:
    image(folder / "cyst" / "copy.png", 1)
    (folder / "notes.txt").write_text("x")
    (folder / "none" / "bad.png").write_text("no image")
    report = scan_report(str(folder), Recipe(cache=CacheSettings(views=ViewSettings(count=2))))
    for said in (
        "5 sources, 15 decoded frames, 30 rows",
        "files of kinds that are not read were ignored: 1 .txt.",
        "readers: images 4, video 1",
        "16 x 20 (3), 48 x 64 (1)",
        "cyst/a.png = cyst/copy.png",
        "none/bad.png: can't be read as an image",
    ):
        assert said in report
    line = next(line for line in report.splitlines() if line.startswith("clinic   none"))
    assert line.split() == ["clinic", "none", "-", "2", "13", "2"]


def test_the_phantom_is_scanned_without_drawing_a_frame() -> None:
    settings = CacheSettings(phantom=PhantomSettings(patients=3, frames_per_patient=7, size=64))
    found = scan(list_source("phantom", settings), settings, None, "stop")
    assert int(found.frames.sum()) == 21
    assert set(found.height) == set(found.width) == {64}
    assert len(set(found.content_hash)) == len(found)


def test_real_files_decode_to_the_counts_of_their_manifest(dev_data: Path) -> None:
    found = scanned(dev_data)
    with (dev_data / "manifest.csv").open(newline="") as file:
        counts = {line["path"]: int(line["n_frames"]) for line in csv.DictReader(file)}
    assert dict(zip(found.path, found.frames.tolist(), strict=True)) == counts
    assert (len(found), int(found.frames.sum())) == (313, 5551)
    assert not any(found.error)


def test_files_without_an_image_are_left_out_and_told(folder: Path, said: list[str]) -> None:
    for name, shipped in (("report.dcm", "test-SR.dcm"), ("plan.dcm", "rtplan.dcm")):
        shutil.copy(str(get_testdata_file(shipped, download=False)), folder / name)
    found = scanned(folder)
    assert found.path.tolist() == ["cyst/a.png", "none/b.png", "none/c.mp4"]
    (line,) = [line for line in said if "without an image" in line]
    assert "2: plan.dcm: it holds no image but: RT Plan Storage; report.dcm: it holds no image but: Comp" in line
    report = scan_report(str(folder), Recipe())
    assert "left out, without an image: 2\n  plan.dcm: it holds" in report
    assert "unreadable" not in report


@pytest.mark.parametrize("name", ["DICOMDIR", "dicomdir", "DicomDir"])
def test_the_directory_of_a_dicom_study_is_no_error_however_it_is_written(folder: Path, name: str) -> None:
    shutil.copy(str(get_testdata_file("dicomdirtests/DICOMDIR", download=False)), folder / name)
    assert len(scanned(folder)) == 3


def test_a_folder_without_an_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(str(get_testdata_file("test-SR.dcm", download=False)), tmp_path / "in/report.dcm")
    with pytest.raises(SourceError, match="none of its 1 files holds an image"):
        build(str(tmp_path / "store.zarr"), Recipe(), BuildRequest(str(tmp_path / "in")))
