"""A foreign labelled set probed while a run trains: it changes no number, and the best encoder by it is kept."""

from __future__ import annotations

import json
import math
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from tests.support.labelled import File, patients, write_labelled, write_pictures
from tests.support.processes import forked
from tests.support.runs import EVERY_STEP, numbers, recipe
from tests.train.run.test_keeping import encoders
from usjepa.cache.errors import DamageError, UsageError
from usjepa.cache.reading.store import open_store
from usjepa.evaluate.encoders.finished_run import open_run
from usjepa.train.probe.probe_set import ProbeSet
from usjepa.train.record.curve import draw_curve
from usjepa.train.record.history import History
from usjepa.train.record.log import read_log
from usjepa.train.run import probing
from usjepa.train.run.loop import train

if TYPE_CHECKING:
    from pathlib import Path

TESTED = [File("a", "t1", "test", "foreign"), File("b", "t2", "test", "foreign")]
FOREIGN = [TESTED[0], *patients(6, ("a", "b"), dataset="foreign"), TESTED[1]]


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("hospital") / "foreign", FOREIGN)


def in_child(store: Path, run: Path, *overrides: str) -> None:
    torch.set_num_threads(1)
    train(str(store), str(run), recipe(*overrides), "cpu")


def killed(store: Path, run: Path, at: int, *overrides: str) -> None:
    forked.die_at_durable_step(at)
    in_child(store, run, *overrides)


