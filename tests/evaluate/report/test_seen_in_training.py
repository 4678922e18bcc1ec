"""Test frames that an encoder saw in training are told, whatever became of the store since."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.evaluations import call, export_run
from tests.support.files.damage import flip
from tests.support.files.published import write_image, write_mask
from tests.support.labelled import patients, write_labelled
from tests.support.runs import TINY_STORE, recipe
from tests.support.several import cut
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.errors import DamageError
from usjepa.cache.reading.store import open_store
from usjepa.cache.recipes.evaluate import EvaluateSettings
from usjepa.cache.recipes.recipe import load_recipe
from usjepa.cache.upkeep.audit import audit
from usjepa.cache.upkeep.repair import repair
from usjepa.evaluate.encoders.finished_run import FinishedRun, open_run
from usjepa.evaluate.report.seen_in_training import chosen_by, seen_in_training
from usjepa.evaluate.tasks.find import find_tasks
from usjepa.train.record.export import EncoderConfig
from usjepa.train.record.trained_on import CHOSEN_ON, TRAINED_ON, hashes_text
from usjepa.train.run.loop import train

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from usjepa.cache.identity import Json
    from usjepa.cache.reading.store import Store
    from usjepa.evaluate.tasks.task import Task

QUICK = [f"--set=evaluate.{one}" for one in ("seeds=1", "epochs=2", "bootstrap=0", "few_shot=[]", "corruptions=[]")]
QUICK.append("--set=evaluate.baselines=[]")


@pytest.fixture
def store(phantom_store: Path, tmp_path: Path) -> Path:
    shutil.copytree(phantom_store, tmp_path / "store.zarr")
    return tmp_path / "store.zarr"


def run_on(folder: Path, store: Store, content: bool = True) -> FinishedRun:
    """Return a run as one trained on the store exports it; without `content`, as earlier versions did."""
    told: dict[str, Json] = {"generation": store.generation, "digest": store.digest}
    if content:
        told["content"] = store.content_digest()
    extra = {"store": told, "identity": {"train": {"exclude_splits": []}}}
    return FinishedRun(
        folder, EncoderConfig("test_vit", {"img_size": 32}, (0.5,) * 3, (0.5,) * 3, extra), "0" * 32, None
    )


def task_of(store: Path) -> Task:
    (task,) = find_tasks(open_store(store), EvaluateSettings()).tasks
    return task


def audited(store: Path) -> None:
    audit(str(store), load_recipe("demo", TINY_STORE), "random", rows=8)


def repaired(store: Path) -> None:
    damaged = store / "pixels" / "c.1.0.0.0"
    flip(damaged, 100)
    repair(str(store), load_recipe("demo", TINY_STORE), None)


def with_another_teacher(store: Path) -> None:
    build(str(store), load_recipe("demo", [*TINY_STORE, "cache.teacher.name=other"]), BuildRequest(teacher="random"))


CHANGES = [audited, repaired, with_another_teacher]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("content", [True, False], ids=["run", "run of an earlier version"])
def test_what_does_not_change_rows_does_not_hide_that_they_were_seen(
    store: Path, tmp_path: Path, change: Callable[[Path], None], content: bool
) -> None:
    run = run_on(tmp_path, open_store(store), content)
    before = seen_in_training(run, task_of(store))
    assert "test frames took part in the encoder's training" in before
    change(store)
    assert open_store(store).generation == 2
    assert seen_in_training(run, task_of(store)) == before


def grown(store: Path) -> None:
    more = [text.replace("patients=6", "patients=9") for text in TINY_STORE]
    build(str(store), load_recipe("demo", more), BuildRequest(source="phantom", teacher="random"))


def test_of_a_store_that_grew_since_the_frames_of_then_were_seen(store: Path, tmp_path: Path) -> None:
    run = run_on(tmp_path, open_store(store))
    count = seen_in_training(run, task_of(store)).split(" of ")[0]
    grown(store)
    assert len(open_store(store)) > 120
    assert seen_in_training(run, task_of(store)).startswith(f"{count} of ")


def trained(folder: Path, store: Store, sources: range) -> FinishedRun:
    """Return a run that names the files of some sources as those it was trained on."""
    run = run_on(folder / "run", store)
    run.folder.mkdir()
    hashes = [store.table.sources[number].content_hash for number in sources]
    (run.folder / TRAINED_ON).write_bytes(hashes_text(hashes))
    return run


def test_frames_of_the_same_files_are_known_again_in_any_store(store: Path, tmp_path: Path) -> None:
    opened = open_store(store)
    run = trained(tmp_path, opened, range(len(opened.table.sources)))
    again = tmp_path / "again.zarr"
    build(str(again), load_recipe("demo", [*TINY_STORE, "cache.image_size=48"]))
    assert seen_in_training(run, task_of(again)) == seen_in_training(run, task_of(store))
    assert seen_in_training(run, task_of(again)).startswith("10 of 10 test frames took part")
    other = tmp_path / "other.zarr"
    build(str(other), load_recipe("demo", [*TINY_STORE, "cache.phantom.seed=5"]))
    assert seen_in_training(run, task_of(other)) == ""


def test_test_frames_that_helped_to_choose_the_encoder_are_told(store: Path, tmp_path: Path) -> None:
    opened = open_store(str(store))
    run = trained(tmp_path, opened, range(0))
    assert chosen_by(run, task_of(store)) == ""
    (run.folder / CHOSEN_ON).write_bytes(hashes_text(source.content_hash for source in opened.table.sources))
    again = replace(run)  # what was read is kept
    told = chosen_by(again, task_of(store))
    assert "10 of 10 test frames helped to choose this encoder" in told
    assert seen_in_training(again, task_of(store)) == ""


def test_numbers_and_masks_tell_of_seen_test_frames_as_classes_do(tmp_path: Path) -> None:
    write_labelled(tmp_path / "store.zarr", patients(4, ["x", "y"]), size=32)
    export_run(tmp_path / "run", tmp_path / "store.zarr")
    lines = ["path,label,group,split,mask,ef"]
    for i in range(16):
        write_image(tmp_path / "set" / f"a{i}.png", i)
        write_mask(tmp_path / "set" / "outlines" / f"m{i}.png", (1,), i)
        lines.append(f"a{i}.png,{'xy'[i % 2]},p{i},{'train' if i < 8 else 'test'},outlines/m{i}.png,{i}.5")
    (tmp_path / "set" / "manifest.csv").write_text("\n".join(lines) + "\n")
    place = tmp_path / "set" / "manifest.csv"
    given = (tmp_path / "run", "--task", place, "--segment", place, "--regress", f"{place}#ef", *QUICK)
    assert call(*given, "-o", tmp_path / "before").exit_code == 0
    (cut_store, *_) = [open_store(one) for one in (tmp_path / "before" / "tasks").glob("*.zarr")]
    hashes = hashes_text({source.content_hash for source in cut_store.table.sources})
    for name in (TRAINED_ON, CHOSEN_ON):
        (tmp_path / "run" / name).write_bytes(hashes)
    assert call(*given, "-o", tmp_path / "after").exit_code == 0
    found = [json.loads((tmp_path / name / "scores.json").read_text()) for name in ("before", "after")]
    for told in ("8 of 8 test frames took part", "8 of 8 test frames helped to choose"):
        notes = [[note for note in one["notes"] if told in note] for one in found]
        assert notes[0] == []
        kinds = (found[1]["tasks"], found[1]["regression"]["tasks"], found[1]["segmentation"]["tasks"])
        assert [note.split(f": {told}")[0] for note in notes[1]] == [task["name"] for (task,) in kinds]


def test_test_frames_that_training_left_out_were_not_seen(store: Path, tmp_path: Path) -> None:
    opened = open_store(store)
    kept = [n for n in range(len(opened.table.sources)) if opened.table.sources[n].split != "test"]
    assert 0 < len(kept) < len(opened.table.sources)
    run = trained(tmp_path, opened, range(0))
    (run.folder / TRAINED_ON).write_bytes(hashes_text(opened.table.sources[n].content_hash for n in kept))
    assert seen_in_training(run, task_of(store)) == ""


def test_frames_of_every_store_that_a_run_was_trained_on_are_known_again(phantom_store: Path, tmp_path: Path) -> None:
    whole = open_store(phantom_store)
    middle = int(np.median(whole.rows[whole.table.split == "test"]))
    parts = [str(part) for part in cut(phantom_store, tmp_path, middle, len(whole))]
    settings = recipe("train.epochs=1", "train.warmup_epochs=0", "train.exclude_splits=[]")
    seen = []
    for name, stores in (("both", parts), ("first", parts[:1]), ("second", parts[1:])):
        train(stores, str(tmp_path / name), settings, "cpu")
        note = seen_in_training(open_run(tmp_path / name), task_of(phantom_store))
        seen.append(int(note.split(" of 10 test frames took part")[0]))
    assert seen[0] == 10
    assert 0 < min(seen[1:]) <= max(seen[1:]) < 10


def test_a_list_of_files_that_was_cut_is_refused(store: Path, tmp_path: Path) -> None:
    run = trained(tmp_path, open_store(store), range(3))
    path = run.folder / TRAINED_ON
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamageError, match="it was cut"):
        seen_in_training(run, task_of(store))


def test_of_an_earlier_versions_run_another_store_can_not_be_compared(store: Path, tmp_path: Path) -> None:
    run = run_on(tmp_path, open_store(store))
    other = tmp_path / "other.zarr"
    build(str(other), load_recipe("demo", [*TINY_STORE, "cache.phantom.seed=5"]))
    assert "can't be told: it was trained on another store" in seen_in_training(run, task_of(other))


def test_where_nothing_can_be_compared_that_is_told(store: Path, tmp_path: Path) -> None:
    run = run_on(tmp_path, open_store(store), content=False)
    audited(store)
    (store / "manifests" / "000001.json").unlink()
    assert "can't be told" in seen_in_training(run, task_of(store))
    nowhere = FinishedRun(tmp_path, EncoderConfig("test_vit", {}, (), (), {}), "0" * 32, None)
    assert "can't be told" in seen_in_training(nowhere, task_of(store))
