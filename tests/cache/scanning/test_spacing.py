"""The size of a pixel goes from a header to the rows, scaled with their views, and nothing that is done loses it."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from tests.cache.sources.formats.dicom.test_dicom_scale import region
from tests.support.builds import pictures, small, tree
from tests.support.files.dicoms import echo, header, save
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.cli import main
from usjepa.cache.converting.export import export
from usjepa.cache.copying.copy import copy_store
from usjepa.cache.copying.selection import Selection
from usjepa.cache.decoding.child import DecodingProcess
from usjepa.cache.frames.prepare import Prepared
from usjepa.cache.frames.views import View, apply_view
from usjepa.cache.inspecting.sheet import write_sheet
from usjepa.cache.reading.store import open_store
from usjepa.cache.recipes.cache import CacheSettings, ViewSettings
from usjepa.cache.scanning.journal import ScanJournal
from usjepa.cache.scanning.row_table import row_table
from usjepa.cache.scanning.scan import list_source, scan, scan_report
from usjepa.cache.several.stores import open_stores
from usjepa.cache.store.tables import SourceTable
from usjepa.cache.thinning.remove import remove
from usjepa.cache.thinning.withdrawal import Choice
from usjepa.cache.upkeep.repair import repair
from usjepa.cache.upkeep.stats import stats
from usjepa.cache.upkeep.status import status_report
from usjepa.cache.upkeep.verify import verify

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.cache.sources.base import FileFacts
    from usjepa.cache.store.tables import RowTable

RECIPE = small("cache.views.count=3", "cache.preprocess.text=keep")
SIZE = 32
DICOM, NIFTI = (0.5, 0.3), (0.375, 0.25)
"""Millimetres per pixel of the frames, down and across."""


def dicom(path: Path, seed: int = 0) -> Path:
    """Write two frames of 64 x 96 pixels of 0.5 x 0.3 mm."""
    frames = echo(2, 64, 96, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = header(frames)
    data.PatientID = f"patient {seed}"
    regions = [region((0, 0, 95, 63), 0.03, 0.05)]
    return save(path, data, frames.tobytes(), SequenceOfUltrasoundRegions=regions, StudyDate="19991231")


def nifti(path: Path) -> Path:
    """Write a frame of 32 x 48 pixels of 0.375 x 0.25 mm."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(echo(1)[0].T, np.eye(4))
    image.header.set_zooms((0.25, 0.375))
    image.header.set_xyzt_units("mm")
    image.to_filename(path)
    return path


def written(root: Path) -> Path:
    dicom(root / "a/scan.dcm")
    nifti(root / "b/volume.nii")
    pictures(root, ["c/plain.png"])
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path / "in")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store that is only read."""
    root = tmp_path_factory.mktemp("spacing")
    build(str(root / "s"), RECIPE, BuildRequest(source=str(written(root / "in")), teacher="random"))
    return root / "s"


@pytest.fixture
def store(tmp_path: Path, built: Path) -> Path:
    """Return a store that may be changed."""
    shutil.copytree(built, tmp_path / "s")
    return tmp_path / "s"


def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have scans find what they found before spacing was kept."""
    real = DecodingProcess.probe

    def probe(self: DecodingProcess, path: str, reader: str) -> FileFacts:
        return replace(real(self, path, reader), spacing=None)

    monkeypatch.setattr(DecodingProcess, "probe", probe)


def expected(store: Path) -> np.ndarray:
    """Return what the crop boxes on disk make of the headers, computed from the Parquet files alone."""
    found = []
    for folder in sorted((store / "segments").iterdir()):
        sources, rows = (pq.read_table(folder / f"{name}.parquet").to_pylist() for name in ("sources", "rows"))
        for row in rows:
            name = sources[row["source"]]["path"]
            down, across = DICOM if name.endswith("dcm") else NIFTI if name.endswith("nii") else (math.nan, math.nan)
            found.append((down * row["height"] / SIZE, across * row["width"] / SIZE))
    return np.array(found)


