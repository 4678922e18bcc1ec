"""Layouts: folders as they are published are read with their own labels, groups and splits, and that is said.

Each line of docs/reference/layouts.md has its test here.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.builds import pictures
from tests.support.files.published import write_busbra, write_tn5000, write_ultrabench
from usjepa.cache.errors import UsageError
from usjepa.cache.sources.found import Found, find_rows, rows_of_list
from usjepa.cache.sources.layouts.base import Folder
from usjepa.cache.sources.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def found(root: Path, layout: str = "auto") -> Found:
    return find_rows(Folder(Tree(root)), layout)


def rows(root: Path, layout: str = "auto") -> dict[str, tuple[str, str, str, str]]:
    """Return dataset, label, group and split of each path."""
    return {e.path: (e.dataset, e.label, e.group, e.split) for e in found(root, layout).entries}


def files(root: Path, names: Iterable[str]) -> None:
    """Write files that are only listed, never decoded."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def refusal(root: Path) -> str:
    with pytest.raises(UsageError) as caught:
        found(root)
    return str(caught.value)


def dynamic(root: Path) -> None:
    files(root, [f"Videos/0X{i}.avi" for i in range(4)])
    lines = ["0X0,55,TRAIN", "0X1,60,VAL", "0X2,40,TEST", "0X9,30,TRAIN"]
    write(root, "FileList.csv", "FileName,EF,Split\n" + "\n".join(lines) + "\n")
    write(root, "VolumeTracings.csv", "FileName,X1,Frame\n0X1.avi,1,2\n")


def test_echonet_dynamic_has_its_splits_and_a_patient_a_clip(tmp_path: Path) -> None:
    dynamic(tmp_path / "EchoNet-Dynamic")
    assert rows(tmp_path / "EchoNet-Dynamic") == {
        "Videos/0X0.avi": ("EchoNet-Dynamic", "", "0X0", "train"),
        "Videos/0X1.avi": ("EchoNet-Dynamic", "", "0X1", "val"),
        "Videos/0X2.avi": ("EchoNet-Dynamic", "", "0X2", "test"),
    }
    notes = found(tmp_path / "EchoNet-Dynamic").notes
    assert notes[0] == (
        "EchoNet-Dynamic is read as EchoNet: 3 files; splits: column `split` of FileList.csv (test 1, train 1, val 1); "
        "groups: each clip, one a patient."
    )
    assert notes[1:] == [
        "1 files that the list names are not there, such as 0X9: they are left out.",
        "1 other files that it does not list are left out, such as Videos/0X3.avi.",
    ]


def test_a_layout_is_recognised_wherever_it_lies(tmp_path: Path) -> None:
    dynamic(tmp_path / "heart" / "EchoNet-Dynamic")
    files(tmp_path, ["lung/covid/a.avi"])
    got = rows(tmp_path)
    assert got["heart/EchoNet-Dynamic/Videos/0X2.avi"] == ("EchoNet-Dynamic", "", "0X2", "test")
    assert got["lung/covid/a.avi"] == ("lung", "covid", "", "")


def test_echonet_pediatric_has_folds_and_patients_of_both_views(tmp_path: Path) -> None:
    for view, study in (("A4C", "CRb"), ("PSAX", "CRc")):
        names = [f"CRa{i}-{study}-{i:06d}.avi" for i in range(10)]
        files(tmp_path, [f"{view}/Videos/{name}" for name in names])
        lines = [f"{name},50,{i}" for i, name in enumerate(names)]
        write(tmp_path, f"{view}/FileList.csv", "FileName,EF,Split\n" + "\n".join(lines) + "\n")
    got = rows(tmp_path)
    assert got["A4C/Videos/CRa9-CRb-000009.avi"] == (tmp_path.name, "A4C", "CRa9", "test")
    assert got["PSAX/Videos/CRa9-CRc-000009.avi"] == (tmp_path.name, "PSAX", "CRa9", "test")
    assert [split for *_, split in got.values()] == (["train"] * 8 + ["val", "test"]) * 2
    assert "folds 0 to 7 for training, 8 for validation, 9 for test" in found(tmp_path).notes[0]
    assert set(rows(tmp_path / "PSAX").values()) <= {
        ("PSAX", "PSAX", group, split) for _, _, group, split in got.values()
    }


