"""Claims about layouts: published tasks are read unconverted, in both formats, and what is wrong is named."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

from tests.support.files.published import write_busbra, write_image, write_tn5000, write_ultrabench
from tests.support.recipes import small_recipe
from usjepa.cache.errors import UsageError
from usjepa.cache.recipes.cache import PreprocessSettings
from usjepa.evaluate.checking.hygiene import facts_of
from usjepa.evaluate.tasks.cut import cut
from usjepa.evaluate.tasks.find import open_tasks
from usjepa.evaluate.tasks.layouts import recognise

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.evaluate.tasks.base import TaskFolder
    from usjepa.evaluate.tasks.task import Task

SMALL = small_recipe()


BUTTERFLY = ("carotid", "2ch", "lungs", "ivc", "4ch", "bladder", "thyroid", "plax", "morisons_pouch")
MMOTU = (
    *("chocolate cyst", "serous cystadenoma", "teratoma", "theca cell tumour", "simple cyst", "normal ovary"),
    *("mucinous cystadenoma", "high-grade serous"),
)


def folders(place: object) -> list[TaskFolder]:
    return recognise(str(place), SMALL.cache)


def opened(place: object, out: Path, recipe: Recipe = SMALL) -> list[Task]:
    return open_tasks([str(place)], out, recipe).tasks


def old_format(folder: Path, count: int = 24, classes: int = 3) -> None:
    """Write train, validation and test, four images a patient."""
    write_ultrabench(
        folder,
        [i % classes for i in range(count)],
        {"train": range(12), "validation": range(12, 16), "test": range(16, count)},
        {"patient": [i // 4 for i in range(count)]},
    )


def test_three_files_are_taken_as_the_benchmarks_own_splits(tmp_path: Path) -> None:
    old_format(tmp_path / "camus_v1.0.1")
    (task,) = opened(tmp_path / "camus_v1.0.1", tmp_path / "out")
    assert (task.name, task.layout, task.classes) == ("camus", "ultrabench", ("good", "medium", "poor"))
    assert [len(task.positions(split)) for split in ("train", "validation", "test")] == [12, 4, 8]
    assert len(set(task.groups.tolist())) == 6
    assert task.origin == {"test": "given by the data", "validation": "given by the data"}
    assert not facts_of(task).leakage.groups


def test_two_files_leave_validation_to_be_dealt_by_group(tmp_path: Path) -> None:
    labels = [i % 3 for i in range(30)]
    splits = {"train_val": range(21), "test": range(21, 30)}
    write_ultrabench(tmp_path / "pocus_v1.0.1", labels, splits, {"source": [f"clip{i // 3}.gif" for i in range(30)]})
    (task,) = opened(tmp_path / "pocus_v1.0.1", tmp_path / "out")
    assert task.classes == ("covid", "pneumonia", "regular")
    assert task.origin == {"test": "given by the data", "validation": "dealt by group and class"}
    assert len(task.positions("test")) == 9
    stopped, trained = (set(task.groups[task.positions(s)].tolist()) for s in ("validation", "train"))
    assert stopped
    assert not stopped & trained


def test_a_source_on_both_sides_is_kept_and_told(tmp_path: Path) -> None:
    sources = [f"clip{i // 3}" for i in range(30)]
    sources[25] = sources[0]
    splits = {"train_val": range(21), "test": range(21, 30)}
    write_ultrabench(tmp_path / "pocus_v1", [i % 3 for i in range(30)], splits, {"source": sources})
    (task,) = opened(tmp_path / "pocus_v1", tmp_path / "out")
    assert len(task.positions("test")) == 9
    assert facts_of(task).leakage.groups == 1
    assert any(note.startswith("Leak: 1 of 4 test groups") for note in task.notes)


def test_a_manifest_comes_before_a_published_layout_of_the_folder_or_below_it_as_in_a_scan(tmp_path: Path) -> None:
    place = tmp_path / "camus_v1.0.1"
    old_format(place)
    lines = [f"images/{i}.png,p{i // 2},{'ab'[i // 2 % 2]},{'test' if i < 8 else 'train'}" for i in range(24)]
    (place / "manifest.csv").write_text("\n".join(("path,patient,label,split", *lines)) + "\n")
    (task,) = opened(place, tmp_path / "out")
    assert (task.layout, task.classes, len(task.positions("test"))) == ("plain", ("a", "b"), 8)
    assert len(set(task.groups.tolist())) == 12
    (own,) = opened(f"ultrabench={place}", tmp_path / "out")
    assert own.classes == ("good", "medium", "poor")
    (place / "manifest.csv").unlink()
    above = (f"{place.name}/{line}" for line in lines)
    (tmp_path / "manifest.csv").write_text("\n".join(("path,patient,label,split", *above)) + "\n")
    assert opened(tmp_path, tmp_path / "out")[0].classes == ("a", "b")


OLD = {"train": range(18), "validation": range(18, 27), "test": range(27, 45)}
NEW = {"train_val": range(27), "test": range(27, 45)}


@pytest.mark.parametrize(
    ("name", "classes", "group", "ending", "colour", "scan_ending"),
    [
        pytest.param("aul_mass", ("normal", "benign", "malignant"), "", "jpg", False, "png", id="aul"),
        pytest.param("butterfly", BUTTERFLY, "patient", "png", False, "png", id="butterfly", marks=pytest.mark.slow),
        pytest.param(
            "camus", ("poor", "medium", "good"), "patient", "png", False, "png", id="camus", marks=pytest.mark.slow
        ),
        pytest.param(
            "fatty_liver",
            ("0", "1"),
            "patient",
            "png",
            False,
            "png",
            id="fatty liver: classes by number",
            marks=pytest.mark.slow,
        ),
        pytest.param("gbcu", ("0", "1", "2"), "", "jpg", False, "jpg", id="gbcu: scan masks are jpg"),
        pytest.param("mmotu", MMOTU, "", "png", False, "png", id="mmotu", marks=pytest.mark.slow),
        pytest.param("pocus", ("regular", "pneumonia", "covid"), "source", "png", True, "png", id="pocus: colour"),
    ],
)
def test_every_classification_task_is_scored_unconverted_in_both_formats(
    tmp_path: Path,
    name: str,
    classes: tuple[str, ...],
    group: str,
    ending: str,
    colour: bool,
    scan_ending: str,
) -> None:
    place, labels = tmp_path / f"{name}_v1.0.1", [i % len(classes) for i in range(45)]
    groups = {group: [f"{group} {i // 3}" for i in range(45)]} if group else {}
    for splits in (OLD, NEW):  # in one place, so that frames are cut once
        for path in place.glob("*.json"):
            path.unlink()
        write_ultrabench(place, labels, splits, groups, ending=ending, colour=colour, scan_ending=scan_ending)
        (task,) = opened(place, tmp_path / "out")
        assert (task.name, task.layout, task.classes) == (name, "ultrabench", tuple(sorted(classes)))
        paths = [task.store.table.sources[i].path for i in task.store.table.source.tolist()]
        wanted = [classes[labels[int(path.split("/")[-1].split(".")[0])]] for path in paths]
        assert [task.classes[label] for label in task.labels] == wanted
        assert len(set(task.groups.tolist())) == (15 if group else 45)
        assert len(task.positions("test")) == 18
        validation = "given by the data" if splits is OLD else "dealt by group and class"
        assert task.origin == {"test": "given by the data", "validation": validation}
        if splits is OLD:
            assert [len(task.positions(part)) for part in ("train", "validation")] == [18, 9]
        trained, stopped = (set(task.groups[task.positions(part)].tolist()) for part in ("train", "validation"))
        assert stopped
        assert not trained & stopped
        alone = any("each counts as a group of its own" in note for note in task.notes)
        assert alone == (not group)


def test_a_patient_in_several_clips_is_found_where_the_split_goes_by_clip(tmp_path: Path) -> None:
    # As UltraBench's POCUS: 15 clips of 3 frames, no clip in two splits, but a patient's clips are.
    clips, people = [f"clip{i // 3}.gif" for i in range(45)], [f"patient {i // 3 % 11}" for i in range(45)]
    labels = [i % 3 for i in range(45)]
    write_ultrabench(tmp_path / "pocus_v1.0.1", labels, OLD, {"source": clips, "patient": people})
    (task,) = opened(tmp_path / "pocus_v1.0.1", tmp_path / "out")
    leakage = facts_of(task).leakage
    assert (leakage.groups, leakage.test_groups, leakage.group_frames) == (4, 6, 12)
    told = "Leak: 4 of 6 test groups also have frames in training (12 of 18 test frames)."
    assert any(note.startswith(told) for note in task.notes)


def test_a_clip_that_lies_there_twice_under_two_names_is_found_by_its_frames(tmp_path: Path) -> None:
    # As the clips of POCUS, of which some were also published as stills: no name tells, the frames do.
    place = tmp_path / "pocus_v1.0.1"
    write_ultrabench(place, [i % 3 for i in range(45)], OLD, {"source": [f"clip{i // 3}.gif" for i in range(45)]})
    for test, train in ((30, 0), (31, 1)):
        (place / "images" / f"{test}.png").write_bytes((place / "images" / f"{train}.png").read_bytes())
    (task,) = opened(place, tmp_path / "out")
    facts = facts_of(task)
    assert (facts.leakage.groups, facts.leakage.exact, facts.leakage.near_other_group) == (0, 2, 2)
    assert facts.sentences()[0].startswith("Leak: 2 of 18 test frames also lie in training or validation")


def test_a_folder_of_several_tasks_gives_them_all_and_one_can_be_picked(tmp_path: Path) -> None:
    for name in ("camus", "fatty_liver", "psfhs"):
        old_format(tmp_path / "bench" / f"{name}_v1.0.1")
    assert [folder.name for folder in folders(tmp_path / "bench")] == ["camus", "fatty_liver", "psfhs"]
    (task,) = opened(f"{tmp_path / 'bench'}::fatty_liver", tmp_path / "out")
    assert task.name == "fatty_liver"
    with pytest.raises(UsageError, match="no dataset 'psfhs'; it holds camus, fatty_liver"):
        opened(f"{tmp_path / 'bench'}::psfhs", tmp_path / "out")
    with pytest.raises(UsageError, match="psfhs are segmentation tasks without classes"):
        opened(tmp_path / "bench" / "psfhs_v1.0.1", tmp_path / "out")


def test_a_dataset_that_is_picked_is_cut_alone_and_one_that_is_not_there_cuts_nothing(tmp_path: Path) -> None:
    for dataset in ("liver", "lung"):
        for i in range(12):
            write_image(tmp_path / "frames" / dataset / "ab"[i % 2] / f"{i}.png", i)
    with pytest.raises(UsageError, match="no dataset 'heart'; it holds liver, lung"):
        opened(f"{tmp_path / 'frames'}::heart", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (task,) = opened(f"{tmp_path / 'frames'}::lung", tmp_path / "out")
    assert (task.name, len(task.store.table.sources)) == ("lung", 12)


def test_masks_are_never_taken_for_frames(tmp_path: Path) -> None:
    old_format(tmp_path / "camus_v1.0.1")
    (task,) = opened(tmp_path / "camus_v1.0.1", tmp_path / "out")
    assert {source.path.split("/")[0] for source in task.store.table.sources} == {"images"}


def test_mending_a_label_cuts_no_frame_again(tmp_path: Path) -> None:
    folder = tmp_path / "camus_v1.0.1"
    old_format(folder)
    (before,) = opened(folder, tmp_path / "out")
    items = json.loads((folder / "test.json").read_text())
    items[0]["label"] = (items[0]["label"] + 1) % 3
    (folder / "test.json").write_text(json.dumps(items))
    (after,) = opened(folder, tmp_path / "out")
    assert after.store.digest == before.store.digest
    assert (after.labels != before.labels).sum() == 1
    assert after.identity != before.identity


def test_paths_that_stay_hidden_are_found_under_their_aliases(tmp_path: Path) -> None:
    old_format(tmp_path / "camus_v1.0.1")
    hiding = SMALL.model_copy(update={"cache": SMALL.cache.model_copy(update={"hash_paths": True})})
    (plain,) = opened(tmp_path / "camus_v1.0.1", tmp_path / "out")
    (hidden,) = opened(tmp_path / "camus_v1.0.1", tmp_path / "out", hiding)
    assert not any("images" in source.path for source in hidden.store.table.sources)
    assert sorted(hidden.labels.tolist()) == sorted(plain.labels.tolist())
    assert len(hidden.positions("test")) == 8


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param({"image": "images/none.png"}, "'images/none.png' does not exist in", id="missing image"),
        pytest.param({"image": "../secret.png"}, "it climbs with '..'", id="path that climbs"),
        pytest.param({"image": 3}, "3 is no path", id="no path"),
        pytest.param({"label": 3}, "label 3, but camus has the classes 0 to 2", id="unknown label"),
        pytest.param({"label": "good"}, "label 'good' is no whole number", id="label that is no number"),
        pytest.param(
            {"image": "images/1.png"}, "'images/1.png' is listed twice (splits 'train' and 'test')", id="twice"
        ),
    ],
)
def test_what_is_wrong_in_a_json_file_is_named_with_its_item(
    tmp_path: Path, change: dict[str, object], told: str
) -> None:
    folder = tmp_path / "camus_v1.0.1"
    old_format(folder)
    items = json.loads((folder / "test.json").read_text())
    items[2] |= change
    (folder / "test.json").write_text(json.dumps(items))
    with pytest.raises(UsageError) as error:
        folders(folder)
    assert told in str(error.value)
    assert "test.json, item 2" in str(error.value) or "listed twice" in told


def test_json_that_is_none_and_folders_of_both_formats_are_refused(tmp_path: Path) -> None:
    old_format(tmp_path / "camus_v1")
    (tmp_path / "camus_v1" / "train.json").write_text("{")
    with pytest.raises(UsageError, match=r"train\.json: can't be read as JSON"):
        folders(tmp_path / "camus_v1")
    (tmp_path / "camus_v1" / "train.json").write_text("{}")
    with pytest.raises(UsageError, match=r"train\.json: not an array of objects"):
        folders(tmp_path / "camus_v1")
    (tmp_path / "camus_v1" / "train_val.json").write_text("[]")
    with pytest.raises(UsageError, match=r"train\.json and train_val\.json"):
        folders(tmp_path / "camus_v1")


def test_busbra_is_dealt_by_case_with_every_class_in_every_part(tmp_path: Path) -> None:
    write_busbra(tmp_path / "BUSBRA", [(i, "malignant" if i % 3 == 0 else "benign") for i in range(24)])
    (task,) = opened(tmp_path / "BUSBRA", tmp_path / "out")
    assert (task.name, task.classes, len(task.rows)) == ("busbra", ("benign", "malignant"), 48)
    assert len(set(task.groups.tolist())) == 24
    assert task.origin["test"] == "dealt by group and class"
    for split in ("train", "validation", "test"):
        assert set(task.labels[task.positions(split)]) == {0, 1}
    assert not facts_of(task).leakage.found
    (folder,) = folders(tmp_path / "BUSBRA")
    assert folder.files[1].masks == {"tumor_mask": "Masks/mask_0000-r.png"}


def test_busbra_without_a_column_or_an_image_is_refused(tmp_path: Path) -> None:
    write_busbra(tmp_path, [(1, "benign")])
    (tmp_path / "Images" / "bus_0001-r.png").unlink()
    with pytest.raises(UsageError, match=r"bus_data\.csv, line 3: 'Images/bus_0001-r\.png' does not exist"):
        folders(tmp_path)
    (tmp_path / "bus_data.csv").write_text("ID,Pathology\n")
    with pytest.raises(UsageError, match="no column case; it has id, pathology"):
        folders(tmp_path)


def test_tn5000_takes_the_class_of_its_nodules_and_its_own_split(tmp_path: Path) -> None:
    images = [("train", ["1" if i % 2 else "0"]) for i in range(8)] + [("val", ["0"]), ("val", ["1"])]
    images += [("test", ["0"]), ("test", ["1", "1"]), ("test", ["0", "1"]), ("test", [])]
    write_tn5000(tmp_path / "TN5000", images)
    (task,) = opened(tmp_path / "TN5000", tmp_path / "out")
    assert task.classes == ("benign", "malignant")
    assert [len(task.positions(split)) for split in ("train", "validation", "test")] == [8, 2, 2]
    assert task.unlabelled == 2
    assert task.origin == {"test": "given by the data", "validation": "given by the data"}


def test_annotations_that_are_no_xml_or_define_entities_are_refused(tmp_path: Path) -> None:
    write_tn5000(tmp_path, [("train", ["0"]), ("test", ["1"])])
    bad = tmp_path / "Annotations" / "000001.xml"
    bad.write_text("<annotation>")
    with pytest.raises(UsageError, match=r"000001\.xml: can't be read as XML"):
        folders(tmp_path)
    bad.write_text('<!DOCTYPE a [<!ENTITY x "y">]><annotation/>')
    with pytest.raises(UsageError, match="defines entities"):
        folders(tmp_path)


def test_a_layout_that_is_named_must_fit_and_must_exist(tmp_path: Path) -> None:
    write_image(tmp_path / "a" / "x.png", 0)
    assert folders(f"plain={tmp_path}")[0].layout == "plain"
    with pytest.raises(UsageError, match=r"not of the layout `busbra`: `bus_data\.csv` beside `Images/`"):
        folders(f"busbra={tmp_path}")
    with pytest.raises(UsageError, match="no layout 'mine'; there are ultrabench, busbra, tn5000, masks, plain"):
        folders(f"mine={tmp_path}")


def test_a_folder_that_fits_no_layout_is_told_what_was_looked_for(tmp_path: Path) -> None:
    for i in range(3):
        write_image(tmp_path / "frames" / f"{i}.png", i)
    with pytest.raises(UsageError) as error:
        opened(tmp_path / "frames", tmp_path / "out")
    for name in ("ultrabench", "busbra", "tn5000", "manifest.csv", "a folder per class"):
        assert name in str(error.value)


def test_a_manifests_own_split_is_kept_even_where_it_tears_a_group(tmp_path: Path) -> None:
    lines = ["path,dataset,label,group,split"]
    for i in range(16):
        write_image(tmp_path / f"{i}.png", i)
        lines.append(f"{i}.png,lung,{'ab'[i % 2]},p{i // 2 % 7},{'test' if i >= 12 else 'train'}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    (task,) = opened(tmp_path, tmp_path / "out")
    assert len(task.positions("test")) == 4
    assert facts_of(task).leakage.groups == 1


def test_a_recipe_that_thins_out_clips_leaves_tasks_whole(tmp_path: Path) -> None:
    page = np.random.default_rng(0).integers(0, 255, (40, 48), np.uint8)
    for place in ("a/1.tif", "a/2.tif", "b/1.tif"):
        (tmp_path / "in" / place).parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(tmp_path / "in" / place, np.stack([page] * 3), photometric="minisblack")
    thin = SMALL.cache.model_copy(
        update={"min_change": 64, "preprocess": PreprocessSettings(text="keep", whole="keep")}
    )
    (task,) = folders(tmp_path / "in")
    store, _ = cut(task, tmp_path / "out", SMALL.model_copy(update={"cache": thin}))
    assert len(store) == 9


@pytest.mark.slow
def test_real_frames_are_dealt_with_every_class_in_every_part(dev_data: Path, tmp_path: Path) -> None:
    few = SMALL.model_copy(update={"cache": SMALL.cache.model_copy(update={"max_frames_per_source": 2})})
    (task,) = opened(f"{dev_data / 'manifest.csv'}::pocus", tmp_path, few)
    for split in ("train", "validation", "test"):
        assert set(np.unique(task.labels[task.positions(split)])) >= {0, 1, 2}, split