def test_every_view_has_the_spacing_of_its_crop_at_the_size_that_is_stored(built: Path) -> None:
    store = built
    opened = open_store(store)
    np.testing.assert_allclose(opened.spacing, expected(store), rtol=1e-6)
    assert opened.spacing.dtype == np.float64
    plain = opened.spacing[opened.table.view == 0]
    np.testing.assert_allclose(plain[0], (0.5 * 64 / 32, 0.3 * 96 / 32))
    assert len(np.unique(opened.spacing[:6], axis=0)) > 3  # views are of different crops
    assert np.isnan(opened.spacing[-3:]).all()  # a PNG does not say
    np.testing.assert_array_equal(opened.spacing_of([4, 0, 4]), opened.spacing[[4, 0, 4]])


def test_a_plain_parquet_reader_finds_the_spacing_of_a_row(built: Path) -> None:
    rows = pq.read_table(built / "segments/000001/rows.parquet").to_pylist()
    assert rows[0]["spacing_down"] == pytest.approx(1.0)
    assert rows[0]["spacing_across"] == pytest.approx(0.9)
    assert math.isnan(rows[-1]["spacing_down"])


def test_nothing_else_of_a_header_enters_the_store(built: Path) -> None:
    every = b"".join(tree(built).values())
    for secret in (b"Doe", b"Jane", b"patient 0", b"19991231"):
        assert secret not in every


def test_sources_that_say_nothing_leave_tables_as_they_were(small_store: Path) -> None:
    for name in ("sources", "rows"):
        columns = pq.read_table(small_store / f"segments/000001/{name}.parquet").column_names
        assert not [column for column in columns if "spacing" in column]
    assert np.isnan(open_store(small_store).spacing).all()


def _sources(height: int, width: int, down: float, across: float) -> SourceTable:
    text, one = np.array(["x"], dtype=object), np.ones(1, np.int32)
    sizes = np.array([height], np.int32), np.array([width], np.int32)
    lengths = np.array([down]), np.array([across])
    return SourceTable(text, text, text, text, text, text, text, one, *sizes, text, *lengths)


def _rows(height: int, width: int, down: float, across: float, size: int, seed: int = 0) -> RowTable:
    settings = CacheSettings(image_size=size, views=ViewSettings(count=6, crop_scale=(0.3, 1.0)), seed=seed)
    return row_table(_sources(height, width, down, across), settings)


edges, lengths = st.integers(20, 2000), st.floats(0.01, 2)


@given(edges, edges, lengths, lengths, st.sampled_from([16, 224, 512]), st.integers(0, 99))
def test_stored_pixels_span_the_millimetres_of_their_crop(
    height: int, width: int, down: float, across: float, size: int, seed: int
) -> None:
    rows = _rows(height, width, down, across, size, seed)
    np.testing.assert_allclose(rows.spacing_down * size, rows.height * down)
    np.testing.assert_allclose(rows.spacing_across * size, rows.width * across)


@pytest.mark.parametrize("size", [64, 224, 448])
def test_two_points_are_as_far_apart_in_every_view_as_in_the_frame(size: int) -> None:
    """Measured on the stored pixels themselves: centres of two blobs, one millimetre of which is never another."""
    points = np.array([(130.0, 160.0), (170.0, 250.0)])
    y, x = np.mgrid[:300, :400]
    blobs = sum(np.exp(-((y - py) ** 2 + (x - px) ** 2) / 50) for py, px in points)
    frame = Prepared(np.rint(255 * blobs / blobs.max()).astype(np.uint8), np.ones((300, 400), bool))
    rows, wanted, seen = _rows(300, 400, 0.11, 0.07, size), math.hypot(40 * 0.11, 90 * 0.07), 0
    for i in range(len(rows)):
        view = View(*(rows.columns()[name][i] for name in View._fields))
        inside = (points > (view.top + 20, view.left + 20)) & (
            points < (view.top + view.height - 20, view.left + view.width - 20)
        )
        if not inside.all():
            continue
        image = apply_view(frame, view, size, False)[0][0].astype(float)
        across = np.flatnonzero(image.sum(axis=0) > image.sum(axis=0).max() / 50)
        gap = across[:-1][np.diff(across) > 1]
        middle = int(gap[0]) + 1
        centres = [_centre(image[:, :middle], 0), _centre(image[:, middle:], middle)]
        apart = np.subtract(centres[0], centres[1]) * (rows.spacing_down[i], rows.spacing_across[i])
        assert math.hypot(*apart) == pytest.approx(wanted, rel=0.02)
        seen += 1
    assert seen >= 2


