"""What the same injuries do to this store, to zarr-python's defaults, to HDF5 and to a folder of .pt files.

Each trial writes 64 rows of float16 latents [49, 64], injures the files once, and reads every row back. A trial ends
`raised` (the reader refused), `silent` (a row came back as something else and nobody said so) or `unharmed` (what was
hit carries no data). Run by `make bench-faults`; counted, not intended.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import h5py
import numpy as np
import torch
import zarr

from benchmarks.machine import describe
from tests.support.stores import tables
from usjepa.cache.reading.store import open_store
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.layers import Layer
from usjepa.cache.store.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

ROWS, SHARD, SHAPE = 64, 16, (49, 64)


class System(Protocol):
    """A way to keep rows on disk."""

    name: str

    def write(self, root: Path, rows: NDArray[Any]) -> None:
        """Write all rows."""
        ...

    def read(self, root: Path) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (row, content) of every row that the reader believes to be there."""
        ...

    def files(self, root: Path) -> list[Path]:
        """Return the files that hold rows."""
        ...


class Usjepa:
    name = "usjepa"

    def write(self, root: Path, rows: NDArray[Any]) -> None:
        writer = StoreWriter(LocalStorage(root))
        writer.create_or_open(SHARD)
        writer.add_segment(*tables(len(rows)), len(rows))
        blank = np.zeros((SHARD, 1, 4, 4), np.uint8), np.zeros((SHARD, 1), np.uint8)
        layers = [
            Layer("pixels", "uint8", (1, 4, 4), SHARD, {"recipe": "faults"}),
            Layer("regions", "uint8", (1,), SHARD, {"recipe": "faults"}),
            Layer("latents/toy", "float16", SHAPE, SHARD, {"weights": "0"}),
        ]
        for layer in layers:
            writer.add_layer(layer)
        for shard in range(len(rows) // SHARD):
            part = rows[shard * SHARD : (shard + 1) * SHARD]
            for layer, content in zip(layers, (*blank, part), strict=True):
                writer.write_shard(layer, shard, content, (), {})
        writer.seal()

    def read(self, root: Path) -> Iterator[tuple[int, NDArray[Any]]]:
        store = open_store(root, allow_partial=True)
        for row in store.rows.tolist():
            yield row, store.read([row], layers=["latents/toy"]).latents[0]

    def files(self, root: Path) -> list[Path]:
        return sorted((root / "latents/toy").glob("c.*"))


class Zarr:
    """zarr-python with its defaults: a chunk a row, zstd; or sharded, as it is used for many small rows."""

    def __init__(self, sharded: bool) -> None:
        self.name = f"zarr {zarr.__version__}{' sharded' if sharded else ''}"
        self._shards = (SHARD, *SHAPE) if sharded else None

    def write(self, root: Path, rows: NDArray[Any]) -> None:
        array = zarr.create_array(root, shape=rows.shape, chunks=(1, *SHAPE), shards=self._shards, dtype=rows.dtype)
        step = SHARD if self._shards else 1
        for start in range(0, len(rows), step):
            array[start : start + step] = rows[start : start + step]

    def read(self, root: Path) -> Iterator[tuple[int, NDArray[Any]]]:
        array = zarr.open_array(root, mode="r")
        for row in range(array.shape[0]):
            yield row, np.asarray(array[row])

    def files(self, root: Path) -> list[Path]:
        return sorted(path for path in (root / "c").rglob("*") if path.is_file())


class Hdf5:
    name = f"h5py {h5py.__version__}"

    def write(self, root: Path, rows: NDArray[Any]) -> None:
        root.mkdir(parents=True)
        with h5py.File(root / "latents.h5", "w") as file:
            data = file.create_dataset("latents", rows.shape, rows.dtype, chunks=(1, *SHAPE))
            for row, content in enumerate(rows):
                data[row] = content

    def read(self, root: Path) -> Iterator[tuple[int, NDArray[Any]]]:
        with h5py.File(root / "latents.h5") as file:
            for row in range(len(file["latents"])):
                yield row, file["latents"][row]

    def files(self, root: Path) -> list[Path]:
        return [root / "latents.h5"]


class TorchFiles:
    name = ".pt files"

    def write(self, root: Path, rows: NDArray[Any]) -> None:
        root.mkdir(parents=True)
        for row, content in enumerate(rows):
            torch.save(torch.from_numpy(content), root / f"{row:06d}.pt")

    def read(self, root: Path) -> Iterator[tuple[int, NDArray[Any]]]:
        for path in sorted(root.glob("*.pt")):
            yield int(path.stem), torch.load(path, weights_only=True).numpy()

    def files(self, root: Path) -> list[Path]:
        return sorted(root.glob("*.pt"))


def flip_a_bit(rng: random.Random, system: System, root: Path, old: Path) -> None:
    path = rng.choice(system.files(root))
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def zero_a_page(rng: random.Random, system: System, root: Path, old: Path) -> None:
    path = rng.choice(system.files(root))
    data = bytearray(path.read_bytes())
    start = rng.randrange(max(1, len(data) - 4096))
    data[start : start + 4096] = bytes(len(data[start : start + 4096]))
    path.write_bytes(data)


def delete_a_file(rng: random.Random, system: System, root: Path, old: Path) -> None:
    rng.choice(system.files(root)).unlink()


def empty_a_file(rng: random.Random, system: System, root: Path, old: Path) -> None:
    rng.choice(system.files(root)).write_bytes(b"")


def cut_a_file(rng: random.Random, system: System, root: Path, old: Path) -> None:
    path = rng.choice(system.files(root))
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(1, len(data))])


