"""Simulate B-mode frames of patients whose labels, regions and burned-in text are known.

Frame n of a source is a pure function of (settings.seed, patient, label, n): any frame can be made alone, in any order,
on any machine. Bytes are the same on machines whose floating-point libraries agree to the last bit; elsewhere a grey
level may differ by one, so the hash of a source is taken of what it is made from, not of its bytes.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.errors import SourceError
from usjepa.cache.identity import digest_of
from usjepa.cache.randomness import fraction, generator
from usjepa.cache.sources.base import PHANTOM, FileFacts, Reader
from usjepa.cache.sources.phantom.lesions import add_distractors, add_lesion
from usjepa.cache.sources.phantom.overlay import Overlay, draw_layout, draw_overlay
from usjepa.cache.sources.phantom.physics import (
    Beam,
    Floats,
    Grid,
    Kind,
    Probe,
    Screen,
    compress,
    echo,
    loss_behind,
    make_grid,
    make_screen,
)
from usjepa.cache.sources.phantom.tissue import CLASSES, Anatomy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from usjepa.cache.recipes.cache import PhantomSettings

_VERSION = 1
"""Raised when frames change; part of every source's content hash."""

_TEST_SHARE = 0.25
_KINDS: tuple[Kind, ...] = ("linear", "convex", "phased")
_KEPT = 4
"""Patients whose maps are kept; sources come patient by patient."""
_PATH = re.compile(r"patient-(\d{4,})/(" + "|".join(CLASSES) + ")")


@dataclass(frozen=True)
class PhantomPatient:
    """One source: the frames of one patient with one label."""

    path: str
    """`patient-0003/cyst`."""
    dataset: str
    group: str
    """`patient-0003`: what frames of one patient share is never split."""
    label: str
    split: str
    """"test" for a quarter of the patients, by hash; else "train"."""
    frames: int


class Phantom:
    """A simulated scanner. Belongs to one thread: it keeps the maps of the last patients."""

    def __init__(self, settings: PhantomSettings) -> None:
        self._settings = settings
        self._examinations: OrderedDict[int, _Examination] = OrderedDict()

    def patients(self) -> list[PhantomPatient]:
        """Return the sources in order; labels take turns over a patient's frames, so a source may have one less."""
        found = []
        for patient in range(self._settings.patients):
            split = "test" if fraction("phantom split", self._settings.seed, patient) < _TEST_SHARE else "train"
            for label in sorted(CLASSES):
                frames, group = self._count(patient, label), f"patient-{patient:04d}"
                if frames:
                    found.append(PhantomPatient(f"{group}/{label}", PHANTOM, group, label, split, frames))
        return found

    def frames(self, path: str) -> int:
        """Return the number of frames of a source."""
        return self._count(*self._parse(path))

    def frame(self, path: str, index: int) -> NDArray[np.uint8]:
        """Return a frame with its screen, RGB uint8 [H, W, 3]; SourceError when there is no such source or frame."""
        patient, label = self._parse(path)
        if not 0 <= index < self._count(patient, label):
            raise SourceError(f"{path}: frame {index} of {self._count(patient, label)}. Frames count from 0.")
        rng = generator("phantom frame", _VERSION, self._settings.seed, patient, label, index)
        return self._examination(patient).image(rng, label)

    def true_region(self, path: str) -> NDArray[np.bool_]:
        """Return the pixels [H, W] that show echo; the same for all frames of a patient."""
        return self._examination(self._parse(path)[0]).screen.region.copy()

    def texts(self, path: str) -> tuple[str, ...]:
        """Return the lines of text burned in beside the scan, the patient's name first; empty for a plain crop."""
        return self._examination(self._parse(path)[0]).overlay.texts

    def ink(self, path: str) -> NDArray[np.bool_]:
        """Return the pixels [H, W] of text, rulers and marks."""
        return self._examination(self._parse(path)[0]).overlay.ink.copy()

    def content_hash(self, path: str) -> str:
        """Return 32 hex digits that change whenever a frame of the source would."""
        self._parse(path)
        settings = self._settings
        # The number of patients is left out: more of them change nothing in those there were.
        return digest_of(["phantom", _VERSION, settings.seed, settings.size, settings.frames_per_patient, path])

    def _count(self, patient: int, label: str) -> int:
        """Return the frames of a label: they take turns, and each patient begins with another one."""
        turn = (CLASSES.index(label) - patient) % len(CLASSES)
        return (self._settings.frames_per_patient - turn + len(CLASSES) - 1) // len(CLASSES)

    def _parse(self, path: str) -> tuple[int, str]:
        match = _PATH.fullmatch(path)
        if match is None or int(match[1]) >= self._settings.patients:
            raise SourceError(
                f"{path}: the phantom has no such source; its {self._settings.patients} patients are named "
                f"patient-0000/none and so on, with the labels {', '.join(CLASSES)}."
            )
        return int(match[1]), match[2]

    def _examination(self, patient: int) -> _Examination:
        if patient not in self._examinations:
            rng = generator("phantom patient", _VERSION, self._settings.seed, patient)
            self._examinations[patient] = _Examination(rng, self._settings.size)
            if len(self._examinations) > _KEPT:
                self._examinations.popitem(last=False)
        return self._examinations[patient]


