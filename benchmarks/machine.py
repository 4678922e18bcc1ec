"""Describes the machine a figure was measured on, and prints a benchmark's table and JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

RESULTS = Path(os.environ.get("USJEPA_RESULTS", Path(__file__).parent / "results"))
"""Where results are written."""
SWEEP_NBYTES = 96 << 20
"""More than a processor's last-level cache: adding to an array of this size drives everything else out of it."""


@dataclass(frozen=True)
class Goal:
    """A promise: the ratio of two series measured in the same rounds, at least `least` (none: no promise, shown)."""

    what: str
    mine: list[float]
    other: list[float]
    least: float | None

    def ratio(self) -> list[float]:
        """Return min, median and max over rounds."""
        ratios = [a / b for a, b in zip(self.mine, self.other, strict=True)]
        return [min(ratios), statistics.median(ratios), max(ratios)]

    def verdict(self) -> str:
        if self.least is None:
            return ""
        return f"goal {self.least:g}: " + ("met" if self.ratio()[1] >= self.least else "NOT met")


def describe(packages: tuple[str, ...]) -> dict[str, object]:
    """Return processor, cores, memory, system, load and versions; packages that are not installed are left out."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": cpu or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.platform(),
        "load_average": [round(x, 1) for x in os.getloadavg()],
        "python": platform.python_version(),
        "packages": {name: found for name in packages if (found := _version(name)) is not None},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def earlier_results(name: str) -> dict[str, Any]:
    """Return what an earlier run wrote into `RESULTS`; nothing where none did."""
    place = RESULTS / f"{name}.json"
    return json.loads(place.read_text()) if place.exists() else {}


def write_results(name: str, content: Mapping[str, object]) -> None:
    """Write <name>.json into `RESULTS`."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def report(
    name: str,
    unit: str,
    samples: dict[str, list[float]],
    machine: dict[str, object],
    note: str,
    goals: list[Goal] | None = None,
    missing: dict[str, str] | None = None,
) -> None:
    """Print min | median | max of each contender and write <name>.json into `RESULTS`."""
    rows = {who: [min(values), statistics.median(values), max(values)] for who, values in samples.items()}
    print(f"{name} ({unit}; {note})")
    for who, (low, median, high) in sorted(rows.items(), key=lambda item: -item[1][1]):
        print(f"  {who:58s} {low:9.3f} {median:9.3f} {high:9.3f}")
    for goal in goals or []:
        low, median, high = goal.ratio()
        print(f"  {goal.what:58s} {low:9.2f} {median:9.2f} {high:9.2f}  {goal.verdict()}")
    for who, why in (missing or {}).items():
        print(f"  {who}: not measured: {why}")
    content: dict[str, object] = {"unit": unit, "note": note, "machine": machine, "min_median_max": rows}
    if goals:
        content["ratios_min_median_max"] = {g.what: {"ratio": g.ratio(), "goal": g.least} for g in goals}
    if missing:
        content["not_measured"] = missing
    write_results(name, content)
