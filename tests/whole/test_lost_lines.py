"""A report's curve has each loss at its epoch, whatever lines of the log were lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.runs import numbers, recipe
from usjepa.evaluate.encoders.finished_run import open_run
from usjepa.train.run.loop import train

if TYPE_CHECKING:
    from pathlib import Path


def test_a_run_without_validations_that_lost_its_log_tells_each_loss_at_its_epoch(
    phantom_store: Path, tmp_path: Path
) -> None:
    settings, run = recipe("train.validation_fraction=0", "train.epochs=2"), tmp_path / "run"
    train(str(phantom_store), str(tmp_path / "whole"), settings, "cpu")
    epoch = len(numbers(tmp_path / "whole")) // 2
    train(str(phantom_store), str(run), settings, "cpu", epoch + 2)
    (run / "log.jsonl").unlink()
    train(str(phantom_store), str(run), settings, "cpu")
    gaps = [(line["step"], line["steps"], line["epoch"]) for line in numbers(run, "lost")]
    assert gaps == [(0, epoch, 0), (epoch, 2, 1)]
    assert open_run(run).curve().train == open_run(tmp_path / "whole").curve().train[epoch + 2 :]
