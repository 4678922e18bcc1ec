"""Claims about frames with masks as people have them: pairs by name or by line, values by name, nothing guessed."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tests.support.evaluations import FAST, call, export_run
from tests.support.files.published import write_image, write_mask
from tests.support.labelled import patients, write_labelled
from tests.support.recipes import small_recipe
from usjepa.cache.errors import SourceError, UsageError
from usjepa.evaluate.tasks.find import open_tasks
from usjepa.evaluate.tasks.mask_files import Survey, read_mask
from usjepa.evaluate.tasks.published.image_masks import ImagesAndMasks
from usjepa.evaluate.tasks.regression import open_regressions
from usjepa.evaluate.tasks.segmentation import Segmentation, open_segmentations

if TYPE_CHECKING:
    from pathlib import Path

SMALL = small_recipe()


def opened(place: object, out: Path) -> Segmentation:
    (task,) = open_segmentations([str(place)], out, SMALL)
    return task


def write_pairs(images: Path, masks: Path, numbers: range, mask: str = "{}.png") -> None:
    for i in numbers:
        write_image(images / f"a{i}.png", i)
        write_mask(masks / mask.format(f"a{i}"), (1, 2), i)


@pytest.mark.parametrize(
    ("images", "masks", "mask"),
    [("images", "masks", "{}.png"), ("Image", "labels", "{}_mask.png"), ("imgs", "GT", "mask_{}.png")],
)
def test_a_folder_of_images_beside_one_of_masks_is_a_task(tmp_path: Path, images: str, masks: str, mask: str) -> None:
    folder = tmp_path / "heart"
    write_pairs(folder / images, folder / masks, range(16), mask)
    (folder / "mask_values.json").write_text(json.dumps({"1": "ventricle", "2": "atrium", "9": "never"}))
    task = opened(folder, tmp_path / "out")
    assert (task.name, task.classes) == ("heart: mask", ("background", "ventricle", "atrium"))
    assert len(task.rows) == 16
    sources = task.store.table.sources
    for position in (0, 7, 15):
        row = int(np.searchsorted(task.store.rows, task.rows[position]))
        stem = sources[int(task.store.table.source[row])].path.split("/")[-1].removesuffix(".png")
        assert stem in task.masks[position].name


def test_folders_of_splits_give_the_splits_and_frames_without_a_mask_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for split, numbers in (("train", range(8)), ("val", range(8, 11)), ("test", range(11, 16))):
        write_pairs(folder / split / "images", folder / split / "masks", numbers)
    (folder / "train" / "masks" / "a3.png").unlink()
    task = opened(folder, tmp_path / "out")
    assert [len(task.positions(part)) for part in ("train", "validation", "test")] == [7, 3, 5]
    assert "1 frames have no mask and are left out." in task.notes


def test_folders_for_training_and_testing_are_splits_too(tmp_path: Path) -> None:
    folder = tmp_path / "nn"
    write_pairs(folder / "imagesTr", folder / "labelsTr", range(8))
    write_pairs(folder / "imagesTs", folder / "labelsTs", range(8, 12))
    assert len(opened(folder, tmp_path / "out").positions("test")) == 4


def test_folders_of_splits_below_the_images_are_splits_too(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for split, numbers in (("train", range(9)), ("valid", range(9, 11)), ("test", range(11, 16))):
        write_pairs(folder / "images" / split, folder / "masks" / split, numbers)
    task = opened(folder, tmp_path / "out")
    assert [len(task.positions(part)) for part in ("train", "validation", "test")] == [9, 2, 5]
    assert {task.masks[i].parent.name for i in task.positions("test")} == {"test"}


def test_two_folders_of_masks_are_both_named_and_an_empty_one_hides_none(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write_pairs(folder / "images", folder / "masks", range(12))
    (folder / "seg").mkdir()
    assert {mask.parent.name for mask in opened(folder, tmp_path / "out").masks} == {"masks"}
    write_mask(folder / "seg" / "a0.png", (1, 2), 0)
    with pytest.raises(UsageError, match=r"set: both masks/ and seg/ hold images, .* a manifest\.csv"):
        opened(folder, tmp_path / "out")


def test_a_manifest_names_masks_in_a_column_with_patients_and_labels(tmp_path: Path) -> None:
    write_pairs(tmp_path / "frames", tmp_path / "outlines", range(24))
    lines = [
        {
            "path": f"frames/a{i}.png",
            "mask": f"outlines/a{i}.png" if i not in (5, 6) else ("", "NaN")[i - 5],
            "patient": f"p{i // 2}",
            "label": "ab"[i // 2 % 2],
        }
        for i in range(24)
    ]
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    task = opened(tmp_path / "manifest.csv", tmp_path / "out")
    assert len(task.rows) == 22
    assert len(np.unique(task.groups)) == 12
    assert task.classes == ("background", "value 1", "value 2")
    (scored,) = open_tasks([str(tmp_path / "manifest.csv")], tmp_path / "out", SMALL).tasks
    assert (scored.classes, scored.ungrouped) == (("a", "b"), 0)
    lines[2]["mask"] = "outlines/gone.png"
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    with pytest.raises(UsageError, match=r"manifest\.csv, line 4, mask: 'outlines/gone\.png' does not exist"):
        opened(tmp_path / "manifest.csv", tmp_path / "out")


@pytest.mark.parametrize("name", ["manifest.csv", "Manifest.TSV"])
def test_a_manifest_beside_images_and_masks_gives_patients_and_splits(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "heart"
    write_pairs(folder / "images", folder / "masks", range(16))
    mark = "\t" if name.endswith("TSV") else ","
    lines = [("path", "patient", "split", "mask", "label", "ef")]
    for i in range(16):
        split = "test" if i >= 12 else "train"
        lines.append((f"images/a{i}.png", f"p{i // 4}", split, f"masks/a{i}.png", "ab"[i % 2], f"{i}.5"))
    (folder / name).write_text("".join(mark.join(line) + "\n" for line in lines))
    task = opened(folder, tmp_path / "out")
    assert len(np.unique(task.groups)) == 4
    assert task.splits[np.argsort([int(mask.stem[1:]) for mask in task.masks])].tolist()[12:] == ["test"] * 4
    assert not any("No file says" in note for note in task.notes)
    (scored,) = open_tasks([str(folder)], tmp_path / "out", SMALL).tasks
    assert (scored.classes, len(scored.positions("test"))) == (("a", "b"), 4)
    (measured,) = open_regressions([f"{folder}#ef"], tmp_path / "out", SMALL)
    assert len(measured) == 16
    with pytest.raises(UsageError, match=r"not of the layout `masks`: .* and no manifest"):
        opened(f"masks={folder}", tmp_path / "out")


def test_a_manifest_without_a_column_of_masks_beside_a_folder_of_them_is_paired_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "heart"
    write_pairs(folder / "images", folder / "masks", range(12))
    lines = [("path", "patient", "split"), *((f"images/a{i}.png", f"p{i // 4}", "test") for i in range(4))]
    lines += [(f"images/a{i}.png", f"p{i // 4}", "train") for i in range(4, 11)]
    (folder / "manifest.csv").write_text("".join(",".join(line) + "\n" for line in lines))
    task = opened(folder, tmp_path / "out")
    assert sorted(mask.name for mask in task.masks) == sorted(f"a{i}.png" for i in range(11))
    assert (len(np.unique(task.groups)), (task.splits == "test").sum()) == (3, 4)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("list.csv", "file,split\na0.png,train\na1.png,test\n", r"list\.csv: its column `split` holds splits"),
        ("test.txt", "a0.png\n", r"test\.txt: its name is that of a list of a split"),
        ("info.json", '{"train": ["a0"], "test": ["a1"]}', r'info\.json: its key "train" looks like a split'),
    ],
)
def test_a_list_of_splits_beside_images_and_masks_is_not_passed_over(
    tmp_path: Path, name: str, content: str, told: str
) -> None:
    folder = tmp_path / "set"
    write_pairs(folder / "images", folder / "masks", range(6))
    (folder / name).write_text(content)
    with pytest.raises(UsageError, match=told):
        opened(folder, tmp_path / "out")
    alone = SMALL.model_copy(update={"cache": SMALL.cache.model_copy(update={"layout": "folders"})})
    (task,) = open_segmentations([str(folder)], tmp_path / "out", alone)
    assert len(task.masks) == 6


def test_a_table_of_patients_beside_images_and_masks_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write_pairs(folder / "images", folder / "masks", range(6))
    (folder / "clinic.csv").write_text("image,patient_id\na0.png,7\n")
    notes = opened(folder, tmp_path / "out").notes
    assert any("clinic.csv has a column `patient_id`, which may name patients, and is not used" in one for one in notes)


def test_masks_that_belong_to_no_image_or_to_two_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write_pairs(folder / "images", folder / "masks", range(6))
    write_mask(folder / "masks" / "b.png", (1,), 0)
    with pytest.raises(UsageError, match=r"b\.png have no image in .*images\. Is the folder complete"):
        opened(folder, tmp_path / "out")
    (folder / "masks" / "b.png").rename(folder / "masks" / "a1_mask.png")
    with pytest.raises(UsageError, match=r"are masks of one image"):
        opened(folder, tmp_path / "out")


@pytest.mark.parametrize(
    "content",
    ["[]", "{}", '{"one": "a"}', '{"1": ""}', '{"300": "a"}', '{"1": "a", "2": "a"}', "{", '{"1": "a"}'],
)
def test_names_of_values_that_are_none_or_lack_one_are_refused(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "set"
    write_pairs(folder / "images", folder / "masks", range(6))
    (folder / "mask_values.json").write_text(content)
    with pytest.raises(UsageError, match=r"mask_values\.json"):
        opened(folder, tmp_path / "out")


def test_lists_of_boxes_beside_images_are_no_masks_and_a_task_of_masks_is_no_classification(tmp_path: Path) -> None:
    (tmp_path / "yolo" / "labels").mkdir(parents=True)
    write_image(tmp_path / "yolo" / "images" / "a.png", 0)
    (tmp_path / "yolo" / "labels" / "a.txt").write_text("0 .5 .5 .1 .1")
    assert not ImagesAndMasks().fits(tmp_path / "yolo")
    write_pairs(tmp_path / "set" / "images", tmp_path / "set" / "masks", range(6))
    with pytest.raises(UsageError, match=r"segmentation tasks without classes\. Use --segment"):
        open_tasks([str(tmp_path / "set")], tmp_path / "out", SMALL)


def test_a_mask_of_colours_or_of_too_many_values_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write_pairs(folder / "images", folder / "masks", range(6))
    noise = np.random.default_rng(0).integers(0, 255, (48, 48, 3)).astype(np.uint8)
    Image.fromarray(noise).save(folder / "masks" / "a2.png")
    with pytest.raises(Exception, match=r"a2\.png: no mask of one channel"):
        opened(folder, tmp_path / "out")


def test_a_report_is_made_again_when_values_of_masks_get_other_names(tmp_path: Path) -> None:
    folder = tmp_path / "heart"
    write_pairs(folder / "images", folder / "masks", range(12))
    write_labelled(tmp_path / "store.zarr", patients(10, ["cyst", "none"]), size=32)
    export_run(tmp_path / "run", tmp_path / "store.zarr")
    for name in ("ventricle", "kidney"):
        (folder / "mask_values.json").write_text(json.dumps({"1": name, "2": "atrium"}))
        given = ("--segment", folder, *FAST, "--set", "evaluate.baselines=[]", "-o", tmp_path / "out")
        result = call(tmp_path / "run", *given)
        assert result.exit_code == 0, result.output
        (task,) = json.loads((tmp_path / "out/scores.json").read_text())["segmentation"]["tasks"]
        assert task["classes"] == ["background", name, "atrium"]


def surveyed(paths: list[Path], splits: list[str]) -> tuple[int, ...]:
    survey = Survey()
    for path in paths:
        survey.look(path, np.asarray(Image.open(path)).shape[:2])
    return survey.values(np.array(splits, dtype=object))


def test_one_class_that_is_written_with_two_values_is_refused_with_a_mask_of_each(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for split, numbers in (("train", range(8)), ("test", range(8, 12))):
        write_pairs(folder / split / "images", folder / split / "masks", numbers)
        for path in (folder / split / "masks").iterdir():
            values = np.asarray(Image.open(path))
            Image.fromarray((values > 0).astype(np.uint8) * (255 if split == "train" else 1)).save(path)
    with pytest.raises(SourceError, match=r"test/masks/a10\.png holds 1 and .*train/masks/a0\.png holds 255, in no"):
        opened(folder, tmp_path / "out")
    paths = []
    for name, classes in (("a", (1,)), ("b", (2,)), ("c", (128,)), ("d", (1, 255))):
        paths.append(tmp_path / f"{name}.png")
        write_mask(paths[-1], classes, 0)
    a, b, c, d = paths
    with pytest.raises(SourceError, match=r"a\.png holds 1 and .*c\.png holds 128, and no value of a mask of train"):
        surveyed([a, b, c], ["train", "validation", "test"])
    assert surveyed([a, b, b], ["train", "train", "test"]) == (0, 1, 2)
    assert surveyed([a, d], ["train", "test"]) == (0, 1, 255)


def test_a_grey_palette_is_read_as_its_greys_and_one_of_colours_must_be_the_same_in_all_masks(tmp_path: Path) -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 2:5] = 1
    for name, value in (("one.gif", 1), ("two.gif", 2)):
        Image.fromarray(mask * value).save(tmp_path / name)
        assert np.array_equal(read_mask(tmp_path / name), mask * value)
    for name, indices, palette in (("p.png", mask, [0, 0, 0, 255, 255, 255]), ("q.png", 1 - mask, [255] * 3 + [0] * 3)):
        image = Image.fromarray(indices)
        image.putpalette(palette)
        assert image.mode == "P"
        image.save(tmp_path / name)
        assert np.array_equal(read_mask(tmp_path / name), mask * 255)
    for name, colour in (("red.png", [200, 0, 0]), ("again.png", [200, 0, 0]), ("green.png", [0, 200, 0])):
        image = Image.fromarray(mask)
        image.putpalette([0, 0, 0, *colour])
        image.save(tmp_path / name)
    red, again, green = (tmp_path / f"{name}.png" for name in ("red", "again", "green"))
    assert surveyed([red, again], ["train", "test"]) == (0, 1)
    with pytest.raises(SourceError, match=r"green\.png: its palette gives index 1 the colour .* that of .*red\.png"):
        surveyed([red, green], ["train", "test"])


def test_a_mask_of_another_shape_is_refused_and_one_that_is_turned_by_its_header_is_turned(tmp_path: Path) -> None:
    folder, turned = tmp_path / "set", Image.Exif()
    turned[0x0112] = 6
    write_pairs(folder / "images", folder / "masks", range(6))
    mask = np.zeros((40, 60), np.uint8)
    mask[:10, :10] = 1
    frame = np.random.default_rng(0).integers(60, 255, (40, 60)).astype(np.uint8)
    Image.fromarray(frame).save(folder / "images" / "a2.png", exif=turned)
    Image.fromarray(mask).save(folder / "masks" / "a2.png", exif=turned)
    task = opened(folder, tmp_path / "out")
    at = [path.name for path in task.masks].index("a2.png")
    (stored,) = task.read_masks(np.array([at]))
    assert stored[:4, -4:].all()  # the upper left corner is turned to the right
    assert not stored[:, :16].any()
    small = Image.open(folder / "masks" / "a4.png").resize((24, 24), Image.Resampling.NEAREST)
    small.save(folder / "masks" / "a4.png")  # of another size, a pixel off its image's 48 x 49
    opened(folder, tmp_path / "out")
    Image.fromarray(mask).save(folder / "masks" / "a2.png")
    with pytest.raises(SourceError, match=r"a2\.png: 40 x 60 pixels .* its image 60 x 40"):
        opened(folder, tmp_path / "out")


def test_other_names_of_values_are_another_task(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write_pairs(folder / "images", folder / "masks", range(8))
    found = []
    for name in ("liver", "kidney"):
        (folder / "mask_values.json").write_text(json.dumps({"1": name, "2": "mass"}))
        found.append(opened(folder, tmp_path / "out").identity)
    assert found[0].pop("classes") == ["background", "liver", "mass"]
    assert found[1].pop("classes") == ["background", "kidney", "mass"]
    assert found[0] == found[1]


def test_equal_patients_of_two_datasets_are_two_and_a_dataset_can_be_picked(tmp_path: Path) -> None:
    write_pairs(tmp_path / "frames", tmp_path / "outlines", range(16))
    lines = [f"frames/a{i}.png,outlines/a{i}.png,p{i // 4},{'AB'[i % 2]}" for i in range(16)]
    (tmp_path / "manifest.csv").write_text("\n".join(["path,mask,patient,dataset", *lines]) + "\n")
    task = opened(tmp_path / "manifest.csv", tmp_path / "out")
    assert len(np.unique(task.groups)) == 8
    assert len(np.unique(task.groups[np.array([path.name == "a0.png" for path in task.masks])])) == 1
    picked = opened(f"{tmp_path / 'manifest.csv'}::A", tmp_path / "out")
    assert sorted(int(path.stem[1:]) for path in picked.masks) == list(range(0, 16, 2))
    with pytest.raises(UsageError, match=r"--segment .*manifest\.csv: no dataset 'C'; it holds A, B"):
        opened(f"{tmp_path / 'manifest.csv'}::C", tmp_path / "out")


def test_a_store_is_told_to_hold_no_masks(tmp_path: Path) -> None:
    write_labelled(tmp_path / "store.zarr", patients(2, ["cyst", "none"]), size=32)
    with pytest.raises(UsageError, match="a store, and stores hold no masks"):
        opened(tmp_path / "store.zarr", tmp_path / "out")


def test_another_reports_folder_uses_the_frames_and_features_that_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "heart"
    write_pairs(folder / "images", folder / "masks", range(12))
    write_labelled(tmp_path / "store.zarr", patients(10, ["cyst", "none"]), size=32)
    export_run(tmp_path / "run", tmp_path / "store.zarr")
    given = (
        tmp_path / "run",
        "--task",
        tmp_path / "store.zarr",
        "--segment",
        folder,
        "--keep",
        tmp_path / "kept",
        *FAST,
    )
    for out in ("one", "two"):
        result = call(*given, "--set", "evaluate.baselines=[pixels]", "-o", tmp_path / out)
        assert result.exit_code == 0, result.output
    assert "build:" not in result.stderr
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["features", "tasks"]
    assert (tmp_path / "one" / "scores.json").read_bytes() == (tmp_path / "two" / "scores.json").read_bytes()
    assert not (tmp_path / "two" / "features").exists()
