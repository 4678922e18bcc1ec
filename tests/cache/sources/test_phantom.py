"""The simulated source: pure in (seed, patient, label, frame), with known regions and physics that can be measured."""

from __future__ import annotations

import itertools
import string
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest

from usjepa.cache.errors import SourceError
from usjepa.cache.recipes.cache import PhantomSettings
from usjepa.cache.sources.phantom.lesions import add_lesion
from usjepa.cache.sources.phantom.physics import Beam, Probe, echo, loss_behind, make_grid, make_screen
from usjepa.cache.sources.phantom.source import Phantom, PhantomReader
from usjepa.cache.sources.phantom.tissue import CLASSES, Anatomy, Tissue

if TYPE_CHECKING:
    from numpy.typing import NDArray


def small(**changes: Any) -> Phantom:
    return Phantom(PhantomSettings(**{"patients": 6, "size": 96, **changes}))


def flat_tissue() -> Tissue:
    return Tissue(
        np.zeros((240, 192), np.float32), np.zeros((240, 192), np.float32), np.zeros((240, 192, 2), np.float32)
    )


def linear(depth: float = 40.0, cycles: float = 3.0, f_number: float = 3.0) -> Probe:
    return Probe("linear", 7.5, depth, 20.0, 0.0, cycles, f_number, 0.5 * depth, 0.25 * depth)


def seen(
    probe: Probe,
    level: NDArray[np.float32],
    attenuation: NDArray[np.float32] | None = None,
    samples: int = 240,
    lines: int = 192,
    seed: int = 0,
    noise: float = -200.0,
) -> NDArray[np.float32]:
    """The envelope [N, L] of tissue of a level, with an excess attenuation."""
    grid = make_grid(probe, samples, lines)
    beam = Beam(grid)
    if attenuation is not None:
        level = level - beam.spread(loss_behind(attenuation, grid))
    mirror = np.zeros((samples, lines, 2), np.float32)
    return echo(np.random.default_rng(seed), beam, level, mirror, np.full(samples, noise, np.float32))


def decibels(envelope: NDArray[np.float32]) -> float:
    return float(10 * np.log10((envelope.astype(np.float64) ** 2).mean()))


def test_a_frame_is_the_same_alone_and_in_any_order() -> None:
    phantom, jobs = small(), [(p.path, n) for p in small().patients()[:12] for n in range(p.frames)]
    frames = [phantom.frame(*job) for job in jobs]
    for job, frame in list(zip(jobs, frames, strict=True))[::-7]:
        assert np.array_equal(small().frame(*job), frame)
    assert len({frame.tobytes() for frame in frames}) == len(frames)


def test_more_patients_change_none_of_the_earlier_ones() -> None:
    few, many = small(patients=3), small(patients=5)
    for source in few.patients():
        assert many.content_hash(source.path) == few.content_hash(source.path)
    assert few.patients() == many.patients()[: len(few.patients())]
    assert np.array_equal(few.frame("patient-0002/cyst", 1), many.frame("patient-0002/cyst", 1))


@pytest.mark.parametrize("change", [{"seed": 1}, {"size": 112}, {"frames_per_patient": 25}])
def test_the_content_hash_tells_sources_and_settings_apart(change: dict[str, int]) -> None:
    hashes = [small(**c).content_hash(p.path) for c in ({}, change) for p in small().patients()]
    assert len(set(hashes)) == len(hashes)
    assert all(len(h) == 32 and set(h) <= set(string.hexdigits.lower()) for h in hashes)


def test_another_seed_gives_other_frames() -> None:
    assert not np.array_equal(small().frame("patient-0000/none", 0), small(seed=1).frame("patient-0000/none", 0))


@pytest.mark.parametrize("frames", [1, 4, 5, 20, 23])
def test_labels_share_the_frames_of_a_patient_evenly(frames: int) -> None:
    counts: Counter[str] = Counter()
    for group, found in itertools.groupby(small(frames_per_patient=frames).patients(), lambda p: p.group):
        sources = list(found)
        assert sum(s.frames for s in sources) == frames, group
        assert max(s.frames for s in sources) - min(s.frames for s in sources) <= 1
        counts.update({s.label: s.frames for s in sources})
    assert set(counts) == set(CLASSES)


