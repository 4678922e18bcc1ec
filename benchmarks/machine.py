"""Describes the machine a figure was measured on, and prints a benchmark's table and JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
from importlib.metadata import version
from pathlib import Path


def describe(packages: tuple[str, ...]) -> dict[str, object]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": cpu or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
    }


def report(name: str, unit: str, samples: dict[str, list[float]], machine: dict[str, object], note: str) -> None:
    """Print min | median | max of each contender and write benchmarks/results/<name>.json."""
    rows = {who: [min(values), statistics.median(values), max(values)] for who, values in samples.items()}
    print(f"{name} ({unit}; {note})")
    for who, (low, median, high) in sorted(rows.items(), key=lambda item: -item[1][1]):
        print(f"  {who:42s} {low:9.3f} {median:9.3f} {high:9.3f}")
    target = Path(__file__).parent / "results" / f"{name}.json"
    target.parent.mkdir(exist_ok=True)
    content = {"unit": unit, "note": note, "machine": machine, "min_median_max": rows}
    target.write_text(json.dumps(content, indent=1) + "\n")
