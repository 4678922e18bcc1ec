"""Injure stores and runs, theirs and ours alike, and count what is noticed.

Each trial injures the files once and reads everything back. It ends `raised` (the reader refused), `silent` (something
came back changed or was lost, and nobody said so) or `unharmed` (what was hit carries no data). Stores hold 64 rows of
float16 latents [49, 64]; runs a ViT of 0.3 M parameters, its input and the losses of 200 steps. Run by `make
bench-faults`; counted, not intended.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.faults.injuries import INJURIES, injured, outcome
from benchmarks.faults.run_parts import ExportedRun, OneCheckpoint, PlainFiles
from benchmarks.faults.systems import Hdf5, TorchFiles, Usjepa, Zarr, latents
from benchmarks.machine import describe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.faults.systems import System

KILLED = "writer killed (SIGKILL)"
SWAPPED = "two rows or files swapped"

Found = dict[str, dict[str, dict[str, int]]]
"""Outcome counts by injury and system."""


def _write_and_wait(system: System, root: str) -> None:
    system.write(Path(root), 0)
    time.sleep(60)


def killed(system: System, trials: int, folder: Path, rng: random.Random) -> Counter[str]:
    """Kill the writer at random moments; rows that were not yet written may be missing, never wrong."""
    start = time.perf_counter()
    system.write(folder / "timed", 0)
    duration = time.perf_counter() - start
    counts: Counter[str] = Counter()
    context = multiprocessing.get_context("fork")
    for trial in range(trials):
        root = folder / f"killed-{trial}"
        child = context.Process(target=_write_and_wait, args=(system, str(root)))
        child.start()
        time.sleep(0.005 + rng.random() * duration)
        os.kill(int(child.pid or 0), signal.SIGKILL)
        child.join()
        counts[outcome(system, root, list(latents(0)), whole=False)] += 1
        shutil.rmtree(root, ignore_errors=True)
    return counts


def count_injuries(systems: Sequence[System], names: Sequence[str]) -> Found:
    """Injure each system in each way."""
    found: Found = {}
    for name in names:
        injure, trials = INJURIES[name]
        found[name] = {}
        for system in systems:
            with tempfile.TemporaryDirectory() as folder:
                found[name][system.name] = dict(injured(system, injure, trials, Path(folder), random.Random(name)))
    return found


def main() -> None:
    """Run everything; print two tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/faults.json"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    stores: list[System] = [Usjepa(), Zarr(False), Zarr(True), Hdf5(), TorchFiles()]
    found = count_injuries(stores, list(INJURIES))
    found[KILLED] = {}
    for system in stores:
        with tempfile.TemporaryDirectory() as folder:
            found[KILLED][system.name] = dict(killed(system, 25, Path(folder), random.Random(0)))
    # The files of a run have different kinds: a swap of two is noticed by every reader.
    runs = count_injuries(
        [ExportedRun(), PlainFiles(), OneCheckpoint()], [name for name in INJURIES if name != SWAPPED]
    )
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    result = {"machine": describe(("zarr", "h5py", "torch", "usjepa")), "found": found, "runs": runs}
    asked.json.write_text(json.dumps(result, indent=1) + "\n")
    print(table(found), table(runs), sep="\n\n")


def table(found: Found) -> str:
    """Return the counts as a Markdown table: raised / silent / unharmed."""
    names = list(next(iter(found.values())))
    lines = [f"| raised / silent / unharmed | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for injury, systems in found.items():
        cells = []
        for name in names:
            counts = [systems[name].get(kind, 0) for kind in ("raised", "silent", "unharmed")]
            cells.append(f"{counts[0]} / **{counts[1]}** / {counts[2]}" if counts[1] else " / ".join(map(str, counts)))
        lines.append(f"| {injury} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