def test_echonet_lvh_has_several_lines_a_clip(tmp_path: Path) -> None:
    files(tmp_path, ["Batch1/0XA.avi", "Batch4/0XB.avi"])
    text = "HashedFileName,Calc,CalcValue,Frame,split\n0XA,IVSd,1.1,3,train\n0XA,LVIDd,4.1,3,train\n0XB,IVSd,1,5,test\n"
    write(tmp_path, "MeasurementsList.csv", text)
    assert {path: split for path, (*_, split) in rows(tmp_path).items()} == {
        "Batch1/0XA.avi": "train",
        "Batch4/0XB.avi": "test",
    }
    write(tmp_path, "MeasurementsList.csv", text.replace("LVIDd,4.1,3,train", "LVIDd,4.1,3,test"))
    assert "Batch1/0XA.avi is listed twice and differently (split 'train'" in refusal(tmp_path)


def test_a_split_of_echonet_that_is_not_known_is_refused(tmp_path: Path) -> None:
    dynamic(tmp_path)
    write(tmp_path, "FileList.csv", "FileName,EF,Split\n0X0,55,TRAIN\n0X1,60,EXTERNAL\n")
    assert "FileList.csv, line 3: the split 'EXTERNAL' is not known" in refusal(tmp_path)


def test_camus_in_nifti_has_subgroups_patients_and_views(tmp_path: Path) -> None:
    for patient in ("patient0001", "patient0002"):
        for view in ("2CH", "4CH"):
            for kind in ("ED", "ED_gt", "half_sequence", "half_sequence_gt"):
                files(tmp_path, [f"database_nifti/{patient}/{patient}_{view}_{kind}.nii.gz"])
            files(tmp_path, [f"database_nifti/{patient}/Info_{view}.cfg"])
    write(tmp_path, "database_split/subgroup_training.txt", "patient0001\n")
    write(tmp_path, "database_split/subgroup_testing.txt", "patient0002\n")
    got = rows(tmp_path)
    assert len(got) == 8
    place = "database_nifti/patient0002/patient0002_4CH_half_sequence.nii.gz"
    assert got[place] == (tmp_path.name, "4CH", "patient0002", "test")
    assert {group: split for _, _, group, split in got.values()} == {"patient0001": "train", "patient0002": "test"}
    assert "splits: subgroup_testing.txt, subgroup_training.txt (test 4, train 4)" in found(tmp_path).notes[0]


def test_the_older_camus_keeps_patients_of_one_number_in_training_and_testing_apart(tmp_path: Path) -> None:
    for part in ("training", "testing"):
        folder = f"{part}/patient0001/patient0001_2CH"
        files(tmp_path, [f"{folder}_{kind}" for kind in ("ED.mhd", "ED.raw", "ED_gt.mhd", "sequence.mhd")])
    got = rows(tmp_path)
    assert {(group, split) for _, _, group, split in got.values()} == {
        ("training/patient0001", "train"),
        ("testing/patient0001", "test"),
    }
    assert len(got) == 4


def test_camus_is_named_where_no_reader_takes_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from usjepa.cache.sources.layouts import registry

    monkeypatch.setattr(registry, "reader_of_file", lambda file: None)
    files(tmp_path, ["patient0001/patient0001_2CH_ED.nii.gz"])
    assert "CAMUS, of which 1 of 1 files are of a kind that is not read" in refusal(tmp_path)


