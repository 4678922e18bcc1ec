"""Seconds to evaluate one encoder on 3 tasks of 2,000 frames with kept features: `python -m benchmarks.evaluate`.

Each task: 5 probe seeds, logistic regression, k-NN, bootstrap intervals, few-shot at 4 shares, 7 corruptions at 3
strengths, and what is found out about the task itself. Features are 768 numbers a frame that tell the class through
noise; they were computed before the clock starts, those of corrupted frames too. Then: how fast kept features of 10,000
frames are read, beside a plain read of the same store. Then: the linear probe alone at 4,000 x 768 features, 9 classes,
5 seeds and all 150 epochs, the longest it can take; leakage and hygiene of 10,000 frames; an attentive probe of one
seed on 1,000 frames of ViT-B tokens, seconds an epoch. `--frames N` for another size, `--only NAME` for one part.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.machine import describe, report
from tests.support.labelled import File, write_labelled
from usjepa.cache.perceptual import BITS
from usjepa.cache.reading.kept import LAYER
from usjepa.cache.reading.store import open_store
from usjepa.cache.recipes.evaluate import EvaluateSettings
from usjepa.evaluate.checking.hygiene import facts_of, torn
from usjepa.evaluate.checking.leakage import Contents
from usjepa.evaluate.encoders.features import KeptFeatures, feature_identity
from usjepa.evaluate.probes.attentive import train_attentive
from usjepa.evaluate.probes.base import PRIMARY, Part
from usjepa.evaluate.probes.fitting import Fitting
from usjepa.evaluate.probes.linear import one_thread, train_probes
from usjepa.evaluate.scores.bootstrap import Draws
from usjepa.evaluate.scoring.encoder import EncoderScoring, _scores_of
from usjepa.evaluate.scoring.evaluation import wanted_probes
from usjepa.evaluate.scoring.few_shot import few_shot
from usjepa.evaluate.tasks.find import find_tasks
from usjepa.evaluate.tasks.splits import TEST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from usjepa.cache.reading.batch import Batch
    from usjepa.evaluate.encoders.base import Encoder
    from usjepa.evaluate.tasks.task import Task

DIM, SIZE, FRAMES_A_PATIENT, BATCH = 768, 32, 5, 64
CLASSES = (2, 3, 8)
"""Of the three tasks: as BUSBRA, POCUS and MMOTU have."""
SIGNAL = 0.25
"""Distance of a class's centre from the others, in standard deviations of a feature."""


class Noisy:
    """An encoder that knows the class and tells it through noise; pixels only change the noise."""

    name, pooling, given, layers = "noisy", "none", "labels", ("pixels",)

    def __init__(self, task: Task) -> None:
        self._label = dict(zip(task.rows.tolist(), task.labels.tolist(), strict=True))
        self._centre = SIGNAL * np.random.default_rng(0).standard_normal((len(task.classes), DIM))
        self.identity = {"kind": "noisy", "task": task.name}

    def features(self, batch: Batch) -> np.ndarray:
        said = [
            self._centre[self._label[row]] + 3 * np.random.default_rng(row).standard_normal(DIM) for row in batch.rows
        ]
        changed = batch.pixels.reshape(len(batch.rows), -1).mean(axis=1, keepdims=True) / 255.0
        return (np.stack(said) * (0.5 + changed)).astype(np.float32)


def labelled(root: Path, frames: int, classes: int) -> Task:
    """Write a store of patients with five frames each, of a class each, and return its task."""
    files = [
        File(f"class {i // FRAMES_A_PATIENT % classes}", f"patient {i // FRAMES_A_PATIENT}") for i in range(frames)
    ]
    pixels = np.random.default_rng(classes).integers(20, 200, (frames, 1, SIZE, SIZE)).astype(np.uint8)
    return find_tasks(write_labelled(root, files, pixels=pixels), EvaluateSettings(), fallback=root.stem).tasks[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--read", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", choices=["evaluate", "read", "parts"])
    arguments = parser.parse_args()
    machine = describe(("numpy", "torch", "scikit-learn"))
    with TemporaryDirectory() as folder:
        if arguments.only in (None, "evaluate"):
            note = f"one encoder, 3 tasks of {arguments.frames} frames, {DIM} features, 5 seeds"
            report("evaluate", "seconds", whole(Path(folder), arguments.frames, arguments.rounds), machine, note)
        if arguments.only in (None, "read"):
            rates = reading(labelled(Path(folder) / "read.zarr", arguments.read, 3), Path(folder))
            note = f"kept features of {arguments.read} frames, {DIM} float32 each"
            report("evaluate-read", "GB/s", rates, machine, note)
    if arguments.only in (None, "parts"):
        samples: dict[str, list[float]] = defaultdict(list)
        for _ in range(arguments.rounds):
            for what, seconds in parts().items():
                samples[what].append(seconds)
        report("evaluate-parts", "seconds", dict(samples), machine, "see benchmarks/evaluate.py")


