"""Memory of training: that of a batch and a model, however many rows the store holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.processes.commands import run_python
from tests.train.run.test_golden_losses import SIZE, made_store

if TYPE_CHECKING:
    from pathlib import Path

TRAIN = """
import sys
from pathlib import Path
from usjepa.cache.recipes.recipe import load_recipe
from usjepa.train.run.loop import train
train(sys.argv[1], sys.argv[2], load_recipe("demo", ["train.batch_size=16"]), "cpu", stop_after_steps=12)
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def peak_mib(store: Path, run: Path) -> float:
    return int(run_python("-c", TRAIN, store, run).stdout.split()[-1]) / 1024


@pytest.mark.slow
def test_peak_memory_of_training_does_not_grow_with_ten_times_the_rows(tmp_path: Path) -> None:
    rows = (400, 4000)
    peaks = [peak_mib(made_store(tmp_path / f"{n}.zarr", n), tmp_path / f"run-{n}") for n in rows]
    more_pixels_mib = (rows[1] - rows[0]) * SIZE * SIZE / 2**20
    assert more_pixels_mib > 40
    assert peaks[1] - peaks[0] < 0.25 * more_pixels_mib, peaks
