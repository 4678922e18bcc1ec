"""What many sources cost a process that lists, adds to a store, joins stores or pairs rows.

Tables alone, as in `benchmarks.tables`: single images with four views. Each case runs in a fresh process, at two sizes,
and is extrapolated to 5.1 million sources along the straight line through both. "list": a folder of so many empty
files, three a patient. "grow": a store of so many sources is given all of them again and 1,000 more. "first build": so
many are added to an empty store. Neither reads or decodes a file. "stores": two stores of half as many sources each,
opened as one and split. "pairs": `train.objective: contrast` by clip, and by patient. What counts is what the process
has grown by from before the call: memory of its own, without the pages of files that it maps, which the system takes
back when others want memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import describe
from benchmarks.tables import _MEMORY

_OWN = ("RssAnon", "RssShmem")
_ENDS = f"""
def own():
    return sum(map(memory, {_OWN}))
before, start = own(), time.perf_counter()
print(before, flush=True)
run()
print(json.dumps([time.perf_counter() - start, own() - before]))
"""
ALL, FIGURES = 5_100_000, ("s", "MB", "MB_at_the_peak")
LISTING = (
    _MEMORY
    + """
from usjepa.cache.recipes.cache import CacheSettings
from usjepa.cache.scanning.scan import list_source
def run():
    global kept
    kept = list_source(sys.argv[1], CacheSettings())
    assert len(kept.entries) == int(sys.argv[2])
"""
    + _ENDS
)
GROWING = (
    _MEMORY
    + """
import xxhash
from usjepa.cache.decoding.child import DecodingProcess
from usjepa.cache.recipes.cache import CacheSettings
from usjepa.cache.scanning.growth import grow
from usjepa.cache.scanning.journal import ScanJournal
from usjepa.cache.sources.base import Entry, FileFacts, Listing, packed_entries
from usjepa.cache.sources.files.reader import SourceReader
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.writer import StoreWriter
from benchmarks.tables import group, path
SourceReader.content_hash = lambda self, path, reader: xxhash.xxh3_128_hexdigest(path.encode())
DecodingProcess.probe = lambda self, path, reader: FileFacts(1, 640, 640, 200)
writer = StoreWriter(LocalStorage(Path(sys.argv[1])))
writer.create_or_open(512)
count, added = map(int, sys.argv[2:4])
settings = CacheSettings.model_validate({"views": {"count": 4}})
def run():
    made = (Entry(path(i), "images", group(i), "", "train", "images", "x") for i in range(count + added))
    entries = packed_entries(made)
    assert grow(writer, Listing(Path("/"), entries), settings, ScanJournal(None), "stop") == 4 * added
"""
    + _ENDS
)
STORES = (
    _MEMORY
    + """
from usjepa.cache import open_stores
from usjepa.cache.recipes.train import TrainSettings
from usjepa.train.data.crossing import split_of
def run():
    global kept
    kept = open_stores(sys.argv[1:3])
    kept = kept, split_of(kept, TrainSettings())
"""
    + _ENDS
)
PAIRS = (
    _MEMORY
    + """
import torch
from usjepa.cache import open_store
from usjepa.cache.recipes.train import TrainSettings
from usjepa.train.data.pairs import PairMaker
from usjepa.train.data.split import split_rows
settings = TrainSettings.model_validate({"objective": "contrast", "contrast": {"positives": sys.argv[2]}})
def run():
    global kept
    store = open_store(sys.argv[1])
    kept = PairMaker(store, split_rows(store.table, settings), settings, torch.device("cpu"))
"""
    + _ENDS
)


def files(root: Path, count: int) -> None:
    """Write so many empty files, three a folder."""
    for i in range(0, count, 3):
        folder = root / f"images/patient-{i // 3:09d}"
        folder.mkdir(parents=True)
        for number in range(i, min(i + 3, count)):
            (folder / f"frame-{number:09d}.png").touch()


def measured(program: str, *arguments: str) -> list[float]:
    """Return seconds, MB kept and MB at the peak."""
    with subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        before = peak = float(child.stdout.readline())
        while child.poll() is None:
            peak = max(peak, _own_mb(child.pid))
            time.sleep(0.003)
        seconds, kept = json.loads(child.stdout.read())
    if child.returncode:
        raise SystemExit(f"a case ended with {child.returncode}")
    return [seconds, kept, peak - before]


def _own_mb(pid: int) -> float:
    """Return how much memory of its own a process has; 0 once it has ended."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(_OWN))


def cases(root: Path, sources: int, first_build_alone: bool) -> dict[str, list[float]]:
    """Return what each case takes at a size."""
    first_build = {"first build": measured(GROWING, str(root / "first"), "0", str(sources))}
    if first_build_alone:
        return first_build
    folder, store, halves = root / "files", root / "s", [root / "a", root / "b"]
    files(folder, sources)
    for place, first, count in (
        (store, 0, sources),
        *((half, i * sources, sources // 2) for i, half in enumerate(halves)),
    ):
        command = [sys.executable, "-m", "benchmarks.tables", "--sources", str(count), "--first", str(first)]
        subprocess.run([*command, "--make", str(place)], check=True)
    return {
        "list": measured(LISTING, str(folder), str(sources)),
        "pairs by clip": measured(PAIRS, str(store), "clip"),
        "pairs by patient": measured(PAIRS, str(store), "group"),
        "stores": measured(STORES, *map(str, halves)),
        "grow": measured(GROWING, str(store), str(sources), "1000"),
        **first_build,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--sources", type=int, nargs=2, default=[200_000, 400_000])
    parser.add_argument("--only-print", action="store_true", help="write no file of results")
    parser.add_argument("--first-build", action="store_true", help="this case alone; implies --only-print")
    args = parser.parse_args()
    found: dict[int, dict[str, list[float]]] = {}
    for sources in args.sources:
        with tempfile.TemporaryDirectory() as folder:
            found[sources] = cases(Path(folder), sources, args.first_build)
    few, many = args.sources
    told = {}
    for case, values in found[many].items():
        slopes = [(b - a) / (many - few) for a, b in zip(found[few][case], values, strict=True)]
        whole = [round(b + slope * (ALL - many), 1) for b, slope in zip(values, slopes, strict=True)]
        told[case] = {
            "bytes_a_source": {"kept": round(slopes[1] * 1e6, 1), "at_the_peak": round(slopes[2] * 1e6, 1)},
            "extrapolated": dict(zip(FIGURES, whole, strict=True)),
            "measured": {str(size): dict(zip(FIGURES, found[size][case], strict=True)) for size in found},
        }
        print(
            f"{case:18s} {slopes[1] * 1e6:7.1f} B a source kept, {slopes[2] * 1e6:7.1f} at the peak; "
            f"{ALL:,}: {whole[0]:7.0f} s, {whole[1]:7.0f} MB, {whole[2]:7.0f} MB at the peak"
        )
    if args.only_print or args.first_build:
        return
    note = " ".join(__doc__.split("\n\n")[1].split())
    content: dict[str, object] = {"note": note, "sources": ALL, "machine": describe(("numpy", "pyarrow", "xxhash"))}
    (Path(__file__).parent / "results" / "growth.json").write_text(
        json.dumps(content | {"cases": told}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
