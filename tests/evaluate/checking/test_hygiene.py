"""Claims about hygiene in the report: what makes a score meaningless stands on the page and in scores.json."""

from __future__ import annotations

import html
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.evaluations import FAST, call, export_run
from tests.support.labelled import File, write_labelled
from tests.support.scoring import scored
from usjepa.cache.recipes.evaluate import EvaluateSettings
from usjepa.evaluate.report.compose import _constant
from usjepa.evaluate.scoring.evaluation import wanted_probes
from usjepa.evaluate.tasks.find import find_tasks

if TYPE_CHECKING:
    from pathlib import Path


def test_a_probe_that_learnt_nothing_scores_the_papers_42_1_on_fatty_liver_and_it_is_told(tmp_path: Path) -> None:
    # The published split's counts: 140 and 300 to train on, 30 and 80 to test on.
    files = [File("steatosis" if i % 22 > 6 else "normal", f"p{i // 10}", "train") for i in range(440)]
    files += [File("steatosis" if i > 29 else "normal", f"t{i // 10}", "test") for i in range(110)]
    (task,) = find_tasks(write_labelled(tmp_path / "s.zarr", files), EvaluateSettings()).tasks
    settings = EvaluateSettings(seeds=2, epochs=20)
    blind = scored(task, np.ones((len(task.rows), 4), np.float32), settings, tmp_path / "blind")
    assert blind.record.macro_f1.mean == pytest.approx(0.421, abs=5e-4)
    assert _constant(blind, wanted_probes(settings)) == [
        "Linear probe on Given gives every test frame the same class (2 of 2 seeds).",
        "Logistic regression on Given gives every test frame the same class.",
        "Logistic regression, fixed strength on Given gives every test frame the same class.",
        "k-NN on Given gives every test frame the same class.",
    ]
    seeing, settings = np.eye(2, dtype=np.float32)[task.labels], settings.model_copy(update={"lr": 0.05})
    assert _constant(scored(task, seeing, settings, tmp_path / "seeing"), wanted_probes(settings)) == []


def test_all_that_is_wrong_with_labels_stands_on_the_page_and_in_the_scores(tmp_path: Path) -> None:
    files = [File("ab"[i % 2], f"p{i}", "train") for i in range(30)]
    files += [File("ab"[i % 2], f"v{i}", "val") for i in range(6)]
    files += [File("ab"[i % 3 == 0], f"t{i // 4}", "test") for i in range(12)]
    files += [File("c", "rare", "train"), File("", "u"), File("", "u")]
    # One picture under all labels: no encoder can do more than be constant.
    picture = np.random.default_rng(0).integers(0, 255, (1, 32, 32)).astype(np.uint8)
    write_labelled(tmp_path / "store.zarr", files, pixels=np.repeat(picture[None], len(files), axis=0))
    export_run(tmp_path / "run", tmp_path / "store.zarr")
    fast = (*FAST, "--set", "evaluate.baselines=[pixels]")
    result = call(tmp_path / "run", "--task", tmp_path / "store.zarr", "-o", tmp_path / "out", *fast)
    assert result.exit_code == 0, result.output
    page, scores = html.unescape((tmp_path / "out" / "index.html").read_text()), (tmp_path / "out" / "scores.json")
    document = json.loads(scores.read_text())
    for sentence in (
        "2 of 51 frames have no label and are left out.",
        "Too few examples: c is trained on 1 frames of 1 group.",
        "Too few examples: a is tested on 8 frames of 3 groups",
        "No example of c in test.",
        "Labels contradict each other: 49 identical frames have different labels.",
        "Leak: 12 of 12 test frames also lie in training or validation",
        "Linear probe on Raw pixels gives every test frame the same class (2 of 2 seeds).",
        "k-NN on Student (this run) gives every test frame the same class.",
        "Few patients: the test split has 3 groups.",
    ):
        assert sentence in page, sentence
        told = [*document["notes"], *document["tasks"][0]["notes"]]
        assert any(sentence in note for note in told), sentence