@pytest.mark.parametrize("lists", [("train", "validation", "test"), ("train_val", "test")])
def test_ultrabench_gives_its_images_and_splits_and_no_masks(tmp_path: Path, lists: tuple[str, ...]) -> None:
    folder = tmp_path / "set" / "pocus_v1.0.1"
    splits = {name: [2 * i, 2 * i + 1] for i, name in enumerate(lists)}
    write_ultrabench(folder, [0, 1, 2, 0, 1, 2][: 2 * len(lists)], splits, {"source": ["a", "a", "b", "b", "c", "c"]})
    got = rows(tmp_path)
    assert len(got) == 2 * len(lists)
    last = 2 * len(lists) - 1
    classes = ("regular", "pneumonia", "covid", "regular", "pneumonia", "covid")
    assert got[f"set/pocus_v1.0.1/images/{last}.png"] == ("pocus", classes[last], "abc"[last // 2], "test")
    assert got["set/pocus_v1.0.1/images/0.png"][3] == ("train" if len(lists) == 3 else "train_val")
    assert f"{2 * len(lists)} masks of the scan are no frames." in found(tmp_path).notes


def test_ultrabench_without_its_validation_list_says_what_is_lost(tmp_path: Path) -> None:
    write_ultrabench(tmp_path, [0, 1, 0], {"train": [0], "test": [1]})
    assert any("validation.json is not there" in note for note in found(tmp_path).notes)


def test_busi_gives_images_and_no_masks(tmp_path: Path) -> None:
    for name in ("benign", "malignant", "normal"):
        for i in (1, 2):
            files(tmp_path, [f"{name}/{name} ({i}).png", f"{name}/{name} ({i})_mask.png"])
    files(tmp_path, ["benign/benign (1)_mask_1.png"])
    got = rows(tmp_path)
    assert sorted(got) == sorted(f"{n}/{n} ({i}).png" for n in ("benign", "malignant", "normal") for i in (1, 2))
    assert got["malignant/malignant (2).png"] == (tmp_path.name, "malignant", "", "")
    assert "7 other files that it does not list are left out" in found(tmp_path).notes[-1]


def test_bus_bra_gives_images_by_patient_and_no_masks(tmp_path: Path) -> None:
    write_busbra(tmp_path, [(1, "Benign"), (2, "Malignant")])
    write(tmp_path, "5-fold-cv.csv", "ID,kFold\nbus_0001-l,1\nbus_0001-r,2\n")
    got = rows(tmp_path)
    assert sorted(got) == [f"Images/bus_{name}.png" for name in ("0001-l", "0001-r", "0002-l", "0002-r")]
    assert got["Images/bus_0002-r.png"] == (tmp_path.name, "malignant", "2", "")


@pytest.mark.parametrize("parted", [" ", ",", "::", "\t"])
def test_lists_of_v_jepa_are_read_with_paths_of_another_machine(tmp_path: Path, parted: str) -> None:
    files(tmp_path, ["clips/a.mp4", "clips/b c.mp4", "other/a.mp4", "unlisted.mp4"])
    write(tmp_path, "my_train_paths.csv", f"/data/echo/clips/a.mp4{parted}0\n/data/echo/clips/b c.mp4{parted}1\n")
    write(tmp_path, "my_test_paths.csv", f"/data/echo/other/a.mp4{parted}1\n")
    assert rows(tmp_path) == {
        "clips/a.mp4": (tmp_path.name, "0", "", "train"),
        "clips/b c.mp4": (tmp_path.name, "1", "", "train"),
        "other/a.mp4": (tmp_path.name, "1", "", "test"),
    }
    one = rows_of_list(tmp_path / "my_test_paths.csv", "auto")
    assert [(entry.path, entry.split) for entry in one.entries] == [("other/a.mp4", "test")]


def test_lists_in_a_folder_of_their_own_count_for_the_files_beside_it(tmp_path: Path) -> None:
    files(tmp_path, ["videos/a.mp4", "videos/b.mp4"])
    write(tmp_path, "splits/train.txt", "a.mp4\n")
    write(tmp_path, "splits/test.txt", "videos/b.mp4\n")
    assert {path: split for path, (*_, split) in rows(tmp_path).items()} == {
        "videos/a.mp4": "train",
        "videos/b.mp4": "test",
    }
    write(tmp_path, "splits/train.txt", "id-1\n")
    write(tmp_path, "splits/test.txt", "id-2\n")
    assert "splits/test.txt: its name is that of a list of a split" in refusal(tmp_path)


def test_a_path_that_leads_to_no_file_or_to_several_is_refused(tmp_path: Path) -> None:
    files(tmp_path, ["x/a.mp4", "y/a.mp4", "b.mp4"])
    write(tmp_path, "train.txt", "b.mp4\ngone.mp4\n")
    assert "train.txt, line 2: 'gone.mp4' leads to no file" in refusal(tmp_path)
    write(tmp_path, "train.txt", "b.mp4\na.mp4\n")
    assert "a list names 'a.mp4', and 2 files are called so: x/a.mp4 and y/a.mp4" in refusal(tmp_path)


def test_a_file_in_lists_of_two_splits_is_refused(tmp_path: Path) -> None:
    files(tmp_path, ["a.mp4", "b.mp4"])
    write(tmp_path, "train.txt", "a.mp4\nb.mp4\n")
    write(tmp_path, "test.txt", "b.mp4\n")
    assert "b.mp4 is listed twice and differently" in refusal(tmp_path)


def test_hugging_face_metadata_is_read_in_the_folder_or_in_each_splits(tmp_path: Path) -> None:
    files(tmp_path, ["train/1.png", "train/2.png", "test/1.png"])
    write(tmp_path, "train/metadata.csv", "file_name,label,patient_id\n1.png,cyst,p1\n2.png,none,p1\n")
    write(tmp_path, "test/metadata.jsonl", '{"file_name": "1.png", "label": "cyst", "patient_id": 2}\n')
    assert rows(tmp_path) == {
        "test/1.png": (tmp_path.name, "cyst", "2", "test"),
        "train/1.png": (tmp_path.name, "cyst", "p1", "train"),
        "train/2.png": (tmp_path.name, "none", "p1", "train"),
    }
    (tmp_path / "train/metadata.csv").rename(tmp_path / "train/kept")
    (tmp_path / "test/metadata.jsonl").unlink()
    write(tmp_path, "metadata.csv", "file_name,split\ntrain/1.png,dev\ntest/1.png,\n")
    assert rows(tmp_path)["train/1.png"][3] == "val"
    assert rows(tmp_path)["test/1.png"][3] == "test"
    write(tmp_path, "metadata.csv", "file_name\ngone.png\n")
    assert "metadata.csv, line 2: 'gone.png' is not there" in refusal(tmp_path)


@pytest.mark.parametrize("roboflow", [False, True], ids=["coco", "roboflow"])
def test_coco_lists_give_splits_videos_and_single_classes(tmp_path: Path, roboflow: bool) -> None:
    for split, folder in (("train", "train2017"), ("test", "test2017")):
        place = split if roboflow else folder
        files(tmp_path, [f"{place}/{i}.png" for i in range(3)])
        content = {
            "images": [{"id": i, "file_name": f"{i}.png", "video_id": f"{split}{i // 2}"} for i in range(2)],
            "annotations": [{"image_id": i, "category_id": kind} for i, kind in ((0, 7), (1, 7), (1, 8))],
            "categories": [{"id": 7, "name": "cyst"}, {"id": 8, "name": "stone"}],
        }
        name = f"{split}/_annotations.coco.json" if roboflow else f"annotations/instances_{folder}.json"
        write(tmp_path, name, json.dumps(content))
    got = rows(tmp_path)
    place = "test" if roboflow else "test2017"
    assert got[f"{place}/0.png"] == (tmp_path.name, "cyst", "test0", "test")
    assert got[f"{place}/1.png"] == (tmp_path.name, "", "test0", "test")
    assert len(got) == 4
    assert "2 other files that it does not list are left out" in found(tmp_path).notes[-1]


def test_voc_lists_give_splits_and_single_classes(tmp_path: Path) -> None:
    images = [("train", ["cyst"]), ("val", ["cyst", "stone"]), ("test", ["stone"])]
    write_tn5000(tmp_path, images)
    write(tmp_path, "ImageSets/Main/trainval.txt", "000000\n000001\n")
    write(tmp_path, "ImageSets/Main/cyst_train.txt", "000000 1\n000001 -1\n")
    files(tmp_path, ["SegmentationClass/000000.png"])
    assert rows(tmp_path) == {
        "JPEGImages/000000.jpg": (tmp_path.name, "cyst", "", "train"),
        "JPEGImages/000001.jpg": (tmp_path.name, "", "", "val"),
        "JPEGImages/000002.jpg": (tmp_path.name, "stone", "", "test"),
    }
    write(tmp_path, "ImageSets/Main/train.txt", "000000\n000002\n")
    assert "000002: the lists put it into" in refusal(tmp_path)


def test_a_manifest_in_a_folder_below_counts_there(tmp_path: Path) -> None:
    files(tmp_path, ["a/x.png", "a/y.png", "b/none/z.png"])
    write(tmp_path, "a/Manifest.csv", "path;patient;split\nx.png;7;Testing\n")
    assert rows(tmp_path) == {
        "a/x.png": ("a", "", "7", "test"),
        "b/none/z.png": ("b", "none", "", ""),
    }


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("clips.csv", "clip,EF,Split\na,55,TRAIN\nb,60,TEST\n", "its column `split` holds splits"),
        ("clips.tsv", "clip\tsubset\na\ttraining\nb\ttesting\n", "its column `subset` holds splits"),
        ("clips.csv", "clip;fold\na;0\nb;1\n", "some of its columns look like splits"),
        ("test_ids.csv", "id\na\n", "its name is that of a list of a split"),
        ("splits.xlsx", "PK", "its name is that of a list of a split"),
        ("dataset.json", '{"training": [{"image": "a.png"}], "test": ["b.png"]}', '"training" looks like a split'),
        ("items.json", '[{"image": "a.png", "fold": 1}]', '"fold" of its items looks like a split'),
        ("train.txt", "a\nb\n", "its name is that of a list of a split"),
        ("items.jsonl", '{"image": "a", "split": "train"}\n{"image": "b", "split": "test"}\n', '"split" of its items'),
        ("items.json", '{"of": [{"image": "a", "split": "train"}]}', 'the key "split" of objects in it'),
        ("items.json", '{"a.png": {"label": 1, "split": "test"}}', 'the key "split" of objects in it'),
        ("items.json", '{"ids": {"train": [1, 2], "test": [3, 4]}}', 'the key "train" of objects in it'),
        ("items.json", '{"a.png": "train", "b.png": "test"}', "names of splits for values"),
        ("clips.csv", "clip,split\na,train\nb,test\nmade by hand\n", "its column `split` holds splits"),
        ("test_ids.npy", "x", "its name is that of a list of a split"),
        ("splits.mat", "x", "its name is that of a list of a split"),
        ("folds.npz", "x", "its name is that of a list of a split"),
        ("test_list.h5", "x", "its name is that of a list of a split"),
    ],
)
def test_a_list_that_may_hold_splits_and_is_not_understood_stops_the_scan(
    tmp_path: Path, name: str, text: str, reason: str
) -> None:
    files(tmp_path, ["deep/a.png", "deep/b.png"])
    write(tmp_path, name, text)
    said = refusal(tmp_path)
    assert reason in said
    assert "path,label,group,split\ndeep/a.png,,patient-1,train" in said
    assert {path for path in rows(tmp_path, "folders") if path != name} == {"deep/a.png", "deep/b.png"}


