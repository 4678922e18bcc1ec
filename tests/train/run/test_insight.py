"""What a run tells beside its loss: rank, k-NN, events, a summary to act on, an explosion named, a model card."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from tests.support.runs import latents_of, losses, numbers, recipe
from usjepa.cache.errors import TrainingError, UsageError
from usjepa.train.record.history import History
from usjepa.train.record.summary import summary
from usjepa.train.run import loop
from usjepa.train.run.insight import _macro_f1, _rank_me
from usjepa.train.run.loop import train
from usjepa.train.run.step import train_step

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from usjepa.train.data.batches import TrainBatch
    from usjepa.train.run.computing import Learner
    from usjepa.train.run.step import StepResult


def test_rankme_counts_equally_strong_directions() -> None:
    directions = np.linalg.qr(np.random.default_rng(0).standard_normal((64, 12)))[0]
    for rank in (1, 3, 12):
        assert _rank_me(directions[:, :rank].astype(np.float32)) == pytest.approx(rank, rel=1e-3)


def test_rankme_of_collapsed_features_is_1() -> None:
    assert _rank_me(np.ones((32, 8), np.float32)) == pytest.approx(1.0, rel=1e-3)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
def test_macro_f1_is_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    true, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    assert _macro_f1(true, predicted) == pytest.approx(f1_score(true, predicted, average="macro", zero_division=0))


@pytest.fixture(scope="module")
def run(phantom_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    train(str(phantom_store), str(folder), recipe("train.knn_every=2", "train.tensorboard=true"), "cpu")
    return folder


def test_validation_lines_tell_rank_spread_targets_and_every_second_epoch_and_the_last_a_probe(run: Path) -> None:
    lines = numbers(run, "validation")
    for line in lines:
        assert 1 <= line["rankme"] <= 10  # 10 frames are held out
        assert line["feature_std"] > 0
        assert line["target_std"] > 0
    assert [0 <= line["knn"] <= 1 if "knn" in line else None for line in lines] == [None, True, True]


def test_target_statistics_are_those_of_the_latents_at_the_masked_places(run: Path) -> None:
    lines = numbers(run, "validation")
    assert len({(line["target_mean"], line["target_std"]) for line in lines}) == 1  # masks and frames stay the same


def test_events_hold_what_the_log_holds(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    told = {event.step: event.value for event in events.Scalars("train/loss")}
    assert told == pytest.approx({line["step"]: line["loss"] for line in numbers(run)}, rel=1e-6)
    assert {"train/images_per_s", "train/data_wait_s", "train/lr", "train/wd", "train/grad_norm"} <= set(
        events.Tags()["scalars"]
    )
    assert [event.value for event in events.Scalars("validation/rankme")] == pytest.approx(
        [line["rankme"] for line in numbers(run, "validation")], rel=1e-6
    )


def test_events_of_a_run_that_was_stopped_and_called_again_when_finished_hold_every_line_once(
    phantom_store: Path, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for stop in (5, 2, 3, None, None):  # at the end of an epoch, within one, at its end, to the end, and once more
        train(str(phantom_store), str(tmp_path / "run"), recipe("train.tensorboard=true"), "cpu", stop)
    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    for name, kind in (("train/loss", "step"), ("validation/loss", "validation"), ("validation/rankme", "validation")):
        wanted = [(line["step"], line[name.split("/")[1]]) for line in numbers(tmp_path / "run", kind)]
        assert [(event.step, event.value) for event in events.Scalars(name)] == [
            (step, pytest.approx(value, rel=1e-6)) for step, value in wanted
        ]


def test_without_the_package_events_are_refused_and_nothing_else(
    phantom_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match=r"pip install 'usjepa\[tensorboard\]'"):
        train(str(phantom_store), str(tmp_path / "run"), recipe("train.tensorboard=true"), "cpu")


def test_an_exploding_loss_stops_before_the_weights_change_and_names_its_rows(
    phantom_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = train_step
    seen: dict[str, Any] = {}

    def exploding(learner: Learner, parts: list[TrainBatch], images: int, limit: float) -> StepResult:
        if parts[0].step == 24:
            seen.update({name: p.detach().clone() for name, p in learner.model.named_parameters()})
            seen["model"], seen["rows"] = learner.model, parts[0].rows_B
            parts = [replace(part, latents_BTD=latents_of(part) * 1e4) for part in parts]
        return real(learner, parts, images, limit)

    monkeypatch.setattr(loop, "train_step", exploding)
    with pytest.raises(TrainingError, match=r"step 24 .*exploded: see train\.explosion.*rows of the batch") as caught:
        train(str(phantom_store), str(tmp_path / "run"), recipe("train.epochs=6"), "cpu")
    assert all(str(row) in str(caught.value) for row in seen["rows"])
    parameters = dict(seen["model"].named_parameters())
    assert all(torch.equal(parameters[name], seen[name]) for name in parameters)


def test_the_card_names_teacher_store_recipe_and_how_it_went(run: Path, phantom_store: Path) -> None:
    card = (run / "README.md").read_text()
    told = json.loads((run / "config.json").read_text())["usjepa"]
    assert told["store"]["digest"] in card
    assert told["identity"]["teacher"]["teacher"]["weights"] in card
    assert "lowest validation loss" in card
    assert "library_name: timm" in card
    assert '"epochs": 3' in card


def test_the_cards_code_loads_the_encoder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (run / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(run)
    names: dict[str, Any] = {"images": torch.zeros(2, 3, 32, 32)}
    exec(code, names)
    assert names["tokens"].shape == (2, 16, names["model"].num_features)
    torch.testing.assert_close(names["features"], names["tokens"].mean(1))


def history_of(
    validation_losses: Sequence[float], wait: float = 0.0, unusable: int = 0, ranks: Sequence[float] | None = None
) -> History:
    steps: list[Any] = [
        {"kind": "step", "step": i, "epoch": 0, "loss": 1.0, "images": 10, "unusable": unusable, "images_per_s": 100.0,
         "data_wait_s": wait} for i in range(4)
    ]  # fmt: skip
    checks: list[Any] = [
        {"kind": "validation", "epoch": i, "loss": loss, **({} if ranks is None else {"rankme": ranks[i]})}
        for i, loss in enumerate(validation_losses)
    ]
    history = History()
    for line in steps + checks:
        history.add(line)
    return history


@pytest.mark.parametrize(
    ("history", "told"),
    [
        (history_of([3.0, 2.0, 1.0]), "still falling at the end"),
        (history_of([3.0, 1.0, 2.0]), "it rose by 100 % afterwards"),
        (history_of([1.0], wait=0.05), "50 % of the time was spent waiting for the store"),
        (history_of([1.0], unusable=10), "50.0 % of the images had too small a region"),
        (history_of([3.0, 2.0, 1.0], ranks=[9, 10, 3]), "encoder is collapsing"),
        (history_of([]), "there is no validation loss"),
    ],
)
def test_the_summary_says_what_is_to_be_done(history: History, told: str) -> None:
    assert any(told in line for line in summary(history, 3))


def test_a_healthy_run_gets_no_advice() -> None:
    told = summary(history_of([3.0, 1.0, 1.01], ranks=[5, 9, 9]), 3)
    assert len(told) == 3
    assert not any("lower" in line or "raise" in line for line in told[:1])


def test_losses_of_a_run_do_not_depend_on_what_is_measured_beside(
    run: Path, phantom_store: Path, tmp_path: Path
) -> None:
    train(str(phantom_store), str(tmp_path / "run"), recipe("train.knn_every=0"), "cpu")
    assert losses(tmp_path / "run") == losses(run)
    assert math.isfinite(losses(run)[-1])