def test_groups_never_straddle_splits_and_a_quarter_of_them_are_for_testing() -> None:
    splits: dict[str, str] = {}
    for source in small(patients=400, frames_per_patient=5).patients():
        assert splits.setdefault(source.group, source.split) == source.split
    assert 0.18 < np.mean([split == "test" for split in splits.values()]) < 0.32


def test_sources_come_in_the_order_of_their_paths() -> None:
    paths = [p.path for p in small().patients()]
    assert paths == sorted(paths)


@pytest.mark.parametrize("path", ["patient-0006/cyst", "patient-0000/cat", "patient-0000", "../patient-0000/cyst", ""])
def test_a_source_that_does_not_exist_is_refused(path: str) -> None:
    with pytest.raises(SourceError, match="no such source"):
        small().frame(path, 0)


@pytest.mark.parametrize("index", [-1, 4])
def test_a_frame_past_the_end_is_refused(index: int) -> None:
    with pytest.raises(SourceError, match="of 4"):
        small().frame("patient-0000/cyst", index)


def test_the_reader_counts_and_yields_what_the_phantom_makes() -> None:
    settings = PhantomSettings(patients=2, size=96)
    reader, phantom = PhantomReader(settings), Phantom(settings)
    facts = reader.probe(Path("patient-0001/stone"))
    assert (facts.frames, facts.height, facts.width) == (4, 96, 96)
    frames = list(reader.frames(Path("patient-0001/stone"), "", [0, 3]))
    assert np.array_equal(frames[1], phantom.frame("patient-0001/stone", 3))


def test_echo_lies_only_in_the_region_and_ink_only_outside_it() -> None:
    phantom = small(patients=12, size=160)
    for patient in range(12):
        path = f"patient-{patient:04d}/none"
        frame, region, ink = phantom.frame(path, 0), phantom.true_region(path), phantom.ink(path)
        assert not (region & ink).any()
        around = frame[~region & ~ink]
        assert len(np.unique(around)) <= 1
        assert (np.ptp(frame[region].astype(int), axis=1) == 0).all()
        assert 0.25 < region.mean() <= 1
        assert bool(ink.any()) == bool(phantom.texts(path))


def test_names_are_burned_in_and_some_ink_is_coloured() -> None:
    phantom = small(patients=12, size=160)
    paths = [f"patient-{n:04d}/none" for n in range(12)]
    names = [phantom.texts(p)[0] for p in paths if phantom.texts(p)]
    assert len(names) > 6
    assert all(", " in name and name.isupper() for name in names)
    assert any(np.ptp(phantom.frame(p, 0).astype(int), axis=2).max() > 60 for p in paths)


def test_speckle_is_fully_developed() -> None:
    # The envelope of many scatterers is Rayleigh: mean over standard deviation sqrt(pi / (4 - pi)) = 1.913.
    envelope = seen(linear(), np.zeros((240, 192), np.float32))[30:-30, 20:-20]
    assert envelope.mean() / envelope.std() == pytest.approx(1.913, rel=0.05)


def test_the_beam_is_narrowest_at_its_focus() -> None:
    envelope = seen(linear(), np.zeros((240, 192), np.float32))
    rows = [envelope[middle - 12 : middle + 12] for middle in (30, 120, 220)]
    likeness = [np.corrcoef(part[:, :-4].ravel(), part[:, 4:].ravel())[0, 1] for part in rows]
    assert likeness[1] < likeness[0]
    assert likeness[1] < likeness[2]


def test_the_pulse_sets_the_axial_width_of_a_reflector() -> None:
    probe = linear(cycles=4.0)
    grid = make_grid(probe, 2000, 16)
    field = np.zeros((2000, 16, 2), np.float32)
    field[1000, :, 0] = 1
    pulse = Beam(grid).pulse(field)[:, 8, 0]
    width = np.count_nonzero(pulse > pulse.max() / 2) * grid.step
    assert width == pytest.approx(probe.cycles * probe.wavelength / 2, rel=0.03)