def _centre(image: np.ndarray, left: int) -> tuple[float, float]:
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    return float((y * image).sum() / image.sum()), float((x * image).sum() / image.sum()) + left


def test_a_resumed_scan_keeps_it(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = RECIPE.cache
    listing = list_source(str(folder), settings)
    first = scan(listing, settings, ScanJournal(tmp_path / "journal"), "stop")
    monkeypatch.setattr(DecodingProcess, "probe", None)  # nothing is decoded again
    again = scan(listing, settings, ScanJournal(tmp_path / "journal"), "stop")
    assert again == first
    assert first.spacing_down.tolist() == pytest.approx([0.5, 0.375, math.nan], nan_ok=True)


def test_a_journal_of_before_is_counted_again(folder: Path, tmp_path: Path) -> None:
    settings, path = RECIPE.cache, tmp_path / "journal"
    listing = list_source(str(folder), settings)
    first = scan(listing, settings, ScanJournal(path), "stop")
    lines = [json.loads(line)[:8] for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert scan(listing, settings, ScanJournal(path), "stop") == first


def test_a_store_grows_and_known_files_are_not_decoded_again(
    tmp_path: Path, built: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    store, folder = tmp_path / "s", tmp_path / "in"
    copy_store(str(built), str(store), Selection(layers=("pixels",)))
    shutil.copytree(built.parent / "in", folder)
    dicom(folder / "a/second.dcm", seed=1)
    (folder / "a/copy.dcm").write_bytes((folder / "a/scan.dcm").read_bytes())
    names, real = [], DecodingProcess.probe

    def probe(self: DecodingProcess, path: str, reader: str) -> FileFacts:
        names.append(path)
        return real(self, path, reader)

    monkeypatch.setattr(DecodingProcess, "probe", probe)
    build(str(store), RECIPE, BuildRequest(source=str(folder)))
    assert names == ["a/second.dcm"]
    np.testing.assert_allclose(open_store(store).spacing, expected(store), rtol=1e-6)
    assert any(line.startswith("segment 2: spacing: known of 12 of 12 rows, ") for line in said)


@pytest.mark.slow
def test_a_store_of_before_is_read_grows_and_says_what_stays_unknown(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    with monkeypatch.context() as patch:
        as_before(patch)
        build(str(tmp_path / "s"), RECIPE, BuildRequest(source=str(folder)))
    old = open_store(tmp_path / "s")
    assert np.isnan(old.spacing).all()
    assert "spacing: known of none of 12 rows" in status_report(str(tmp_path / "s"))
    # A second file of the same content: its rows are new, and what the old table lacks is looked up.
    (folder / "a/copy.dcm").write_bytes((folder / "a/scan.dcm").read_bytes())
    build(str(tmp_path / "s"), RECIPE, BuildRequest(source=str(folder)))
    grown = open_store(tmp_path / "s")
    assert np.isnan(grown.spacing[:12]).all()
    np.testing.assert_allclose(grown.spacing[12:], expected(tmp_path / "s")[12:], rtol=1e-6)
    assert any("known of 6 of 6 rows" in line and "earlier segments stay as they are" in line for line in said)
    assert lost_and_mended(tmp_path / "s", folder)


def lost_and_mended(store: Path, folder: Path) -> bool:
    """Return whether tables that are removed come back as the same bytes."""
    tables = {name: store / f"segments/000001/{name}.parquet" for name in ("sources", "rows")}
    held = {name: path.read_bytes() for name, path in tables.items()}
    for path in tables.values():
        path.unlink()
    return repair(str(store), RECIPE, str(folder)).left == [] and held == {
        name: path.read_bytes() for name, path in tables.items()
    }


def test_lost_tables_are_scanned_again_to_the_same_bytes(store: Path, built: Path) -> None:
    assert lost_and_mended(store, built.parent / "in")


def test_status_stats_and_inspect_say_of_how_many_rows_it_is_known(tmp_path: Path, built: Path) -> None:
    store = built
    known = expected(store)[:9]
    line = f"spacing: known of 9 of 12 rows, {known.min():.4g} to {known.max():.4g} mm per stored pixel"
    assert line in status_report(str(store)).splitlines()
    found = stats(str(store))
    assert line in str(found).splitlines()
    told: Any = found.to_json()["spacing"]
    assert told["rows"] == 9
    assert told["smallest_mm"] == pytest.approx(known.min(axis=0).tolist())
    assert told["largest_mm"] == pytest.approx(known.max(axis=0).tolist())
    shown = CliRunner().invoke(main, ["inspect", str(store), "-o", str(tmp_path / "a.png")])
    assert shown.output.splitlines() == [str(tmp_path / "a.png"), line]
    assert write_sheet(str(store), str(tmp_path / "b.png"), rows=2) == line


def test_a_scan_says_of_how_many_sources_it_is_known(folder: Path) -> None:
    assert "spacing: known of 2 of 3 sources, 0.25 to 0.5 mm per pixel" in scan_report(str(folder), RECIPE).splitlines()


@pytest.mark.parametrize("format_", ["parquet", "npy", "webdataset"])
def test_an_export_has_it(tmp_path: Path, built: Path, format_: str) -> None:
    store = built
    export(str(store), str(tmp_path / "out"), format_)
    if format_ == "webdataset":
        import tarfile

        found = []
        for path in sorted((tmp_path / "out").glob("*.tar")):
            with tarfile.open(path) as tar:
                found += [json.load(tar.extractfile(m)) for m in tar if m.name.endswith(".json")]  # type: ignore[arg-type]
    else:
        files = sorted((tmp_path / "out").glob("*.parquet"))
        found = [line for path in files for line in pq.read_table(path).to_pylist()]
    spacing = [(line["spacing_down"] or math.nan, line["spacing_across"] or math.nan) for line in found]
    np.testing.assert_array_equal(np.array(spacing), open_store(store).spacing)
    assert found[-1]["spacing_down"] is None


def test_copies_keep_it_whole_or_of_chosen_rows(tmp_path: Path, built: Path) -> None:
    store = built
    copy_store(str(store), str(tmp_path / "whole"))
    copy_store(str(store), str(tmp_path / "some"), Selection(rows=((2, 5), (10, 12))))
    spacing = open_store(store).spacing
    np.testing.assert_array_equal(open_store(tmp_path / "whole").spacing, spacing)
    np.testing.assert_array_equal(open_store(tmp_path / "some").spacing, spacing[[2, 3, 4, 10, 11]])


def test_several_stores_have_it_as_one(tmp_path: Path, built: Path) -> None:
    copy_store(str(built), str(tmp_path / "some"), Selection(rows=((2, 5), (10, 12))))
    stores = open_stores([built, tmp_path / "some"])
    spacing = open_store(built).spacing
    np.testing.assert_array_equal(stores.spacing, np.concatenate([spacing, spacing[[2, 3, 4, 10, 11]]]))
    asked = [stores.rows[-4], 0, stores.rows[-1]]
    np.testing.assert_array_equal(stores.spacing_of(asked), np.stack([spacing[3], spacing[0], spacing[11]]))


def test_who_withdraws_takes_it_along(store: Path) -> None:
    before = open_store(store).spacing
    remove(str(store), Choice(sources=("a/scan.dcm",)))
    np.testing.assert_array_equal(open_store(store).spacing, before[6:])
    newest = pq.read_table(store / "segments/000001/rows.parquet").to_pylist()
    assert all(math.isnan(row["spacing_down"]) for row in newest[:6])
    assert verify(str(store)).damages == []
