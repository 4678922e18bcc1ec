"""Open and read a store in fresh processes, and look at their memory."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

GROWTH, OPEN_FILES = "memory after 10x the rows, more MB", "most open files"

OPENING = """
import json, os, sys, time
from pathlib import Path
import usjepa.cache.reading.store

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

imports = before = resident()
start = time.perf_counter()
store = usjepa.cache.reading.store.open_store(sys.argv[1])
opened, opened_mb = time.perf_counter() - start, resident() - before
store.read([0])
first, first_mb = time.perf_counter() - start, resident() - before
# Not ru_maxrss, which begins with the memory of the process that started this one.
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1e3

from usjepa.cache.recipes.train import TrainSettings
from usjepa.train.data.clip_runs import frames_of
from usjepa.train.data.order import EpochOrder
from usjepa.train.data.split import split_rows
before, start = resident(), time.perf_counter()
table, settings = store.table, TrainSettings()
split = split_rows(table, settings)
names = [source.dataset for source in table.sources]
EpochOrder(frames_of(names, table.source, table.frame, table.view, split.train), settings).batch(0, 0)
ready, ready_mb = time.perf_counter() - start, resident() - before
print(json.dumps([opened, opened_mb, first, first_mb, imports, peak, ready, ready_mb]))
"""
READING = """
import json, os, resource, sys
from pathlib import Path
import numpy as np
from usjepa.cache.reading.store import open_store

folder, limit, least, most = sys.argv[1], *map(int, sys.argv[2:])
if limit:
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
store, rng, opened = open_store(folder, threads=4), np.random.default_rng(0), 0

def read(rows):
    global opened
    for _ in range(rows // 64):
        store.read(rng.choice(store.rows, 64))
        opened = max(opened, len(os.listdir("/proc/self/fd")))
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

before = read(least)
print(json.dumps([read(most - least) - before, opened]))
"""
OPENED = (
    "open, s",
    "open, MB",
    "open and read a row, s",
    "open and read a row, MB",
    "process before, MB",
    "process at its peak, MB",
    "tables, split and order, s",
    "tables, split and order, MB",
)


def reading(folder: Path, limit: int, least: int, most: int) -> dict[str, list[float]]:
    """Read random rows in a fresh process that may have `limit` open files (0: as many as usual)."""
    command = [sys.executable, "-c", READING, str(folder), str(limit), str(least), str(most)]
    growth, opened = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return {GROWTH: [growth], OPEN_FILES: [opened]}


def opening(folder: Path, rounds: int) -> dict[str, list[float]]:
    found = [
        json.loads(subprocess.run([sys.executable, "-c", OPENING, str(folder)], capture_output=True, check=True).stdout)
        for _ in range(rounds)
    ]
    return {name: [values[i] for values in found] for i, name in enumerate(OPENED)}