def test_attenuation_is_in_proportion_to_frequency_and_path() -> None:
    grid = make_grid(linear(depth=40.0), 200, 32)
    loss = loss_behind(np.ones((200, 32), np.float32), grid)
    assert loss[-1, 0] == pytest.approx(2 * 7.5 * 4.0, rel=1e-4)
    assert loss[99, 0] == pytest.approx(2 * 7.5 * 2.0, rel=1e-4)


@pytest.mark.parametrize(("label", "low", "high"), [("cyst", 1.0, 20.0), ("stone", -60.0, -8.0)])
def test_echo_behind_a_cyst_is_enhanced_and_behind_a_stone_in_shadow(label: str, low: float, high: float) -> None:
    grid = make_grid(linear(), 240, 192)
    flat = flat_tissue()
    add_lesion(np.random.default_rng(3), flat, grid, label)
    loss = loss_behind(flat.attenuation, grid)
    column = int(np.abs(loss[-1]).argmax())
    behind = slice(column - 4, column + 5)
    lit = seen(linear(), np.zeros_like(flat.level), flat.attenuation)
    change = decibels(lit[-25:, behind]) - decibels(seen(linear(), np.zeros_like(flat.level))[-25:, behind])
    assert low < change < high


def test_lesions_differ_from_their_surroundings_as_their_labels_say() -> None:
    grid = make_grid(linear(), 240, 192)
    extremes: dict[str, list[tuple[float, float]]] = {}
    for label in CLASSES:
        for seed in range(8):
            flat = flat_tissue()
            add_lesion(np.random.default_rng(seed), flat, grid, label)
            extremes.setdefault(label, []).append((float(flat.level.min()), float(flat.level.max())))
    assert set(extremes["none"]) == {(0.0, 0.0)}
    assert all(-35 < low < -24 and high == 0 for low, high in extremes["cyst"])
    assert all(-16 < low < -7.5 and high == 0 for low, high in extremes["hypoechoic"])
    assert all(low == 0 and 7.5 < high < 16 for low, high in extremes["hyperechoic"])
    assert all(low == 0 and high > 8 for low, high in extremes["stone"])


def test_noise_fills_what_echo_leaves_dark() -> None:
    dark = np.full((240, 192), -300, np.float32)
    assert decibels(seen(linear(), dark, noise=-40.0)[20:-20]) == pytest.approx(-40 + 10 * np.log10(2), abs=0.7)


@pytest.mark.parametrize("kind", ["linear", "convex", "phased"])
def test_the_screen_keeps_proportions_and_stays_in_its_box(kind: Literal["linear", "convex", "phased"]) -> None:
    half, radius = (20.0, 0.0) if kind == "linear" else (0.5, 40.0 if kind == "convex" else 4.0)
    probe = Probe(kind, 5.0, 40.0, half, radius, 3.0, 3.0, 20.0, 10.0)
    screen = make_screen(make_grid(probe, 100, 80), 128, (20, 10, 100, 100))
    rows, columns = np.flatnonzero(screen.region.any(1)), np.flatnonzero(screen.region.any(0))
    assert rows[0] >= 20
    assert rows[-1] < 120
    assert columns[0] >= 10
    assert columns[-1] < 110
    if kind != "linear":
        high = (probe.radius + probe.depth) - probe.radius * np.cos(half)
        wide = 2 * (probe.radius + probe.depth) * np.sin(half)
        assert columns.size / rows.size == pytest.approx(wide / high, rel=0.04)


def test_frames_of_a_patient_share_tissue_and_patients_do_not() -> None:
    grid = make_grid(linear(), 120, 96)
    anatomy = Anatomy(np.random.default_rng(0), grid)
    profiles = [anatomy.at(np.random.default_rng(n)).level.mean(1) for n in range(4)]
    other = Anatomy(np.random.default_rng(1), grid).at(np.random.default_rng(0)).level.mean(1)
    within = [np.abs(profiles[0] - p).mean() for p in profiles[1:]]
    assert max(within) < np.abs(profiles[0] - other).mean()
