"""Pair this tree's reads with those of another: `python -m benchmarks.read.before_after TREE [--rounds 41]`.

TREE is a checkout of another commit, as `git worktree add /tmp/before COMMIT` makes. Each tree reads in a process of
its own, both the same files, the same rows and in turns; which comes first is drawn anew each round, so that what else
the machine does meets both alike. Ratios are medians over rounds. Read are batches of ViT-B latents, after an epoch of
random rows and after the files were read from end to end, with the processor's caches swept before each; the same
beside a thread that counts in Python, with the turns of the interpreter's lock that the tree's training has; and 64
small rows from anywhere in 1,000,000 rows of 4,000 shards, all of which are open. That store is also opened, and its
first row read, by a fresh process each time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.machine import Goal, describe, report
from benchmarks.read.bench import make
from benchmarks.read.limits import shard_files
from benchmarks.read.page_cache import check_in_memory, drop, read_through
from benchmarks.scale import stores as small_stores

BEFORE, NOW = "before", "now"
TURNS = {BEFORE: 0.005, NOW: 0.0001}
"""Seconds of a turn of the interpreter's lock while a store is read in training: 5 ms is Python's own."""
LEAST = 0.9

CHILD = """
import json, sys, threading, time
import numpy as np
from usjepa.cache.reading.store import open_store
from usjepa.cache.store.memory import aligned_empty

store = open_store(sys.argv[1])
layers = [name for name in store.layers if name.startswith(sys.argv[2])]
memory = {name: aligned_empty((256, *store.layers[name].shape), store.layers[name].dtype) for name in layers}
sweep = np.zeros((96 << 20) // 8)

def read(rows):
    start = time.perf_counter()
    store.read(rows, layers=layers, out=memory)
    return time.perf_counter() - start

def beside_a_count(rows, turn):
    over = False
    def count():
        number = 0
        while not over:
            number += 1
    counting = threading.Thread(target=count)
    before = sys.getswitchinterval()
    sys.setswitchinterval(turn)
    counting.start()
    try:
        return read(rows)
    finally:
        over = True
        counting.join()
        sys.setswitchinterval(before)

for line in sys.stdin:
    task = json.loads(line)
    rows = np.array(task["rows"])
    if task["turn"]:
        took = beside_a_count(rows, task["turn"])
    else:
        sweep += task["sweep"]
        took = read(rows)
    print(took, flush=True)
"""
OPENING = """
import sys, time
from usjepa.cache.reading.store import open_store
start = time.perf_counter()
open_store(sys.argv[1]).read([0])
print(time.perf_counter() - start)
"""
Samples = dict[str, list[float]]


class Trees:
    """Two checkouts, each as a place to import `usjepa` from."""

    def __init__(self, before: Path, links: Path) -> None:
        self._paths = {BEFORE: before, NOW: Path(__file__).parents[2]}
        for who, tree in self._paths.items():
            (links / who).mkdir()
            (links / who / "usjepa").symlink_to(tree.resolve())
            self._paths[who] = links / who

    def start(self, who: str, script: str, *arguments: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(self._paths[who])}
        command = [sys.executable, "-c", script, *arguments]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd="/"
        )

    def opening(self, store: Path, rounds: int) -> Samples:
        """Seconds until a fresh process has opened a store and read a row."""
        found: Samples = {BEFORE: [], NOW: []}
        for number in range(rounds):
            for who in (BEFORE, NOW) if number % 2 else (NOW, BEFORE):
                with self.start(who, OPENING, str(store)) as child:
                    found[who].append(float(child.communicate()[0]))
        return found


class Pair:
    """A reader of each tree over one store."""

    def __init__(self, trees: Trees, store: Path, layers: str, rows: int) -> None:
        """`layers`: how the names of those that are read begin; `rows` of the store."""
        self._children = {who: trees.start(who, CHILD, str(store), layers) for who in (BEFORE, NOW)}
        self._rows, self._rng = rows, np.random.default_rng(1)

    def _read(self, who: str, rows: np.ndarray, turn: float = 0, sweep: bool = True) -> float:
        child = self._children[who]
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps({"rows": rows.tolist(), "turn": turn, "sweep": sweep}) + "\n")
        child.stdin.flush()
        return float(child.stdout.readline())

    def look_at(self, rows: np.ndarray) -> None:
        """Have both read rows once, 64 at a time: files are then open, and what they load at first is loaded."""
        for batch in np.array_split(rows, -(-len(rows) // 64)):
            for who in self._children:
                self._read(who, batch, sweep=False)

    def measure(self, batch: int, rounds: int, counting: bool = False) -> Samples:
        """Seconds of a batch."""
        found: Samples = {BEFORE: [], NOW: []}
        for _ in range(rounds):
            rows = self._rng.permutation(self._rows)[:batch]
            for who in self._rng.permutation([BEFORE, NOW]).tolist():
                found[who].append(self._read(who, rows, TURNS[who] if counting else 0))
        return found

    def close(self) -> None:
        for child in self._children.values():
            child.communicate()


def large_rows(trees: Trees, root: Path, rounds: int) -> dict[str, Samples]:
    """Batches of ViT-B latents in both states of the page cache."""
    root.mkdir()
    make(root, 1024)
    files, found = shard_files(root), dict[str, Samples]()
    for state in ("after an epoch", "after streaming"):
        drop(files)
        pair = Pair(trees, root / "store", "latents", 1024)
        if state == "after streaming":
            read_through(files)
        pair.look_at(np.random.default_rng(0).permutation(1024))
        check_in_memory(files)
        for batch in (64, 256):
            found[f"{batch} ViT-B rows, {state}"] = pair.measure(batch, rounds)
            found[f"{batch} ViT-B rows, {state}, beside a count"] = pair.measure(batch, max(3, rounds // 2), True)
        pair.close()
    return found


def small_rows(trees: Trees, root: Path, rounds: int) -> dict[str, Samples]:
    """Small rows of many shards, and opening."""
    with mock.patch("os.fsync"):
        small_stores.make(root, 1_000_000)
    pair = Pair(trees, root, "", 1_000_000)
    pair.look_at(np.arange(0, 1_000_000, small_stores.ROWS_PER_SHARD))
    found = {"64 small rows of 4,000 shards": pair.measure(64, rounds)}
    pair.close()
    found["open 1,000,000 rows, read one"] = trees.opening(root, max(5, rounds // 4))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("tree", type=Path, help="checkout of the commit to compare with")
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--folder", type=Path, help="where to write the data")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        root = Path(folder)
        (root / "links").mkdir()
        trees = Trees(args.tree, root / "links")
        pairs = large_rows(trees, root / "large", args.rounds) | small_rows(trees, root / "small", args.rounds)
    rates = {f"{what}: {who}": [1 / s for s in took] for what, by in pairs.items() for who, took in by.items()}
    goals = [
        Goal(f"{what}: now / before", rates[f"{what}: {NOW}"], rates[f"{what}: {BEFORE}"], LEAST) for what in pairs
    ]
    report("read-pairs", "per second", rates, describe(("numpy", "xxhash")), "paired with another commit", goals)


if __name__ == "__main__":
    main()
