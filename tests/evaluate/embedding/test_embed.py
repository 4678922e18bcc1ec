"""Features of frames, labelled or not, reach other tools with what is known of each frame, whole or not at all."""

from __future__ import annotations

import csv
import json
import signal
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from click.testing import CliRunner, Result

from tests.support.builds import pictures, small, tree
from tests.support.evaluations import export_run
from tests.support.labelled import File, write_labelled
from tests.support.processes import forked
from usjepa.cache.reading.store import open_store
from usjepa.evaluate.cli import main
from usjepa.evaluate.embedding.frames import find_frames
from usjepa.evaluate.encoders.finished_run import open_run, run_recipe
from usjepa.evaluate.encoders.models import ModelEncoder
from usjepa.train.record.export import load_encoder

if TYPE_CHECKING:
    from pathlib import Path

FILES = [File(label, f"=p{n}", split="train") for n in range(3) for label in ("benign", "malign")]
ONE_AT_A_TIME = ("--set", "evaluate.encode_batch_size=1")
KNOWN = ["row", "path", "frame", "dataset", "group", "label", "split"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a store of six labelled frames (two views each) and a run on it."""
    write_labelled(tmp_path / "s.zarr", FILES, views=2)
    export_run(tmp_path / "run", tmp_path / "s.zarr")
    return tmp_path


def embed(*words: object) -> Result:
    return CliRunner().invoke(main, ["embed", *map(str, words)])


def wanted(place: Path) -> np.ndarray:
    """The features of the whole frames, computed directly."""
    run, store = open_run(place / "run"), open_store(str(place / "s.zarr"))
    encoder = ModelEncoder("x", run.input, run.encoder, lambda: load_encoder(place / "run")[0], "cpu")
    return encoder.features(store.read(store.rows[store.table.view == 0], layers=("pixels",)))


def features_in(out: Path) -> tuple[np.ndarray, dict[str, list[Any]]]:
    """Read a file of any kind back as a stranger would: features, and the other columns."""
    if out.suffix == ".parquet":
        table = pq.read_table(out)
        return np.array(table["features"].to_pylist(), np.float32), {name: table[name].to_pylist() for name in KNOWN}
    if out.suffix == ".zarr":
        group: Any = zarr.open_group(str(out), mode="r")
        return np.asarray(group["features"][:]), {name: group[name][:].tolist() for name in KNOWN}
    lines = list(csv.DictReader(out.with_suffix(".csv").read_text().splitlines()))
    known: dict[str, list[Any]] = {name: [line[name] for line in lines] for name in KNOWN}
    known |= {name: [int(value) for value in known[name]] for name in ("row", "frame")}
    if out.suffix == ".npy":
        return np.load(out), known
    return np.array([[line[f"f{i}"] for i in range(len(line) - len(KNOWN))] for line in lines], np.float32), known


@pytest.mark.parametrize("name", ["f.parquet", "f.npy", "f.csv", "f.zarr"])
def test_a_file_holds_the_features_of_each_whole_frame_beside_what_is_known_of_it(place: Path, name: str) -> None:
    done = embed(place / "run", place / "s.zarr", "-o", place / name)
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-1].endswith("6 frames x 192 features")
    found, known = features_in(place / name)
    np.testing.assert_allclose(found, wanted(place), rtol=0, atol=1e-6)
    assert found.dtype == np.float32
    assert known["row"] == [0, 2, 4, 6, 8, 10]
    assert known["label"] == ["benign", "malign"] * 3
    assert known["dataset"] == ["toy"] * 6
    assert known["split"] == ["train"] * 6
    mark = "'" if name in {"f.npy", "f.csv"} else ""  # a spreadsheet would compute it
    assert known["group"] == [f"{mark}=p{n}" for n in range(3) for _ in range(2)]
    assert not (place / f"{name}.work").exists()


def test_parquet_and_zarr_name_the_encoder_whose_features_they_are(place: Path) -> None:
    for name in ("f.parquet", "f.zarr"):
        embed(place / "run", place / "s.zarr", "-o", place / name)
    kept: Any = dict(zarr.open_group(str(place / "f.zarr"), mode="r").attrs)
    told = json.loads(pq.read_schema(place / "f.parquet").metadata[b"usjepa.encoder"])
    assert told["encoder"] == kept["encoder"]["encoder"]
    assert told["store"] == open_store(str(place / "s.zarr")).content_digest(("pixels",))


def test_frames_without_labels_in_a_folder_are_embedded_as_the_runs_recipe_cuts_them(place: Path) -> None:
    pictures(place / "in", ["a/1.png", "a/2.png", "b/1.png"])
    done = embed(place / "run", place / "in", "-o", place / "f.parquet")
    assert done.exit_code == 0, done.output
    found, known = features_in(place / "f.parquet")
    assert found.shape == (3, 192)
    assert sorted(known["path"]) == ["a/1.png", "a/2.png", "b/1.png"]
    assert np.isfinite(found).all()


def test_the_poolings_of_an_evaluation_hold_here(place: Path) -> None:
    embed(place / "run", place / "s.zarr", "-o", place / "f.npy", "--set", "evaluate.pooling=mean+max")
    found = np.load(place / "f.npy")
    assert found.shape == (6, 384)
    np.testing.assert_allclose(found[:, :192], wanted(place), rtol=0, atol=1e-6)


def test_another_encoder_asks_for_the_recipe_that_prepares_frames(place: Path) -> None:
    done = embed("resnet18", place / "s.zarr", "-o", place / "f.npy")
    assert done.exit_code == 2
    assert "--pipeline" in done.output
    done = embed("test_vit", place / "s.zarr", "-o", place / "f.npy", "--pipeline", "demo")
    assert done.exit_code == 0, done.output
    assert np.load(place / "f.npy").shape == (6, 128)


@pytest.mark.parametrize(
    ("name", "told"),
    [("f.txt", ".parquet, .npy, .csv, .zarr"), ("f", ".parquet"), ("folder.npy", "a folder"), ("s.zarr", "exists")],
)
def test_a_place_that_can_not_be_written_is_refused_before_the_work(place: Path, name: str, told: str) -> None:
    (place / "folder.npy").mkdir()
    before = tree(place)
    done = embed(place / "run", place / "s.zarr", "-o", place / name)
    assert done.exit_code == 2
    assert told in done.output
    assert tree(place) == before


def test_a_source_that_is_not_there_or_holds_nothing_is_named(place: Path) -> None:
    (place / "empty").mkdir()
    for source in ("none", "empty"):
        done = embed(place / "run", place / source, "-o", place / "f.npy")
        assert done.exit_code in (1, 2)
        assert str(place / source) in done.output
        assert "Traceback" not in done.output


def killed(place: str, step: int, number: int) -> None:
    forked.signal_at_durable_step(step, signal.Signals(number))
    words = ["embed", f"{place}/run", f"{place}/s.zarr", "-o", f"{place}/f.csv", *ONE_AT_A_TIME]
    main.main(words, standalone_mode=False)


@pytest.mark.parametrize("step", [1, 12, 18])
def test_a_killed_call_goes_on_and_leaves_the_bytes_of_an_undisturbed_one(place: Path, step: int) -> None:
    assert forked.run(killed, str(place), step, signal.SIGKILL) == -signal.SIGKILL
    assert not (place / "f.csv").exists()
    assert embed(place / "run", place / "s.zarr", "-o", place / "f.csv", *ONE_AT_A_TIME).exit_code == 0
    embed(place / "run", place / "s.zarr", "-o", place / "g.csv", *ONE_AT_A_TIME)
    assert (place / "f.csv").read_bytes() == (place / "g.csv").read_bytes()
    assert not (place / "f.csv.work").exists()


def test_frames_that_a_stopped_call_cut_of_other_files_are_not_in_the_file(place: Path) -> None:
    pictures(place / "other", ["x/1.png", "x/2.png"])
    pictures(place / "in", ["a/1.png", "a/2.png", "b/1.png"])
    recipe = run_recipe(place / "run")
    for source in ("other", "in"):  # as calls leave it that were stopped behind the cutting
        find_frames(str(place / source), place / "f.npy.work", recipe)
    (place / "in/b/1.png").unlink()
    assert embed(place / "run", place / "in", "-o", place / "f.npy").exit_code == 0
    _, known = features_in(place / "f.npy")
    assert sorted(known["path"]) == ["a/1.png", "a/2.png"]
    assert not (place / "f.npy.work").exists()


def test_the_spacing_of_frames_goes_along_where_it_is_known(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.random.default_rng(0).integers(0, 255, (48, 32), np.uint8), np.eye(4))
    image.header.set_zooms((0.25, 0.5))
    (tmp_path / "in").mkdir()
    image.to_filename(tmp_path / "in/a.nii")
    pictures(tmp_path / "in", ["b.png"])
    columns = find_frames(str(tmp_path / "in"), tmp_path, small("cache.preprocess.text=keep")).columns()
    assert columns["spacing_down"].tolist() == pytest.approx([0.5 * 32 / 32, np.nan], nan_ok=True)
    assert columns["spacing_across"].tolist() == pytest.approx([0.25 * 48 / 32, np.nan], nan_ok=True)