def swap_two_rows(rng: random.Random, system: System, root: Path, old: Path) -> None:
    """Swap two files, or where a file holds all rows, the bytes of two rows within it."""
    files = system.files(root)
    if len(files) > 1:
        one, two = rng.sample(files, 2)
        first, second = one.read_bytes(), two.read_bytes()
        one.write_bytes(second)
        two.write_bytes(first)
        return
    rows, data = list(system.read(root)), files[0].read_bytes()
    (_, one_row), (_, two_row) = rng.sample(rows, 2)
    a, b = data.index(one_row.tobytes()), data.index(two_row.tobytes())
    changed = bytearray(data)
    changed[a : a + one_row.nbytes], changed[b : b + one_row.nbytes] = two_row.tobytes(), one_row.tobytes()
    files[0].write_bytes(changed)


def bring_back_an_older_file(rng: random.Random, system: System, root: Path, old: Path) -> None:
    path = rng.choice(system.files(root))
    path.write_bytes((old / path.relative_to(root)).read_bytes())


INJURIES: dict[str, tuple[Any, int]] = {
    "one bit flipped": (flip_a_bit, 200),
    "a page of 4 KiB zeroed": (zero_a_page, 50),
    "a file deleted": (delete_a_file, 25),
    "a file of zero bytes": (empty_a_file, 25),
    "a file cut": (cut_a_file, 50),
    "two rows or files swapped": (swap_two_rows, 25),
    "an older file brought back": (bring_back_an_older_file, 25),
}


def outcome(system: System, root: Path, truth: NDArray[Any], whole: bool = True) -> str:
    """Read every row and say how it went; with `whole`, a row that is not there counts as silently lost."""
    seen = 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for row, content in system.read(root):
                seen += 1
                if content.shape != truth[row].shape or content.tobytes() != truth[row].tobytes():
                    return "silent"
    except Exception:  # noqa: BLE001  whatever a reader raises, it has refused
        return "raised"
    return "silent" if whole and seen < len(truth) else "unharmed"


def injured(system: System, injure: Any, trials: int, folder: Path, rng: random.Random) -> Counter[str]:
    """Count the outcomes of one injury to one system."""
    truth, older = latents(0), latents(1)
    system.write(folder / "whole", truth)
    system.write(folder / "old", older)
    counts: Counter[str] = Counter()
    for _ in range(trials):
        shutil.copytree(folder / "whole", folder / "trial")
        injure(rng, system, folder / "trial", folder / "old")
        counts[outcome(system, folder / "trial", truth)] += 1
        shutil.rmtree(folder / "trial")
    return counts


def _write_for_ever(system: System, root: str, truth: NDArray[Any]) -> None:
    system.write(Path(root), truth)
    time.sleep(60)


def killed(system: System, trials: int, folder: Path, rng: random.Random) -> Counter[str]:
    """Kill the writer at random moments; rows that were not yet written may be missing, never wrong."""
    truth = latents(0)
    start = time.perf_counter()
    system.write(folder / "timed", truth)
    duration = time.perf_counter() - start
    counts: Counter[str] = Counter()
    context = multiprocessing.get_context("fork")
    for trial in range(trials):
        root = folder / f"killed-{trial}"
        child = context.Process(target=_write_for_ever, args=(system, str(root), truth))
        child.start()
        time.sleep(0.005 + rng.random() * duration)
        os.kill(int(child.pid or 0), signal.SIGKILL)
        child.join()
        counts[outcome(system, root, truth, whole=False)] += 1
        shutil.rmtree(root, ignore_errors=True)
    return counts


def latents(seed: int) -> NDArray[Any]:
    return np.random.default_rng(seed).normal(size=(ROWS, *SHAPE)).astype(np.float16)


def main() -> None:
    """Run everything; print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/faults.json"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    systems: list[System] = [Usjepa(), Zarr(False), Zarr(True), Hdf5(), TorchFiles()]
    found: dict[str, dict[str, dict[str, int]]] = {}
    for name, (injure, trials) in INJURIES.items():
        found[name] = {}
        for system in systems:
            with tempfile.TemporaryDirectory() as folder:
                counts = injured(system, injure, trials, Path(folder), random.Random(name))
            found[name][system.name] = dict(counts)
    found["writer killed (SIGKILL)"] = {}
    for system in systems:
        with tempfile.TemporaryDirectory() as folder:
            found["writer killed (SIGKILL)"][system.name] = dict(killed(system, 25, Path(folder), random.Random(0)))
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(
        json.dumps({"machine": describe(("zarr", "h5py", "torch", "usjepa")), "found": found}, indent=1) + "\n"
    )
    print(table(found))


def table(found: dict[str, dict[str, dict[str, int]]]) -> str:
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
