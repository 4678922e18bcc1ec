"""Claims about the whole evaluation: five encoders, one page, nothing redone, and messages that say what to do."""

from __future__ import annotations

import csv
import io
import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.evaluations import FAST, SIZE, Place, add_latents, call, export_run
from tests.support.labelled import patients, write_labelled
from usjepa.cache.errors import DamageError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("evaluate")
    write_labelled(folder / "store.zarr", patients(16, ["cyst", "none", "stone"]), size=SIZE)
    add_latents(folder / "store.zarr")
    export_run(folder / "run", folder / "store.zarr")
    return Place(folder / "run", folder / "store.zarr")


@pytest.fixture(scope="module")
def report(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    result = call(place.run, "--task", place.store, "-o", out, *FAST)
    assert result.exit_code == 0, result.output
    return out


def test_six_encoders_are_scored_and_shown(report: Path) -> None:
    scores = json.loads((report / "scores.json").read_text())
    expected = ["student", "teacher", "random", "pixels", "hog", "hog-pooled"]
    assert [s["encoder"] for s in scores["scores"]] == expected
    for scored in scores["scores"]:
        assert len(scored["probes"]["probe"]["measures"]["macro_f1"]["seeds"]) == 2
    assert scores["settings"]["seeds"] == 2
    assert scores["settings"]["lr"] == 1e-3
    page = (report / "index.html").read_text()
    for told in ("Its teacher (random weights)", "data:image/png;base64,", "polyline", "held-out patients"):
        assert told in page


def test_a_device_that_torch_does_not_know_is_refused(place: Place, tmp_path: Path) -> None:
    result = call(place.run, "--task", place.store, "-o", tmp_path, "--device", "gpu", *FAST)
    assert result.exit_code == 2, result.output
    assert "--device gpu: not usable here" in result.output


def test_the_table_is_printed_with_the_place_of_the_page(place: Place, report: Path) -> None:
    result = call(place.run, "--task", place.store, "-o", report, *FAST)
    for told in ("Student (this run)", "Raw pixels", "Constant guess", f"{report}/index.html"):
        assert told in result.stdout


def test_a_second_call_redoes_nothing_and_says_so(place: Place, report: Path) -> None:
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in report.rglob("*") if path.is_file()}
    result = call(place.run, "--task", place.store, "-o", report, *FAST)
    assert "nothing is done again" in result.stderr
    assert before == {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in report.rglob("*") if path.is_file()
    }


def test_the_same_inputs_give_the_same_bytes_elsewhere(place: Place, report: Path, tmp_path: Path) -> None:
    assert call(place.run, "--task", place.store, "-o", tmp_path, *FAST).exit_code == 0
    for name in ("index.html", "scores.json", "scores.csv", "table.tex"):
        assert (tmp_path / name).read_bytes() == (report / name).read_bytes()


@pytest.mark.parametrize("name", ["index.html", "scores.csv", "table.tex"])
def test_a_file_that_was_changed_or_lost_is_made_again_from_kept_features(
    place: Place, report: Path, name: str
) -> None:
    whole = (report / name).read_bytes()
    if name == "index.html":
        (report / name).write_bytes(whole + b" ")
    else:
        (report / name).unlink()
    kept = {path: path.stat().st_mtime_ns for path in (report / "features").iterdir()}
    call(place.run, "--task", place.store, "-o", report, *FAST)
    assert (report / name).read_bytes() == whole
    assert kept == {path: path.stat().st_mtime_ns for path in (report / "features").iterdir()}


def test_calibration_stands_in_scores_and_csv(report: Path) -> None:
    scores = json.loads((report / "scores.json").read_text())
    lines = list(csv.DictReader(io.StringIO((report / "scores.csv").read_text())))
    for scored in scores["scores"]:
        told = scored["probes"]["probe"]["calibration"]
        assert told["frames"] == scores["tasks"][0]["counts"]["test"]["frames"]
        for state, classifier in (("raw", "probe"), ("tempered", "probe, tempered")):
            for measure in ("ece", "brier", "log_loss"):
                (line,) = [
                    one
                    for one in lines
                    if (one["encoder"], one["classifier"], one["measure"], one["statistic"])
                    == (scored["encoder"], classifier, measure, "mean")
                ]
                assert float(line["value"]) == told[state][measure]["mean"]


