"""A scan of many small files on a slow share: `python -m benchmarks.scan [--files 4000] [--delay-ms 5] [--rounds 3]`.

The share is pretended: a library that is loaded before all others (`LD_PRELOAD`, built with `cc`) lets every call that
opens, looks at, or lists a path under the folder wait, in every process of the scan. What a file costs without waiting
is measured by one child on the bare folder, and how often it waits is counted; so the best that as many children as
cores can do is cores / (cost of a file + calls x delay). Listing and starting children are in the scan's time. Beside
other work a wait of 5 ms takes longer: its length is measured just before and after each scan, by as many processes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2

from benchmarks.machine import Goal, describe, report
from usjepa.cache.recipes.cache import PhantomSettings
from usjepa.cache.sources.phantom.source import Phantom

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static void slow(const char *path) {
    const char *root = getenv("SLOW_ROOT"), *ms = getenv("SLOW_MS"), *log = getenv("SLOW_LOG");
    if (!root || !path || strncmp(path, root, strlen(root))) return;
    static int (*real)(const char *, int, ...);
    if (log) {
        if (!real) real = dlsym(RTLD_NEXT, "open");
        int file = real(log, O_WRONLY | O_APPEND);
        if (file >= 0) { if (write(file, ".", 1) != 1) abort(); close(file); }
    }
    double wait = ms ? atof(ms) : 0;
    struct timespec t = {(time_t)(wait / 1000), (long)(wait * 1e6) % 1000000000L};
    if (wait > 0) nanosleep(&t, NULL);
}
#define OPEN(name) \
int name(const char *path, int flags, ...) { \
    static int (*real)(const char *, int, ...); \
    if (!real) real = dlsym(RTLD_NEXT, #name); \
    va_list rest; va_start(rest, flags); int mode = va_arg(rest, int); va_end(rest); \
    slow(path); return real(path, flags, mode); }
OPEN(open)
OPEN(open64)
#define LOOK(name, kind) \
int name(const char *path, struct kind *found) { \
    static int (*real)(const char *, struct kind *); \
    if (!real) real = dlsym(RTLD_NEXT, #name); \
    slow(path); return real(path, found); }
LOOK(stat, stat)
LOOK(lstat, stat)
LOOK(stat64, stat64)
LOOK(lstat64, stat64)
#define LOOK_AT(name, kind) \
int name(int at, const char *path, struct kind *found, int flags) { \
    static int (*real)(int, const char *, struct kind *, int); \
    if (!real) real = dlsym(RTLD_NEXT, #name); \
    slow(path); return real(at, path, found, flags); }
LOOK_AT(fstatat, stat)
LOOK_AT(fstatat64, stat64)
DIR *opendir(const char *path) {
    static DIR *(*real)(const char *);
    if (!real) real = dlsym(RTLD_NEXT, "opendir");
    slow(path); return real(path); }
ssize_t readlink(const char *path, char *found, size_t size) {
    static ssize_t (*real)(const char *, char *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "readlink");
    slow(path); return real(path, found, size); }
"""
SCAN = """
import json, sys, time
from usjepa.cache.recipes.cache import CacheSettings
from usjepa.cache.scanning.scan import list_source, scan

folder, children = sys.argv[1], int(sys.argv[2]) or None
settings = CacheSettings(decode_processes=children)
start = time.perf_counter()
listing = list_source(folder, settings)
table = scan(listing, settings, None, "stop")
print(json.dumps([time.perf_counter() - start, len(table)]))
"""
WAIT = """
import os, sys, time
folder, calls = sys.argv[1], int(sys.argv[2])
start = time.perf_counter()
for _ in range(calls):
    os.stat(folder)
print((time.perf_counter() - start) / calls * 1e3)
"""
CALLS = 400
"""Waits whose length is measured, per process."""
KINDS = 64
"""Different pictures; the others are copies under other names."""