def whole(folder: Path, frames: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each stage of an evaluation, a value a round."""
    tasks = [labelled(folder / f"{n}-classes.zarr", frames, n) for n in CLASSES]
    samples: dict[str, list[float]] = defaultdict(list)
    evaluated(tasks, folder, defaultdict(list))  # computes the features, untimed
    for _ in range(rounds):
        spent: dict[str, list[float]] = defaultdict(list)
        evaluated(tasks, folder, spent)
        for stage, seconds in spent.items():
            samples[stage].append(sum(seconds))
        samples["all of it"].append(sum(sum(seconds) for seconds in spent.values()))
    return dict(samples)


def parts() -> dict[str, float]:
    """Return the seconds of what is promised of single parts."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 9, 4400)
    x = (rng.standard_normal((9, DIM))[labels] + 8 * rng.standard_normal((4400, DIM))).astype(np.float32)
    longest = EvaluateSettings(patience=150)
    taken: dict[str, float] = {}

    @contextmanager
    def clock(what: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        taken[what] = time.perf_counter() - start

    with clock("linear probe, 4,000 x 768, 9 classes, 5 seeds, 150 epochs (goal: 20)"):
        probes = train_probes(Part(x[:4000], labels[:4000]), Part(x[4000:], labels[4000:]), 9, longest)
    assert probes.epochs == (150,) * 5
    bits = np.where(rng.random((10_000, BITS)) < 0.5, -1.0, 1.0).astype(np.float32)
    contents = Contents(np.array([f"{i:032x}" for i in range(10_000)], dtype=object), bits, np.zeros(10_000, bool))
    with clock("near-duplicates and torn labels among 10,000 frames, once read"):
        contents.twins(np.arange(2500), np.arange(2500, 10_000))
        torn(contents, rng.integers(0, 9, 10_000))
    tokens = rng.standard_normal((1000, 196, DIM), dtype=np.float32)
    with one_thread(), clock("attentive probe, 1,000 frames of 196 x 768 tokens, one seed: an epoch"):
        held = Part(tokens[:250], labels[:250])
        train_attentive(Part(tokens, labels[:1000]), held, 9, Fitting(EvaluateSettings(epochs=1), 0))
    return taken


def evaluated(tasks: list[Task], folder: Path, spent: dict[str, list[float]]) -> None:
    """Do for every task what `usjepa-evaluate` does for one encoder, and note the seconds of each stage."""
    settings = EvaluateSettings()

    @contextmanager
    def clock(stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        spent[stage].append(time.perf_counter() - start)

    kept = KeptFeatures(folder / "features", BATCH)
    for task in tasks:
        encoder, draws = Noisy(task), Draws(task.groups[task.positions(TEST)], settings.bootstrap)
        scoring = EncoderScoring(task, wanted_probes(settings), draws, settings, kept)
        with clock("leakage and hygiene"):
            facts_of(task)
        with clock("features read"):
            features = kept.features(encoder, task)
        with clock("probe, logistic regression, k-NN, intervals"):
            given = scoring._given(encoder, features)
            made, _ = scoring._predictions("Noisy", given)
            scores = {name: _scores_of(given, one, draws)[0] for name, one in made.items()}
        linear = scores[PRIMARY]
        mean, epochs = linear.measures["macro_f1"].mean, linear.about["epochs"]
        print(f"{len(task.classes)} classes: macro F1 {mean:.3f}, epochs {epochs}", flush=True)
        with clock("few-shot"):
            few_shot(given)
        with clock("robustness"):
            scoring._robustness("Noisy", made[PRIMARY], given, _again(encoder))


def _again(encoder: Encoder) -> Callable[[], tuple[Encoder, str]]:
    """Return what gives the encoder when corrupted frames ask for it."""
    return lambda: (encoder, "")


def reading(task: Task, folder: Path) -> dict[str, list[float]]:
    """Return the rate at which kept features are read, and that of a plain read of their store, five times in turn."""
    encoder = Noisy(task)
    kept = KeptFeatures(folder / "features", BATCH)
    kept.features(encoder, task)
    (place,) = [p for p in (folder / "features").iterdir() if _is(p, encoder, task)]
    size = len(task.rows) * DIM * 4 / 1e9
    rates: dict[str, list[float]] = {"kept features": [], "store.read alone": []}
    for _ in range(5):
        start = time.perf_counter()
        kept.features(encoder, task)
        rates["kept features"].append(size / (time.perf_counter() - start))
        store = open_store(str(place), allow_partial=True)
        rows = store.rows
        start = time.perf_counter()
        store.read(rows, layers=(LAYER,))
        rates["store.read alone"].append(size / (time.perf_counter() - start))
    return rates


def _is(place: Path, encoder: Noisy, task: Task) -> bool:
    store = open_store(str(place), allow_partial=True)
    return store.identity[LAYER] == feature_identity(encoder, task)


if __name__ == "__main__":
    main()
