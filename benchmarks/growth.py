"""What many sources cost a process that lists, adds to a store, joins stores or pairs rows.

`python -m benchmarks.growth [--sources 5100000] [--files 1200000] [--cases list grow ...]`

Tables alone, as in `benchmarks.tables`: single images with four views. Each case runs in a fresh process. "list": a
folder of so many empty files, three a patient. "grow": a store of so many sources is given all of them again and 1,000
more. "first build": so many are added to an empty store. Neither reads or decodes a file. "stores": two stores of half
as many sources each, opened as one and split. "pairs": `train.objective: contrast` by clip, and by patient. What counts
is what the process has grown by from before the call: memory of its own, without the pages of files that it maps, which
the system takes back when others want memory. Temporary files lie where TMPDIR says. Cases that are not asked for stay
in the file of results as they are.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import describe, earlier_results, write_results
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
MOST_MB, FIGURES = 300, ("s", "MB", "MB_at_the_peak")
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


def run(case: str, root: Path, count: int) -> list[float]:
    """Return what a case takes of so many sources or files, in an empty folder."""
    if case == "list":
        files(root, count)
        return measured(LISTING, str(root), str(count))
    if case == "first build":
        return measured(GROWING, str(root / "s"), "0", str(count))
    if case == "stores":
        halves = [_store(root / name, i * count, count // 2) for i, name in enumerate("ab")]
        return measured(STORES, *halves)
    store = _store(root / "s", 0, count)
    if case == "grow":
        return measured(GROWING, store, str(count), "1000")
    return measured(PAIRS, store, {"pairs by clip": "clip", "pairs by patient": "group"}[case])


def _store(place: Path, first: int, count: int) -> str:
    command = [sys.executable, "-m", "benchmarks.tables", "--sources", str(count), "--first", str(first)]
    subprocess.run([*command, "--make", str(place)], check=True)
    return str(place)


CASES = ("list", "first build", "grow", "stores", "pairs by clip", "pairs by patient")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--sources", type=int, default=5_100_000)
    parser.add_argument("--files", type=int, default=1_200_000, help="of `list`, which makes them")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--folder", type=Path, help="where to write the data")
    args = parser.parse_args()
    for case in args.cases:
        count = args.files if case == "list" else args.sources
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            found = dict(zip(FIGURES, (round(value, 1) for value in run(case, Path(folder), count)), strict=True))
        told = earlier_results("growth").get("cases", {})
        told[case] = {"sources": count, **found, "machine": describe(("numpy", "pyarrow", "xxhash"))}
        verdict = "met" if found[FIGURES[-1]] < MOST_MB else "NOT met"
        print(f"{case:18s} {count:,}: {found}; under {MOST_MB} MB: {verdict}", flush=True)
        note = " ".join(__doc__.split("\n\n")[2].split())
        write_results("growth", {"note": note, "goal_MB": MOST_MB, "cases": told})


if __name__ == "__main__":
    main()
