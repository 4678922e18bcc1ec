"""Nothing that names a patient reaches a store: not by path, DICOM tag or error, not burned into pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from tests.cache.sources.formats.dicom.test_dicom import write as write_dicom
from tests.support.builds import SMALL, small, tree
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.cli import main
from usjepa.cache.reading.store import open_store
from usjepa.cache.recipes.recipe import load_recipe
from usjepa.cache.sources.phantom.source import Phantom
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.origins.segment_tables import read_tables
from usjepa.cache.upkeep.repair import repair
from usjepa.cache.upkeep.status import status_report
from usjepa.cache.upkeep.verify import verify, verify_sources

if TYPE_CHECKING:
    from pathlib import Path

NAME = "DOE"


def _scan(seed: int) -> np.ndarray:
    """Return a frame with a bright scan in the middle and a name burned in above it."""
    frame = np.zeros((96, 128), np.uint8)
    frame[24:90, 16:112] = np.random.default_rng(seed).integers(30, 220, (66, 96))
    cv2.putText(frame, "DOE JANE", (2, 14), cv2.FONT_HERSHEY_PLAIN, 1.0, 255)
    return frame


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """Return a folder whose names, manifest, tags and pixels all say who the patients are."""
    root = tmp_path / "in"
    (root / "DOE^JANE").mkdir(parents=True)
    cv2.imwrite(str(root / "DOE^JANE/visit-DOE-1.png"), _scan(0))
    cv2.imwrite(str(root / "DOE^JANE/visit-DOE-2.png"), _scan(1))
    write_dicom(root / "DOE^JANE/DOE.dcm", _scan(2), "MONOCHROME2")
    (root / "DOE^JANE/DOE-torn.png").write_text("no picture")
    (root / "manifest.csv").write_text(
        "path,dataset,label,group\n"
        "DOE^JANE/visit-DOE-1.png,clinic,none,Doe Jane\n"
        "DOE^JANE/visit-DOE-2.png,clinic,cyst,Doe Jane\n"
        "DOE^JANE/DOE.dcm,clinic,cyst,Doe John\n"
        "DOE^JANE/DOE-torn.png,clinic,cyst,Doe John\n"
    )
    return root


def _says(store: Path) -> str:
    """Return everything that a store says in words: file names, descriptions, tables, status."""
    words = [*tree(store), status_report(str(store))]
    words += [data.decode("latin-1") for data in tree(store).values()]
    manifest = open_store(store).manifest
    for segment in manifest.segments:
        sources, _ = read_tables(LocalStorage(store), segment)
        words += [str(cell) for column in sources.columns().values() for cell in column]
    return "\n".join(words)


def test_with_hashed_paths_no_word_of_a_store_or_log_names_the_patient(
    tmp_path: Path, hospital: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = small("cache.hash_paths=true", "cache.image_size=64")
    build(str(tmp_path / "s"), recipe, BuildRequest(source=str(hospital), teacher="random", on_error="skip"))
    logged = "".join(capfd.readouterr())
    for text in (_says(tmp_path / "s"), logged):
        assert "doe" not in text.lower()
        assert "jane" not in text.lower()
    table = open_store(tmp_path / "s").table
    assert len(set(table.group)) == 2
    assert set(table.label) == {"none", "cyst"}


def test_without_hashed_paths_the_search_does_find_the_planted_name(tmp_path: Path, hospital: Path) -> None:
    build(str(tmp_path / "s"), small("cache.image_size=64"), BuildRequest(source=str(hospital), on_error="skip"))
    assert "DOE" in _says(tmp_path / "s")


def test_dicom_tags_never_enter_a_store(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_dicom(tmp_path / "in/scan.dcm", _scan(0), "MONOCHROME2")
    build(str(tmp_path / "s"), small(), BuildRequest(source=str(tmp_path / "in"), teacher="random"))
    said = _says(tmp_path / "s")
    assert "Doe^Jane" not in said
    assert "12345" not in said


def test_a_hashed_store_is_resumed_grown_verified_and_mended_like_any_other(tmp_path: Path, hospital: Path) -> None:
    recipe, store = small("cache.hash_paths=true", "cache.image_size=64"), str(tmp_path / "s")
    (hospital / "DOE^JANE/DOE-torn.png").write_bytes((hospital / "DOE^JANE/visit-DOE-1.png").read_bytes()[:-1] + b"x")
    cv2.imwrite(str(hospital / "DOE^JANE/DOE-torn.png"), _scan(3))
    build(store, recipe, BuildRequest(source=str(hospital)))
    assert build(store, recipe, BuildRequest(source=str(hospital))).generation == 1  # type: ignore[union-attr]
    (tmp_path / "s/pixels/c.0.0.0.0").unlink()
    assert repair(store, recipe, source=str(hospital)).left == []
    assert verify(store).damages == []
    assert verify_sources(store, str(hospital), recipe.cache) == []
    cv2.imwrite(str(hospital / "DOE^JANE/visit-DOE-2.png"), _scan(9))
    (damage,) = verify_sources(store, str(hospital), recipe.cache)
    assert "DOE" not in str(damage)


def test_aliases_depend_on_the_secret_key(hospital: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def names() -> list[str]:
        shown = CliRunner().invoke(main, ["scan", str(hospital), "--hash-paths", "--names"])
        assert shown.exit_code == 0, shown.output
        return [line.split("  ")[0] for line in shown.output.splitlines()]

    plain = names()
    monkeypatch.setenv("USJEPA_PATH_KEY", "a secret of the clinic")
    keyed = names()
    assert len(plain) == len(keyed) == 4
    assert not set(plain) & set(keyed)
    assert keyed == names()


def test_names_burned_in_outside_the_scan_are_zeroed_in_every_view(tmp_path: Path, hospital: Path) -> None:
    build(
        str(tmp_path / "s"),
        small("cache.image_size=64", "cache.views.count=4"),
        BuildRequest(source=str(hospital), on_error="skip"),
    )
    store = open_store(tmp_path / "s")
    batch = store.read(store.rows)
    cells = np.unpackbits(batch.regions, axis=1)[:, : 32 * 32].reshape(-1, 32, 32).astype(bool)
    inside = cells.repeat(2, axis=1).repeat(2, axis=2)
    assert (batch.pixels[:, 0][~inside] == 0).all()
    for row in np.flatnonzero(store.table.view == 0):
        # The name stands in the frame's upper sixth; nothing is left of it there.
        assert batch.pixels[row, 0][:10].max() == 0
        assert batch.pixels[row, 0].max() > 0


def test_the_text_that_the_phantom_burns_in_is_gone_from_the_pixels(tmp_path: Path) -> None:
    sets = ("cache.phantom.patients=12", "cache.phantom.frames_per_patient=1", "cache.rows_per_shard=64")
    recipe = load_recipe("demo", (*sets, "cache.image_size=224", "cache.phantom.size=224", "cache.views.count=1"))
    build(str(tmp_path / "s"), recipe)
    kept = load_recipe("demo", (*sets, "cache.image_size=224", "cache.phantom.size=224", "cache.views.count=1",
                                "cache.preprocess.deidentify=false"))  # fmt: skip
    build(str(tmp_path / "open"), kept)
    phantom = Phantom(recipe.cache.phantom)
    store, control = open_store(tmp_path / "s"), open_store(tmp_path / "open")
    ink = left = shown = 0
    for row in store.rows:
        path = store.table.sources[store.table.source[row]].path
        outside = phantom.ink(path) & ~phantom.true_region(path)
        ink += int(outside.sum())
        left += int((store.read([row]).pixels[0, 0][outside] > 0).sum())
        shown += int((control.read([row]).pixels[0, 0][outside] > 0).sum())
    assert ink > 2_000
    assert shown > 0.5 * ink  # without the zeroing the text is there: the search can find it
    assert left == 0


def test_the_default_is_to_deidentify() -> None:
    for name in ("us-jepa", "usrc-jepa", "demo"):
        assert load_recipe(name).cache.preprocess.deidentify


def test_the_command_hashes_paths_too(tmp_path: Path, hospital: Path) -> None:
    sets = [part for item in SMALL for part in ("--set", item)]
    args = ["build", str(tmp_path / "s"), "--source", str(hospital), "--pipeline", "demo", *sets, "--on-error", "skip"]
    assert CliRunner().invoke(main, [*args, "--hash-paths"]).exit_code == 0
    assert "DOE" not in _says(tmp_path / "s")
