"""Claims about `--regress` on clips as EchoNet-Dynamic lists them: EF per clip, and nothing done twice."""

from __future__ import annotations

import html
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support.evaluations import FAST, SIZE, Place, call, export_run
from tests.support.files.clips import write_clip
from tests.support.labelled import File, patients, write_labelled

if TYPE_CHECKING:
    from pathlib import Path

CLIPS = 12
BY_CLIP = (*FAST, "--set", "evaluate.unit=clip", "--set", "evaluate.baselines=[pixels,hog]")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Write a run, and clips that get brighter downwards with their EF, the longer the higher."""
    folder = tmp_path_factory.mktemp("regress")
    write_labelled(folder / "store.zarr", patients(2, ["cyst", "none"]), size=SIZE)
    export_run(folder / "run", folder / "store.zarr")
    heart, rng = folder / "EchoNet-Dynamic", np.random.default_rng(0)
    (heart / "Videos").mkdir(parents=True)
    lines = ["FileName,EF,ESV,EDV,Split"]
    for i in range(CLIPS):
        ef = 25.5 + 4 * i
        frames = rng.integers(20, 90, (2 + i % 3, 48, 48, 1)).repeat(3, axis=3)
        frames[:, : int(ef / 80 * 48)] += 120
        write_clip(heart / "Videos" / f"0X{i:X}.avi", frames.astype(np.uint8), "mjpeg", "yuvj420p")
        lines.append(f"0X{i:X},{ef},20,100,{('TRAIN', 'TRAIN', 'VAL', 'TEST')[i % 4]}")
    (heart / "FileList.csv").write_text("\n".join(lines) + "\n")
    return Place(folder / "run", heart)


@pytest.fixture(scope="module")
def report(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    result = call(place.run, "--regress", place.store, "-o", out, *BY_CLIP)
    assert result.exit_code == 0, result.output
    assert "EchoNet-Dynamic: EF, % (clip)" in result.stdout
    assert "Mean of the training values" in result.stdout
    return out


def kept(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "scores.json").read_text())
    return found


def test_each_clip_counts_once_with_the_lists_splits_and_the_mean_of_its_frames_predictions(
    place: Place, report: Path, tmp_path: Path
) -> None:
    scores = kept(report)
    (task,) = scores["regression"]["tasks"]
    assert (task["quantity"], task["unit"], task["scored"]) == ("EF", "%", "clip")
    assert {split: (one["items"], one["frames"]) for split, one in task["counts"].items()} == {
        "train": (6, 18),
        "validation": (3, 9),
        "test": (3, 9),
    }
    assert task["test"]["values"] == "37.5 53.5 69.5"
    assert task["split_origin"]["test"] == "given by the data"
    told = call(place.run, "--regress", place.store, "-o", tmp_path, *BY_CLIP, "--set", "evaluate.unit=frame").stdout
    assert "EF, % (frame)" in told
    by_frame = kept(tmp_path)["regression"]
    clips = np.array([float(word) for word in by_frame["tasks"][0]["test"]["values"].split()])
    alike = 0
    for one, frame in zip(scores["regression"]["scores"], by_frame["scores"], strict=True):
        if one["probes"]["ridge"]["about"]["strength"] == frame["probes"]["ridge"]["about"]["strength"]:
            said = np.array([float(word) for word in frame["probes"]["ridge"]["predicted"][0].split()])
            mine = np.array([float(word) for word in one["probes"]["ridge"]["predicted"][0].split()])
            assert mine == pytest.approx([said[clips == ef].mean() for ef in (37.5, 53.5, 69.5)], rel=1e-5)
            alike += 1
    assert alike  # where frames and clips choose another strength, their predictions are others


def test_a_second_call_does_nothing_and_the_same_inputs_give_the_same_bytes(
    place: Place, report: Path, tmp_path: Path
) -> None:
    assert "nothing is done again" in call(place.run, "--regress", place.store, "-o", report, *BY_CLIP).stderr
    assert call(place.run, "--regress", place.store, "-o", tmp_path, *BY_CLIP).exit_code == 0
    for name in ("index.html", "scores.json", "scores.csv", "table.tex"):
        assert (tmp_path / name).read_bytes() == (report / name).read_bytes()


def test_a_report_of_numbers_shows_three_clips_by_their_error(report: Path) -> None:
    text = html.unescape((report / "index.html").read_text())
    first = text[text.index('<div class="trio">') : text.index('<h2 id="scores">')]
    for why in ("Nearest to the truth", "Farthest from the truth", "Of middling error"):
        assert why in first
    assert sorted(re.findall(r"true ([\d.]+) %", first)) == ["37.5", "53.5", "69.5"]
    assert first.count("The same frame under the colours of its patches") == 3


def test_another_unit_or_column_is_another_report(place: Place, report: Path) -> None:
    digests = {kept(report)["inputs_digest"]}
    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.evaluate.encoders.encoders import Encoders
    from usjepa.evaluate.encoders.finished_run import open_run, run_recipe
    from usjepa.evaluate.scoring.evaluation import wanted_probes
    from usjepa.evaluate.scoring.inputs import Inputs
    from usjepa.evaluate.tasks.find import Found
    from usjepa.evaluate.tasks.regression import open_regressions

    base, run = run_recipe(place.run), open_run(place.run)
    for column in ("#EF", "#ESV"):
        for change in ({}, {"unit": "clip"}, {"unit": "clip", "gather": "features"}):
            changed = {**base.model_dump(), "evaluate": {**base.evaluate.model_dump(), **change}}
            recipe = Recipe.model_validate(changed)
            tasks = tuple(open_regressions([f"{place.store}{column}"], report, recipe))
            made = Inputs(
                run, recipe, Encoders(run, recipe, "cpu"), wanted_probes(recipe.evaluate), Found([], []), (), tasks
            )
            digests.add(made.digest)
    assert len(digests) == 7


def test_a_cell_that_is_no_number_ends_with_2_before_anything_is_cut(place: Place, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    (wrong / "Videos").mkdir(parents=True)
    (wrong / "Videos" / "0X0.avi").write_bytes((place.store / "Videos" / "0X0.avi").read_bytes())
    (wrong / "FileList.csv").write_text("FileName,EF,Split\n0X0,high,TRAIN\n")
    result = call(place.run, "--regress", wrong, "-o", tmp_path / "out", *FAST)
    assert result.exit_code == 2
    assert "FileList.csv, line 2, ef: 'high' is no number." in result.stderr
    assert not (tmp_path / "out").exists()


def test_without_anything_to_score_on_the_options_are_named(place: Place, tmp_path: Path) -> None:
    result = call(place.run, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "nothing to score on: give --task, --regress or --segment" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        pytest.param(
            ["55.5"] * 8, "R² and Pearson's r are undefined: all true values of the test are equal", id="flat"
        ),
        pytest.param(["40.5", "61"], "all predictions are equal", id="two patients"),
    ],
)
def test_numbers_that_leave_measures_undefined_make_a_report_that_says_so(
    place: Place, tmp_path: Path, labels: list[str], told: str
) -> None:
    write_labelled(tmp_path / "s.zarr", [File(label, f"p{i}") for i, label in enumerate(labels)], size=SIZE)
    result = call(place.run, "--regress", tmp_path / "s.zarr", "-o", tmp_path / "out", *FAST)
    assert result.exit_code == 0, result.output
    scores = kept(tmp_path / "out")
    assert len(scores["regression"]["scores"]) >= 4
    for one in scores["regression"]["scores"]:
        measures = one["probes"]["ridge"]["measures"]
        assert "pearson" not in measures
        assert measures["mae"]["mean"] == (0 if len(set(labels)) == 1 else 20.5)
    assert any("undefined" in note for note in scores["notes"])
    page = (tmp_path / "out" / "index.html").read_text()
    assert "undefined" in page
    if len(labels) == 2:
        assert measures["mae"]["interval"] is None  # one test patient: there is nobody to draw anew
        assert any("1 group" in note for note in scores["regression"]["tasks"][0]["notes"])
    else:
        assert told in page.replace("&#39;", "'")
    for name in ("scores.json", "scores.csv", "table.tex"):
        assert "nan" not in (tmp_path / "out" / name).read_text().lower()