@pytest.mark.parametrize("cell", ["nan", "NaN", "NA", "n/a", "null", "<NA>"])
def test_files_whose_patient_is_missing_are_no_patient_together(tmp_path: Path, cell: str) -> None:
    """As pandas writes what is missing: one test file would make all of them test."""
    files(tmp_path, ["a.png", "b.png", "c.png"])
    write(tmp_path, "manifest.csv", f"path,patient_id,split\na.png,7,train\nb.png,{cell},train\nc.png,{cell},test\n")
    assert [row[2] for row in rows(tmp_path).values()] == ["7", "", ""]
    assert f"2 files name no patient but {cell!r}: each is grouped" in found(tmp_path).notes[-1]


def test_a_number_that_is_missing_in_lines_of_json_is_no_patient(tmp_path: Path) -> None:
    files(tmp_path, ["a.png", "b.png"])
    lines = ['{"file_name": "a.png", "patient_id": NaN}', '{"file_name": "b.png", "patient_id": null}']
    write(tmp_path, "metadata.jsonl", "\n".join(lines))
    assert [row[2] for row in rows(tmp_path).values()] == ["", ""]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_a_table_in_another_encoding_may_hold_splits_too(tmp_path: Path, encoding: str) -> None:
    """As Excel saves it: who reads it with layouts is told of the encoding, but no layout may know it."""
    files(tmp_path, ["a.png", "b.png"])
    (tmp_path / "clips.csv").write_bytes("clip,split,doctor\na,train,Müller\nb,test,Müller\n".encode(encoding))
    assert "clips.csv: its column `split` holds splits" in refusal(tmp_path)


