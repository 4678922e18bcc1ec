"""Random-batch reads of fp16 ViT-B latents: usjepa beside the limit (np.memmap, bare pread) and its peers.

    python -m benchmarks.read [--rows 1024] [--batch 64] [--large 256] [--rounds 41] [--folder DIR]

Every contender reads the same rows in the same order from a warm page cache; which comes first is drawn anew each
round, and before each the processor's caches are swept, as in training, where a batch was last touched an epoch ago.
How the files came into the page cache decides how fast they are read from it (`page_cache.py`), so it is stated: by
epochs of random rows, each file read by whom it belongs to, as training leaves them; and, in a part of its own, by
reading them from end to end, as a copy of the store does. What is read into memory used before goes to the same memory
for all.

The table gives min | median | max over rounds in GB/s of latents; ratios are medians over rounds. Large batches, for
which what a batch costs by itself matters less, are read by ourselves and the limits only. The cold part asks the
system to drop the shards before each read. The busy part has a thread that counts in Python beside the reads, as a
training loop's may be, with turns of the interpreter's lock as short as training makes them. Each peer is measured in a
process of its own, beside ourselves and np.take: what threads it keeps disturbs no other.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.machine import Goal, describe, report
from benchmarks.read.bench import FRESH, ONE, OURS, REUSED, UNCHECKED, Bench, Samples, make
from benchmarks.read.beside import beside, beside_peers
from benchmarks.read.limits import BARE, DIM, HASHED, MM, PLAIN, TAKE, TOKENS
from usjepa.cache.reading.process import short_turns

if TYPE_CHECKING:
    from benchmarks.read.peers import Read

PACKAGES = "zarr zarrs tensorstore h5py datasets mosaicml-streaming safetensors annbatch numpy xxhash"
THROUGH = "files read through before: "
COLD = "cold: "
BUSY = "beside a thread busy in Python: "


def beside_python(bench: Bench, readers: dict[str, Read], batch: int) -> Samples:
    """GB/s while another thread counts, which gives up the interpreter's lock when its turn is over and not before."""
    over = False

    def count() -> None:
        number = 0
        while not over:
            number += 1

    busy = threading.Thread(target=count)
    busy.start()
    try:
        with short_turns():
            return bench.measure(readers, batch, lambda: None, max(3, bench.rounds // 4))
    finally:
        over = True
        busy.join()


def after_epochs(bench: Bench, batch: int, large: int) -> Samples:
    """What is read in a training that has run for an epoch; cold reads too, which end that state."""
    bench.epoch(batch)
    readers = bench.readers(batch)
    samples = bench.measure(readers, batch, bench.sweep)
    samples |= named(f"{large} rows: ", bench.measure(bench.readers(large), large, bench.sweep))
    pair = {who: readers[who] for who in (OURS + REUSED, BARE)}
    samples |= named(BUSY, beside_python(bench, {who: readers[who] for who in (*pair, TAKE, HASHED)}, batch))
    return samples | named(COLD, bench.measure(pair, batch, bench.forget))


def after_copying(bench: Bench, batch: int, large: int) -> Samples:
    """What is read of files that were read from end to end before."""
    bench.through()
    samples = bench.measure(bench.readers(batch), batch, bench.sweep)
    return named(THROUGH, samples | named(f"{large} rows: ", bench.measure(bench.readers(large), large, bench.sweep)))


def named(prefix: str, samples: Samples) -> Samples:
    return {prefix + who: values for who, values in samples.items()}


def warm_goals(samples: Samples, prefix: str = "") -> list[Goal]:
    """Ratios without goals: what a mapping gains is the price of an error that names the row."""
    warm = {who.removeprefix(prefix): values for who, values in samples.items() if who.startswith(prefix)}
    limit = max((warm[MM], warm[TAKE]), key=np.median)
    found = []
    for memory in (FRESH, REUSED):
        mine = warm[OURS + memory]
        found += [
            Goal(f"{prefix}checked{memory} / faster of mm[rows], np.take", mine, limit, None),
            Goal(f"{prefix}unchecked{memory} / faster of mm[rows], np.take", warm[UNCHECKED + memory], limit, None),
            Goal(f"{prefix}2 threads / 1 thread{memory}", mine, warm[ONE + memory], None),
        ]
    found.append(Goal(f"{prefix}checked, fresh memory / {MM}, fresh too", warm[OURS + FRESH], warm[MM], None))
    for other in (PLAIN, HASHED):
        found.append(Goal(f"{prefix}checked, reused memory / {other}", warm[OURS + REUSED], warm[other], None))
    for bare in (BARE, HASHED):
        found.append(Goal(f"{prefix}{bare} / faster of mm[rows], np.take", warm[bare], limit, None))
    return found


def goals(samples: Samples, large: int) -> list[Goal]:
    """The figures that were promised, as ratios of one round's readings."""
    sizes = ("", f"{large} rows: ")
    found = [goal for state in ("", THROUGH) for size in sizes for goal in warm_goals(samples, state + size)]
    zarr = max(
        (who for who in samples if who.startswith("zarr-python")), key=lambda who: np.median(samples[who]), default=""
    )
    of_zarr = beside(OURS + FRESH, "zarrs" if "with zarrs" in zarr else "zarr_python")
    for peer, mine, least in (("TensorStore", beside(OURS + FRESH, "tensorstore"), 3.0), (zarr, of_zarr, 5.0)):
        if peer in samples:
            found.append(Goal(f"checked, fresh memory / {peer}", samples[mine], samples[peer], least))
    cold, busy = samples[COLD + OURS + REUSED], samples[BUSY + OURS + REUSED]
    found.append(Goal(f"{COLD}checked, reused memory / bare pread", cold, samples[COLD + BARE], 0.9))
    for other in (TAKE, HASHED):
        found.append(Goal(f"{BUSY}checked, reused memory / {other}", busy, samples[BUSY + other], None))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--large", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument(
        "--folder", type=Path, help="where to write the data; the file system is part of what is measured"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        root = Path(folder)
        make(root, args.rows)
        bench = Bench(root, args.rounds)
        samples = after_epochs(bench, args.batch, args.large) | after_copying(bench, args.batch, args.large)
        of_peers, missing = beside_peers(root, args.rounds, args.batch)
    samples |= of_peers
    note = (
        f"{args.batch} random rows of {args.rows}, fp16 [{TOKENS}, {DIM}]; page cache as epochs leave it, "
        "processor caches swept"
    )
    machine = describe(tuple(PACKAGES.split()))
    report("read", "GB/s", samples, machine, note, goals(samples, args.large), missing)


if __name__ == "__main__":
    main()
