"""Claims about the attentive probe: it is textbook cross-attention, finds what a mean drowns, and has bounds."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from tests.support.evaluations import FAST, add_latents, call, export_run
from tests.support.labelled import patients, write_labelled
from tests.support.scoring import probe_input, scoring
from usjepa.cache.recipes.evaluate import EvaluateSettings
from usjepa.evaluate.probes.attentive import AttentivePooling, AttentiveProbe, _heads_of, train_attentive
from usjepa.evaluate.probes.base import NotScoredError, Part
from usjepa.evaluate.probes.fitting import Fitting
from usjepa.evaluate.probes.scaler import fit_scaler, fit_token_scaler, scale_in_place
from usjepa.evaluate.scores.bootstrap import Draws
from usjepa.evaluate.tasks.find import find_tasks

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.cache.reading.batch import Batch
    from usjepa.evaluate.scoring.encoder import ProbeScores
    from usjepa.evaluate.tasks.task import Task

SETTINGS = EvaluateSettings(seeds=2, epochs=40, lr=1e-2, batch_size=16, encode_batch_size=8, attentive=True)


def test_the_folded_form_is_torchs_multi_head_attention_in_logits_and_gradients() -> None:
    probe = AttentivePooling(128, 5, seed=3)
    with torch.no_grad():
        probe.query_HE.mul_(100.0)  # so that attention is far from even
    plain = torch.nn.MultiheadAttention(128, 2, bias=False, batch_first=True)
    query = probe.query_HE.detach().reshape(1, 1, 128).clone().requires_grad_()
    with torch.no_grad():
        key, value = (part.reshape(128, 128) for part in (probe.key_HED, probe.value_HED))
        plain.in_proj_weight.copy_(torch.cat([torch.eye(128), key, value]))
        plain.out_proj.weight.copy_(torch.eye(128))
    x = torch.randn(6, 9, 128, generator=torch.Generator().manual_seed(0))
    gathered, attention = plain(query.expand(6, 1, 128), x, x, average_attn_weights=False)
    logits = gathered[:, 0] @ probe.weight_DC + probe.bias_C
    assert float(attention.detach().max()) > 0.5
    assert torch.allclose(probe.attention(x), attention[:, :, 0], atol=1e-5)
    assert torch.allclose(probe(x), logits, atol=1e-5)
    y = torch.arange(6) % 5
    for made in (probe(x), logits):
        torch.nn.functional.cross_entropy(made, y).backward()
    assert query.grad is not None
    assert probe.query_HE.grad is not None
    assert plain.in_proj_weight.grad is not None
    assert torch.allclose(probe.query_HE.grad.reshape(-1), query.grad.reshape(-1), atol=1e-6)
    ours = torch.cat(
        [part.grad.reshape(128, 128) for part in (probe.key_HED, probe.value_HED) if part.grad is not None]
    )
    assert torch.allclose(ours, plain.in_proj_weight.grad[128:], atol=1e-5)


def test_an_untrained_probe_looks_nearly_everywhere_alike_and_seeds_differ() -> None:
    x = torch.randn(4, 49, 192, generator=torch.Generator().manual_seed(1))
    first, again, other = (AttentivePooling(192, 3, seed) for seed in (0, 0, 1))
    assert float((first.attention(x).detach() * 49 - 1).abs().max()) < 0.5
    assert torch.equal(first(x), again(x))
    assert not torch.equal(first(x), other(x))


def test_heads_have_64_features_or_the_next_larger_share() -> None:
    assert [_heads_of(features) for features in (768, 192, 64, 6, 100, 200)] == [12, 3, 1, 1, 1, 2]


def needles(
    count: int, seed: int, tokens: int = 49, features: int = 16
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return tokens of noise, one of which, anywhere, says the class: loud in a direction of its own."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    x = rng.standard_normal((count, tokens, features)).astype(np.float32)
    place = rng.integers(0, tokens, count)
    x[np.arange(count), place, 0] = 8.0
    x[np.arange(count), place, 1] = np.where(labels, 3.0, -3.0)
    return x, labels


def test_a_finding_in_one_patch_is_found_where_the_mean_drowns_it() -> None:
    (x, y), (held, held_y), (test, test_y) = (needles(count, seed) for seed, count in enumerate((400, 100, 300)))
    settings = EvaluateSettings(lr=1e-2, epochs=40)
    trained = train_attentive(Part(x, y), Part(held, held_y), 2, Fitting(settings, 0))
    right = float((trained.model.logits(torch.from_numpy(test)).argmax(dim=1).numpy() == test_y).mean())
    assert right > 0.95
    assert 1 <= trained.best_epoch <= trained.epochs <= 40
    # The best that any linear layer makes of the mean: the two classes lie 6 / 49 apart in noise of 1 / 7.
    from sklearn.linear_model import LogisticRegression

    mean = LogisticRegression().fit(x.mean(1), y).score(test.mean(1), test_y)
    assert mean < 0.75


def test_training_stops_early_keeps_the_best_epoch_and_is_the_same_each_time() -> None:
    (x, y), (held, _) = needles(60, 0), needles(40, 1)
    wrong = np.random.default_rng(2).integers(0, 2, 40)
    settings = EvaluateSettings(lr=1e-2, patience=3)
    first, again = (train_attentive(Part(x, y), Part(held, wrong), 2, Fitting(settings, 1)) for _ in range(2))
    assert first.epochs - first.best_epoch == 3
    both = zip(first.model.parameters(), again.model.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in both)


def test_the_token_scaler_is_that_of_all_tokens_at_once_and_silences_constant_features() -> None:
    rng = np.random.default_rng(0)
    tokens = (rng.standard_normal((150, 4, 3)) * [1, 1000, 0] + [5, 0, 7]).astype(np.float32)
    whole, pieces = fit_scaler(tokens.reshape(-1, 3)), fit_token_scaler(tokens)
    assert np.allclose(whole.mean, pieces.mean, rtol=1e-6)
    assert np.allclose(whole.scale, pieces.scale, rtol=1e-6)
    assert np.allclose(scale_in_place(tokens, pieces).std(axis=(0, 1)), [1, 1, 0], atol=1e-5)


@dataclass
class Corner:
    """An encoder whose tokens hold the class in one place that depends on the frame; it counts what it is asked."""

    task: Task
    name: str = "corner"
    pooling: str = "mean of patch tokens"
    given: str = "labels"
    layers: tuple[str, ...] = ("pixels",)
    identity: dict[str, Json] = field(default_factory=lambda: {"kind": "corner"})
    asked: int = 0

    def tokens(self, batch: Batch) -> NDArray[np.float32]:
        self.asked += len(batch.rows)
        labels = self.task.labels[np.searchsorted(self.task.rows, batch.rows)]
        made = [np.random.default_rng(row).standard_normal((6, 6, 8)) for row in batch.rows]
        for one, label, row in zip(made, labels, batch.rows, strict=True):
            one[row % 6, row // 6 % 6] = 10.0 * np.eye(8)[0] + 6.0 * np.eye(8)[1 + label]
        return np.stack(made).astype(np.float32)

    def features(self, batch: Batch) -> NDArray[np.float32]:
        return self.tokens(batch).mean(axis=(1, 2))


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    root = tmp_path_factory.mktemp("attentive") / "store.zarr"
    return find_tasks(write_labelled(root, patients(60, ["cyst", "none", "stone"])), SETTINGS).tasks[0]


def attentive(encoder: Corner, folder: Path, settings: EvaluateSettings, draws: Draws | None) -> ProbeScores:
    """Return the attentive probe's scores of an encoder, features and tokens kept in a folder."""
    made = scoring(encoder.task, settings, folder, draws).score("corner", "Corner", encoder, lambda: (None, ""))
    return made.record.probes["attentive"]


