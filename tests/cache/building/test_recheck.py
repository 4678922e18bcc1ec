"""A build goes on under other library versions only if they give the stored numbers again."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from tests.support.builds import pictures, small, tree
from usjepa.cache.building import recheck
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.errors import IdentityError
from usjepa.cache.frames import rows as pixels_module
from usjepa.cache.frames.views import apply_view
from usjepa.cache.reading.store import open_store
from usjepa.cache.sources.formats.images import ImageReader
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.origins.segment_tables import read_tables
from usjepa.cache.store.state import read_state
from usjepa.cache.teacher.vit import ViT
from usjepa.cache.upkeep.verify import verify

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.cache.recipes.recipe import Recipe


@pytest.fixture
def half(tmp_path: Path, small_store: Path) -> Path:
    """Return a store whose last shard is not built."""
    root = tmp_path / "s"
    shutil.copytree(small_store, root)
    for name in ("pixels/c.2.0.0.0", "regions/c.2.0", "latents/demo/c.2.0.0", "manifest.json"):
        (root / name).unlink()
    shutil.rmtree(root / "manifests")
    return root


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install later versions of the libraries, as far as the build can tell."""
    monkeypatch.setattr(recheck, "pixel_soft", lambda: {"opencv-python-headless": "99.0"})
    monkeypatch.setattr(ViT, "soft", {"torch": "99.0", "device": "cpu"})


@pytest.mark.usefixtures("later")
def test_equal_numbers_are_recorded_as_such_and_the_build_goes_on(
    half: Path, small_store: Path, said: list[str]
) -> None:
    manifest = build(str(half), small(), BuildRequest(teacher="random"))
    reported = "\n".join(said)
    assert "8 rows of pixels made again, equal" in reported
    assert "8 rows of latents/demo computed again, relative error 0" in reported
    assert manifest is not None
    assert [first for first, _ in manifest.soft["latents/demo"]] == [0, 2]
    assert verify(str(half)).damages == []
    assert tree(half)["latents/demo/c.2.0.0"] == tree(small_store)["latents/demo/c.2.0.0"]


def _louder(factor: float) -> Any:
    real = ViT.__call__
    return lambda self, pixels: real(self, pixels) * factor


@pytest.mark.usefixtures("later")
def test_latents_that_differ_within_tolerance_go_on_and_beyond_it_are_refused(
    half: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(half)
    with monkeypatch.context() as patch:
        patch.setattr(ViT, "__call__", _louder(1.1))
        with pytest.raises(IdentityError, match=r"computed again differ by .* \(tolerance 0\.005\)"):
            build(str(half), small(), BuildRequest(teacher="random"))
    assert tree(half) == before
    monkeypatch.setattr(ViT, "__call__", _louder(1.0005))
    assert build(str(half), small(), BuildRequest(teacher="random")) is not None


@pytest.mark.usefixtures("later")
def test_pixels_that_come_out_differently_are_refused_and_the_row_named(
    half: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, real = tree(half), apply_view

    def brighter(*args: Any) -> Any:
        image, region = real(*args)
        return (image // 2, region)

    monkeypatch.setattr(pixels_module, "apply_view", brighter)
    with pytest.raises(IdentityError, match=r"row \d+ cut again differs from the stored one by \d+ grey levels"):
        build(str(half), small(), BuildRequest(teacher="random"))
    assert tree(half) == before


def test_without_a_change_nothing_is_asked_again(half: Path, said: list[str]) -> None:
    build(str(half), small(), BuildRequest(teacher="random"))
    assert not [line for line in said if "again" in line]


@pytest.fixture
def stills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Recipe, pytest.MonkeyPatch]:
    """Return a folder of images that an earlier version of their reader scans, until the patch is undone."""
    root = tmp_path / "stills"
    pictures(root, [f"{number}.png" for number in range(6)])
    monkeypatch.setattr(ImageReader, "version", 1)
    return root, small("cache.rows_per_shard=4"), monkeypatch


def test_a_segment_that_another_version_of_a_reader_scanned_is_not_gone_on_with(
    tmp_path: Path, stills: tuple[Path, Recipe, pytest.MonkeyPatch]
) -> None:
    root, recipe, patch = stills
    store = str(tmp_path / "s")
    build(store, recipe, BuildRequest(str(root), part="1/2"))
    patch.undo()
    before = tree(tmp_path / "s")
    with pytest.raises(
        IdentityError, match=rf"segment 1 was scanned by other .*: images \(here images:{ImageReader.version}\)"
    ):
        build(store, recipe, BuildRequest(str(root), part="2/2"))
    assert tree(tmp_path / "s") == before


def test_a_finished_store_of_another_version_of_a_reader_is_read_and_grows_and_says_so(
    tmp_path: Path, stills: tuple[Path, Recipe, pytest.MonkeyPatch], said: list[str]
) -> None:
    root, recipe, patch = stills
    store = str(tmp_path / "s")
    build(store, recipe, BuildRequest(str(root)))
    patch.undo()
    first = open_store(store).read([0], layers=["pixels"]).pixels
    pictures(root, ["7.png"], seed=1)
    build(store, recipe, BuildRequest(str(root)))
    assert any("Its rows stay as they are" in line for line in said)
    assert np.array_equal(open_store(store).read([0], layers=["pixels"]).pixels, first)
    storage = LocalStorage(tmp_path / "s")
    stamps = [set(read_tables(storage, segment)[0].reader) for segment in read_state(storage).segments]
    assert stamps == [{"images"}, {f"images:{ImageReader.version}"}]
    assert verify(store).damages == []


def test_rows_that_a_later_rule_would_stop_at_stop_no_growth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise to the edges was kept; frames that are added later show a scan, and the rule is stricter then."""
    root, store = tmp_path / "in", str(tmp_path / "s")
    pictures(root, ["a.png", "b.png"])
    build(store, small("cache.preprocess.whole=keep", "cache.views.count=1"), BuildRequest(str(root)))
    monkeypatch.setattr(recheck, "pixel_soft", lambda: {"opencv-python-headless": "99.0"})
    frame = np.zeros((40, 48), np.uint8)
    frame[8:32, 8:40] = np.random.default_rng(1).integers(60, 200, (24, 32))
    cv2.imwrite(str(root / "c.png"), frame)
    strict = small("cache.preprocess.whole=stop", "cache.views.count=1")
    build(store, strict, BuildRequest(str(root)))
    assert len(open_store(store)) == 3
