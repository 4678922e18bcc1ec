"""Look at the processors, the memory and the limits of this machine."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from usjepa.cache.command_line import RAISE_TO
from usjepa.cache.doctor.finding import Finding, size_text
from usjepa.cache.processors import cores

if TYPE_CHECKING:
    from collections.abc import Iterator

_BUSY = 0.5
"""Share of the processors that others use, from which timings and steps suffer."""
_SHM_NBYTES = 256 << 20
"""Dask workers and torch's loaders move frames through shared memory; a container has 64 MiB of it by default."""
_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def machine() -> Iterator[Finding]:
    """Yield what is found of processors, memory, open files and shared memory."""
    yield _processors(cores(), os.getloadavg()[0])
    memory = _memory()
    if memory is not None:
        yield Finding("memory", memory)
    yield _open_files(*resource.getrlimit(resource.RLIMIT_NOFILE))
    if Path("/dev/shm").is_dir():
        yield _shared_memory(shutil.disk_usage("/dev/shm").total)


def _processors(cores: int, load: float) -> Finding:
    found = f"{cores} that this process may use; load {load:.1f}"
    if load > _BUSY * cores:
        return Finding("processors", f"{found}: others use them, so builds and steps take longer", "note")
    return Finding("processors", found)


def _memory() -> str | None:
    """Return total and available memory, and a container's limit if it is lower; None where nobody tells."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    known = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}
    total = known.get("MemTotal", 0)
    text = f"{size_text(total)}, {size_text(known.get('MemAvailable', 0))} of it free"
    limit = min((value for value in map(_limit, _CGROUPS) if value is not None), default=None)
    return text if limit is None or limit >= total else f"{text}; this container may use {size_text(limit)}"


def _limit(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return None


def _open_files(allowed: int, most: int) -> Finding:
    unlimited = resource.RLIM_INFINITY
    if most != unlimited and most < RAISE_TO:
        told = f"at most {most:,}; a store of more shards opens files again and again. Raise it: ulimit -Hn {RAISE_TO}"
        return Finding("open files", told, "note")
    return Finding("open files", f"{'any number' if allowed == unlimited else f'{allowed:,}'}, raised when needed")


def _shared_memory(nbytes: int) -> Finding:
    if nbytes < _SHM_NBYTES:
        told = f"/dev/shm holds {size_text(nbytes)}; loaders and Dask need more (docker run --shm-size=2g)"
        return Finding("shared memory", told, "note")
    return Finding("shared memory", f"/dev/shm holds {size_text(nbytes)}")