def test_a_file_of_arrays_that_is_called_as_a_split_is_of_that_split(tmp_path: Path) -> None:
    files(tmp_path, ["X_train.npy", "X_test.npy", "clip.npy", "deep/val.npy", "test/clip.npy"])
    assert {path: row[3] for path, row in rows(tmp_path).items()} == {
        "X_train.npy": "train", "X_test.npy": "test", "clip.npy": "", "deep/val.npy": "val", "test/clip.npy": "test",
    }  # fmt: skip


def test_many_arrays_in_a_folder_are_clips_whatever_they_are_called(tmp_path: Path) -> None:
    files(tmp_path, [f"stress_test_{n:02}.npy" for n in range(51)])
    assert {row[3] for row in rows(tmp_path).values()} == {""}


def test_lists_that_say_nothing_of_splits_stop_nobody_and_patients_are_pointed_out(tmp_path: Path) -> None:
    files(tmp_path, ["a.png", "b.png", "test_1.png"])
    write(tmp_path, "clinical.csv", "id,patient_id,age\na,7,50\nb,7,50\n")
    write(tmp_path, "README.txt", "read me")
    write(tmp_path, "test_1.json", "{}")
    write(tmp_path, "broken.csv", 'a,b\n"')
    assert len(rows(tmp_path)) == 3
    assert "clinical.csv has a column `patient_id`, which may name patients" in found(tmp_path).notes[0]


def test_insisting_on_a_layout_that_is_not_there_is_refused(tmp_path: Path) -> None:
    files(tmp_path, ["a.png"])
    with pytest.raises(UsageError, match="no folder in it is of the layout 'busi'"):
        found(tmp_path, "busi")
    with pytest.raises(UsageError, match=r"cache\.layout=bussi: there is none called so; there are auto, folders, man"):
        found(tmp_path, "bussi")


def test_a_list_is_no_way_out_of_the_source(tmp_path: Path) -> None:
    pictures(tmp_path, ["secret/1.png", "in/train/a.png"])
    (tmp_path / "in/train/1.png").symlink_to(tmp_path / "secret/1.png")
    write(tmp_path, "in/train/metadata.csv", "file_name\n1.png\n")
    assert "a symbolic link leads it out of the folder" in refusal(tmp_path / "in")
    (tmp_path / "in/train/1.png").unlink()
    write(tmp_path, "in/train/metadata.csv", "file_name\n../../secret/1.png\n")
    assert "is not there" in refusal(tmp_path / "in")