def make(root: Path, files: int) -> None:
    """Write phantom frames of 112 pixels as PNG, 500 to a folder."""
    phantom = Phantom(PhantomSettings(patients=8, size=112))
    shown = [(one.path, number) for one in phantom.patients() for number in range(one.frames)][:KINDS]
    pictures = [cv2.imencode(".png", phantom.frame(*frame))[1].tobytes() for frame in shown]
    for number in range(files):
        place = root / f"{number // 500:03d}"
        place.mkdir(exist_ok=True)
        (place / f"{number:06d}.png").write_bytes(pictures[number % len(pictures)])


def scanned(shim: Path, root: Path, files: int, children: int, delay_ms: float, log: Path | None = None) -> float:
    """Return the seconds of a scan in a process of its own; the import of its modules is not counted."""
    slow = {"LD_PRELOAD": str(shim), "SLOW_ROOT": str(root), "SLOW_MS": str(delay_ms)}
    slow |= {"SLOW_LOG": str(log)} if log is not None else {}
    command = [sys.executable, "-c", SCAN, str(root), str(children)]
    done = subprocess.run(command, env={**os.environ, **slow}, stdout=subprocess.PIPE, check=True)
    seconds, count = json.loads(done.stdout)
    assert count == files, count
    return float(seconds)


def wait_ms(shim: Path, root: Path, processes: int, delay_ms: float) -> float:
    """Return how long a delayed call takes at this moment, where that many processes wait side by side."""
    slow = {**os.environ, "LD_PRELOAD": str(shim), "SLOW_ROOT": str(root), "SLOW_MS": str(delay_ms)}
    command = [sys.executable, "-c", WAIT, str(root), str(CALLS)]
    running = [subprocess.Popen(command, env=slow, stdout=subprocess.PIPE) for _ in range(processes)]
    return statistics.mean(float(one.communicate()[0]) for one in running)


def cost_ms(shim: Path, root: Path, part: Path) -> tuple[float, float]:
    """Return milliseconds that a file costs one child that never waits, and the calls that would wait, per file.

    The start of the child is in neither: it is taken off by scanning one folder of 500 and then two.
    """
    log = part / "calls"
    sizes: dict[int, tuple[float, int]] = {}
    for count in (1, 2):
        place = part / str(count)
        place.mkdir()
        for folder in sorted(root.iterdir())[:count]:
            (place / folder.name).mkdir()
            for file in folder.iterdir():
                (place / folder.name / file.name).hardlink_to(file)
        log.write_bytes(b"")
        scanned(shim, place, 500 * count, 1, 0, log)
        seconds = min(scanned(shim, place, 500 * count, 1, 0) for _ in range(3))
        sizes[count] = seconds, log.stat().st_size
    (few_s, few), (many_s, many) = sizes[1], sizes[2]
    return (many_s - few_s) / 500 * 1e3, (many - few) / 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--files", type=int, default=4000, help="at least 1,000")
    parser.add_argument("--delay-ms", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shim, root, part = folder / "slow.so", folder / "share", folder / "part"
        (folder / "slow.c").write_text(SHIM)
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-O2", "-o", str(shim), str(folder / "slow.c"), "-ldl", "-U_FORTIFY_SOURCE"],
            check=True,
        )
        root.mkdir()
        part.mkdir()
        make(root, args.files)
        cost, calls = cost_ms(shim, root, part)
        rates, waits = [], [wait_ms(shim, root, cores, args.delay_ms)]
        for _ in range(args.rounds):
            rates.append(args.files / scanned(shim, root, args.files, 0, args.delay_ms))
            waits.append(wait_ms(shim, root, cores, args.delay_ms))
    best = [cores / (cost + calls * (a + b) / 2) * 1e3 for a, b in itertools.pairwise(waits)]
    note = (
        f"{args.files:,} PNG files of 112 x 112, {cores} children, {args.delay_ms:g} ms a call (in truth "
        f"{statistics.mean(waits):.2f}); a file costs "
        f"{cost:.2f} ms of a core and {calls:.1f} calls; {time.strftime('%d %B %Y')}"
    )
    goal = Goal("of cores / (cost of a file + its calls x delay)", rates, best, 0.9)
    samples = {"scan, list and start included": rates, "as many cores can do at best": best}
    report("scan", "files a second", samples, describe(("pillow", "numpy")), note, [goal])


if __name__ == "__main__":
    main()
