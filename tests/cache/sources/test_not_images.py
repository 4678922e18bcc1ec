"""What lies in a folder and is no image is left out and told; what only looks so stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
from PIL import Image

from usjepa.cache.recipes.cache import CacheSettings
from usjepa.cache.recipes.recipe import Recipe
from usjepa.cache.scanning.scan import list_source, scan, scan_report
from usjepa.cache.sources.not_images import beside_images

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.cache.sources.base import Listing

SETTINGS = CacheSettings()

MASKS = [
    pytest.param("c/benign (1).png", "c/benign (1)_mask.png", id="BUSI"),
    pytest.param("c/benign (1).png", "c/benign (1)_mask_1.png", id="a second one"),
    pytest.param("a/000_HC.png", "a/000_HC_Annotation.png", id="HC18"),
    pytest.param("p/p1_2CH_ED.png", "p/p1_2CH_ED_gt.png", id="CAMUS as PNG"),
    pytest.param("x/1.jpg", "x/1-seg.png", id="another ending"),
    pytest.param("x/1.png", "x/mask_1.png", id="the word first"),
    pytest.param("x/1.png", "x/1 (Label).png", id="in brackets"),
    pytest.param("x/1.png", "x/1.mask.png", id="after a point"),
    pytest.param("images/1.png", "masks/1.png", id="folders"),
    pytest.param("Images/bus_1.png", "Masks/mask_1.png", id="folders with other names"),
    pytest.param("train/image/1.png", "train/label/1.png", id="folders in a split"),
    pytest.param("trainval-image/1.jpg", "trainval-mask/1.jpg", id="TN3K"),
    pytest.param("d/1.png", "d/masks/1.png", id="a folder below"),
    pytest.param("d/x/1.png", "d/x_GroundTruth/1.png", id="a folder called after another"),
    pytest.param("clips/1.avi", "masks/1.avi", id="clips"),
]


@pytest.mark.parametrize(("picture", "mask"), MASKS)
def test_masks_beside_their_images_are_told_by_name(picture: str, mask: str) -> None:
    assert beside_images([picture, mask]) == {mask: "masks and label maps"}


@pytest.mark.parametrize(
    "paths",
    [
        ["c/x_mask.png"],
        ["masks/1.png", "masks/2.png"],
        ["label/1.png", "other/2.png"],
        ["c/masked.png", "c/ed.png"],
        ["mask/1.png", "none/2.png"],
        ["c/gt500.png", "c/500.png"],
        ["thumb/1.png", "wrist/2.png"],
    ],
    ids=lambda paths: paths[0],
)
def test_what_has_no_image_beside_it_stays(paths: list[str]) -> None:
    assert beside_images(paths) == {}


@pytest.mark.parametrize(
    "thumbnail", ["c/1_thumb.jpg", "c/thumb_1.jpg", "c/1-thumbnail.png", "c/tn_1.png", "c/thumbnails/1.png"]
)
def test_thumbnails_beside_their_images_are_told_by_name(thumbnail: str) -> None:
    assert beside_images(["c/1.png", thumbnail]) == {thumbnail: "thumbnails"}


def picture(path: Path, levels: int = 200, seed: int = 0, edge: int = 32) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.random.default_rng(seed).permutation(edge * edge) % levels
    Image.fromarray((ramp * (255 // levels)).astype(np.uint8).reshape(edge, edge)).save(path)


def listed(root: Path, **settings: object) -> Listing:
    return list_source(str(root), SETTINGS.model_copy(update=settings))


def test_masks_are_left_out_of_a_folder_and_told_but_a_manifest_takes_them(tmp_path: Path) -> None:
    for name in ("cyst/cyst (1).png", "cyst/cyst (1)_mask.png", "none/none (1).png"):
        picture(tmp_path / name)
    listing = listed(tmp_path)
    assert [entry.path for entry in listing.entries] == ["cyst/cyst (1).png", "none/none (1).png"]
    assert listing.notes == (
        "masks and label maps beside images were left out: 1 (such as cyst/cyst (1)_mask.png). "
        "A manifest that names them takes them.",
    )
    assert "cyst" not in listed(tmp_path, hash_paths=True).notes[0]
    (tmp_path / "manifest.csv").write_text("path\ncyst/cyst (1)_mask.png\n")
    assert [entry.path for entry in listed(tmp_path).entries] == ["cyst/cyst (1)_mask.png"]


@pytest.mark.parametrize("folder", ["@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found", "__MACOSX", "@Recycle"])
def test_folders_that_systems_make_are_left_out_and_told(tmp_path: Path, folder: str) -> None:
    picture(tmp_path / "c" / "ok 1.png")
    picture(tmp_path / "c" / folder / "ok 1.png" / "SYNOPHOTO_THUMB_M.png")
    listing = listed(tmp_path)
    assert [entry.path for entry in listing.entries] == ["c/ok 1.png"]
    assert listing.notes == (f"folders that systems make were left out: 1 {folder}.",)


@pytest.mark.parametrize("mask", ["targets/1.png", "images/1_tumour.png", "images/1-outline.png"])
def test_label_maps_are_told_by_their_few_levels_and_the_image_beside_them(tmp_path: Path, mask: str) -> None:
    picture(tmp_path / "images" / "1.png")
    picture(tmp_path / "images" / "2.png", levels=2)
    picture(tmp_path / mask, levels=4)
    table = scan(listed(tmp_path), SETTINGS, None, "stop")
    assert table.path.tolist() == ["images/1.png", "images/2.png"]  # of the second nothing says what it belongs to
    report = scan_report(str(tmp_path), Recipe())
    assert f"left out, without an image: 1\n  {mask}: a label map of 4 levels, beside images/1.png" in report


@pytest.mark.parametrize(("levels", "edge"), [(8, 32), (4, 24)])
def test_a_picture_of_more_levels_or_another_size_is_no_label_map(tmp_path: Path, levels: int, edge: int) -> None:
    picture(tmp_path / "images" / "1.png")
    picture(tmp_path / "others" / "1.png", levels=levels, edge=edge)
    assert len(scan(listed(tmp_path), SETTINGS, None, "stop")) == 2


def test_a_manifest_takes_a_label_map_too(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "1.png")
    picture(tmp_path / "others" / "1.png", levels=2)
    (tmp_path / "manifest.csv").write_text("path\nimages/1.png\nothers/1.png\n")
    assert len(scan(listed(tmp_path), SETTINGS, None, "stop")) == 2


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (None, ["a.h5::scan/bmode"]),
        (("envelope",), ["a.h5::scan/envelope"]),
        (("scan/*",), ["a.h5::scan/bmode", "a.h5::scan/envelope"]),
        (("*mask",), ["a.h5::mask"]),
        (("/scan/bmode", "mask"), ["a.h5::mask", "a.h5::scan/bmode"]),
        (("nothing",), ["a.h5"]),
    ],
)
def test_a_recipe_names_the_data_sets_to_take(tmp_path: Path, wanted: tuple[str, ...] | None, found: list[str]) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (3, 20, 24), np.uint8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["scan/bmode"], file["scan/envelope"], file["mask"] = frames, frames / 255.0, frames // 200
    listing = listed(tmp_path, hdf5=wanted)
    assert [entry.path for entry in listing.entries] == found
    told = "data sets beside images were left out: 1 envelope (envelope data, lies beside scan/bmode), 1 mask (mask, by"
    assert any(note.startswith(told) for note in listing.notes) == (wanted is None)
