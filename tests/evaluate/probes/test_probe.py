"""Claims about the linear probe: the batched one is the plain one, and it follows the paper's protocol."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.support.scoring import part
from usjepa.cache.recipes.evaluate import EvaluateSettings
from usjepa.evaluate.probes.linear import epoch_order, first_weights, train_probes
from usjepa.evaluate.probes.scaler import fit_scaler
from usjepa.evaluate.scores.metrics import constant_baseline, over_seeds, score, summed

CLASSES = 4
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def problem(count: int = 210, features: int = 24) -> tuple[Floats, Ints]:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, CLASSES, count)
    centres = rng.standard_normal((CLASSES, features))
    return (centres[labels] + 2.5 * rng.standard_normal((count, features))).astype(np.float32), labels


def plain_probe(
    seed: int,
    x_NF: Floats,
    y_N: Ints,
    settings: EvaluateSettings,
    epochs: int,
    validation: tuple[Floats, Ints] | None = None,
) -> torch.nn.Linear:
    """Train one seed the way anyone would write it: nn.Linear, AdamW, CosineAnnealingLR, autograd, early stopping."""
    layer = torch.nn.Linear(x_NF.shape[1], CLASSES)
    weight, bias = first_weights(seed, x_NF.shape[1], CLASSES)
    best, lowest, waited = copy.deepcopy(layer.state_dict()), float("inf"), 0
    with torch.no_grad():
        layer.weight.copy_(weight.T)
        layer.bias.copy_(bias)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=settings.epochs)
    x, y = torch.from_numpy(x_NF), torch.from_numpy(y_N)
    for epoch in range(epochs):
        order = torch.from_numpy(epoch_order(seed, epoch, len(y_N)))
        for start in range(0, len(order), settings.batch_size):
            batch = order[start : start + settings.batch_size]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layer(x[batch]), y[batch]).backward()
            optimizer.step()
        schedule.step()
        if validation is None:
            continue
        loss = _loss(layer, *validation)
        waited += 1
        if loss < lowest:
            best, lowest, waited = copy.deepcopy(layer.state_dict()), loss, 0
        if waited == settings.patience:
            break
    if validation is not None:
        layer.load_state_dict(best)
    return layer


def test_all_seeds_at_once_equal_a_plain_autograd_loop_per_seed_after_five_epochs() -> None:
    x, y = problem()
    settings = EvaluateSettings(epochs=5, weight_decay=1e-2, lr=1e-2)
    batched = train_probes(part(x, y), part(x, y, 0, 0), CLASSES, settings).logits(x)
    for seed in range(settings.seeds):
        plain = plain_probe(seed, x, y, settings, epochs=5)(torch.from_numpy(x)).detach().numpy()
        assert np.abs(batched[seed] - plain).max() < 1e-4


def test_at_the_papers_size_five_epochs_end_in_the_plain_loops_logits() -> None:
    x, y = problem(4000, 768)
    settings = EvaluateSettings(epochs=5)  # 625 steps a seed
    batched = train_probes(part(x, y), part(x, y, 0, 0), CLASSES, settings).logits(x[:500])
    plain = plain_probe(3, x, y, settings, epochs=5)(torch.from_numpy(x[:500])).detach().numpy()
    assert np.abs(batched[3] - plain).max() < 1e-4


def test_the_whole_protocol_ends_in_the_plain_loops_macro_f1() -> None:
    x, y = problem(900)
    x = fit_scaler(x[:500])(x)
    settings = EvaluateSettings(seeds=3, lr=5e-3)
    probe = train_probes(part(x, y, 0, 500), part(x, y, 500, 600), CLASSES, settings)
    assert max(probe.epochs) < settings.epochs  # stopped early, at an epoch of its own
    for seed, logits in enumerate(probe.logits(x[600:])):
        plain = plain_probe(seed, x[:500], y[:500], settings, settings.epochs, (x[500:600], y[500:600]))
        theirs = plain(torch.from_numpy(x[600:])).detach().numpy()
        assert np.abs(logits - theirs).max() < 1e-3
        found, wanted = (score(y[600:], one.argmax(1), CLASSES).macro_f1 for one in (logits, theirs))
        assert found == wanted


@pytest.mark.slow
def test_at_the_papers_size_the_whole_protocol_ends_in_the_plain_loops_macro_f1() -> None:
    x, y = problem(5000, 768)
    x = fit_scaler(x[:4000])(x)
    settings = EvaluateSettings(patience=150)  # never stops early; benchmarks/evaluate.py says how long it takes
    probe = train_probes(part(x, y, 0, 4000), part(x, y, 4000, 4400), CLASSES, settings)
    assert probe.epochs == (150,) * 5
    plain = plain_probe(0, x[:4000], y[:4000], settings, settings.epochs, (x[4000:4400], y[4000:4400]))
    theirs = plain(torch.from_numpy(x[4400:])).detach().numpy().argmax(1)
    ours = probe.logits(x[4400:])[0].argmax(1)
    assert score(y[4400:], ours, CLASSES).macro_f1 == score(y[4400:], theirs, CLASSES).macro_f1


def test_each_seed_may_be_given_frames_of_its_own() -> None:
    x, y = problem()
    settings = EvaluateSettings(epochs=3, seeds=2, lr=1e-2)
    subsets = np.array([np.arange(0, 80), np.arange(100, 180)])
    batched = train_probes(part(x, y), part(x, y, 0, 0), CLASSES, settings, subsets).logits(x)
    for seed, rows in enumerate(subsets):
        plain = plain_probe(seed, x[rows], y[rows], settings, epochs=3)(torch.from_numpy(x)).detach().numpy()
        assert np.abs(batched[seed] - plain).max() < 1e-4


def test_each_seed_keeps_the_weights_of_its_lowest_validation_loss_and_stops_after_patience() -> None:
    x, y = problem(120)
    rng = np.random.default_rng(1)
    validation, wrong = x[:40], rng.integers(0, CLASSES, 40)  # nothing to learn: the loss rises soon
    settings = EvaluateSettings(lr=1e-2, patience=4)
    probe = train_probes(part(x, y), part(validation, wrong), CLASSES, settings)
    assert all(ran - best == settings.patience for ran, best in zip(probe.epochs, probe.best_epoch, strict=True))
    # The annealing spans `epochs` either way, so the plain loop passes through the kept weights.
    for seed, best in enumerate(probe.best_epoch):
        around = [plain_probe(seed, x, y, settings, epochs) for epochs in (best - 1, best, best + 1)]
        losses = [_loss(layer, validation, wrong) for layer in around]
        assert losses[1] == min(losses)


def _loss(layer: torch.nn.Linear, x: Floats, y: Ints) -> float:
    with torch.no_grad():
        return float(torch.nn.functional.cross_entropy(layer(torch.from_numpy(x)), torch.from_numpy(y)))


def test_without_validation_frames_every_epoch_is_run_and_the_last_is_kept() -> None:
    x, y = problem(64)
    probe = train_probes(part(x, y), part(x, y, 0, 0), CLASSES, EvaluateSettings(epochs=20, seeds=2, patience=3))
    assert probe.epochs == probe.best_epoch == (20, 20)


def test_the_same_features_give_the_same_probe_bit_for_bit() -> None:
    x, y = problem(100)
    runs = [
        train_probes(part(x, y), part(x, y, 0, 30), CLASSES, EvaluateSettings(epochs=12)).logits(x) for _ in range(2)
    ]
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0][0], runs[0][1])  # seeds differ


def test_separable_classes_are_learnt() -> None:
    x, y = problem(600)
    x = x + 6 * np.eye(CLASSES, x.shape[1], dtype=np.float32)[y]
    scaled = fit_scaler(x[:400])(x)
    settings = EvaluateSettings(seeds=2)
    probe = train_probes(part(scaled, y, 0, 300), part(scaled, y, 300, 400), CLASSES, settings)
    for logits in probe.logits(scaled[400:]):
        assert score(y[400:], logits.argmax(1), CLASSES).macro_f1 > 0.9


def test_standardising_uses_training_frames_only_and_silences_constant_features() -> None:
    rng = np.random.default_rng(0)
    train = (rng.standard_normal((50, 3)) * [1, 1000, 0] + [5, 0, 7]).astype(np.float32)
    scaler = fit_scaler(train)
    scaled = scaler(train)
    assert np.allclose(scaled.mean(0), 0, atol=1e-5)
    assert np.allclose(scaled.std(0), [1, 1, 0], atol=1e-5)
    assert scaler(np.array([[5, 0, 8]], np.float32))[0, 2] == 0


def test_a_constant_predictor_is_recognised_and_scores_its_known_macro_f1() -> None:
    truth = np.array([1] * 80 + [0] * 30)  # the paper's 42.1 on the fatty liver test split
    found = constant_baseline(truth, 2)
    assert found.constant
    assert found.macro_f1 == pytest.approx(0.421, abs=5e-4)
    assert found.confusion == ((0, 30), (0, 80))


def test_a_class_without_test_frames_does_not_count_as_zero() -> None:
    truth = np.array([0, 0, 1, 1])
    assert score(truth, truth, 3).macro_f1 == 1.0
    assert summed([score(truth, truth, 3).confusion] * 2) == ((4, 0, 0), (0, 4, 0), (0, 0, 0))
    assert over_seeds([0.5]).sd == 0.0
