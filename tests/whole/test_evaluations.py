"""An evaluation killed at any moment and run again leaves the bytes of an undisturbed one."""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.builds import tree
from tests.support.evaluations import FAST, SIZE, Place, add_latents, export_run
from tests.support.labelled import File, patients, write_labelled
from tests.support.processes import forked

if TYPE_CHECKING:
    from pathlib import Path

CALLS = (*FAST, "--set", "evaluate.encode_batch_size=4")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("evaluate")
    write_labelled(folder / "store.zarr", patients(8, ["cyst", "none", "stone"]), size=SIZE)
    add_latents(folder / "store.zarr")
    write_labelled(folder / "numbers.zarr", [File(f"{40 + 1.5 * i}", f"p{i}") for i in range(12)], size=SIZE)
    export_run(folder / "run", folder / "store.zarr")
    return Place(folder / "run", folder / "store.zarr")


def evaluated(place: Place, out: Path) -> None:
    import torch

    from usjepa.evaluate.cli import main

    torch.set_num_threads(1)
    numbers = place.store.with_name("numbers.zarr")
    given = [str(place.run), "--task", str(place.store), "--regress", str(numbers)]
    main([*given, "-o", str(out), *CALLS], standalone_mode=False)


def counting(place: Place, out: Path) -> None:
    """Write the number of durable steps and of scored probes of an undisturbed evaluation."""
    steps = 0
    real = {"fsync": os.fsync, "replace": os.replace}
    for name, function in real.items():

        def counted(*args: object, function: object = function, **kwargs: object) -> object:
            nonlocal steps
            steps += 1
            return function(*args, **kwargs)  # type: ignore[operator]

        setattr(os, name, counted)
    evaluated(place, out)
    (out.parent / "steps").write_text(str(steps))


def killed_at_durable_step(place: Place, out: Path, step: int) -> None:
    forked.die_at_durable_step(step)
    evaluated(place, out)


@pytest.fixture(scope="module")
def undisturbed(place: Place, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    out = tmp_path_factory.mktemp("undisturbed") / "report"
    assert forked.run(counting, place, out) == 0
    return out, int((out.parent / "steps").read_text())


def _peak_of(folder: Path, patients_: int) -> None:
    """Evaluate three frames per patient and write the most memory that it took, in bytes."""
    import resource

    write_labelled(folder / "store.zarr", patients(patients_, ["cyst", "none", "stone"]), size=SIZE)
    add_latents(folder / "store.zarr")
    numbered = [File(f"{40 + 1.5 * i}", f"p{i}") for i in range(patients_)]
    write_labelled(folder / "numbers.zarr", numbered, size=SIZE)
    export_run(folder / "run", folder / "store.zarr")
    evaluated(Place(folder / "run", folder / "store.zarr"), folder / "report")
    (folder / "peak").write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_times_the_frames_take_kilobytes_of_memory_for_each_more(tmp_path: Path) -> None:
    peaks = {}
    for count in (100, 1000):
        (tmp_path / str(count)).mkdir()
        assert forked.run(_peak_of, tmp_path / str(count), count) == 0
        peaks[count] = int((tmp_path / str(count) / "peak").read_text())
    # Features of all encoders, raw pixels and HOG of a frame are 10 kB; a probe copies what it is fitted on.
    assert (peaks[1000] - peaks[100]) / (4 * 900) < 48 << 10, peaks


def test_the_first_screen_shows_test_frames_beside_the_colours_of_their_patches(undisturbed: tuple[Path, int]) -> None:
    text = (undisturbed[0] / "index.html").read_text()
    first = text[text.index('<div class="trio">') : text.index('<h2 id="scores">')]
    frames = first.count('alt="Ultrasound frame: ')
    assert 2 <= frames <= 3
    assert first.count('alt="The same frame under the colours of its patches"') == frames
    assert len(set(re.findall('src="([^"]+)"', first))) == 2 * frames


MOMENTS = 20


@pytest.mark.parametrize("moment", [7, *[pytest.param(n, marks=pytest.mark.slow) for n in range(MOMENTS)]])
def test_an_evaluation_killed_and_run_again_leaves_the_bytes_of_an_undisturbed_one(
    place: Place, undisturbed: tuple[Path, int], tmp_path: Path, moment: int
) -> None:
    whole, steps = undisturbed
    at = 1 + round(moment * (steps - 1) / (MOMENTS - 1))
    out = tmp_path / "report"
    assert forked.run(killed_at_durable_step, place, out, at) == -signal.SIGKILL
    assert not (out / "scores.json").exists() or moment == MOMENTS - 1
    assert forked.run(evaluated, place, out) == 0
    # Features that were whole when the process was killed are only read; whoever computed them left its claim.
    assert {name: data for name, data in tree(out).items() if "/claims/" not in name} == tree(whole)