def test_the_students_features_are_those_of_plain_timm(place: Place, report: Path) -> None:
    import timm
    from safetensors.torch import load_file

    from usjepa.cache.reading.store import open_store
    from usjepa.evaluate.encoders.encoders import Encoders
    from usjepa.evaluate.encoders.finished_run import open_run, run_recipe
    from usjepa.evaluate.tasks.find import open_tasks

    recipe = run_recipe(place.run)
    (task,) = open_tasks([str(place.store)], report, recipe).tasks
    encoder, _ = Encoders(open_run(place.run), recipe, "cpu").make("student", task.store)
    assert encoder is not None
    batch = open_store(place.store).read([0, 5, 9], layers=("pixels",))
    config = json.loads((place.run / "config.json").read_text())
    model: Any = timm.create_model(config["architecture"], num_classes=0, **config["model_args"]).eval()
    model.load_state_dict(load_file(place.run / "model.safetensors"), strict=True)
    mean, std = (torch.tensor(config["pretrained_cfg"][key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        tokens = model.forward_features((torch.from_numpy(batch.pixels).expand(-1, 3, -1, -1) / 255 - mean) / std)
    assert np.allclose(encoder.features(batch), tokens[:, 1:].mean(1).numpy(), atol=1e-5)


def test_another_draw_of_random_weights_gives_other_features_under_another_identity(place: Place) -> None:
    from usjepa.cache.reading.store import open_store
    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.evaluate.encoders.encoders import Encoders
    from usjepa.evaluate.encoders.finished_run import open_run

    store = open_store(place.store)
    batch = store.read(store.rows[:3], layers=("pixels",))
    found = []
    for seed in (0, 0, 1):
        recipe = Recipe.model_validate({"evaluate": {"random_seed": seed}})
        encoder, _ = Encoders(open_run(place.run), recipe, "cpu").make("random", store)
        assert encoder is not None
        found.append((encoder.identity, encoder.features(batch)))
    assert found[0][0] == found[1][0] != found[2][0]
    assert np.array_equal(found[0][1], found[1][1])
    assert not np.allclose(found[0][1], found[2][1])


def test_the_teacher_asked_live_gives_what_its_stored_latents_give(place: Place, tmp_path: Path) -> None:
    from usjepa.cache.reading.store import open_store
    from usjepa.evaluate.encoders.finished_run import open_run, run_recipe
    from usjepa.evaluate.encoders.teachers import LiveTeacher, StoredTeacher, Teachers

    bare = write_labelled(tmp_path / "bare.zarr", patients(4, ["cyst", "none"]), size=SIZE)
    teachers = Teachers(open_run(place.run).teacher, run_recipe(place.run).cache.teacher, "cpu")
    assert teachers.is_random
    live, _ = teachers.make(bare)
    stored, _ = teachers.make(open_store(place.store))
    assert isinstance(live, LiveTeacher)
    assert isinstance(stored, StoredTeacher)
    both = open_store(place.store).read([1, 2], layers=("pixels", "latents/tiny"))
    assert np.allclose(live.features(both), stored.features(both), atol=2e-3)


def test_a_teacher_that_is_another_one_is_left_out_with_the_reason(place: Place, tmp_path: Path) -> None:
    bare = tmp_path / "bare.zarr"
    write_labelled(bare, patients(12, ["cyst", "none"]), size=SIZE)
    result = call(place.run, "--task", bare, "-o", tmp_path / "out", *FAST, "--set", "cache.teacher.seed=5")
    assert result.exit_code == 0
    assert "Its teacher is left out" in result.stderr
    assert "left out" in (tmp_path / "out" / "index.html").read_text()


def test_test_frames_that_training_saw_are_told(place: Place, report: Path) -> None:
    # The store brings no split along, so training excluded none of what is tested on here.
    notes = json.loads((report / "scores.json").read_text())["notes"]
    assert any("took part in the encoder's training" in note for note in notes)


@pytest.mark.slow
def test_class_folders_are_cut_into_a_store_once(place: Place, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label in ("benign", "malignant"):
        (tmp_path / "breast" / label).mkdir(parents=True)
        for i in range(14):
            frame = rng.integers(20, 120 if label == "benign" else 250, (48, 48)).astype(np.uint8)
            Image.fromarray(frame).save(tmp_path / "breast" / label / f"{i}.png")
    arguments = (place.run, "--task", tmp_path / "breast", "-o", tmp_path / "out", *FAST)
    assert call(*arguments).exit_code == 0
    (cut,) = (tmp_path / "out" / "tasks").glob("breast-*.zarr")
    assert sorted(path.name for path in cut.iterdir() if path.name in ("pixels", "latents")) == ["pixels"]
    assert "nothing is done again" in call(*arguments).stderr
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["tasks"][0]["classes"] == ["benign", "malignant"]


@pytest.mark.parametrize("lacking", ["model.safetensors", "config.json"])
def test_a_run_that_is_not_finished_is_refused_with_the_command_to_finish_it(
    place: Place, tmp_path: Path, lacking: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(place.run, run)
    (run / lacking).unlink()
    result = call(run, "--task", place.store, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert f"no {lacking}: its training has not finished" in result.stderr
    assert f"usjepa-train STORE {run}" in result.stderr
    assert not (tmp_path / "out").exists()


def test_wrong_use_ends_with_2_and_says_what_to_do(place: Place, tmp_path: Path) -> None:
    wrong = {
        ("nowhere", "--task", place.store): "no such folder",
        (place.run, "--task", tmp_path / "nothing"): "no such store, folder or manifest",
        (place.run, "--task", place.store, "--set", "evaluate.seed=1"): "did you mean 'seeds'?",
        (place.run, "--task", place.store, "--recipes", "mine.yaml"): "--pipeline NAME",
        (place.run,): "--task",
    }
    for arguments, told in wrong.items():
        result = call(*arguments, "-o", tmp_path / "out")
        assert result.exit_code == 2, result.output
        assert told in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_damaged_log_is_named(place: Place, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(place.run, run)
    (run / "log.jsonl").write_text("{\n")
    result = call(run, "--task", place.store, "-o", tmp_path / "out", *FAST)
    assert result.exit_code == DamageError.exit_code
    assert "log.jsonl: line 1 (byte 0) is not as usjepa-train wrote it" in result.stderr
    assert not (tmp_path / "out").exists()