def test_tokens_are_kept_every_test_frame_is_scored_and_a_second_call_gives_the_same(
    task: Task, tmp_path: Path
) -> None:
    encoder, test = Corner(task), task.positions("test")
    draws = Draws(task.groups[test], 200)
    found = attentive(encoder, tmp_path, SETTINGS, draws)
    asked = encoder.asked
    assert asked == 2 * len(task.rows)  # once for the features, once for the tokens
    macro_f1 = found.measures["macro_f1"]
    assert macro_f1.mean > 0.9
    assert macro_f1.interval is not None
    assert macro_f1.interval[0] <= macro_f1.mean <= macro_f1.interval[1]
    assert all(len(line.split()) == len(test) for line in found.predicted)
    assert sum(map(sum, found.confusion)) == SETTINGS.seeds * len(test)
    assert attentive(encoder, tmp_path, SETTINGS, draws) == found
    assert encoder.asked == asked + 1  # kept tokens are used; one frame says how they lie


def test_training_frames_are_bounded_and_drawn_class_by_class(task: Task, tmp_path: Path) -> None:
    encoder, few = Corner(task), SETTINGS.model_copy(update={"attentive_frames": 24, "epochs": 2})
    found = attentive(encoder, tmp_path, few, None)
    assert (found.about["training_frames"], found.about["validation_frames"]) == (24, 6)
    assert encoder.asked == len(task.rows) + 24 + 6 + len(task.positions("test"))
    assert found.measures["macro_f1"].interval is None


def test_an_encoder_without_patch_tokens_is_left_out(task: Task, tmp_path: Path) -> None:
    given = probe_input(task, np.zeros((len(task.rows), 3), np.float32), SETTINGS, tmp_path)
    with pytest.raises(NotScoredError, match="it gives no patch tokens"):
        AttentiveProbe().score(given)


def test_attentive_probes_stand_in_report_csv_and_table_and_are_compared(tmp_path: Path) -> None:
    write_labelled(tmp_path / "store.zarr", patients(30, ["cyst", "none"]), size=32)
    add_latents(tmp_path / "store.zarr")
    export_run(tmp_path / "run", tmp_path / "store.zarr")
    fast = (*FAST, "--set", "evaluate.baselines=[teacher,hog]", "--set", "evaluate.attentive=true")
    result = call(tmp_path / "run", "--task", tmp_path / "store.zarr", "-o", tmp_path / "out", *fast)
    assert result.exit_code == 0, result.output
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    by_name = {s["encoder"]: s["probes"] for s in scores["scores"]}
    assert by_name["student"]["attentive"]["about"]["heads"] == by_name["teacher"]["attentive"]["about"]["heads"] == 3
    assert "attentive" not in by_name["hog"]
    assert "Attentive probe: Edges (HOG) is left out: it gives no patch tokens." in scores["notes"]
    assert "attentive: macro F1" in (tmp_path / "out" / "index.html").read_text()
    lines = (tmp_path / "out" / "scores.csv").read_text().splitlines()
    assert sum(",student,attentive,macro_f1," in line for line in lines) == 2 + 2 + 2  # mean, sd, ends, seeds
    assert "tab:usjepa-attentive" in (tmp_path / "out" / "table.tex").read_text()
    other = scores | {"encoders": json.loads(json.dumps(scores["encoders"]).replace('"kind"', '"sort"'))}
    (tmp_path / "other.json").write_text(json.dumps(other))
    found = call("compare", tmp_path / "out", tmp_path / "other.json", "--classifier", "attentive")
    assert "student" in found.stdout
    assert "hog is not compared, a report has no attentive scores of it" in found.stdout
