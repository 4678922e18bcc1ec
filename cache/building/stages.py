"""Measure how long each stage of a build works, and report which one limits it.

Stages overlap, and decoding runs in several lanes at once: a stage's share is its time at work over the build's time
and its lanes, so that the stage that others wait for comes near 100 %.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_ADVICE = {
    "decode": "raise cache.decode_processes while cores are idle, or share the build out (--part i/n, --dask)",
    "read": "the store's own disk gives pixels too slowly: build on a faster disk",
    "teacher": "as it should be; a GPU, cache.teacher.compute=bf16 or several machines (--part i/n, --dask) are faster",
    "write": "the target takes bytes too slowly: a faster disk, or cache.precision=int8, which halves the bytes",
}
_LIMITS_FROM = 0.7
"""Share from which a stage counts as limiting a build."""


@dataclass
class Stages:
    """Seconds that each stage was at work; any thread may count."""

    lanes: dict[str, int] = field(default_factory=dict)
    """Stages that run several times at once, and how many times."""
    seconds: dict[str, float] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    """Rows that each stage has done."""
    nbytes: int = 0
    """Bytes given to the store."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @contextmanager
    def time(self, stage: str, rows: int) -> Iterator[None]:
        """Count the length of a `with` block as work of a stage on some rows."""
        start = time.perf_counter()
        yield
        self.add(stage, time.perf_counter() - start, rows)

    def add(self, stage: str, seconds: float, rows: int) -> None:
        """Count seconds of work on some rows."""
        with self._lock:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
            self.rows[stage] = self.rows.get(stage, 0) + rows

    def add_bytes(self, nbytes: int) -> None:
        """Count bytes given to the store."""
        with self._lock:
            self.nbytes += nbytes

    def told(self) -> dict[str, dict[str, Any]]:
        """Return what another process needs for `together`."""
        with self._lock:
            kept: dict[str, dict[str, Any]] = {
                "lanes": self.lanes,
                "seconds": self.seconds,
                "rows": self.rows,
                "nbytes": {"written": self.nbytes},
            }
            return {name: dict(numbers) for name, numbers in kept.items()}

    @classmethod
    def together(cls, told: Iterable[Mapping[str, Mapping[str, Any]]]) -> Stages:
        """Return the stages of several processes as those of one, with the lanes of all."""
        sums: dict[str, Counter[str]] = {name: Counter() for name in ("lanes", "seconds", "rows", "nbytes")}
        for one in told:
            for name, found in sums.items():
                found.update(one[name])
        return cls(dict(sums["lanes"]), dict(sums["seconds"]), dict(sums["rows"]), sums["nbytes"]["written"])

    def seconds_per_row(self, stage: str) -> float:
        """Return the mean seconds of a row in a stage, over all its lanes; 0 where nothing went through it."""
        with self._lock:
            return self.seconds.get(stage, 0.0) / max(self.rows.get(stage, 0), 1) / self.lanes.get(stage, 1)

    def shares(self, wall: float) -> dict[str, float]:
        """Return each stage's share of `wall` seconds, 1 when every lane of it was always at work."""
        with self._lock:
            return {stage: s / wall / self.lanes.get(stage, 1) for stage, s in self.seconds.items()}

    def pace(self, wall: float) -> dict[str, str]:
        """Return what progress shows after `wall` seconds, beside rows per second and the time left."""
        shown = {"written": f"{self.nbytes / wall / 1e6:.1f} MB/s"}
        if "teacher" in self.seconds:
            shown["teacher busy"] = f"{100 * self.shares(wall)['teacher']:.0f} %"
        return shown

    def report(self, wall: float) -> str:
        """Return each stage's share of `wall` seconds, which limited the build, and what to do about it."""
        shares = self.shares(wall)
        listed = ", ".join(f"{stage} {100 * share:.0f} %" for stage, share in shares.items())
        slowest = max(shares, key=lambda stage: shares[stage])
        if shares[slowest] >= _LIMITS_FROM:
            verdict = f"{slowest} limits this build: {_ADVICE[slowest]}"
        else:
            verdict = (
                f"no stage was always at work, {slowest} most of all: the start and the end, where stages wait for one "
                "another, weigh much in a build this short; else the cores are shared with other work"
            )
        return f"stages at work (of {wall:.1f} s, overlapping): {listed}; {verdict}"