@pytest.fixture(scope="module")
def run(phantom_store: Path, foreign: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a probe, and the encoder of each epoch beside that of the best."""
    folder = tmp_path_factory.mktemp("probed") / "run"
    more = (f"train.probe={foreign}", "train.keep_every=1", "train.tensorboard=true")
    assert forked.run(in_child, phantom_store, folder, *more) == 0
    return folder


def test_the_log_has_a_line_before_training_and_after_every_epoch(run: Path) -> None:
    lines = numbers(run, "probe")
    assert [(line["epoch"], line["step"]) for line in lines] == [(-1, 0), (0, 5), (1, 10), (2, 15)]
    assert {(line["frames"], line["groups"]) for line in lines} == {(12, 6)}
    assert all(0 <= line["macro_f1"] <= 1 and line["macro_f1_sd"] >= 0 for line in lines)
    assert all(line["seconds"] > 0 for line in read_log(run / "log.jsonl") if line["kind"] == "probe")


def test_the_best_is_the_first_of_the_highest_score_and_never_the_untrained(run: Path) -> None:
    lines = numbers(run, "probe")
    best = max(lines[1:], key=lambda line: line["macro_f1"])
    assert [line for line in lines if line["best"]][-1] == best
    assert not lines[0]["best"]
    kept = encoders(run)
    assert kept["best-probe"] == kept[f"epoch-{best['epoch'] + 1:04d}"]
    assert kept["lowest-loss"] == (run / "model.safetensors").read_bytes()
    told = json.loads((run / "encoders" / "best-probe" / "config.json").read_text())["usjepa"]
    assert told["kept"]["probe"]["macro_f1"] == best["macro_f1"]
    assert told["trained"] == {"steps": best["step"], "epochs": best["epoch"] + 1}


def test_a_probe_changes_no_loss_no_weight_and_no_global_draw(run: Path, phantom_store: Path, tmp_path: Path) -> None:
    assert forked.run(in_child, phantom_store, tmp_path / "run") == 0
    for kind in ("step", "validation"):
        assert numbers(tmp_path / "run", kind) == numbers(run, kind)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_no_frame_of_the_test_split_is_even_cut_and_the_best_encoder_tells_what_chose_it(run: Path) -> None:
    (cut,) = (run / "probe").glob("*.zarr")
    files = {source.content_hash for source in open_store(str(cut)).table.sources}
    assert open_run(run / "encoders" / "best-probe").chosen_on == files
    assert not open_run(run / "encoders" / "epoch-0001").chosen_on
    assert {source.group for source in open_store(str(cut)).table.sources} == {f"patient-{i}" for i in range(6)}


def test_events_curve_and_page_show_the_foreign_probe_beside_the_own(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    told = [event.value for event in events.Scalars("probe/macro_f1")]
    assert told == pytest.approx([line["macro_f1"] for line in numbers(run, "probe")])
    history = History()
    for line in read_log(run / "log.jsonl"):
        history.add(line)
    with_probe = draw_curve(history, 5)
    page = (run / "index.html").read_text()
    assert f"{told[-1]:.4g}" in page
    assert page.count("Probe on the foreign set, macro F1") >= 2
    history.probes = []
    assert with_probe != draw_curve(history, 5)


def test_the_card_the_recipe_and_the_best_encoder_do_not_name_the_folder_above_the_set(
    run: Path, foreign: Path
) -> None:
    for folder in (run, run / "encoders" / "best-probe"):
        for name in ("README.md", "recipe.json", "config.json"):
            assert str(foreign.parent) not in (folder / name).read_text()
    assert str(foreign.parent) not in (run / "index.html").read_text()
    assert json.loads((run / "recipe.json").read_text())["train"]["probe"] == "foreign"
    assert "probe on the foreign set: macro F1" in (run / "README.md").read_text()


@pytest.fixture(scope="module")
def probed(phantom_store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store of labelled frames, and a run that was probed on it without a stop."""
    folder = tmp_path_factory.mktemp("killed")
    write_labelled(folder / "set.zarr", FOREIGN)
    assert forked.run(in_child, phantom_store, folder / "run", f"train.probe={folder / 'set.zarr'}") == 0
    return folder / "set.zarr", folder / "run"


@pytest.mark.parametrize("at", [57, *(pytest.param(at, marks=pytest.mark.slow) for at in (24, 69, *range(25, 100, 3)))])
def test_a_run_killed_at_any_durable_step_ends_with_the_same_log_and_the_same_encoders(
    probed: tuple[Path, Path], phantom_store: Path, tmp_path: Path, at: int
) -> None:
    labelled, undisturbed = probed
    more = (f"train.probe={labelled}", EVERY_STEP)
    assert forked.run(killed, phantom_store, tmp_path / "run", at, *more) == -9
    encoders(tmp_path / "run")  # each that has a name is whole
    assert forked.run(in_child, phantom_store, tmp_path / "run", *more) == 0
    for kind in ("step", "validation", "probe"):
        assert numbers(tmp_path / "run", kind) == numbers(undisturbed, kind)
    assert encoders(tmp_path / "run") == encoders(undisturbed)
    assert sorted(path.name for path in (tmp_path / "run" / "encoders").iterdir()) == ["best-probe", "lowest-loss"]


def test_a_kill_between_the_two_renames_of_the_best_is_mended_by_the_next_call(
    probed: tuple[Path, Path], phantom_store: Path, tmp_path: Path
) -> None:
    labelled, undisturbed = probed
    run = shutil.copytree(undisturbed, tmp_path / "run")
    (run / "encoders" / "best-probe").rename(run / "encoders" / f".best-probe.{'0' * 32}.tmp")
    assert forked.run(in_child, phantom_store, run, f"train.probe={labelled}") == 0
    assert encoders(run) == encoders(undisturbed)
    assert sorted(path.name for path in (run / "encoders").iterdir()) == ["best-probe", "lowest-loss"]


def test_a_score_is_what_an_evaluation_gives_of_the_kept_encoder(phantom_store: Path, tmp_path: Path) -> None:
    """Fitted on the training split and scored on the validation split: the evaluation's parts, one split further."""
    from usjepa.evaluate.encoders.named import named_encoders
    from usjepa.evaluate.probes.base import Part
    from usjepa.evaluate.scores.metrics import score
    from usjepa.train.probe.logistic import fit_logistic
    from usjepa.train.probe.scaler import fit_scaler

    files = [
        File(label, f"{split}{i}", split) for split, n in (("train", 8), ("val", 5)) for i in range(n) for label in "ab"
    ]
    files += [File("a", "x", "test"), File("b", "y", "test")]
    noisy = np.random.default_rng(0).integers(0, 256, (len(files), 1, 32, 32)).astype("u1")
    store = write_labelled(tmp_path / "set.zarr", files, pixels=noisy)
    train(str(phantom_store), str(tmp_path / "run"), recipe(f"train.probe={store.location}"), "cpu")
    (named,) = named_encoders((str(tmp_path / "run" / "encoders" / "best-probe"),), recipe(), "cpu")
    assert named.key == "run-best-probe"
    x, split = named.encoder.features(store.read(store.rows)), np.array([file.split for file in files])
    y = np.array([file.label == "b" for file in files]).astype(np.int64)
    scaler = fit_scaler(x[split == "train"])
    fitted, scored = (Part(scaler(x[split == part]), y[split == part]) for part in ("train", "val"))
    predicted = fit_logistic(fitted.x, fitted.y, recipe().evaluate.logistic_c)[0].predict(scored.x)
    best = [line for line in numbers(tmp_path / "run", "probe") if line["best"]][-1]
    assert best["macro_f1"] == pytest.approx(score(scored.y, predicted, 2).macro_f1, abs=1e-4)
    assert best["frames"] == len(scored)


# -- refused, or said --------------------------------------------------------------------------------------------------


def test_what_can_not_be_probed_is_refused_before_anything_is_trained(
    phantom_store: Path, tmp_path: Path, foreign: Path
) -> None:
    write_labelled(tmp_path / "plain.zarr", [File("", f"{i}") for i in range(8)])
    write_labelled(tmp_path / "two.zarr", [*patients(4, "ab"), *patients(4, "cd", dataset="other")])
    for place, told in (
        ("nowhere", "nowhere: no such store, folder, file or manifest"),
        (str(tmp_path / "plain.zarr"), "found: no label.*a folder per class, a manifest CSV"),
        (str(tmp_path / "two.zarr"), "2 labelled datasets, other, toy.*Name one: .*two.zarr::other"),
        (f"{tmp_path / 'two.zarr'}::third", "no dataset 'third'; it holds other, toy"),
        (f"{foreign}::third", "no dataset 'third'; it holds foreign"),
    ):
        with pytest.raises(UsageError, match=told):
            train(str(phantom_store), str(tmp_path / "run"), recipe(f"train.probe={place}"), "cpu")
        assert not (tmp_path / "run" / "state").exists()
    train(str(phantom_store), str(tmp_path / "run"), recipe(f"train.probe={tmp_path / 'two.zarr'}::other"), "cpu", 1)
    assert numbers(tmp_path / "run", "probe")


def test_a_folder_that_is_gone_is_said_at_the_resume_which_goes_on_without(
    phantom_store: Path, foreign: Path, tmp_path: Path
) -> None:
    probe = f"train.probe={shutil.copytree(foreign, tmp_path / 'set')}"
    train(str(phantom_store), str(tmp_path / "run"), recipe(probe), "cpu", stop_after_steps=1)
    shutil.rmtree(tmp_path / "set")
    with pytest.raises(UsageError, match=r"no such store, folder, file or manifest.*train.probe=null"):
        train(str(phantom_store), str(tmp_path / "run"), recipe(probe), "cpu")
    train(str(phantom_store), str(tmp_path / "run"), recipe(), "cpu")
    assert len(numbers(tmp_path / "run")) == 15


def test_more_frames_than_fit_in_memory_are_refused() -> None:
    with pytest.raises(UsageError, match=r"probe_frames.*100000"):
        recipe("train.probe_frames=1000000")


def test_frames_that_are_trained_on_are_said_by_content_and_patients_by_name(
    phantom_store: Path, foreign: Path, tmp_path: Path, said: list[str]
) -> None:
    train(str(phantom_store), str(tmp_path / "one"), recipe(f"train.probe={foreign}"), "cpu", stop_after_steps=1)
    assert not any("take part in the training" in line for line in said)
    assert any(
        "12 frames of 6 groups are scored (a 6, b 6), from 5 folds of whole groups; a constant guess" in line
        for line in said
    )
    assert any("2 files of its test split are not looked at" in line for line in said)
    sources = open_store(str(phantom_store)).table.sources
    known = next(source for source in sources if source.split != "test")
    files = [*patients(4, "ab"), File("a", known.group, dataset=known.dataset, content=known.content_hash)]
    files = [File(f.label, f.group, f.split, known.dataset, f.content) for f in files]
    write_labelled(tmp_path / "set.zarr", files)
    probe = f"train.probe={tmp_path / 'set.zarr'}"
    train(
        str(phantom_store), str(tmp_path / "two"), recipe(probe, "evaluate.test_fraction=0"), "cpu", stop_after_steps=1
    )
    assert any("1 of its 9 files take part in the training" in line for line in said)
    assert any("1 of its 5 named groups (patients, clips) have frames in the training" in line for line in said)


def test_features_that_are_not_finite_and_frames_that_can_not_be_read_end_no_training(
    phantom_store: Path, probed: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    real, calls = ProbeSet.score, 0

    def score(probe: ProbeSet, features: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise DamageError("shard 0 is damaged")
        return real(probe, features if calls != 3 else lambda pixels: features(pixels) * np.float32(math.nan))

    monkeypatch.setattr(ProbeSet, "score", score)
    train(str(phantom_store), str(tmp_path / "run"), recipe(f"train.probe={probed[0]}"), "cpu")
    assert [line["epoch"] for line in numbers(tmp_path / "run", "probe")] == [-1, 2]
    assert numbers(tmp_path / "run", "probe")[-1]["best"]
    assert any("none after epoch 1, its frames can't be read: shard 0 is damaged" in line for line in said)
    assert any("none after epoch 2, the encoder's features are not finite" in line for line in said)


@pytest.mark.slow
def test_scores_of_a_set_that_changed_are_not_compared(
    phantom_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    for name, count in (("one", 5), ("two", 6)):
        write_labelled(tmp_path / f"{name}.zarr", patients(count, "ab"))
    scores = iter([0.3, 0.9, 0.5, 0.6])
    monkeypatch.setattr(probing, "_scored", lambda *_: probing_score(next(scores)))
    train(str(phantom_store), str(tmp_path / "run"), recipe(f"train.probe={tmp_path / 'one.zarr'}"), "cpu", 7)
    train(str(phantom_store), str(tmp_path / "run"), recipe(f"train.probe={tmp_path / 'two.zarr'}"), "cpu")
    assert [line["best"] for line in numbers(tmp_path / "run", "probe")] == [False, True, True, True]
    assert any("have changed since epoch 1, the best so far: the best is sought anew" in line for line in said)
    assert any("the foreign set changed on the way" in line for line in said)


def probing_score(value: float) -> Any:
    from usjepa.train.probe.scoring import ProbeScore

    return ProbeScore(value, 0.05, 0.5)


def test_equal_scores_leave_the_earlier_encoder_and_the_summary_compares_with_the_lowest_loss(
    phantom_store: Path, probed: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    scores = iter([0.7, 0.6, 0.65, 0.65])
    monkeypatch.setattr(probing, "_scored", lambda *_: probing_score(next(scores)))
    train(str(phantom_store), str(tmp_path / "run"), recipe(f"train.probe={probed[0]}"), "cpu")
    told = json.loads((tmp_path / "run" / "encoders" / "best-probe" / "config.json").read_text())["usjepa"]
    assert told["trained"]["epochs"] == 2
    assert any(
        "70.0 ± 5.0 % before training, 65.0 ± 5.0 % at the end, best 65.0 ± 5.0 % after epoch 2" in s for s in said
    )
    assert any("the highest of 3 looks at 6 groups, so it flatters" in line for line in said)
    assert any("no epoch beats the untrained weights there" in line for line in said)
    assert any(
        "of lowest validation loss has 65.0 ± 5.0 % there: the difference is within one deviation" in s for s in said
    )


def test_every_second_epoch_and_the_last_are_probed_also_where_nothing_is_held_out(
    phantom_store: Path, probed: tuple[Path, Path], tmp_path: Path
) -> None:
    more = (f"train.probe={probed[0]}", "train.probe_every=2", "train.validation_fraction=0")
    train(str(phantom_store), str(tmp_path / "run"), recipe(*more), "cpu")
    assert [line["epoch"] for line in numbers(tmp_path / "run", "probe")] == [-1, 1, 2]
    assert numbers(tmp_path / "run", "validation") == []
    assert list(encoders(tmp_path / "run")) == ["best-probe"]


@pytest.mark.slow
def test_a_log_that_was_lost_gets_its_probes_from_the_checkpoint(
    phantom_store: Path, probed: tuple[Path, Path], tmp_path: Path
) -> None:
    probe = f"train.probe={probed[0]}"
    train(str(phantom_store), str(tmp_path / "run"), recipe(probe), "cpu", stop_after_steps=12)
    before = numbers(tmp_path / "run", "probe")
    (tmp_path / "run" / "log.jsonl").unlink()
    train(str(phantom_store), str(tmp_path / "run"), recipe(probe), "cpu")
    assert numbers(tmp_path / "run", "probe")[:3] == before
    assert [line["kind"] for line in read_log(tmp_path / "run" / "log.jsonl")][:5] == [
        "probe", "lost", "validation", "probe", "lost",
    ]  # fmt: skip


@pytest.mark.slow
def test_two_ranks_cut_and_probe_as_one_does(phantom_store: Path, foreign: Path, run: Path, tmp_path: Path) -> None:
    from tests.train.run.test_ranks import command, run_ranks

    run_ranks(2, command(phantom_store, tmp_path / "run", f"train.probe={foreign}"), tmp_path)
    lines, alone = numbers(tmp_path / "run", "probe"), numbers(run, "probe")
    assert lines[0] == alone[0]
    assert [line["epoch"] for line in lines] == [line["epoch"] for line in alone]
    assert list(encoders(tmp_path / "run")) == ["best-probe", "lowest-loss"]