class PhantomReader(Reader):
    """Read the phantom through the methods of every other reader; a source's path stands for its file."""

    name = PHANTOM
    version = _VERSION
    title = "a source of the phantom"
    endings = ()
    frames_apart = True

    def __init__(self, settings: PhantomSettings) -> None:
        self._phantom = Phantom(settings)
        self._size = settings.size

    def probe(self, file: Path, image: str = "") -> FileFacts:
        """Return the facts of a source; SourceError when there is none of that name."""
        del image
        return FileFacts(self._phantom.frames(file.as_posix()), self._size, self._size)

    def frames(self, file: Path, image: str, wanted: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """Yield the wanted frames [H, W, 3]."""
        del image
        for number in wanted:
            yield self._phantom.frame(file.as_posix(), number)


class _Examination:
    """The parts that frames of one patient share: probe, settings, tissue, screen."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        kind = _KINDS[int(rng.choice(3, p=[0.4, 0.36, 0.24]))]
        layout = draw_layout(rng, size, kind)
        probe = _draw_probe(rng, kind, layout.box)
        samples, lines = max(48, round(1.12 * layout.box[2])), max(32, round(0.8 * layout.box[3]))
        self.grid = make_grid(probe, samples, lines)
        self.screen: Screen = make_screen(self.grid, size, layout.box)
        self._beam = Beam(self.grid)
        self._anatomy = Anatomy(rng, self.grid)
        self._gain, self._noise = _draw_gain(rng, self.grid)
        self._middle, self._range = float(rng.uniform(0.46, 0.62)), float(rng.uniform(52, 72))
        self._curve = _draw_curve(rng)
        spacing = probe.depth / max(1, np.flatnonzero(self.screen.region.any(1)).size)
        self.overlay: Overlay = draw_overlay(rng, layout, self.screen.region, probe, spacing)

    def image(self, rng: np.random.Generator, label: str) -> NDArray[np.uint8]:
        """Return a frame [H, W, 3] with the lesion of a label."""
        tissue = self._anatomy.at(rng)
        add_distractors(rng, tissue, self.grid)
        add_lesion(rng, tissue, self.grid, label)
        loss = self._beam.spread(loss_behind(tissue.attenuation, self.grid))
        gain = self._gain[:, None] - loss
        mirror = tissue.mirror * np.power(np.float32(10), gain * np.float32(0.05))[..., None]
        envelope = echo(rng, self._beam, tissue.level + gain, mirror, self._noise)
        scan = self.screen.convert(compress(envelope, self._middle, self._range, self._curve))
        # The overlay is background wherever the scan is, and the scan is black everywhere else.
        return np.where(self.screen.region[..., None], scan[..., None], self.overlay.image)


def _draw_probe(rng: np.random.Generator, kind: Kind, box: tuple[int, int, int, int]) -> Probe:
    """Return a usual transducer at a usual depth: small parts, abdomen or heart."""
    f_number, cycles = float(rng.uniform(1.8, 4.0)), float(rng.uniform(2.5, 5.0))
    focus, zone = float(rng.uniform(0.35, 0.75)), float(rng.uniform(0.15, 0.4))
    if kind == "linear":
        depth = float(rng.uniform(32, 55))
        half = depth * box[3] / box[2] / 2
        radius, frequency = 0.0, float(rng.uniform(6, 10))
    elif kind == "convex":
        depth, half = float(rng.uniform(85, 150)), float(np.radians(rng.uniform(22, 31)))
        radius, frequency = float(rng.uniform(30, 50)), float(rng.uniform(2.5, 4.5))
    else:
        depth, half = float(rng.uniform(100, 160)), float(np.radians(rng.uniform(30, 40)))
        radius, frequency = float(rng.uniform(2, 8)), float(rng.uniform(2.0, 3.2))
    return Probe(kind, frequency, depth, half, radius, cycles, f_number, focus * depth, zone * depth)


def _draw_gain(rng: np.random.Generator, grid: Grid) -> tuple[Floats, Floats]:
    """Return what TGC leaves of the tissue's attenuation, and the level of noise after it; dB at each depth [N].

    TGC was set for tissue that attenuates a little more or less than this patient's, and its eight sliders were moved.
    """
    depth = grid.depth / np.float32(grid.probe.depth)
    sliders = np.interp(depth, np.linspace(0, 1, 8), rng.uniform(-1.2, 1.2, 8))
    mismatch = rng.uniform(-6, 3) * depth
    gain = 2 * rng.uniform(0.5, 0.6) * grid.probe.frequency * grid.depth / 10 + mismatch + sliders
    noise = rng.uniform(-74, -56) + np.minimum(gain, 60)
    return (mismatch + sliders).astype(np.float32), noise.astype(np.float32)


def _draw_curve(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a scanner's grey curve [256]: a slight S or power."""
    grey = np.arange(256) / 255
    bent = grey ** rng.uniform(0.8, 1.1)
    smooth = bent * bent * (3 - 2 * bent)
    share = rng.uniform(0, 0.5)
    return np.rint(255 * ((1 - share) * bent + share * smooth)).astype(np.uint8)
